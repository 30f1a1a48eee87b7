//! The driver for overlayfs: each layer is a folder of files in overlayfs' own form, or an EROFS image. Which, says
//! the layer itself: layers of both kinds stand below one container.
//!
//! ```text
//! layers/<hex>/
//!   fs/            the files; whiteouts are character devices 0/0, opaque folders carry trusted.overlay.opaque
//!   displaced/<n>  files that a later entry of the same archive replaced; there only if there are any
//! or
//!   image.erofs    all of that in one file, and displaced.nids where something was replaced: `crate::erofs`
//! and
//!   record         how the archive can be made again: the unpacker's
//!   bytes          what the layer takes on the disk, in decimal
//! snapshots/<key>/
//!   fs/ work/      upper and work folder of the overlay
//!   chain-<hex>    empty: the name says which chain of layers is below
//! chains/<hex>     digests of layers, lowest first, one a line; named by their digest
//! layers/new-*, layers/gone-*, snapshots/new-*, snapshots/gone-*     left by a crash; removed when next opened
//! ```
//!
//! A snapshot is made of names alone, so a power cut leaves it whole or not at all wherever the file system
//! journals names; the one file that it needs, its chain, is synced when the first snapshot on it is made.
//!
//! The folders are root's alone: what an image calls set-user-id or a device is for its containers only.

mod adopt;
mod mend;
mod remove;
mod sync;
mod walk;
mod worker;
mod write;

use crate::erofs::{self, Image};
use crate::layer::{
    AdoptedLayer, Content, Found, LayerReader, LayerWriter, Look, Meta, Retired, StagedLayer, Temporary,
};
use crate::{Result, SnapshotError, Snapshotter, make_folder, step};
use berth_sys::disk_usage::{TreeUsage, disk_bytes, tree_usage};
use berth_types::Digest;
use berth_types::mount::{Lower, Overlay, Rootfs, Upper};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use sha2::Digest as _;
use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Layers of one snapshot; overlayfs itself takes 500 (OVL_MAX_STACK in fs/overlayfs/params.h).
const CHAIN_MAX: usize = 500;
/// Longest name of a snapshot; containers' ids have 64.
const KEY_BYTES_MAX: usize = 128;
/// How a folder begins whose making or removal was not finished.
const NEW: &str = "new-";
const GONE: &str = "gone-";

/// How a new layer is to lie on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerForm {
    /// A folder of files, on every kernel.
    #[default]
    Folder,
    /// One EROFS image; to be mounted it needs a kernel that mounts files (6.12).
    Image,
}

#[derive(Debug)]
pub struct OverlayDriver {
    root: PathBuf,
    form: LayerForm,
    /// What an unfinished folder is called next.
    next: Arc<AtomicU64>,
    /// Chains that are on the disk, for snapshots made one after another on the same image.
    chains: Mutex<HashMap<Digest, Vec<Digest>>>,
}

fn is_missing(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound
}

impl OverlayDriver {
    /// Opens or makes the folders below `root`, and begins to remove what a crash left. One driver at a time
    /// may have them open.
    pub fn open(root: &Path, form: LayerForm) -> Result<OverlayDriver> {
        let driver = OverlayDriver { root: root.to_owned(), form, next: Arc::default(), chains: Mutex::default() };
        for folder in [driver.layers_folder(), driver.snapshots(), driver.chains_folder()] {
            make_folder(&folder)?;
        }
        let left = remove::leftovers(&[driver.layers_folder(), driver.snapshots()])?;
        // Names continue after those that are still there.
        let highest = left.iter().filter_map(|path| remove::number(path)).max().map_or(0, |number| number + 1);
        driver.next.store(highest, Ordering::Relaxed);
        remove::in_background(left);
        Ok(driver)
    }

