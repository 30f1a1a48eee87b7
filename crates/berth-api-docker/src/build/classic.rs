//! `POST /build`: a context as an archive in the body, everything else in the query, messages as the answer.

use super::order::Order;
use super::{remote, tag};
use crate::containers::{byte_source, stream_body};
use crate::error::ApiResult;
use crate::params::Params;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use berth_engine::Engine;
use berth_engine::builds::build::platform::Platform;
use berth_engine::builds::build::{BuildError, BuildOptions, NetworkChoice};
use berth_engine::builds::{BuildRequest, CacheFrom, Context, DockerfileAt, Elsewhere, Message, OutputTo};
use berth_types::spec::{Resources, Ulimit};
use berth_types::{Error, ErrorKind};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) async fn build(engine: Engine, params: &Params, headers: &HeaderMap, body: Body) -> ApiResult {
    // From here on a refusal must not cut off a client that still sends.
    let source = byte_source(body);
    let mut request = request(params, source)?;
    request.elsewhere = Elsewhere {
        from: cache_from(params)?,
        from_only: true,
        credentials: crate::images::auth::all_from_headers(headers)?,
        ..Elsewhere::default()
    };
    if let Some(isolation) = params.filled("isolation").filter(|text| *text != "default") {
        return Err(Error::invalid(format!("unsupported isolation: {isolation:?}")).into());
    }
    if params.filled("outputs").is_some_and(|text| !matches!(text, "null" | "[]")) {
        return Err(Error::not_implemented("outputs other than an image need BuildKit (version=2)").into());
    }
    let quiet = params.flag("q");
    let mut stream = engine.builds().build(request);
    // What is wrong before the first step is the answer itself.
    let mut order = Order::default();
    let first = match stream.next().await {
        Some(Message::Failed(error)) => return Err(shown(&error).into()),
        Some(Message::Event(event)) => order.event(event),
        Some(Message::Note(text)) => vec![format!("{text}\n")],
        _ => Vec::new(),
    };
    let answer = stream_body(async move |sender| {
        let say = async |texts: Vec<String>| -> bool {
            for text in texts {
                if !quiet && sender.send(line(&json!({ "stream": text }))).await.is_err() {
                    return false;
                }
            }
            true
        };
        if !say(first).await {
            return;
        }
        while let Some(message) = tokio::select! {
            message = stream.next() => message,
            // A client that has gone wants no more: dropping the stream cancels the build.
            () = sender.closed() => None,
        } {
            let last = match message {
                Message::Event(event) => {
                    if !say(order.event(event)).await {
                        return;
                    }
                    continue;
                }
                Message::Note(text) => {
                    if !say(vec![format!("{text}\n")]).await {
                        return;
                    }
                    continue;
                }
                Message::Archive(_) | Message::Cache(_) => continue,
                Message::Failed(error) => vec![failure(&error)],
                Message::Done(done) => {
                    let mut all = Vec::new();
                    if let Some(id) = done.image {
                        all.push(line(&json!({"aux": {"ID": id.to_string()}})));
                        match quiet {
                            true => all.push(line(&json!({"stream": format!("{id}\n")}))),
                            false => {
                                all.push(line(&json!({"stream": format!(" ---> {}\n", id.short())})));
                                all.push(line(&json!({"stream": format!("Successfully built {}\n", id.short())})));
                                for name in &done.tags {
                                    all.push(line(&json!({"stream": format!("Successfully tagged {name}\n")})));
                                }
                            }
                        }
                    }
                    all
                }
            };
            for bytes in last {
                if sender.send(bytes).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(([("content-type", "application/json")], answer).into_response())
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

/// The failure with its place in the Dockerfile.
fn shown(error: &BuildError) -> Error {
    let mut failed = error.error.clone();
    if failed.kind == ErrorKind::NotFound {
        // Docker's client takes "not found" to be about the daemon.
        failed = failed.with_kind(ErrorKind::InvalidArgument);
    }
    if !error.snippet.is_empty() {
        failed.causes.push(format!("\n{}", error.snippet));
    }
    failed
}

fn failure(error: &BuildError) -> Bytes {
    let mut text = match &error.exit {
        // The classic builder's words, which scripts look for.
        Some((command, code)) => format!("The command '{command}' returned a non-zero code: {code}"),
        None => error.to_string(),
    };
    if !error.snippet.is_empty() {
        text.push('\n');
        text.push_str(&error.snippet);
    }
    if let Some(hint) = &error.error.hint {
        text.push_str(&format!("\nhint: {hint}"));
    }
    let mut detail = json!({ "message": text });
    if let Some((_, code)) = &error.exit {
        detail["code"] = json!(code);
    }
    line(&json!({"errorDetail": detail, "error": text}))
}

/// A map of the query's.
pub(crate) fn map(params: &Params, name: &str) -> Result<BTreeMap<String, Option<String>>, Error> {
    let Some(text) = params.filled(name) else { return Ok(BTreeMap::new()) };
    serde_json::from_str::<Option<BTreeMap<String, Option<String>>>>(text)
        .map(Option::unwrap_or_default)
        .map_err(|cause| Error::invalid(format!("error reading {name}: {cause}")))
}

fn request(params: &Params, source: berth_engine::containers::ByteSource) -> Result<BuildRequest, Error> {
    if params.flag("squash") {
        let error = Error::new(ErrorKind::NotImplemented, "squash is not supported");
        return Err(error.with_hint("a last stage with COPY --from= of what is needed gives one layer"));
    }
    let dockerfile = params.filled("dockerfile").unwrap_or("Dockerfile").to_owned();
    let context = match params.filled("remote") {
        None | Some("client-session") => Context::Archive(source),
        Some(address) => Context::Remote(remote(address)?),
    };
    let host = Platform::host();
    let platform = params.filled("platform").map(|text| Platform::parse(text, &host)).transpose();
    // Values that are null come from the builder's environment, which is nobody's.
    let build_args = map(params, "buildargs")?.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let labels = map(params, "labels")?.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    let options = BuildOptions {
        dockerfile_name: dockerfile.clone(),
        target: params.get("target").unwrap_or_default().to_owned(),
        build_args,
        labels,
        no_cache: params.flag("nocache"),
        pull: params.flag("pull"),
        platform: platform.map_err(Error::invalid)?,
        network: match params.filled("networkmode") {
            None | Some("default" | "bridge") => NetworkChoice::Default,
            Some("none") => NetworkChoice::None,
            Some("host") => NetworkChoice::Host,
            Some(name) => NetworkChoice::Named(name.to_owned()),
        },
        extra_hosts: params
            .all("extrahosts")
            .filter(|host| !host.is_empty())
            .map(extra_host)
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
        ..BuildOptions::default()
    };
    let int = |name: &str| Ok::<i64, Error>(params.int(name)?.unwrap_or(0));
    let limits = Resources {
        memory_bytes: int("memory")?,
        memory_swap_bytes: int("memswap")?,
        cpu_shares: int("cpushares")?,
        cpu_period_micros: int("cpuperiod")?,
        cpu_quota_micros: int("cpuquota")?,
        cpuset_cpus: params.get("cpusetcpus").unwrap_or_default().to_owned(),
        cpuset_mems: params.get("cpusetmems").unwrap_or_default().to_owned(),
        cgroup_parent: params.get("cgroupparent").unwrap_or_default().to_owned(),
        ulimits: ulimits(params)?,
        ..Resources::default()
    };
    Ok(BuildRequest {
        options,
        dockerfile: DockerfileAt::Context(dockerfile),
        context,
        ignore: None,
        named_contexts: BTreeMap::new(),
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        caller: None,
        tags: params.all("t").filter(|name| !name.is_empty()).map(tag).collect::<Result<_, _>>()?,
        limits,
        shm_size_bytes: u64::try_from(int("shmsize")?).unwrap_or(0),
        output: OutputTo::Image,
        elsewhere: Elsewhere::default(),
    })
}

/// As dockerd: with `cachefrom` nothing but what those images were made of counts as done. They came from this
/// engine's own steps where they are here, so one that is here opens its cache; so does one in a registry that carries
/// a cache. None at all closes it.
fn cache_from(params: &Params) -> Result<Vec<CacheFrom>, Error> {
    let name = |image: String| {
        image.parse().map(CacheFrom::Registry).map_err(|cause: berth_types::reference::InvalidReference| {
            Error::invalid(format!("error reading cache-from: {image:?}: {cause}"))
        })
    };
    cache_images(params)?.into_iter().map(name).collect()
}

/// The images of `cachefrom`.
pub(crate) fn cache_images(params: &Params) -> Result<Vec<String>, Error> {
    let Some(text) = params.filled("cachefrom") else { return Ok(Vec::new()) };
    let images: Option<Vec<String>> =
        serde_json::from_str(text).map_err(|cause| Error::invalid(format!("error reading cache-from: {cause}")))?;
    Ok(images.unwrap_or_default())
}

/// One `host:address`, or a JSON list of them.
pub(crate) fn extra_host(text: &str) -> Result<Vec<String>, Error> {
    if !text.starts_with('[') {
        return Ok(vec![text.to_owned()]);
    }
    serde_json::from_str(text).map_err(|cause| Error::invalid(format!("error reading extrahosts: {cause}")))
}

pub(crate) fn ulimits(params: &Params) -> Result<Vec<Ulimit>, Error> {
    let Some(text) = params.filled("ulimits") else { return Ok(Vec::new()) };
    let invalid = || Error::invalid("error reading ulimit settings");
    let list: Option<Vec<Value>> = serde_json::from_str(text).map_err(|_| invalid())?;
    let one = |value: &Value| {
        let number = |name: &str| value.get(name).and_then(Value::as_i64);
        let name = value.get("Name").and_then(Value::as_str).ok_or_else(invalid)?.to_owned();
        Ok(Ulimit { name, soft: number("Soft").ok_or_else(invalid)?, hard: number("Hard").ok_or_else(invalid)? })
    };
    list.unwrap_or_default().iter().map(one).collect()
}
