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
pub const CURRENT: ApiVersion = ApiVersion(51);

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
    headers.insert("api-version", HeaderValue::from_static("1.51"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(concat!("Berth/", env!("CARGO_PKG_VERSION"), " (linux)")));
    response
}

/// The paths that dockerd answers HEAD on.
fn has_head(path: &str) -> bool {
    path == "/_ping" || (path.starts_with("/containers/") && path.ends_with("/archive"))
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
    fn versions_outside_the_range_are_refused_with_dockers_words() {
        assert!(refusal(ApiVersion(24)).is_none() && refusal(CURRENT).is_none());
        assert!(refusal(ApiVersion(23)).unwrap().starts_with("client version 1.23 is too old."));
        assert!(refusal(ApiVersion(99)).unwrap().starts_with("client version 1.99 is too new."));
    }
}
