//! A running machine's state and memory, saved: what snapshots with memory, templates that run and forks begin with.
//!
//! ```text
//!  machines/moments/<64 digits>/state     devices and processors, as QEMU writes them when it migrates
//!                               memory    the guest's memory, with holes; absent where it is part of the state
//!  machines/moments/.new-<n>/             being written
//! ```
//!
//! The guest stands still from `stop` to `cont`; in between its disks turn to new overlays ([`super::history`]), the
//! state is written, and the memory is copied out of the file in memory that QEMU maps. Its devices are a few hundred
//! kilobytes. A machine that maps another's memory copy-on-write has no such file: QEMU then writes all of it into the
//! state.
//!
//! A machine begins with a moment in one of two ways. A revert copies the memory into a new file, the machine's own. A
//! fork maps one sealed file in memory, which all forks of a moment share and none can change; it is kept here for
//! the last few moments.
//!
//! A moment is used once for each disk that was made for it: the record forgets it before the start, because a disk
//! that has been written to does not fit the memory any more.

use super::scale::Shape;
use super::start::cannot_write;
use super::{Machines, bases::Shared};
use crate::Engine;
use crate::containers::{Container, Outcome, blocking};
use berth_types::spec::Resources;
use berth_types::{ContainerId, Error, ErrorKind, Phase, Result};
use berth_vm::qmp::{Client, QmpError};
use berth_vm::restore;
use berth_vm::spec::{Mapped, START_SOCKET, Start};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const STATE: &str = "state";
const MEMORY: &str = "memory";
const NEW: &str = ".new-";
/// What QEMU writes beside the guest's memory: devices, and the memory of a graphics card.
const STATE_BESIDE_MEMORY_BYTES_MAX: u64 = 256 << 20;
pub(super) const SAVE_SECONDS_MAX: u64 = 900;
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A machine's first process asks for its state as soon as it runs; a loaded host starts it slowly.
const ASKED_SECONDS_MAX: u64 = 120;
/// Sealed memory that is kept mapped for the next fork.
const SEALED_MAX: usize = 4;
const COPY_BYTES: usize = 1 << 20;
/// Smaller runs of zeros are written.
const HOLE_BYTES: usize = 16 << 10;

/// A saved moment, as records name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// 64 random hexadecimal digits.
    pub name: String,
    /// What the state was written with: another machine cannot read it.
    pub cpus: u16,
    pub memory_bytes: u64,
    /// Room for more, and what of it was in use: that is part of the state.
    #[serde(default)]
    pub cpus_max: u16,
    #[serde(default)]
    pub memory_room_bytes: u64,
    #[serde(default)]
    pub memory_added_bytes: u64,
    /// What the guest had of all of it; 0: all.
    #[serde(default)]
    pub memory_total_bytes: u64,
    #[serde(default)]
    pub cpus_used: u16,
    /// The guest's agent answered then.
    #[serde(default)]
    pub agent: bool,
}

impl Moment {
    /// What its machine has from then on.
    pub(super) fn total_bytes(&self) -> u64 {
        if self.memory_total_bytes == 0 { self.memory_bytes } else { self.memory_total_bytes }
    }

    pub(super) fn cpus(&self) -> u16 {
        if self.cpus_used == 0 { self.cpus } else { self.cpus_used }
    }

    /// What its machine's jail needs.
    pub(super) fn limit(&self, limits: &mut Resources) {
        let memory = self.total_bytes().max(self.memory_bytes + self.memory_added_bytes);
        let (memory, pids) = super::limits_of_jail(self.cpus, memory);
        (limits.memory_bytes, limits.pids_limit) = (memory, Some(pids));
    }

    /// Of all that it can hold, a state is not larger.
    fn state_bytes_max(&self) -> u64 {
        self.memory_bytes + self.memory_added_bytes + STATE_BESIDE_MEMORY_BYTES_MAX
    }
}

