//! Virtual machines.
//!
//! These routes are also on the engine's own socket, for the command line; there everybody is root.

use super::Done;
use super::machine_bodies::{
    ChangeMachine, Forked, Machine, MachineAddress, MachineBandwidth, MachineChanged, MachineDisk, MachineDiskLimits,
    MachineFilesystem, MachineGuest, MachineMade, MachineSnapshot, MachineStats, NewBandwidth, NewClone, NewDiskLimits,
    NewForks, NewMachine, NewMachineDisk, NewMachineName, NewMachineSnapshot,
};
use super::projects::labelled;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::{Session, Target};
use crate::identity::{Role, Who, projects};
use crate::quota::{Need, known, of_machine, room, still_fits};
use crate::routes::{OPERATOR, SOME_OPERATOR, SOME_VIEWER, Table, VIEWER};
use axum::Extension;
use axum::extract::{FromRef, Path, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use berth_engine::Engine;
use berth_engine::containers::StopOptions;
use berth_engine::machines::{
    Bandwidth, CreateMachine, DirectKernel, DiskLimits, Display, FirmwareKind, GuestStatistics, MachineView, NewDisk,
    Seed, UpdateMachine,
};
use berth_types::spec::{EndpointSpec, NetworkMode, PortBinding, PortProto, RestartPolicy};
use berth_types::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::sync::OwnedMutexGuard;

/// As the engine has it where nobody says how much.
const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;
/// Of a request by way of the console's guard. On the socket of an engine without a console there is none, and there are
/// no projects.
type Asked = Option<Extension<Session>>;

#[rustfmt::skip]
pub(crate) fn add<S>(t: &mut Table<S>)
where
    S: Clone + Send + Sync + 'static,
    Engine: FromRef<S>,
{
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    t.add::<(), Vec<Machine>, _, _>(get.clone(), "/machines", SOME_VIEWER, "", "All virtual machines; ?guest=true asks their guests, too", list);
    t.add::<NewMachine, MachineMade, _, _>(post.clone(), "/machines", SOME_OPERATOR, "machine.create", "Makes a virtual machine, and starts it where asked", create);
    t.add::<(), Machine, _, _>(get.clone(), "/machines/{id}", VIEWER, "", "Everything about one; ?guest=true asks its guest, too", inspect);
    t.add::<(), MachineStats, _, _>(get.clone(), "/machines/{id}/stats", VIEWER, "", "Its meters now, and how its guest is", stats);
    t.add::<ChangeMachine, MachineChanged, _, _>(Method::PATCH, "/machines/{id}", OPERATOR, "machine.update", "Changes processors, memory and sizes of disks; the answer says what it has at once and what comes with the next start", update);
    t.add::<(), Done, _, _>(delete.clone(), "/machines/{id}", OPERATOR, "machine.remove", "Removes it with its disks; ?force=true ends it first", remove);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/start", OPERATOR, "machine.start", "Starts it", start);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/stop", OPERATOR, "machine.stop", "Presses the power button, and ends it after its grace: ?timeout (seconds)", stop);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/restart", OPERATOR, "machine.restart", "Stops and starts it: ?timeout (seconds)", restart);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/kill", OPERATOR, "machine.kill", "Pulls the plug", kill);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/reset", OPERATOR, "machine.reset", "Presses the reset button", reset);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/pause", OPERATOR, "machine.pause", "Holds it still", pause);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/resume", OPERATOR, "machine.resume", "Lets it go on", resume);
    t.add::<NewMachineName, Done, _, _>(post.clone(), "/machines/{id}/rename", OPERATOR, "machine.rename", "Gives it another name", rename);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/template", OPERATOR, "machine.template", "Makes it a template: only there to be cloned; ?running=true: of a running one, to be forked from where it stands", template);
    t.add::<NewForks, Forked, _, _>(post.clone(), "/machines/{id}/fork", OPERATOR, "machine.fork", "Makes and starts machines that go on from where it stands, or where a template stood", fork);
    t.add::<NewClone, MachineMade, _, _>(post.clone(), "/machines/{id}/clone", OPERATOR, "machine.clone", "Makes another machine that begins with what its disks hold now", clone);
    t.add::<(), Vec<MachineSnapshot>, _, _>(get.clone(), "/machines/{id}/snapshots", VIEWER, "", "Its snapshots, oldest first", snapshots);
    t.add::<NewMachineSnapshot, Done, _, _>(post.clone(), "/machines/{id}/snapshots", OPERATOR, "machine.snapshot", "Remembers what its disks hold now, and where it stands", snapshot);
    t.add::<(), Done, _, _>(post.clone(), "/machines/{id}/snapshots/{snapshot}/revert", OPERATOR, "machine.revert", "Puts it back to a snapshot; ?disks_only=true: without its memory", revert);
    t.add::<(), Done, _, _>(delete, "/machines/{id}/snapshots/{snapshot}", OPERATOR, "machine.snapshot.remove", "Forgets a snapshot", remove_snapshot);
    t.add::<(), (), _, _>(get.clone(), "/machines/{id}/display", OPERATOR, "machine.display", "WebSocket (or Upgrade: tcp): its screen, keyboard and mouse as RFB (VNC)", super::machine_display::display);
    t.add::<(), (), _, _>(get.clone(), "/machines/{id}/serial", OPERATOR, "machine.serial", "WebSocket: its serial line; what it wrote lately, then bytes both ways", super::machine_serial::serial);
    t.add::<(), Done, _, _>(post, "/machines/{id}/flatten", OPERATOR, "machine.flatten", "Makes its disks stand on nothing that others have", flatten);
    t.add::<(), (), _, _>(get.clone(), "/machines/{id}/export", OPERATOR, "machine.export", "Its disk as one file: ?format (qcow2, raw), ?disk; or all as an appliance: ?format=ova", super::machine_export::export);
    t.add::<(), (), _, _>(get, "/machines/{id}/screenshot", VIEWER, "", "Its screen as a PNG", screenshot);
}

