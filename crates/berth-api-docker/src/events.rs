//! `/events`: what happened, as a stream of JSON lines.

use crate::containers::stream_body;
use crate::error::ApiResult;
use crate::params::Params;
use crate::time::moment;
use crate::version::ApiVersion;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::events::{Event, EventKind, EventQuery, now_unix_nanos};
use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) fn router() -> Router<Engine> {
    Router::new().route("/events", get(events))
}

/// How a stream of JSON values is told apart, by what the client accepts; the first is the default.
const STREAMS: [&str; 3] = ["application/jsonl", "application/x-ndjson", SEQUENCE];
/// RFC 7464: each value has a record separator in front.
const SEQUENCE: &str = "application/json-seq";

/// `GET /events`
async fn events(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    headers: HeaderMap,
) -> ApiResult {
    let now = now_unix_nanos();
    let (mut since, mut until) = (moment(params.get("since"), now)?, moment(params.get("until"), now)?);
    // As dockerd: up to 0 is all that has been, and no stream.
    if params.get("until") == Some("0") {
        since.get_or_insert(0);
        until = Some(now);
    }
    let mut stream = engine.events().subscribe(EventQuery {
        since_unix_nanos: since,
        until_unix_nanos: until,
        filters: params.filters()?,
    })?;
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).and_then(accepted_stream);
    // It never was one JSON value, but older versions called it so.
    let kind = accepted.unwrap_or(if version.before(52) { "application/json" } else { STREAMS[0] });
    let body = stream_body(move |sender| async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                event = stream.next() => match event {
                    None => return,
                    Some(event) if version.before(46) && is_image_create(&event) => {}
                    Some(event) => {
                        let separator = if kind == SEQUENCE { "\u{1e}" } else { "" };
                        let line = Bytes::from(format!("{separator}{}\n", render(&event, version)));
                        if sender.send(line).await.is_err() {
                            return;
                        }
                    }
                },
            }
        }
    });
    Ok(Response::builder().header("content-type", kind).body(body).into_response_ok())
}

/// The stream that an `Accept` header names; wildcards name none. The highest weight wins, then the first of ours.
fn accepted_stream(accept: &str) -> Option<&'static str> {
    let mut best: Option<(f32, &'static str)> = None;
    for kind in STREAMS {
        for entry in accept.split(',') {
            let mut parts = entry.split(';').map(str::trim);
            if !parts.next().is_some_and(|media| media.eq_ignore_ascii_case(kind)) {
                continue;
            }
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            if weight > best.map_or(0.0, |(weight, _)| weight) {
                best = Some((weight, kind));
            }
        }
    }
    best.map(|(_, kind)| kind)
}

fn is_image_create(event: &Event) -> bool {
    event.kind == EventKind::Image && event.action == "create"
}

fn render(event: &Event, version: ApiVersion) -> Value {
    let mut value = json!({});
    // Fields of API 1.21, sent for containers and images up to 1.51.
    if version.before(52) && matches!(event.kind, EventKind::Container | EventKind::Image) {
        value["status"] = json!(event.action);
        value["id"] = json!(event.actor_id);
        if let (EventKind::Container, Some(image)) = (event.kind, event.attributes.get("image")) {
            value["from"] = json!(image);
        }
    }
    value["Type"] = json!(event.kind.as_str());
    value["Action"] = json!(event.action);
    value["Actor"] = json!({"ID": event.actor_id, "Attributes": event.attributes});
    value["scope"] = json!("local");
    value["time"] = json!(event.time_unix_nanos / 1_000_000_000);
    value["timeNano"] = json!(event.time_unix_nanos);
    value
}

/// Builders of fixed, valid heads cannot fail.
pub(crate) trait IntoResponseOk {
    fn into_response_ok(self) -> Response;
}

impl IntoResponseOk for Result<Response<axum::body::Body>, axum::http::Error> {
    fn into_response_ok(self) -> Response {
        self.unwrap_or_else(|_| axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_that_are_named_are_chosen() {
        for (accept, kind) in [
            ("application/json-seq", Some(SEQUENCE)),
            ("*/*, application/json", None),
            ("application/*", None),
            ("application/jsonl;q=0.1, application/x-ndjson; q=0.9", Some("application/x-ndjson")),
            ("application/x-ndjson, application/jsonl", Some("application/jsonl")),
            ("application/jsonl;q=0", None),
            ("", None),
        ] {
            assert_eq!(accepted_stream(accept), kind, "{accept}");
        }
    }

    #[test]
    fn the_old_fields_end_with_1_51() {
        let event = Event {
            kind: EventKind::Container,
            action: "start".to_owned(),
            actor_id: "c".to_owned(),
            attributes: [("image".to_owned(), "tiny".to_owned())].into(),
            time_unix_nanos: 1,
        };
        assert_eq!(render(&event, ApiVersion(51))["from"], "tiny");
        let new = render(&event, ApiVersion(52));
        assert!(["status", "id", "from"].iter().all(|key| new.get(key).is_none()), "{new}");
        assert_eq!(new["Action"], "start");
    }
}
