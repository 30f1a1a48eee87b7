//! Other engines: which there are, calls passed on to them, raw streams to their sockets.

use super::Done;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::hosts::{self, HERE, Host, ROOMIEST};
pub(crate) use crate::hosts::{HostRow, Summary};
use crate::identity::{Role, Who, now_unix};
use crate::schema::{answers, requests};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use berth_engine::containers::ListOptions;
use berth_types::{Error, ErrorKind};
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// A stream to another host is asked so often whether its user may still be there.
const CHECK: Duration = Duration::from_secs(30);

answers! {
    /// Where something new goes.
    Placement {
        /// here, or a host's name.
        host: String,
        /// Memory that is neither in use nor promised by a limit.
        free_memory_bytes: u64,
    }
}

requests! {
    NewHost {
        name: String,
        /// https://HOST:PORT of its console, or ssh://USER@HOST.
        address: String,
        /// SHA-256 of its certificate, as its log shows it; with https.
        fingerprint: String,
        /// An API token of its; with https.
        token: String,
    }
}

pub(crate) async fn summary(State(api): State<Api>) -> ApiResult<axum::Json<Summary>> {
    Ok(axum::Json(own(&api).await?))
}

async fn own(api: &Api) -> ApiResult<Summary> {
    let options = ListOptions { all: true, ..ListOptions::default() };
    let all = api.engine.containers().list(&options).await?;
    let rows: Vec<_> = all.iter().map(super::instances::row).collect();
    let fails = |row: &&super::instances::Instance| {
        row.health.as_deref() == Some("unhealthy")
            || row.out_of_memory
            || matches!(row.state.as_str(), "restarting" | "dead")
    };
    let machines = api.engine.machines().list();
    let limited = api.engine.containers().limits().into_iter().filter(|one| !one.ended);
    let promised = limited.map(|one| one.resources.memory_bytes.max(0).unsigned_abs());
    let theirs = machines.iter().filter(|one| !one.state.has_ended()).map(|one| one.memory_bytes);
    Ok(Summary {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instances: rows.len() as u64,
        running: rows.iter().filter(|row| row.state == "running").count() as u64,
        machines: machines.len() as u64,
        failing: rows.iter().filter(fails).count() as u64,
        promised_bytes: promised.chain(theirs).fold(0, u64::saturating_add),
        reading: api.history.host().1,
    })
}

/// This engine first, then the others.
pub(crate) async fn list(State(api): State<Api>) -> ApiResult<axum::Json<Vec<HostRow>>> {
    let mut rows = vec![HostRow {
        name: HERE.to_owned(),
        address: String::new(),
        state: "up".to_owned(),
        error: String::new(),
        seen_unix_millis: berth_engine::events::now_unix_nanos() / 1_000_000,
        about: Some(own(&api).await?),
    }];
    rows.extend(api.hosts.rows());
    Ok(axum::Json(rows))
}

pub(crate) async fn add(State(api): State<Api>, Json(body): Json<NewHost>) -> ApiResult<Response> {
    hosts::check_address(&body.address)?;
    let address = body.address.trim_end_matches('/').to_owned();
    let fingerprint = body.fingerprint.trim().to_ascii_uppercase();
    if address.starts_with("https://") {
        if fingerprint.is_empty() {
            let shown = hosts::shown(&address).await?;
            return Err(Error::new(ErrorKind::InvalidArgument, format!("its certificate has the SHA-256 {shown}"))
                .with_hint(
                    "compare it with what the log of the engine there says, then add the host with this fingerprint",
                )
                .into());
        }
        if body.token.is_empty() {
            return Err(Error::invalid("an API token of that engine is needed")
                .with_hint("make one there, under Access")
                .into());
        }
    }
    let host = Host { address, fingerprint, token: body.token, added_unix: now_unix() };
    api.hosts.add(&body.name, host).await?;
    // Known at once whether it answers; it stays either way, as it may come later.
    hosts::ask_all(&api).await;
    let mut response = axum::Json(Done { warnings: away(&api, &body.name) }).into_response();
    response.extensions_mut().insert(Target(format!("{} at {}", body.name, body.address)));
    Ok(response)
}

fn away(api: &Api, name: &str) -> Vec<String> {
    let rows = api.hosts.rows();
    rows.into_iter().filter(|row| row.name == name && row.state == "away").map(|row| row.error).collect()
}

pub(crate) async fn remove(State(api): State<Api>, Path(host): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.hosts.remove(&host).await?;
    Ok(Done::plainly())
}

/// The one with most room, this one among them.
async fn most_room(api: &Api) -> ApiResult<Placement> {
    // As they are now: what was placed a moment ago counts.
    hosts::ask_present(api).await;
    let here = own(api).await?.room();
    Ok(match api.hosts.roomiest() {
        Some((host, free)) if free > here => Placement { host, free_memory_bytes: free },
        _ => Placement { host: HERE.to_owned(), free_memory_bytes: here },
    })
}

pub(crate) async fn place(State(api): State<Api>) -> ApiResult<axum::Json<Placement>> {
    Ok(axum::Json(most_room(&api).await?))
}

