//! Descriptors that a service manager passed to this program, and the allocator's settings.

use std::os::fd::{FromRawFd, OwnedFd};

/// Takes descriptor `number`, which a parent passed by sd_listen_fds(3)'s protocol.
///
/// `None` where it is not open, or is one of the three standard streams. Call it once per number, before
/// anything else opens descriptors.
pub fn take_descriptor(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD reads a flag of the table entry; it takes no pointer and fails for a closed number.
    let open = number > 2 && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    // SAFETY: the number is open (checked above) and by the protocol's contract nobody else in this
    // program owns it: the parent opened it for us.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Bounds glibc's arenas: each keeps what its threads once freed, which an idle daemon pays for.
pub fn limit_malloc_arenas(count: i32) {
    // SAFETY: mallopt takes two integers and changes a setting of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
}
