//! API versions: the prefix of a path, and what is refused.

use crate::error::plain;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Instrument;

/// A version `1.minor`; the door's extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u32);

/// Marks an answer of nobody: no route had the path and the method.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unrouted;

pub const OLDEST: ApiVersion = ApiVersion(24);
pub const CURRENT: ApiVersion = ApiVersion(56);
const CURRENT_TEXT: &str = "1.56";

impl ApiVersion {
    /// Whether the client speaks a version older than 1.`minor`.
    pub fn before(self, minor: u32) -> bool {
        self.0 < minor
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// `/v1.44/containers/json` → its version and `/containers/json`; `None`: no version in front.
fn split(path: &str) -> Option<(u32, u32, &str)> {
    let rest = path.strip_prefix("/v")?;
    let end = rest.find('/')?;
    let (major, minor) = rest[..end].split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?, &rest[end..]))
}

/// Takes the version off the path, numbers the request and puts the API's headers on the answer.
pub(crate) async fn middleware(mut request: Request, next: Next) -> Response {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    let path = request.uri().path().to_owned();
    let (version, refused) = match split(&path) {
        None => (CURRENT, None),
        Some((1, minor, rest)) => {
            let version = ApiVersion(minor);
            let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
            if let Ok(uri) = format!("{rest}{query}").parse::<Uri>() {
                *request.uri_mut() = uri;
            }
            (version, refusal(version))
        }
        Some((major, minor, _)) => (
            CURRENT,
            Some(format!("client version {major}.{minor} is too new. Maximum supported API version is {CURRENT}")),
        ),
    };
    let refused = refused.or_else(|| too_early(version, request.method(), request.uri().path()));
    request.extensions_mut().insert(version);
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let span = tracing::debug_span!("request", number, method = %request.method(), path);
    let mut response = match refused {
        Some(text) => plain(StatusCode::BAD_REQUEST, &text),
        None if request.method() == Method::OPTIONS => StatusCode::OK.into_response(),
        None if request.method() == Method::HEAD && !has_head(request.uri().path()) => crate::server::not_found().await,
        None => {
            async move {
                // A handler that panics must not take its client's other requests along.
                let response = AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the engine made a mistake; its log says where")
                });
                tracing::debug!(status = response.status().as_u16(), "answered");
                response
            }
            .instrument(span)
            .await
        }
    };
    // dockerd's router answers what it does not know before any of its headers are set.
    if response.extensions().get::<Unrouted>().is_some() {
        response.headers_mut().remove(header::ALLOW);
        return response;
    }
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(CURRENT_TEXT));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(concat!("Berth/", env!("CARGO_PKG_VERSION"), " (linux)")));
    response
}

/// The paths that dockerd answers HEAD on.
fn has_head(path: &str) -> bool {
    path == "/_ping" || (path.starts_with("/containers/") && path.ends_with("/archive"))
}

/// The routes that are younger than [`OLDEST`], as dockerd writes them, and the version that brought each.
const YOUNGER: &[(&str, &str, u32)] = &[
    ("POST", "/build/prune", 31),
    ("POST", "/containers/prune", 25),
    ("GET", "/distribution/{name:.*}/json", 30),
    ("GET", "/images/{name:.*}/attestations", 55),
    ("POST", "/images/prune", 25),
    ("POST", "/networks/prune", 25),
    ("POST", "/plugins/{name:.*}/upgrade", 26),
    ("GET", "/secrets", 25),
    ("POST", "/secrets/create", 25),
    ("DELETE", "/secrets/{id}", 25),
    ("GET", "/secrets/{id}", 25),
    ("POST", "/secrets/{id}/update", 25),
    ("GET", "/configs", 30),
    ("POST", "/configs/create", 30),
    ("DELETE", "/configs/{id}", 30),
    ("GET", "/configs/{id}", 30),
    ("POST", "/configs/{id}/update", 30),
    ("POST", "/volumes/prune", 25),
    ("PUT", "/volumes/{name:.*}", 42),
];

/// dockerd's words for a route that the client's version has not yet.
fn too_early(version: ApiVersion, method: &Method, path: &str) -> Option<String> {
    let (method, route, since) = YOUNGER
        .iter()
        .find(|(verb, route, since)| version.before(*since) && *verb == method.as_str() && matches(route, path))?;
    Some(format!("{method} {route} requires minimum API version 1.{since}"))
}

/// `{id}` stands for one part, `{name:.*}` for one or more.
fn matches(route: &str, path: &str) -> bool {
    let Some((head, rest)) = route.split_once('{') else { return route == path };
    let (name, tail) = rest.split_once('}').unwrap_or((rest, ""));
    let Some(inside) = path.strip_prefix(head).and_then(|path| path.strip_suffix(tail)) else { return false };
    !inside.is_empty() && (name.ends_with(".*") || !inside.contains('/'))
}

fn refusal(version: ApiVersion) -> Option<String> {
    if version < OLDEST {
        return Some(format!(
            "client version {version} is too old. Minimum supported API version is {OLDEST}, please upgrade your \
             client to a newer version"
        ));
    }
    (version > CURRENT)
        .then(|| format!("client version {version} is too new. Maximum supported API version is {CURRENT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_taken_off_and_others_paths_are_left() {
        assert_eq!(split("/v1.44/containers/json"), Some((1, 44, "/containers/json")));
        for path in ["/volumes", "/volumes/v1.2", "/v1.44", "/vx.1/a", "/_ping"] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    #[test]
    fn younger_routes_are_refused_to_older_clients() {
        let early = |minor, method, path| too_early(ApiVersion(minor), &method, path);
        assert_eq!(
            early(54, Method::GET, "/images/a/b:1/attestations").as_deref(),
            Some("GET /images/{name:.*}/attestations requires minimum API version 1.55")
        );
        assert_eq!(early(55, Method::GET, "/images/a/attestations"), None);
        assert_eq!(early(24, Method::GET, "/images/a/json"), None);
        assert!(early(24, Method::DELETE, "/secrets/x").is_some());
        assert!(early(24, Method::DELETE, "/secrets/x/y").is_none());
        assert!(early(41, Method::PUT, "/volumes/v").is_some());
        assert_eq!(CURRENT.to_string(), CURRENT_TEXT);
    }

    #[test]
    fn versions_outside_the_range_are_refused_with_dockers_words() {
        assert!(refusal(ApiVersion(24)).is_none() && refusal(CURRENT).is_none());
        assert!(refusal(ApiVersion(23)).unwrap().starts_with("client version 1.23 is too old."));
        assert!(refusal(ApiVersion(99)).unwrap().starts_with("client version 1.99 is too new."));
    }
}
