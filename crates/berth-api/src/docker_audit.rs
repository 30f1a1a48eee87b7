//! What is done through Docker's door stands in the audit log too.
//!
//! ```text
//! POST /v1.43/containers/web/stop?t=1 -> docker.container.stop, "web (4f1c...)"
//! ```
//!
//! Whoever reaches that door is root on the host, so nothing is refused here and no quota is asked; and nobody waits for
//! the entry: `docker run` takes as long as it did. These entries have room of their own in the log, so that a day of
//! builds does not push out who signed in.

use crate::Api;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::{Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use berth_types::Caller;
use serde::Deserialize;
use std::collections::HashMap;

/// Bodies that name what they make are smaller.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What a request does; nothing for one that only looks, waits or speaks to what is there.
#[derive(Debug, PartialEq, Eq)]
struct Deed {
    act: String,
    /// As the caller wrote it.
    target: String,
    /// It is a container's.
    container: bool,
    /// The body says what it is called.
    named_inside: bool,
}

fn noun(collection: &str) -> &str {
    match collection {
        "containers" => "container",
        "images" => "image",
        "networks" => "network",
        "volumes" => "volume",
        "secrets" => "secret",
        "configs" => "config",
        other => other,
    }
}

fn deed(method: &Method, uri: &Uri) -> Option<Deed> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let mut parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let is_version =
        |part: &str| part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if parts.first() == Some(&"api") && parts.get(1).is_some_and(|part| is_version(part)) {
        parts.drain(..2);
    } else if parts.first().is_some_and(|part| is_version(part)) {
        parts.remove(0);
    }
    let query = || match Query::<HashMap<String, String>>::try_from_uri(uri) {
        Ok(Query(all)) => all,
        Err(_) => HashMap::new(),
    };
    let said = |names: &[&str]| {
        let all = query();
        let found: Vec<&str> = names.iter().filter_map(|name| all.get(*name)).map(String::as_str).collect();
        found.join(":")
    };
    let plain = |act: &str, target: String| {
        Some(Deed { act: format!("docker.{act}"), target, container: false, named_inside: false })
    };
    match (method, parts.as_slice()) {
        // Transport, questions, and what a deed of its own stands for.
        (_, [] | ["session" | "auth" | "_ping", ..] | ["exec", ..] | [.., "wait" | "resize"]) => None,
        (_, ["grpc"]) => plain("build", "buildkit".to_owned()),
        (_, ["build"]) => plain("build", said(&["t"])),
        (_, ["commit"]) => Some(Deed { container: true, ..plain("container.commit", said(&["container"]))? }),
        (_, ["images", "create"]) => match said(&["fromImage", "tag"]) {
            name if name.is_empty() => plain("image.import", said(&["repo", "tag"])),
            name => plain("image.pull", name),
        },
        (_, [collection, "create"]) => {
            Some(Deed { named_inside: true, ..plain(&format!("{}.create", noun(collection)), said(&["name"]))? })
        }
        (&Method::DELETE, [collection, name @ ..]) => {
            let deed = plain(&format!("{}.remove", noun(collection)), name.join("/"))?;
            Some(Deed { container: *collection == "containers", ..deed })
        }
        (_, [collection, name @ .., verb]) => {
            let deed = plain(&format!("{}.{verb}", noun(collection)), name.join("/"))?;
            Some(Deed { container: *collection == "containers", ..deed })
        }
        (_, [only]) => plain(only, String::new()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Image")]
    image: String,
}

/// Keeps what the body says it makes, and puts the body back.
async fn kept(request: Request) -> (Request, Option<Bytes>) {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_none_or(|length: usize| length > BODY_BYTES_MAX) {
        return (request, None);
    }
    let (parts, body) = request.into_parts();
    // One that breaks off is refused by the handler: it gets what there is.
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    (Request::from_parts(parts, Body::from(bytes.clone())), Some(bytes))
}

/// What is made, by the name in the query or else in the body, and from which image.
fn named(given: String, body: &[u8]) -> String {
    let said: Named = serde_json::from_slice(body).unwrap_or_default();
    let name = if given.is_empty() { said.name } else { given };
    match (name.is_empty(), said.image.is_empty()) {
        (_, true) => name,
        (true, false) => format!("from {}", said.image),
        (false, false) => format!("{name} from {}", said.image),
    }
}

pub(crate) async fn note(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let Some(deed) = deed(request.method(), request.uri()) else { return next.run(request).await };
    let from = request.extensions().get::<Caller>().map_or_else(|| "Docker's API".to_owned(), ToString::to_string);
    let mut target = deed.target;
    if deed.container
        && let Ok((name, id)) = api.engine.containers().called(&target)
    {
        target = format!("{name} ({})", id.short());
    }
    let mut body = None;
    if deed.named_inside {
        (request, body) = kept(request).await;
    }
    let response = next.run(request).await;
    let outcome = match response.status() {
        status if status.is_client_error() || status.is_server_error() => status.to_string(),
        _ => "ok".to_owned(),
    };
    tokio::spawn(async move {
        if let Some(body) = body {
            target = named(target, &body);
        }
        if let Err(error) = api.audit.note_apart("root", &from, &deed.act, &target, &outcome).await {
            tracing::error!(%error, act = deed.act, "the audit log is not complete");
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_is_named_and_what_only_looks_is_not() {
        let said = |method: Method, uri: &str| {
            deed(&method, &uri.parse().unwrap()).map(|deed| (deed.act, deed.target, deed.container))
        };
        let is = |act: &str, target: &str, container: bool| Some((act.to_owned(), target.to_owned(), container));
        assert_eq!(said(Method::POST, "/v1.43/containers/web/stop?t=1"), is("docker.container.stop", "web", true));
        assert_eq!(said(Method::POST, "/containers/create?name=web"), is("docker.container.create", "web", false));
        assert_eq!(said(Method::DELETE, "/containers/web?force=1"), is("docker.container.remove", "web", true));
        assert_eq!(said(Method::PUT, "/containers/web/archive?path=/"), is("docker.container.archive", "web", true));
        assert_eq!(said(Method::DELETE, "/images/a/b:1"), is("docker.image.remove", "a/b:1", false));
        assert_eq!(said(Method::POST, "/images/a/b/push"), is("docker.image.push", "a/b", false));
        assert_eq!(said(Method::POST, "/images/create?fromImage=x&tag=1"), is("docker.image.pull", "x:1", false));
        assert_eq!(said(Method::POST, "/v1.43/images/load"), is("docker.image.load", "", false));
        assert_eq!(said(Method::POST, "/volumes/prune"), is("docker.volume.prune", "", false));
        assert_eq!(said(Method::POST, "/networks/n/connect"), is("docker.network.connect", "n", false));
        assert_eq!(said(Method::POST, "/api/v1/build"), is("docker.build", "", false));
        assert_eq!(said(Method::POST, "/build?t=a%3A1"), is("docker.build", "a:1", false));
        assert_eq!(said(Method::POST, "/commit?container=web"), is("docker.container.commit", "web", true));
        for quiet in ["/containers/web/wait", "/exec/1/start", "/session", "/", "/containers/web/resize?h=1"] {
            assert_eq!(said(Method::POST, quiet), None, "{quiet}");
        }
        assert_eq!(said(Method::GET, "/containers/json"), None);
    }

    #[test]
    fn what_is_made_is_named_by_the_query_before_the_body() {
        let body = br#"{"Name": "inside", "Image": "tiny", "Cmd": ["sh"]}"#;
        assert_eq!(named("web".to_owned(), body), "web from tiny");
        assert_eq!(named(String::new(), body), "inside from tiny");
        assert_eq!(named(String::new(), br#"{"Image": "tiny"}"#), "from tiny");
        assert_eq!(named("net".to_owned(), b"no JSON"), "net");
    }
}
