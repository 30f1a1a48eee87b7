//! The host and the engine as a whole: overview, disk, prune, doctor, settings, tasks.

use super::Done;
use super::instances::WhyView;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::history::{HostReading, Reading, Series};
use crate::identity::Who;
use crate::routes::{SOME_OPERATOR, SOME_VIEWER, Table};
use crate::schema::{answers, requests};
use crate::tasks::{Task, Tasks};
use axum::extract::{FromRef, Path, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use berth_engine::Filters;
use berth_engine::containers::{State as Phase, StateWord};
use berth_engine::images::Removed;
use berth_engine::system::DiskUsageParts;
use berth_types::{Error, ErrorKind};
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Failing instances that an overview explains.
const FAILING_MAX: usize = 20;
const DOCTOR_SECONDS_MAX: u64 = 20;
const FAILED_WITHIN_MILLIS: i64 = 24 * 3600 * 1000;

answers! {
    Overview {
        host: Option<HostReading>,
        hour: Series,
        /// Newest meters of all running instances.
        meters: Vec<Reading>,
        failing: Vec<Failing>,
        /// What limits this host cannot keep, and the like.
        warnings: Vec<String>,
    }
    /// An instance that needs a look, and why.
    Failing { id: String, name: String, state: String, why: WhyView }
    /// What is on the disk.
    Disk {
        images: Share,
        instances: Share,
        volumes: Share,
        /// What steps of builds came to.
        build_cache: Share,
        /// The largest things.
        largest: Vec<Item>,
    }
    Share {
        count: u64,
        bytes: u64,
        /// What a prune would free: nothing uses it.
        freed_bytes: u64,
        /// Why the rest stays.
        kept: String,
    }
    Item {
        /// image, instance or volume.
        kind: String,
        name: String,
        bytes: u64,
        /// Why it is there.
        reason: String,
    }
    Check { name: String, grade: String, found: String, fix: String }
    Settings {
        version: String,
        hostname: String,
        operating_system: String,
        kernel: String,
        architecture: String,
        cgroup_version: String,
        storage: String,
        data_root: String,
        exec_root: String,
        bridge: String,
        log_driver: String,
        log_options: Vec<String>,
        labels: Vec<String>,
        security: Vec<String>,
    }
}

requests! {
    /// What to free.
    Prune {
        /// Instances that do not run.
        instances: bool,
        /// Images without a name that nothing uses.
        images: bool,
        /// With it: named ones that nothing uses too.
        all_images: bool,
        /// Unnamed volumes that nothing uses.
        volumes: bool,
        /// With it: named ones too.
        all_volumes: bool,
        /// Networks without instances.
        networks: bool,
        /// What steps of builds came to and no image needs.
        build_cache: bool,
    }
}

pub(crate) async fn overview(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Overview>> {
    let (hour, host) = api.history.host();
    let containers = api.engine.containers();
    let now = berth_engine::events::now_unix_nanos() / 1_000_000;
    let mut seen = HashSet::new();
    // A page asks for this every few seconds: only what fails is looked at closely.
    let rows = containers.those(|id, state, labels| {
        let theirs = who.sees(labels);
        if theirs {
            seen.insert(id.to_string());
        }
        theirs && fails(state, now)
    });
    let mut failing = Vec::new();
    for row in rows.iter().map(super::instances::row) {
        // One that was removed just now fails no more.
        let Ok(why) = containers.why(&row.id).await else { continue };
        let why = WhyView { summary: why.summary, details: why.details, hint: why.hint };
        failing.push(Failing { id: row.id, name: row.name, state: row.state, why });
        if failing.len() == FAILING_MAX {
            break;
        }
    }
    let warnings = api.engine.system().warnings();
    let meters = api.history.newest(|id| seen.contains(id));
    Ok(axum::Json(Overview { host, hour, meters, failing, warnings }))
}

/// Whether an instance needs a look.
fn fails(state: &Phase, now_unix_millis: i64) -> bool {
    let word = state.word();
    let restarting = matches!(word, StateWord::Restarting | StateWord::Dead);
    let recent = now_unix_millis - state.finished_unix_nanos / 1_000_000 < FAILED_WITHIN_MILLIS;
    // 137 and 143 are what being stopped looks like.
    let ended_badly = word == StateWord::Exited && !matches!(state.exit_code, 0 | 137 | 143) || state.oom_killed;
    state.is_unhealthy() || restarting || !state.error.is_empty() || ended_badly && recent
}

pub(crate) async fn disk(State(api): State<Api>) -> ApiResult<axum::Json<Disk>> {
    let usage = api.engine.system().disk_usage(DiskUsageParts { containers: true, volumes: true }).await?;
    let images = api.engine.images().disk_usage().await?;
    let used: HashSet<String> =
        usage.containers.iter().filter_map(|one| one.image_id.as_ref().map(ToString::to_string)).collect();
    let mut largest = Vec::new();
    let mut image_freed = 0;
    for image in &images.images {
        let free = !used.contains(&image.id.to_string());
        let own = image.size_bytes.saturating_sub(image.shared_size_bytes.unwrap_or(0));
        image_freed += if free { own } else { 0 };
        let name = image.repo_tags.first().cloned().unwrap_or_else(|| image.id.short());
        let reason = if free { "unused" } else { "used" };
        largest.push(Item { kind: "image".into(), name, bytes: image.size_bytes, reason: reason.into() });
    }
    let (mut instance_bytes, mut instance_freed) = (0, 0);
    for one in &usage.containers {
        let bytes = one.sizes.map_or(0, |sizes| sizes.disk_bytes);
        instance_bytes += bytes;
        let ended = matches!(one.state.word(), StateWord::Exited | StateWord::Created | StateWord::Dead);
        instance_freed += if ended { bytes } else { 0 };
        let reason = one.state.word().as_str().to_owned();
        largest.push(Item { kind: "instance".into(), name: one.name.clone(), bytes, reason });
    }
    let (mut volume_bytes, mut volume_freed) = (0, 0);
    for volume in &usage.volumes {
        let (bytes, references) = volume.usage.map_or((0, 0), |usage| (usage.size_bytes, usage.references));
        volume_bytes += bytes;
        volume_freed += if references == 0 { bytes } else { 0 };
        let reason = if references == 0 { "unused" } else { "used" };
        largest.push(Item { kind: "volume".into(), name: volume.name.clone(), bytes, reason: reason.into() });
    }
    let cache = api.engine.builds().cache().await?;
    let (cache_bytes, cache_freed) = cache.iter().fold((0, 0), |(all, freed), entry| {
        let free = if entry.shared || entry.in_use { 0 } else { entry.bytes };
        (all + entry.bytes, freed + free)
    });
    largest.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    largest.truncate(12);
    let share = |count: usize, bytes: u64, freed: u64, kept: &str| Share {
        count: count as u64,
        bytes,
        freed_bytes: freed.min(bytes),
        kept: kept.to_owned(),
    };
    Ok(axum::Json(Disk {
        images: share(images.images.len(), images.layers_bytes, image_freed, "instances are made from them"),
        instances: share(usage.containers.len(), instance_bytes, instance_freed, "they run"),
        volumes: share(usage.volumes.len(), volume_bytes, volume_freed, "instances have them"),
        build_cache: share(cache.len(), cache_bytes, cache_freed, "images need it"),
        largest,
    }))
}

pub(crate) async fn prune(State(api): State<Api>, who: Who, Json(body): Json<Prune>) -> ApiResult<Response> {
    let parts = [
        (body.instances, "instances"),
        (body.images || body.all_images, "images"),
        (body.volumes || body.all_volumes, "volumes"),
        (body.networks, "networks"),
        (body.build_cache, "build cache"),
    ];
    let named: Vec<&str> = parts.iter().filter(|(asked, _)| *asked).map(|(_, name)| *name).collect();
    if named.is_empty() {
        return Err(Error::invalid("say what to free: instances, images, volumes, networks or build cache").into());
    }
    let target = named.join(", ");
    let engine = api.engine.clone();
    let task = api.tasks.start(&who.user, "prune", &target, move |progress| async move {
        let mut freed = 0;
        if body.instances {
            let pruned = engine.containers().prune(&Filters::default()).await?;
            freed += pruned.space_reclaimed_bytes;
            progress.line(&format!("{} instances", pruned.deleted.len()));
        }
        if body.images || body.all_images {
            let dangling = if body.all_images { "false" } else { "true" };
            let pruned = engine.images().prune(&Filters::default().with("dangling", dangling)).await?;
            freed += pruned.space_reclaimed_bytes;
            let gone = pruned.removed.iter().filter(|one| matches!(one, Removed::Deleted(_))).count();
            progress.line(&format!("{gone} images"));
        }
        if body.volumes || body.all_volumes {
            let filters = if body.all_volumes { Filters::default().with("all", "true") } else { Filters::default() };
            let pruned = engine.volumes().prune(&filters).await?;
            freed += pruned.space_reclaimed_bytes;
            progress.line(&format!("{} volumes", pruned.deleted.len()));
        }
        if body.build_cache {
            let (gone, bytes) = engine.builds().prune(false, 0, None).await?;
            freed += bytes;
            progress.line(&format!("{} records of the build cache", gone.len()));
        }
        if body.networks {
            progress.line(&format!("{} networks", engine.networks().prune(&Filters::default()).await?.len()));
        }
        progress.line(&format!("{freed} bytes are free again"));
        Ok(())
    })?;
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

#[derive(Debug, Deserialize)]
struct Found {
    name: String,
    grade: String,
    found: String,
    fix: String,
}

/// The checks are the command line's: one place that knows what a host needs.
pub(crate) async fn doctor(State(api): State<Api>) -> ApiResult<axum::Json<Vec<Check>>> {
    let failed = |why: String| {
        Error::new(ErrorKind::Unavailable, format!("cannot run berth doctor: {why}"))
            .with_hint("install berth next to berthd")
    };
    let program = std::env::current_exe().map_err(|cause| failed(cause.to_string()))?.with_file_name("berth");
    let mut command = tokio::process::Command::new(program);
    command.args(["doctor", "--format", "json", "--data-root"]).arg(&api.engine.config().data_root);
    if let Some(host) = &api.engine_host {
        command.env("BERTH_HOST", host).env("DOCKER_HOST", host);
    }
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(DOCTOR_SECONDS_MAX), command.output())
        .await
        .map_err(|_| failed(format!("no answer within {DOCTOR_SECONDS_MAX} s")))?
        .map_err(|cause| failed(cause.to_string()))?;
    let found: Vec<Found> = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
    let check = |one: Found| Check { name: one.name, grade: one.grade, found: one.found, fix: one.fix };
    Ok(axum::Json(found.into_iter().map(check).collect()))
}

pub(crate) async fn settings(State(api): State<Api>) -> ApiResult<axum::Json<Settings>> {
    let info = api.engine.system().info().await?;
    let config = api.engine.config();
    Ok(axum::Json(Settings {
        version: api.engine.system().version().version,
        hostname: info.hostname,
        operating_system: info.operating_system,
        kernel: info.kernel_version,
        architecture: info.architecture,
        cgroup_version: info.cgroup_version,
        storage: info.storage_driver,
        data_root: info.data_root,
        exec_root: config.exec_root.display().to_string(),
        bridge: config.bridge_name.clone(),
        log_driver: info.default_log_driver,
        log_options: config.log_options.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        labels: info.labels,
        security: info.security_options,
    }))
}

/// The part of them that the engine's own socket has without a console too.
#[rustfmt::skip]
pub(crate) fn add_tasks<S>(t: &mut Table<S>)
where
    S: Clone + Send + Sync + 'static,
    Arc<Tasks>: FromRef<S>,
{
    t.add::<(), Vec<Task>, _, _>(Method::GET, "/tasks", SOME_VIEWER, "", "Long actions: those that run and the newest that ended", tasks);
    t.add::<(), Task, _, _>(Method::GET, "/tasks/{id}", SOME_VIEWER, "", "One long action", task);
    t.add::<(), Done, _, _>(Method::DELETE, "/tasks/{id}", SOME_OPERATOR, "task.cancel", "Cancels a long action", cancel);
}

/// One's own, or all for whoever sees everything.
fn sees(who: &Who, task: &Task) -> bool {
    who.sees_all() || task.who == who.user
}

pub(crate) async fn tasks(State(tasks): State<Arc<Tasks>>, who: Who) -> axum::Json<Vec<Task>> {
    axum::Json(tasks.list().into_iter().filter(|task| sees(&who, task)).collect())
}

pub(crate) async fn task(
    State(tasks): State<Arc<Tasks>>,
    who: Who,
    Path(id): Path<u64>,
) -> ApiResult<axum::Json<Task>> {
    let task = tasks.get(id)?;
    match sees(&who, &task) {
        true => Ok(axum::Json(task)),
        false => Err(Error::not_found(format!("there is no task {id}")).into()),
    }
}

pub(crate) async fn cancel(
    State(tasks): State<Arc<Tasks>>,
    who: Who,
    Path(id): Path<u64>,
) -> ApiResult<axum::Json<Done>> {
    let task = tasks.get(id)?;
    if !sees(&who, &task) {
        return Err(Error::not_found(format!("there is no task {id}")).into());
    }
    if task.who != who.user && who.role < crate::identity::Role::Operator {
        return Err(crate::error::ApiError::forbidden(format!("task {id} is {}'s", task.who)));
    }
    tasks.cancel(id)?;
    Ok(Done::plainly())
}
