//! A container's files, one folder at a time: seen, read, written and removed, contained to its root.
//!
//! The same roots as `cp` has ([`super::archive`]). A file is written beside its place and renamed over it: whoever
//! reads it meanwhile sees the old one or the new one, and an upload that breaks off leaves nothing.

use super::archive::{Sink, Source, blocking, checked_writable, refused, root_of, stream};
use super::{ByteSource, ByteStream, Containers};
use crate::files::{self, FilesError, Found, PackError, Root};
use crate::full;
use berth_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longer folders are cut off, and say so.
const ENTRIES_MAX: usize = 10_000;
const CHUNK_BYTES: usize = 64 << 10;
const NEW_MODE: u32 = 0o644;
const NEW_FOLDER_MODE: u32 = 0o755;

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where it is, links followed.
    pub path: String,
    pub entries: Vec<FileEntry>,
    /// There is more than is told.
    pub more: bool,
    /// Nothing can be written here.
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    /// The name's bytes are no UTF-8: it is shown, and cannot be asked for.
    pub unreadable_name: bool,
    /// `st_mode`, type bits included.
    pub mode: u32,
    pub size_bytes: u64,
    pub user: u32,
    pub group: u32,
    pub modified_unix_millis: i64,
    /// Of a symbolic link: what it says.
    pub link: Option<String>,
}

/// A regular file's content on its way.
pub struct FileContent {
    pub size_bytes: u64,
    pub body: ByteStream,
}

impl Containers {
    /// What is in the folder at `path`.
    pub async fn folder(&self, container: &str, path: &str) -> Result<Folder> {
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        blocking(move || {
            let root = root_of(&inspect)?;
            let told = |error: FilesError| refused(&error, &path, &inspect.name);
            let found = root.find(Path::new(&path)).map_err(told)?;
            if !found.is_dir() {
                return Err(Error::invalid(format!("{path} is no folder")));
            }
            let (entries, more) = entries(&root, &found).map_err(told)?;
            let read_only = checked_writable(&root, &found, &inspect).is_err();
            Ok(Folder { path: found.path.to_string_lossy().into_owned(), entries, more, read_only })
        })
        .await
    }

    /// The content of the regular file at `path`.
    pub async fn file_content(&self, container: &str, path: &str) -> Result<FileContent> {
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        let (size_bytes, file) = blocking(move || {
            let root = root_of(&inspect)?;
            let told = |error: FilesError| refused(&error, &path, &inspect.name);
            let found = root.find(Path::new(&path)).map_err(told)?;
            if found.kind() != FileType::RegularFile {
                return Err(Error::invalid(format!("{path} is no regular file")));
            }
            let file = std::fs::File::from(files::reopen(&found).map_err(told)?);
            Ok((found.stat.st_size.unsigned_abs(), file))
        })
        .await?;
        // No more than was announced: a file that grows would run over its answer.
        let body = stream(move |sink| pass(file.take(size_bytes), sink).map_err(PackError::Write));
        Ok(FileContent { size_bytes, body })
    }

    /// Writes the file at `path`, new or in place of what is there; its owner and rights stay, a new one gets the
    /// folder's owner. More than `bytes_max` are refused.
    pub async fn file_put(&self, container: &str, path: &str, bytes_max: u64, body: ByteSource) -> Result<u64> {
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        blocking(move || {
            let root = root_of(&inspect)?;
            let (folder, name) = place(&root, &path, &inspect.name)?;
            checked_writable(&root, &folder, &inspect)?;
            write(&root, &folder, &name, Source::new(body), bytes_max).map_err(|error| error.told(&path, &inspect.name))
        })
        .await
    }

    /// Makes the folder at `path`; the one above must be there.
    pub async fn folder_make(&self, container: &str, path: &str) -> Result<()> {
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        blocking(move || {
            let root = root_of(&inspect)?;
            let (folder, name) = place(&root, &path, &inspect.name)?;
            checked_writable(&root, &folder, &inspect)?;
            let made = (|| {
                let opened = folder.open_folder()?;
                let step = |errno| FilesError::step("make", &path, errno);
                rustix::fs::mkdirat(&opened, &name, Mode::from_raw_mode(NEW_FOLDER_MODE)).map_err(step)?;
                own(&opened, &name, &folder.stat).map_err(step)
            })();
            made.map_err(|error: FilesError| WriteError::Files(error).told(&path, &inspect.name))
        })
        .await
    }

