//! What a process gives up before it runs somebody else's program: filters, keyrings, descriptors, personality.

use crate::clone::last_error;
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`, <linux/seccomp.h>
const NEW_LISTENER: libc::c_ulong = 1 << 3;
/// `KEYCTL_JOIN_SESSION_KEYRING`, <linux/keyctl.h>
const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Loads a seccomp filter of `(code, jt, jf, k)` instructions into the calling thread; with `listener` answers
/// the descriptor that its notifications arrive at. Flags are `SECCOMP_FILTER_FLAG_*` without NEW_LISTENER.
///
/// The kernel checks the program itself: a bad one is `EINVAL`.
pub fn load_filter(program: &[(u16, u8, u8, u32)], flags: u32, listener: bool) -> Result<Option<OwnedFd>, Errno> {
    let mut code: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let length = u16::try_from(code.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: code.as_mut_ptr() };
    let flags = libc::c_ulong::from(flags) | if listener { NEW_LISTENER } else { 0 };
    // SAFETY: `program` points at `len` instructions that live until the call returns; the kernel copies them.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match ret {
        // SAFETY: with NEW_LISTENER the kernel answers a descriptor that it made for us.
        fd if fd >= 0 && listener => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })),
        0 => Ok(None),
        _ => Err(last_error()),
    }
}

/// Gives the calling thread a session keyring of its own (keyrings(7)).
pub fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name is a string with its end that outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if ret >= 0 { Ok(()) } else { Err(last_error()) }
}

/// personality(2)
pub fn set_personality(personality: u64) -> Result<(), Errno> {
    // SAFETY: takes an integer.
    let ret = unsafe { libc::personality(personality) };
    if ret >= 0 { Ok(()) } else { Err(last_error()) }
}

/// Marks every descriptor from `first` on to be closed by the next execve(2), known to us or not.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed, only a flag of the table's entries is set.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if ret == 0 { Ok(()) } else { Err(last_error()) }
}

/// sched_setattr(2)'s `struct sched_attr`
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Scheduling {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Sets the calling thread's scheduler.
pub fn set_scheduling(mut scheduling: Scheduling) -> Result<(), Errno> {
    scheduling.size = size_of::<Scheduling>() as u32;
    // SAFETY: the kernel copies `size` bytes from the structure, which lives until the call returns.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduling, 0) };
    if ret == 0 { Ok(()) } else { Err(last_error()) }
}

/// Sets the calling process' io priority: class (1 realtime, 2 best effort, 3 idle) and level 0-7 (ioprio_set(2)).
pub fn set_io_priority(class: u32, level: u32) -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes integers.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, (class << 13) | level) };
    if ret == 0 { Ok(()) } else { Err(last_error()) }
}

/// Waits for any signal of the blocked set (all of them); `(number)`. For an init that does nothing else.
pub fn wait_for_signal() -> Result<i32, Errno> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set, sigwaitinfo reads it and is not asked for details.
    let ret = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigwaitinfo(set.as_ptr(), std::ptr::null_mut())
    };
    if ret > 0 { Ok(ret) } else { Err(last_error()) }
}

/// Blocks every signal in the calling thread.
pub fn block_all_signals() -> Result<(), Errno> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set, sigprocmask reads it; it lives for both calls.
    let ret = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if ret == 0 { Ok(()) } else { Err(last_error()) }
}

/// Gives every signal its default meaning again: Rust ignores SIGPIPE, and an ignored signal stays ignored
/// across execve(2).
pub fn default_signal_handlers() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no code of ours; the two signals that cannot be changed and the two that the
        // C library keeps answer an error, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// kill(2) by number: `pid` as there, including -1 and negative groups.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes integers.
    let ret = unsafe { libc::kill(pid, signal) };
    if ret == 0 { Ok(()) } else { Err(last_error()) }
}