/// What a machine's next start begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resume {
    pub moment: Moment,
    /// The moment is another machine's.
    pub fork: bool,
}

/// A start that is under way with a moment.
pub(crate) struct Beginning {
    resume: Resume,
    told: tokio::sync::oneshot::Sender<Result<()>>,
}

/// What all machines share of it.
#[derive(Default)]
pub(crate) struct Moments {
    beginning: Mutex<BTreeMap<ContainerId, Beginning>>,
    sealed: Mutex<Vec<(String, Arc<OwnedFd>)>>,
    pins: Mutex<BTreeMap<String, usize>>,
}

/// Keeps a moment until a record names it.
pub(crate) struct MomentPin {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for MomentPin {
    fn drop(&mut self) {
        let mut pins = locked(&self.shared.moments.pins);
        if let Some(count) = pins.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |cause| {
        let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
        Error::because(kind, format!("cannot {action}"), &cause)
    }
}

impl Shared {
    fn moments_folder(&self) -> PathBuf {
        self.root().join("moments")
    }

    pub(super) fn moment_folder(&self, moment: &str) -> PathBuf {
        self.moments_folder().join(moment)
    }

    /// An engine that was killed while it saved has left the name and nothing else.
    pub(super) fn is_saved(&self, moment: &Moment) -> bool {
        self.moment_folder(&moment.name).join(STATE).exists()
    }

    pub(super) fn pin_moment(self: &Arc<Shared>, name: &str) -> MomentPin {
        *locked(&self.moments.pins).entry(name.to_owned()).or_default() += 1;
        MomentPin { shared: self.clone(), name: name.to_owned() }
    }

    /// Removes moments that neither a record nor a pin keeps.
    pub(super) fn collect_moments(&self, kept: &BTreeSet<String>, all: bool) {
        let pins = locked(&self.moments.pins);
        for entry in std::fs::read_dir(self.moments_folder()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let unfinished = name.strip_prefix(NEW);
            let pinned = pins.contains_key(unfinished.unwrap_or(name));
            let gone = if unfinished.is_some() { all && !pinned } else { !kept.contains(name) && !pinned };
            if gone && let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(moment = name, %error, "a saved state that nobody has stays");
            }
        }
        locked(&self.moments.sealed).retain(|(name, _)| kept.contains(name) || pins.contains_key(name));
    }

    /// The memory of a moment as a sealed file in memory, the same for all that ask.
    fn sealed(&self, moment: &Moment) -> Result<Option<Arc<OwnedFd>>> {
        let mut sealed = locked(&self.moments.sealed);
        if let Some((_, memory)) = sealed.iter().find(|(name, _)| *name == moment.name) {
            return Ok(Some(memory.clone()));
        }
        let Some(memory) = self.memory(moment)? else { return Ok(None) };
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals).map_err(|errno| failed("seal memory")(errno.into()))?;
        let memory = Arc::new(memory);
        sealed.push((moment.name.clone(), memory.clone()));
        if sealed.len() > SEALED_MAX {
            sealed.remove(0);
        }
        Ok(Some(memory))
    }

    /// A copy of a moment's memory in a new file in memory; `None` where it is part of the state.
    fn memory(&self, moment: &Moment) -> Result<Option<OwnedFd>> {
        let path = self.moment_folder(&moment.name).join(MEMORY);
        let from = match File::open(&path) {
            Ok(from) => from,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed("open the saved memory")(cause)),
        };
        let bytes = from.metadata().map_err(failed("look at the saved memory"))?.len();
        if bytes != moment.memory_bytes {
            return Err(Error::new(ErrorKind::DataLoss, "the saved memory has lost a part"));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("berth-memory", flags)
            .map_err(|errno| failed("make a file in memory")(errno.into()))?;
        let to = File::from(memory);
        to.set_len(bytes).map_err(failed("make a file in memory"))?;
        copy_data(&from, &to, bytes).map_err(failed("copy the saved memory"))?;
        // The machine's user opens it anew, by its number.
        to.set_permissions(std::fs::Permissions::from_mode(0o666)).map_err(failed("make a file in memory"))?;
        Ok(Some(to.into()))
    }
}

