//! Tap interfaces (tun(4) of the kernel's documentation): a network card's cable end in a process's hand.

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

const DEVICE: &str = "/dev/net/tun";

/// Makes tap interface `name` in the calling thread's network namespace. It stays when this returns, and user
/// `owner` may open it without any capability.
///
/// A name has at most 15 bytes (`EINVAL`). Fails with `EBUSY` where an interface of that name is held open.
pub fn create_persistent(name: &str, owner: u32) -> Result<(), Errno> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(Errno::INVAL);
    }
    let tun = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: `ifreq` is plain data, for which zeroes are valid; the name fits with its final zero (checked above).
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // With headers for offloads, as QEMU opens it: an interface keeps the kind that it was made with.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until the call returns; the descriptor is open.
    check(unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: TUNSETOWNER and TUNSETPERSIST take an integer by value and no pointer.
    unsafe {
        check(libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(owner)))?;
        check(libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong))?;
    }
    Ok(())
}

fn check(ret: libc::c_int) -> Result<(), Errno> {
    match ret {
        0.. => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
