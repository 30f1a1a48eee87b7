//! An image's files as one read-only disk (EROFS), made once and shared by all machines of that image.

use crate::Engine;
use crate::files::{self, FilesError, Found, Root};
use crate::full;
use berth_snapshot::{Entry, LayerWriter, Meta, SnapshotError};
use berth_types::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use rustix::fs::{Dir, FileType};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const PIECE_BYTES: usize = 256 << 10;
/// Deeper trees are refused: each level holds descriptors open.
const DEPTH_MAX: usize = 400;
const NEW: &str = "new-";

/// One at a time: two would read the same files for the same disk.
static MAKING: Mutex<()> = Mutex::new(());

pub(super) fn folder(guests: &Path) -> PathBuf {
    guests.join("roots")
}

pub(super) fn file_name(image: &Digest) -> String {
    format!("{}.erofs", image.to_string().replace(':', "-"))
}

/// The disk of that image; its name in the folder.
pub(super) fn disk(engine: &Engine, image: &Digest) -> Result<String> {
    let (folder, name) = (folder(&super::folder(engine)), file_name(image));
    let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if folder.join(&name).exists() {
        return Ok(name);
    }
    let failed = |cause: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::Internal, "cannot make the image's disk", cause)
    };
    std::fs::create_dir_all(&folder).map_err(|cause| failed(&cause))?;
    let rootfs = engine.images().mounted(engine.images().view(image)?)?;
    let root = Root::of_image(&rootfs).map_err(|cause| failed(&cause))?;
    let temporary = folder.join(format!("{NEW}{name}"));
    // Of an engine that was killed meanwhile.
    std::fs::remove_dir_all(&temporary).ok();
    let mut writer = berth_snapshot::write_image(temporary).map_err(|cause| unwritten(&cause))?;
    let mut tree = Tree { root: &root, writer: &mut *writer, links: HashMap::new() };
    let top = root.find(Path::new("/")).map_err(|cause| failed(&cause))?;
    tree.entry(&top, &[], 0)?;
    writer.settle().map_err(|cause| unwritten(&cause))?;
    let staged = writer.finish(*image).map_err(|cause| unwritten(&cause))?;
    let probe = staged.into_probe();
    let synced = std::fs::File::open(&probe.path).and_then(|file| file.sync_all());
    synced.and_then(|()| std::fs::rename(&probe.path, folder.join(&name))).map_err(|cause| failed(&cause))?;
    Ok(name)
}

fn unwritten(cause: &SnapshotError) -> Error {
    full::or_here(ErrorKind::Internal, "cannot make the image's disk", cause)
}

fn unread(cause: &FilesError) -> Error {
    Error::because(ErrorKind::Internal, "cannot read the image's files", cause)
}

/// Those that are not needed go, and what an engine left half done.
pub(super) fn collect(guests: &Path, needed: &[String]) {
    let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for entry in std::fs::read_dir(folder(guests)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let removed = if name.starts_with(NEW) {
            std::fs::remove_dir_all(entry.path())
        } else if needed.contains(&name) {
            Ok(())
        } else {
            std::fs::remove_file(entry.path())
        };
        if let Err(error) = removed {
            tracing::warn!(path = %entry.path().display(), %error, "an image's disk stays");
        }
    }
}

struct Tree<'a> {
    root: &'a Root,
    writer: &'a mut dyn LayerWriter,
    /// Device and inode of files with several names → the first one's path.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Tree<'_> {
    fn entry(&mut self, found: &Found, path: &[u8], depth: usize) -> Result<()> {
        let stat = &found.stat;
        let meta = meta(found)?;
        let key = (stat.st_dev, stat.st_ino);
        if !found.is_dir() && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                let link = Entry::HardLink { to: first };
                return self.writer.entry(path, link, &meta).map(drop).map_err(|cause| unwritten(&cause));
            }
            self.links.insert(key, path.to_vec());
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let target;
        let entry = match found.kind() {
            FileType::Directory => Entry::Directory,
            FileType::RegularFile => Entry::File { size: stat.st_size.unsigned_abs() },
            FileType::Symlink => {
                target = found.link_target().map_err(|cause| unread(&cause))?;
                Entry::Symlink { target: target.as_os_str().as_bytes() }
            }
            FileType::CharacterDevice => Entry::CharDevice { major, minor },
            FileType::BlockDevice => Entry::BlockDevice { major, minor },
            FileType::Fifo => Entry::Fifo,
            // A socket means nothing without its process.
            _ => return Ok(()),
        };
        self.writer.entry(path, entry, &meta).map_err(|cause| unwritten(&cause))?;
        match found.kind() {
            FileType::Directory => self.content(found, path, depth),
            FileType::RegularFile => self.file(found),
            _ => Ok(()),
        }
    }

    fn file(&mut self, found: &Found) -> Result<()> {
        let mut file = std::fs::File::from(files::reopen(found).map_err(|cause| unread(&cause))?);
        let mut offset = 0;
        loop {
            let mut piece = vec![0_u8; PIECE_BYTES];
            let count = file
                .read(&mut piece)
                .map_err(|cause| Error::because(ErrorKind::Internal, "cannot read the image's files", &cause))?;
            if count == 0 {
                return Ok(());
            }
            piece.truncate(count);
            self.writer.write(offset, Bytes::from(piece)).map_err(|cause| unwritten(&cause))?;
            offset += count as u64;
        }
    }

    fn content(&mut self, folder: &Found, path: &[u8], depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::invalid("the image's folders are nested too deep"));
        }
        let fail = |errno| unread(&FilesError::step("read", &folder.path, errno));
        let opened = folder.open_folder().map_err(|cause| unread(&cause))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(opened).map_err(fail)? {
            let bytes = entry.map_err(fail)?.file_name().to_bytes().to_vec();
            if bytes != b"." && bytes != b".." {
                names.push(OsString::from_vec(bytes));
            }
        }
        names.sort();
        for name in names {
            let child = self.root.child(folder, &name).map_err(|cause| unread(&cause))?;
            self.entry(&child, &join(path, &name), depth + 1)?;
        }
        Ok(())
    }
}

fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    match path.is_empty() {
        true => name.as_bytes().to_vec(),
        false => [path, b"/", name.as_bytes()].concat(),
    }
}

fn meta(found: &Found) -> Result<Meta> {
    let stat = &found.stat;
    let xattrs = match found.kind() {
        FileType::RegularFile | FileType::Directory => {
            let fd = if found.is_dir() { found.open_folder() } else { files::reopen(found) };
            let fd = fd.map_err(|cause| unread(&cause))?;
            let all = files::list_attributes(fd.as_fd())
                .map_err(|errno| unread(&FilesError::step("read attributes of", &found.path, errno)))?;
            all.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect()
        }
        _ => Vec::new(),
    };
    Ok(Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_seconds: stat.st_mtime,
        mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        xattrs,
    })
}
