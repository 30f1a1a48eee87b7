//! Disks that were brought in: read-only, shared by every machine that started from the same bytes.
//!
//! ```text
//!  bases/<sha-256>.<format>     complete, never changed
//!  bases/.new-<n>               being written; swept by the next engine
//! ```
//!
//! A base stays while a record names it or somebody [`Shared::pin`]s it. [`Shared::collect`] removes the rest.

use super::record::{Base, BaseFormat};
use crate::full;
use berth_types::{Error, ErrorKind, Result};
use berth_vm::disk::{self, DiskError, Kind};
use berth_vm::spec::Format;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const COPY_BYTES: usize = 1 << 20;
/// Runs of zeros of this length stay holes.
const HOLE_BYTES: usize = 64 << 10;
const NEW: &str = ".new-";

/// What all machines of an engine share.
pub(crate) struct Shared {
    root: PathBuf,
    pins: Mutex<BTreeMap<Base, usize>>,
    next: AtomicU64,
    pub(super) moments: super::moments::Moments,
}

/// Keeps a base until the record that names it is stored.
pub(crate) struct Pin {
    shared: Arc<Shared>,
    pub(crate) base: Base,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins();
        if let Some(count) = pins.get_mut(&self.base) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.base);
            }
        }
    }
}

/// A base and what its header says.
pub(crate) struct Brought {
    pub pin: Pin,
    pub size_bytes: u64,
}

fn io(action: &str, path: &Path, cause: &std::io::Error) -> Error {
    let kind = match cause.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Internal,
    };
    full::or_here(kind, format!("cannot {action} {}", path.display()), cause)
}

pub(super) fn refused(path: &Path, error: &DiskError) -> Error {
    let kind = match error {
        DiskError::Io { .. } => ErrorKind::Internal,
        _ => ErrorKind::DataLoss,
    };
    let refusal = Error::because(kind, format!("cannot use {} as a disk", path.display()), error);
    match error {
        DiskError::BackingFile(_) | DiskError::ExternalData => {
            refusal.with_hint(format!("make one file of it: qemu-img convert -O qcow2 {} whole.qcow2", path.display()))
        }
        _ => refusal,
    }
}

/// Opens a file that a user named: a regular one, without waiting for whoever else has it.
pub(super) fn open_source(path: &Path) -> Result<File> {
    if !path.is_absolute() {
        return Err(Error::invalid(format!("{} is not an absolute path", path.display())));
    }
    let mut options = File::options();
    // A pipe in a file's place must not hold the engine.
    options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|cause| io("open", path, &cause))?;
    let meta = file.metadata().map_err(|cause| io("look at", path, &cause))?;
    match meta.is_file() {
        true => Ok(file),
        false => Err(Error::invalid(format!("{} is no regular file", path.display()))),
    }
}

impl Shared {
    pub(crate) fn new(config: &crate::EngineConfig) -> Arc<Shared> {
        let root = config.data_root.join("machines");
        super::acceleration::keep_in(&root);
        Arc::new(Shared { root, pins: Mutex::default(), next: AtomicU64::new(0), moments: Default::default() })
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, BTreeMap<Base, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.root.join("bases")
    }

    pub(crate) fn path(&self, base: &Base) -> PathBuf {
        self.folder().join(base.file_name())
    }

    pub(super) fn pin(self: &Arc<Shared>, base: Base) -> Pin {
        *self.pins().entry(base.clone()).or_default() += 1;
        Pin { shared: self.clone(), base }
    }

