//! Logs: records as stream frames, or raw for a terminal.

use super::attach::{content_type, frame};
use super::stream_body;
use crate::error::ApiResult;
use crate::events::IntoResponseOk;
use crate::params::Params;
use crate::time::{moment, rfc3339_nano};
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{LogOptions, LogRecord};
use berth_engine::events::now_unix_nanos;
use berth_types::Error;

pub(super) fn router() -> Router<Engine> {
    Router::new().route("/containers/{id}/logs", get(logs))
}

/// `GET /containers/{id}/logs`
async fn logs(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Response> {
    let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream").into());
    }
    if params.filled("format").is_some() {
        return Err(Error::invalid("unsupported log format").into());
    }
    let now = now_unix_nanos();
    let options = LogOptions {
        follow: params.flag("follow"),
        stdout,
        stderr,
        since_unix_nanos: moment(params.get("since"), now)?,
        until_unix_nanos: moment(params.get("until"), now)?,
        // As dockerd: what is no number means all.
        tail: params.get("tail").and_then(|text| text.parse().ok()),
    };
    let (timestamps, details) = (params.flag("timestamps"), params.flag("details"));
    let mut stream = engine.containers().logs(&id, options).await?;
    let tty = stream.tty;
    let body = stream_body(|sender| async move {
        loop {
            let record = tokio::select! {
                record = stream.next() => record,
                () = sender.closed() => return,
            };
            let bytes = match record {
                None => return,
                Some(Ok(record)) => {
                    let line = line(&record, timestamps, details);
                    if tty { line.into() } else { frame(record.stream, &line) }
                }
                Some(Err(error)) => {
                    tracing::warn!(container = id, %error, "cannot read a log on");
                    return;
                }
            };
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    });
    Ok(Response::builder().header("content-type", content_type(tty, version)).body(body).into_response_ok())
}

fn line(record: &LogRecord, timestamps: bool, details: bool) -> Vec<u8> {
    let mut line = Vec::with_capacity(record.line.len() + 32);
    if timestamps {
        line.extend_from_slice(rfc3339_nano(record.time_unix_nanos).as_bytes());
        line.push(b' ');
    }
    if details {
        if let Some(serde_json::Value::Object(attributes)) = &record.attributes {
            let pairs: Vec<String> =
                attributes.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
            line.extend_from_slice(pairs.join(",").as_bytes());
        }
        line.push(b' ');
    }
    line.extend_from_slice(&record.line);
    line
}