    /// Removes what is at `path`, a folder with all that is in it; a link itself, not what it leads to.
    pub async fn file_remove(&self, container: &str, path: &str) -> Result<()> {
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        blocking(move || {
            let root = root_of(&inspect)?;
            let (parent, name) = split(&path)?;
            let told = |error: FilesError| refused(&error, &path, &inspect.name);
            let folder = root.find(&parent).map_err(told)?;
            let found = root.child(&folder, &name).map_err(told)?;
            checked_writable(&root, &folder, &inspect)?;
            if inspect.mounts.iter().any(|point| Path::new(&point.target).starts_with(&found.path)) {
                return Err(Error::conflict(format!("cannot remove {path}: a volume is mounted there")));
            }
            files::remove(&folder.fd, &name, found.is_dir())
                .map_err(|errno| WriteError::Files(FilesError::step("remove", &path, errno)).told(&path, &inspect.name))
        })
        .await
    }
}

fn entries(root: &Root, folder: &Found) -> std::result::Result<(Vec<FileEntry>, bool), FilesError> {
    let fail = |errno: Errno| FilesError::step("read", &folder.path, errno);
    let mut names: Vec<OsString> = root.mounts_in(&folder.path).map(OsStr::to_owned).collect();
    let mut more = false;
    for entry in Dir::read_from(folder.open_folder()?).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if names.len() >= ENTRIES_MAX {
            more = true;
            break;
        }
        names.push(OsStr::from_bytes(name).to_owned());
    }
    names.sort();
    names.dedup();
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        match root.child(folder, &name) {
            Ok(found) => entries.push(entry(&name, &found)),
            // Removed since its name was read.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((entries, more))
}

fn entry(name: &OsStr, found: &Found) -> FileEntry {
    let stat = &found.stat;
    FileEntry {
        name: name.to_string_lossy().into_owned(),
        unreadable_name: name.to_str().is_none(),
        mode: stat.st_mode,
        size_bytes: stat.st_size.unsigned_abs(),
        user: stat.st_uid,
        group: stat.st_gid,
        modified_unix_millis: stat.st_mtime.saturating_mul(1000),
        link: match found.kind() {
            FileType::Symlink => found.link_target().ok().map(|target| target.to_string_lossy().into_owned()),
            _ => None,
        },
    }
}

/// The folder above and the last name.
fn split(path: &str) -> Result<(PathBuf, OsString)> {
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    match name {
        "" | "." | ".." => Err(Error::invalid(format!("{path:?} names no file"))),
        name => Ok((Path::new("/").join(parent.trim_start_matches('/')), name.into())),
    }
}

/// Where a file called `path` is to be written: a link that leads to a file is followed.
fn place(root: &Root, path: &str, container: &str) -> Result<(Found, OsString)> {
    let (parent, name) = split(path)?;
    let told = |error: FilesError| refused(&error, path, container);
    match root.find(Path::new(path)) {
        Ok(found) if found.kind() == FileType::RegularFile => {
            let at = (found.path.parent().map(Path::to_owned), found.path.file_name().map(OsStr::to_owned));
            match at {
                (Some(folder), Some(name)) => Ok((root.find(&folder).map_err(told)?, name)),
                _ => Err(Error::invalid(format!("{path:?} names no file"))),
            }
        }
        Ok(_) => Err(Error::conflict(format!("{path} is there already and is no regular file"))),
        Err(error) if error.is_absent() => {
            let folder = root.find(&parent).map_err(told)?;
            match folder.is_dir() {
                true => Ok((folder, name)),
                false => Err(Error::invalid(format!("{} is no folder", parent.display()))),
            }
        }
        Err(error) => Err(told(error)),
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("the upload broke off")]
    Broken(#[source] std::io::Error),
    #[error("it has more than {0} bytes")]
    Large(u64),
}

impl WriteError {
    fn told(&self, path: &str, container: &str) -> Error {
        let kind = match self {
            WriteError::Files(error) if error.is_read_only() || error.is_busy() => ErrorKind::Conflict,
            WriteError::Files(error) if error.is_there() => ErrorKind::Conflict,
            WriteError::Files(_) => ErrorKind::Internal,
            WriteError::Broken(_) | WriteError::Large(_) => ErrorKind::InvalidArgument,
        };
        full::or(kind, format!("cannot change {path} in container {container}"), self)
    }
}

fn write(
    root: &Root,
    folder: &Found,
    name: &OsStr,
    mut source: impl Read,
    bytes_max: u64,
) -> std::result::Result<u64, WriteError> {
    let shown = folder.path.join(name);
    let step = |errno: Errno| FilesError::step("write", &shown, errno);
    let opened = folder.open_folder()?;
    let before = root.child(folder, name).ok().filter(|found| found.kind() == FileType::RegularFile);
    let bytes = super::random_bytes().map_err(|cause| WriteError::Broken(std::io::Error::other(cause.to_string())))?;
    let beside = Beside { folder: &opened, name: format!(".berth-{}", berth_types::digest::hex(&bytes[..8])) };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&opened, &beside.name, flags, Mode::from_raw_mode(0o600)).map_err(step)?;
    let mut file = std::fs::File::from(file);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut written = 0_u64;
    loop {
        let count = source.read(&mut buffer).map_err(WriteError::Broken)?;
        if count == 0 {
            break;
        }
        written += count as u64;
        if written > bytes_max {
            return Err(WriteError::Large(bytes_max));
        }
        file.write_all(&buffer[..count]).map_err(|cause| FilesError::Step {
            action: "write",
            path: shown.clone(),
            cause,
        })?;
    }
    let (owner, mode) = match &before {
        Some(found) => (&found.stat, found.stat.st_mode & 0o7777),
        None => (&folder.stat, NEW_MODE),
    };
    rustix::fs::fchown(&file, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid))).map_err(step)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(step)?;
    rustix::fs::renameat(&opened, &beside.name, &opened, name).map_err(step)?;
    Ok(written)
}

