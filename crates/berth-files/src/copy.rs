//! A folder's content as it is: owners, rights, times, extended attributes, hard links, holes, devices.

use super::{FilesError, Found};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Deeper trees are refused: each level holds two descriptors open.
const DEPTH_MAX: usize = 400;

/// Copies what is in `from` into the existing folder `to`, and gives `to` the owner and rights of `from`.
pub fn copy_folder(from: &Found, to: &Path) -> Result<(), FilesError> {
    let source = from.open_folder()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let target =
        rustix::fs::openat(CWD, to, flags, Mode::empty()).map_err(|errno| FilesError::step("open", to, errno))?;
    let top = rustix::io::fcntl_dupfd_cloexec(&target, 0).map_err(|errno| FilesError::step("open", to, errno))?;
    let mut copy = Copy { top, links: HashMap::new() };
    copy.folder(&source, &target, &from.stat, Path::new(""), 0)
}

struct Copy {
    top: OwnedFd,
    /// Device and inode of files with several names → where the first one went.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn folder(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Stat, at: &Path, depth: usize) -> Result<(), FilesError> {
        if depth > DEPTH_MAX {
            return Err(FilesError::Depth(at.to_owned()));
        }
        for entry in Dir::read_from(from).map_err(|errno| FilesError::step("read", at, errno))? {
            let entry = entry.map_err(|errno| FilesError::step("read", at, errno))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entry(from, to, name, &at.join(OsStr::from_bytes(name.to_bytes())), depth)?;
        }
        finish(from, to, stat, at)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, at: &Path, depth: usize) -> Result<(), FilesError> {
        let fail = |action: &'static str| move |errno: Errno| FilesError::step(action, at, errno);
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("stat"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let key = (stat.st_dev, stat.st_ino);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                return rustix::fs::linkat(&self.top, first, to, name, AtFlags::empty()).map_err(fail("link"));
            }
            self.links.insert(key, at.to_owned());
        }
        let read = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match kind {
            FileType::Directory => {
                match rustix::fs::mkdirat(to, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(fail("create")(errno)),
                }
                let from =
                    rustix::fs::openat(from, name, read | OFlags::DIRECTORY, Mode::empty()).map_err(fail("open"))?;
                let to = rustix::fs::openat(to, name, read | OFlags::DIRECTORY, Mode::empty()).map_err(fail("open"))?;
                self.folder(&from, &to, &stat, at, depth + 1)
            }
            FileType::RegularFile => {
                let from =
                    rustix::fs::openat(from, name, read | OFlags::NONBLOCK, Mode::empty()).map_err(fail("open"))?;
                let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let to = rustix::fs::openat(to, name, create, Mode::RUSR | Mode::WUSR).map_err(fail("create"))?;
                content(&from, &to, stat.st_size.unsigned_abs()).map_err(fail("copy"))?;
                finish(&from, &to, &stat, at)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(fail("read link"))?;
                rustix::fs::symlinkat(target, to, name).map_err(fail("create"))?;
                named(to, name, &stat).map_err(fail("change"))
            }
            _ => {
                let rights = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, kind, rights, stat.st_rdev).map_err(fail("create"))?;
                named(to, name, &stat).map_err(fail("change"))?;
                rustix::fs::chmodat(to, name, rights, AtFlags::empty()).map_err(fail("change"))
            }
        }
    }
}

/// The bytes, holes staying holes.
fn content(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if end <= start {
            break;
        }
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
                Ok(0) => return rustix::fs::ftruncate(to, write_at),
                Ok(_) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    by_hand(from, to, &mut read_at, end)?;
                    write_at = read_at;
                }
                Err(errno) => return Err(errno),
            }
        }
        at = end;
    }
    rustix::fs::ftruncate(to, size)
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, at: &mut u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0_u8; 128 << 10];
    while *at < end {
        let want = usize::try_from(end - *at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..want], *at)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            written += rustix::io::pwrite(to, &buffer[written..read], *at + written as u64)?;
        }
        *at += read as u64;
    }
    Ok(())
}

/// Owner first: changing it clears the set-user-id bit and file capabilities.
fn finish(from: &OwnedFd, to: &OwnedFd, stat: &Stat, at: &Path) -> Result<(), FilesError> {
    let fail = |errno: Errno| FilesError::step("change", at, errno);
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid)).map_err(fail)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(fail)?;
    attributes(from, to).map_err(fail)?;
    rustix::fs::futimens(to, &times(stat)).map_err(fail)
}

/// For what has no descriptor of its own to change: links and devices.
fn named(to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// All but the overlay's own.
fn attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    for (name, value) in list_attributes(from.as_fd())? {
        match rustix::fs::fsetxattr(to, name.as_c_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Names and values of the extended attributes, without those that overlayfs keeps for itself.
pub fn list_attributes(fd: std::os::fd::BorrowedFd<'_>) -> Result<Vec<(std::ffi::CString, Vec<u8>)>, Errno> {
    // XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
    const LIST_MAX: usize = 64 << 10;
    const VALUE_MAX: usize = 64 << 10;
    const LIST_USUAL: usize = 1 << 10;
    // Not asked with an empty buffer first: rustix answers 0 then, whatever there is.
    let mut list = vec![0_u8; LIST_USUAL];
    let mut length = rustix::fs::flistxattr(fd, &mut list[..]);
    if matches!(length, Err(Errno::RANGE)) {
        list.resize(LIST_MAX, 0);
        length = rustix::fs::flistxattr(fd, &mut list[..]);
    }
    let length = match length {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for name in list[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if name.to_bytes().starts_with(b"trusted.overlay.") || name.to_bytes().starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; VALUE_MAX];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                all.push((name.to_owned(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;
    use berth_types::mount::Rootfs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn rights_links_and_holes_survive() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| from.path().join(name);
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("sub/a"), "one").unwrap();
        std::fs::hard_link(path("sub/a"), path("b")).unwrap();
        symlink("sub/a", path("link")).unwrap();
        std::fs::set_permissions(path("sub/a"), std::fs::Permissions::from_mode(0o4750)).unwrap();
        std::fs::set_permissions(from.path(), std::fs::Permissions::from_mode(0o1770)).unwrap();
        let attribute = b"value";
        // Not every scratch folder's file system has them.
        let has_attributes = rustix::fs::setxattr(path("sub/a"), "user.k", attribute, XattrFlags::empty()).is_ok();
        let hole = std::fs::File::create(path("hole")).unwrap();
        hole.set_len(32 << 20).unwrap();

        let root = Root::of_image(&Rootfs::Directory { path: from.path().to_owned() }).unwrap();
        copy_folder(&root.find(Path::new("/")).unwrap(), to.path()).unwrap();
        let meta = |name: &str| std::fs::symlink_metadata(to.path().join(name)).unwrap();
        assert_eq!(meta("sub/a").mode() & 0o7777, 0o4750);
        assert_eq!(meta("sub/a").ino(), meta("b").ino());
        assert_eq!(std::fs::read_link(to.path().join("link")).unwrap(), Path::new("sub/a"));
        let mut value = [0; 16];
        let copied = rustix::fs::getxattr(to.path().join("sub/a"), "user.k", &mut value[..]).ok();
        assert_eq!(copied.map(|length| &value[..length]), has_attributes.then_some(&attribute[..]));
        assert_eq!(meta("hole").len(), 32 << 20);
        assert!(meta("hole").blocks() < 128, "{} blocks", meta("hole").blocks());
        assert_eq!(std::fs::metadata(to.path()).unwrap().mode() & 0o7777, 0o1770);
    }
}