    /// Copies a foreign disk image in, checked. `format`: what the caller says that it is.
    pub(crate) fn bring(self: &Arc<Shared>, source: &Path, format: Option<&str>) -> Result<Brought> {
        let mut file = open_source(source)?;
        let found = disk::identify(&mut file).map_err(|error| refused(source, &error))?;
        let format = match (format, found) {
            (None | Some("qcow2"), Kind::Qcow2) => Format::Qcow2,
            // Whoever says raw means the bytes as they are: a guest may have written any magic there.
            (Some("raw"), _) | (None, Kind::Raw) => Format::Raw,
            (Some("qcow2"), _) => {
                let error = DiskError::OtherFormat { found: found.as_str(), wanted: "qcow2" };
                return Err(refused(source, &error));
            }
            (None, Kind::Vmdk | Kind::Vdi | Kind::Vhdx | Kind::Ova) => {
                return Err(Error::internal(format!("{} has to be converted first", source.display())));
            }
            (Some(other), _) => {
                return Err(
                    Error::invalid(format!("unknown disk format {other:?}")).with_hint("raw and qcow2 are read")
                );
            }
        };
        let folder = self.folder();
        std::fs::create_dir_all(&folder).map_err(|cause| io("make", &folder, &cause))?;
        let temporary = folder.join(format!("{NEW}{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let made = self.copy(&mut file, source, &temporary, format);
        if made.is_err() {
            // The next engine sweeps what cannot be removed now.
            std::fs::remove_file(&temporary).ok();
        }
        made
    }

    fn copy(self: &Arc<Shared>, file: &mut File, source: &Path, temporary: &Path, format: Format) -> Result<Brought> {
        let failed = |cause: std::io::Error| io("write", temporary, &cause);
        let mut options = File::options();
        let mut to =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(temporary).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut part = vec![0_u8; COPY_BYTES];
        let mut at = 0_u64;
        file.seek(SeekFrom::Start(0)).map_err(|cause| io("read", source, &cause))?;
        loop {
            let count = file.read(&mut part).map_err(|cause| io("read", source, &cause))?;
            if count == 0 {
                break;
            }
            hash.update(&part[..count]);
            for piece in part[..count].chunks(HOLE_BYTES) {
                if piece.iter().any(|byte| *byte != 0) {
                    to.write_all_at(piece, at).map_err(failed)?;
                }
                at += piece.len() as u64;
                if at > disk::DISK_BYTES_MAX {
                    return Err(refused(source, &DiskError::Size(at)));
                }
            }
        }
        // A raw disk ends with a whole sector, and its last bytes may be a hole.
        let length = if format == Format::Raw { at.next_multiple_of(512) } else { at };
        to.set_len(length).map_err(failed)?;
        // What is checked is our copy: the source may change under our hands.
        let size_bytes = disk::virtual_size(&mut to, format).map_err(|error| refused(source, &error))?;
        to.set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(failed)?;
        to.flush().and_then(|()| to.sync_all()).map_err(failed)?;
        let digest = berth_types::digest::hex(&hash.finalize());
        let format = if format == Format::Raw { BaseFormat::Raw } else { BaseFormat::Qcow2 };
        let base = Base { digest, format };
        // Pinned before it has its name: nobody collects it in between.
        let pin = self.pin(base.clone());
        std::fs::rename(temporary, self.path(&base)).map_err(failed)?;
        Ok(Brought { pin, size_bytes })
    }

    /// Removes bases that neither a record nor a pin keeps, and copies that an earlier engine left half done where
    /// `all` says that nobody copies now.
    pub(crate) fn collect(&self, kept: &BTreeSet<Base>, all: bool) {
        // Held throughout: a base that is pinned meanwhile waits, and is then written anew.
        let pins = self.pins();
        for entry in std::fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let gone = match Base::from_file_name(name) {
                Some(base) => !kept.contains(&base) && !pins.contains_key(&base),
                None => all && name.starts_with(NEW),
            };
            if gone && let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(base = name, %error, "a disk that nobody has stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(folder: &Path) -> Arc<Shared> {
        Shared::new(&crate::EngineConfig::new(folder, folder, folder))
    }

    #[test]
    fn the_same_bytes_are_one_base_and_it_lives_while_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let shared = shared(folder.path());
        let source = folder.path().join("disk.img");
        std::fs::write(&source, [vec![0; 200_000], b"end".to_vec()].concat()).unwrap();
        let first = shared.bring(&source, None).unwrap();
        let second = shared.bring(&source, Some("raw")).unwrap();
        assert_eq!(first.pin.base, second.pin.base);
        assert_eq!(first.size_bytes, 200_003_u64.next_multiple_of(512));
        let path = shared.path(&first.pin.base);
        assert_eq!(&std::fs::read(&path).unwrap()[200_000..200_003], b"end");
        let base = first.pin.base.clone();
        shared.collect(&BTreeSet::new(), false);
        assert!(path.exists(), "pinned");
        drop((first, second));
        shared.collect(&BTreeSet::from([base]), false);
        assert!(path.exists(), "a record names it");
        shared.collect(&BTreeSet::new(), true);
        assert_eq!(std::fs::read_dir(shared.folder()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_disk_of_its_own_is_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let shared = shared(folder.path());
        let bring = |name: &str, format| shared.bring(&folder.path().join(name), format).map(|_| ()).unwrap_err();
        let backed = folder.path().join("backed.qcow2");
        disk::create_qcow2(&backed, 1 << 20, Some(("/etc/shadow", Format::Raw))).unwrap();
        let error = bring("backed.qcow2", None);
        assert!(error.to_string().contains("/etc/shadow") && error.hint.is_some(), "{error}");
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        assert_eq!(bring("empty", None).kind, ErrorKind::DataLoss);
        assert_eq!(bring("empty", Some("qcow2")).kind, ErrorKind::DataLoss);
        assert_eq!(bring("absent", None).kind, ErrorKind::NotFound);
        assert_eq!(shared.bring(Path::new("relative"), None).map(|_| ()).unwrap_err().kind, ErrorKind::InvalidArgument);
        assert_eq!(bring(".", None).kind, ErrorKind::InvalidArgument);
        assert_eq!(std::fs::read_dir(shared.folder()).unwrap().count(), 0, "nothing half done stays");
    }
}