fn view(machine: MachineView) -> Machine {
    let network = machine.network;
    let text = |address: Option<String>| address.filter(|text| !text.is_empty());
    let ports = network.ports.iter().flat_map(|(inside, outside)| {
        let published = outside.iter().filter(|(_, port)| *port != 0);
        published.map(move |(address, port)| format!("{}->{inside}", std::net::SocketAddr::new(*address, *port)))
    });
    Machine {
        id: machine.id.to_string(),
        name: machine.name,
        state: machine.state.word().as_str().to_owned(),
        status: machine.state.status_text(berth_engine::events::now_unix_nanos()),
        exit_code: machine.state.exit_code,
        error: machine.state.error,
        created_unix_millis: machine.created_unix_nanos / 1_000_000,
        started_unix_millis: machine.state.started_unix_nanos / 1_000_000,
        restart_count: machine.restart_count,
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        memory_max_bytes: machine.memory_max_bytes,
        bandwidth: MachineBandwidth {
            in_bits_per_second: machine.bandwidth.in_bits_per_second,
            out_bits_per_second: machine.bandwidth.out_bits_per_second,
        },
        firmware: machine.firmware.to_owned(),
        direct_kernel: machine.direct_kernel,
        accelerator: machine.accelerator.to_owned(),
        display: if machine.display { "vnc" } else { "none" }.to_owned(),
        template: machine.template,
        resumes: machine.resumes,
        snapshots: machine.snapshots as u64,
        disks: machine
            .disks
            .into_iter()
            .map(|disk| MachineDisk {
                name: disk.name,
                kind: disk.kind.to_owned(),
                size_bytes: disk.size_bytes,
                base: disk.base,
                limits: MachineDiskLimits {
                    read_bytes: disk.limits.read_bytes,
                    write_bytes: disk.limits.write_bytes,
                    read_operations: disk.limits.read_operations,
                    write_operations: disk.limits.write_operations,
                },
            })
            .collect(),
        ports: ports.collect(),
        networks: network
            .endpoints
            .into_iter()
            .map(|(name, endpoint)| {
                let address = MachineAddress {
                    ipv4: text(endpoint.ipv4.map(|(address, _)| address.to_string())),
                    ipv6: text(endpoint.ipv6.map(|(address, _)| address.to_string())),
                    mac: endpoint.mac_address,
                };
                (name, address)
            })
            .collect(),
        labels: machine.labels,
        guest: None,
    }
}