    fn layers_folder(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn layer_folder(&self, id: &Digest) -> PathBuf {
        self.layers_folder().join(id.hex())
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn chains_folder(&self) -> PathBuf {
        self.root.join("chains")
    }

    fn snapshot(&self, key: &str) -> Result<PathBuf> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let taken = key.starts_with(NEW) || key.starts_with(GONE) || key.starts_with('.');
        match !key.is_empty() && key.len() <= KEY_BYTES_MAX && key.bytes().all(fits) && !taken {
            true => Ok(self.snapshots().join(key)),
            false => Err(SnapshotError::Key(key.to_owned())),
        }
    }

    fn unfinished(&self, prefix: &str, folder: &Path) -> PathBuf {
        folder.join(format!("{prefix}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes a folder out of sight at once; it goes with the answer.
    fn hide(&self, path: &Path) -> Result<Retired> {
        let gone = self.unfinished(GONE, path.parent().unwrap_or(&self.root));
        match std::fs::rename(path, &gone) {
            Ok(()) => Ok(Retired { folder: Some(Temporary { path: gone, kept: false }) }),
            Err(cause) if is_missing(&cause) => Ok(Retired { folder: None }),
            Err(cause) => Err(step("remove", path)(cause)),
        }
    }

    /// Sees to it that a snapshot can name its layers by one digest.
    fn keep_chain(&self, layers: &[Digest]) -> Result<Digest> {
        let text: String = layers.iter().map(|layer| format!("{}\n", layer.hex())).collect();
        let id = Digest::from_bytes(sha2::Sha256::digest(text.as_bytes()).into());
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.contains_key(&id) {
            return Ok(id);
        }
        let path = self.chains_folder().join(id.hex());
        if !path.exists() {
            let temporary = path.with_extension("new");
            let write = || -> io::Result<()> {
                let mut file = File::create(&temporary)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&temporary, &path)
            };
            write().map_err(step("write", &path))?;
            sync::folder(&self.chains_folder())?;
        }
        chains.insert(id, layers.to_vec());
        Ok(id)
    }

    fn chain(&self, key: &str, id: &Digest) -> Result<Vec<Digest>> {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layers) = chains.get(id) {
            return Ok(layers.clone());
        }
        let path = self.chains_folder().join(id.hex());
        let text = std::fs::read_to_string(&path).map_err(step("read", &path))?;
        let layers: Option<Vec<Digest>> = text.lines().map(|line| Digest::from_hex(line).ok()).collect();
        let why = "the list of its layers cannot be read";
        let layers = layers.ok_or_else(|| SnapshotError::Damaged { key: key.to_owned(), why })?;
        chains.insert(*id, layers.clone());
        Ok(layers)
    }
}

/// Which chain a snapshot's folder names.
fn chain_of(key: &str, folder: &Path) -> Result<Digest> {
    let entries = std::fs::read_dir(folder).map_err(|cause| match is_missing(&cause) {
        true => SnapshotError::NoSnapshot(key.to_owned()),
        false => step("read", folder)(cause),
    })?;
    let name = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let id = entries.filter_map(name).find_map(|name| Digest::from_hex(name.strip_prefix("chain-")?).ok());
    id.ok_or_else(|| SnapshotError::Damaged { key: key.to_owned(), why: "it does not say which layers it stands on" })
}

impl Snapshotter for OverlayDriver {
    fn begin_layer(&self) -> Result<Box<dyn LayerWriter>> {
        let folder = self.unfinished(NEW, &self.layers_folder());
        Ok(match self.form {
            LayerForm::Folder => Box::new(write::Writer::begin(folder)?),
            LayerForm::Image => Box::new(erofs::Writer::begin(folder)?),
        })
    }

    fn commit_layers(&self, layers: Vec<StagedLayer>) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        let folder = self.layers_folder();
        let opened = File::open(&folder).map_err(step("open", &folder))?;
        sync::layers(&layers, &opened, &folder)?;
        for mut layer in layers {
            let target = self.layer_folder(&layer.id);
            match std::fs::rename(&layer.folder.path, &target) {
                Ok(()) => layer.folder.kept = true,
                // Somebody else made the same layer meanwhile; this one goes with its value.
                Err(_) if target.exists() => {}
                Err(cause) => return Err(step("rename", &layer.folder.path)(cause)),
            }
        }
        opened.sync_all().map_err(step("sync", &folder))
    }

    fn mend_layer(&self, layer: StagedLayer) -> Result<()> {
        let target = self.layer_folder(&layer.id);
        if !target.exists() {
            return self.commit_layers(vec![layer]);
        }
        let whole = layer.folder.path.as_path();
        let (from, to) = (whole.join(erofs::IMAGE), target.join(erofs::IMAGE));
        let replace = |name: &str| {
            let (from, to) = (whole.join(name), target.join(name));
            match from.exists() {
                true => std::fs::rename(&from, &to).map_err(step("replace", &to)),
                false => Ok(()),
            }
        };
        match (from.exists(), to.exists()) {
            // The same entries make the same image: who has it mounted sees right what it reads from now on.
            (true, true) => mend::file(&from, &to)?,
            // An image comes before files: those are for who runs, and go with the layer.
            (true, false) => {
                replace(erofs::DISPLACED)?;
                replace(erofs::IMAGE)?;
            }
            (false, _) => {
                match target.join("fs").exists() {
                    true => mend::files(&whole.join("fs"), &target.join("fs"), &layer.folder)?,
                    false => replace("fs")?,
                }
                // Who has an image mounted keeps it.
                match std::fs::remove_file(&to) {
                    Err(cause) if !is_missing(&cause) => return Err(step("remove", &to)(cause)),
                    _ => {}
                }
            }
        }
        let displaced = target.join("displaced");
        match std::fs::rename(&displaced, layer.folder.path.join("displaced-before")) {
            Err(cause) if !is_missing(&cause) => return Err(step("replace", displaced)(cause)),
            _ => {}
        }
        for name in ["displaced", erofs::DISPLACED, "record", "bytes"] {
            replace(name)?;
        }
        let opened = File::open(&target).map_err(step("open", &target))?;
        rustix::fs::syncfs(&opened).map_err(|errno| step("sync", &target)(errno.into()))
    }

    fn layer_bytes(&self, id: &Digest) -> Result<Option<u64>> {
        let folder = self.layer_folder(id);
        let path = folder.join("bytes");
        match std::fs::read_to_string(&path) {
            // A number that cannot be read is counted anew.
            Ok(text) => Ok(Some(text.trim().parse().unwrap_or_else(|_| disk_bytes(&folder)))),
            Err(cause) if is_missing(&cause) => Ok(None),
            Err(cause) => Err(step("read", &path)(cause)),
        }
    }

    fn open_layer(&self, id: &Digest) -> Result<Box<dyn LayerReader>> {
        let folder = self.layer_folder(id);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&folder, flags, Mode::empty()) {
            Ok(fd) => Reader::of_layer(folder, fd),
            Err(rustix::io::Errno::NOENT) => Err(SnapshotError::NoLayer(*id)),
            Err(errno) => Err(step("open", &folder)(errno.into())),
        }
    }

