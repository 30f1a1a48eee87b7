//! Start, stop, and everything else that changes a container's phase.

use super::stream_body;
use crate::error::{ApiResult, message};
use crate::events::IntoResponseOk;
use crate::params::Params;
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{Outcome, StopOptions, WaitCondition};
use berth_types::Error;
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;

/// How long a killed container may take to be gone before the answer says so anyway.
const KILL_SECONDS_MAX: u64 = 10;

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/resize", post(resize))
}

fn outcome(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Done => StatusCode::NO_CONTENT,
        Outcome::Already => StatusCode::NOT_MODIFIED,
    }
}

fn stop_options(params: &Params, version: ApiVersion) -> Result<StopOptions, Error> {
    // The parameter came with 1.42.
    let signal = params.filled("signal").filter(|_| !version.before(42));
    Ok(StopOptions { timeout_seconds: params.int("t")?, signal: signal.map(str::to_owned) })
}

/// `POST /containers/{id}/start`: 204, 304 when it already runs.
async fn start(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    if params.filled("checkpoint").is_some() {
        return Err(Error::invalid("checkpoint is only supported in experimental mode").into());
    }
    Ok(outcome(engine.containers().start(&id).await?))
}

/// `POST /containers/{id}/stop`: 204 when it stopped, 304 when it already had.
async fn stop(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<StatusCode> {
    Ok(outcome(engine.containers().stop(&id, stop_options(&params, version)?).await?))
}

/// `POST /containers/{id}/restart`: 204
async fn restart(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<StatusCode> {
    engine.containers().restart(&id, stop_options(&params, version)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/kill`: 204
async fn kill(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    engine.containers().kill(&id, params.filled("signal")).await.map_err(|error| {
        let told = error.message.starts_with("cannot kill container");
        if told { error } else { error.context(format!("cannot kill container: {id}")) }
    })?;
    // As dockerd: when the answer comes, what SIGKILL hit has ended and its exit is recorded.
    if matches!(params.filled("signal").unwrap_or("KILL"), "KILL" | "SIGKILL" | "9" | "0") {
        let ended = engine.containers().wait(&id, WaitCondition::NotRunning).await;
        if let Ok(ended) = ended {
            // One that is started again by its policy, or sits in the kernel, is not waited for.
            tokio::time::timeout(Duration::from_secs(KILL_SECONDS_MAX), ended).await.ok();
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/pause`: 204
async fn pause(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    engine.containers().pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/unpause`: 204
async fn unpause(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    engine.containers().unpause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/rename`: 204
async fn rename(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    let name = params.get("name").unwrap_or("");
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty").into());
    }
    engine.containers().rename(&id, name).await.map_err(|mut error| {
        if error.message.starts_with("Invalid container name (") {
            error.message = error.message.replacen('(', "(/", 1);
        }
        let about_the_name =
            error.message.starts_with("Conflict.") || error.message.starts_with("Invalid container name");
        if about_the_name { error.context("Error when allocating new name") } else { error }
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Rows and columns of a resize.
pub(super) fn size(params: &Params) -> Result<(u16, u16), Error> {
    let side = |key: &str, name: &str| -> Result<u16, Error> {
        let text = params.get(key).unwrap_or("");
        let invalid = |why: &str| Error::invalid(format!("invalid resize {name} {text:?}: {why}"));
        text.parse().map_err(|_| invalid(crate::params::why_no_number(text)))
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

/// `POST /containers/{id}/resize`: 200
async fn resize(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    let (rows, columns) = size(&params)?;
    match engine.containers().resize(&id, rows, columns).await {
        // Nothing to resize is no failure for dockerd.
        Err(error) if error.message == "the process has no terminal" => Ok(StatusCode::OK),
        result => Ok(result.map(|()| StatusCode::OK)?),
    }
}

/// `POST /containers/{id}/wait`: the head at once, so that a client knows it waits; the body when it is over.
async fn wait(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Response> {
    // The parameter came with 1.30.
    let condition = match params.get("condition").filter(|_| !version.before(30)).unwrap_or("") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Error::invalid(format!("invalid condition: {other:?}")).into()),
    };
    let waiter = engine.containers().wait(&id, condition).await?;
    let body = stream_body(|sender| async move {
        let outcome = tokio::select! {
            outcome = waiter => outcome,
            () = sender.closed() => return,
        };
        let answer = match outcome {
            Ok(outcome) => match outcome.error {
                None => json!({"StatusCode": outcome.exit_code}),
                Some(text) => json!({"StatusCode": outcome.exit_code, "Error": {"Message": text}}),
            },
            Err(error) => json!({"StatusCode": -1, "Error": {"Message": message(&error)}}),
        };
        // A client that has gone does not need the answer.
        sender.send(Bytes::from(format!("{answer}\n"))).await.ok();
    });
    Ok(Response::builder().header("content-type", "application/json").body(body).into_response_ok())
}
