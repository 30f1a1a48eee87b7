//! A procfs of our own to write settings through.
//!
//! A container's root can hold anything under the name /proc; a setting written there could go anywhere
//! (CVE-2019-19921, CVE-2025-52881). This one is mounted detached, is a procfs for sure, is in no mount table, and
//! is entered with `RESOLVE_BENEATH`, without links and without crossing into other mounts.

use crate::error::{LaunchError, Step};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

pub(crate) struct Procfs {
    root: OwnedFd,
}

impl Procfs {
    /// Of the calling process' pid namespace.
    pub(crate) fn open() -> Result<Procfs, LaunchError> {
        let mounted = (|| {
            let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        })();
        mounted.map(|root| Procfs { root }).step(|| "mount a private procfs".to_owned())
    }

    pub(crate) fn write(&self, path: &str, value: &str) -> Result<(), LaunchError> {
        let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // `self` and `thread-self` are links, and the only ones on the way.
        let opened = openat2(&self.root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), flags);
        let file = opened.step(|| format!("open /proc/{path}"))?;
        rustix::io::write(&file, value.as_bytes()).step(|| format!("write {value:?} to /proc/{path}")).map(drop)
    }
}

/// Sets `kernel.msgmax` and its like. A name with slashes and one with dots mean the same (sysctl(8)).
pub(crate) fn sysctl(procfs: &Procfs, name: &str, value: &str) -> Result<(), LaunchError> {
    let dotted = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let path: String = match dotted {
        // In dotted names a slash stands for a dot of the file's name: net.ipv4.conf.eth0/1.forwarding.
        true => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        false => name.to_owned(),
    };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(LaunchError::configuration(format!("sysctl {name:?} is not a name")));
    }
    procfs.write(&format!("sys/{path}"), value)
}