fn guest_view(guest: GuestStatistics) -> MachineGuest {
    MachineGuest {
        source: guest.source.to_owned(),
        memory_total_bytes: guest.memory_total_bytes,
        memory_used_bytes: guest.memory_used_bytes,
        swap_total_bytes: guest.swap_total_bytes,
        swap_used_bytes: guest.swap_used_bytes,
        uptime_millis: guest.uptime_millis,
        filesystems: guest
            .filesystems
            .into_iter()
            .map(|one| MachineFilesystem { path: one.path, total_bytes: one.total_bytes, used_bytes: one.used_bytes })
            .collect(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ViewQuery {
    guest: bool,
}

async fn list(State(engine): State<Engine>, who: Who, Query(query): Query<ViewQuery>) -> axum::Json<Vec<Machine>> {
    let seen = engine.machines().list().into_iter().filter(|one| who.sees(&one.labels));
    let mut all: Vec<Machine> = seen.map(view).collect();
    if query.guest {
        let ids: Vec<String> = all.iter().map(|one| one.id.clone()).collect();
        let mut said: BTreeMap<String, GuestStatistics> = engine.machines().guests(&ids).await.into_iter().collect();
        for one in &mut all {
            one.guest = said.remove(&one.id).map(guest_view);
        }
    }
    axum::Json(all)
}

async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Query(query): Query<ViewQuery>,
) -> ApiResult<axum::Json<Machine>> {
    let mut machine = view(engine.machines().inspect(&id)?);
    if query.guest {
        machine.guest = engine.machines().guest(&id).await?.map(guest_view);
    }
    Ok(axum::Json(machine))
}

async fn stats(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<MachineStats>> {
    let machine = engine.machines().inspect(&id)?;
    let Some(gauge) = engine.containers().gauge(machine.id.as_str()).await? else {
        return Err(Error::conflict(format!("machine {} is not running", machine.name)).into());
    };
    let guest = engine.machines().guest(machine.id.as_str()).await?.map(guest_view);
    Ok(axum::Json(MachineStats {
        name: machine.name,
        read_unix_nanos: gauge.read_unix_nanos,
        cpu_nanos: gauge.cpu_nanos,
        memory_bytes: gauge.memory_bytes,
        memory_limit_bytes: gauge.memory_limit_bytes,
        read_bytes: gauge.read_bytes,
        written_bytes: gauge.written_bytes,
        received_bytes: gauge.received_bytes,
        sent_bytes: gauge.sent_bytes,
        guest,
    }))
}

/// `[address:]outside:inside[/protocol]`, or only the inner port.
fn publish(text: &str) -> Result<(PortProto, PortBinding)> {
    let invalid = || Error::invalid(format!("invalid port to publish: {text:?}")).with_hint("write it as 8080:80");
    let (outside, inside) = text.rsplit_once(':').unwrap_or(("", text));
    let inside: PortProto = inside.parse().map_err(|_| invalid())?;
    let (address, port) = match outside.rsplit_once(':') {
        Some((address, port)) => {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            (Some(address.parse().map_err(|_| invalid())?), port)
        }
        None => (None, outside),
    };
    let port: u16 = if port.is_empty() { 0 } else { port.parse().map_err(|_| invalid())? };
    Ok((inside, PortBinding { host_ip: address, host_port: (port, port) }))
}

fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let (word, count) = text.split_once(':').unwrap_or((text, ""));
    Ok(match (word, count) {
        ("" | "no", "") => RestartPolicy::No,
        ("always", "") => RestartPolicy::Always,
        ("unless-stopped", "") => RestartPolicy::UnlessStopped,
        ("on-failure", "") => RestartPolicy::OnFailure { maximum_retries: 0 },
        ("on-failure", count) => RestartPolicy::OnFailure {
            maximum_retries: count
                .parse()
                .map_err(|_| Error::invalid(format!("invalid number of restarts: {count:?}")))?,
        },
        _ => {
            return Err(Error::invalid(format!("unknown restart policy {text:?}"))
                .with_hint("no, always, unless-stopped and on-failure[:n] are possible"));
        }
    })
}

fn wish(new: NewMachine) -> Result<CreateMachine> {
    let display = match new.display.as_str() {
        "" | "none" => Display::None,
        "vnc" => Display::Vnc,
        other => {
            return Err(Error::invalid(format!("unknown display {other:?}")).with_hint("none and vnc are possible"));
        }
    };
    let network = match new.network.as_str() {
        "" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => return Err(Error::invalid("a machine cannot share the host's network: it has a card of its own")),
        name => NetworkMode::Named(name.to_owned()),
    };
    let mut ports: BTreeMap<PortProto, Vec<PortBinding>> = BTreeMap::new();
    for text in &new.publish {
        let (port, binding) = publish(text)?;
        ports.entry(port).or_default().push(binding);
    }
    let mut endpoints = BTreeMap::new();
    if let NetworkMode::Named(name) = &network {
        endpoints.insert(name.clone(), EndpointSpec::default());
    }
    Ok(CreateMachine {
        name: Some(new.name).filter(|name| !name.is_empty()),
        cpus: new.cpus,
        memory_bytes: new.memory_bytes,
        memory_max_bytes: new.memory_max_bytes,
        bandwidth: bandwidth(new.bandwidth.unwrap_or_default()),
        firmware: if new.uefi { FirmwareKind::Uefi } else { FirmwareKind::Bios },
        image: new.from_image.filter(|image| !image.is_empty()),
        image_bytes: new.from_image_bytes,
        kernel: new.kernel.map(|kernel| DirectKernel {
            image: PathBuf::from(kernel.image),
            initrd: kernel.initrd.map(PathBuf::from),
            arguments: kernel.arguments,
        }),
        disks: new.disks.into_iter().map(new_disk).collect(),
        cdroms: new.cdroms.into_iter().map(PathBuf::from).collect(),
        display,
        seed: new.cloud_init.map(|seed| Seed { user_data: seed.user_data, ssh_keys: seed.ssh_keys }),
        network,
        endpoints,
        ports,
        restart: restart_policy(&new.restart)?,
        labels: new.labels,
    })
}

fn new_disk(disk: NewMachineDisk) -> NewDisk {
    let limits = disk_limits(disk.limits.unwrap_or_default());
    NewDisk { source: disk.source.map(PathBuf::from), format: disk.format, size_bytes: disk.size_bytes, limits }
}

fn bandwidth(new: NewBandwidth) -> Bandwidth {
    Bandwidth { in_bits_per_second: new.in_bits_per_second, out_bits_per_second: new.out_bits_per_second }
}

fn disk_limits(new: NewDiskLimits) -> DiskLimits {
    DiskLimits {
        read_bytes: new.read_bytes,
        write_bytes: new.write_bytes,
        read_operations: new.read_operations,
        write_operations: new.write_operations,
    }
}

/// Whoever names a file of the host reads it by the machine.
fn may_name<'a>(who: &Who, mut files: impl Iterator<Item = &'a String>) -> Result<()> {
    match who.role >= Role::Admin || files.all(|path| path.starts_with(crate::uploads::PREFIX)) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Forbidden, "files of the host are for administrators")
            .with_hint("upload the disk image or ISO instead")),
    }
}

