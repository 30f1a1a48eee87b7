//! What a folder held, copied onto the tmpfs that covers it (`tmpcopyup`).

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// Deeper than any image's folders; each level holds two descriptors.
const DEPTH_MAX: u32 = 64;

pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty())?;
    let to = rustix::fs::openat(to, ".", flags, Mode::empty())?;
    folder(&from, &to, 0)
}

fn folder(from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<(), Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
                folder(&inner, &made, depth + 1)?;
                continue;
            }
            FileType::RegularFile => {
                let source =
                    rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
                std::io::copy(&mut source, &mut target).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
                owner(to, name, &stat)?;
                rustix::fs::fchmod(target.as_fd(), mode)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(link.as_c_str(), to, name)?;
                owner(to, name, &stat)?;
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                owner(to, name, &stat)?;
            }
        }
    }
    Ok(())
}

fn owner(folder: &OwnedFd, name: &std::ffi::CStr, stat: &rustix::fs::Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
