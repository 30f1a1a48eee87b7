//! Attach: a connection becomes the container's standard streams.
//!
//! With `Upgrade:` in the request the answer is 101 and both sides own the connection; without it the
//! answer is a plain 200 whose body is the output (standard input is then the request's body). Without a
//! terminal, output is framed: stream (1 byte), three zeros, length (4 bytes, big endian), bytes.

use super::stream_body;
use crate::error::ApiResult;
use crate::events::IntoResponseOk;
use crate::params::Params;
use crate::version::ApiVersion;
use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{AttachInput, AttachOptions, AttachStream, OutputStream};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

/// What one read of a client's input takes at most.
const INPUT_BYTES: usize = 16 << 10;
/// A message of a websocket client: what somebody pastes into a terminal, not a file.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How often a client that has closed its sending half is looked at.
const HANG_UP_LOOK: Duration = Duration::from_secs(1);
/// How long a client may take to read an answer's head before what follows is sent anyway; how often it is looked at.
const HEAD_READ_MAX: Duration = Duration::from_millis(500);
const HEAD_READ_SOON: Duration = Duration::from_micros(200);
const HEAD_LOOK: Duration = Duration::from_millis(1);

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/attach/ws", get(attach_websocket))
}

pub(super) fn content_type(tty: bool, version: ApiVersion) -> &'static str {
    // Before 1.42 both were called raw.
    match !tty && version.0 >= 42 {
        true => "application/vnd.docker.multiplexed-stream",
        false => "application/vnd.docker.raw-stream",
    }
}

/// One frame of a multiplexed stream.
pub(super) fn frame(stream: OutputStream, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u8(match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    });
    frame.put_bytes(0, 3);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame.freeze()
}

/// `POST /containers/{id}/attach`
async fn attach(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let (mut parts, body) = request.into_parts();
    let stream = engine.containers().attach(&id, options(&params)).await?;
    Ok(answer(stream, &parts.headers, parts.extensions.remove::<OnUpgrade>(), body, version))
}

/// `GET /containers/{id}/attach/ws`: the same, in messages. Output is never framed, as dockerd has it.
async fn attach_websocket(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.max_message_size(MESSAGE_BYTES_MAX),
        Err(_) => return Ok((StatusCode::BAD_REQUEST, "not websocket protocol").into_response()),
    };
    let mut options = options(&params);
    // Before 1.42 a websocket had all three.
    if version.before(42) {
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let stream = engine.containers().attach(&id, options).await?;
    Ok(upgrade.on_upgrade(move |socket| messages(stream, socket, version)))
}