/// Copies what is no hole and no zeros.
fn copy_data(from: &File, to: &File, bytes: u64) -> std::io::Result<()> {
    let mut part = vec![0_u8; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(at))?.min(bytes);
        while at < hole {
            let wanted = usize::try_from(hole - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let count = from.read_at(&mut part[..wanted], at)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            for piece in part[..count].chunks(HOLE_BYTES) {
                if piece.iter().any(|byte| *byte != 0) {
                    to.write_all_at(piece, at)?;
                }
                at += piece.len() as u64;
            }
        }
    }
    Ok(())
}

/// The file in memory that is the guest's memory, of a QEMU below the process `init`; `None` where its memory is a
/// copy-on-write view of another's.
fn memory_of(init: i32, bytes: u64) -> Option<File> {
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    let qemu: i32 = children.split_whitespace().next()?.parse().ok()?;
    for entry in std::fs::read_dir(format!("/proc/{qemu}/fd")).ok()?.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if !target.to_string_lossy().starts_with("/memfd:") {
            continue;
        }
        // What lies behind a number may change under our eyes: opened without waiting, and looked at afterwards.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let Ok(file) = File::options().read(true).custom_flags(flags).open(entry.path()) else { continue };
        let right = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == bytes);
        let sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
        if right && !sealed {
            return Some(file);
        }
    }
    None
}

/// A moment's folder while it is being written; goes with the value unless [`Unfinished::keep`].
pub(super) struct Unfinished {
    new: PathBuf,
    done: PathBuf,
    kept: bool,
    pub(super) moment: Moment,
    pub(super) pin: Option<MomentPin>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // The next engine sweeps what stays.
            std::fs::remove_dir_all(&self.new).ok();
        }
    }
}

impl Unfinished {
    pub(super) fn begin(shared: &Arc<Shared>, moment: Moment) -> Result<Unfinished> {
        let pin = Some(shared.pin_moment(&moment.name));
        let new = shared.moment_folder(&format!("{NEW}{}", moment.name));
        let done = shared.moment_folder(&moment.name);
        std::fs::create_dir_all(&new)
            .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o700)))
            .map_err(|cause| cannot_write(&new, &cause))?;
        Ok(Unfinished { new, done, kept: false, moment, pin })
    }

    fn create(&self, name: &str) -> Result<File> {
        let path = self.new.join(name);
        let mut options = File::options();
        let made = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|cause| cannot_write(&path, &cause))
    }

    /// Writes state and memory of a machine that stands still. `init` is its first process.
    pub(super) fn save(&self, monitor: &mut Client, init: i32) -> Result<()> {
        let told =
            |error: QmpError| Error::because(ErrorKind::Internal, "QEMU cannot save the machine's state", &error);
        let memory = memory_of(init, self.moment.memory_bytes);
        restore::ignore_shared_memory(monitor, memory.is_some()).map_err(told)?;
        // QEMU keeps the descriptor as long as it likes: what is kept is a copy.
        let theirs = self.create("state.qemu")?;
        monitor.give("state", theirs.as_fd()).map_err(told)?;
        monitor.ask("migrate", json!({"uri": "fd:state"})).map_err(told)?;
        let bytes_max = self.moment.state_bytes_max();
        let deadline = Instant::now() + Duration::from_secs(SAVE_SECONDS_MAX);
        let stopped = loop {
            let answer = monitor.ask("query-migrate", json!({})).map_err(told)?;
            match answer["status"].as_str() {
                Some("completed") => break None,
                Some("failed" | "cancelled") => {
                    break Some(not_saved(&theirs, answer["error-desc"].as_str()));
                }
                _ => {}
            }
            if theirs.metadata().is_ok_and(|meta| meta.len() > bytes_max) {
                break Some(Error::new(ErrorKind::DataLoss, "QEMU writes a state that is larger than the machine"));
            }
            if Instant::now() > deadline {
                break Some(Error::new(ErrorKind::Timeout, "QEMU does not finish the machine's state"));
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        if let Some(error) = stopped {
            // It may have stopped by itself.
            monitor.ask("migrate_cancel", json!({})).ok();
            return Err(error);
        }
        if let Some(memory) = memory {
            let to = self.create(MEMORY)?;
            to.set_len(self.moment.memory_bytes).map_err(failed("write the machine's memory"))?;
            copy_data(&memory, &to, self.moment.memory_bytes).map_err(failed("write the machine's memory"))?;
        }
        Ok(())
    }

    /// Brings it onto the disk and gives it its name; the machine runs again meanwhile.
    pub(super) fn keep(mut self) -> Result<Option<MomentPin>> {
        let bytes_max = self.moment.state_bytes_max();
        let theirs = self.new.join("state.qemu");
        let from = File::open(&theirs).map_err(failed("open the machine's state"))?;
        let mut to = self.create(STATE)?;
        std::io::copy(&mut from.take(bytes_max), &mut to).map_err(failed("write the machine's state"))?;
        std::fs::remove_file(&theirs).map_err(failed("remove a copy of the machine's state"))?;
        to.sync_all().map_err(failed("write the machine's state"))?;
        match File::open(self.new.join(MEMORY)) {
            Ok(memory) => memory.sync_all().map_err(failed("write the machine's memory"))?,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed("open the machine's memory")(cause)),
        }
        std::fs::rename(&self.new, &self.done).map_err(|cause| cannot_write(&self.done, &cause))?;
        self.kept = true;
        Ok(self.pin.take())
    }
}

