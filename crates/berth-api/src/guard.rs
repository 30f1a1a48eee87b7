//! What stands before every handler: who is it, may they, did their own page ask; and the audit entry after.
//!
//! ```text
//! cookie or bearer token -> role enough? -> changing or a stream: our own page? -> handler -> audit -> answer
//! ```

use crate::Api;
use crate::error::{ApiError, ApiResult};
use crate::identity::{Who, password};
use crate::routes::Access;
use axum::extract::{Extension, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;

/// The `__Host-` prefix makes browsers refuse it without `Secure`, from another host, or for a sub-path.
pub(crate) const COOKIE: &str = "__Host-berth";
const CSRF_HEADER: &str = "x-berth-csrf";

#[derive(Clone)]
pub(crate) struct Guarded {
    pub(crate) api: Api,
    pub(crate) access: Access,
    pub(crate) act: &'static str,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Peer {
    pub(crate) fn text(self) -> String {
        self.0.ip().to_canonical().to_string()
    }
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

fn check(guarded: &Guarded, request: &Request, changes: bool) -> ApiResult<Option<Who>> {
    let headers = request.headers();
    let Access::AtLeast(role) = guarded.access else {
        return match changes && !from_our_page(headers) {
            true => Err(ApiError::forbidden("this request comes from another site's page")),
            false => Ok(None),
        };
    };
    let who = identify(&guarded.api, headers).ok_or_else(|| ApiError::unauthorized("sign in first"))?;
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
    if who.role < role {
        return Err(ApiError::forbidden(format!(
            "{} is a {}, and this needs the role {}",
            who.user,
            who.role.as_str(),
            role.as_str()
        )));
    }
    Ok(Some(who))
}

pub(crate) async fn guard(
    State(guarded): State<Guarded>,
    Extension(from): Extension<Peer>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let (who, refusal) = match check(&guarded, &request, changes) {
        Ok(who) => (who, None),
        // Who was refused for lack of rights stands in the log by name.
        Err(error) => (identify(&guarded.api, request.headers()), Some(error)),
    };
    let audited = !guarded.act.is_empty();
    let mut target = String::new();
    if audited {
        target = params.iter().map(|(_, value)| value).collect::<Vec<_>>().join(" ");
        if guarded.act.starts_with("instance.")
            && let Ok(found) = guarded.api.engine.containers().inspect(&target, false).await
        {
            target = format!("{} ({})", found.name, found.id.short());
        }
    }
    let mut response = match refusal {
        Some(error) => error.into_response(),
        None => {
            if let Some(who) = who.clone() {
                request.extensions_mut().insert(who);
            }
            next.run(request).await
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
        if let Err(error) = guarded.api.audit.note(&who.user, &from.text(), guarded.act, &target, &outcome).await {
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
    fn the_cookie_is_found_among_others() {
        let some = headers(&[("cookie", "a=b; __Host-berth=secret; c=d")]);
        assert_eq!(cookie(&some), Some("secret"));
        assert_eq!(cookie(&headers(&[("cookie", "__Host-berthy=x")])), None);
    }
}
