//! The first moments of a guest: modules, and a root that is none of the kernel's own.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::CStr;
use std::fmt::Write as _;
use std::path::Path;

/// In the initramfs: names of modules, in the order in which they need each other.
const MODULES: &str = "/modules/order";
const NEW_ROOT: &str = "/root";
/// Folders of the new root.
const FOLDERS: [&str; 6] = ["proc", "sys", "dev", "tmp", "run/berth/etc", "run/berth/bundle"];
const MODULE_BYTES_MAX: u64 = 64 << 20;

/// A step of the guest's start that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot {what}: {errno}")]
    Step { what: String, errno: Errno },
    #[error("{0}")]
    Port(String),
}

pub(crate) fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> StartError {
    let what = what.into();
    move |errno| StartError::Step { what, errno }
}

fn io_step(what: String) -> impl FnOnce(std::io::Error) -> StartError {
    move |cause| StartError::Step { what, errno: Errno::from_io_error(&cause).unwrap_or(Errno::IO) }
}

pub(crate) fn attach(
    kind: &str,
    source: &str,
    target: &str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> Result<(), StartError> {
    match mount(source, target, kind, flags, data) {
        // The kernel may have done it (devtmpfs).
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(step(format!("mount {kind} at {target}"))(errno)),
    }
}

/// Open files that every process may have, as berthd's service has it. The kernel's own number is 1,024.
const FILES_MAX: u64 = 1 << 20;

/// What a container inherits from its engine; the kernel's first process has less. How many processes there may be is its
/// cgroup's to say.
fn raise_limits() -> Result<(), StartError> {
    let unlimited = Rlimit { current: None, maximum: None };
    let files = Rlimit { current: Some(FILES_MAX), maximum: Some(FILES_MAX) };
    for (resource, limit) in
        [(Resource::Nofile, files), (Resource::Nproc, unlimited), (Resource::Sigpending, unlimited)]
    {
        setrlimit(resource, limit).map_err(step("raise the limits of processes"))?;
    }
    Ok(())
}

/// Leaves the process in a tmpfs root with proc, sys, dev and cgroups.
pub(crate) fn prepare() -> Result<(), StartError> {
    raise_limits()?;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for folder in ["/proc", "/sys", "/dev", NEW_ROOT] {
        std::fs::create_dir_all(folder).map_err(io_step(format!("make {folder}")))?;
    }
    attach("proc", "proc", "/proc", strict, None)?;
    attach("sysfs", "sysfs", "/sys", strict, None)?;
    attach("devtmpfs", "devtmpfs", "/dev", MountFlags::NOSUID, None)?;
    load_modules()?;
    // pivot_root(2) refuses the kernel's first root; the container's start needs it.
    attach("tmpfs", "tmpfs", NEW_ROOT, MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))?;
    for folder in FOLDERS {
        let path = Path::new(NEW_ROOT).join(folder);
        std::fs::create_dir_all(&path).map_err(io_step(format!("make {}", path.display())))?;
    }
    for name in ["proc", "sys", "dev"] {
        let target = format!("{NEW_ROOT}/{name}");
        mount_move(format!("/{name}"), &target).map_err(step(format!("move /{name}")))?;
    }
    // What the initramfs held is memory.
    std::fs::remove_dir_all("/modules").ok();
    std::fs::remove_file("/init").ok();
    rustix::process::chdir(NEW_ROOT).map_err(step("enter the new root"))?;
    mount_move(".", "/").map_err(step("move the new root"))?;
    rustix::process::chroot(".").map_err(step("take the new root"))?;
    rustix::process::chdir("/").map_err(step("enter the new root"))?;
    attach("cgroup2", "cgroup2", "/sys/fs/cgroup", strict, None)?;
    std::fs::create_dir_all("/dev/shm").map_err(io_step("make /dev/shm".to_owned()))?;
    attach("tmpfs", "shm", "/dev/shm", strict, Some(c"mode=1777"))?;
    Ok(())
}

/// All that are listed; one that the kernel has built in, or whose device is absent, says so and is left out.
fn load_modules() -> Result<(), StartError> {
    let order = match std::fs::read_to_string(MODULES) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(io_step(format!("read {MODULES}"))(cause)),
    };
    let mut failed = String::new();
    for name in order.lines().filter(|name| !name.is_empty()) {
        if let Err(errno) = load(&format!("/modules/{name}"))
            && errno != Errno::EXIST
        {
            write!(failed, " {name} ({errno})").ok();
        }
    }
    if !failed.is_empty() {
        // What is missing for good shows itself at the next step.
        eprintln!("berth-agent: modules not loaded:{failed}");
    }
    Ok(())
}

fn load(path: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::system::finit_module(&file, c"", 0) {
        // Kernels before 6.x without that call for files of the initramfs.
        Err(Errno::NOSYS | Errno::INVAL) => {
            use std::io::Read;
            let mut bytes = Vec::new();
            let read = std::fs::File::from(file).take(MODULE_BYTES_MAX).read_to_end(&mut bytes);
            read.map_err(|cause| Errno::from_io_error(&cause).unwrap_or(Errno::IO))?;
            rustix::system::init_module(&bytes, c"")
        }
        other => other,
    }
}

/// Writes everything to the disks and switches the machine off.
pub(crate) fn power_off() {
    rustix::fs::sync();
    let off = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    eprintln!("berth-agent: cannot switch the machine off: {off:?}");
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
