//! BuildKit's door: what buildx, and through it `docker build` and Compose, speak to the builder.
//!
//! ```text
//!  POST /session  the connection turns: we ask, the client answers      session   who is there; secrets, agents, logins
//!                 (its files, secrets, ssh agent, logins)               receive   its folders as trees of the builder
//!                                                                       send      results into its folders
//!  POST /build?version=2   the same build, asked for in a query            posted
//!  POST /grpc     we answer                                             control   the calls, one table
//!     Control      Solve, Status, ListWorkers, DiskUsage, Prune ..      solve     a build from beginning to end
//!     LLBBridge    Ping, Solve, Return                                  gateway   the calls of a client that builds by calls
//!                                                                       questions what a Dockerfile says unbuilt: --check, --call
//!                                                                       request   a frontend's options as a BuildRequest
//!                                                                       promise   what a call will come to; a call's input
//!                                                                       known     contents that need not travel again
//!                                                                       progress  the builder's events as vertexes and logs
//! ```
//!
//! The frontend is our own: `dockerfile.v0`. A definition in LLB, and frontends that are images, are refused by name.
//! A client that goes ends its build: the call is dropped, and with it everything that the build has open.

mod caches;
mod control;
mod gateway;
mod known;
mod posted;
mod progress;
mod promise;
mod questions;
mod receive;
mod request;
mod send;
mod session;
mod solve;
mod usage;

pub(crate) use posted::build as posted;

use crate::error::{ApiError, ApiResult};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use berth_buildkit::grpc;
use berth_engine::Engine;
use berth_types::Error;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// What all connections of an engine's door share.
pub(crate) struct Door {
    engine: Engine,
    sessions: session::Sessions,
    builds: solve::Builds,
    promises: promise::Promises,
    folders: known::Folders,
}

impl Door {
    pub(crate) fn new(engine: &Engine) -> Arc<Door> {
        Arc::new(Door {
            engine: engine.clone(),
            sessions: session::Sessions::default(),
            builds: solve::Builds::default(),
            promises: promise::Promises::default(),
            folders: known::Folders::default(),
        })
    }
}

pub(crate) fn router(door: Arc<Door>) -> Router<Engine> {
    let routes = Router::new().route("/session", post(accept_session)).route("/grpc", post(accept_calls));
    routes.with_state(door)
}

/// `POST /session`: from here on we ask.
async fn accept_session(State(door): State<Arc<Door>>, request: Request) -> ApiResult<Response> {
    let expected = session::Announced::read(request.headers())?;
    let place = door.sessions.reserve(expected)?;
    hijack(request, move |connection| place.run(connection))
}

/// `POST /grpc`: from here on we answer.
async fn accept_calls(State(door): State<Arc<Door>>, request: Request) -> ApiResult<Response> {
    hijack(request, move |connection| {
        let service = move |call| control::answer(door.clone(), call);
        grpc::serve(connection, Arc::new(service))
    })
}

/// Hands the connection over once the answer's head is sent.
fn hijack<F>(request: Request, then: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static) -> ApiResult<Response>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut parts, _) = request.into_parts();
    wants_h2c(&parts.headers)?;
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(ApiError::from(Error::invalid("this connection cannot be handed over")));
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => then(TokioIo::new(connection)).await,
            Err(cause) => tracing::debug!(%cause, "client left before its connection was its own"),
        }
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c")
        .body(Body::empty());
    answer.map_err(|cause| ApiError::from(Error::internal(format!("cannot answer: {cause}"))))
}

fn wants_h2c(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(header::UPGRADE).map(|value| value.to_str().unwrap_or("?")) {
        Some("h2c") => Ok(()),
        Some(other) => Err(Error::invalid(format!("protocol {other} not supported"))),
        None => Err(Error::invalid("no upgrade proto in request")),
    }
}
