//! A procfs of our own to write settings through.
//!
//! A container's root can hold anything under the name /proc; a setting written there could go anywhere
//! (CVE-2019-19921, CVE-2025-52881). This one is mounted detached, is a procfs for sure, is in no mount table, and
//! is entered with `RESOLVE_BENEATH`, without links and without crossing into other mounts.

use crate::error::{LaunchError, Step};
use crate::namespaces::Namespaces;
use oci_spec::runtime::LinuxNamespaceType;
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

/// Refuses a setting that is not of a namespace of the container's own: it would be the host's.
pub(crate) fn refuse_foreign(name: &str, namespaces: &Namespaces) -> Result<(), LaunchError> {
    let name = name.replace('/', ".");
    const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let (word, own) = if name.starts_with("net.") {
        ("network", namespaces.own(LinuxNamespaceType::Network))
    } else if name.starts_with("fs.mqueue.") || name.strip_prefix("kernel.").is_some_and(|name| IPC.contains(&name)) {
        ("ipc", namespaces.own(LinuxNamespaceType::Ipc))
    } else if matches!(name.as_str(), "kernel.domainname" | "kernel.hostname") {
        ("uts", namespaces.own(LinuxNamespaceType::Uts))
    } else if name.starts_with("user.") {
        ("user", namespaces.new_user())
    } else {
        return Err(LaunchError::configuration(format!("sysctl {name:?} is not of a namespace: it is the host's")));
    };
    match own {
        true => Ok(()),
        false => Err(LaunchError::configuration(format!("sysctl {name:?} needs a {word} namespace of its own"))),
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
