//! Builds: a Dockerfile, with or without files, becomes an image; and the cache of their steps.

use super::files::feed;
use super::images::image_name;
use crate::Api;
use crate::builds::{BuildDetail, BuildRow};
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::Who;
use crate::schema::{answers, requests};
use crate::tasks::{Progress, Task};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::builds::build::BuildOptions;
use berth_engine::builds::{BuildRequest, BuildStream, CacheKind, Context, DockerfileAt, Elsewhere, Message, OutputTo};
use berth_types::spec::Resources;
use berth_types::{Error, ImageName, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Chunks of a context on their way.
const CHUNKS_MAX: usize = 4;
const CONTEXT_BYTES_MAX: u64 = 16 << 30;
/// Pages are told no more often that a step has said something.
const TELL: Duration = Duration::from_millis(250);

requests! {
    /// A build without files of its own: `COPY` and `ADD` find nothing but other stages, images and addresses.
    NewBuild {
        /// What the image is called; empty: nothing.
        name: String,
        dockerfile: String,
        /// The stage that is wanted; empty: the last.
        target: String,
        build_args: BTreeMap<String, String>,
        /// Run every step, also those whose result is there.
        no_cache: bool,
        /// Ask the registries for newer base images.
        pull: bool,
    }
    PruneBuildCache {
        /// What images need too: only the record of it goes.
        all: bool,
    }
}

answers! {
    /// A part of the build cache.
    BuildCacheRow {
        id: String,
        /// step or mount.
        kind: String,
        description: String,
        bytes: u64,
        created_unix_millis: i64,
        used_unix_millis: i64,
        /// An image needs the layer too.
        shared: bool,
        in_use: bool,
    }
}

/// The same wish where the body is the files.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ContextQuery {
    name: String,
    /// Where it is among the files; empty: Dockerfile.
    dockerfile: String,
    target: String,
    /// As JSON: {"NAME": "value"}.
    build_args: String,
    no_cache: bool,
    pull: bool,
}

struct Wanted {
    name: String,
    options: BuildOptions,
    dockerfile: DockerfileAt,
    context: Context,
}

/// Starts it; answers its task.
fn start(api: &Api, who: &Who, wanted: Wanted) -> Result<Task> {
    let tags = match wanted.name.trim() {
        "" => Vec::new(),
        name => vec![image_name(name)?],
    };
    let shown = tags.first().map(ImageName::familiar).unwrap_or_default();
    let request = BuildRequest {
        options: wanted.options,
        dockerfile: wanted.dockerfile,
        context: wanted.context,
        ignore: None,
        named_contexts: BTreeMap::new(),
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        caller: None,
        tags,
        limits: Resources::default(),
        shm_size_bytes: 0,
        output: OutputTo::Image,
        elsewhere: Elsewhere::default(),
    };
    let build = api.builds.add(&shown, &who.user);
    let (engine, own) = (api.engine.clone(), build.clone());
    // The steps are found by the task's number, which is known before its first step is.
    let task = api.tasks.start(&who.user, "image.build", &shown, move |progress| async move {
        follow(engine.builds().build(request), &own, &progress).await
    })?;
    build.is_task(task.id);
    Ok(task)
}

async fn follow(mut stream: BuildStream, build: &Arc<crate::builds::Build>, progress: &Progress) -> Result<()> {
    let mut told = Instant::now();
    while let Some(message) = stream.next().await {
        match message {
            Message::Event(event) => {
                let (line, ended, all) = build.event(event);
                if let Some(line) = &line {
                    progress.line(line);
                }
                if line.is_some() || told.elapsed() >= TELL {
                    told = Instant::now();
                    progress.part(ended as u64, all as u64);
                }
            }
            Message::Note(text) => progress.line(&text),
            Message::Archive(_) | Message::Cache(_) => {}
            Message::Done(finished) => {
                if let Some(image) = finished.image {
                    build.made(image.to_string());
                    progress.line(&format!("made {image}"));
                }
                progress.part(1, 1);
                return Ok(());
            }
            Message::Failed(error) => {
                build.failed_at(&error.snippet);
                let mut failed = error.error.clone();
                if let Some((command, code)) = &error.exit {
                    failed.causes.push(format!("{command} ended with code {code}"));
                }
                return Err(failed);
            }
        }
    }
    Err(Error::internal("the build ended without a result"))
}

