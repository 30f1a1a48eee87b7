//! A container's tar stream onto this host, contained.
//!
//! The container decides names, links and their order, so none of them is trusted: every entry's parent is
//! opened below the destination with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so a link that an
//! earlier entry (or somebody in parallel) put there leads nowhere; `..` is refused; files are made with
//! `O_EXCL | O_NOFOLLOW` after what stood there has been unlinked. Device nodes are skipped, set-id bits are
//! kept only together with the owner (`-a`).

use crate::error::{CliError, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::Receiver;

/// Where the archive's first name goes: `folder` exists; `name` replaces it, or its content goes straight in.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) name: Option<OsString>,
}

#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) skipped: Vec<String>,
}

/// Chunks from another thread as a reader.
pub(super) struct ChannelReader {
    chunks: Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl ChannelReader {
    pub(super) fn new(chunks: Receiver<Vec<u8>>) -> ChannelReader {
        ChannelReader { chunks, current: io::Cursor::default() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(buffer)? {
                0 => match self.chunks.recv() {
                    Ok(chunk) => self.current = io::Cursor::new(chunk),
                    Err(_) => return Ok(0),
                },
                n => return Ok(n),
            }
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CliError + '_ {
    move |e| CliError::io(format!("cannot extract {}", path.display()), e)
}

pub(super) fn extract(stream: impl Read, place: &Place, keep_owner: bool) -> Result<Done> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(CWD, &place.folder, flags, Mode::empty()).map_err(|e| failed(&place.folder)(e.into()))?;
    let mut archive = tar::Archive::new(stream);
    let mut done = Done::default();
    let mut folders: Vec<(PathBuf, u32, i64)> = Vec::new();
    let unreadable = |e| CliError::io("the container's archive is damaged", e);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let original = entry.path().map_err(unreadable)?.into_owned();
        let Some(path) = relocate(&original, place.name.as_deref())? else { continue };
        let header = entry.header().clone();
        let mode = header.mode().map_err(unreadable)? & if keep_owner { 0o7777 } else { 0o1777 };
        let mtime = header.mtime().map_or(0, |t| i64::try_from(t).unwrap_or(0));
        let parent = open_parent(&root, &path).map_err(failed(&path))?;
        let name = path.file_name().unwrap_or_default();
        match header.entry_type() {
            tar::EntryType::Directory => {
                make_folder(&parent, name).map_err(failed(&path))?;
                folders.push((path.clone(), mode, mtime));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let file = make_file(&parent, name).map_err(failed(&path))?;
                done.bytes += copy(&mut entry, &file).map_err(failed(&path))?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| failed(&path)(e.into()))?;
                rustix::fs::futimens(&file, &times(mtime)).map_err(|e| failed(&path)(e.into()))?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name().map_err(unreadable)?.unwrap_or_default().into_owned();
                clear(&parent, name).map_err(failed(&path))?;
                rustix::fs::symlinkat(&target, &parent, name).map_err(|e| failed(&path)(e.into()))?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name().map_err(unreadable)?.unwrap_or_default().into_owned();
                let Some(target) = relocate(&target, place.name.as_deref())? else { continue };
                let from = open_parent(&root, &target).map_err(failed(&target))?;
                clear(&parent, name).map_err(failed(&path))?;
                rustix::fs::linkat(&from, target.file_name().unwrap_or_default(), &parent, name, AtFlags::empty())
                    .map_err(|e| failed(&path)(e.into()))?;
            }
            tar::EntryType::Fifo => {
                clear(&parent, name).map_err(failed(&path))?;
                rustix::fs::mknodat(&parent, name, rustix::fs::FileType::Fifo, Mode::from_raw_mode(mode), 0)
                    .map_err(|e| failed(&path)(e.into()))?;
            }
            kind => {
                done.skipped.push(format!("{} ({kind:?}: not made on the host)", original.display()));
                continue;
            }
        }
        if keep_owner {
            let uid = header.uid().ok().and_then(|u| u32::try_from(u).ok()).map(rustix::fs::Uid::from_raw);
            let gid = header.gid().ok().and_then(|g| u32::try_from(g).ok()).map(rustix::fs::Gid::from_raw);
            rustix::fs::chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed(&path)(e.into()))?;
            if header.entry_type().is_file() {
                // chown takes set-id bits away.
                let file =
                    open_below(&parent, Path::new(name), OFlags::RDONLY | OFlags::NOFOLLOW).map_err(failed(&path))?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| failed(&path)(e.into()))?;
            }
        }
    }
    // A folder's time and mode come last: filling it changes the one and may need more of the other.
    for (path, mode, mtime) in folders.iter().rev() {
        let folder = open_below(&root, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed(path))?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(*mode)).map_err(|e| failed(path)(e.into()))?;
        rustix::fs::futimens(&folder, &times(*mtime)).map_err(|e| failed(path)(e.into()))?;
    }
    Ok(done)
}

