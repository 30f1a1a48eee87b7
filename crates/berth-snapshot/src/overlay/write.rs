//! One layer while it is made.

use super::open_folder;
use super::walk::Folders;
use super::worker::{Common, Job, Workers};
use crate::layer::{
    Displaced, ENTRIES_MAX, Entry, LayerWriter, Meta, OPAQUE, StagedLayer, Temporary, check_path, create_record,
    refused, seal, split,
};
use crate::{Result, step};
use berth_types::Digest;
use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::{DirBuilder, File};
use std::hash::Hasher;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Paths on their way through the threads; when there are more, all are waited for.
const PENDING_MAX: usize = 1 << 16;

pub(super) struct Writer {
    // Dropped in this order: threads end before their folder goes.
    workers: Workers,
    folders: Folders,
    common: Arc<Common>,
    /// Folders in the order of their entries; without `Meta` those that only a path named.
    made: Vec<(Vec<u8>, Option<Meta>)>,
    /// Hashes of all folders' paths: a later file of that name replaces a folder.
    folder_hashes: HashSet<u64>,
    /// Hashes of paths that were given to the threads since they were last waited for.
    pending: HashSet<u64>,
    current: Option<usize>,
    entries: u64,
    folder: Temporary,
}

fn hash(path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(path);
    hasher.finish()
}

impl Writer {
    pub(super) fn begin(path: PathBuf) -> Result<Writer> {
        crate::make_folder(&path)?;
        let folder = Temporary { path, kept: false };
        let fs = folder.path.join("fs");
        DirBuilder::new().mode(0o755).create(&fs).map_err(step("make", &fs))?;
        let common = Arc::new(Common::new(folder.path.clone()));
        Ok(Writer {
            workers: Workers::start(common.clone())?,
            folders: Folders::open(&fs)?,
            common,
            made: vec![(Vec::new(), None)],
            folder_hashes: HashSet::from([hash(b"")]),
            pending: HashSet::new(),
            current: None,
            entries: 0,
            folder,
        })
    }

    /// Waits for the threads if one of them may be at work on `path`.
    fn wait_for(&mut self, path: &[u8]) -> Result<()> {
        if self.pending.contains(&hash(path)) { self.wait() } else { Ok(()) }
    }

    fn wait(&mut self) -> Result<()> {
        self.pending.clear();
        self.workers.wait()
    }

