//! Network namespaces of a thread, and the socket option that `rustix` lacks for netlink.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Moves the calling thread, and only it, into a fresh network namespace.
///
/// The thread stays there: callers use a thread of their own for it.
pub fn unshare_network() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWNET changes which network stack this thread's later calls see and nothing else;
    // descriptors stay shared with the other threads, which is what the safety note of `unshare` is about.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// The number that the kernel gives a network namespace for as long as it runs, and no other: that of the socket's.
pub fn cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which lives until the call returns; the borrow keeps
    // the descriptor open.
    let ret = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut length)
    };
    if ret == 0 {
        return Ok(cookie);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// `setsockopt(fd, SOL_NETLINK, option, value)` for the options that take an integer.
pub fn set_netlink_option(fd: BorrowedFd<'_>, option: NetlinkOption, value: i32) -> Result<(), Errno> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel copies four bytes from `value`, which lives until the call returns; the borrow
    // keeps `fd` open.
    let ret = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option as libc::c_int, (&raw const value).cast(), length)
    };
    if ret == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// The options of netlink(7) that we set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum NetlinkOption {
    /// Do not send the request back with its acknowledgement.
    CapAck = libc::NETLINK_CAP_ACK,
    /// Say in words what was wrong with a request.
    ExtAck = libc::NETLINK_EXT_ACK,
    /// Hear what is told to the group with that number.
    AddMembership = libc::NETLINK_ADD_MEMBERSHIP,
    DropMembership = libc::NETLINK_DROP_MEMBERSHIP,
}

/// Moves the calling thread into fresh namespaces of kinds that share no memory with other threads (cgroup, time).
pub fn unshare(flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    if flags.contains(rustix::thread::UnshareFlags::FILES) {
        return Err(Errno::INVAL);
    }
    // SAFETY: the danger of `unshare` is a descriptor table that is no longer shared (refused above); the rest
    // changes what later calls see.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
