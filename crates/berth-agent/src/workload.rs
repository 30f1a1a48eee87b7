//! The container: its disks, its root, its cgroup, its processes.

use crate::init;
use crate::process::{Ends, Process, launch_failure, streams};
use berth_agent_proto::{Exec, Failure, FailureKind, Run};
use berth_cgroup::{Cgroup, Entry, Hierarchy, Limits};
use berth_runtime::{CgroupEntry, CreateRequest, ExecRequest};
use berth_types::mount::{Lower, Overlay, Rootfs, Upper};
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::mount::MountFlags;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const IMAGE: &str = "/run/berth/image";
pub(crate) const SCRATCH: &str = "/run/berth/scratch";
pub(crate) const SHARES: &str = "/run/berth/shares";
const BUNDLE: &str = "/run/berth/bundle";
const CGROUP: &str = "/workload";
/// A disk that the machine has is there within that.
const DISK_SECONDS_MAX: u64 = 60;
/// All processes of a container stand still within that.
const STILL: Duration = Duration::from_secs(10);

pub(crate) struct Workload {
    id: String,
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    spec: Spec,
    cgroup: Cgroup,
}

fn internal(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, what.to_string())
}

/// The block device whose serial number that is.
fn disk(serial: &str) -> Result<PathBuf, Failure> {
    let deadline = Instant::now() + Duration::from_secs(DISK_SECONDS_MAX);
    loop {
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let named = std::fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            let device = Path::new("/dev").join(entry.file_name());
            if named.trim_end() == serial && device.exists() {
                return Ok(device);
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(FailureKind::NotFound, format!("the machine has no disk {serial}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attach(kind: &str, source: &str, target: &str, flags: MountFlags) -> Result<(), Failure> {
    std::fs::create_dir_all(target).map_err(|cause| internal(format!("cannot make {target}: {cause}")))?;
    init::attach(kind, source, target, flags, None).map_err(internal)
}

fn root(run: &Run) -> Result<Rootfs, Failure> {
    let image = disk(&run.image_disk)?;
    attach("erofs", &image.to_string_lossy(), IMAGE, MountFlags::RDONLY)?;
    let mut upper = None;
    if let Some(serial) = &run.scratch_disk {
        let scratch = disk(serial)?;
        attach("ext4", &scratch.to_string_lossy(), SCRATCH, MountFlags::NOATIME)?;
        let folders = Upper { upper: Path::new(SCRATCH).join("upper"), work: Path::new(SCRATCH).join("work") };
        let fresh = !folders.upper.exists();
        for folder in [&folders.upper, &folders.work] {
            std::fs::create_dir_all(folder)
                .map_err(|cause| internal(format!("cannot make {}: {cause}", folder.display())))?;
        }
        if fresh {
            // The root of an overlay is its upper folder's.
            like(Path::new(IMAGE), &folders.upper)
                .map_err(|cause| internal(format!("cannot make the root: {cause}")))?;
        }
        upper = Some(folders);
    }
    Ok(Rootfs::Overlay(Overlay { lower: vec![Lower::Folder(IMAGE.into())], upper, options: Vec::new() }))
}

fn like(model: &Path, folder: &Path) -> std::io::Result<()> {
    let meta = std::fs::metadata(model)?;
    std::os::unix::fs::chown(folder, Some(meta.uid()), Some(meta.gid()))?;
    std::fs::set_permissions(folder, meta.permissions())
}

/// Memory and processes; the rest of what a container may use is the machine's.
fn limits(resources: Option<&LinuxResources>) -> Limits {
    let mut limits = Limits::default();
    let Some(resources) = resources else { return limits };
    if let Some(memory) = resources.memory() {
        limits.memory.limit_bytes = memory.limit();
        limits.memory.reservation_bytes = memory.reservation();
        limits.memory.swap_bytes = memory.swap();
    }
    limits.pids_max = resources.pids().map(|pids| pids.limit());
    limits
}

fn borrow(entry: &Entry) -> CgroupEntry<'_> {
    CgroupEntry {
        v2: entry.v2.as_ref().map(AsFd::as_fd),
        join_files: entry.join_files.iter().map(AsFd::as_fd).collect(),
        join_memory: entry.join_memory.as_ref().map(AsFd::as_fd),
    }
}

impl Workload {
    /// Mounts the disks and makes the first process, up to its program.
    pub(crate) fn start(run: &Run) -> Result<(Workload, Process), Failure> {
        let spec: Spec = serde_json::from_value(run.config.clone()).map_err(|cause| {
            Failure::new(FailureKind::Invalid, format!("the configuration cannot be read: {cause}"))
        })?;
        let rootfs = root(run)?;
        if let Some(tag) = &run.shares {
            attach("virtiofs", tag, SHARES, MountFlags::NOATIME)?;
        }
        let hierarchy = Hierarchy::detect().map_err(internal)?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let cgroup = Cgroup::create(&hierarchy, CGROUP, &limits(resources)).map_err(internal)?;
        let entry = cgroup.entry().map_err(internal)?;
        let (ends, stdio) = streams(run.tty, run.console_size, run.stdin)?;
        let created = berth_runtime::create(CreateRequest {
            id: &run.id,
            spec: &spec,
            bundle: Path::new(BUNDLE),
            rootfs: &rootfs,
            stdio,
            cgroup: borrow(&entry),
            init: run.init,
            seccomp_profile: None,
            seccomp_cache: None,
            preserve_fds: 0,
            start_socket: None,
            keyring: true,
        });
        let mut created = created.map_err(|error| launch_failure(&error))?;
        let terminal = created.terminal.take();
        let mut running = created.start().map_err(|error| launch_failure(&error))?;
        running.terminal = running.terminal.or(terminal);
        let pidfd = running.pidfd.try_clone().map_err(internal)?;
        let workload = Workload { id: run.id.clone(), pid: running.pid, pidfd, spec, cgroup };
        Ok((workload, Process::new(running, ends)))
    }

    pub(crate) fn exec(&self, exec: &Exec) -> Result<Process, Failure> {
        let entry = self.cgroup.entry_beside(self.pid).map_err(internal)?;
        execute(exec, &self.id, self.pid, &self.pidfd, &self.spec, borrow(&entry))
    }

    pub(crate) fn pids(&self) -> Result<Vec<i32>, Failure> {
        self.cgroup.pids().map_err(internal)
    }

    pub(crate) fn freeze(&self) -> Result<(), Failure> {
        self.cgroup.freeze(STILL).map_err(internal)
    }

    pub(crate) fn thaw(&self) -> Result<(), Failure> {
        self.cgroup.thaw().map_err(internal)
    }

    pub(crate) fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills()
    }

    /// What cannot be had at once, in words.
    pub(crate) fn update(&mut self, resources: &serde_json::Value) -> Result<Vec<String>, Failure> {
        let resources: LinuxResources = serde_json::from_value(resources.clone())
            .map_err(|cause| Failure::new(FailureKind::Invalid, format!("the limits cannot be read: {cause}")))?;
        let limits = limits(Some(&resources));
        self.cgroup.update(&limits).map_err(internal)
    }
}

/// A process of a whole system: in the namespaces of its first one.
pub(crate) fn beside_init(exec: &Exec) -> Result<Process, Failure> {
    let init = rustix::process::Pid::from_raw(1).ok_or_else(|| internal("there is no first process"))?;
    let pidfd = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty())
        .map_err(|errno| internal(format!("cannot open the first process: {errno}")))?;
    execute(exec, "machine", 1, &pidfd, &plain(), CgroupEntry::default())
}

/// Nothing to join and nothing to filter.
fn plain() -> Spec {
    let mut spec = Spec::default();
    spec.set_linux(None);
    spec
}

fn execute(
    exec: &Exec,
    id: &str,
    pid: i32,
    pidfd: &OwnedFd,
    spec: &Spec,
    cgroup: CgroupEntry<'_>,
) -> Result<Process, Failure> {
    let process = serde_json::from_value(exec.process.clone())
        .map_err(|cause| Failure::new(FailureKind::Invalid, format!("the process cannot be read: {cause}")))?;
    let (ends, stdio): (Ends, _) = streams(exec.tty, exec.console_size, exec.stdin)?;
    let running = berth_runtime::exec(ExecRequest {
        id,
        bundle: Path::new(BUNDLE),
        pid,
        pidfd: pidfd.as_fd(),
        spec,
        process: &process,
        stdio,
        cgroup,
        seccomp_profile: None,
        seccomp_cache: None,
        preserve_fds: 0,
    })
    .map_err(|error| launch_failure(&error))?;
    Ok(Process::new(running, ends))
}
