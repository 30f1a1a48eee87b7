//! Snapshots, templates and linked clones: one operation, [`freeze`].
//!
//! ```text
//!  before     disk0.qcow2 ─> base A
//!  freeze     disk0-1.qcow2 ─> bases/<random>.qcow2 (what disk0.qcow2 was) ─> base A
//! ```
//!
//! What a disk held becomes a base that nobody writes any more, and the machine goes on in an empty overlay over it.
//! A snapshot is the list of bases at that moment, a clone another overlay over them, a template a machine that
//! does not go on. A base stays while any record names it, so a template or snapshot can be removed at any time
//! and nothing that stands on it is hurt.
//!
//! ```text
//!  link bases/<random> to the file   make the overlay   RECORD   a running QEMU turns to it   the old name goes
//! ```
//!
//! Killed before the record, the link is a base that nobody names and goes. Killed after it, a running QEMU still
//! writes to what the record calls a base; the next start finds all that it wrote there, under an empty overlay.

use super::bases::Pin;
use super::guest::Still;
use super::moments::{MomentPin, Resume, SAVE_SECONDS_MAX, Unfinished, check_saved};
use super::monitor::told;
use super::record::{Base, BaseFormat, DiskRecord, Record, Snapshot, SnapshotDisk};
use super::types::SnapshotView;
use super::{Machines, create, plug, start};
use crate::containers::{Container, Created, Wish, blocking};
use berth_types::spec::{ContainerSpec, EndpointSpec};
use berth_types::{ContainerId, Error, ErrorKind, Phase, Result};
use berth_vm::qmp::{Client, QmpError};
use berth_vm::spec::{DiskKind, MACHINE};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SNAPSHOTS_MAX: usize = 256;
/// Each base is a file that QEMU holds open, and one more to look in for every block.
const CHAIN_MAX: usize = 64;
/// Turning to new overlays waits for writes under way.
const TURN_SECONDS_MAX: u64 = 30;

/// Disks frozen on the disk, not yet in the record.
struct Frozen {
    record: Record,
    /// Names that only the old record has.
    old: Vec<PathBuf>,
    /// Files that only the new one has: removed where it is not stored.
    new: Vec<PathBuf>,
    /// Of each disk: its node in a running QEMU and the next one.
    nodes: Vec<(String, String)>,
    pins: Vec<Pin>,
}

impl Frozen {
    fn take_back(&self) {
        for path in &self.new {
            // What stays is swept with the machine.
            std::fs::remove_file(path).ok();
        }
    }
}

pub(super) fn random_name() -> Result<String> {
    Ok(berth_types::digest::hex(&crate::containers::random_bytes()?))
}

/// The next file of a disk; no name comes twice in a machine's life.
pub(super) fn next_file(record: &mut Record, disk: &str) -> String {
    record.files += 1;
    format!("{disk}-{}.qcow2", record.files)
}

/// See the module's comment. `record` is the machine's as it is stored.
fn freeze(machines: &Machines, id: &ContainerId, record: &Record, running: bool) -> Result<Frozen> {
    let shared = machines.engine.machine_state();
    let folder = start::folder(&machines.engine, id);
    let mut frozen =
        Frozen { record: record.clone(), old: Vec::new(), new: Vec::new(), nodes: Vec::new(), pins: Vec::new() };
    let mut each = || -> Result<()> {
        for at in 0..frozen.record.disks.len() {
            let disk = frozen.record.disks[at].clone();
            let (Some(file), DiskKind::Disk) = (&disk.file, disk.kind) else { continue };
            if disk.bases.len() >= CHAIN_MAX {
                return Err(Error::conflict(format!(
                    "{} stands on {CHAIN_MAX} layers already: one more would make it slow",
                    disk.name
                )));
            }
            let base = Base { digest: random_name()?, format: BaseFormat::Qcow2 };
            frozen.pins.push(shared.pin(base.clone()));
            let (from, to) = (folder.join(file), shared.path(&base));
            std::fs::hard_link(&from, &to).map_err(|cause| start::cannot_write(&to, &cause))?;
            frozen.new.push(to.clone());
            match running {
                // QEMU opens it for writing again, and does not write: closed to it with the next start.
                true => start::share(&to, start::user(id))?,
                false => start::seal(&to, None)?,
            }
            let next = next_file(&mut frozen.record, &disk.name);
            create::make_overlay(&folder.join(&next), disk.size_bytes, Some(&base))?;
            frozen.new.push(folder.join(&next));
            start::seal(&folder.join(&next), Some(start::user(id)))?;
            frozen.old.push(from);
            frozen.nodes.push((start::node_of(file), start::node_of(&next)));
            let disk = &mut frozen.record.disks[at];
            disk.bases.insert(0, base);
            disk.file = Some(next);
        }
        Ok(())
    };
    match each() {
        Ok(()) => Ok(frozen),
        Err(error) => {
            frozen.take_back();
            Err(error)
        }
    }
}

