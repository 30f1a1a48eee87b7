//! An instance made again: cloned, or replaced with changed settings.
//!
//! The engine's whole specification is copied, not the part that a form shows, so that nothing is lost on the
//! way. What came from the image is taken out first: with another image, that image's own defaults apply.

use super::create::{CreateInstance, HealthWish, MountWish, PortWish, isolation, ports};
use super::instances::{Created, may, parse_restart, restart_text};
use super::projects::settle;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::{Who, projects};
use crate::quota::{Need, room};
use crate::schema::requests;
use crate::tasks::Task;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::containers::{self, Containers, Inspect, RemoveOptions, StateWord, StopOptions};
use berth_types::spec::{ContainerSpec, MountKind, NetworkMode};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// Until a new one with a health check must be well.
const HEALTHY_WITHIN: Duration = Duration::from_secs(180);
/// A new one without a health check that runs for so long is taken for well.
const STAYS_FOR: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

requests! {
    /// What is to differ; all else stays as it is.
    Changes {
        /// Of the clone.
        name: Option<String>,
        image: Option<String>,
        command: Option<Vec<String>>,
        /// All of it anew: NAME=value.
        env: Option<Vec<String>>,
        labels: Option<BTreeMap<String, String>>,
        ports: Option<Vec<PortWish>>,
        mounts: Option<Vec<MountWish>>,
        restart: Option<String>,
        /// Of a clone: start it at once.
        start: bool,
        /// Of a clone: it begins with the other one's files as they are now, and all else is as it is there. Without, it
        /// begins with the image's.
        files: bool,
    }
}

impl Changes {
    /// Whether anything but the name is to differ.
    fn others(&self) -> bool {
        let Changes { name: _, image, command, env, labels, ports, mounts, restart, start: _, files: _ } = self;
        image.is_some()
            || command.is_some()
            || env.is_some()
            || labels.is_some()
            || ports.is_some()
            || mounts.is_some()
            || restart.is_some()
    }
}

/// What somebody asked for to get `found`.
fn asked(api: &Api, found: &Inspect) -> ContainerSpec {
    let image = found.image_id.as_ref().map_or_else(|| found.spec.config.image.clone(), ToString::to_string);
    let image = api.engine.images().resolve(&image).ok();
    containers::asked(found, image.as_ref().map(|image| &*image.defaults))
}

fn apply(mut spec: ContainerSpec, changes: &Changes) -> Result<ContainerSpec> {
    if let Some(image) = &changes.image {
        spec.config.image.clone_from(image);
    }
    if let Some(command) = &changes.command {
        spec.config.cmd = (!command.is_empty()).then(|| command.clone());
    }
    if let Some(env) = &changes.env {
        spec.config.env.clone_from(env);
    }
    if let Some(labels) = &changes.labels {
        spec.config.labels.clone_from(labels);
    }
    if let Some(wishes) = &changes.ports {
        spec.host.port_bindings = ports(wishes)?;
        spec.config.exposed_ports.extend(spec.host.port_bindings.keys().copied());
    }
    if let Some(mounts) = &changes.mounts {
        spec.host.binds.clear();
        spec.host.mounts = mounts.iter().map(MountWish::parse).collect::<Result<_>>()?;
    }
    if let Some(restart) = &changes.restart {
        spec.host.restart = parse_restart(restart)?;
    }
    Ok(spec)
}

