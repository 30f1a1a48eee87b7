//! A foreign tar archive is unpacked into a folder of a container.
//!
//! Names are walked inside the container's root like any other path: links of the container are followed,
//! but never out of it; links of the archive are made as they are. Names with `..` that leave the folder,
//! and what is no file, folder, link, device or pipe, are refused. What stands in the way of an entry is
//! removed, except a folder that is to become a folder.

use super::{FilesError, Found, Root};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Longer names are refused, as the kernel would.
const NAME_BYTES_MAX: usize = 4096;
/// Folders whose times are set at the end; later ones get the time of unpacking.
const FOLDERS_MAX: usize = 100_000;

/// What the caller wants beyond the archive.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnpackOptions {
    /// Refuse to replace a folder by something else and the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// All entries belong to these instead of the archive's.
    pub owner: Option<(u32, u32)>,
}

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("cannot read the archive")]
    Archive(#[source] std::io::Error),
    #[error("invalid entry {}: it leaves the destination", .0.display())]
    Leaves(PathBuf),
    #[error("invalid entry {}: unhandled tar header type {}", .0.display(), .1)]
    Kind(PathBuf, u8),
    #[error("cannot overwrite directory {:?} with non-directory {:?}", .0.display().to_string(), .1.display().to_string())]
    FolderByFile(PathBuf, PathBuf),
    #[error("cannot overwrite non-directory {:?} with directory {:?}", .0.display().to_string(), .1.display().to_string())]
    FileByFolder(PathBuf, PathBuf),
    #[error("mounted volume is marked read-only: {}", .0.display())]
    ReadOnly(PathBuf),
}

/// Unpacks `archive` (plain tar) into `folder`.
pub fn unpack(root: &Root, folder: &Found, archive: impl Read, options: UnpackOptions) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(archive);
    let mut unpack = Unpack { root, top: folder.path.clone(), options, folders: Vec::new() };
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        unpack.entry(entry.map_err(UnpackError::Archive)?)?;
    }
    unpack.finish();
    Ok(())
}

struct Unpack<'a> {
    root: &'a Root,
    top: PathBuf,
    options: UnpackOptions,
    /// Opened folders would be too many; paths are walked again.
    folders: Vec<(PathBuf, Timestamps)>,
}

