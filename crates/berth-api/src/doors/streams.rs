//! WebSockets: changes, meters, a terminal.
//!
//! Each is asked every half minute whether its user may still be there, and whether its browser still is.

use super::instances::may;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Query;
use crate::hub::{Sight, Telling};
use crate::identity::Who;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use berth_engine::containers::{ExecSpec, ExecStart, ListOptions};
use berth_types::Error;
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior};

const CHECK_SECONDS: u64 = 30;
/// A paste of this size still arrives whole.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Our own codes (RFC 6455 leaves 4000 to 4999 to us).
const CLOSE_ENDED: u16 = 4000;
const CLOSE_SIGNED_OUT: u16 = 4001;
const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SHELL_GRACE: Duration = Duration::from_millis(500);
const TERMINAL_SIZE_MAX: u16 = 1000;

pub(crate) fn upgrade(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn checks() -> Interval {
    let mut checks = tokio::time::interval(Duration::from_secs(CHECK_SECONDS));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

/// Closes the stream of somebody who has signed out meanwhile; false once it is closed.
pub(crate) async fn alive(api: &Api, who: &Who, socket: &mut WebSocket) -> bool {
    if !api.identity.still_holds(who) {
        let frame = CloseFrame { code: CLOSE_SIGNED_OUT, reason: "signed out".into() };
        // It is closed either way.
        drop(socket.send(Message::Close(Some(frame))).await);
        return false;
    }
    socket.send(Message::Ping(Default::default())).await.is_ok()
}

pub(crate) async fn end(mut socket: WebSocket, reason: &str) {
    let frame = CloseFrame { code: CLOSE_ENDED, reason: reason.into() };
    // A browser that has left needs no goodbye.
    drop(socket.send(Message::Close(Some(frame))).await);
}

/// Passes on what arrives, as `text` has it, until either side leaves.
async fn pass_on<T: Clone>(
    api: Api,
    who: Who,
    mut socket: WebSocket,
    mut messages: tokio::sync::broadcast::Receiver<T>,
    mut text: impl FnMut(&T) -> Option<String>,
) {
    let mut checks = checks();
    loop {
        tokio::select! {
            message = messages.recv() => {
                let text = match message {
                    Ok(message) => match text(&message) {
                        Some(text) => text,
                        None => continue,
                    },
                    Err(RecvError::Lagged(_)) => match serde_json::to_string(&crate::hub::Message::Resync) {
                        Ok(text) => text,
                        Err(cause) => return tracing::error!(%cause, "cannot tell a page to read anew"),
                    },
                    Err(RecvError::Closed) => return,
                };
                if socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => if !matches!(message, Some(Ok(Message::Ping(_) | Message::Pong(_)))) {
                return;
            },
            _ = checks.tick() => if !alive(&api, &who, &mut socket).await {
                return;
            },
        }
    }
}

pub(crate) async fn events(State(api): State<Api>, who: Who, request: WebSocketUpgrade) -> ApiResult<Response> {
    let messages = api.hub.subscribe();
    let mut seen = HashSet::new();
    if !who.sees_all() {
        let options = ListOptions { all: true, ..ListOptions::default() };
        let all = api.engine.containers().list(&options).await?;
        seen.extend(all.into_iter().filter(|one| who.sees(&one.labels)).map(|one| one.id.to_string()));
    }
    let mut sight = Sight::new(who.clone(), seen);
    let text = move |telling: &Arc<Telling>| sight.of(telling);
    Ok(upgrade(request).on_upgrade(move |socket| pass_on(api, who, socket, messages, text)))
}

pub(crate) async fn live(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    request: WebSocketUpgrade,
) -> ApiResult<Response> {
    let id = api.engine.containers().resolve(&id).await?;
    let messages = api.history.watch(id.as_str());
    Ok(upgrade(request)
        .on_upgrade(move |socket| pass_on(api, who, socket, messages, |text: &Arc<str>| Some(text.to_string()))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TerminalQuery {
    /// A program and its arguments, as a shell writes them; empty: the best shell there is.
    command: String,
    user: String,
    rows: u16,
    columns: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    rows: u16,
    columns: u16,
}

/// bash where there is one.
const BEST_SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi";

pub(crate) async fn terminal(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Query(query): Query<TerminalQuery>,
    request: WebSocketUpgrade,
) -> ApiResult<Response> {
    let containers = api.engine.containers();
    let found = containers.inspect(&id, false).await?;
    may(&who, &found.spec, "open a terminal in")?;
    let size = |value: u16| value.clamp(1, TERMINAL_SIZE_MAX);
    let command =
        if query.command.trim().is_empty() { BEST_SHELL.to_owned() } else { format!("exec {}", query.command) };
    let spec = ExecSpec {
        cmd: vec!["sh".to_owned(), "-c".to_owned(), command],
        env: vec!["TERM=xterm-256color".to_owned()],
        user: query.user,
        tty: true,
        attach_stdin: true,
        attach_stdout: true,
        attach_stderr: true,
        // No key ends the session but the shell's own: detaching would leave it behind unseen.
        detach_keys: "ctrl-@,ctrl-@,ctrl-@,ctrl-@".to_owned(),
        console_size: (size(query.rows), size(query.columns)),
        ..ExecSpec::default()
    };
    let exec = containers.exec_create(&id, spec).await?;
    let stream = containers.exec_start(exec.as_str(), ExecStart::default()).await?;
    let Some(stream) = stream else { return Err(Error::internal("the terminal has no streams").into()) };
    let Some(input) = stream.input else { return Err(Error::internal("the terminal takes no input").into()) };
    let mut output = stream.output;
    Ok(upgrade(request).on_upgrade(move |mut socket| async move {
        let mut checks = checks();
        let ended = loop {
            tokio::select! {
                chunk = output.next() => match chunk {
                    Some((_, bytes)) => if socket.send(Message::Binary(bytes)).await.is_err() {
                        break false;
                    },
                    None => break true,
                },
                message = socket.recv() => match message {
                    Some(Ok(Message::Binary(bytes))) => if !input.write(bytes).await {
                        break true;
                    },
                    Some(Ok(Message::Text(text))) => match serde_json::from_str::<Size>(&text) {
                        Ok(Size { rows, columns }) => {
                            if let Err(error) = containers.exec_resize(exec.as_str(), size(rows), size(columns)).await {
                                tracing::debug!(%error, "a terminal keeps its size");
                            }
                        }
                        Err(cause) => tracing::debug!(%cause, "a terminal's page sent nonsense"),
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break false,
                },
                _ = checks.tick() => if !alive(&api, &who, &mut socket).await {
                    break false;
                },
            }
        };
        if ended {
            return end(socket, "the shell has ended").await;
        }
        // The page is gone; a shell that nobody sees must not live on.
        drop((input, output));
        for signal in [SIGHUP, SIGKILL] {
            if let Err(error) = containers.exec_signal(exec.as_str(), signal).await {
                tracing::debug!(%error, "a left terminal's shell is gone already");
            }
            tokio::time::sleep(SHELL_GRACE).await;
        }
    }))
}
