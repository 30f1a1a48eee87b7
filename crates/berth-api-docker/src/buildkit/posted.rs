//! `POST /build?version=2`: BuildKit's builder for clients that ask in a query, with or without a body.
//!
//! The context is the body, the session's folder (`remote=client-session`), or an address. Each message that a caller of
//! `Control/Status` would get is a line of the answer.

use super::Door;
use super::solve::Begun;
use crate::build::{cache_images, extra_host, map, ulimits};
use crate::containers::{byte_source, stream_body};
use crate::error::{ApiError, ApiResult};
use crate::params::Params;
use axum::body::Body;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_buildkit::Message as _;
use berth_buildkit::grpc::{Code, Status};
use berth_buildkit::proto::control::{CacheEntry, CacheOptions, Exporter, SolveRequest};
use berth_types::{Error, ErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const FROM_SESSION: &str = "client-session";
/// What the query calls a limit, and what the frontend does.
const LIMITS: [(&str, &str); 9] = [
    ("memory", "memory"),
    ("memswap", "memswap"),
    ("cpushares", "cpushares"),
    ("cpuperiod", "cpuperiod"),
    ("cpuquota", "cpuquota"),
    ("cpusetcpus", "cpusetcpus"),
    ("cpusetmems", "cpusetmems"),
    ("cgroupparent", "cgroup-parent"),
    ("shmsize", "shm-size"),
];

pub(crate) fn build(door: Arc<Door>, params: &Params, body: Body) -> ApiResult {
    let source = byte_source(body);
    let request = request(params)?;
    let posted = params.filled("remote").is_none().then_some(source);
    let begun = Begun::new(&door, &request).map_err(|status| ApiError::from(refused(&status)))?;
    let (progress, quiet) = (begun.progress(), params.flag("q"));
    let answer = stream_body(async move |sender| {
        let gone = || Status::new(Code::Cancelled, "the caller has gone");
        let telling = progress.tell(|message| {
            let line = line(&json!({"id": "moby.buildkit.trace", "aux": STANDARD.encode(message.encode_to_vec())}));
            let sent = (!quiet).then(|| sender.send(line));
            async move {
                match sent {
                    Some(sent) => sent.await.map_err(|_| gone()),
                    None => Ok(()),
                }
            }
        });
        let work = async {
            // What was told when the build ended is told first.
            let (outcome, _heard) = tokio::join!(begun.run(&door, request, posted), telling);
            match outcome {
                Ok(response) => match response.exporter_response.get("containerimage.digest") {
                    Some(id) if quiet => Some(line(&json!({"stream": format!("{id}\n")}))),
                    Some(id) => Some(line(&json!({"id": "moby.image.id", "aux": {"ID": id}}))),
                    None => None,
                },
                Err(status) => {
                    Some(line(&json!({"errorDetail": {"message": status.message}, "error": status.message})))
                }
            }
        };
        let last = tokio::select! {
            last = work => last,
            // A client that has gone wants no more: dropping the work cancels the build.
            () = sender.closed() => None,
        };
        if let Some(line) = last {
            // Nobody is left to be told that nobody listened.
            sender.send(line).await.ok();
        }
    });
    Ok(([("content-type", "application/json")], answer).into_response())
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

fn refused(status: &Status) -> Error {
    let kind = match status.code {
        Code::AlreadyExists => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::Unimplemented => ErrorKind::NotImplemented,
        _ => ErrorKind::InvalidArgument,
    };
    Error::new(kind, status.message.clone())
}

/// An output as it stands in the query, its keys as Go takes them.
#[derive(Deserialize)]
struct Output {
    #[serde(rename = "Type", alias = "type")]
    kind: String,
    #[serde(rename = "Attrs", alias = "attrs", default)]
    attrs: Option<BTreeMap<String, String>>,
}

fn request(params: &Params) -> Result<SolveRequest, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let Some(session) = params.filled("session") else {
        let error = Error::invalid("a build with BuildKit needs a session: none was given");
        return Err(error.with_hint("POST /session first, or version=1"));
    };
    if params.flag("squash") {
        return Err(Error::new(ErrorKind::NotImplemented, "squash is not supported"));
    }
    let reference = match params.filled("buildid") {
        Some(id) => id.to_owned(),
        None => format!("posted-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
    };
    let names: Vec<&str> = params.all("t").filter(|name| !name.is_empty()).collect();
    let outputs: Vec<Output> = match params.filled("outputs") {
        None => Vec::new(),
        Some(text) => {
            let read = serde_json::from_str::<Option<Vec<Output>>>(text);
            read.map_err(|cause| Error::invalid(format!("error reading outputs: {cause}")))?.unwrap_or_default()
        }
    };
    if outputs.len() > 1 {
        return Err(Error::invalid("multiple outputs not supported"));
    }
    let output = outputs.into_iter().next();
    let kind = output.as_ref().map_or("", |output| output.kind.as_str());
    // `docker` is what the client calls the engine's own images.
    let kind = if matches!(kind, "" | "docker") { "moby" } else { kind }.to_owned();
    let mut attrs = output.and_then(|output| output.attrs).unwrap_or_default();
    if kind == "moby" {
        attrs.entry("name".to_owned()).or_insert_with(|| names.join(","));
    }
    let imports = cache_images(params)?
        .into_iter()
        .map(|image| CacheEntry { kind: "registry".to_owned(), attrs: BTreeMap::from([("ref".to_owned(), image)]) });
    Ok(SolveRequest {
        reference,
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attributes(params)?,
        exporters: vec![Exporter { kind, attrs }],
        cache: Some(CacheOptions { imports: imports.collect(), exports: Vec::new() }),
        entitlements: match params.filled("networkmode") {
            Some("host") => vec!["network.host".to_owned()],
            _ => Vec::new(),
        },
        ..SolveRequest::default()
    })
}

/// What the frontend is told.
fn attributes(params: &Params) -> Result<BTreeMap<String, String>, Error> {
    let mut attrs = BTreeMap::new();
    let mut put = |name: &str, value: &str| drop(attrs.insert(name.to_owned(), value.to_owned()));
    for (query, name) in [("dockerfile", "filename"), ("target", "target"), ("platform", "platform")] {
        params.filled(query).into_iter().for_each(|value| put(name, value));
    }
    for (query, name) in LIMITS {
        params.filled(query).filter(|value| *value != "0").into_iter().for_each(|value| put(name, value));
    }
    params.filled("remote").filter(|address| *address != FROM_SESSION).into_iter().for_each(|it| put("context", it));
    if params.flag("nocache") {
        put("no-cache", "");
    }
    if params.flag("pull") {
        put("image-resolve-mode", "pull");
    }
    match params.filled("networkmode") {
        None | Some("default") => {}
        Some(mode @ ("host" | "none")) => put("force-network-mode", mode),
        Some(mode) => return Err(Error::invalid(format!("network mode {mode:?} not supported by buildkit"))),
    }
    let hosts = params.all("extrahosts").filter(|host| !host.is_empty()).map(extra_host);
    let hosts = hosts.collect::<Result<Vec<_>, _>>()?.concat();
    if !hosts.is_empty() {
        let pairs: Vec<String> = hosts.iter().map(|host| host.replacen(':', "=", 1)).collect();
        put("add-hosts", &pairs.join(","));
    }
    let ulimits = ulimits(params)?;
    if !ulimits.is_empty() {
        let all: Vec<String> = ulimits.iter().map(|one| format!("{}={}:{}", one.name, one.soft, one.hard)).collect();
        put("ulimit", &all.join(","));
    }
    // Values that are null come from the builder's environment, which is nobody's.
    for (key, value) in map(params, "buildargs")? {
        value.into_iter().for_each(|value| put(&format!("build-arg:{key}"), &value));
    }
    for (key, value) in map(params, "labels")? {
        put(&format!("label:{key}"), &value.unwrap_or_default());
    }
    Ok(attrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_query_is_the_request_that_buildx_would_have_sent() {
        let asked = request(&params(&[
            ("session", "s"),
            ("t", "a:1"),
            ("t", "b"),
            ("dockerfile", "x/Dockerfile"),
            ("nocache", "1"),
            ("pull", "true"),
            ("networkmode", "host"),
            ("extrahosts", "db:10.0.0.1"),
            ("extrahosts", "six:::1"),
            ("ulimits", r#"[{"Name":"nofile","Soft":1,"Hard":2}]"#),
            ("buildargs", r#"{"A":"1","B":null}"#),
            ("labels", r#"{"l":"m"}"#),
            ("cachefrom", r#"["r:5000/c"]"#),
            ("memory", "0"),
            ("shmsize", "65536"),
            ("remote", FROM_SESSION),
        ]));
        let asked = asked.unwrap();
        let expected = [
            ("add-hosts", "db=10.0.0.1,six=::1"),
            ("build-arg:A", "1"),
            ("filename", "x/Dockerfile"),
            ("force-network-mode", "host"),
            ("image-resolve-mode", "pull"),
            ("label:l", "m"),
            ("no-cache", ""),
            ("shm-size", "65536"),
            ("ulimit", "nofile=1:2"),
        ];
        let attrs: Vec<(&str, &str)> =
            asked.frontend_attrs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(attrs, expected);
        assert_eq!((asked.exporters[0].kind.as_str(), asked.exporters[0].attrs["name"].as_str()), ("moby", "a:1,b"));
        assert_eq!(asked.cache.unwrap().imports[0].attrs["ref"], "r:5000/c");
        assert_eq!(asked.entitlements, ["network.host"]);
    }

    #[test]
    fn what_cannot_be_is_refused_before_the_build() {
        for bad in [
            vec![],
            vec![("session", "s"), ("outputs", r#"[{"Type":"tar"},{"Type":"local"}]"#)],
            vec![("session", "s"), ("outputs", "{")],
            vec![("session", "s"), ("networkmode", "mine")],
            vec![("session", "s"), ("squash", "1")],
        ] {
            assert!(request(&params(&bad)).is_err(), "{bad:?}");
        }
        let tar = request(&params(&[("session", "s"), ("outputs", r#"[{"type":"tar"}]"#)])).unwrap();
        assert_eq!(tar.exporters[0].kind, "tar");
    }
}