/// Makes ready what a machine's next start begins with: `berth-vmm` will come for it.
pub(super) fn before_start(engine: &Engine, id: &ContainerId, run_folder: &Path) -> Result<Option<(Start, Moment)>> {
    let shared = engine.machine_state().clone();
    let Some(Beginning { resume, told }) = locked(&shared.moments.beginning).remove(id) else {
        return Ok(None);
    };
    let moment = &resume.moment;
    let memory = match resume.fork {
        true => shared.sealed(moment)?,
        false => shared.memory(moment)?.map(Arc::new),
    };
    let hardware = moment.clone();
    let path = shared.moment_folder(&moment.name).join(STATE);
    let state = File::open(&path).map_err(|cause| {
        Error::because(ErrorKind::DataLoss, "the saved state was not written whole", &cause)
            .with_hint("go back to the disks alone: berth vm revert --disks-only")
    })?;
    let socket = run_folder.join(START_SOCKET);
    let listener = bind(run_folder).map_err(|cause| cannot_write(&socket, &cause))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))
        .map_err(|cause| cannot_write(&socket, &cause))?;
    let start = Start::Restored {
        memory: memory.as_ref().map(|_| if resume.fork { Mapped::Private } else { Mapped::Shared }),
        fork: resume.fork,
    };
    std::thread::spawn(move || {
        let outcome = hand_over(&listener, &state, memory);
        // Nobody waits where the start failed early.
        told.send(outcome).ok();
    });
    Ok(Some((start, hardware)))
}

/// By way of the folder's descriptor: a socket's whole path may be longer than an address takes.
fn bind(folder: &Path) -> std::io::Result<UnixListener> {
    let folder = File::open(folder)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{START_SOCKET}", folder.as_raw_fd()))
}

