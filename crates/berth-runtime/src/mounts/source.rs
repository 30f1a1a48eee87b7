//! Where a bind's tree comes from, beyond a path of the host.
//!
//! Three options of ours, which OCI has no words for; the engine writes them, `berth-runtime` takes them too:
//!
//! - `berth.beneath=<folder>`: the source is below this folder, and must still be there when all links are
//!   followed. Whoever writes to the folder cannot lead the mount elsewhere, at whatever moment
//!   (CVE-2024-23651 is the race).
//! - `berth.process=<pid>`: the source is a path that this process sees: another container's mount, such as
//!   the /dev/shm that is shared with `--ipc container:x`.
//! - `berth.memory=<uid>:<gid>:<mode>`: the source is a file of the host's, and the container gets a copy of it in
//!   memory, with this owner and these permission bits. Its content is never on a disk outside the source.

use super::options::Options;
use crate::error::{LaunchError, Step};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::path::Path;

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A detached copy of the mount at `source`.
pub(super) fn tree(
    source: &Path,
    options: &Options,
    flags: OpenTreeFlags,
    what: &dyn Fn() -> String,
) -> Result<OwnedFd, LaunchError> {
    match (&options.beneath, options.process) {
        (None, None) => open_tree(CWD, source, flags).step(what),
        (Some(folder), _) => {
            let inside = source.strip_prefix(folder).map_err(|_| {
                LaunchError::configuration(format!("{}: it is not beneath {}", what(), folder.display()))
            })?;
            let folder = rustix::fs::open(folder, PATH | OFlags::DIRECTORY, Mode::empty()).step(what)?;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let file = openat2(&folder, inside, PATH, Mode::empty(), resolve).step(what)?;
            open_tree(&file, "", flags | OpenTreeFlags::AT_EMPTY_PATH).step(what)
        }
        (None, Some(pid)) => of_process(source, pid, flags, what),
    }
}

/// A mount can be copied only from within its own namespace: there and back.
fn of_process(
    source: &Path,
    pid: u32,
    flags: OpenTreeFlags,
    what: &dyn Fn() -> String,
) -> Result<OwnedFd, LaunchError> {
    let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(what);
    let theirs = open(&format!("/proc/{pid}/ns/mnt"))?;
    let ours = open("/proc/self/ns/mnt")?;
    // Entering a namespace puts us into its root; ours is the host's tree still, whose root we come back to.
    let folder = rustix::fs::open(".", PATH | OFlags::DIRECTORY, Mode::empty()).step(what)?;
    move_into_link_name_space(theirs.as_fd(), Some(LinkNameSpaceType::Mount)).step(what)?;
    let tree = open_tree(CWD, source, flags);
    move_into_link_name_space(ours.as_fd(), Some(LinkNameSpaceType::Mount)).step(what)?;
    rustix::process::fchdir(&folder).step(what)?;
    tree.step(what)
}
