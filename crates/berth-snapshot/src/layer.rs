//! What goes into a layer, and what comes out of one.

use crate::{Result, SnapshotError, step};
use berth_types::Digest;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Entries of one layer. A whole distribution has half a million.
pub(crate) const ENTRIES_MAX: u64 = 8_000_000;
/// Longer paths are refused; the kernel takes 4096 with its own.
const PATH_BYTES_MAX: usize = 3900;
/// What overlayfs looks for on a folder through which nothing shows.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Owner, rights, time and extended attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The twelve bits of chmod(2).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanos: u32,
    /// Names and values; what the driver needs for itself (`trusted.overlay.*`) is left out.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry of a layer is. Names are relative to the layer, without `.`, `..`, empty parts and zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    Directory,
    /// A file of that size; its content follows by [`LayerWriter::write`], what is not written is a hole.
    File {
        size: u64,
    },
    Symlink {
        target: &'a [u8],
    },
    /// One more name of a file that is in this layer already.
    HardLink {
        to: &'a [u8],
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// Nothing of that name shows through from the layers below.
    Whiteout,
    /// Nothing in this folder shows through from the layers below.
    Opaque,
}

/// An earlier file or folder that a later entry of the same layer replaced. Its content is kept, because the
/// layer's archive has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displaced {
    pub path: Vec<u8>,
    /// The entry that replaced it, counted from 0 over all calls of [`LayerWriter::entry`].
    pub by: u64,
    /// What [`LayerReader::open`] calls it.
    pub number: u32,
}

/// One layer while it is made. Dropping it removes what there is.
///
/// Entries may come in any order that an archive can have: parents that are missing are made, a later entry
/// replaces an earlier one of its name. Files may be written by other threads; errors are told by a later call.
pub trait LayerWriter: Send {
    /// Makes an entry. Where a link of the same layer stood on the way, the answer is where it really went.
    fn entry(&mut self, path: &[u8], entry: Entry<'_>, meta: &Meta) -> Result<Option<Vec<u8>>>;

    /// Part of the file that the last entry was.
    fn write(&mut self, offset: u64, bytes: Bytes) -> Result<()>;

    /// A file beside the layer's content, for whoever unpacks: how the archive can be made again.
    fn record(&mut self) -> Result<File>;

    /// Waits until all entries are in place and gives folders their owners, rights and times.
    fn settle(&mut self) -> Result<Vec<Displaced>>;

    /// The layer, whole but not yet visible. After [`LayerWriter::settle`].
    fn finish(self: Box<Self>, id: Digest) -> Result<StagedLayer>;
}

/// A snapshot's files on their way to be a layer: moved, not copied. Dropping it removes them.
pub trait AdoptedLayer: Send {
    /// What was written, in overlayfs' form: whiteouts are character devices 0/0, opaque folders have its attribute.
    fn files(&self) -> &Path;

    /// As [`LayerWriter::record`].
    fn record(&mut self) -> Result<File>;

    /// The layer, whole but not yet visible. Nothing may change its files any more.
    fn finish(self: Box<Self>, id: Digest) -> Result<StagedLayer>;
}

/// A layer that is whole and that nobody sees yet. Dropping it removes it.
#[derive(Debug)]
pub struct StagedLayer {
    pub id: Digest,
    /// What it takes on the disk.
    pub bytes: u64,
    pub(crate) folder: Temporary,
}

/// The file of an image that was made to be tried out; it goes with this.
#[derive(Debug)]
pub struct Probe {
    pub path: PathBuf,
    _folder: Temporary,
}

impl StagedLayer {
    /// What it would be mounted from, were it committed; for a layer that is an image.
    pub fn into_probe(self) -> Probe {
        Probe { path: self.folder.path.join(crate::erofs::IMAGE), _folder: self.folder }
    }
}

/// A layer that nobody sees any more. Its files go when this is dropped, so that who holds a lock need not wait.
#[derive(Debug)]
#[must_use = "its files go when it is dropped: after the locks are released"]
pub struct Retired {
    pub(crate) folder: Option<Temporary>,
}

/// A folder that goes with its value.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    pub(crate) kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is found by its name and removed when the driver is opened next.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// Content that can be read at any place.
pub trait Content: Send {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Content for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }
}

/// What is at a path of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Directory,
    File {
        size: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// What no archive has.
    Other,
}

/// The same, and what is said of it; without extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub look: Look,
    pub meta: Meta,
}

/// The files of one layer.
pub trait LayerReader: Send {
    /// A file's content; `displaced` and the rest of its path below that, where a later entry took its place.
    fn open(&self, path: &[u8], displaced: Option<u32>) -> Result<Box<dyn Content>>;

    /// What is at `path`; the layer itself where that is empty. No link is followed.
    fn look(&self, path: &[u8]) -> Result<Option<Found>>;

    /// The names in a folder, in any order.
    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// What [`LayerWriter::record`] wrote.
    fn record(&self) -> Result<File>;
}

/// Why an entry cannot be made where it wants to be.
pub(crate) fn refused(path: &[u8], why: &'static str) -> SnapshotError {
    SnapshotError::Refused { path: crate::shown(path), why }
}

/// A path of an entry: relative to the layer, clean, within it.
pub(crate) fn check_path(path: &[u8], entry: Entry<'_>) -> Result<()> {
    if path.len() > PATH_BYTES_MAX {
        return Err(refused(&path[..64], "its path is too long"));
    }
    if names(path).any(|name| name == b"." || name == b".." || name.contains(&0)) {
        return Err(refused(path, "its path leaves the layer"));
    }
    if path.starts_with(b"/") || path.ends_with(b"/") || path.windows(2).any(|pair| pair == b"//") {
        return Err(refused(path, "its path is not clean"));
    }
    if path.is_empty() && !matches!(entry, Entry::Directory | Entry::Opaque) {
        return Err(refused(path, "the top of a layer is a folder"));
    }
    Ok(())
}

pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// The folder of a path, and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Overlayfs' own attributes would change what the layers below mean; SELinux labels are the host's.
pub(crate) fn is_private(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") || name == b"security.selinux"
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (head, rest) = bytes.split_at(bytes.len().min(16));
    head.iter().all(|&byte| byte == 0) && rest.iter().all(|&byte| byte == 0)
}

/// The file of [`LayerWriter::record`].
pub(crate) fn create_record(folder: &Temporary) -> Result<File> {
    let path = folder.path.join("record");
    File::create(&path).map_err(step("create", &path))
}

/// The layer is whole: notes what it takes on the disk, `sectors` that were counted and what those of `names` take
/// that are there, and the record.
pub(crate) fn seal(folder: Temporary, id: Digest, mut sectors: u64, names: &[&str]) -> Result<StagedLayer> {
    for name in names.iter().copied().chain(["record"]) {
        let path = if name.is_empty() { folder.path.clone() } else { folder.path.join(name) };
        match std::fs::symlink_metadata(&path) {
            Ok(meta) => sectors += meta.blocks(),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(step("stat", path)(cause)),
        }
    }
    let path = folder.path.join("bytes");
    // With the block that this file itself takes.
    let bytes = sectors * 512 + 4096;
    std::fs::write(&path, bytes.to_string()).map_err(step("write", &path))?;
    Ok(StagedLayer { id, bytes, folder })
}
