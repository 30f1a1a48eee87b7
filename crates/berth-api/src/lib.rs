//! Our own API under `/api/v1`, and the console's pages.
//!
//! ```text
//! TLS -> headers -> /api/v1/...  guard (who, may they, our own page?) -> handler -> audit
//!                -> everything else: the page, from inside the binary
//! ```
//!
//! Without `--console` nothing is served, and only what somebody has asked for once and for all goes on ([`Unattended`]).
//! The crate knows the engine's handle and the words of `berth-types`, as every
//! door, and keeps records of its own in `berth-store`: users, sessions, API tokens and the audit log are the
//! door's, the engine knows no users. Everything a page does is a call that others can make too;
//! `GET /api/v1/openapi.json` describes it and is made from the same table as the router ([`routes`]).

#![cfg_attr(test, recursion_limit = "256")]

mod audit;
mod builds;
mod docker_audit;
mod doors;
mod error;
mod extract;
mod follow;
mod guard;
mod history;
mod hosts;
mod hub;
mod identity;
mod notes;
mod oidc;
mod pages;
mod quota;
mod routes;
mod schedules;
mod schema;
mod stacks;
mod tasks;
mod tls;
mod updates;
mod uploads;

pub use tls::Certificate;

use axum::Router;
use axum::routing::{get, post};
use berth_engine::Engine;
use berth_types::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a request's body may have; uploads have ways of their own.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;

/// How the console is to be served.
#[derive(Debug, Clone)]
pub struct Config {
    pub address: SocketAddr,
    /// `None`: made on the first run and kept.
    pub certificate: Option<Certificate>,
    /// Where the engine's own socket is (`unix://...`), for programs that the console starts.
    pub engine_host: Option<String>,
}

/// The part of the API that the engine's own socket has too, with or without a console: what Docker has no word
/// for and the command line asks for.
pub fn engine_routes(engine: Engine) -> Router {
    let mut table = routes::Table::<Door>::default();
    doors::machines::add(&mut table);
    doors::kernels::add(&mut table);
    doors::system::add_tasks(&mut table);
    let tasks = Arc::new(tasks::Tasks::new(Arc::new(hub::Hub::new()), None));
    table.unguarded().with_state(Door { engine, tasks })
}

/// What handlers share that the engine's own socket has without a console.
#[derive(Clone)]
struct Door {
    engine: Engine,
    tasks: Arc<tasks::Tasks>,
}

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) identity: Arc<identity::Identity>,
    pub(crate) audit: Arc<audit::Audit>,
    pub(crate) history: Arc<history::History>,
    pub(crate) hub: Arc<hub::Hub>,
    pub(crate) tasks: Arc<tasks::Tasks>,
    pub(crate) builds: Arc<builds::Builds>,
    pub(crate) engine_host: Option<String>,
    pub(crate) stacks: Arc<stacks::Stacks>,
    pub(crate) hosts: Arc<hosts::Hosts>,
    pub(crate) oidc: Arc<oidc::Oidc>,
    /// Whoever makes something in a project with a quota: one after the other.
    pub(crate) making: Arc<quota::Turns>,
    pub(crate) schedules: Arc<schedules::Schedules>,
    pub(crate) notes: Arc<notes::Notes>,
    pub(crate) updates: Arc<updates::Updates>,
    pub(crate) uploads: Arc<uploads::Uploads>,
}

/// The console, listening; [`Console::serve`] answers.
pub struct Console {
    listener: TcpListener,
    tls: Arc<tokio_rustls::rustls::ServerConfig>,
    routes: Router,
    api: Api,
}

impl Api {
    fn open(engine: Engine, engine_host: Option<String>) -> Result<Api> {
        let data_root = engine.config().data_root.clone();
        let identity = Arc::new(identity::Identity::open(&data_root)?);
        let store = identity.store();
        let audit = Arc::new(audit::Audit::open(store.clone())?);
        let hub = Arc::new(hub::Hub::new());
        Ok(Api {
            history: Arc::new(history::History::new(engine.clone(), hub.clone())),
            tasks: Arc::new(tasks::Tasks::new(hub.clone(), Some(audit.clone()))),
            builds: Arc::default(),
            stacks: Arc::new(stacks::Stacks::new(store.clone(), &data_root)),
            hosts: Arc::new(hosts::Hosts::open(store.clone())?),
            oidc: Arc::new(oidc::Oidc::open(store.clone())?),
            making: Arc::default(),
            schedules: Arc::new(schedules::Schedules::new(store.clone())),
            notes: Arc::new(notes::Notes::new(store.clone())),
            updates: Arc::new(updates::Updates::new(store.clone())),
            uploads: Arc::new(uploads::Uploads::new(store.clone(), &data_root)),
            engine,
            identity,
            audit,
            hub,
            engine_host,
        })
    }
}

/// What goes on in an engine that serves no console: backups and snapshots by their schedules, and uploads whose time is over.
pub struct Unattended {
    api: Api,
}

