//! `POST /api/v1/build`: one line of JSON that says everything, then the context's archive where it is none of the
//! engine's host. Answers events as lines of JSON.
//!
//! ```text
//! {"context": {"folder": "/home/me/app", "device": 1, "inode": 2} | {"remote": "https://.."} | "archive" | null,
//!  "dockerfile": "Dockerfile" | "dockerfile_text": "FROM ...", "ignore": "*.log\n",
//!  "contexts": {"name": {"folder": "/x"} | {"image": "debian:12"} | {"remote": "https://.."}},
//!  "build_args": {}, "labels": {}, "target": "", "tags": [], "platform": "", "network": "", "extra_hosts": [],
//!  "no_cache": false, "no_cache_filter": [], "pull": false, "allow": [], "parallel": 4,
//!  "secrets": {"id": "<base64>"}, "ssh": {"default": "/run/agent.sock"},
//!  "memory_bytes": 0, "shm_size_bytes": 0, "output": "image" | "files" | "none",
//!  "cache_from": [{"registry": "host/name:tag"} | {"folder": "/x"}],
//!  "cache_to": [{"inline": {}} | {"registry": {"name": "host/name:tag", "max": true}} | {"folder": {"max": true}}],
//!  "credentials": {"host": {"username", "password"}}}
//!
//! {"planned": {"steps": [{"id", "name", "instruction", "stage", "metadata", "first", "last"}], "warnings": [..]}}
//! {"started": 3} {"output": {"id": 3, "stream": "stderr", "text": ".."}} {"cached": 3} {"done": 3} {"failed": 3}
//! {"note": "words about caches elsewhere"} {"archive": "<base64>"} {"cache": "<base64>"}
//! {"finished": {"image": "sha256:..", "tags": [..], "layers": [..]}} | {"error": {"message", "hint", "kind", "snippet", ..}}
//! ```

