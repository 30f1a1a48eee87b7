//! /dev: nodes, links.
//!
//! Everything is made relative to a descriptor of the container's own /dev, resolved without following links:
//! an image whose /dev points elsewhere is refused (CVE-2026-41579).

use crate::error::{LaunchError, Step};
use crate::mounts::target;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, makedev, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Gid, Uid};
use std::path::Path;

/// Those that every container has (runtime-spec, config-linux.md "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// `bind`: nodes cannot be made (a user namespace), the host's are bound instead.
pub(crate) fn make(root: BorrowedFd<'_>, devices: &[LinuxDevice], bind: bool) -> Result<(), LaunchError> {
    let dev = folder(root)?;
    for (name, major, minor) in DEFAULT {
        let wanted = Node { kind: FileType::CharacterDevice, major, minor, mode: 0o666, owner: None };
        wanted.make(dev.as_fd(), name, Path::new("/dev").join(name).as_path(), bind)?;
    }
    for (name, to) in LINKS {
        link(dev.as_fd(), to, name)?;
    }
    if rustix::fs::stat("/proc/kcore").is_ok() {
        link(dev.as_fd(), "/proc/kcore", "core")?;
    }
    for device in devices {
        let path = device.path();
        // Terminals are those of the container's own devpts, whatever the host's node is called.
        if path == Path::new("/dev/ptmx") {
            continue;
        }
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(LaunchError::configuration(format!("device {}: type \"a\" names no node", path.display())));
            }
        };
        let number = |number: i64| u32::try_from(number).unwrap_or(0);
        let node = Node {
            kind,
            major: number(device.major()),
            minor: number(device.minor()),
            mode: device.file_mode().unwrap_or(0o666),
            owner: Some((device.uid().unwrap_or(0), device.gid().unwrap_or(0))),
        };
        let (parent, name) = target::parent(root, path)?;
        node.make(parent.as_fd(), &name, path, bind)?;
    }
    Ok(())
}

fn folder(root: BorrowedFd<'_>) -> Result<OwnedFd, LaunchError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match openat2(root, "dev", flags, Mode::empty(), resolve) {
        Err(Errno::LOOP | Errno::NOTDIR) => Err(LaunchError::configuration("the image's /dev is no folder")),
        Err(Errno::NOENT) => target::folder(root, Path::new("/dev")),
        opened => opened.step(|| "open /dev".to_owned()),
    }
}

struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Node {
    fn make(&self, folder: BorrowedFd<'_>, name: &str, path: &Path, bind: bool) -> Result<(), LaunchError> {
        if bind {
            return bind_host(folder, name, path);
        }
        let device = makedev(self.major, self.minor);
        match rustix::fs::mknodat(folder, name, self.kind, Mode::from_raw_mode(self.mode), device) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .step(|| format!("look at {}", path.display()))?;
                let same = FileType::from_raw_mode(stat.st_mode) == self.kind && stat.st_rdev == device;
                if !same && self.owner.is_some() {
                    return Err(LaunchError::configuration(format!(
                        "{} exists in the image and is another file than the device asked for",
                        path.display()
                    )));
                }
            }
            // Not allowed to make nodes after all.
            Err(Errno::PERM) => return bind_host(folder, name, path),
            Err(errno) => return Err(errno).step(|| format!("make {}", path.display())),
        }
        if let Some((uid, gid)) = self.owner.filter(|&owner| owner != (0, 0)) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .step(|| format!("change the owner of {}", path.display()))?;
        }
        Ok(())
    }
}

fn bind_host(folder: BorrowedFd<'_>, name: &str, path: &Path) -> Result<(), LaunchError> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .step(|| format!("bind the host's {}", path.display()))?;
    let at = target::file_in(folder, name, path)?;
    target::attach(tree.as_fd(), at.as_fd()).step(|| format!("bind {}", path.display()))
}

fn link(folder: BorrowedFd<'_>, to: &str, name: &str) -> Result<(), LaunchError> {
    match rustix::fs::symlinkat(to, folder, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).step(|| format!("link /dev/{name}")),
    }
}
