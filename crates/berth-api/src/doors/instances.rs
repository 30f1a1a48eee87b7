//! Instances: containers as the console shows them, and what can be done to them.

use super::Done;
use crate::Api;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::{Role, Who};
use crate::quota::{Need, known, room};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::containers::{
    ChangeKind, Inspect, ListOptions, MountPoint, RemoveOptions, State as Phase, StopOptions, Summary,
};
use berth_types::spec::{ContainerSpec, Healthcheck, IpcMode, NamespaceMode, NetworkMode, Resources, RestartPolicy};
use berth_types::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Instances that one bulk request may name.
const BULK_MAX: usize = 2000;
const CHANGES_MAX: usize = 5000;

answers! {
    /// An instance in a list.
    Instance {
        id: String,
        name: String,
        image: String,
        image_id: Option<String>,
        command: String,
        /// created, running, paused, restarting, removing, exited or dead.
        state: String,
        /// For people: "Up 5 minutes (healthy)".
        status: String,
        /// starting, healthy or unhealthy; absent without a probe.
        health: Option<String>,
        /// Of the last run, where it has ended.
        exit_code: Option<i64>,
        out_of_memory: bool,
        /// Why the last start failed.
        error: String,
        created_unix_millis: i64,
        started_unix_millis: i64,
        finished_unix_millis: i64,
        labels: BTreeMap<String, String>,
        ports: Vec<Port>,
        networks: Vec<Address>,
        /// Names of its volumes.
        volumes: Vec<String>,
    }
    /// A published port.
    Port {
        address: String,
        host_port: u16,
        port: u16,
        protocol: String,
        /// Who can reach it: host (this host only), any (whoever reaches the host), address (through this address).
        scope: String,
    }
    Address {
        network: String,
        ipv4: Option<String>,
        ipv6: Option<String>,
        mac: String,
    }
    /// Everything about one.
    InstanceDetail {
        instance: Instance,
        why: WhyView,
        limits: Limits,
        /// Values are left out for viewers.
        env: Vec<String>,
        entrypoint: Vec<String>,
        user: String,
        working_dir: String,
        hostname: String,
        tty: bool,
        pid: i64,
        /// no, always, unless-stopped, on-failure or on-failure:N.
        restart: String,
        restart_count: u64,
        mounts: Vec<Mount>,
        network_mode: String,
        health_test: Vec<String>,
        health_log: Vec<String>,
        log_driver: String,
        privileged: bool,
        read_only: bool,
        /// What makes it equal to root on the host; empty for a well confined one.
        unconfined: Vec<String>,
        platform: String,
        /// vm: it runs in a machine of its own; empty: a container.
        isolation: String,
        /// Its settings as command, call and compose text; absent for viewers.
        texts: Option<super::render::Texts>,
    }
    /// Why it is in the state that it is in.
    WhyView { summary: String, details: Vec<String>, hint: Option<String> }
    /// 0 is no limit.
    Limits {
        memory_bytes: i64,
        cpus: f64,
        processes: i64,
        /// Of what it writes itself; a container's has none.
        disk_bytes: u64,
    }
    Mount {
        /// bind, volume, tmpfs or image.
        kind: String,
        source: String,
        target: String,
        writable: bool,
    }
    Created { id: String, warnings: Vec<String> }
    Processes { titles: Vec<String>, rows: Vec<Vec<String>> }
    ChangedFile {
        /// added, modified or deleted.
        kind: String,
        path: String,
    }
}

requests! {
    /// New limits; what is left out stays.
    Update {
        memory_bytes: Option<i64>,
        cpus: Option<f64>,
        processes: Option<i64>,
        /// Refused, and says why: nothing that exists can have another one.
        disk_bytes: Option<u64>,
        restart: Option<String>,
        /// All published ports anew; those that stay are not interrupted.
        ports: Option<Vec<super::create::PortWish>>,
        /// An empty command ends its health check.
        health: Option<super::create::HealthWish>,
    }
    Rename { name: String }
    Bulk {
        ids: Vec<String>,
        /// start, stop, restart, pause, unpause, kill or remove.
        action: String,
        /// With remove: end those that run.
        force: bool,
        /// With remove: unnamed volumes too.
        volumes: bool,
    }
}

