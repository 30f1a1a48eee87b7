//! Processes run inside running containers.

use super::attach::{answer, content_type, frame, hijacked, own, switching};
use super::lifecycle::size;
use crate::error::{ApiResult, message};
use crate::json::{self, Fields, Json, JsonBody};
use crate::params::Params;
use crate::spec::console_size;
use crate::version::ApiVersion;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{AttachStream, ExecInspect, ExecSpec, ExecStart, OutputStream};
use berth_types::Error;
use bytes::Bytes;
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
async fn create(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    JsonBody(body): JsonBody,
) -> ApiResult<Response> {
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
        console_size: console_size(&f, "ConsoleSize")?.filter(|_| !version.before(42)).unwrap_or((0, 0)),
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
        console_size: console_size(&f, "ConsoleSize")?.filter(|_| !version.before(42)),
    };
    // Framed unless the start asks for a terminal, whatever the process has: docker-py does not ask.
    let tty = options.tty.unwrap_or(false);
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    if let (false, true, Some(upgrade)) = (options.detach, parts.headers.contains_key(header::UPGRADE), upgrade) {
        return hijack(engine, id, options, upgrade, version).await;
    }
    match engine.containers().exec_start(&id, options).await? {
        None => Ok(StatusCode::OK.into_response()),
        Some(stream) => Ok(answer(AttachStream { tty, ..stream }, &parts.headers, None, Body::empty(), version)),
    }
}

/// Starts the program only when the head of the answer has been sent and read: clients that read the head through a buffer
/// (docker-py) lose what comes in the same read.
async fn hijack(
    engine: Engine,
    id: String,
    options: ExecStart,
    upgrade: OnUpgrade,
    version: ApiVersion,
) -> ApiResult<Response> {
    let exec = engine.containers().exec_inspect(&id).await?;
    if exec.running || exec.exit_code.is_some() {
        return Err(Error::conflict(format!("exec command {} has already run", exec.id)).into());
    }
    let tty = options.tty.unwrap_or(false);
    tokio::spawn(async move {
        let Some(connection) = own(upgrade).await else { return };
        let connection = connection.head_is_read().await;
        let told = match engine.containers().exec_start(&id, options).await {
            Ok(Some(stream)) => return hijacked(AttachStream { tty, ..stream }, connection).await,
            Ok(None) => Bytes::new(),
            Err(error) => {
                let text = format!("{}\r\n", message(&error));
                if tty { Bytes::from(text) } else { frame(OutputStream::Stdout, text.as_bytes()) }
            }
        };
        connection.tell(&told).await;
    });
    Ok(switching(content_type(tty, version)))
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