/// Files that were uploaded in the place of their names.
fn uploaded<'a>(api: &Api, who: &Who, sources: impl Iterator<Item = &'a mut PathBuf>) -> Result<()> {
    for source in sources {
        if let Some(path) = api.uploads.named(who, source)? {
            *source = path;
        }
    }
    Ok(())
}

async fn create(
    State(engine): State<Engine>,
    who: Who,
    asked: Asked,
    Json(mut body): Json<NewMachine>,
) -> ApiResult<Response> {
    let kernel = body.kernel.iter().map(|kernel| &kernel.image);
    let files = body.disks.iter().filter_map(|disk| disk.source.as_ref()).chain(&body.cdroms);
    may_name(&who, files.chain(kernel))?;
    let begin = body.start;
    let Some(Extension(Session { api, .. })) = &asked else {
        let made = engine.machines().create(wish(body)?).await?;
        return answer_made(&engine, made, begin).await;
    };
    // Root may say it by the label, as for containers.
    let said = body.labels.remove(projects::LABEL).filter(|_| who.role >= Role::Operator);
    let wanted = if body.project.is_empty() { said.unwrap_or_default() } else { std::mem::take(&mut body.project) };
    let project = who.place(&wanted)?;
    let mut wish = wish(body)?;
    let sources = wish.disks.iter_mut().filter_map(|disk| disk.source.as_mut());
    uploaded(api, &who, sources.chain(&mut wish.cdroms))?;
    settle(api, &who, &mut wish, project.as_deref())?;
    let need = Need {
        instances: 1,
        cpus: f64::from(wish.cpus.max(1)),
        memory_bytes: if wish.memory_bytes == 0 { MEMORY_BYTES_DEFAULT } else { wish.memory_bytes },
        disk_bytes: wish.disks.iter().map(|disk| disk.size_bytes).fold(0, u64::saturating_add),
    };
    let turn = room(api, project.as_deref(), &[need], &[]).await?;
    let made = engine.machines().create(wish).await?;
    // How large a foreign image is, is known only now.
    if let Err(refusal) = still_fits(api, project.as_deref()).await {
        engine.machines().remove(made.id.as_str(), true).await?;
        return Err(refusal.into());
    }
    drop(turn);
    answer_made(&engine, made, begin).await
}

