//! A machine's screen, keyboard and mouse: RFB as a WebSocket, as noVNC speaks it, or as an upgraded connection, as the
//! command line does.
//!
//! QEMU's own socket takes whoever reaches it; only root does, and whoever comes through here has signed in.

use super::streams::{alive, checks, end, upgrade};
use crate::error::ApiResult;
use crate::guard::Session;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_engine::Engine;
use berth_types::Error;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CHUNK_BYTES: usize = 64 << 10;
/// noVNC asks for one of these.
const PROTOCOL: &str = "binary";

pub(crate) async fn display(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let (mut parts, _) = request.into_parts();
    let kind = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (raw, session) = (kind.eq_ignore_ascii_case("tcp"), parts.extensions.get::<Session>().cloned());
    if !raw && !kind.eq_ignore_ascii_case("websocket") {
        return Err(Error::invalid("a display is a stream: ask for it with Upgrade: websocket or Upgrade: tcp").into());
    }
    let screen = engine.machines().display(&id).await?;
    let failed = |cause: std::io::Error| {
        Error::because(berth_types::ErrorKind::Internal, "cannot use the display's socket", &cause)
    };
    screen.set_nonblocking(true).map_err(failed)?;
    let screen = UnixStream::from_std(screen).map_err(failed)?;
    if raw {
        let Some(upgraded) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(Error::invalid("this connection cannot become a stream").into());
        };
        tokio::spawn(plain(upgraded, screen));
        let head = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
        return Ok((StatusCode::SWITCHING_PROTOCOLS, head).into_response());
    }
    let socket = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(socket) => socket.protocols([PROTOCOL]),
        Err(refusal) => return Ok(refusal.into_response()),
    };
    Ok(upgrade(socket).on_upgrade(move |socket| framed(socket, screen, session)))
}

async fn plain(upgraded: OnUpgrade, mut screen: UnixStream) {
    match upgraded.await {
        Ok(connection) => {
            // Either side's end is both's.
            tokio::io::copy_bidirectional(&mut TokioIo::new(connection), &mut screen).await.ok();
        }
        Err(cause) => tracing::debug!(%cause, "a display's client left early"),
    }
}

async fn framed(mut socket: WebSocket, mut screen: UnixStream, session: Option<Session>) {
    let mut checks = checks();
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    loop {
        tokio::select! {
            count = screen.read(&mut chunk) => match count {
                Ok(0) | Err(_) => return end(socket, "the machine has ended").await,
                Ok(count) => if socket.send(Message::Binary(chunk[..count].to_vec().into())).await.is_err() {
                    return;
                },
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => if screen.write_all(&bytes).await.is_err() {
                    return end(socket, "the machine has ended").await;
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => return,
            },
            _ = checks.tick() => if let Some(Session { api, who }) = &session
                && !alive(api, who, &mut socket).await
            {
                return;
            },
        }
    }
}