/// What must stay until a record names it.
pub(super) struct Kept {
    pub(super) _bases: Vec<Pin>,
    pub(super) _moment: Option<MomentPin>,
}

/// Where a machine stands that could not be frozen whole.
enum Stayed {
    AsBefore(Error),
    Turned(Error),
}

fn turn_nodes(monitor: &mut Client, nodes: &[(String, String)]) -> std::result::Result<(), QmpError> {
    let mut actions = Vec::new();
    for (node, next) in nodes {
        let file = format!("{MACHINE}/{next}.qcow2");
        let overlay = json!({
            "driver": "qcow2", "node-name": next, "backing": null, "discard": "unmap",
            "file": {"driver": "file", "filename": file, "discard": "unmap"},
        });
        monitor.ask("blockdev-add", overlay)?;
        actions.push(json!({"type": "blockdev-snapshot", "data": {"node": node, "overlay": next}}));
    }
    match actions.is_empty() {
        true => Ok(()),
        false => monitor.ask("transaction", json!({"actions": actions})).map(drop),
    }
}

impl Machines {
    pub(super) fn machine_of(&self, container: &Container) -> Result<Record> {
        container.record().machine.clone().ok_or_else(|| Error::internal("a machine's record has lost the machine"))
    }

    /// Stores another record of a machine. The caller holds its lock.
    pub(super) async fn store(&self, container: &Arc<Container>, machine: Record) -> Result<()> {
        let mut record = (*container.record()).clone();
        record.machine = Some(machine);
        self.containers().store_record(&record).await?;
        container.live().record = Arc::new(record);
        Ok(())
    }

