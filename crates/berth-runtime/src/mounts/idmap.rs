//! The user namespace of an id-mapped mount (mount_setattr(2), "ID-mapped mounts").

use crate::error::{LaunchError, Step};
use crate::namespaces::write;
use berth_sys::clone::{Forked, exit_now, flags, fork};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions};

/// Made by a process that lives only as long as its maps take to write.
pub(crate) fn user_namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd, LaunchError> {
    let what = || "make the user namespace of an id-mapped mount".to_owned();
    let (ours, theirs) = crate::channel::pair()?;
    let (pid, pidfd) = match fork(flags::NEWUSER, None).step(what)? {
        Forked::Child => {
            drop(ours);
            // Ends when the other side does.
            crate::channel::await_word(&theirs, 0);
            exit_now(0)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    let lines = |maps: &[LinuxIdMapping]| -> String {
        maps.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
    };
    // The host's /proc is still where it was; our pid in it is that of the caller's namespace.
    let made = own_number(pid).and_then(|pid| {
        write(&format!("/proc/{pid}/uid_map"), &lines(uids))?;
        write(&format!("/proc/{pid}/gid_map"), &lines(gids))?;
        rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(what)
    });
    drop(ours);
    rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).step(what)?;
    made
}

/// `pid` is a number of this process' pid namespace; the mounted /proc may be another's. Its children are listed
/// in that other numbering.
fn own_number(pid: i32) -> Result<String, LaunchError> {
    let what = || "find a child in /proc".to_owned();
    let own = rustix::fs::readlink("/proc/self", Vec::new()).step(what)?;
    let own = own.to_string_lossy().into_owned();
    let status = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).step(what)?;
    let newest = status.split_ascii_whitespace().next_back();
    Ok(newest.map_or_else(|| pid.to_string(), str::to_owned))
}