fn hand_over(listener: &UnixListener, state: &File, memory: Option<Arc<OwnedFd>>) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let broken = failed("give the machine its saved state");
    let patience = Timespec { tv_sec: ASKED_SECONDS_MAX.cast_signed(), tv_nsec: 0 };
    let mut watched = [PollFd::new(listener, PollFlags::IN)];
    match rustix::event::poll(&mut watched, Some(&patience)) {
        Ok(0) => return Err(Error::new(ErrorKind::Timeout, "the machine did not ask for its saved state")),
        Ok(_) => {}
        Err(errno) => return Err(broken(errno.into())),
    }
    let (mut stream, _) = listener.accept().map_err(&broken)?;
    restore::give(&mut stream, state.as_fd(), memory.as_ref().map(|memory| memory.as_fd())).map_err(&broken)?;
    drop(memory);
    match restore::hear(&mut stream).map_err(&broken)? {
        Ok(()) => Ok(()),
        Err(why) => Err(Error::new(ErrorKind::CannotRun, format!("the saved state cannot be used: {why}"))),
    }
}

impl Machines {
    /// Starts a machine with a moment. See the module's comment for why the record forgets it first.
    pub(super) async fn begin_with(&self, found: &Arc<Container>, resume: Resume) -> Result<Outcome> {
        let kept = self.engine.machine_state().pin_moment(&resume.moment.name);
        {
            let _ops = found.ops.lock().await;
            let mut record = self.machine_of(found)?;
            if record.resume.as_ref() != Some(&resume) {
                return Err(Error::conflict(format!("machine {} is being started already", found.name())));
            }
            record.resume = None;
            self.store(found, record).await?;
        }
        let (told, outcome) = tokio::sync::oneshot::channel();
        let shared = self.engine.machine_state();
        locked(&shared.moments.beginning).insert(found.id.clone(), Beginning { resume: resume.clone(), told });
        let started = self.containers().start(found.id.as_str()).await;
        locked(&shared.moments.beginning).remove(&found.id);
        let result = match started {
            Err(error) => Err(error),
            Ok(how) => match outcome.await {
                Ok(Ok(())) => return Ok(how),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Error::internal("the machine's start ended early")),
            },
        };
        // The guest has not said a word: its disk still fits.
        let _ops = found.ops.lock().await;
        if matches!(found.phase(), Phase::Created | Phase::Exited { .. }) {
            let mut record = self.machine_of(found)?;
            record.resume = Some(resume);
            self.store(found, record).await?;
        }
        drop(kept);
        result
    }

    /// Lets machines go on that an engine left standing still when it was killed while it saved one.
    pub(crate) fn go_on(&self) {
        for container in self.engine.table().all() {
            if container.record().machine.is_none() || !matches!(container.phase(), Phase::Running { .. }) {
                continue;
            }
            let (machines, container) = (self.clone(), container.clone());
            tokio::spawn(async move {
                let _ops = container.ops.lock().await;
                if let Err(error) = machines.ask(&container, super::monitor::ANSWER_SECONDS_MAX, unfreeze).await {
                    // Ended meanwhile, or its monitor hangs; the next question says so.
                    tracing::debug!(machine = container.name(), %error, "not asked whether it stands still");
                }
            });
        }
    }
}

/// Nobody but a save stops a machine by its monitor: `pause` freezes QEMU itself.
fn unfreeze(monitor: &mut Client) -> Result<(), QmpError> {
    let answer = monitor.ask("query-status", json!({}))?;
    if !matches!(answer["status"].as_str(), Some("paused" | "postmigrate" | "finish-migrate")) {
        return Ok(());
    }
    monitor.ask("migrate_cancel", json!({})).ok();
    monitor.ask("cont", json!({})).map(drop)
}

/// A moment of a machine that is about to be saved.
pub(super) fn new_moment(shape: &Shape, cpus_used: u16) -> Result<Moment> {
    Ok(Moment {
        name: berth_types::digest::hex(&crate::containers::random_bytes()?),
        cpus: shape.cpus,
        memory_bytes: shape.memory_bytes >> 20 << 20,
        cpus_max: shape.cpus_max,
        memory_room_bytes: shape.room_bytes,
        memory_added_bytes: shape.added_bytes,
        memory_total_bytes: shape.total_bytes,
        cpus_used,
        agent: false,
    })
}

