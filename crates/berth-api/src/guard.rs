//! What stands before every handler: who is it, may they, did their own page ask; and the audit entry after.
//!
//! ```text
//! cookie, bearer token, or the engine's own socket -> changing or a stream: our own page?
//!     -> role enough, in the project of what the path names? -> handler -> audit -> answer
//! ```

use crate::Api;
use crate::error::{ApiError, ApiResult};
use crate::identity::{Role, Who, password, projects};
use crate::routes::Access;
use axum::extract::{Extension, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use berth_types::{Caller, Error};
use std::net::SocketAddr;

/// The `__Host-` prefix makes browsers refuse it without `Secure`, from another host, or for a sub-path.
pub(crate) const COOKIE: &str = "__Host-berth";
const CSRF_HEADER: &str = "x-berth-csrf";

#[derive(Clone)]
pub(crate) struct Guarded {
    pub(crate) api: Api,
    pub(crate) access: Access,
    pub(crate) act: &'static str,
    pub(crate) thing: Option<Thing>,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Network(SocketAddr),
    /// The engine's own socket, whose users are root.
    Local,
}

impl Peer {
    pub(crate) fn text(self) -> String {
        match self {
            Peer::Network(address) => address.ip().to_canonical().to_string(),
            Peer::Local => "the engine's socket".to_owned(),
        }
    }
}

/// What a path names that can be in a project. Found from the path itself, so that no route can forget it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    /// Machines too.
    Instance,
    Volume,
    Network,
}

impl Thing {
    pub(crate) fn of(path: &str) -> Option<Thing> {
        let mut parts = path.trim_start_matches('/').split('/');
        match (parts.next()?, parts.next()?.starts_with('{')) {
            ("instances" | "machines", true) => Some(Thing::Instance),
            ("volumes", true) => Some(Thing::Volume),
            ("networks", true) => Some(Thing::Network),
            _ => None,
        }
    }

    /// The project of the one called `name`; `Err`: there is none of that name.
    async fn project(self, api: &Api, name: &str) -> Result<Option<String>, Error> {
        let labels = match self {
            Thing::Instance => api.engine.containers().inspect(name, false).await?.spec.config.labels,
            Thing::Volume => api.engine.volumes().inspect(name).await?.labels,
            Thing::Network => api.engine.networks().inspect(name)?.network.labels,
        };
        Ok(projects::of(&labels).map(str::to_owned))
    }
}

/// For long streams of handlers that the engine's own socket has too, where nobody has signed in.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) api: Api,
    pub(crate) who: Who,
}

/// What a handler wants the audit log to say beyond the route.
#[derive(Debug, Clone)]
pub(crate) struct Target(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Who> {
        parts.extensions.get::<Who>().cloned().ok_or_else(|| ApiError::unauthorized("sign in first"))
    }
}

pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

pub(crate) fn identify(api: &Api, headers: &HeaderMap) -> Option<Who> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return api.identity.by_token(value.to_str().ok()?.strip_prefix("Bearer ")?);
    }
    api.identity.by_session(cookie(headers)?)
}

/// Whether a browser sent this from a page of ours: it says so itself, and a page elsewhere cannot make it lie.
pub(crate) fn from_our_page(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let origin = text(header::ORIGIN).is_none_or(|origin| origin.strip_prefix("https://") == Some(host));
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    origin && site.is_none_or(|site| matches!(site, "same-origin" | "none"))
}

async fn check(
    guarded: &Guarded,
    headers: &HeaderMap,
    from: Peer,
    changes: bool,
    names: &[&str],
) -> ApiResult<Option<Who>> {
    let (Access::AtLeast(role) | Access::Somewhere(role)) = guarded.access else {
        return match changes && !from_our_page(headers) {
            true => Err(ApiError::forbidden("this request comes from another site's page")),
            false => Ok(None),
        };
    };
    let who = match from {
        Peer::Local => Who::local(),
        Peer::Network(_) => identify(&guarded.api, headers).ok_or_else(|| ApiError::unauthorized("sign in first"))?,
    };
    let who = crate::doors::hosts::lowered(who, headers)?;
    if let Some(csrf) = &who.csrf {
        // A WebSocket carries no header of ours, but always an Origin.
        let stream = headers.contains_key(header::UPGRADE);
        let repeated = headers.get(CSRF_HEADER).map(|value| value.as_bytes());
        let missing = changes && !repeated.is_some_and(|value| password::same(value, csrf.as_bytes()));
        if (changes || stream) && !from_our_page(headers) || missing {
            return Err(ApiError::forbidden("this request does not come from the console's own page"));
        }
        if stream && !headers.contains_key(header::ORIGIN) {
            return Err(ApiError::forbidden("this request does not say which page it comes from"));
        }
    }
    let (has, who) = match (guarded.access, guarded.thing, names.first()) {
        (Access::Somewhere(_), ..) => (who.best(), who),
        (_, Some(thing), Some(name)) if !who.projects.is_empty() || !who.sees_all() => {
            within(guarded, thing, name, who).await?
        }
        _ => (who.role, who),
    };
    if has < role {
        let message = format!("{} is a {}, and this needs the role {}", who.user, has.as_str(), role.as_str());
        return Err(ApiError::forbidden(message));
    }
    Ok(Some(who))
}