/// An entry's name as names below the destination; `None` where it leaves it.
fn inside(name: &[u8]) -> Option<Vec<OsString>> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut names: Vec<OsString> = Vec::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => drop(names.pop()?),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(names)
}

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), UnpackError> {
        let name = entry.path_bytes().into_owned();
        let shown = PathBuf::from(OsString::from_vec(name.clone()));
        let kind = entry.header().entry_type();
        if matches!(kind, tar::EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(names) = inside(&name) else { return Err(UnpackError::Leaves(shown)) };
        let Some((last, parents)) = names.split_last() else {
            // The destination itself: it keeps what it is, as with Docker.
            return Ok(());
        };
        let parent = self.parent(parents)?;
        let path = parent.path.join(last);
        if self.root.is_read_only(&path) {
            return Err(UnpackError::ReadOnly(path));
        }
        let meta = Meta::of(&mut entry, self.options.owner).map_err(UnpackError::Archive)?;
        self.make_room(&parent, last, kind == tar::EntryType::Directory, &shown)?;
        let fail = |action: &'static str| {
            let path = path.clone();
            move |errno: Errno| FilesError::step(action, path, errno)
        };
        match kind {
            tar::EntryType::Directory => {
                match rustix::fs::mkdirat(&parent.fd, last, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(fail("create")(errno).into()),
                }
                let child = self.root.child(&parent, last)?;
                let folder = child.open_folder()?;
                meta.apply(&folder).map_err(fail("change"))?;
                if self.folders.len() < FOLDERS_MAX {
                    self.folders.push((child.path, meta.times));
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file =
                    rustix::fs::openat(&parent.fd, last, flags, Mode::RUSR | Mode::WUSR).map_err(fail("create"))?;
                write_content(&mut entry, &file, &path)?;
                meta.apply(&file).map_err(fail("change"))?;
                rustix::fs::futimens(&file, &meta.times).map_err(fail("change"))?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                rustix::fs::symlinkat(target, &parent.fd, last).map_err(fail("create"))?;
                meta.apply_named(&parent.fd, last).map_err(fail("change"))?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let Some(names) = inside(&target) else { return Err(UnpackError::Leaves(shown)) };
                let Some((first, parents)) = names.split_last() else { return Err(UnpackError::Leaves(shown)) };
                let from = self.parent(parents)?;
                // Without AT_SYMLINK_FOLLOW a link at the end is linked, not what it points to.
                rustix::fs::linkat(&from.fd, first, &parent.fd, last, AtFlags::empty()).map_err(fail("link"))?;
            }
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                let header = entry.header();
                let number = |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
                let device = rustix::fs::makedev(number(header.device_major()), number(header.device_minor()));
                let (typ, device) = match kind {
                    tar::EntryType::Char => (FileType::CharacterDevice, device),
                    tar::EntryType::Block => (FileType::BlockDevice, device),
                    _ => (FileType::Fifo, 0),
                };
                rustix::fs::mknodat(&parent.fd, last, typ, Mode::RUSR | Mode::WUSR, device).map_err(fail("create"))?;
                meta.apply_named(&parent.fd, last).map_err(fail("change"))?;
                // Made just now with O_EXCL's strictness (mknod fails on what exists), so no link is followed
                // unless the container swaps one in; then it changes a file of its own.
                let child = self.root.child(&parent, last)?;
                if child.kind() == typ {
                    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&child.fd));
                    rustix::fs::chmodat(CWD, link, meta.rights, AtFlags::empty()).map_err(fail("change"))?;
                }
            }
            other => return Err(UnpackError::Kind(shown, other.as_byte())),
        }
        Ok(())
    }

    /// The folder that an entry goes into, made where it is missing.
    fn parent(&self, names: &[OsString]) -> Result<Found, UnpackError> {
        let mut path = self.top.clone();
        path.extend(names);
        match self.root.find(&path) {
            Ok(found) if found.is_dir() => return Ok(found),
            Ok(found) => return Err(FilesError::step("open", found.path, Errno::NOTDIR).into()),
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error.into()),
        }
        let mut here = self.root.find(&self.top)?;
        for name in names {
            let path = here.path.join(name);
            match rustix::fs::mkdirat(&here.fd, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(FilesError::step("create", path, errno).into()),
            }
            here = self.root.find(&path)?;
        }
        Ok(here)
    }

    /// Removes what is in the way of an entry.
    fn make_room(&self, parent: &Found, name: &OsStr, folder: bool, shown: &Path) -> Result<(), UnpackError> {
        let there = match self.root.child(parent, name) {
            Ok(there) => there,
            Err(error) if error.is_absent() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if there.is_dir() && folder {
            return Ok(());
        }
        if self.options.no_overwrite_dir_non_dir {
            if there.is_dir() {
                return Err(UnpackError::FolderByFile(there.path, shown.to_owned()));
            }
            if folder {
                return Err(UnpackError::FileByFolder(there.path, shown.to_owned()));
            }
        }
        remove(&parent.fd, name, there.is_dir()).map_err(|errno| FilesError::step("replace", there.path, errno).into())
    }

    /// Times of folders last: what is made in a folder changes them.
    fn finish(&mut self) {
        for (path, times) in self.folders.drain(..).rev() {
            let Ok(found) = self.root.find_no_follow(&path) else { continue };
            if let Ok(folder) = found.open_folder() {
                // Best effort: the content is there, and times of a folder carry no meaning.
                rustix::fs::futimens(&folder, &times).ok();
            }
        }
    }
}