    fn layers(&self) -> Result<Vec<Digest>> {
        let folder = self.layers_folder();
        let mut layers = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(step("read", &folder))? {
            let name = entry.map_err(step("read", &folder))?.file_name();
            layers.extend(name.to_str().and_then(|name| Digest::from_hex(name).ok()));
        }
        Ok(layers)
    }

    fn remove_layer(&self, id: &Digest) -> Result<Retired> {
        self.hide(&self.layer_folder(id))
    }

    fn prepare(&self, key: &str, layers: &[Digest]) -> Result<Rootfs> {
        let folder = self.snapshot(key)?;
        if folder.exists() {
            return self.rootfs(key);
        }
        if layers.len() > CHAIN_MAX {
            return Err(SnapshotError::Refused { path: folder, why: "overlayfs takes at most 500 layers" });
        }
        // Said here, in words, and not by a mount that fails when the container starts.
        if let Some(missing) = layers.iter().find(|layer| !self.layer_folder(layer).exists()) {
            return Err(SnapshotError::NoLayer(*missing));
        }
        let chain = self.keep_chain(layers)?;
        let new = self.unfinished(NEW, &self.snapshots());
        make_folder(&new)?;
        let mut made = Temporary { path: new, kept: false };
        for name in ["fs", "work"] {
            let path = made.path.join(name);
            // The root of a container: everybody in it looks into it.
            DirBuilder::new().mode(0o755).create(&path).map_err(step("make", &path))?;
        }
        let named = made.path.join(format!("chain-{}", chain.hex()));
        File::create_new(&named).map_err(step("make", &named))?;
        match std::fs::rename(&made.path, &folder) {
            Ok(()) => made.kept = true,
            Err(_) if folder.exists() => {}
            Err(cause) => return Err(step("rename", &made.path)(cause)),
        }
        Ok(self.writable(&folder, layers))
    }