async fn messages(stream: AttachStream, socket: WebSocket, version: ApiVersion) {
    let AttachStream { mut output, input, .. } = stream;
    let (mut sender, mut receiver) = socket.split();
    let reading = tokio::spawn(async move {
        let Some(input) = input else { return };
        while let Some(Ok(message)) = receiver.next().await {
            let bytes = match message {
                Message::Text(text) => Bytes::from(text),
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if !input.write(bytes).await {
                return;
            }
        }
    });
    while let Some((_, bytes)) = output.next().await {
        // Before 1.28 messages were text.
        let message = match version.0 {
            0..28 => Message::Text(String::from_utf8_lossy(&bytes).into_owned().into()),
            _ => Message::Binary(bytes),
        };
        if sender.send(message).await.is_err() {
            break;
        }
    }
    // The client may have gone already: nothing is lost then.
    sender.close().await.ok();
    reading.abort();
}

fn options(params: &Params) -> AttachOptions {
    AttachOptions {
        logs: params.flag("logs"),
        stream: params.flag("stream"),
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        detach_keys: params.get("detachKeys").unwrap_or("").to_owned(),
    }
}

/// Hands the connection to `stream`.
pub(super) fn answer(
    stream: AttachStream,
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    body: Body,
    version: ApiVersion,
) -> Response {
    match (headers.contains_key(header::UPGRADE), upgrade) {
        (true, Some(upgrade)) => {
            let kind = content_type(stream.tty, version);
            tokio::spawn(async move {
                if let Some(connection) = own(upgrade).await {
                    hijacked(stream, connection).await;
                }
            });
            switching(kind)
        }
        // Framed or not: dockerd names it raw for clients that do not upgrade.
        _ => Response::builder()
            .header(header::CONTENT_TYPE, "application/vnd.docker.raw-stream")
            .body(plain(stream, body))
            .into_response_ok(),
    }
}

fn encode(tty: bool, stream: OutputStream, bytes: Bytes) -> Bytes {
    if tty { bytes } else { frame(stream, &bytes) }
}

pub(super) fn switching(kind: &'static str) -> Response {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .header(header::CONTENT_TYPE, kind)
        .body(Body::empty())
        .into_response_ok()
}

/// A connection that is HTTP's no more.
pub(super) enum Connection {
    /// With what had been read of it already.
    Local(UnixStream, Bytes),
    Remote(TokioIo<Upgraded>),
}

impl Connection {
    /// Waits until the client has read the head of the answer, for a moment at most. One that reads it through a buffer
    /// (docker-py) loses whatever lies behind it by then. Who is elsewhere cannot be seen.
    pub(super) async fn head_is_read(self) -> Connection {
        let Connection::Local(stream, early) = self else { return self };
        let since = std::time::Instant::now();
        while berth_sys::sockets::unread_bytes(&stream).is_ok_and(|bytes| bytes > 0) {
            match since.elapsed() {
                // Most have read it by then, and a timer's tick would be the longest part of a short exec.
                waited if waited < HEAD_READ_SOON => tokio::task::yield_now().await,
                waited if waited < HEAD_READ_MAX => tokio::time::sleep(HEAD_LOOK).await,
                _ => break,
            }
        }
        Connection::Local(stream, early)
    }

    /// Says something and hangs up. The client may have gone already: nothing is lost then.
    pub(super) async fn tell(self, bytes: &[u8]) {
        match self {
            Connection::Local(mut stream, _) => {
                stream.write_all(bytes).await.ok();
                stream.shutdown().await.ok();
            }
            Connection::Remote(mut stream) => {
                stream.write_all(bytes).await.ok();
                stream.shutdown().await.ok();
            }
        }
    }
}

/// The connection, once the head of the answer has been sent.
pub(super) async fn own(upgrade: OnUpgrade) -> Option<Connection> {
    match upgrade.await {
        Ok(connection) => Some(match connection.downcast::<TokioIo<UnixStream>>() {
            Ok(parts) => Connection::Local(parts.io.into_inner(), parts.read_buf),
            Err(connection) => Connection::Remote(TokioIo::new(connection)),
        }),
        Err(cause) => {
            tracing::debug!(%cause, "client left before its connection was its own");
            None
        }
    }
}

pub(super) async fn hijacked(stream: AttachStream, connection: Connection) {
    match connection {
        Connection::Local(connection, early) => {
            let (reader, writer) = connection.into_split();
            let local = |reader: &OwnedReadHalf| has_hung_up(reader.as_ref());
            carry(stream, early, reader, writer, local).await;
        }
        Connection::Remote(connection) => {
            let (reader, writer) = tokio::io::split(connection);
            // Only a write tells whether the other end of a network still listens.
            carry(stream, Bytes::new(), reader, writer, |_| false).await;
        }
    }
}

/// Moves bytes until the container's streams end or the client goes. The end of what the client sends is only
/// its half-close: output goes on, unless `hung_up` says that nobody is there to read it.
async fn carry<R: AsyncRead + Unpin + Send + 'static, W: AsyncWrite + Unpin>(
    stream: AttachStream,
    early: Bytes,
    mut reader: R,
    mut writer: W,
    hung_up: impl Fn(&R) -> bool + Send + 'static,
) {
    let AttachStream { tty, mut output, mut input } = stream;
    let reading = async move {
        if let Some(input) = &input
            && !early.is_empty()
        {
            input.write(early).await;
        }
        let mut buffer = BytesMut::with_capacity(INPUT_BYTES);
        while matches!(reader.read_buf(&mut buffer).await, Ok(count) if count > 0) {
            let typed = buffer.split().freeze();
            let taken = match &input {
                Some(input) => input.write(typed).await,
                // Nobody asked for it.
                None => true,
            };
            if !taken {
                input = None;
            }
            buffer.reserve(INPUT_BYTES);
        }
        drop(input);
        while !hung_up(&reader) {
            tokio::time::sleep(HANG_UP_LOOK).await;
        }
    };
    let writing = async move {
        while let Some((from, bytes)) = output.next().await {
            if writer.write_all(&encode(tty, from, bytes)).await.is_err() {
                break;
            }
        }
        // The client may have gone already: nothing is lost then.
        writer.shutdown().await.ok();
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

/// Whether both directions are closed: a local socket tells it apart from a half-close.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_err()
        || fds[0].revents().intersects(rustix::event::PollFlags::HUP | rustix::event::PollFlags::ERR)
}

fn plain(stream: AttachStream, body: Body) -> Body {
    let AttachStream { tty, mut output, input } = stream;
    stream_body(|sender| async move {
        let reading = tokio::spawn(forward(body, input));
        loop {
            let next = tokio::select! {
                next = output.next() => next,
                () = sender.closed() => None,
            };
            let Some((from, bytes)) = next else { break };
            if sender.send(encode(tty, from, bytes)).await.is_err() {
                break;
            }
        }
        reading.abort();
    })
}

async fn forward(body: Body, input: Option<AttachInput>) {
    let Some(input) = input else { return };
    let mut chunks = body.into_data_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        if !input.write(chunk).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_stream_and_length() {
        assert_eq!(&frame(OutputStream::Stderr, b"abc")[..], b"\x02\0\0\0\0\0\0\x03abc");
        assert_eq!(content_type(false, ApiVersion(41)), "application/vnd.docker.raw-stream");
        assert_eq!(content_type(false, ApiVersion(42)), "application/vnd.docker.multiplexed-stream");
    }

    /// A "container" that answers each chunk of input on standard error, and ends when its input ends.
    async fn echo(request: Request) -> Response {
        let (input, mut from_client) = tokio::sync::mpsc::channel::<Bytes>(4);
        let (to_client, chunks) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(chunk) = from_client.recv().await {
                to_client.send((OutputStream::Stderr, chunk)).await.unwrap();
            }
            to_client.send((OutputStream::Stdout, Bytes::from_static(b"bye"))).await.unwrap();
        });
        let output = berth_engine::containers::AttachOutput { chunks };
        let stream = AttachStream { tty: false, output, input: Some(AttachInput { chunks: input }) };
        let (mut parts, body) = request.into_parts();
        answer(stream, &parts.headers, parts.extensions.remove::<OnUpgrade>(), body, ApiVersion(51))
    }

    async fn talk(request: &[u8]) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("berth-attach-{}-{}", std::process::id(), request.len()));
        let listener = crate::Listener::Unix(tokio::net::UnixListener::bind(&path).unwrap());
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let server = tokio::spawn(crate::serve(listener, Router::new().route("/a", post(echo)), stopped));
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        client.write_all(request).await.unwrap();
        let mut answer = vec![0; 512];
        let head = client.read(&mut answer).await.unwrap();
        answer.truncate(head);
        if request.windows(7).any(|word| word == b"Upgrade") {
            client.write_all(b"late").await.unwrap();
            client.shutdown().await.unwrap();
        }
        client.read_to_end(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
        bytes.windows(wanted.len()).any(|window| window == wanted)
    }

    #[tokio::test]
    async fn after_the_clients_half_close_output_still_arrives() {
        let answer = talk(b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").await;
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        assert!(contains(&answer, b"\x02\0\0\0\0\0\0\x04late"));
        assert!(answer.ends_with(b"\x01\0\0\0\0\0\0\x03bye"));
    }

    #[tokio::test]
    async fn without_upgrade_the_request_body_is_the_input() {
        let answer = talk(b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        assert!(contains(&answer, b"\x02\0\0\0\0\0\0\x02hi"));
        assert!(contains(&answer, b"\x01\0\0\0\0\0\0\x03bye"));
    }
}