/// Removes a name of a folder, with all that is in it where it is one itself; no link is followed.
pub fn remove(parent: &OwnedFd, name: &OsStr, folder: bool) -> Result<(), Errno> {
    remove_at(parent, name, folder, 0)
}

fn remove_at(parent: &OwnedFd, name: &OsStr, folder: bool, depth: usize) -> Result<(), Errno> {
    const DEPTH_MAX: usize = 400;
    if !folder {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty());
    }
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&opened)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let child = OsStr::from_bytes(bytes);
        let stat = rustix::fs::statat(&opened, child, AtFlags::SYMLINK_NOFOLLOW)?;
        remove_at(&opened, child, FileType::from_raw_mode(stat.st_mode) == FileType::Directory, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Long runs of zeros become holes: a tiny archive of an enormous sparse file stays tiny (CVE-2017-14992).
fn write_content(entry: &mut impl Read, file: &OwnedFd, path: &Path) -> Result<(), UnpackError> {
    let mut file = std::fs::File::from(
        rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(|errno| FilesError::step("create", path, errno))?,
    );
    let fail = |cause: std::io::Error| FilesError::Step { action: "write", path: path.to_owned(), cause };
    let mut buffer = vec![0_u8; 64 << 10];
    let (mut length, mut hole) = (0_u64, 0_i64);
    loop {
        let read = match entry.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(UnpackError::Archive(cause)),
        };
        length += read as u64;
        if read >= 4096 && buffer[..read].iter().all(|&byte| byte == 0) {
            hole += read as i64;
            continue;
        }
        if hole > 0 {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Current(hole)).map_err(fail)?;
            hole = 0;
        }
        file.write_all(&buffer[..read]).map_err(fail)?;
    }
    if hole > 0 {
        file.set_len(length).map_err(fail)?;
    }
    Ok(())
}

/// Owner, rights, times and extended attributes of an entry.
struct Meta {
    owner: (u32, u32),
    rights: Mode,
    times: Timestamps,
    attributes: Vec<(String, Vec<u8>)>,
}

impl Meta {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>, owner: Option<(u32, u32)>) -> std::io::Result<Meta> {
        let mut attributes = Vec::new();
        let mut seconds = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
        let mut ids = (entry.header().uid().unwrap_or(0), entry.header().gid().unwrap_or(0));
        if let Some(records) = entry.pax_extensions()? {
            for record in records.flatten() {
                let Ok(key) = record.key() else { continue };
                let number = || record.value().ok()?.parse::<u64>().ok();
                match key {
                    "mtime" => {
                        let whole = record.value().ok().and_then(|text| text.split('.').next()?.parse().ok());
                        seconds = whole.unwrap_or(seconds);
                    }
                    "uid" => ids.0 = number().unwrap_or(ids.0),
                    "gid" => ids.1 = number().unwrap_or(ids.1),
                    _ => {
                        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                            attributes.push((name.to_owned(), record.value_bytes().to_vec()));
                        }
                    }
                }
            }
        }
        let small = |id: u64| u32::try_from(id).unwrap_or(0);
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        Ok(Meta {
            owner: owner.unwrap_or((small(ids.0), small(ids.1))),
            rights: Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777),
            times: Timestamps { last_access: time, last_modification: time },
            attributes,
        })
    }

    fn owners(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.owner.0)), Some(Gid::from_raw(self.owner.1)))
    }

    /// Owner first: changing it clears the set-user-id bit and file capabilities.
    fn apply(&self, file: &OwnedFd) -> Result<(), Errno> {
        let (uid, gid) = self.owners();
        rustix::fs::fchown(file, uid, gid)?;
        rustix::fs::fchmod(file, self.rights)?;
        for (name, value) in &self.attributes {
            // An overlay's own attributes would change what the layers below mean.
            if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") || name == "security.selinux" {
                continue;
            }
            match rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn apply_named(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let (uid, gid) = self.owners();
        rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(parent, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

#[cfg(test)]
mod tests;