    fn rootfs(&self, key: &str) -> Result<Rootfs> {
        Ok(self.writable(&self.snapshot(key)?, &self.layers_of(key)?))
    }

    fn refresh(&self, rootfs: &mut Rootfs) {
        let Rootfs::Overlay(overlay) = rootfs else { return };
        for lower in &mut overlay.lower {
            if let Some(folder) = lower.path().parent().map(Path::to_owned) {
                let is_image = matches!(lower, Lower::Image { .. });
                let now = lower_of(&folder);
                if matches!(now, Lower::Image { .. }) != is_image {
                    *lower = now;
                }
            }
        }
    }

    fn adopt(&self, key: &str) -> Result<Box<dyn AdoptedLayer>> {
        let folder = self.unfinished(NEW, &self.layers_folder());
        Ok(Box::new(adopt::Adopted::take(key, &self.snapshot(key)?.join("fs"), folder)?))
    }

    fn layers_of(&self, key: &str) -> Result<Vec<Digest>> {
        let id = chain_of(key, &self.snapshot(key)?)?;
        self.chain(key, &id)
    }

    fn view(&self, layers: &[Digest]) -> Rootfs {
        Rootfs::Overlay(Overlay { lower: self.lower(layers), upper: None, options: Vec::new() })
    }

    fn remove(&self, key: &str) -> Result<()> {
        let mut hidden = self.hide(&self.snapshot(key)?)?;
        match hidden.folder.as_mut() {
            Some(folder) => {
                folder.kept = true;
                remove::folder(&folder.path)
            }
            None => Ok(()),
        }
    }

    fn keys(&self) -> Result<Vec<String>> {
        let folder = self.snapshots();
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(step("read", &folder))? {
            let name = entry.map_err(step("read", &folder))?.file_name();
            keys.extend(name.into_string().ok().filter(|name| self.snapshot(name).is_ok()));
        }
        Ok(keys)
    }

    /// Chains that no snapshot stands on.
    fn tidy(&self) -> Result<()> {
        // Held throughout: no snapshot is made on one that is about to go.
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let mut needed = std::collections::HashSet::new();
        for key in self.keys()? {
            needed.extend(chain_of(&key, &self.snapshot(&key)?).ok());
        }
        let folder = self.chains_folder();
        for entry in std::fs::read_dir(&folder).map_err(step("read", &folder))? {
            let entry = entry.map_err(step("read", &folder))?;
            let id = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
            if id.is_none_or(|id| !needed.contains(&id)) {
                std::fs::remove_file(entry.path()).map_err(step("remove", entry.path()))?;
                id.map(|id| chains.remove(&id));
            }
        }
        Ok(())
    }

    fn usage(&self, key: &str) -> Result<TreeUsage> {
        Ok(tree_usage(&self.snapshot(key)?.join("fs")))
    }
}

impl OverlayDriver {
    /// The layers as overlayfs wants them, topmost first. One that is there twice shows through its higher place
    /// alone: overlayfs refuses a folder that is in it already.
    fn lower(&self, layers: &[Digest]) -> Vec<Lower> {
        let mut seen = std::collections::HashSet::new();
        layers
            .iter()
            .rev()
            .filter(|layer| seen.insert(**layer))
            .map(|layer| lower_of(&self.layer_folder(layer)))
            .collect()
    }

    fn writable(&self, folder: &Path, layers: &[Digest]) -> Rootfs {
        let lower = self.lower(layers);
        let upper = Some(Upper { upper: folder.join("fs"), work: folder.join("work") });
        // A kernel may have these on by default: then an upper folder would be more than whiteouts and files,
        // and a commit of it would miss what was renamed or only changed its owner.
        let options = vec!["redirect_dir=off".to_owned(), "metacopy=off".to_owned(), "index=off".to_owned()];
        Rootfs::Overlay(Overlay { lower, upper, options })
    }
}

/// How the layer in `folder` is mounted.
fn lower_of(folder: &Path) -> Lower {
    let erofs = folder.join(erofs::IMAGE);
    match erofs.exists() {
        true => Lower::Image { erofs, held: None },
        false => Lower::Folder(folder.join("fs")),
    }
}

/// A layer's folder, whatever is in it.
struct Reader {
    folder: PathBuf,
    fd: OwnedFd,
}