use super::{remote, tag};
use crate::containers::{byte_source, stream_body};
use crate::error::ApiResult;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_engine::Engine;
use berth_engine::builds::build::platform::Platform;
use berth_engine::builds::build::{BuildError, BuildOptions, Event, NetworkChoice, Stream};
use berth_engine::builds::{
    BuildRequest, CacheFrom, CacheTo, Context, DockerfileAt, Elsewhere, Message, NamedContext, OutputTo,
};
use berth_engine::containers::ByteSource;
use berth_types::spec::Resources;
use berth_types::{Error, ImageName};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Secrets and Dockerfiles are in it; more is no request of ours.
const HEAD_BYTES_MAX: usize = 32 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    context: Value,
    dockerfile: Option<String>,
    dockerfile_text: Option<String>,
    ignore: Option<String>,
    contexts: BTreeMap<String, Named>,
    build_args: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    target: String,
    tags: Vec<String>,
    platform: String,
    network: String,
    extra_hosts: Vec<String>,
    no_cache: bool,
    no_cache_filter: BTreeSet<String>,
    pull: bool,
    allow: BTreeSet<String>,
    parallel: usize,
    secrets: BTreeMap<String, String>,
    ssh: BTreeMap<String, PathBuf>,
    memory_bytes: i64,
    shm_size_bytes: u64,
    output: String,
    cache_from: Vec<From>,
    cache_to: Vec<To>,
    credentials: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum From {
    Registry(String),
    Folder(PathBuf),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum To {
    Inline {},
    Registry {
        name: String,
        #[serde(default)]
        max: bool,
    },
    Folder {
        #[serde(default)]
        max: bool,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Named {
    Folder(PathBuf),
    Image(String),
    /// A repository, or the address of an archive.
    Remote(String),
}

pub(super) async fn build(State(engine): State<Engine>, body: Body) -> ApiResult {
    let (head, rest) = head(byte_source(body)).await?;
    let wanted: Wanted =
        serde_json::from_slice(&head).map_err(|cause| Error::invalid(format!("invalid build request: {cause}")))?;
    let mut stream = engine.builds().build(request(wanted, rest)?);
    let answer = stream_body(async move |sender| {
        while let Some(message) = tokio::select! {
            message = stream.next() => message,
            () = sender.closed() => None,
        } {
            if sender.send(Bytes::from(format!("{}\n", render(message)))).await.is_err() {
                return;
            }
        }
    });
    Ok(([("content-type", "application/x-ndjson")], answer).into_response())
}

/// The first line, and what follows it.
async fn head(mut source: ByteSource) -> Result<(Vec<u8>, ByteSource), Error> {
    let mut head = Vec::new();
    let rest = loop {
        match source.recv().await {
            None => break Bytes::new(),
            Some(chunk) => {
                let chunk = chunk?;
                if let Some(at) = chunk.iter().position(|byte| *byte == b'\n') {
                    head.extend_from_slice(&chunk[..at]);
                    break chunk.slice(at + 1..);
                }
                head.extend_from_slice(&chunk);
            }
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(Error::invalid(format!("a build request is larger than {HEAD_BYTES_MAX} bytes")));
        }
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        if !rest.is_empty() && sender.send(Ok(rest)).await.is_err() {
            return;
        }
        while let Some(chunk) = source.recv().await {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    Ok((head, receiver))
}

fn request(wanted: Wanted, archive: ByteSource) -> Result<BuildRequest, Error> {
    let context = match &wanted.context {
        Value::Null => Context::Nothing,
        Value::String(kind) if kind == "archive" => Context::Archive(archive),
        Value::Object(elsewhere) if elsewhere.contains_key("remote") => {
            Context::Remote(remote(elsewhere.get("remote").and_then(Value::as_str).unwrap_or_default())?)
        }
        Value::Object(folder) => {
            let path = folder.get("folder").and_then(Value::as_str).unwrap_or_default();
            if !path.starts_with('/') {
                return Err(Error::invalid("a context's folder is an absolute path"));
            }
            let number = |name: &str| folder.get(name).and_then(Value::as_u64);
            Context::Folder { path: path.into(), identity: number("device").zip(number("inode")) }
        }
        other => return Err(Error::invalid(format!("invalid build context {other}"))),
    };
    let name = wanted.dockerfile.clone().unwrap_or_else(|| "Dockerfile".to_owned());
    let dockerfile = match wanted.dockerfile_text {
        Some(text) => DockerfileAt::Text(text.into_bytes()),
        None => DockerfileAt::Context(name.clone()),
    };
    let mut named_contexts = BTreeMap::new();
    let mut image_contexts = BTreeMap::new();
    for (name, context) in wanted.contexts {
        match context {
            Named::Folder(path) => drop(named_contexts.insert(name, NamedContext::Folder(path))),
            Named::Remote(address) => drop(named_contexts.insert(name, NamedContext::Remote(remote(&address)?))),
            Named::Image(image) => drop(image_contexts.insert(name, image)),
        }
    }
    let host = Platform::host();
    let platform = Some(wanted.platform.as_str()).filter(|text| !text.is_empty());
    let platform = platform.map(|text| Platform::parse(text, &host)).transpose().map_err(Error::invalid)?;
    let mut secrets = BTreeMap::new();
    for (id, text) in wanted.secrets {
        let data = STANDARD.decode(text).map_err(|_| Error::invalid(format!("secret {id} is not base64")))?;
        secrets.insert(id, data);
    }
    let elsewhere = Elsewhere {
        from: wanted.cache_from.into_iter().map(cache_from).collect::<Result<_, _>>()?,
        to: wanted.cache_to.into_iter().map(cache_to).collect::<Result<_, _>>()?,
        from_only: false,
        credentials: crate::images::auth::by_domain(&wanted.credentials),
    };
    let options = BuildOptions {
        dockerfile_name: name,
        target: wanted.target,
        build_args: wanted.build_args,
        labels: wanted.labels,
        no_cache: wanted.no_cache,
        no_cache_stages: wanted.no_cache_filter,
        pull: wanted.pull,
        platform,
        network: match wanted.network.as_str() {
            "" | "default" | "bridge" => NetworkChoice::Default,
            "none" => NetworkChoice::None,
            "host" => NetworkChoice::Host,
            name => NetworkChoice::Named(name.to_owned()),
        },
        extra_hosts: wanted.extra_hosts,
        allow: wanted.allow,
        parallel: if wanted.parallel == 0 { 4 } else { wanted.parallel.min(64) },
        image_contexts,
        ..BuildOptions::default()
    };
    Ok(BuildRequest {
        options,
        dockerfile,
        context,
        ignore: wanted.ignore,
        named_contexts,
        secrets,
        ssh: wanted.ssh,
        caller: None,
        tags: wanted.tags.iter().map(|name| tag(name)).collect::<Result<_, _>>()?,
        limits: Resources { memory_bytes: wanted.memory_bytes, ..Resources::default() },
        shm_size_bytes: wanted.shm_size_bytes,
        output: match wanted.output.as_str() {
            "" | "image" => OutputTo::Image,
            "files" => OutputTo::Files,
            "none" => OutputTo::Nothing,
            other => return Err(Error::invalid(format!("unknown output {other:?}: image, files or none"))),
        },
        elsewhere,
    })
}

fn cache_name(text: &str) -> Result<ImageName, Error> {
    text.parse().map_err(|cause: berth_types::reference::InvalidReference| {
        Error::invalid(format!("invalid name of a build cache {text:?}: {cause}"))
    })
}

fn cache_from(from: From) -> Result<CacheFrom, Error> {
    match from {
        From::Registry(name) => Ok(CacheFrom::Registry(cache_name(&name)?)),
        From::Folder(path) if path.is_absolute() => Ok(CacheFrom::Folder(path)),
        From::Folder(path) => {
            Err(Error::invalid(format!("a cache's folder is an absolute path, not {}", path.display())))
        }
    }
}

fn cache_to(to: To) -> Result<CacheTo, Error> {
    Ok(match to {
        To::Inline {} => CacheTo::Inline,
        To::Registry { name, max } => CacheTo::Registry { name: cache_name(&name)?, max },
        To::Folder { max } => CacheTo::Folder { max },
    })
}

fn render(message: Message) -> Value {
    match message {
        Message::Event(Event::Planned { steps, warnings }) => {
            let steps = steps.iter().map(|step| {
                json!({
                    "id": step.id, "name": step.name, "instruction": step.instruction, "stage": step.stage,
                    "metadata": step.metadata, "first": step.lines.map(|lines| lines.first),
                    "last": step.lines.map(|lines| lines.last),
                })
            });
            let warnings = warnings.iter().map(|warning| {
                json!({"rule": format!("{:?}", warning.rule), "message": warning.message, "line": warning.lines.first})
            });
            json!({"planned": {"steps": steps.collect::<Vec<_>>(), "warnings": warnings.collect::<Vec<_>>()}})
        }
        Message::Event(Event::Started(id)) => json!({ "started": id }),
        Message::Event(Event::Output(id, stream, bytes)) => {
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            json!({"output": {"id": id, "stream": stream, "text": String::from_utf8_lossy(&bytes)}})
        }
        Message::Event(Event::Cached(id)) => json!({ "cached": id }),
        Message::Event(Event::Done(id)) => json!({ "done": id }),
        Message::Event(Event::Failed(id, _)) => json!({ "failed": id }),
        Message::Note(text) => json!({ "note": text }),
        Message::Cache(bytes) => json!({"cache": STANDARD.encode(bytes)}),
        Message::Archive(bytes) => json!({"archive": STANDARD.encode(bytes)}),
        Message::Done(done) => {
            let layers: Vec<String> = done.built.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
            let image = done.image.map(|id| id.to_string());
            json!({"finished": {"image": image, "tags": done.tags, "layers": layers}})
        }
        Message::Failed(error) => failure(&error),
    }
}

fn failure(error: &BuildError) -> Value {
    json!({"error": {
        "message": error.error.message,
        "causes": error.error.causes,
        "hint": error.error.hint,
        "kind": error.error.kind,
        "snippet": error.snippet,
        "line": error.lines.map(|lines| lines.first),
        "step": error.step,
        "exit": error.exit.as_ref().map(|(_, code)| code),
    }})
}
