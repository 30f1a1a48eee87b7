//! Listening sockets, connections, and the table of all routes.

use crate::{absent, build, containers, events, images, networks, system, version, volumes};
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use berth_engine::Engine;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
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
    let routes = Router::new()
        .merge(containers::router())
        .merge(images::router())
        .merge(networks::router())
        .merge(volumes::router())
        .merge(events::router())
        .merge(build::router())
        .merge(system::router())
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
                    Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
                    Listener::Tls(listener, acceptor) => {
                        listener.accept().await.map(|(stream, _)| Stream::Tls(stream, acceptor.clone()))
                    }
                }
            } => accepted,
        };
        match accepted {
            Ok(Stream::Unix(stream)) => spawn(stream, routes.clone()),
            Ok(Stream::Tcp(stream)) => spawn(stream, routes.clone()),
            Ok(Stream::Tls(stream, acceptor)) => spawn_tls(stream, acceptor, routes.clone()),
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MILLIS)).await;
            }
        }
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
    Tls(tokio::net::TcpStream, TlsAcceptor),
}

fn spawn_tls(stream: tokio::net::TcpStream, acceptor: TlsAcceptor, routes: Router) {
    tokio::spawn(async move {
        match tokio::time::timeout(Duration::from_secs(HEAD_SECONDS_MAX), acceptor.accept(stream)).await {
            Ok(Ok(stream)) => spawn(stream, routes),
            Ok(Err(cause)) => tracing::info!(%cause, "a client was refused"),
            Err(_) => tracing::debug!("a client did not finish its handshake"),
        }
    });
}

fn spawn(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router) {
    tokio::spawn(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
            .with_upgrades()
            .await;
        if let Err(cause) = served {
            tracing::debug!(%cause, "connection ended");
        }
    });
}
