//! Listening sockets, connections, and the table of all routes.

use crate::{absent, build, buildkit, containers, events, images, networks, secrets, system, usage, version, volumes};
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use berth_engine::Engine;
use berth_types::Caller;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// A slow client may take this long for its request's head.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// A pause after `accept` failed (out of descriptors): trying on at once would only burn a CPU.
const ACCEPT_RETRY_MILLIS: u64 = 100;

/// Connections of one listener at the same time: a quarter of the descriptors that the engine may have, so that clients who
/// only sit there leave it enough to work with. Whoever comes then waits until somebody goes.
fn connections_max() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 4).unwrap_or(usize::MAX).clamp(16, 1 << 16)
}

pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    /// Only clients whose certificate the acceptor's CA signed.
    Tls(TcpListener, TlsAcceptor),
}

/// All routes of the API on `engine`.
pub fn router(engine: Engine) -> Router {
    let builder = buildkit::Door::new(&engine);
    let routes = Router::new()
        .merge(containers::router())
        .merge(images::router())
        .merge(networks::router())
        .merge(volumes::router())
        .merge(secrets::router())
        .merge(events::router())
        .merge(build::router(builder.clone()))
        .merge(buildkit::router(builder))
        .merge(system::router())
        .merge(usage::router())
        .merge(absent::router())
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(engine);
    // The version's prefix must go before routes are compared: hence the outer router, which has none.
    Router::new().fallback_service(routes).layer(axum::middleware::from_fn(version::middleware))
}

pub(crate) async fn not_found() -> Response {
    let mut response = crate::error::plain(StatusCode::NOT_FOUND, "page not found");
    response.extensions_mut().insert(version::Unrouted);
    response
}

/// Serves until `stop` turns true; hijacked and open connections are then cut.
pub async fn serve(listener: Listener, routes: Router, stop: watch::Receiver<bool>) -> io::Result<()> {
    serve_some(listener, routes, stop, connections_max()).await
}

async fn serve_some(
    listener: Listener,
    routes: Router,
    mut stop: watch::Receiver<bool>,
    connections_max: usize,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(connections_max));
    loop {
        if room.available_permits() == 0 {
            tracing::warn!(connections_max, "too many connections: others wait until one ends");
        }
        let place = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            place = room.clone().acquire_owned() => place.expect("nobody closes it"),
        };
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            accepted = async {
                match &listener {
                    Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
                    Listener::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Stream::Tcp(stream, peer)),
                    Listener::Tls(listener, acceptor) => {
                        listener.accept().await.map(|(stream, peer)| Stream::Tls(stream, peer, acceptor.clone()))
                    }
                }
            } => accepted,
        };
        match accepted {
            Ok(Stream::Unix(stream)) => {
                let caller = stream.peer_cred().ok().map(|user| Caller::Local { uid: user.uid() });
                spawn(stream, caller, routes.clone(), place, HEAD_MAX);
            }
            Ok(Stream::Tcp(stream, peer)) => {
                spawn(stream, Some(Caller::Network(peer)), routes.clone(), place, HEAD_MAX)
            }
            Ok(Stream::Tls(stream, peer, acceptor)) => spawn_tls(stream, peer, acceptor, routes.clone(), place),
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MILLIS)).await;
            }
        }
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(TcpStream, SocketAddr),
    Tls(TcpStream, SocketAddr, TlsAcceptor),
}

fn spawn_tls(stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, routes: Router, place: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        match tokio::time::timeout(HEAD_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => spawn(stream, Some(Caller::Network(peer)), routes, place, HEAD_MAX),
            Ok(Err(cause)) => tracing::info!(%cause, "a client was refused"),
            Err(_) => tracing::debug!("a client did not finish its handshake"),
        }
    });
}

/// `place` is given back when the connection ends, or becomes a container's stream.
fn spawn(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Option<Caller>,
    routes: Router,
    place: OwnedSemaphorePermit,
    head_max: Duration,
) {
    let routes = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        TowerToHyperService::new(routes.clone()).call(request)
    });
    tokio::spawn(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_max)
            .serve_connection(TokioIo::new(stream), routes)
            .with_upgrades()
            .await;
        drop(place);
        if let Err(cause) = served {
            tracing::debug!(%cause, "connection ended");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    fn routes() -> Router {
        Router::new().fallback(|| async { "here" })
    }

    async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: e\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let bytes = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..bytes]).into_owned()
    }

    #[tokio::test]
    async fn whoever_sends_half_a_head_or_nothing_is_cut_off() {
        let (room, short) = (Arc::new(Semaphore::new(3)), Duration::from_millis(50));
        for sent in ["", "GET /x HT", "GET /x HTTP/1.1\r\nHost: e\r\nX-Slow: "] {
            let (mut client, server) = tokio::io::duplex(4096);
            spawn(server, None, routes(), room.clone().acquire_owned().await.unwrap(), short);
            client.write_all(sent.as_bytes()).await.unwrap();
            // Ends, or the test hangs.
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert!(!String::from_utf8_lossy(&rest).contains("here"), "{sent:?}");
        }
        // So is a connection that was good for one request and then only stays.
        let (mut client, server) = tokio::io::duplex(4096);
        spawn(server, None, routes(), room.clone().acquire_owned().await.unwrap(), short);
        assert!(ask(&mut client).await.ends_with("here"));
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        // All places are free again.
        drop(room.acquire_many(3).await.unwrap());
    }

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait_for_one_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (end, stop) = watch::channel(false);
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        let served = tokio::spawn(serve_some(listener, routes(), stop, 2));
        let mut first = UnixStream::connect(&path).await.unwrap();
        let mut second = UnixStream::connect(&path).await.unwrap();
        assert!(ask(&mut first).await.ends_with("here") && ask(&mut second).await.ends_with("here"));
        let mut third = UnixStream::connect(&path).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), ask(&mut third)).await;
        assert!(early.is_err(), "{early:?}");
        drop(first);
        let mut answer = vec![0; 4096];
        let bytes = third.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..bytes]).ends_with("here"));
        end.send(true).unwrap();
        served.await.unwrap().unwrap();
    }
}
