//! `/events`: what happened, as a stream of JSON lines.

use crate::containers::stream_body;
use crate::error::ApiResult;
use crate::params::Params;
use crate::time::moment;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_engine::Engine;
use berth_engine::events::{Event, EventKind, EventQuery, now_unix_nanos};
use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) fn router() -> Router<Engine> {
    Router::new().route("/events", get(events))
}

/// `GET /events`
async fn events(State(engine): State<Engine>, params: Params) -> ApiResult {
    let now = now_unix_nanos();
    let mut stream = engine.events().subscribe(EventQuery {
        since_unix_nanos: moment(params.get("since"), now)?,
        until_unix_nanos: moment(params.get("until"), now)?,
        filters: params.filters()?,
    })?;
    let body = stream_body(|sender| async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                event = stream.next() => match event {
                    None => return,
                    Some(event) => {
                        let line = Bytes::from(format!("{}\n", render(&event)));
                        if sender.send(line).await.is_err() {
                            return;
                        }
                    }
                },
            }
        }
    });
    Ok(Response::builder().header("content-type", "application/json").body(body).into_response_ok())
}

fn render(event: &Event) -> Value {
    let mut value = json!({});
    // Fields of API 1.21, still sent by dockerd for containers and images.
    if matches!(event.kind, EventKind::Container | EventKind::Image) {
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