/// The same for a layer that is an image.
struct ImageReader {
    folder: Reader,
    image: Image,
    /// Inodes that lost their names, by [`Displaced::number`](crate::Displaced).
    displaced: Vec<u64>,
}

impl Reader {
    fn of_layer(folder: PathBuf, fd: OwnedFd) -> Result<Box<dyn LayerReader>> {
        let is_image = folder.join(erofs::IMAGE).exists();
        let reader = Reader { folder, fd };
        if !is_image {
            return Ok(Box::new(reader));
        }
        let image = Image::new(reader.open_below(erofs::IMAGE.as_bytes())?);
        let path = reader.folder.join(erofs::DISPLACED);
        let displaced = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().map(|line| line.parse().unwrap_or(u64::MAX)).collect(),
            Err(cause) if is_missing(&cause) => Vec::new(),
            Err(cause) => return Err(step("read", path)(cause)),
        };
        Ok(Box::new(ImageReader { folder: reader, image, displaced }))
    }

    fn open_below(&self, path: &[u8]) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let opened = rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve);
        opened.map(File::from).map_err(|errno| step("open", self.folder.join(crate::shown(path)))(errno.into()))
    }
}

impl LayerReader for Reader {
    fn open(&self, path: &[u8], displaced: Option<u32>) -> Result<Box<dyn Content>> {
        let prefix = match displaced {
            Some(number) => format!("displaced/{number}").into_bytes(),
            None => b"fs".to_vec(),
        };
        let whole = if path.is_empty() { prefix } else { [&prefix[..], b"/", path].concat() };
        Ok(Box::new(self.open_below(&whole)?))
    }

    fn look(&self, path: &[u8]) -> Result<Option<Found>> {
        let whole = below(path);
        let failed = |errno: rustix::io::Errno| step("look at", self.folder.join(crate::shown(&whole)))(errno.into());
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = match rustix::fs::openat2(&self.fd, &whole[..], flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(None),
            fd => fd.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let look = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Look::Directory,
            FileType::RegularFile => Look::File { size: u64::try_from(stat.st_size).unwrap_or(0) },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, c"", Vec::new()).map_err(failed)?;
                Look::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice => Look::CharDevice { major, minor },
            FileType::BlockDevice => Look::BlockDevice { major, minor },
            FileType::Fifo => Look::Fifo,
            _ => Look::Other,
        };
        let meta = Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_seconds: stat.st_mtime,
            mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            xattrs: Vec::new(),
        };
        Ok(Some(Found { look, meta }))
    }

    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>> {
        let opened = self.open_below(&below(folder))?;
        let failed =
            |errno: rustix::io::Errno| step("read", self.folder.join(crate::shown(&below(folder))))(errno.into());
        let mut all = Vec::new();
        for entry in rustix::fs::Dir::read_from(opened).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                all.push(name);
            }
        }
        Ok(all)
    }

    fn record(&self) -> Result<File> {
        self.open_below(b"record")
    }
}

/// Where a layer that is a folder has `path`.
fn below(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b"fs".to_vec() } else { [b"fs/", path].concat() }
}

impl LayerReader for ImageReader {
    fn open(&self, path: &[u8], displaced: Option<u32>) -> Result<Box<dyn Content>> {
        let failed = |cause| step("open", self.folder.folder.join(erofs::IMAGE).join(crate::shown(path)))(cause);
        let from = match displaced {
            None => None,
            Some(number) => {
                let nid = usize::try_from(number).ok().and_then(|number| self.displaced.get(number));
                Some(*nid.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?)
            }
        };
        Ok(Box::new(self.image.open(from, path).map_err(failed)?))
    }

    fn look(&self, path: &[u8]) -> Result<Option<Found>> {
        match self.image.look(path) {
            Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            found => {
                found.map(Some).map_err(step("look at", self.folder.folder.join(erofs::IMAGE).join(crate::shown(path))))
            }
        }
    }

    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>> {
        let path = || self.folder.folder.join(erofs::IMAGE).join(crate::shown(folder));
        self.image.names(folder).map_err(|cause| step("read", path())(cause))
    }

    fn record(&self) -> Result<File> {
        self.folder.record()
    }
}

fn open_folder(at: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn open_top(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| step("open", path)(errno.into()))
}
