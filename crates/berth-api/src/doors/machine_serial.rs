//! A machine's serial line as a WebSocket: what it wrote lately, then bytes both ways.

use super::streams::{alive, checks, end, upgrade};
use crate::error::ApiResult;
use crate::guard::Session;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use berth_engine::Engine;
use berth_engine::containers::{AttachOptions, AttachStream, LogOptions};
use berth_types::Error;

/// So many records of its log are shown to whoever comes later.
const RECORDS_BEFORE: usize = 300;
/// No key ends the session: the page does.
const NO_KEYS: &str = "ctrl-@,ctrl-@,ctrl-@,ctrl-@";

pub(crate) async fn serial(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let machine = engine.machines().inspect(&id)?;
    let state = machine.state.word().as_str();
    if state != "running" {
        let error = Error::conflict(format!("machine {} is {state}, and its serial line is dead", machine.name));
        return Err(error.with_hint("start it; what it wrote is in its log").into());
    }
    let (mut parts, _) = request.into_parts();
    let session = parts.extensions.get::<Session>().cloned();
    let socket = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(socket) => socket,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let id = machine.id.to_string();
    let options = AttachOptions {
        stream: true,
        stdin: true,
        stdout: true,
        stderr: true,
        detach_keys: NO_KEYS.to_owned(),
        ..AttachOptions::default()
    };
    // Before the log is read: what comes in between is shown twice rather than never.
    let stream = engine.containers().attach(&id, options).await?;
    let logs = LogOptions { stdout: true, stderr: true, tail: Some(RECORDS_BEFORE), ..LogOptions::default() };
    let mut logs = engine.containers().logs(&id, logs).await?;
    Ok(upgrade(socket).on_upgrade(move |mut socket| async move {
        while let Some(Ok(record)) = logs.next().await {
            if socket.send(Message::Binary(record.line)).await.is_err() {
                return;
            }
        }
        both_ways(socket, stream, session).await;
    }))
}

async fn both_ways(mut socket: WebSocket, stream: AttachStream, session: Option<Session>) {
    let Some(input) = stream.input else { return end(socket, "this machine's serial line takes no input").await };
    let mut output = stream.output;
    let mut checks = checks();
    loop {
        tokio::select! {
            chunk = output.next() => match chunk {
                Some((_, bytes)) => if socket.send(Message::Binary(bytes)).await.is_err() {
                    return;
                },
                None => return end(socket, "the machine has ended").await,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => if !input.write(bytes).await {
                    return end(socket, "the machine has ended").await;
                },
                // A size: a serial line has none.
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            _ = checks.tick() => if let Some(Session { api, who }) = &session
                && !alive(api, who, &mut socket).await
            {
                return;
            },
        }
    }
}
