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
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A slow client may take this long for its request's head.
const HEAD_SECONDS_MAX: u64 = 30;
/// A pause after `accept` failed (out of descriptors): trying on at once would only burn a CPU.
const ACCEPT_RETRY_MILLIS: u64 = 100;

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
pub async fn serve(listener: Listener, routes: Router, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    loop {
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
                spawn(stream, caller, routes.clone());
            }
            Ok(Stream::Tcp(stream, peer)) => spawn(stream, Some(Caller::Network(peer)), routes.clone()),
            Ok(Stream::Tls(stream, peer, acceptor)) => spawn_tls(stream, peer, acceptor, routes.clone()),
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MILLIS)).await;
            }
        }
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream, SocketAddr),
    Tls(tokio::net::TcpStream, SocketAddr, TlsAcceptor),
}

fn spawn_tls(stream: tokio::net::TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, routes: Router) {
    tokio::spawn(async move {
        match tokio::time::timeout(Duration::from_secs(HEAD_SECONDS_MAX), acceptor.accept(stream)).await {
            Ok(Ok(stream)) => spawn(stream, Some(Caller::Network(peer)), routes),
            Ok(Err(cause)) => tracing::info!(%cause, "a client was refused"),
            Err(_) => tracing::debug!("a client did not finish its handshake"),
        }
    });
}

fn spawn(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, caller: Option<Caller>, routes: Router) {
    let routes = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        TowerToHyperService::new(routes.clone()).call(request)
    });
    tokio::spawn(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
            .serve_connection(TokioIo::new(stream), routes)
            .with_upgrades()
            .await;
        if let Err(cause) = served {
            tracing::debug!(%cause, "connection ended");
        }
    });
}