/// A file that is not there yet; what is left of a write that failed goes with it.
struct Beside<'a> {
    folder: &'a OwnedFd,
    name: String,
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // After the rename there is nothing of that name.
        rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty()).ok();
    }
}

fn own(folder: &OwnedFd, name: &OsStr, like: &Stat) -> std::result::Result<(), Errno> {
    let (user, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    rustix::fs::chownat(folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}

fn pass(mut file: impl Read, sink: &mut Sink) -> std::io::Result<()> {
    std::io::copy(&mut file, sink)?;
    sink.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::mount::Rootfs;
    use bytes::Bytes;
    use std::os::unix::fs::PermissionsExt;
    use tokio::sync::mpsc;

    fn scratch() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/a.conf"), "old").unwrap();
        std::os::unix::fs::symlink("/etc/a.conf", folder.path().join("etc/link")).unwrap();
        std::os::unix::fs::symlink("../../../etc/passwd", folder.path().join("etc/out")).unwrap();
        let root = Root::stopped(&Rootfs::Directory { path: folder.path().to_owned() }, &[], false).unwrap();
        (folder, root)
    }

    fn put(root: &Root, path: &str, text: &'static [u8], max: u64) -> std::result::Result<u64, String> {
        let (sender, chunks) = mpsc::channel(1);
        sender.blocking_send(Ok(Bytes::from_static(text))).unwrap();
        drop(sender);
        let (folder, name) = place(root, path, "c").map_err(|error| error.to_string())?;
        write(root, &folder, &name, Source::new(chunks), max).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_tells_names_kinds_and_where_links_lead() {
        let (_folder, root) = scratch();
        let (all, more) = entries(&root, &root.find(Path::new("/etc")).unwrap()).unwrap();
        assert!(!more);
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a.conf", "link", "out"]);
        assert_eq!(all[1].link.as_deref(), Some("/etc/a.conf"));
        assert_eq!(all[0].size_bytes, 3);
    }

    #[test]
    fn a_file_is_replaced_with_its_rights_and_through_its_link() {
        let (folder, root) = scratch();
        let file = folder.path().join("etc/a.conf");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(put(&root, "/etc/link", b"new", 10), Ok(3));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(folder.path().join("etc/link")).unwrap().is_symlink());
    }

    #[test]
    fn what_is_too_large_leaves_the_old_file_and_nothing_beside() {
        let (folder, root) = scratch();
        assert!(put(&root, "/etc/a.conf", b"much too long", 4).unwrap_err().contains("more than 4 bytes"));
        assert_eq!(std::fs::read_to_string(folder.path().join("etc/a.conf")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path().join("etc")).unwrap().count(), 3);
    }

    #[test]
    fn no_path_leads_out_of_the_root() {
        let (folder, root) = scratch();
        // The link says ../../../etc/passwd: above the root is the root.
        assert_eq!(put(&root, "/etc/out", b"x", 10), Ok(1));
        assert!(folder.path().join("etc/out").symlink_metadata().unwrap().is_file());
        assert_ne!(std::fs::read_to_string("/etc/passwd").unwrap(), "x");
        for bad in ["/", "/etc/..", "", "/etc/."] {
            assert!(split(bad).is_err(), "{bad}");
        }
        assert!(put(&root, "/etc", b"x", 10).is_err(), "a folder is no file");
    }
}