/// Puts what is to be made into its project and on the project's network.
fn settle(api: &Api, who: &Who, wish: &mut CreateMachine, project: Option<&str>) -> Result<()> {
    wish.labels = labelled(std::mem::take(&mut wish.labels), project.map(str::to_owned))?;
    let Some(project) = project else { return Ok(()) };
    api.identity.project(project)?;
    let network = |name: &str| api.engine.networks().inspect(name);
    if wish.network == NetworkMode::Default && network(project).is_ok() {
        wish.network = NetworkMode::Named(project.to_owned());
        wish.endpoints = BTreeMap::from([(project.to_owned(), EndpointSpec::default())]);
    }
    let own = match &wish.network {
        _ if who.role >= Role::Operator => true,
        NetworkMode::None => true,
        NetworkMode::Named(name) => projects::of(&network(name)?.network.labels) == Some(project),
        NetworkMode::Default | NetworkMode::Host | NetworkMode::Container(_) => false,
    };
    match own {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Forbidden, format!("this network is not in project {project}"))),
    }
}

/// Room for `needs` in the project of a machine, which is left out where it changes; none without a console.
async fn room_beside(
    asked: &Asked,
    machine: &MachineView,
    needs: &[Need],
    changes: bool,
) -> ApiResult<Option<OwnedMutexGuard<()>>> {
    let Some(Extension(Session { api, .. })) = asked else { return Ok(None) };
    let without = if changes { vec![machine.id.as_str()] } else { Vec::new() };
    room(api, known(api, &machine.labels), needs, &without).await
}