fn answer(task: Task) -> Response {
    let target = Target(task.target.clone());
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(target);
    response
}

pub(crate) async fn build(State(api): State<Api>, who: Who, Json(body): Json<NewBuild>) -> ApiResult<Response> {
    if body.dockerfile.trim().is_empty() {
        return Err(Error::invalid("a build needs a Dockerfile").into());
    }
    let options = BuildOptions {
        target: body.target,
        build_args: body.build_args,
        no_cache: body.no_cache,
        pull: body.pull,
        ..BuildOptions::default()
    };
    let dockerfile = DockerfileAt::Text(body.dockerfile.into_bytes());
    let wanted = Wanted { name: body.name, options, dockerfile, context: Context::Nothing };
    Ok(answer(start(&api, &who, wanted)?))
}

/// The body is a tar archive of the files, plain or compressed.
pub(crate) async fn build_files(
    State(api): State<Api>,
    who: Who,
    Query(query): Query<ContextQuery>,
    body: Body,
) -> ApiResult<Response> {
    let build_args = match query.build_args.as_str() {
        "" => BTreeMap::new(),
        text => serde_json::from_str(text)
            .map_err(|cause| Error::invalid(format!("build_args is no JSON object of texts: {cause}")))?,
    };
    let dockerfile = if query.dockerfile.is_empty() { "Dockerfile".to_owned() } else { query.dockerfile };
    let options = BuildOptions {
        dockerfile_name: dockerfile.clone(),
        target: query.target,
        build_args,
        no_cache: query.no_cache,
        pull: query.pull,
        ..BuildOptions::default()
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let (dockerfile, context) = (DockerfileAt::Context(dockerfile), Context::Archive(receiver));
    let task = start(&api, &who, Wanted { name: query.name, options, dockerfile, context })?;
    // The build reads while they come; one that fails early needs no more of them.
    feed(body, sender, CONTEXT_BYTES_MAX).await;
    Ok(answer(task))
}

fn sees(who: &Who) -> impl Fn(&str) -> bool {
    move |maker| who.sees_all() || maker == who.user
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> axum::Json<Vec<BuildRow>> {
    axum::Json(api.builds.list(sees(&who)))
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<u64>,
) -> ApiResult<axum::Json<BuildDetail>> {
    Ok(axum::Json(api.builds.get(id, sees(&who))?))
}

pub(crate) async fn cache(State(api): State<Api>) -> ApiResult<axum::Json<Vec<BuildCacheRow>>> {
    let mut all = api.engine.builds().cache().await?;
    all.sort_by_key(|entry| std::cmp::Reverse(entry.used_unix_nanos));
    let row = |entry: berth_engine::builds::CacheEntry| BuildCacheRow {
        id: entry.id.to_string(),
        kind: match entry.kind {
            CacheKind::Step => "step",
            CacheKind::Mount => "mount",
        }
        .to_owned(),
        description: entry.description,
        bytes: entry.bytes,
        created_unix_millis: entry.created_unix_nanos / 1_000_000,
        used_unix_millis: entry.used_unix_nanos / 1_000_000,
        shared: entry.shared,
        in_use: entry.in_use,
    };
    Ok(axum::Json(all.into_iter().map(row).collect()))
}

pub(crate) async fn prune_cache(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<PruneBuildCache>,
) -> ApiResult<Response> {
    let engine = api.engine.clone();
    let task = api.tasks.start(&who.user, "build.cache.prune", "", move |progress| async move {
        let (gone, freed) = engine.builds().prune(body.all, 0, None).await?;
        progress.line(&format!("{} records, {freed} bytes are free again", gone.len()));
        Ok(())
    })?;
    Ok(answer(task))
}