pub(crate) async fn clone(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> ApiResult<Response> {
    if changes.files && changes.others() {
        return Err(Error::invalid("a clone with the files of another one has its settings, too")
            .with_hint("change them afterwards, or clone it without its files")
            .into());
    }
    let containers = api.engine.containers();
    let found = containers.inspect(&id, false).await?;
    let mut spec = apply(asked(&api, &found), &changes)?;
    if changes.ports.is_none() {
        // Two cannot listen on one port: the clone gets free ones.
        for binding in spec.host.port_bindings.values_mut().flatten() {
            binding.host_port = (0, 0);
        }
    }
    for endpoint in spec.endpoints.values_mut() {
        (endpoint.ipv4_address, endpoint.ipv6_address) = (None, None);
        endpoint.mac_address.clear();
    }
    may(&who, &spec, "clone")?;
    super::saved::check(&api, &who, &spec.config.image)?;
    let _turn = stay(&api, &who, &found, &mut spec, &[]).await?;
    let made = match changes.files {
        false => containers.create(changes.name.as_deref().filter(|name| !name.is_empty()), spec).await?,
        true => {
            let mut made = containers.clone_container(&id, &[changes.name.clone().unwrap_or_default()]).await?;
            made.pop().ok_or_else(|| Error::internal("a clone was not made"))?
        }
    };
    let mut warnings = made.warnings;
    if changes.start
        && let Err(error) = containers.start(made.id.as_str()).await
    {
        warnings.push(error.to_string());
    }
    let target = format!("to {}", made.id.short());
    let mut response = axum::Json(Created { id: made.id.to_string(), warnings }).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

pub(crate) async fn recreate(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> ApiResult<axum::Json<Task>> {
    let containers = api.engine.containers();
    let found = containers.inspect(&id, false).await?;
    let mut spec = apply(asked(&api, &found), &changes)?;
    may(&who, &spec, "recreate")?;
    super::saved::check(&api, &who, &spec.config.image)?;
    let turn = stay(&api, &who, &found, &mut spec, &[found.id.as_str()]).await?;
    let (target, doing) = (found.name.clone(), api.clone());
    // Nobody gets another image by the way without a word.
    let now = api.engine.images().resolve(&spec.config.image).ok().map(|image| image.id);
    let another = changes.image.is_none() && now.is_some() && now != found.image_id;
    let image = spec.config.image.clone();
    let task = api.tasks.start(&who.user, "instance.recreate", &target, move |progress| async move {
        if another {
            progress.line(&format!("{image} means another image now than the one that it was made from"));
        }
        // On a task of its own: cancelled half way it would leave neither the old nor the new one.
        let replacing = tokio::spawn(async move {
            let _turn = turn;
            replace(&doing, found, spec, &progress).await
        });
        replacing.await.unwrap_or_else(|cause| Err(Error::internal(format!("replacing ended early: {cause}"))))
    })?;
    Ok(axum::Json(task))
}

/// What makes `found` once more from the image that its image's name means now, in its project and within its quota.
pub(super) async fn anew(
    api: &Api,
    who: &Who,
    found: &Inspect,
) -> ApiResult<(ContainerSpec, Option<tokio::sync::OwnedMutexGuard<()>>)> {
    let mut spec = asked(api, found);
    may(who, &spec, "recreate")?;
    super::saved::check(api, who, &spec.config.image)?;
    let turn = stay(api, who, found, &mut spec, &[found.id.as_str()]).await?;
    Ok((spec, turn))
}

/// Keeps what is made from `found` in its project, and the project within its quota.
async fn stay(
    api: &Api,
    who: &Who,
    found: &Inspect,
    spec: &mut ContainerSpec,
    without: &[&str],
) -> ApiResult<Option<tokio::sync::OwnedMutexGuard<()>>> {
    let project = projects::of(&found.spec.config.labels).map(str::to_owned);
    // New labels may leave it out, and may not name another one.
    let said = spec.config.labels.remove(projects::LABEL);
    if said.is_some() && said != project {
        return Err(Error::invalid(format!("{} stays in its project", found.name)).into());
    }
    let turn = room(api, project.as_deref(), &[Need::of(&spec.host.resources)], without).await?;
    settle(api, who, spec, project.as_deref()).await?;
    Ok(turn)
}

/// A new one in the place of `old`, which comes back where the new one cannot be made, does not start, or is not well.
pub(super) async fn replace(
    api: &Api,
    old: Inspect,
    spec: ContainerSpec,
    progress: &crate::tasks::Progress,
) -> Result<()> {
    let containers = &api.engine.containers();
    let (id, name) = (old.id.as_str(), old.name.as_str());
    let runs = matches!(old.state.phase, Phase::Running { .. } | Phase::Paused { .. });
    let aside = format!("{name}-before-{}", old.id.short());
    containers.rename(id, &aside).await?;
    progress.line(&format!("{name} is now called {aside}"));
    let made = match containers.create(Some(name), spec).await {
        Ok(made) => made,
        Err(error) => return Err(back(containers, id, name, None, false, error).await),
    };
    for warning in &made.warnings {
        progress.line(warning);
    }
    progress.line("the new one is made");
    let new = made.id.as_str();
    if runs {
        if let Err(error) = containers.stop(id, StopOptions::default()).await {
            return Err(back(containers, id, name, Some(new), false, error).await);
        }
        progress.line("the old one has stopped");
        let started = match containers.start(new).await {
            Ok(_) => {
                progress.line("the new one runs");
                well(containers, new, progress).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            return Err(back(containers, id, name, Some(new), true, error).await);
        }
    }
    // Before anybody who looks at the new one sees that there is no other any more.
    crate::follow::pass(api, id, Some(new)).await?;
    containers.remove(id, RemoveOptions::default()).await?;
    progress.line("the old one is removed");
    Ok(())
}

/// Waits until a new one is well: healthy where it is asked for its health, else still there after a moment. One that has
/// ended without an error was meant to.
async fn well(containers: &Containers, id: &str, progress: &crate::tasks::Progress) -> Result<()> {
    let begun = tokio::time::Instant::now();
    let mut told = false;
    loop {
        let now = containers.inspect(id, false).await?;
        let ended = |what: String| Error::new(ErrorKind::Conflict, format!("the new {} {what}", now.name));
        match now.state.word() {
            StateWord::Running if now.restart_count == 0 || now.state.exit_code == 0 => {}
            StateWord::Exited | StateWord::Restarting if now.state.exit_code == 0 => return Ok(()),
            StateWord::Running | StateWord::Restarting => return Err(ended("ends again and again".to_owned())),
            _ => return Err(ended(format!("ended with code {}", now.state.exit_code))),
        }
        match super::instances::health(&now.state).as_deref() {
            Some(health) => match health {
                "healthy" => return Ok(()),
                "unhealthy" => return Err(ended("is not healthy".to_owned())),
                _ if begun.elapsed() >= HEALTHY_WITHIN => {
                    return Err(ended(format!("was not healthy within {} s", HEALTHY_WITHIN.as_secs())));
                }
                _ if !told => {
                    told = true;
                    progress.line("waiting until it is healthy");
                }
                _ => {}
            },
            None if begun.elapsed() >= STAYS_FOR => return Ok(()),
            None => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Puts the old one in its place again; `error` says why, and what of this failed too.
async fn back(containers: &Containers, old: &str, name: &str, new: Option<&str>, start: bool, error: Error) -> Error {
    let mut error = error.context(format!("cannot replace {name}; the old one is back"));
    let mut also = |result: Result<()>| {
        if let Err(more) = result {
            error.causes.push(more.to_string());
        }
    };
    if let Some(new) = new {
        also(containers.remove(new, RemoveOptions { force: true, volumes: true }).await);
    }
    also(containers.rename(old, name).await);
    if start {
        also(containers.start(old).await.map(drop));
    }
    error
}

/// `found` as a wish: what the forms and the texts show.
pub(crate) fn wish(api: &Api, found: &Inspect) -> CreateInstance {
    let spec = asked(api, found);
    let ports = spec.host.port_bindings.iter().flat_map(|(port, bindings)| {
        bindings.iter().map(|binding| PortWish {
            address: binding.host_ip.map(|address| address.to_string()).unwrap_or_default(),
            host_port: binding.host_port.0,
            port: port.port,
            protocol: port.protocol.as_str().to_owned(),
        })
    });
    let mounts = found.mounts.iter().filter(|mount| !mount.anonymous && mount.kind != MountKind::Image);
    let mounts = mounts.map(|mount| MountWish {
        kind: mount.kind.as_str().to_owned(),
        source: match mount.kind {
            MountKind::Bind => mount.source.display().to_string(),
            _ => mount.name.clone(),
        },
        target: mount.target.clone(),
        read_only: !mount.read_write,
    });
    let health = spec.config.healthcheck.as_ref().and_then(|health| match health.test.as_slice() {
        [kind, command] if kind == "CMD-SHELL" => Some(HealthWish {
            command: command.clone(),
            interval_seconds: health.interval_nanos / 1_000_000_000,
            timeout_seconds: health.timeout_nanos / 1_000_000_000,
            retries: health.retries,
            start_period_seconds: health.start_period_nanos / 1_000_000_000,
        }),
        _ => None,
    });
    let resources = &spec.host.resources;
    let mut labels = spec.config.labels.clone();
    CreateInstance {
        project: labels.remove(projects::LABEL).unwrap_or_default(),
        name: found.name.clone(),
        image: spec.config.image.clone(),
        command: spec.config.cmd.clone().unwrap_or_default(),
        entrypoint: spec.config.entrypoint.clone(),
        env: spec.config.env.clone(),
        labels,
        user: spec.config.user.clone(),
        working_dir: spec.config.working_dir.clone(),
        hostname: spec.config.hostname.clone(),
        tty: spec.config.tty,
        open_stdin: spec.config.open_stdin,
        memory_bytes: resources.memory_bytes,
        cpus: resources.nano_cpus as f64 / 1e9,
        processes: resources.pids_limit.unwrap_or(0).max(0),
        mounts: mounts.collect(),
        network: match &spec.host.network_mode {
            NetworkMode::Default => String::new(),
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Host => "host".to_owned(),
            NetworkMode::Container(other) => format!("container:{other}"),
            NetworkMode::Named(name) => name.clone(),
        },
        ports: ports.collect(),
        restart: restart_text(&spec.host.restart),
        health,
        init: spec.host.init == Some(true),
        read_only: spec.host.readonly_rootfs,
        privileged: spec.host.privileged,
        isolation: isolation(&spec.host).to_owned(),
        start: true,
    }
}

pub(crate) async fn settings(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<CreateInstance>> {
    let found = api.engine.containers().inspect(&id, false).await?;
    Ok(axum::Json(wish(&api, &found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let mut spec = ContainerSpec::default();
        spec.config.env = vec!["A=1".to_owned()];
        spec.host.init = Some(true);
        let changes = Changes { image: Some("new".to_owned()), ..Changes::default() };
        let changed = apply(spec, &changes).unwrap();
        assert_eq!((changed.config.image.as_str(), changed.host.init), ("new", Some(true)));
        assert_eq!(changed.config.env, ["A=1"]);
    }
}