/// Headers of this connection, and what is between a page and us.
fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let csrf = HeaderName::from_static("x-berth-csrf");
    let mut gone = vec![header::COOKIE, header::AUTHORIZATION, header::ORIGIN, header::REFERER, header::HOST, csrf];
    gone.extend([header::PROXY_AUTHORIZATION, header::TE, header::TRAILER, header::TRANSFER_ENCODING]);
    if !upgrade {
        gone.extend([header::CONNECTION, header::UPGRADE]);
    }
    for name in gone {
        headers.remove(name);
    }
}

/// Any call, as `who` may make it here, made there.
pub(crate) async fn pass_on(
    State(api): State<Api>,
    who: Who,
    Path((host, path)): Path<(String, String)>,
    uri: Uri,
    mut request: Request,
) -> ApiResult<Response> {
    let found = api.hosts.get(&host)?;
    if path.starts_with("hosts/") || path == "dial" {
        return Err(Error::invalid("a host is asked for what is its own only").into());
    }
    // As it was written, not as the router decoded it: no path means another one there.
    let written = uri.path_and_query().map_or("", |all| all.as_str());
    let rest = written.splitn(5, '/').nth(4).unwrap_or_default();
    let there: Uri =
        format!("/api/v1/{rest}").parse().map_err(|cause| Error::invalid(format!("{path:?} is no path: {cause}")))?;
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let target = format!("{host}: {} /{path}", request.method());
    let ours = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    strip(&mut parts.headers, upgrade);
    parts.uri = there;
    parts.extensions = axum::http::Extensions::new();
    let request = Request::from_parts(parts, body);
    let mut response = found.pass_on(request, &who.user, who.role.as_str()).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        return Err(Error::new(ErrorKind::Unavailable, format!("host {host} does not know our token any more"))
            .with_hint("remove the host and add it again with a new token")
            .into());
    }
    let theirs = hyper::upgrade::on(&mut response);
    let (mut parts, body) = response.into_parts();
    parts.extensions = axum::http::Extensions::new();
    for name in [header::SET_COOKIE, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let mut answer = match (ours, parts.status) {
        (Some(ours), StatusCode::SWITCHING_PROTOCOLS) => {
            tokio::spawn(async move {
                let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
                let copying = hosts::copy(Box::new(TokioIo::new(ours)), Box::new(TokioIo::new(theirs)));
                tokio::select! {
                    () = copying => {}
                    () = until_signed_out(&api, &who) => {}
                }
            });
            Response::from_parts(parts, Body::empty())
        }
        _ => {
            parts.headers.remove(header::CONNECTION);
            parts.headers.remove(header::UPGRADE);
            Response::from_parts(parts, Body::new(body))
        }
    };
    answer.extensions_mut().insert(Target(target));
    Ok(answer)
}

async fn until_signed_out(api: &Api, who: &Who) {
    loop {
        tokio::time::sleep(CHECK).await;
        if !api.identity.still_holds(who) {
            return;
        }
    }
}

/// This engine's own socket as a raw stream, for another engine that knows a token of an administrator.
pub(crate) async fn dial(State(api): State<Api>, request: Request) -> ApiResult<Response> {
    let stream = own_socket(&api).await?;
    switch(request, stream)
}

async fn own_socket(api: &Api) -> ApiResult<Box<dyn hosts::Pipe>> {
    let path = api.engine_host.as_deref().and_then(|host| host.strip_prefix("unix://"));
    let none = || Error::new(ErrorKind::Unavailable, "this engine listens on no unix socket");
    Ok(hosts::unix(path.ok_or_else(none)?).await?)
}

/// Another engine's own socket as a raw stream, for our command line (`berth --host NAME`).
pub(crate) async fn dial_host(
    State(api): State<Api>,
    who: Who,
    Path(host): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let name = if host == ROOMIEST { most_room(&api).await?.host } else { host };
    let stream = match name.as_str() {
        HERE => own_socket(&api).await?,
        name => api.hosts.get(name)?.docker(&who.user).await?,
    };
    let mut response = switch(request, stream)?;
    response.extensions_mut().insert(Target(name));
    Ok(response)
}

fn switch(mut request: Request, stream: Box<dyn hosts::Pipe>) -> ApiResult<Response> {
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != "tcp") {
        return Err(Error::invalid("this is a raw stream: ask with Upgrade: tcp").into());
    }
    let ours = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match ours.await {
            Ok(ours) => hosts::copy(Box::new(TokioIo::new(ours)), stream).await,
            Err(cause) => tracing::debug!(%cause, "a raw stream did not begin"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "tcp")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// What another engine of ours says about whoever asks through it.
pub(crate) fn lowered(who: Who, headers: &HeaderMap) -> Result<Who, Error> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(role) = text("x-berth-role") else { return Ok(who) };
    let role = Role::parse(role)?;
    let user = match text("x-berth-for") {
        Some(other) => format!("{other} through {}", who.user).chars().take(160).collect(),
        None => who.user.clone(),
    };
    Ok(who.lowered(user, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_can_only_be_lowered() {
        let asked = |role: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-berth-role", role.parse().unwrap());
            headers.insert("x-berth-for", "ada".parse().unwrap());
            headers
        };
        let viewer = lowered(Who::local(), &asked("viewer")).unwrap();
        assert_eq!((viewer.role, viewer.user.as_str()), (Role::Viewer, "ada through root"));
        assert_eq!(lowered(viewer, &asked("admin")).unwrap().role, Role::Viewer);
        assert!(lowered(Who::local(), &asked("god")).is_err());
    }
}
