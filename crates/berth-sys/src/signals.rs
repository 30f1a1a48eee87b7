//! Signals as a readable descriptor, and signals by number to a process that cannot be mistaken.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Blocks every signal in the calling thread, but for those that cannot be blocked or that a faulting instruction raises.
///
/// A child inherits the mask: whoever executes a program calls [`unblock_all`] before.
pub fn block_all() -> Result<(), Errno> {
    let set = all();
    // SAFETY: sigprocmask reads the set, which lives for the call; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) }).map(drop)
}

/// [`block_all`], and a descriptor (signalfd(2), non-blocking) that reads the signals instead.
pub fn all_as_descriptor() -> Result<OwnedFd, Errno> {
    block_all()?;
    let set = all();
    // SAFETY: -1 asks for a new descriptor; the kernel copies the set.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Every signal that no faulting instruction raises.
fn all() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given; sigdelset then changes it, and it lives on this stack for both.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT] {
            libc::sigdelset(set.as_mut_ptr(), fault);
        }
        set.assume_init()
    }
}

/// Unblocks every signal in the calling thread.
pub fn unblock_all() -> Result<(), Errno> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, sigprocmask reads it; it lives for both calls.
    check(unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    })
    .map(drop)
}

/// Gives SIGINT its default action again, for this process and the programs it starts. Shells that are not interactive
/// have it ignored in what they put in the background (POSIX.1-2017, Shell Command Language, 2.11), and programs inherit that.
pub fn heed_interrupts() -> Result<(), Errno> {
    // SAFETY: the default action is no handler that could run anything.
    match unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// The number of the next signal in a descriptor of [`all_as_descriptor`]; `None` when there is none.
pub fn next_signal(descriptor: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(descriptor, &mut record) {
        // `ssi_signo` is the first field, a u32 (signalfd(2)).
        Ok(count) if count == record.len() => {
            Ok(Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]])))
        }
        Ok(_) => Err(Errno::IO),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sends signal `number`, also a real-time one, to the process behind `pidfd`.
///
/// A pidfd never names a recycled pid. Fails with `ESRCH` once the process has been reaped.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the kernel takes integers and a siginfo pointer, which may be null; the borrow keeps the
    // descriptor open for the call.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, 0) };
    check(ret as i32).map(drop)
}

fn check(ret: i32) -> Result<i32, Errno> {
    if ret >= 0 {
        return Ok(ret);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}
