//! Namespaces: which are new, which are joined, and what has to be written before anybody lives in them.

use crate::error::{LaunchError, Step};
use berth_sys::clone::{Forked, flags};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::path::Path;

#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// For clone3. The cgroup namespace is not among them: its root is where its maker is, so the child makes
    /// it once it has joined its cgroups.
    pub(crate) cloned: u64,
    pub(crate) new_cgroup: bool,
    pub(crate) new_time: bool,
    /// Joined by the child.
    joined: Vec<(LinkNameSpaceType, &'static str, OwnedFd)>,
    /// Joined by the caller around the clone: a pid namespace takes in children only.
    pid: Option<OwnedFd>,
}

impl Namespaces {
    pub(crate) fn of(linux: Option<&Linux>) -> Result<Namespaces, LaunchError> {
        let mut all = Namespaces::default();
        for namespace in linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
            let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
            let Some(path) = path else {
                match namespace.typ() {
                    LinuxNamespaceType::Mount => all.cloned |= flags::NEWNS,
                    LinuxNamespaceType::Uts => all.cloned |= flags::NEWUTS,
                    LinuxNamespaceType::Ipc => all.cloned |= flags::NEWIPC,
                    LinuxNamespaceType::User => all.cloned |= flags::NEWUSER,
                    LinuxNamespaceType::Pid => all.cloned |= flags::NEWPID,
                    LinuxNamespaceType::Network => all.cloned |= flags::NEWNET,
                    LinuxNamespaceType::Cgroup => all.new_cgroup = true,
                    LinuxNamespaceType::Time => all.new_time = true,
                }
                continue;
            };
            let fd = open(path)?;
            let (kind, word) = match namespace.typ() {
                LinuxNamespaceType::Mount => (LinkNameSpaceType::Mount, "mount"),
                LinuxNamespaceType::Uts => (LinkNameSpaceType::HostNameAndNISDomainName, "uts"),
                LinuxNamespaceType::Ipc => (LinkNameSpaceType::InterProcessCommunication, "ipc"),
                LinuxNamespaceType::Network => (LinkNameSpaceType::Network, "network"),
                LinuxNamespaceType::Cgroup => (LinkNameSpaceType::ControlGroup, "cgroup"),
                LinuxNamespaceType::Time => (LinkNameSpaceType::Time, "time"),
                LinuxNamespaceType::Pid => {
                    all.pid = Some(fd);
                    continue;
                }
                LinuxNamespaceType::User => {
                    return Err(LaunchError::configuration(
                        "joining an existing user namespace by its path is not supported; make a new one with the same id maps",
                    ));
                }
            };
            all.joined.push((kind, word, fd));
        }
        Ok(all)
    }

    pub(crate) fn new_user(&self) -> bool {
        self.cloned & flags::NEWUSER != 0
    }

    /// Whether the container is in another namespace of this kind than the caller: a new one, or one joined.
    pub(crate) fn own(&self, kind: LinuxNamespaceType) -> bool {
        let (flag, word) = match kind {
            LinuxNamespaceType::Network => (flags::NEWNET, "network"),
            LinuxNamespaceType::Ipc => (flags::NEWIPC, "ipc"),
            LinuxNamespaceType::Uts => (flags::NEWUTS, "uts"),
            _ => return false,
        };
        self.cloned & flag != 0 || self.joined.iter().any(|(_, joined, _)| *joined == word)
    }

    pub(crate) fn new_mount(&self) -> bool {
        self.cloned & flags::NEWNS != 0
    }

    pub(crate) fn new_uts(&self) -> bool {
        self.cloned & flags::NEWUTS != 0
    }

    /// In the child: those of others.
    pub(crate) fn enter(&self) -> Result<(), LaunchError> {
        for (kind, word, fd) in &self.joined {
            move_into_link_name_space(fd.as_fd(), Some(*kind)).step(|| format!("join the {word} namespace"))?;
        }
        Ok(())
    }

    /// In the child, once it is in all of its cgroups.
    pub(crate) fn enter_cgroup(&self) -> Result<(), LaunchError> {
        match self.new_cgroup {
            true => berth_sys::netns::unshare(UnshareFlags::NEWCGROUP).step(|| "make a cgroup namespace".to_owned()),
            false => Ok(()),
        }
    }

    /// In the caller, around the clone: what only children come into.
    pub(crate) fn around_clone(&self, linux: Option<&Linux>) -> Result<Around, LaunchError> {
        let mut around = Around { restore: Vec::new() };
        if let Some(pid) = &self.pid {
            around.restore.push((LinkNameSpaceType::ProcessID, own("pid")?));
            move_into_link_name_space(pid.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .step(|| "join the pid namespace".to_owned())?;
        }
        if self.new_time {
            around.restore.push((LinkNameSpaceType::Time, own("time")?));
            berth_sys::netns::unshare(UnshareFlags::from_bits_retain(flags::NEWTIME as _))
                .step(|| "make a time namespace".to_owned())?;
            let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
            let lines: String = offsets
                .into_iter()
                .flatten()
                .map(|(clock, offset)| {
                    format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
                })
                .collect();
            if !lines.is_empty() {
                write("/proc/self/timens_offsets", &lines)?;
            }
        }
        Ok(around)
    }
}

