//! One container in memory and on the disk.
//!
//! ```text
//!  store  container/<id>  Record   what it is: changes by rename and update only
//!         run/<id>        Run      where it is in its life: small, written on every change
//!         gone/<id>       Gone     removed, but some of its volumes may still be there
//! ```
//!
//! [`Container`] is both, plus what only lives in memory. Two locks: `ops` orders the operations on one
//! container (start, remove, rename, ...) and may be held across awaits; `live` guards the data for
//! moments. Different containers share neither.

use super::{ExecSpec, MountPoint, State, WaitCondition, WaitOutcome};
use crate::networks::Attachment;
use crate::shim::Shim;
use berth_shim_proto::{ExitRecord, HealthState, LogTarget};
use berth_types::mount::Rootfs;
use berth_types::spec::ContainerSpec;
use berth_types::{ContainerId, Digest, Error, ExecId, Phase, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

pub(crate) const TABLE_CONTAINER: &str = "container";
pub(crate) const TABLE_RUN: &str = "run";
pub(crate) const TABLE_GONE: &str = "gone";

/// Execs whose end is remembered, for clients that ask a moment later.
const EXECS_KEPT_MAX: usize = 128;

/// What a container is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: ContainerId,
    /// Without a slash.
    pub name: String,
    pub created_unix_nanos: i64,
    /// With the image's defaults merged in.
    pub spec: ContainerSpec,
    pub image: Option<Digest>,
    /// `linux/amd64`
    pub platform: String,
    /// Program and arguments.
    pub command: Vec<String>,
    pub mounts: Vec<MountPoint>,
    pub rootfs: Rootfs,
    /// Relative to each cgroup controller's mount.
    pub cgroup: String,
    pub log: LogTarget,
    /// Its first process is a virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<crate::machines::Record>,
    /// It has left the network of its mode: it starts with those of `spec.endpoints` alone.
    #[serde(default)]
    pub parted: bool,
    /// Only there to be cloned: the image of what its files are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Digest>,
    /// Its image has no name and was made for clones.
    #[serde(default)]
    pub cloned: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Run {
    pub phase: Phase,
    /// 0 where it never ran.
    pub started_unix_nanos: i64,
    /// 0 where it never ended.
    pub finished_unix_nanos: i64,
    /// Of the last run, or of the last failed start.
    pub exit_code: i64,
    /// Why the last start failed, or why its end is unknown; empty otherwise.
    pub error: String,
    pub restart_count: u64,
    /// A user asked it to stop: `unless-stopped` leaves it alone after the engine's restart.
    pub stopped_by_user: bool,
    /// Its policy is about to start it again; an engine that comes meanwhile does it.
    pub restart_due: bool,
    pub attachment: Attachment,
    /// How the last run ended, in the shim's words.
    pub last_exit: Option<ExitRecord>,
}

impl Default for Run {
    fn default() -> Run {
        Run {
            phase: Phase::Created,
            started_unix_nanos: 0,
            finished_unix_nanos: 0,
            exit_code: 0,
            error: String::new(),
            restart_count: 0,
            stopped_by_user: false,
            restart_due: false,
            attachment: Attachment::default(),
            last_exit: None,
        }
    }
}

/// What goes with a removed container and does not carry its id: written with the removal, deleted once all of
/// it is gone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Gone {
    /// Anonymous volumes.
    pub volumes: Vec<String>,
}

/// A process of `exec`.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub id: ExecId,
    pub spec: ExecSpec,
    /// 0 before its start.
    pub pid: i32,
    pub started: bool,
    pub exit_code: Option<i64>,
    pub ended: Option<std::time::Instant>,
}

/// An attached client that waits for a start.
pub(crate) struct PendingAttach {
    pub options: super::AttachOptions,
    pub output: tokio::sync::mpsc::Sender<(super::OutputStream, bytes::Bytes)>,
    pub input: Option<tokio::sync::mpsc::Receiver<bytes::Bytes>>,
}

/// What changes.
pub(crate) struct Live {
    pub record: Arc<Record>,
    pub run: Run,
    pub health: Option<HealthState>,
    pub execs: BTreeMap<ExecId, Exec>,
    /// Of the running container.
    pub(crate) shim: Option<Arc<Shim>>,
    pub(crate) waiters: Vec<(WaitCondition, oneshot::Sender<WaitOutcome>)>,
    pub(crate) attaches: Vec<PendingAttach>,
    /// Its restart policy will start it again: the pending task.
    pub(crate) restarting: Option<tokio::task::AbortHandle>,
    pub(crate) backoff: Duration,
    /// No restart by policy after the next exit.
    pub(crate) stop_asked: bool,
    /// When its guest was asked to kill it, which the shim does not hear of.
    pub(crate) guest_killed_unix_nanos: Option<i64>,
    /// An operation stops it in order to start it again: no policy, no automatic removal.
    pub(crate) held: bool,
    pub(crate) removing: bool,
    /// The removal failed half-way.
    pub(crate) dead: bool,
    /// Becomes true once everything of the last run is cleaned away.
    pub(crate) cleaned: watch::Receiver<Cleaning>,
    /// Grows with every exit, for those who wait for the next one.
    pub(crate) exits: watch::Sender<u64>,
    /// The same for execs that are launched or end.
    pub(crate) exec_changes: watch::Sender<u64>,
}

