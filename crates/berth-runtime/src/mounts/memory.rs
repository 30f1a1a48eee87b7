//! A file's copy in memory (`berth.memory`): what a secret is seen as.
//!
//! It lives in a file system of its own that is mounted in the container only and goes with its last process. Where the
//! kernel lets a tmpfs keep out of swap (6.4) it is one; before, a ramfs, which is never swapped.

use crate::error::LaunchError;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::process::{Gid, Uid};
use std::path::Path;

/// More than any secret has.
const BYTES_MAX: u64 = 4 << 20;
const NAME: &str = "file";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Owner {
    /// `uid:gid:mode`, the mode in octal.
    pub(crate) fn parse(text: &str) -> Result<Owner, LaunchError> {
        let invalid = || LaunchError::configuration(format!("mount option berth.memory={text} is not uid:gid:mode"));
        let mut parts = text.split(':');
        let mut next = |radix| parts.next().and_then(|part| u32::from_str_radix(part, radix).ok()).ok_or_else(invalid);
        let owner = Owner { uid: next(10)?, gid: next(10)?, mode: next(8)? };
        if parts.next().is_some() || owner.mode > 0o7777 { Err(invalid()) } else { Ok(owner) }
    }
}

/// A detached mount of the copy.
pub(super) fn copy(source: &Path, owner: Owner) -> Result<OwnedFd, Errno> {
    let io = |cause: std::io::Error| Errno::from_io_error(&cause).unwrap_or(Errno::IO);
    let from = rustix::fs::open(source, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut from = std::fs::File::from(from);
    let bytes = from.metadata().map_err(io)?.len();
    if bytes > BYTES_MAX {
        return Err(Errno::FBIG);
    }
    let tree = file_system()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(&tree, NAME, flags, Mode::from_raw_mode(0o600))?;
    let mut to = std::fs::File::from(to);
    std::io::copy(&mut from, &mut to).map_err(io)?;
    rustix::fs::fchown(&to, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(owner.mode))?;
    drop(to);
    only_file(tree)
}

fn file_system() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = match fsconfig_set_flag(&context, "noswap") {
        Ok(()) => {
            fsconfig_set_string(&context, "size", BYTES_MAX.to_string())?;
            context
        }
        Err(Errno::INVAL) => fsopen("ramfs", FsOpenFlags::FSOPEN_CLOEXEC)?,
        Err(errno) => return Err(errno),
    };
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// The file alone. A part of what is detached can be taken since Linux 6.15 only: the file system is attached for a
/// moment, over the root of this mount namespace, which paths through descriptors do not see.
fn only_file(tree: OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    super::target::attach(tree.as_fd(), root.as_fd())?;
    let file = open_tree(&tree, NAME, flags);
    let here = rustix::fs::openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::fchdir(&tree)?;
    let away = rustix::mount::unmount(".", UnmountFlags::DETACH);
    rustix::process::fchdir(&here)?;
    away?;
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_two_numbers_and_an_octal_one() {
        assert_eq!(Owner::parse("1000:7:440").unwrap(), Owner { uid: 1000, gid: 7, mode: 0o440 });
        for bad in ["", "1:2", "1:2:3:4", "1:2:8", "-1:2:3", "1:2:10000", "a:b:c"] {
            assert!(Owner::parse(bad).is_err(), "{bad}");
        }
    }
}
