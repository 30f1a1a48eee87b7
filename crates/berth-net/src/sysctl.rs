//! Kernel parameters of a network namespace.
//!
//! **Through a /proc of our own.** A name below `/proc/sys/net` is one entry of the kernel's directory cache for each
//! network namespace that was ever looked at through that /proc, all of them in one chain: to find its own, a look-up compares
//! with everybody else's (`proc_sys_compare` in the kernel's fs/proc/proc_sysctl.c). With a thousand containers a start spent
//! milliseconds in that. So the /proc that we write through is a detached mount, which is replaced by a
//! fresh one before the chains get long, and the host's own /proc stays as short as it was.
//!
//! Kernels without detached mounts, and before 5.8 those where all mounts of /proc are one, are as slow as ever.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::io::{Error, Write};
use std::sync::{Arc, Mutex, OnceLock};

/// Writes through one /proc; a namespace needs about five.
const USES_MAX: usize = 128;

struct Proc {
    mount: Arc<OwnedFd>,
    uses: usize,
}

static PROC: Mutex<Option<Proc>> = Mutex::new(None);

/// Sets a parameter of the calling thread's network namespace; `path` is below `/proc/sys`.
pub(crate) fn write(path: &str, value: &str) -> Result<(), Error> {
    let Ok(mount) = current() else { return std::fs::write(format!("/proc/sys/{path}"), value) };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&*mount, format!("sys/{path}"), flags, Mode::empty())?;
    std::fs::File::from(file).write_all(value.as_bytes())
}

/// Whether this kernel knows IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| std::path::Path::new("/proc/sys/net/ipv6").exists())
}

fn current() -> Result<Arc<OwnedFd>, Errno> {
    let mut proc = PROC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(current) = proc.as_mut().filter(|current| current.uses < USES_MAX) {
        current.uses += 1;
        return Ok(current.mount.clone());
    }
    let mount = Arc::new(mount()?);
    // The one before ends with its last user.
    *proc = Some(Proc { mount: mount.clone(), uses: 1 });
    Ok(mount)
}

fn mount() -> Result<OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_set_in_the_threads_own_namespace_and_the_proc_behind_it_is_replaced() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        const PATH: &str = "net/ipv4/ip_default_ttl";
        let ttl = || std::fs::read_to_string(format!("/proc/sys/{PATH}")).unwrap().trim_end().to_owned();
        let before = ttl();
        let first = Arc::downgrade(&current().unwrap());
        let inside = move || {
            berth_sys::netns::unshare_network().unwrap();
            for n in 0..2 * USES_MAX {
                write(PATH, &(n % 100 + 1).to_string()).unwrap();
            }
            ttl()
        };
        let own = std::thread::spawn(inside).join().unwrap();
        assert_eq!(own, ((2 * USES_MAX - 1) % 100 + 1).to_string());
        assert_eq!(ttl(), before);
        // Another test may be writing through it this moment.
        let since = std::time::Instant::now();
        while first.upgrade().is_some() {
            assert!(since.elapsed() < std::time::Duration::from_secs(30), "the first one is still mounted");
            std::thread::yield_now();
        }
        let missing = write("net/ipv4/no_such_parameter", "1").unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
}