/// What is left of a container's last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleaning {
    /// It goes on, or has ended and is being cleaned away.
    Due,
    /// Its end cannot be written (the disk is full): the shim keeps it until it can.
    Unwritten,
    Done,
}

/// One container. See the module's comment for its locks.
pub(crate) struct Container {
    pub id: ContainerId,
    pub(crate) ops: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
}

impl Container {
    pub(crate) fn new(record: Record, run: Run) -> Arc<Container> {
        let (_, cleaned) = watch::channel(Cleaning::Done);
        let (exits, _) = watch::channel(0);
        let (exec_changes, _) = watch::channel(0);
        // An engine that was killed while it stopped this container is not to be undone by the policy.
        let stop_asked = run.stopped_by_user && run.phase.pid().is_some();
        Arc::new(Container {
            id: record.id.clone(),
            ops: tokio::sync::Mutex::new(()),
            live: Mutex::new(Live {
                record: Arc::new(record),
                run,
                health: None,
                execs: BTreeMap::new(),
                shim: None,
                waiters: Vec::new(),
                attaches: Vec::new(),
                restarting: None,
                backoff: Duration::ZERO,
                stop_asked,
                guest_killed_unix_nanos: None,
                held: false,
                removing: false,
                dead: false,
                cleaned,
                exits,
                exec_changes,
            }),
        })
    }

    /// For moments; never across an await.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn record(&self) -> Arc<Record> {
        self.live().record.clone()
    }

    pub(crate) fn name(&self) -> String {
        self.live().record.name.clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.live().run.phase
    }

    /// How its last run ended.
    pub(crate) fn last_exit(&self) -> Option<ExitRecord> {
        self.live().run.last_exit.clone()
    }

    /// The connection to its shim, or Docker's refusal where it does not run.
    pub(crate) fn shim(&self) -> Result<Arc<Shim>> {
        let live = self.live();
        match (&live.shim, live.run.phase) {
            (Some(shim), Phase::Running { .. } | Phase::Paused { .. }) => Ok(shim.clone()),
            _ => Err(not_running(&self.id)),
        }
    }
}

pub(crate) fn not_running(id: &ContainerId) -> Error {
    Error::conflict(format!("container {id} is not running"))
}