fn millis(nanos: i64) -> i64 {
    nanos / 1_000_000
}

/// Who can reach a listener on `address`.
pub(crate) fn scope(address: IpAddr) -> &'static str {
    match address {
        address if address.is_loopback() => "host",
        address if address.is_unspecified() => "any",
        _ => "address",
    }
}

fn volumes(mounts: &[MountPoint]) -> Vec<String> {
    mounts.iter().filter(|mount| !mount.name.is_empty()).map(|mount| mount.name.clone()).collect()
}

struct Parts<'a> {
    id: &'a str,
    name: &'a str,
    image: &'a str,
    image_id: Option<String>,
    command: String,
    created_unix_nanos: i64,
    state: &'a Phase,
    labels: &'a BTreeMap<String, String>,
    network: &'a berth_engine::networks::Attachment,
    mounts: &'a [MountPoint],
}

/// starting, healthy or unhealthy; `None` without a probe.
pub(crate) fn health(state: &Phase) -> Option<String> {
    let status = serde_json::to_value(state.health.as_ref()?.status).ok()?;
    status.as_str().map(str::to_owned)
}

fn instance(parts: Parts<'_>) -> Instance {
    let state = parts.state;
    let word = state.word().as_str();
    let health = health(state);
    let ports = parts.network.ports.iter().flat_map(|(port, listeners)| {
        listeners.iter().filter(|(_, host_port)| *host_port != 0).map(|(address, host_port)| Port {
            address: address.to_string(),
            host_port: *host_port,
            port: port.port,
            protocol: port.protocol.as_str().to_owned(),
            scope: scope(*address).to_owned(),
        })
    });
    let networks = parts.network.endpoints.iter().map(|(network, endpoint)| Address {
        network: network.clone(),
        ipv4: endpoint.ipv4.map(|(address, _)| address.to_string()),
        ipv6: endpoint.ipv6.map(|(address, _)| address.to_string()),
        mac: endpoint.mac_address.clone(),
    });
    Instance {
        id: parts.id.to_owned(),
        name: parts.name.to_owned(),
        image: parts.image.to_owned(),
        image_id: parts.image_id,
        command: parts.command,
        state: word.to_owned(),
        status: state.status_text(berth_engine::events::now_unix_nanos()),
        health,
        exit_code: matches!(word, "exited" | "dead" | "restarting").then_some(state.exit_code),
        out_of_memory: state.oom_killed,
        error: state.error.clone(),
        created_unix_millis: millis(parts.created_unix_nanos),
        started_unix_millis: millis(state.started_unix_nanos),
        finished_unix_millis: millis(state.finished_unix_nanos),
        labels: parts.labels.clone(),
        ports: ports.collect(),
        networks: networks.collect(),
        volumes: volumes(parts.mounts),
    }
}

pub(crate) fn row(summary: &Summary) -> Instance {
    instance(Parts {
        id: summary.id.as_str(),
        name: &summary.name,
        image: &summary.image,
        image_id: summary.image_id.as_ref().map(ToString::to_string),
        command: summary.command.join(" "),
        created_unix_nanos: summary.created_unix_nanos,
        state: &summary.state,
        labels: &summary.labels,
        network: &summary.network,
        mounts: &summary.mounts,
    })
}

pub(crate) fn restart_text(policy: &RestartPolicy) -> String {
    match policy {
        RestartPolicy::No => "no".to_owned(),
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::UnlessStopped => "unless-stopped".to_owned(),
        RestartPolicy::OnFailure { maximum_retries: 0 } => "on-failure".to_owned(),
        RestartPolicy::OnFailure { maximum_retries } => format!("on-failure:{maximum_retries}"),
    }
}

pub(crate) fn parse_restart(text: &str) -> Result<RestartPolicy> {
    Ok(match text {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure { maximum_retries: 0 },
        other => match other.strip_prefix("on-failure:").and_then(|count| count.parse().ok()) {
            Some(maximum_retries) => RestartPolicy::OnFailure { maximum_retries },
            None => return Err(Error::invalid(format!("unknown restart policy {other:?}"))),
        },
    })
}

