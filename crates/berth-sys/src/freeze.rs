//! File systems that stand still (ioctl_fsfreeze): everything written is on the disk, and nothing more is.

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;

/// _IOWR('X', 119, int) and _IOWR('X', 120, int)
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

/// Writers to the file system of `folder` wait from here on. Fails with `EBUSY` where it stands still already, and
/// with `EOPNOTSUPP` where it cannot.
pub fn freeze(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    change(folder, FIFREEZE)
}

/// Lets them go on. Fails with `EINVAL` where it does not stand still.
pub fn thaw(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    change(folder, FITHAW)
}

fn change(folder: BorrowedFd<'_>, request: libc::Ioctl) -> Result<(), Errno> {
    // SAFETY: both requests ignore their argument; the borrow keeps the descriptor open.
    match unsafe { libc::ioctl(folder.as_raw_fd(), request, 0) } {
        0.. => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