/// Where a record's machine cannot begin with its moment.
pub(super) async fn check_saved(shared: &Arc<Shared>, moment: &Moment) -> Result<()> {
    let path = shared.moment_folder(&moment.name).join(STATE);
    blocking(move || match path.exists() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::DataLoss, "its memory was not saved whole")
            .with_hint("go back to the disks alone: berth vm revert --disks-only")),
    })
    .await
}

/// Why a state was not saved. Of a full disk QEMU says nothing: whoever tries to write there too is told.
fn not_saved(theirs: &File, why: Option<&str>) -> Error {
    const WHAT: &str = "QEMU cannot save the machine's state";
    let end = theirs.metadata().map_or(0, |meta| meta.len());
    if let Err(cause) = theirs.write_all_at(&[1; 64 << 10], end)
        && crate::full::is_behind(&cause)
    {
        return crate::full::or_here(ErrorKind::Internal, WHAT, &cause);
    }
    let why: String = why.unwrap_or("no reason given").chars().take(500).collect();
    Error::internal(format!("{WHAT}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn of(memory_bytes: u64) -> Shape {
        Shape { cpus: 1, cpus_max: 1, memory_bytes, room_bytes: 0, added_bytes: 0, total_bytes: memory_bytes }
    }

    #[test]
    fn memory_is_copied_with_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            File::options().read(true).write(true).create_new(true).open(folder.path().join(name)).unwrap()
        };
        let (mut from, to) = (create("from"), create("to"));
        from.set_len(8 << 20).unwrap();
        for at in [0_u64, 3 << 20, (8 << 20) - 5] {
            from.seek(std::io::SeekFrom::Start(at)).unwrap();
            from.write_all(b"bytes").unwrap();
        }
        from.seek(std::io::SeekFrom::Start(5 << 20)).unwrap();
        from.write_all(&vec![0; 1 << 20]).unwrap();
        to.set_len(8 << 20).unwrap();
        copy_data(&from, &to, 8 << 20).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert!(read("from") == read("to"));
        use std::os::unix::fs::MetadataExt;
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "zeros stay holes");
    }

    #[test]
    fn a_moment_goes_unless_somebody_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::new(&crate::EngineConfig::new(folder.path(), folder.path(), folder.path()));
        let moment = new_moment(&of(64 << 20), 1).unwrap();
        let unfinished = Unfinished::begin(&shared, moment.clone()).unwrap();
        let new = unfinished.new.clone();
        std::fs::write(new.join("state.qemu"), b"state").unwrap();
        shared.collect_moments(&BTreeSet::new(), true);
        assert!(new.exists(), "pinned");
        let pin = unfinished.keep().unwrap();
        let done = shared.moment_folder(&moment.name);
        shared.collect_moments(&BTreeSet::new(), true);
        assert!(done.join(STATE).exists() && !new.exists());
        drop(pin);
        shared.collect_moments(&BTreeSet::from([moment.name.clone()]), true);
        assert!(done.exists());
        shared.collect_moments(&BTreeSet::new(), false);
        assert!(!done.exists());
        drop(Unfinished::begin(&shared, moment).unwrap());
        assert_eq!(std::fs::read_dir(shared.moments_folder()).unwrap().count(), 0);
    }

    #[test]
    fn sealed_memory_cannot_be_changed_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::new(&crate::EngineConfig::new(folder.path(), folder.path(), folder.path()));
        let moment = new_moment(&of(1 << 20), 1).unwrap();
        let place = shared.moment_folder(&moment.name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(MEMORY), vec![7; 1 << 20]).unwrap();
        let memory = shared.sealed(&moment).unwrap().unwrap();
        assert!(Arc::ptr_eq(&memory, &shared.sealed(&moment).unwrap().unwrap()));
        let mut file = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        assert!(file.as_mut().unwrap().write_all(b"x").is_err(), "sealed");
        std::fs::write(place.join(MEMORY), b"short").unwrap();
        assert!(shared.memory(&moment).is_err());
    }
}
