//! Images: what there is, who uses it, how to get another.

use super::Done;
use super::instances::hidden;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::{Role, Who};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::images::{Images, ListOptions, Progress, PullOptions, RemoveOptions, TransferMessage};
use berth_types::{Error, ImageName};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

answers! {
    ImageRow {
        id: String,
        names: Vec<String>,
        created_unix_millis: i64,
        size_bytes: u64,
        /// Of that, what other images have too.
        shared_bytes: u64,
        /// Names of the instances made from it.
        used_by: Vec<String>,
        labels: BTreeMap<String, String>,
    }
    ImageDetail {
        id: String,
        names: Vec<String>,
        platform: String,
        size_bytes: u64,
        created_unix_millis: i64,
        env: Vec<String>,
        command: Vec<String>,
        entrypoint: Vec<String>,
        user: String,
        working_dir: String,
        /// port/protocol.
        ports: Vec<String>,
        volumes: Vec<String>,
        history: Vec<Step>,
    }
    /// A step of an image's making, newest first.
    Step { command: String, size_bytes: u64, created_unix_millis: i64 }
}

requests! {
    Bootstrap {
        /// debian:bookworm, ubuntu:noble, busybox.
        suite: String,
        packages: Vec<String>,
        /// What to call it; empty: the suite.
        name: String,
        /// With a kernel, an init and a network: for machines.
        bootable: bool,
    }
    Tag { id: String, name: String }
    Pull {
        /// As in `docker pull`: a name with a tag or digest, and a registry where it is not the usual one.
        name: String,
    }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<ImageRow>>> {
    let options = ListOptions { shared_size: true, ..ListOptions::default() };
    let images = api.engine.images().list(&options).await?;
    let all = berth_engine::containers::ListOptions { all: true, ..Default::default() };
    let mut users: HashMap<String, Vec<String>> = HashMap::new();
    for container in api.engine.containers().list(&all).await? {
        if let Some(image) = container.image_id.filter(|_| who.sees(&container.labels)) {
            users.entry(image.to_string()).or_default().push(container.name);
        }
    }
    let open = images.into_iter().filter(|image| super::saved::is_open_to(&who, &image.labels));
    let rows = open.map(|image| {
        let id = image.id.to_string();
        ImageRow {
            used_by: users.get(&id).cloned().unwrap_or_default(),
            id,
            names: image.repo_tags,
            created_unix_millis: image.created_unix_nanos / 1_000_000,
            size_bytes: image.size_bytes,
            shared_bytes: image.shared_size_bytes.unwrap_or(0),
            labels: image.labels,
        }
    });
    Ok(axum::Json(rows.collect()))
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<ImageDetail>> {
    super::saved::check(&api, &who, &id)?;
    let image = api.engine.images().inspect(&id).await?;
    let history = api.engine.images().history(&id).await?;
    let step = |entry: berth_engine::images::HistoryEntry| Step {
        command: entry.created_by,
        size_bytes: entry.size_bytes,
        created_unix_millis: entry.created_unix_nanos / 1_000_000,
    };
    Ok(axum::Json(ImageDetail {
        id: image.id.to_string(),
        names: image.repo_tags,
        platform: format!("{}/{}", image.os, image.architecture),
        size_bytes: image.size_bytes,
        created_unix_millis: image.created_unix_nanos / 1_000_000,
        // Of a snapshot it is an instance's, whose values a viewer does not see either.
        env: match image.config.labels.contains_key(super::saved::OF) && who.best() < Role::Operator {
            true => image.config.env.iter().map(|entry| hidden(entry)).collect(),
            false => image.config.env,
        },
        command: image.config.cmd.unwrap_or_default(),
        entrypoint: image.config.entrypoint.unwrap_or_default(),
        user: image.config.user,
        working_dir: image.config.working_dir,
        ports: image.config.exposed_ports.iter().map(ToString::to_string).collect(),
        volumes: image.config.volumes.into_iter().collect(),
        history: history.into_iter().map(step).collect(),
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RemoveQuery {
    force: bool,
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<axum::Json<Done>> {
    api.engine.images().remove(&id, RemoveOptions { force: query.force, no_prune: false }).await?;
    Ok(Done::plainly())
}

/// A name with its tag.
pub(crate) fn image_name(text: &str) -> berth_types::Result<ImageName> {
    let name: std::result::Result<ImageName, _> = text.trim().parse();
    let name = name.map_err(|cause| {
        Error::because(berth_types::ErrorKind::InvalidArgument, format!("{text:?} is no image's name"), &cause)
    })?;
    Ok(name.or_latest())
}

pub(crate) async fn tag(State(api): State<Api>, Json(body): Json<Tag>) -> ApiResult<Response> {
    api.engine.images().tag(&body.id, image_name(&body.name)?).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(format!("{} as {}", body.id, body.name)));
    Ok(response)
}

pub(crate) async fn bootstrap(State(api): State<Api>, who: Who, Json(body): Json<Bootstrap>) -> ApiResult<Response> {
    let request = berth_engine::images::Bootstrap {
        suite: body.suite.clone(),
        packages: body.packages,
        name: (!body.name.is_empty()).then(|| body.name.clone()),
        mirror: None,
        variant: None,
        bootable: body.bootable,
    };
    let target = if body.name.is_empty() { body.suite } else { body.name };
    let mut stream = api.engine.images().bootstrap(request).await?;
    let task = api.tasks.start(&who.user, "image.bootstrap", &target, move |progress| async move {
        while let Some(step) = stream.next().await {
            match step? {
                Progress::Line(line) => progress.line(line.trim_end()),
                Progress::Step { id, action, current_bytes, total_bytes } => {
                    progress.part(current_bytes, total_bytes);
                    tracing::trace!(id, action, "bootstrap");
                }
                Progress::Loaded(line) => progress.line(&line),
                Progress::Made(digest) => progress.line(&format!("made {digest}")),
            }
        }
        Ok(())
    })?;
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

pub(crate) async fn pull(State(api): State<Api>, who: Who, Json(body): Json<Pull>) -> ApiResult<Response> {
    let name = image_name(&body.name)?;
    let target = name.familiar();
    let images = api.engine.images();
    let task = api.tasks.start(&who.user, "image.pull", &target, move |progress| async move {
        fetch(&images, name, &progress).await
    })?;
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

/// Pulls an image; its steps are the task's.
pub(crate) async fn fetch(
    images: &Images,
    name: ImageName,
    progress: &crate::tasks::Progress,
) -> berth_types::Result<()> {
    let mut stream = images.pull(name, PullOptions::default()).await?;
    // Layer -> bytes there and bytes in all: together they are the task's progress.
    let mut layers: HashMap<String, (u64, u64)> = HashMap::new();
    let mut waits: HashMap<String, u64> = HashMap::new();
    let mut told = 0;
    while let Some(message) = stream.next().await {
        match message? {
            TransferMessage::Status { text, .. } => progress.line(&text),
            TransferMessage::Wanted { id, size_bytes } => {
                progress.line(&format!("{id}: Pulling fs layer"));
                layers.insert(id, (0, size_bytes));
            }
            TransferMessage::Layer { id, progress: Some(now), .. } => {
                layers.insert(id, (now.current_bytes, now.total_bytes));
                let (there, all) = layers.values().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
                // A page needs no more than a hundred steps.
                if (there * 100).checked_div(all).is_some_and(|percent| percent != told) {
                    told = there * 100 / all;
                    progress.part(there, all);
                }
            }
            TransferMessage::Layer { id, status, progress: None } => progress.line(&format!("{id}: {status}")),
            TransferMessage::Retrying { id, seconds } => {
                // Told once for each wait, not every time that it is counted down.
                if waits.insert(id.clone(), seconds).is_none_or(|before| before < seconds) {
                    progress.line(&format!("{id}: asked again in {seconds} s"));
                }
            }
            TransferMessage::Pushed { .. } => {}
        }
    }
    Ok(())
}
