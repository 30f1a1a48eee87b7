//! The program's own file, out of a container's reach (CVE-2019-5736).
//!
//! A process that is about to become a container's program can be looked at from inside for a moment, and a program
//! of the image may name `/proc/self/exe` as its interpreter: both give the container a way to this program's file.
//! So it runs from a read-only mount of that file which nobody else has: whatever is opened through
//! `/proc/<pid>/exe` cannot be written. The mount is detached, and ends with the process. Its descriptor is closed by
//! then: while one is open, root of any user namespace may make the mount writable (`mount_setattr(2)` asks nothing more
//! of a detached one).
//!
//! A program that is static changes to that mount as it runs ([`berth_sys::own_file`]); where that cannot be, it
//! executes itself again from there, which costs a start most of a millisecond more.

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::OpenTreeFlags;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;

const OWN: &str = "/proc/self/exe";
/// In the environment: take the way of kernels and programs that cannot change in place.
const EXECUTE: &str = "BERTH_EXECUTE_AGAIN";

/// Moves the program behind such a mount; with [`EXECUTE`] in the environment by executing it again. To be called
/// first of all, with a single thread.
pub fn protect() -> std::io::Result<()> {
    if rustix::fs::statvfs(OWN)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, OWN, flags)?;
    let read_only =
        berth_sys::mounts::MountChange { set: berth_sys::mounts::attributes::RDONLY, clear: 0, propagation: 0 };
    berth_sys::mounts::change_mount(tree.as_fd(), read_only, None, false)?;
    let program = format!("/proc/self/fd/{}", tree.as_raw_fd());
    if std::env::var_os(EXECUTE).is_none() {
        let file = rustix::fs::open(&program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // A refusal is no secret, but there is nobody to tell and nothing to do about it: the other way is as safe.
        if berth_sys::own_file::become_behind(file.as_fd()).is_ok() {
            return Ok(());
        }
    }
    let program = CString::new(program)?;
    let arguments = std::env::args_os().map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os().map(|(name, value)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        CString::new(entry)
    });
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    Err(berth_sys::clone::execute(&program, &arguments, &environment).into())
}