/// What `who` may do with the thing; to whoever may not see it, it is not there.
async fn within(guarded: &Guarded, thing: Thing, name: &str, mut who: Who) -> ApiResult<(Role, Who)> {
    let project = match thing.project(&guarded.api, name).await {
        Ok(project) => project,
        // The handler says in its own words that it is not there.
        Err(_) if who.sees_all() => return Ok((who.role, who)),
        Err(_) => return Err(Error::not_found(format!("there is nothing called {name} here")).into()),
    };
    let role = who.role_on(project.as_deref());
    who.here = role;
    match role >= Role::Viewer {
        true => Ok((role, who)),
        false => Err(Error::not_found(format!("there is nothing called {name} here")).into()),
    }
}

/// Longer refusals of the library below are cut off.
const REFUSAL_BYTES_MAX: usize = 4096;

/// A refusal that the library below us wrote, as a failure like all others.
async fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    ApiError::with_status(status, if text.is_empty() { "this request cannot be read" } else { text.trim() })
        .into_response()
}

pub(crate) async fn guard(
    State(guarded): State<Guarded>,
    Extension(from): Extension<Peer>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let address = match (from, request.extensions().get::<Caller>()) {
        (Peer::Local, Some(caller)) => caller.to_string(),
        _ => from.text(),
    };
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let names: Vec<&str> = params.iter().map(|(_, value)| value).collect();
    let (who, refusal) = match check(&guarded, request.headers(), from, changes, &names).await {
        Ok(who) => (who, None),
        // Who was refused for lack of rights stands in the log by name.
        Err(error) => (identify(&guarded.api, request.headers()), Some(error)),
    };
    let audited = !guarded.act.is_empty();
    let mut target = String::new();
    if audited {
        target = names.join(" ");
        if guarded.thing == Some(Thing::Instance)
            && let Some(name) = names.first()
            && let Ok(found) = guarded.api.engine.containers().inspect(name, false).await
        {
            let rest = names[1..].iter().map(|more| format!(" {more}")).collect::<String>();
            target = format!("{} ({}){rest}", found.name, found.id.short());
        }
    }
    let mut response = match refusal {
        Some(error) => error.into_response(),
        None => {
            if let Some(who) = who.clone() {
                request.extensions_mut().insert(Session { api: guarded.api.clone(), who: who.clone() });
                request.extensions_mut().insert(who);
            }
            in_our_words(next.run(request).await).await
        }
    };
    // A stream's request without a session is noise of a page that has just lost it, not somebody's deed.
    if audited && let Some(who) = who {
        if let Some(Target(more)) = response.extensions_mut().remove::<Target>() {
            target = if target.is_empty() { more } else { format!("{target}: {more}") };
        }
        let outcome = match response.status() {
            status if status.is_client_error() || status.is_server_error() => status.to_string(),
            _ => "ok".to_owned(),
        };
        if let Err(error) = guarded.api.audit.note(&who.user, &address, guarded.act, &target, &outcome).await {
            tracing::error!(%error, act = guarded.act, who = who.user, "the audit log is not complete");
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn other_sites_pages_are_told_apart() {
        let ours = headers(&[("host", "box:9443"), ("origin", "https://box:9443"), ("sec-fetch-site", "same-origin")]);
        assert!(from_our_page(&ours));
        assert!(from_our_page(&headers(&[("host", "box:9443")])), "no browser at all");
        assert!(!from_our_page(&headers(&[("host", "box:9443"), ("origin", "https://evil")])));
        assert!(!from_our_page(&headers(&[("host", "box:9443"), ("origin", "http://box:9443")])));
        assert!(!from_our_page(&headers(&[("host", "box:9443"), ("origin", "null")])));
        assert!(!from_our_page(&headers(&[("host", "box:9443"), ("sec-fetch-site", "cross-site")])));
    }

    #[test]
    fn what_a_path_names_is_known_from_the_path() {
        assert_eq!(Thing::of("/instances/{id}/files/content"), Some(Thing::Instance));
        assert_eq!(Thing::of("/machines/{id}"), Some(Thing::Instance));
        assert_eq!(Thing::of("/networks/{name}/join"), Some(Thing::Network));
        for none in ["/instances", "/instances/bulk", "/volumes", "/images/{id}", "/tasks/{id}"] {
            assert_eq!(Thing::of(none), None, "{none}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let some = headers(&[("cookie", "a=b; __Host-berth=secret; c=d")]);
        assert_eq!(cookie(&some), Some("secret"));
        assert_eq!(cookie(&headers(&[("cookie", "__Host-berthy=x")])), None);
    }
}
