//! A container's terminal: a pair of its own devpts.

use crate::error::{LaunchError, Step};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// `DEVPTS_SUPER_MAGIC`, <linux/magic.h>
const DEVPTS: u64 = 0x1cd1;

pub(crate) struct Pair {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

/// Opens a pair of the devpts at /dev/pts below `root`, which must be one: an image can put anything there.
pub(crate) fn open(root: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<Pair, LaunchError> {
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat2(root, "dev/pts/ptmx", open, Mode::empty(), flags)
        .step(|| "open the container's /dev/pts/ptmx (a terminal needs a devpts mount)".to_owned())?;
    let system = rustix::fs::fstatfs(&master).step(|| "look at /dev/pts/ptmx".to_owned())?;
    let stat = rustix::fs::fstat(&master).step(|| "look at /dev/pts/ptmx".to_owned())?;
    if system.f_type as u64 != DEVPTS || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(LaunchError::configuration("/dev/pts is not a devpts: a terminal cannot be made"));
    }
    unlockpt(&master).step(|| "unlock the terminal".to_owned())?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .step(|| "open the terminal's other end".to_owned())?;
    if rows != 0 && columns != 0 {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).step(|| "set the terminal's size".to_owned())?;
    }
    Ok(Pair { master, slave })
}

/// Makes `slave` the standard streams and the controlling terminal of this session.
pub(crate) fn adopt(slave: impl AsFd) -> Result<(), LaunchError> {
    let take = || {
        rustix::process::ioctl_tiocsctty(&slave)?;
        rustix::stdio::dup2_stdin(&slave)?;
        rustix::stdio::dup2_stdout(&slave)?;
        rustix::stdio::dup2_stderr(&slave)
    };
    take().step(|| "take the terminal".to_owned())
}