impl Unattended {
    /// `None` where no console has ever been: nobody can have asked for anything, and no record is made.
    pub fn open(engine: Engine) -> Result<Option<Unattended>> {
        if !identity::Identity::is_kept(&engine.config().data_root) {
            return Ok(None);
        }
        let api = Api::open(engine, None)?;
        match api.schedules.list()?.len() {
            0 => {}
            count => {
                tracing::info!(count, "no console is served; its schedules go on all the same")
            }
        }
        Ok(Some(Unattended { api }))
    }

    /// Goes on until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = schedules::run(self.api.clone()) => {}
            () = uploads::run(self.api.uploads.clone()) => {}
            () = follow::run(self.api.clone()) => {}
            // Whoever held the other end is gone, where it cannot be heard any more.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

impl axum::extract::FromRef<Door> for Engine {
    fn from_ref(door: &Door) -> Engine {
        door.engine.clone()
    }
}

impl axum::extract::FromRef<Door> for Arc<tasks::Tasks> {
    fn from_ref(door: &Door) -> Arc<tasks::Tasks> {
        door.tasks.clone()
    }
}

impl axum::extract::FromRef<Api> for Arc<tasks::Tasks> {
    fn from_ref(api: &Api) -> Arc<tasks::Tasks> {
        api.tasks.clone()
    }
}

impl axum::extract::FromRef<Api> for Engine {
    fn from_ref(api: &Api) -> Engine {
        api.engine.clone()
    }
}

impl Console {
    /// Opens records, certificate and listener. Prints, by the log, how to get in on the first run.
    pub async fn open(engine: Engine, config: Config) -> Result<Console> {
        let data_root = engine.config().data_root.clone();
        let (tls, fingerprint) = tls::config(config.certificate.as_ref(), &data_root)?;
        let failed = |cause: std::io::Error| {
            Error::because(ErrorKind::Unavailable, format!("the console cannot listen on {}", config.address), &cause)
        };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let api = Api::open(engine, config.engine_host)?;
        tracing::info!("console at https://{address}, certificate SHA-256 {fingerprint}");
        if api.identity.needs_setup() {
            let token = api.identity.new_setup_token()?;
            tracing::info!("console: nobody can sign in yet; the one-time set-up token is {token}");
        }
        Ok(Console { listener, tls, routes: routes(&api), api })
    }

    /// The API for the engine's own socket, whose users are root; and a new set-up token.
    pub fn local_routes(&self) -> Router {
        let api = self.api.clone();
        let token = move || {
            let api = api.clone();
            async move {
                let token = api.identity.new_setup_token().map_err(error::ApiError::from)?;
                api.audit.note("root", "the engine's socket", "setup.token", "", "ok").await?;

                Ok::<_, error::ApiError>(axum::Json(serde_json::json!({"token": token})))
            }
        };
        let inner = api_routes(&self.api);
        Router::new()
            .nest(routes::PREFIX, inner)
            .route("/api/v1/console/token", post(token))
            .layer(axum::Extension(guard::Peer::Local))
    }

    /// Docker's door with what is done through it in the audit log.
    pub fn noted(&self, routes: Router) -> Router {
        let note = axum::middleware::from_fn_with_state(self.api.clone(), docker_audit::note);
        Router::new().fallback_service(routes).layer(note)
    }

    /// Answers until `stop` turns true.
    pub async fn serve(self, stop: watch::Receiver<bool>) -> std::io::Result<()> {
        let following = tokio::spawn(hub::follow(self.api.engine.clone(), self.api.hub.clone()));
        let reading = tokio::spawn(self.api.history.clone().run());
        let watching = tokio::spawn(hosts::watch(self.api.clone()));
        let backing_up = tokio::spawn(schedules::run(self.api.clone()));
        let sweeping = tokio::spawn(uploads::run(self.api.uploads.clone()));
        let tidying = tokio::spawn(follow::run(self.api.clone()));
        let asking = tokio::spawn(updates::run(self.api.clone()));
        let served = tls::serve(self.listener, self.tls, self.routes, stop).await;
        following.abort();
        reading.abort();
        watching.abort();
        backing_up.abort();
        sweeping.abort();
        tidying.abort();
        asking.abort();
        served
    }
}

fn routes(api: &Api) -> Router {
    let inner = api_routes(api);
    let pages = Router::new().fallback(pages::serve).with_state(api.clone());
    Router::new().nest(routes::PREFIX, inner).fallback_service(pages).layer(axum::middleware::from_fn(pages::headers))
}

fn api_routes(api: &Api) -> Router {
    let (inner, description) = doors::table().finish(api);
    let description = Arc::new(description);
    let openapi = get(move || {
        let description = description.clone();
        async move { axum::Json((*description).clone()) }
    });
    inner
        .route("/openapi.json", openapi)
        .fallback(|| async { error::ApiError::from(Error::not_found("there is no such path in this API")) })
        .method_not_allowed_fallback(|| async {
            error::ApiError::from(Error::not_found("there is no such method on this path"))
        })
        .with_state(api.clone())
}