    /// Freezes the disks of `wanted`, which may be larger than those that the machine has, with `change` in the same
    /// record. The caller holds the machine's lock. With `moment` the machine's state and memory of the same moment are
    /// saved; it must run.
    pub(super) async fn freeze(
        &self,
        container: &Arc<Container>,
        wanted: Record,
        moment: Option<Unfinished>,
        change: impl FnOnce(&mut Record),
    ) -> Result<Kept> {
        let before = self.machine_of(container)?;
        let running = match container.phase() {
            Phase::Running { .. } => true,
            Phase::Created | Phase::Exited { .. } => false,
            Phase::Paused { .. } | Phase::Removing => {
                return Err(Error::conflict(format!("machine {} is neither running nor stopped", container.name())));
            }
        };
        let (machines, id, of) = (self.clone(), container.id.clone(), wanted);
        let mut frozen = blocking(move || freeze(&machines, &id, &of, running)).await?;
        let unchanged = frozen.record.clone();
        change(&mut frozen.record);
        if let Err(error) = self.store(container, frozen.record.clone()).await {
            frozen.take_back();
            return Err(error);
        }
        // A memory that is saved too has what was not written yet.
        let still = match running && moment.is_none() {
            true => Still::hold(&self.engine, container).await,
            false => None,
        };
        let turned = match running {
            true => self.turn(container, &frozen.nodes, moment).await,
            false => Ok(None),
        };
        if let Some(still) = still {
            still.let_go().await;
        }
        let moment = match turned {
            Ok(moment) => moment,
            Err(Stayed::AsBefore(error)) => {
                // QEMU goes on as before, and so does the record.
                self.store(container, before).await?;
                frozen.take_back();
                return Err(error);
            }
            Err(Stayed::Turned(error)) => {
                // Its disks have turned, and nothing else has come of it.
                self.store(container, unchanged).await?;
                return Err(error);
            }
        };
        // A running QEMU opens its files by name again when they become read-only: the next start sweeps them.
        for path in frozen.old.iter().filter(|_| !running) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a frozen disk keeps its old name");
            }
        }
        Ok(Kept { _bases: frozen.pins, _moment: moment })
    }

    /// Lets a running QEMU write to the new overlays, all disks at one moment; saves what else is of that moment.
    async fn turn(
        &self,
        container: &Arc<Container>,
        nodes: &[(String, String)],
        moment: Option<Unfinished>,
    ) -> std::result::Result<Option<MomentPin>, Stayed> {
        let nodes = nodes.to_vec();
        let Phase::Running { pid: init } = container.phase() else {
            return Err(Stayed::AsBefore(Error::conflict(format!("machine {} has ended", container.name()))));
        };
        let seconds = if moment.is_some() { SAVE_SECONDS_MAX } else { TURN_SECONDS_MAX };
        let talk = move |monitor: &mut Client| {
            let Some(moment) = moment else { return turn_nodes(monitor, &nodes).map(|()| Ok(None)) };
            monitor.ask("stop", json!({}))?;
            let done = turn_nodes(monitor, &nodes).map(|()| moment.save(monitor, init));
            // Whatever came of it, the guest goes on; it has waited long enough.
            let going = monitor.ask("cont", json!({}));
            let saved = done?;
            Ok(saved.and_then(|()| going.map_err(|error| told(&error))).map(|_| Some(moment)))
        };
        let moment = self.ask(container, seconds, talk).await.map_err(Stayed::AsBefore)?.map_err(Stayed::Turned)?;
        let Some(moment) = moment else { return Ok(None) };
        blocking(move || moment.keep()).await.map_err(Stayed::Turned)
    }

    /// Remembers what its disks hold now, also while it runs; with `memory` also where it stands, so that it goes on from
    /// there when it is put back.
    pub async fn snapshot(&self, machine: &str, name: &str, memory: bool) -> Result<()> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        // As a container's, and also a single letter: nobody else can mean it.
        let single = name.len() == 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !single && crate::containers::check_name(name).is_err() {
            return Err(Error::invalid(format!(
                "invalid snapshot name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed"
            )));
        }
        let record = self.machine_of(&found)?;
        if record.snapshots.iter().any(|one| one.name == name) {
            return Err(Error::conflict(format!("machine {} has a snapshot {name} already", found.name())));
        }
        if record.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(Error::conflict(format!("machine {} has {SNAPSHOTS_MAX} snapshots", found.name())));
        }
        if record.template {
            return Err(Error::conflict(format!("machine {} is a template: it does not change", found.name())));
        }
        let (name, made) = (name.to_owned(), crate::events::now_unix_nanos());
        let unfinished = if memory { Some(self.begin_moment(&found).await?) } else { None };
        let moment = unfinished.as_ref().map(|unfinished| unfinished.moment.clone());
        let pins = self.freeze(&found, record, unfinished, move |record| {
            let disks = record.disks.iter().filter(|disk| disk.kind == DiskKind::Disk);
            let disks = disks
                .map(|disk| SnapshotDisk {
                    name: disk.name.clone(),
                    bases: disk.bases.clone(),
                    size_bytes: disk.size_bytes,
                    port: disk.port,
                })
                .collect();
            let parent = record.at.replace(name.clone());
            record.snapshots.push(Snapshot { name, parent, created_unix_nanos: made, disks, moment });
        });
        drop(pins.await.map_err(|error| error.context(format!("cannot make a snapshot of machine {machine}")))?);
        Ok(())
    }

    /// All, oldest first.
    pub fn snapshots(&self, machine: &str) -> Result<Vec<SnapshotView>> {
        let record = self.machine_of(&*self.get(machine)?)?;
        let view = |one: Snapshot| SnapshotView {
            current: record.at.as_ref() == Some(&one.name),
            name: one.name,
            parent: one.parent,
            created_unix_nanos: one.created_unix_nanos,
            memory: one.moment.as_ref().is_some_and(|moment| self.engine.machine_state().is_saved(moment)),
        };
        Ok(record.snapshots.iter().cloned().map(view).collect())
    }

    /// Puts its disks back to what a snapshot remembers; what was written since is gone. It must be stopped. Where the
    /// snapshot has memory, the next start goes on from there, unless only the disks are wanted.
    pub async fn revert(&self, machine: &str, snapshot: &str, disks_only: bool) -> Result<()> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        self.must_be_stopped(&found, "go back to a snapshot")?;
        let before = self.machine_of(&found)?;
        let target = find(&before, snapshot, &found)?.clone();
        let moment = target.moment.clone().filter(|_| !disks_only);
        if let Some(moment) = &moment {
            check_saved(self.engine.machine_state(), moment).await?;
            let disks = before.disks.iter().filter(|disk| disk.kind == DiskKind::Disk);
            let since =
                disks.map(|disk| &disk.name).find(|name| !target.disks.iter().any(|saved| saved.name == **name));
            if let Some(name) = since {
                return Err(Error::conflict(format!(
                    "machine {} has {name}, which snapshot {snapshot} has not: its memory would not fit",
                    found.name()
                ))
                    .with_hint(format!(
                        "berth vm update --remove-disk {name} {machine}, or berth vm revert --disks-only {machine} {snapshot}"
                    )));
            }
        }
        let (machines, id, name) = (self.clone(), found.id.clone(), snapshot.to_owned());
        let (record, old, new) = blocking(move || {
            let folder = start::folder(&machines.engine, &id);
            let (mut record, mut old, mut new) = (before, Vec::new(), Vec::new());
            for saved in &target.disks {
                let next = next_file(&mut record, &saved.name);
                create::make_overlay(&folder.join(&next), saved.size_bytes, saved.bases.first())?;
                new.push(folder.join(&next));
                start::seal(&folder.join(&next), Some(start::user(&id)))?;
                let limits = record.disks.iter().find(|disk| disk.name == saved.name).map(|disk| disk.limits);
                let now = DiskRecord {
                    name: saved.name.clone(),
                    file: Some(next),
                    bases: saved.bases.clone(),
                    size_bytes: saved.size_bytes,
                    kind: DiskKind::Disk,
                    port: saved.port,
                    limits: limits.unwrap_or_default(),
                };
                // One that was removed since comes back.
                match record.disks.iter_mut().find(|disk| disk.name == saved.name) {
                    Some(disk) => old.extend(std::mem::replace(disk, now).file.map(|file| folder.join(file))),
                    None => record.disks.push(now),
                }
            }
            plug::in_order(&mut record.disks);
            record.at = Some(name);
            if let Some(moment) = &moment {
                (record.cpus, record.memory_bytes) = (moment.cpus(), moment.total_bytes());
            }
            record.resume = moment.map(|moment| Resume { moment, fork: false });
            Ok((record, old, new))
        })
        .await?;
        let stored = self.store_changed(&found, record).await;
        for path in if stored.is_ok() { old } else { new } {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a disk that nobody has stays");
            }
        }
        self.collect_bases(false);
        stored
    }

    /// Forgets a snapshot, also one in the middle; what others need of it stays.
    pub async fn remove_snapshot(&self, machine: &str, snapshot: &str) -> Result<()> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        let mut record = self.machine_of(&found)?;
        let gone = find(&record, snapshot, &found)?.clone();
        record.snapshots.retain(|one| one.name != gone.name);
        let after = |name: &mut Option<String>| {
            if name.as_ref() == Some(&gone.name) {
                name.clone_from(&gone.parent);
            }
        };
        record.snapshots.iter_mut().for_each(|one| after(&mut one.parent));
        after(&mut record.at);
        self.store(&found, record).await?;
        self.collect_bases(false);
        Ok(())
    }

    /// From now on it is only there to be cloned.
    pub async fn template(&self, machine: &str) -> Result<()> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        if self.machine_of(&found)?.template {
            return Ok(());
        }
        self.must_be_stopped(&found, "become a template")?;
        drop(self.freeze(&found, self.machine_of(&found)?, None, |record| record.template = true).await?);
        Ok(())
    }

    /// Another machine that begins with what this one's disks hold now, also while it runs. It has processors, memory and
    /// networks of the same kind, and addresses, hardware addresses and published ports of its own.
    /// With `snapshot` it begins with what that one holds.
    pub async fn clone_machine(&self, machine: &str, name: Option<String>, snapshot: Option<&str>) -> Result<Created> {
        let found = self.get(machine)?;
        let (source, spec, pins) = {
            let _ops = found.ops.lock().await;
            let before = self.machine_of(&found)?;
            let saved = snapshot.map(|name| find(&before, name, &found)).transpose()?.cloned();
            let pins = if before.template || saved.is_some() {
                self.pin_all(&found)?
            } else {
                self.freeze(&found, self.machine_of(&found)?, None, |_| {}).await?._bases
            };
            let mut source = Record { resume: None, ..self.machine_of(&found)? };
            for saved in saved.iter().flat_map(|saved| &saved.disks) {
                for disk in source.disks.iter_mut().filter(|disk| disk.name == saved.name) {
                    (disk.bases, disk.size_bytes) = (saved.bases.clone(), saved.size_bytes);
                }
            }
            (source, found.record().spec.clone(), pins)
        };
        let (machines, from) = (self.clone(), found.id.clone());
        let furnish = move |id: &ContainerId, spec: &mut ContainerSpec| {
            let _kept_until_done = pins;
            furnish(&machines, &from, source, id, spec)
        };
        self.containers().create_machine(name, like(spec), Wish(Box::new(furnish))).await
    }

    /// Keeps what a machine stands on while something is made of it.
    pub(super) fn pin_all(&self, container: &Container) -> Result<Vec<Pin>> {
        let shared = self.engine.machine_state();
        Ok(self.machine_of(container)?.bases().map(|base| shared.pin(base.clone())).collect())
    }

    pub(super) fn must_be_stopped(&self, container: &Container, what: &str) -> Result<()> {
        match container.phase() {
            Phase::Created | Phase::Exited { .. } => Ok(()),
            _ => Err(Error::conflict(format!("machine {} runs: only a stopped one can {what}", container.name()))
                .with_hint(format!("berth vm stop {}", container.name()))),
        }
    }
}