async fn answer_made(engine: &Engine, made: berth_engine::containers::Created, begin: bool) -> ApiResult<Response> {
    if begin {
        engine.machines().start(made.id.as_str()).await?;
    }
    let mut response = axum::Json(MachineMade { id: made.id.to_string(), warnings: made.warnings }).into_response();
    response.extensions_mut().insert(Target(made.id.to_string()));
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RemoveQuery {
    force: bool,
}

async fn remove(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<axum::Json<Done>> {
    engine.machines().remove(&id, query.force).await?;
    Ok(Done::plainly())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StopQuery {
    timeout: Option<i64>,
}

impl From<StopQuery> for StopOptions {
    fn from(query: StopQuery) -> StopOptions {
        StopOptions { timeout_seconds: query.timeout, signal: None }
    }
}

async fn start(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    engine.machines().start(&id).await?;
    Ok(Done::plainly())
}

async fn stop(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> ApiResult<axum::Json<Done>> {
    engine.machines().stop(&id, query.into()).await?;
    Ok(Done::plainly())
}

async fn restart(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> ApiResult<axum::Json<Done>> {
    engine.machines().restart(&id, query.into()).await?;
    Ok(Done::plainly())
}

async fn kill(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    engine.machines().kill(&id).await?;
    Ok(Done::plainly())
}

async fn reset(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    engine.machines().reset(&id).await?;
    Ok(Done::plainly())
}

async fn pause(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    engine.machines().pause(&id).await?;
    Ok(Done::plainly())
}

async fn resume(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    engine.machines().resume(&id).await?;
    Ok(Done::plainly())
}

async fn rename(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Json(body): Json<NewMachineName>,
) -> ApiResult<axum::Json<Done>> {
    engine.machines().rename(&id, &body.name).await?;
    Ok(Done::plainly())
}

async fn update(
    State(engine): State<Engine>,
    who: Who,
    asked: Asked,
    Path(id): Path<String>,
    Json(body): Json<ChangeMachine>,
) -> ApiResult<axum::Json<MachineChanged>> {
    may_name(&who, body.add_disks.iter().filter_map(|disk| disk.source.as_ref()))?;
    let mut add_disks: Vec<NewDisk> = body.add_disks.into_iter().map(new_disk).collect();
    if let Some(Extension(Session { api, .. })) = &asked {
        uploaded(api, &who, add_disks.iter_mut().filter_map(|disk| disk.source.as_mut()))?;
    }
    let mut after = engine.machines().inspect(&id)?;
    after.cpus = body.cpus.filter(|cpus| *cpus != 0).unwrap_or(after.cpus);
    after.memory_bytes = body.memory_bytes.filter(|bytes| *bytes != 0).unwrap_or(after.memory_bytes);
    for disk in &mut after.disks {
        disk.size_bytes = body.disks.get(&disk.name).copied().unwrap_or(disk.size_bytes);
    }
    after.disks.retain(|disk| !body.remove_disks.contains(&disk.name));
    let mut need = of_machine(&after);
    need.disk_bytes = add_disks.iter().fold(need.disk_bytes, |sum, disk| sum.saturating_add(disk.size_bytes));
    let _turn = room_beside(&asked, &after, &[need], true).await?;
    let disks = body.disks.into_iter().collect();
    let change = UpdateMachine {
        cpus: body.cpus,
        memory_bytes: body.memory_bytes,
        memory_max_bytes: body.memory_max_bytes,
        bandwidth: body.bandwidth.map(bandwidth),
        disk_limits: body.disk_limits.into_iter().map(|(name, new)| (name, disk_limits(new))).collect(),
        disks,
        add_disks,
        remove_disks: body.remove_disks,
    };
    let changed = engine.machines().update(&id, change).await?;
    Ok(axum::Json(MachineChanged { now: changed.now, warnings: changed.later }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateQuery {
    running: bool,
}

async fn template(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Query(query): Query<TemplateQuery>,
) -> ApiResult<axum::Json<Done>> {
    match query.running {
        true => engine.machines().template_running(&id).await?,
        false => engine.machines().template(&id).await?,
    }
    Ok(Done::plainly())
}

async fn fork(
    State(engine): State<Engine>,
    asked: Asked,
    Path(id): Path<String>,
    Json(body): Json<NewForks>,
) -> ApiResult<axum::Json<Forked>> {
    let like = engine.machines().inspect(&id)?;
    let _turn = room_beside(&asked, &like, &vec![of_machine(&like); body.names.len()], false).await?;
    let made = engine.machines().fork(&id, &body.names).await?;
    Ok(axum::Json(Forked { ids: made.into_iter().map(|one| one.id.to_string()).collect() }))
}

async fn flatten(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    engine.machines().flatten(&id).await?;
    Ok(Done::plainly())
}

async fn clone(
    State(engine): State<Engine>,
    asked: Asked,
    Path(id): Path<String>,
    Json(body): Json<NewClone>,
) -> ApiResult<Response> {
    let like = engine.machines().inspect(&id)?;
    let _turn = room_beside(&asked, &like, &[of_machine(&like)], false).await?;
    let made = {
        let (name, from) = (Some(body.name), Some(body.snapshot.as_str()));
        let filled = |text: &&str| !text.is_empty();
        engine.machines().clone_machine(&id, name.filter(|name| !name.is_empty()), from.filter(filled)).await?
    };
    if body.full {
        engine.machines().flatten(made.id.as_str()).await?;
    }
    answer_made(&engine, made, body.start).await
}

async fn snapshots(
    State(engine): State<Engine>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Vec<MachineSnapshot>>> {
    let view = |one: berth_engine::machines::SnapshotView| MachineSnapshot {
        name: one.name,
        parent: one.parent,
        created_unix_millis: one.created_unix_nanos / 1_000_000,
        current: one.current,
        memory: one.memory,
    };
    Ok(axum::Json(engine.machines().snapshots(&id)?.into_iter().map(view).collect()))
}

async fn snapshot(
    State(engine): State<Engine>,
    asked: Asked,
    Path(id): Path<String>,
    Json(body): Json<NewMachineSnapshot>,
) -> ApiResult<axum::Json<Done>> {
    let of = engine.machines().inspect(&id)?;
    let need = Need::disk(if body.memory { of.memory_bytes } else { 1 });
    let _turn = room_beside(&asked, &of, &[need], false).await?;
    engine.machines().snapshot(&id, &body.name, body.memory).await?;
    Ok(Done::plainly())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RevertQuery {
    disks_only: bool,
}

async fn revert(
    State(engine): State<Engine>,
    Path((id, snapshot)): Path<(String, String)>,
    Query(query): Query<RevertQuery>,
) -> ApiResult<axum::Json<Done>> {
    engine.machines().revert(&id, &snapshot, query.disks_only).await?;
    Ok(Done::plainly())
}

async fn remove_snapshot(
    State(engine): State<Engine>,
    Path((id, snapshot)): Path<(String, String)>,
) -> ApiResult<axum::Json<Done>> {
    engine.machines().remove_snapshot(&id, &snapshot).await?;
    Ok(Done::plainly())
}

async fn screenshot(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Response> {
    let picture = engine.machines().screenshot(&id).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], picture).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_published_as_it_is_written_elsewhere() {
        let (inside, outside) = publish("127.0.0.1:8080:80/udp").unwrap();
        assert_eq!((inside.to_string().as_str(), outside.host_port), ("80/udp", (8080, 8080)));
        assert_eq!(outside.host_ip.unwrap().to_string(), "127.0.0.1");
        assert_eq!(publish("[::1]:1:2").unwrap().1.host_ip.unwrap().to_string(), "::1");
        assert_eq!(publish("80").unwrap().1.host_port, (0, 0));
        for bad in ["", "a:80", "1:0", "x:1:2", "80:"] {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        let with = |change: &dyn Fn(&mut NewMachine)| {
            let mut new = NewMachine::default();
            change(&mut new);
            wish(new)
        };
        assert!(with(&|_| {}).is_ok());
        assert!(with(&|new| new.display = "spice".to_owned()).unwrap_err().hint.is_some());
        assert!(with(&|new| new.restart = "sometimes".to_owned()).unwrap_err().hint.is_some());
        assert!(with(&|new| new.network = "host".to_owned()).is_err());
        let made = with(&|new| new.network = "back".to_owned()).unwrap();
        assert!(made.endpoints.contains_key("back"));
    }
}