/// Joins what an exec must share with the container's process before its clone.
pub(crate) fn pid_namespace_of(pidfd: impl AsFd) -> Result<Around, LaunchError> {
    let around = Around { restore: vec![(LinkNameSpaceType::ProcessID, own("pid")?)] };
    let kind = rustix::thread::ThreadNameSpaceType::PROCESS_ID;
    let joined = rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), kind);
    crate::error::join(joined, "join the container's pid namespace")?;
    Ok(around)
}

/// The caller's own namespaces, given back when dropped.
#[derive(Default)]
pub(crate) struct Around {
    restore: Vec<(LinkNameSpaceType, OwnedFd)>,
}

impl Around {
    /// Gives them back in the caller and not in its child, which is to stay where it was born.
    pub(crate) fn left_by_child(mut self, forked: Result<Forked, Errno>) -> Result<Forked, Errno> {
        if matches!(forked, Ok(Forked::Child)) {
            self.restore.clear();
        }
        forked
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        for (kind, fd) in self.restore.drain(..) {
            // Its own namespace cannot be refused to a process that was let into another one.
            move_into_link_name_space(fd.as_fd(), Some(kind)).ok();
        }
    }
}

fn own(name: &str) -> Result<OwnedFd, LaunchError> {
    open(Path::new(&format!("/proc/self/ns/{name}")))
}

/// Follows links: the engine hands network namespaces over as `/proc/PID/fd/N`.
fn open(path: &Path) -> Result<OwnedFd, LaunchError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step(|| format!("open the namespace {}", path.display()))
}

/// In the caller: the maps of the child's new user namespace.
pub(crate) fn write_id_maps(pid: i32, linux: Option<&Linux>) -> Result<(), LaunchError> {
    let lines = |maps: Option<&Vec<LinuxIdMapping>>| -> String {
        maps.into_iter()
            .flatten()
            .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
            .collect()
    };
    let uids = lines(linux.and_then(|linux| linux.uid_mappings().as_ref()));
    let gids = lines(linux.and_then(|linux| linux.gid_mappings().as_ref()));
    if uids.is_empty() || gids.is_empty() {
        return Err(LaunchError::configuration("a new user namespace needs uidMappings and gidMappings"));
    }
    write(&format!("/proc/{pid}/uid_map"), &uids)?;
    write(&format!("/proc/{pid}/gid_map"), &gids)
}

pub(crate) fn write(path: &str, text: &str) -> Result<(), LaunchError> {
    let file =
        rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).step(|| format!("open {path}"))?;
    rustix::io::write(&file, text.as_bytes()).step(|| format!("write {path}")).map(drop)
}
