//! Processes run inside running containers.

use super::attach::answer;
use super::lifecycle::size;
use crate::error::ApiResult;
use crate::json::{self, Fields, JsonBody};
use crate::params::Params;
use crate::spec::console_size;
use crate::version::ApiVersion;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use berth_engine::Engine;
use berth_engine::containers::{ExecInspect, ExecSpec, ExecStart};
use berth_types::Error;
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

/// `POST /containers/{id}/exec`: 201
async fn create(State(engine): State<Engine>, Path(id): Path<String>, JsonBody(body): JsonBody) -> ApiResult<Response> {
    let f = Fields::new(&body, "ExecOptions")?;
    let spec = ExecSpec {
        cmd: f.texts("Cmd")?,
        env: f.texts("Env")?,
        user: f.text("User")?,
        working_dir: f.text("WorkingDir")?,
        tty: f.flag("Tty")?,
        attach_stdin: f.flag("AttachStdin")?,
        attach_stdout: f.flag("AttachStdout")?,
        attach_stderr: f.flag("AttachStderr")?,
        privileged: f.flag("Privileged")?,
        detach_keys: f.text("DetachKeys")?,
        console_size: console_size(&f, "ConsoleSize")?.unwrap_or((0, 0)),
    };
    if spec.cmd.is_empty() {
        return Err(Error::invalid("No exec command specified").into());
    }
    let exec = engine.containers().exec_create(&id, spec).await?;
    Ok((StatusCode::CREATED, Json(json!({"Id": exec.to_string()}))).into_response())
}

/// `POST /exec/{id}/start`
async fn start(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    request: Request,
) -> ApiResult<Response> {
    let (mut parts, body) = request.into_parts();
    let body = json::read(&parts.headers, body).await?;
    let f = Fields::new(&body, "ExecStartOptions")?;
    let options = ExecStart {
        detach: f.flag("Detach")?,
        tty: f.flag_or_none("Tty")?,
        console_size: console_size(&f, "ConsoleSize")?,
    };
    match engine.containers().exec_start(&id, options).await? {
        None => Ok(StatusCode::OK.into_response()),
        Some(stream) => {
            let upgrade = parts.extensions.remove::<OnUpgrade>();
            Ok(answer(stream, &parts.headers, upgrade, Body::empty(), version))
        }
    }
}

/// `POST /exec/{id}/resize`: 200
async fn resize(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    let (rows, columns) = size(&params)?;
    engine.containers().exec_resize(&id, rows, columns).await?;
    Ok(StatusCode::OK)
}

/// `GET /exec/{id}/json`
async fn inspect(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(render(&engine.containers().exec_inspect(&id).await?)))
}

fn render(exec: &ExecInspect) -> Value {
    let spec = &exec.spec;
    let mut process = json!({
        "tty": spec.tty, "entrypoint": spec.cmd.first().map_or("", String::as_str),
        "arguments": spec.cmd.get(1..).unwrap_or_default(), "privileged": spec.privileged,
    });
    if !spec.user.is_empty() {
        process["user"] = json!(spec.user);
    }
    json!({
        "ID": exec.id.to_string(), "Running": exec.running, "ExitCode": exec.exit_code, "ProcessConfig": process,
        "OpenStdin": spec.attach_stdin, "OpenStderr": spec.attach_stderr, "OpenStdout": spec.attach_stdout,
        "CanRemove": false, "ContainerID": exec.container_id.to_string(), "DetachKeys": spec.detach_keys,
        "Pid": exec.pid,
    })
}