    /// Opens the folder that `path` is in, making what is missing; the path as it really is.
    fn parent(&mut self, path: &[u8]) -> Result<(Arc<OwnedFd>, Option<Vec<u8>>)> {
        let (folder, name) = split(path);
        let Writer { workers, folders, common, made, folder_hashes, pending, .. } = self;
        let mut make = |parent: &OwnedFd, path: &[u8], name: &[u8]| -> Result<()> {
            let hash = hash(path);
            if pending.contains(&hash) {
                // A link or file of that name is on its way: it decides.
                pending.clear();
                workers.wait()?;
            }
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    folder_hashes.insert(hash);
                    made.push((path.to_vec(), None));
                    Ok(())
                }
                Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(common.failed("make", path)(errno)),
            }
        };
        let opened = folders.at(folder, &mut make)?;
        let real = opened.moved.map(|mut real| {
            if !real.is_empty() {
                real.push(b'/');
            }
            real.extend_from_slice(name);
            real
        });
        Ok((opened.fd, real))
    }

    /// A file, link or other thing is to be at `path`: a folder there makes room.
    fn replace_folder(&mut self, parent: &OwnedFd, path: &[u8]) -> Result<()> {
        if !self.folder_hashes.contains(&hash(path)) {
            return Ok(());
        }
        self.wait()?;
        let name = split(path).1;
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.folders.forget();
                self.common.displace(parent, name, path, self.entries)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.common.failed("stat", path)(errno)),
        }
    }

    fn directory(&mut self, path: &[u8], meta: &Meta) -> Result<Option<Vec<u8>>> {
        if path.is_empty() {
            self.made.push((Vec::new(), Some(meta.clone())));
            return Ok(None);
        }
        let (parent, real) = self.parent(path)?;
        let at = real.as_deref().unwrap_or(path);
        self.wait_for(at)?;
        let name = split(at).1;
        if let Err(errno) = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            if errno != Errno::EXIST {
                return Err(self.common.failed("make", at)(errno));
            }
            let stat =
                rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.common.failed("stat", at))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory {
                self.common.displace(&parent, name, at, self.entries)?;
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .map_err(self.common.failed("make", at))?;
                if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                    // Deleted below and then made: nothing from below may show in it.
                    self.set_opaque(&open_folder(&parent, name).map_err(self.common.failed("open", at))?, at)?;
                }
            }
        }
        self.folder_hashes.insert(hash(at));
        self.made.push((at.to_vec(), Some(meta.clone())));
        Ok(real)
    }

    fn set_opaque(&self, folder: &OwnedFd, path: &[u8]) -> Result<()> {
        rustix::fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
            .map_err(self.common.failed("make opaque", path))
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let fd = match path {
            [] => self.folders.top.clone(),
            // Its parent is what an entry in it would have.
            _ => self.parent(&[path, b"/x"].concat())?.0,
        };
        self.set_opaque(&fd, path)
    }

    fn threaded(&mut self, path: &[u8], entry: Entry<'_>, meta: &Meta) -> Result<Option<Vec<u8>>> {
        let (parent, real) = self.parent(path)?;
        let at = real.as_deref().unwrap_or(path);
        self.replace_folder(&parent, at)?;
        if self.pending.len() >= PENDING_MAX {
            self.wait()?;
        }
        let hash = hash(at);
        self.pending.insert(hash);
        let to = self.workers.of(hash);
        let (path, meta, number) = (at.to_vec(), meta.clone(), self.entries);
        let job = match entry {
            Entry::File { size } => {
                self.current = Some(to);
                Job::File { parent, path, meta, size, entry: number }
            }
            Entry::Symlink { target } => Job::Symlink { parent, path, target: target.to_vec(), meta, entry: number },
            _ => return Err(refused(at, "it is no file and no link")),
        };
        self.workers.give(to, job);
        Ok(real)
    }

    fn hard_link(&mut self, path: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        let (parent, real) = self.parent(path)?;
        let at = real.as_deref().unwrap_or(path).to_vec();
        self.wait_for(to)?;
        self.wait_for(&at)?;
        let (folder, first) = split(to);
        if first.is_empty() {
            return Err(refused(&at, "it is a second name of the layer itself"));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = if folder.is_empty() { b"." } else { folder };
        let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let mut open = rustix::fs::openat2(&self.folders.top, folder, flags, Mode::empty(), plain);
        if open.is_err() {
            // A link of the layer is on the way, or is still to be made: then all that is on its way comes first.
            self.wait()?;
            let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            open = rustix::fs::openat2(&self.folders.top, folder, flags, Mode::empty(), within);
        }
        let missing = "it is a second name of a file that is not in this layer";
        let from = open.map_err(|_| refused(&at, missing))?;
        let name = split(&at).1;
        let mut linked = rustix::fs::linkat(&from, first, &parent, name, AtFlags::empty());
        if matches!(linked, Err(Errno::NOENT)) && !self.pending.is_empty() {
            self.wait()?;
            linked = rustix::fs::linkat(&from, first, &parent, name, AtFlags::empty());
        }
        if matches!(linked, Err(Errno::EXIST)) {
            if self.same_file(&from, first, &parent, name) {
                return Ok(real);
            }
            self.replace_folder(&parent, &at)?;
            if rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                self.common.displace(&parent, name, &at, self.entries)?;
            }
            linked = rustix::fs::linkat(&from, first, &parent, name, AtFlags::empty());
        }
        match linked {
            Ok(()) => Ok(real),
            Err(Errno::NOENT) => Err(refused(&at, missing)),
            // A folder, or too many names for one file.
            Err(errno) => Err(self.common.failed("link", &at)(errno)),
        }
    }

    fn same_file(&self, a: &OwnedFd, a_name: &[u8], b: &OwnedFd, b_name: &[u8]) -> bool {
        let stat = |fd: &OwnedFd, name: &[u8]| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
        matches!((stat(a, a_name), stat(b, b_name)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    /// A device, a pipe, or with `meta` absent a whiteout.
    fn node(&mut self, path: &[u8], kind: FileType, device: u64, meta: Option<&Meta>) -> Result<Option<Vec<u8>>> {
        let (parent, real) = self.parent(path)?;
        let at = real.as_deref().unwrap_or(path);
        self.wait_for(at)?;
        self.replace_folder(&parent, at)?;
        let name = split(at).1;
        let mode = Mode::from_raw_mode(meta.map_or(0, |meta| meta.mode & 0o777));
        let mut made = rustix::fs::mknodat(&parent, name, kind, mode, device);
        if matches!(made, Err(Errno::EXIST)) {
            self.common.displace(&parent, name, at, self.entries)?;
            made = rustix::fs::mknodat(&parent, name, kind, mode, device);
        }
        made.map_err(self.common.failed("make", at))?;
        if let Some(meta) = meta {
            self.common.apply_named(&parent, name, meta, at)?;
            // It was made a moment ago by us and is no link; nobody else sees this folder.
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
                .map_err(self.common.failed("change the rights of", at))?;
        }
        Ok(real)
    }

    /// The folder itself, without following anything.
    fn reopen(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let at: &[u8] = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(&self.folders.top, at, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            // A later entry took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.common.failed("open", path)(errno)),
        }
    }
}

impl LayerWriter for Writer {
    fn entry(&mut self, path: &[u8], entry: Entry<'_>, meta: &Meta) -> Result<Option<Vec<u8>>> {
        self.common.check()?;
        self.current = None;
        check_path(path, entry)?;
        if self.entries >= ENTRIES_MAX {
            return Err(refused(path, "a layer has at most eight million entries"));
        }
        let device = |major, minor| rustix::fs::makedev(major, minor);
        let done = match entry {
            Entry::Directory => self.directory(path, meta),
            Entry::File { .. } | Entry::Symlink { .. } => self.threaded(path, entry, meta),
            Entry::HardLink { to } => self.hard_link(path, to),
            Entry::CharDevice { major, minor } => {
                self.node(path, FileType::CharacterDevice, device(major, minor), Some(meta))
            }
            Entry::BlockDevice { major, minor } => {
                self.node(path, FileType::BlockDevice, device(major, minor), Some(meta))
            }
            Entry::Fifo => self.node(path, FileType::Fifo, 0, Some(meta)),
            Entry::Whiteout => self.node(path, FileType::CharacterDevice, 0, None),
            Entry::Opaque => self.opaque(path).map(|()| None),
        };
        self.entries += 1;
        done
    }

    fn write(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.common.check()?;
        if let Some(to) = self.current {
            self.workers.give(to, Job::Write { offset, bytes });
        }
        Ok(())
    }

    fn record(&mut self) -> Result<File> {
        create_record(&self.folder)
    }

    fn settle(&mut self) -> Result<Vec<Displaced>> {
        self.wait()?;
        self.folders.forget();
        let mut counted = HashSet::new();
        for (path, meta) in std::mem::take(&mut self.made) {
            let Some(fd) = self.reopen(&path)? else { continue };
            if let Some(meta) = &meta {
                self.common.apply(&fd, meta, None, &path)?;
            }
            let stat = rustix::fs::fstat(&fd).map_err(self.common.failed("stat", &path))?;
            // A folder may have several entries.
            if counted.insert(stat.st_ino) {
                self.common.count(stat.st_blocks);
            }
        }
        let mut displaced = std::mem::take(&mut *self.common.displaced.lock().unwrap_or_else(PoisonError::into_inner));
        displaced.sort_by_key(|one| (one.by, one.number));
        Ok(displaced)
    }

    fn finish(mut self: Box<Self>, id: Digest) -> Result<StagedLayer> {
        self.wait()?;
        let sectors = self.common.blocks.load(Ordering::Relaxed);
        let folder = Temporary { path: self.folder.path.clone(), kept: std::mem::replace(&mut self.folder.kept, true) };
        seal(folder, id, sectors, &["", "displaced"])
    }
}