fn find<'a>(record: &'a Record, snapshot: &str, of: &Container) -> Result<&'a Snapshot> {
    let found = record.snapshots.iter().find(|one| one.name == snapshot);
    found.ok_or_else(|| {
        Error::not_found(format!("machine {} has no snapshot {snapshot}", of.name()))
            .with_hint(format!("berth vm snapshots {} lists them", of.name()))
    })
}

/// The specification without what only one machine can have.
pub(super) fn like(mut spec: ContainerSpec) -> ContainerSpec {
    spec.config.hostname.clear();
    spec.host.port_bindings.clear();
    for endpoint in spec.endpoints.values_mut() {
        *endpoint = EndpointSpec { gateway_priority: endpoint.gateway_priority, ..EndpointSpec::default() };
    }
    spec
}

/// A clone's folder: overlays over its origin's bases, copies of the small files.
pub(super) fn furnish(
    machines: &Machines,
    from: &ContainerId,
    source: Record,
    id: &ContainerId,
    spec: &mut ContainerSpec,
) -> Result<create::Furnished> {
    let (engine, owner) = (&machines.engine, start::user(id));
    let shared = engine.machine_state();
    let (theirs, folder) = (start::folder(engine, from), start::folder(engine, id));
    std::fs::create_dir_all(&folder).map_err(|cause| start::cannot_write(&folder, &cause))?;
    std::os::unix::fs::chown(&folder, Some(owner), Some(owner))
        .map_err(|cause| start::cannot_write(&folder, &cause))?;
    let mut record = Record {
        uuid: start::uuid()?,
        template: false,
        snapshots: Vec::new(),
        at: None,
        files: 0,
        moment: None,
        ..source
    };
    let pins = record.bases().map(|base| shared.pin(base.clone())).collect();
    for disk in record.disks.iter_mut().filter(|disk| disk.kind == DiskKind::Disk) {
        let file = format!("{}.qcow2", disk.name);
        create::make_overlay(&folder.join(&file), disk.size_bytes, disk.bases.first())?;
        start::seal(&folder.join(&file), Some(owner))?;
        disk.file = Some(file);
    }
    let own = |name: &str, owner| copy(&theirs.join(name), &folder.join(name), owner);
    if let Some(kernel) = &record.kernel {
        own(create::KERNEL, None)?;
        if kernel.initrd {
            own(create::INITRD, None)?;
        }
    }
    if record.uefi {
        own(create::VARIABLES, Some(owner))?;
    }
    create::finish_specification(engine, id, spec)?;
    Ok(create::Furnished { record, _pins: pins })
}

/// Copies a file out of a machine's folder: a link in its place leads nowhere.
fn copy(from: &Path, to: &Path, owner: Option<u32>) -> Result<()> {
    let mut source = start::open_own(from)?;
    let mut target = std::fs::File::create_new(to).map_err(|cause| start::cannot_write(to, &cause))?;
    std::io::copy(&mut source, &mut target)
        .map_err(|cause| Error::because(ErrorKind::Internal, format!("cannot copy {}", from.display()), &cause))?;
    start::seal(to, owner)
}