impl Live {
    pub(crate) fn state(&self) -> State {
        let run = &self.run;
        State {
            phase: if self.removing { Phase::Removing } else { run.phase },
            restarting: self.is_restarting(),
            started_unix_nanos: run.started_unix_nanos,
            finished_unix_nanos: run.finished_unix_nanos,
            error: run.error.clone(),
            exit_code: if run.phase.pid().is_some() { 0 } else { run.exit_code },
            oom_killed: matches!(run.phase, Phase::Exited { oom_killed: true, .. }),
            dead: self.dead,
            health: self.health.clone(),
            template: self.record.template.is_some(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.run.phase.pid().is_some()
    }

    /// Between two runs: from its end until its policy has started it again.
    pub(crate) fn is_restarting(&self) -> bool {
        self.run.restart_due && !self.is_running()
    }

    /// Records that an exec runs.
    pub(crate) fn exec_launched(&mut self, id: &ExecId, pid: i32) {
        if let Some(exec) = self.execs.get_mut(id) {
            exec.pid = pid;
        }
        self.exec_changes.send_modify(|count| *count += 1);
    }

    /// Records how an exec ended; false where nobody knows of it.
    pub(crate) fn exec_ended(&mut self, id: &ExecId, code: i64) -> bool {
        let known = self.execs.get_mut(id).map(|exec| {
            exec.exit_code = Some(code);
            exec.ended = Some(std::time::Instant::now());
        });
        self.exec_changes.send_modify(|count| *count += 1);
        known.is_some()
    }

    /// Forgets the oldest of the execs that have ended, so that a probe every second does not pile up; answers
    /// who was forgotten.
    pub(crate) fn forget_old_execs(&mut self) -> Vec<ExecId> {
        let ended = self.execs.values().filter_map(|exec| Some((exec.ended?, exec.id.clone())));
        let mut ended: Vec<_> = ended.collect();
        let Some(many) = ended.len().checked_sub(EXECS_KEPT_MAX).filter(|many| *many > 0) else { return Vec::new() };
        ended.sort();
        let old: Vec<ExecId> = ended.into_iter().take(many).map(|(_, id)| id).collect();
        for id in &old {
            self.execs.remove(id);
        }
        old
    }

    /// Takes those out who wait for an end that has come or will not come any more.
    pub(crate) fn answer_waiters(&mut self, over: impl Fn(WaitCondition) -> bool) {
        let outcome = WaitOutcome { exit_code: self.run.exit_code, error: None };
        for (condition, waiter) in std::mem::take(&mut self.waiters) {
            if over(condition) {
                // Whoever waited may have gone.
                waiter.send(outcome.clone()).ok();
            } else {
                self.waiters.push((condition, waiter));
            }
        }
    }
}

/// Files of one container.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub folder: PathBuf,
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    /// What its shim needs without the engine.
    pub shim: PathBuf,
}

impl Paths {
    pub(crate) fn new(config: &crate::EngineConfig, id: &ContainerId) -> Paths {
        let folder = config.data_root.join("containers").join(id.as_str());
        Paths {
            hostname: folder.join("hostname"),
            hosts: folder.join("hosts"),
            resolv_conf: folder.join("resolv.conf"),
            shim: shims_folder(config).join(id.as_str()),
            folder,
        }
    }
}

pub(crate) fn shims_folder(config: &crate::EngineConfig) -> PathBuf {
    config.exec_root.join("shims")
}

/// Where a container's log is, by its driver.
pub(crate) fn log_path(folder: &Path, id: &ContainerId, driver: &str) -> PathBuf {
    match driver {
        "local" => folder.join("local-logs").join("container.log"),
        _ => folder.join(format!("{id}-json.log")),
    }
}

/// All containers of the engine, by id and by name.
#[derive(Default)]
pub(crate) struct Table {
    inner: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Names taken, also by containers that are just being made.
    names: HashMap<String, ContainerId>,
    execs: HashMap<String, ContainerId>,
    /// Those that were made with links: few, and asked for at each start of any other.
    linking: BTreeMap<String, Arc<Container>>,
}

impl Table {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What a name, id or unique prefix of an id means.
    pub(crate) fn get(&self, reference: &str) -> Result<Arc<Container>> {
        let missing = || Error::not_found(format!("No such container: {reference}"));
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let index = self.read();
        if let Some(found) = index.by_id.get(bare) {
            return Ok(found.clone());
        }
        if let Some(found) = index.names.get(bare).and_then(|id| index.by_id.get(id.as_str())) {
            return Ok(found.clone());
        }
        if bare.is_empty() {
            return Err(missing());
        }
        let mut matches = index.by_id.range(bare.to_owned()..).take_while(|(id, _)| id.starts_with(bare));
        match (matches.next(), matches.next()) {
            (Some((_, found)), None) => Ok(found.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("multiple IDs found with provided prefix: {reference}"))),
            (None, _) => Err(missing()),
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    pub(crate) fn linking(&self) -> Vec<Arc<Container>> {
        self.read().linking.values().cloned().collect()
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.read().by_id.contains_key(id)
    }

    /// Takes `name` for `id`, or Docker's conflict.
    pub(crate) fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut index = self.write();
        match index.names.get(name) {
            Some(holder) if holder != id => Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            ))),
            _ => {
                index.names.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives a name back, if it is `id`'s.
    pub(crate) fn release(&self, name: &str, id: &ContainerId) {
        let mut index = self.write();
        if index.names.get(name) == Some(id) {
            index.names.remove(name);
        }
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        let record = container.record();
        let mut index = self.write();
        index.names.insert(record.name.clone(), container.id.clone());
        if !record.spec.host.links.is_empty() {
            index.linking.insert(container.id.to_string(), container.clone());
        }
        index.by_id.insert(container.id.to_string(), container);
    }

    pub(crate) fn remove(&self, container: &Container) {
        let name = container.name();
        let mut index = self.write();
        if index.names.get(&name) == Some(&container.id) {
            index.names.remove(&name);
        }
        index.execs.retain(|_, owner| *owner != container.id);
        index.linking.remove(container.id.as_str());
        index.by_id.remove(container.id.as_str());
    }

    pub(crate) fn add_exec(&self, exec: &ExecId, container: &ContainerId) {
        self.write().execs.insert(exec.to_string(), container.clone());
    }

    pub(crate) fn drop_exec(&self, exec: &ExecId) {
        self.write().execs.remove(exec.as_str());
    }

    /// The container of an exec, by the exec's full id.
    pub(crate) fn of_exec(&self, exec: &str) -> Result<(Arc<Container>, ExecId)> {
        let missing = || Error::not_found(format!("No such exec instance: {exec}"));
        let id: ExecId = exec.parse().map_err(|_| missing())?;
        let index = self.read();
        let container = index.execs.get(exec).and_then(|id| index.by_id.get(id.as_str())).ok_or_else(missing)?;
        Ok((container.clone(), id))
    }
}

/// 32 bytes of the kernel's random source.
pub(crate) fn random_bytes() -> Result<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|errno| {
        Error::because(berth_types::ErrorKind::Internal, "no random bytes", &std::io::Error::from(errno))
    })?;
    Ok(bytes)
}
