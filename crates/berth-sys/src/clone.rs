//! Processes: clone3(2) as a fork with namespaces, execve(2).

use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `CLONE_NEW*`, <linux/sched.h>
pub mod flags {
    pub const NEWTIME: u64 = 0x80;
    pub const NEWNS: u64 = 0x0002_0000;
    pub const NEWCGROUP: u64 = 0x0200_0000;
    pub const NEWUTS: u64 = 0x0400_0000;
    pub const NEWIPC: u64 = 0x0800_0000;
    pub const NEWUSER: u64 = 0x1000_0000;
    pub const NEWPID: u64 = 0x2000_0000;
    pub const NEWNET: u64 = 0x4000_0000;
    pub(super) const PIDFD: u64 = 0x1000;
    pub(super) const INTO_CGROUP: u64 = 0x2_0000_0000;
}

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `struct clone_args`, clone(2)
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks this process with `namespaces` (of [`flags`]) new for the child, inside `cgroup` where one is given (v2).
///
/// The child has a copy of the whole memory, so it may do what any Rust code may, **provided that this
/// process has one thread**: with more, a lock (the allocator's, for one) may be held for ever in the copy.
/// Refused with `EBUSY` where there are more.
pub fn fork(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    if !is_single_threaded() {
        return Err(Errno::BUSY);
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: namespaces | flags::PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= flags::INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack of its own the child goes on here on a copy of this memory,
    // as after fork(2); there is no second thread whose locks could be left held (checked above). `pidfd`
    // outlives the call, which is when the kernel writes it.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match ret {
        0 => Ok(Forked::Child),
        // SAFETY: the kernel made this descriptor for us and nobody else knows it.
        pid if pid > 0 => Ok(Forked::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        _ => Err(last_error()),
    }
}

/// From the link count of /proc/self/task: two for the folder and one a thread (proc(5)).
fn is_single_threaded() -> bool {
    rustix::fs::stat("/proc/self/task").map_or(true, |stat| stat.st_nlink == 3)
}

/// Replaces this process by `program`. Only returns with the reason why it could not.
pub fn execute(program: &std::ffi::CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and, as the strings that they point to, live until the call
    // fails; if it does not fail, this memory is gone.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_error()
}

/// Ends this process at once: no destructors, no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Closes every descriptor of this process, for one that goes on without any: pipes of others must not be held
/// open by it.
///
/// Values that own descriptors must be forgotten, not dropped: callers never return ([`exit_now`]).
pub fn close_all_descriptors() {
    // SAFETY: closing frees table entries. Owners of those numbers in this process never run again: callers
    // end by `exit_now`, and new descriptors are not opened afterwards, so no number is mistaken for another's.
    unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0) };
}