/// What in `spec` amounts to being root on the host. Only an administrator may make, change into, or open a
/// terminal in such an instance.
pub(crate) fn unconfined(spec: &ContainerSpec) -> Vec<String> {
    let host = &spec.host;
    let mut all = Vec::new();
    let mut when = |yes: bool, what: &str| {
        if yes {
            all.push(what.to_owned());
        }
    };
    when(host.privileged, "privileged");
    when(host.pid_mode == NamespaceMode::Host, "the host's processes");
    when(host.ipc_mode == IpcMode::Host, "the host's shared memory");
    when(host.network_mode == NetworkMode::Host, "the host's network");
    when(host.userns_mode == NamespaceMode::Host, "the host's user ids");
    when(!host.cap_add.is_empty(), "added capabilities");
    when(!host.resources.devices.is_empty() || !host.resources.device_cgroup_rules.is_empty(), "devices of the host");
    when(host.masked_paths.is_some() || host.readonly_paths.is_some(), "open system paths");
    when(host.security_opt.iter().any(|option| !option.starts_with("no-new-privileges")), "security options");
    when(!host.sysctls.is_empty(), "kernel settings");
    when(!host.resources.cgroup_parent.is_empty(), "a cgroup of its own choice");
    let bound = host.binds.iter().filter_map(|bind| bind.split(':').next()).filter(|source| source.starts_with('/'));
    let mounted = host.mounts.iter().filter(|mount| mount.kind == berth_types::spec::MountKind::Bind);
    let folders = bound.chain(mounted.map(|mount| mount.source.as_str()));
    let driven = host.mounts.iter().filter_map(|mount| mount.volume.as_ref());
    let driven = driven.filter(|volume| !volume.driver_options.is_empty()).count();
    let folders: Vec<String> = folders.map(|source| format!("the host's {source}")).collect();
    when(driven > 0, "a volume with driver options");
    all.extend(folders);
    all
}

/// Refuses `who` unless they may have what `spec` asks for.
pub(crate) fn may(who: &Who, spec: &ContainerSpec, action: &str) -> ApiResult<()> {
    let reasons = unconfined(spec);
    if who.role == Role::Admin || reasons.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        berth_types::ErrorKind::Forbidden,
        format!("only an administrator may {action} an instance with {}", reasons.join(", ")),
    )
    .with_hint("use a volume instead of a folder of the host, or ask an administrator")
    .into())
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<Instance>>> {
    let options = ListOptions { all: true, ..ListOptions::default() };
    let all = api.engine.containers().list(&options).await?;
    Ok(axum::Json(all.iter().filter(|one| who.sees(&one.labels)).map(row).collect()))
}

/// The variable's name alone.
pub(crate) fn hidden(entry: &str) -> String {
    entry.split_once('=').map_or_else(|| entry.to_owned(), |(name, _)| format!("{name}="))
}

fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(other) => format!("container:{other}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

pub(crate) fn cpus(resources: &Resources) -> f64 {
    match (resources.nano_cpus, resources.cpu_quota_micros, resources.cpu_period_micros) {
        (nano, ..) if nano > 0 => nano as f64 / 1e9,
        (_, quota, period) if quota > 0 => quota as f64 / (if period > 0 { period } else { 100_000 }) as f64,
        _ => 0.0,
    }
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<InstanceDetail>> {
    let found = api.engine.containers().inspect(&id, false).await?;
    let why = api.engine.containers().why(&id).await?;
    let Inspect { spec, .. } = &found;
    let texts = match who.here {
        Role::Viewer => None,
        _ => Some(super::render::texts(&super::remake::wish(&api, &found))),
    };
    let health_log = found.state.health.iter().flat_map(|health| &health.log);
    let health_log = health_log.filter_map(|probe| {
        let value = serde_json::to_value(probe).ok()?;
        let code = value.get("exit_code").map(ToString::to_string).unwrap_or_default();
        let output = value.get("output").and_then(|text| text.as_str()).unwrap_or_default().trim().to_owned();
        Some(format!("{code}: {output}"))
    });
    let detail = InstanceDetail {
        instance: instance(Parts {
            id: found.id.as_str(),
            name: &found.name,
            image: &spec.config.image,
            image_id: found.image_id.as_ref().map(ToString::to_string),
            command: std::iter::once(&found.path).chain(&found.args).cloned().collect::<Vec<_>>().join(" "),
            created_unix_nanos: found.created_unix_nanos,
            state: &found.state,
            labels: &spec.config.labels,
            network: &found.network,
            mounts: &found.mounts,
        }),
        why: WhyView { summary: why.summary, details: why.details, hint: why.hint },
        limits: Limits {
            memory_bytes: spec.host.resources.memory_bytes,
            cpus: cpus(&spec.host.resources),
            processes: spec.host.resources.pids_limit.unwrap_or(0).max(0),
            disk_bytes: if super::create::isolation(&spec.host) == "vm" { berth_engine::guests::DISK_BYTES } else { 0 },
        },
        env: match who.here {
            Role::Viewer => spec.config.env.iter().map(|entry| hidden(entry)).collect(),
            _ => spec.config.env.clone(),
        },
        entrypoint: spec.config.entrypoint.clone().unwrap_or_default(),
        user: spec.config.user.clone(),
        working_dir: spec.config.working_dir.clone(),
        hostname: spec.config.hostname.clone(),
        tty: spec.config.tty,
        pid: found.state.pid().into(),
        restart: restart_text(&spec.host.restart),
        restart_count: found.restart_count,
        mounts: found.mounts.iter().map(mount).collect(),
        network_mode: network_mode(&spec.host.network_mode),
        health_test: spec.config.healthcheck.as_ref().map(|health| health.test.clone()).unwrap_or_default(),
        health_log: health_log.collect(),
        log_driver: match spec.host.log.driver.as_str() {
            "" => api.engine.config().log_driver.clone(),
            driver => driver.to_owned(),
        },
        privileged: spec.host.privileged,
        read_only: spec.host.readonly_rootfs,
        unconfined: unconfined(spec),
        platform: found.platform.clone(),
        isolation: super::create::isolation(&spec.host).to_owned(),
        texts,
    };
    Ok(axum::Json(detail))
}

fn mount(point: &MountPoint) -> Mount {
    let kind = serde_json::to_value(point.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    Mount {
        kind: kind.unwrap_or_default(),
        source: if point.name.is_empty() { point.source.display().to_string() } else { point.name.clone() },
        target: point.target.clone(),
        writable: point.read_write,
    }
}

pub(crate) async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(body): Json<Update>,
) -> ApiResult<Response> {
    let found = api.engine.containers().inspect(&id, false).await?;
    let apart = super::create::isolation(&found.spec.host) == "vm";
    let now = found.spec.host.resources;
    let mut resources = Resources::default();
    let mut said = Vec::new();
    if let Some(bytes) = body.memory_bytes {
        if bytes <= 0 {
            return Err(Error::invalid("a memory limit has at least 1 byte")
                .with_hint("a limit cannot be taken off a running instance: set it to the host's memory")
                .into());
        }
        resources.memory_bytes = bytes;
        // Swap is counted with the memory: it grows and shrinks along, or a lower limit would be refused.
        if now.memory_swap_bytes >= 0 {
            let swap = (now.memory_swap_bytes - now.memory_bytes).max(0);
            resources.memory_swap_bytes = if now.memory_swap_bytes == 0 { bytes * 2 } else { bytes + swap };
        }
        said.push(format!("memory {bytes}"));
    }
    if let Some(cpus) = body.cpus {
        if !cpus.is_finite() || cpus < 0.01 {
            return Err(Error::invalid("an instance needs at least 0.01 of a processor").into());
        }
        match now.cpu_quota_micros > 0 {
            true => {
                let period = if now.cpu_period_micros > 0 { now.cpu_period_micros } else { 100_000 };
                resources.cpu_quota_micros = (cpus * period as f64) as i64;
            }
            false => resources.nano_cpus = (cpus * 1e9) as i64,
        }
        said.push(format!("cpus {cpus}"));
    }
    if let Some(processes) = body.processes {
        resources.pids_limit = Some(if processes <= 0 { -1 } else { processes });
        said.push(format!("processes {processes}"));
    }
    if body.disk_bytes.is_some() {
        let message = match apart {
            true => "the disk of its machine keeps its size for as long as it exists",
            false => "what a container writes has no limit of its own",
        };
        return Err(Error::invalid(format!("the disk of {} cannot be limited anew: {message}", found.name))
            .with_hint("the disk quota of its project limits all that is in it together")
            .into());
    }
    let mut need = Need::of(&now);
    need.cpus = body.cpus.unwrap_or(need.cpus);
    need.memory_bytes = body.memory_bytes.map_or(need.memory_bytes, |bytes| bytes.max(0).unsigned_abs());
    let project = known(&api, &found.spec.config.labels).filter(|_| need != Need::of(&now));
    let _turn = room(&api, project, &[need], &[found.id.as_str()]).await?;
    let restart = body.restart.as_deref().map(parse_restart).transpose()?;
    said.extend(body.restart.map(|policy| format!("restart {policy}")));
    let ports = body.ports.as_deref().map(super::create::ports).transpose()?;
    said.extend(ports.as_ref().map(|ports| format!("{} published ports", ports.len())));
    let healthcheck = body.health.map(|health| match health.command.trim() {
        "" => Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() },
        _ => health.parse(),
    });
    said.extend(healthcheck.as_ref().map(|_| "health check".to_owned()));
    let update = berth_engine::containers::Update { resources, restart, ports, healthcheck, ..Default::default() };
    let warnings = api.engine.containers().update(&id, update).await?;
    let mut response = axum::Json(Done { warnings }).into_response();
    response.extensions_mut().insert(Target(said.join(", ")));
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RemoveQuery {
    force: bool,
    volumes: bool,
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<axum::Json<Done>> {
    let options = RemoveOptions { force: query.force, volumes: query.volumes };
    api.engine.containers().remove(&id, options).await?;
    Ok(Done::plainly())
}

pub(crate) async fn start(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.containers().start(&id).await?;
    Ok(Done::plainly())
}

pub(crate) async fn stop(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.containers().stop(&id, StopOptions::default()).await?;
    Ok(Done::plainly())
}

pub(crate) async fn restart(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.containers().restart(&id, StopOptions::default()).await?;
    Ok(Done::plainly())
}

pub(crate) async fn pause(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.containers().pause(&id).await?;
    Ok(Done::plainly())
}

pub(crate) async fn unpause(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.containers().unpause(&id).await?;
    Ok(Done::plainly())
}

pub(crate) async fn kill(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.containers().kill(&id, None).await?;
    Ok(Done::plainly())
}

pub(crate) async fn rename(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(body): Json<Rename>,
) -> ApiResult<Response> {
    api.engine.containers().rename(&id, &body.name).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(format!("to {}", body.name)));
    Ok(response)
}

pub(crate) async fn bulk(State(api): State<Api>, who: Who, Json(body): Json<Bulk>) -> ApiResult<Response> {
    if body.ids.is_empty() || body.ids.len() > BULK_MAX {
        return Err(Error::invalid(format!("name 1 to {BULK_MAX} instances")).into());
    }
    let known = ["start", "stop", "restart", "pause", "unpause", "kill", "remove"];
    if !known.contains(&body.action.as_str()) {
        return Err(
            Error::invalid(format!("unknown action {:?}: must be one of {}", body.action, known.join(", "))).into()
        );
    }
    let containers = api.engine.containers();
    let mut names = Vec::new();
    for id in &body.ids {
        let found = containers.inspect(id, false).await?;
        let role = who.role_on(crate::identity::projects::of(&found.spec.config.labels));
        if role < Role::Viewer {
            return Err(Error::not_found(format!("there is nothing called {id} here")).into());
        }
        if role < Role::Operator {
            return Err(ApiError::forbidden(format!("{} is a {} of {}", who.user, role.as_str(), found.name)));
        }
        names.push(found.name);
    }
    let target = match names.as_slice() {
        [one] => one.clone(),
        [first, ..] => format!("{first} and {} more", names.len() - 1),
        [] => String::new(),
    };
    let act = format!("instance.{}", body.action);
    let all = names.join(", ");
    let task = api.tasks.start(&who.user, &act, &target, move |progress| async move {
        let count = body.ids.len() as u64;
        let mut failures = Vec::new();
        for (n, (id, name)) in body.ids.iter().zip(&names).enumerate() {
            match one(&containers, id, &body).await {
                Ok(()) => progress.line(&format!("{name}: done")),
                Err(error) => {
                    progress.line(&format!("{name}: {error}"));
                    failures.push(error);
                }
            }
            progress.part(n as u64 + 1, count);
        }
        match failures.len() {
            0 => Ok(()),
            _ if count == 1 => Err(failures.remove(0)),
            failed => Err(failures.remove(0).context(format!("{failed} of {count} failed, the first"))),
        }
    })?;
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(format!("{act} {all}")));
    Ok(response)
}

async fn one(containers: &berth_engine::containers::Containers, id: &str, body: &Bulk) -> Result<()> {
    match body.action.as_str() {
        "start" => containers.start(id).await.map(drop),
        "stop" => containers.stop(id, StopOptions::default()).await.map(drop),
        "restart" => containers.restart(id, StopOptions::default()).await,
        "pause" => containers.pause(id).await,
        "unpause" => containers.unpause(id).await,
        "kill" => containers.kill(id, None).await,
        _ => containers.remove(id, RemoveOptions { force: body.force, volumes: body.volumes }).await,
    }
}

pub(crate) async fn why(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<WhyView>> {
    let why = api.engine.containers().why(&id).await?;
    Ok(axum::Json(WhyView { summary: why.summary, details: why.details, hint: why.hint }))
}

pub(crate) async fn processes(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Processes>> {
    let top = api.engine.containers().top(&id, "-eo user,pid,ppid,pcpu,rss,etime,args").await?;
    Ok(axum::Json(Processes { titles: top.titles, rows: top.processes }))
}

pub(crate) async fn changes(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Vec<ChangedFile>>> {
    let changes = api.engine.containers().changes(&id).await?;
    let files = changes.into_iter().take(CHANGES_MAX).map(|change| ChangedFile {
        kind: match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Modified => "modified",
            ChangeKind::Deleted => "deleted",
        }
        .to_owned(),
        path: change.path,
    });
    Ok(axum::Json(files.collect()))
}

pub(crate) async fn meters(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<crate::history::Series>> {
    let id = api.engine.containers().resolve(&id).await.map_err(ApiError::from)?;
    Ok(axum::Json(api.history.series(id.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_amounts_to_root_is_seen() {
        let mut spec = ContainerSpec::default();
        assert!(unconfined(&spec).is_empty());
        spec.host.binds = vec!["data:/var".to_owned()];
        assert!(unconfined(&spec).is_empty(), "a volume is not a folder of the host");
        spec.host.binds.push("/etc:/x".to_owned());
        spec.host.privileged = true;
        spec.host.security_opt = vec!["no-new-privileges".to_owned()];
        assert_eq!(unconfined(&spec), ["privileged", "the host's /etc"]);
    }

    #[test]
    fn restart_policies_read_as_they_are_written() {
        for text in ["no", "always", "unless-stopped", "on-failure", "on-failure:3"] {
            assert_eq!(restart_text(&parse_restart(text).unwrap()), text);
        }
        assert!(parse_restart("sometimes").is_err() && parse_restart("on-failure:x").is_err());
    }

    #[test]
    fn scopes_follow_the_address() {
        let scope = |text: &str| scope(text.parse().unwrap());
        assert_eq!(
            [scope("127.0.0.1"), scope("::1"), scope("0.0.0.0"), scope("::"), scope("10.1.2.3")],
            ["host", "host", "any", "any", "address"]
        );
        assert_eq!(hidden("PASSWORD=secret"), "PASSWORD=");
    }
}