/// The entry's path below the folder; none for the root that is not made itself.
fn relocate(path: &Path, name: Option<&OsStr>) -> Result<Option<PathBuf>> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(CliError::failed(format!(
                    "the container's archive is hostile: it holds the path {}",
                    path.display()
                )));
            }
        }
    }
    // `./x` is the content of a folder called `.`; `etc/x` that of one called `etc`.
    let starts_with_dot = path.as_os_str().as_encoded_bytes().starts_with(b"./") || path == Path::new(".");
    let below = if starts_with_dot { &parts[..] } else { parts.get(1..).unwrap_or_default() };
    let out: PathBuf = name.into_iter().chain(below.iter().copied()).collect();
    Ok((!out.as_os_str().is_empty()).then_some(out))
}

fn open_below(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// The folder an entry goes into, made if the archive did not bring it.
fn open_parent(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => return open_below(root, Path::new("."), flags),
    };
    match open_below(root, parent, flags) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = open_parent(root, parent)?;
            make_folder(&above, parent.file_name().unwrap_or_default())?;
            open_below(root, parent, flags)
        }
        other => other,
    }
}

fn make_folder(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    // 0700 until it is filled; its own mode comes at the end.
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                return Ok(());
            }
            clear(parent, name)?;
            Ok(rustix::fs::mkdirat(parent, name, Mode::RWXU)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// Removes what is not a folder; a folder in the way is an error, as in Docker's client.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn make_file(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    clear(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?)
}

fn copy(from: &mut impl Read, to: &OwnedFd) -> io::Result<u64> {
    let mut file = std::fs::File::from(to.try_clone()?);
    let bytes = io::copy(from, &mut file)?;
    file.flush()?;
    Ok(bytes)
}

fn times(mtime: i64) -> Timestamps {
    let t = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: t, last_modification: t }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("berth-cp-{}-{name}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, link: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644 | if kind.is_dir() { 0o111 } else { 0 });
        header.set_size(data.len() as u64);
        header.set_mtime(1_700_000_000);
        // Written raw: the crate's own setter refuses the paths we want to test.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    fn archive(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, link, data) in entries {
            entry(&mut builder, path, *kind, link, data);
        }
        builder.into_inner().unwrap()
    }

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn a_tree_gets_its_new_name_modes_and_times() {
        let dir = scratch("tree");
        let data = archive(&[
            ("etc", Directory, "", b""),
            ("etc/a", Regular, "", b"hello"),
            ("etc/b", Link, "etc/a", b""),
            ("etc/c", Symlink, "/etc/passwd", b""),
        ]);
        let place = Place { folder: dir.clone(), name: Some("new".into()) };
        let done = extract(&data[..], &place, false).unwrap();
        assert_eq!(done.bytes, 5);
        assert_eq!(std::fs::read(dir.join("new/b")).unwrap(), b"hello");
        assert_eq!(std::fs::read_link(dir.join("new/c")).unwrap(), Path::new("/etc/passwd"));
        let place = Place { folder: dir.clone(), name: None };
        extract(&archive(&[("./", Directory, "", b""), ("./x", Regular, "", b"1")])[..], &place, false).unwrap();
        assert_eq!(std::fs::read(dir.join("x")).unwrap(), b"1");
    }

    #[test]
    fn nothing_is_written_outside_through_links_or_dots() {
        let outside = scratch("outside");
        let dir = scratch("inside");
        let target = outside.to_str().unwrap();
        let place = Place { folder: dir.clone(), name: Some("d".into()) };
        let through_link =
            archive(&[("d", Directory, "", b""), ("d/l", Symlink, target, b""), ("d/l/evil", Regular, "", b"x")]);
        assert!(extract(&through_link[..], &place, false).is_err());
        let dots = archive(&[("d/../../evil", Regular, "", b"x")]);
        assert!(extract(&dots[..], &place, false).is_err());
        let hard = archive(&[("d", Directory, "", b""), ("d/l2", Symlink, target, b""), ("d/h", Link, "d/l2/x", b"")]);
        assert!(extract(&hard[..], &place, false).is_err());
        // A link in place of the file itself is replaced, not followed.
        std::fs::write(outside.join("keep"), "keep").unwrap();
        std::os::unix::fs::symlink(outside.join("keep"), dir.join("f")).unwrap();
        let place = Place { folder: dir.clone(), name: Some("f".into()) };
        extract(&archive(&[("f", Regular, "", b"new")])[..], &place, false).unwrap();
        assert_eq!(std::fs::read(outside.join("keep")).unwrap(), b"keep");
        assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}
