//! Copies of volumes, kept beside them.
//!
//! ```text
//! <data-root>/backups/<volume>/<unix millis>.tar.zst    what was in it (an uploaded one as it came)
//! <data-root>/backups/<volume>/<unix millis>.json       the record: written last, removed first
//! <data-root>/backups/<volume>/.new-<unix millis>       being written; removed by the next backup of that volume
//! ```
//!
//! A backup outlives its volume. What uses the volume can be held still while it is copied: then the copy is what a
//! power cut would have left. A restore is made beside the volume and exchanged with it at once.

use super::shared::failed;
use super::{Volume, VolumeCreate, Volumes, blocking};
use crate::containers::{ByteSource, Source, decompressed};
use crate::events::now_unix_nanos;
use crate::files::{self, Root, UnpackOptions};
use berth_types::mount::Rootfs;
use berth_types::{Error, ErrorKind, Result};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ARCHIVE: &str = "tar.zst";
const RECORD: &str = "json";
const BEING_WRITTEN: &str = ".new-";
const RECORD_BYTES_MAX: u64 = 1 << 20;
const LEVEL: i32 = 3;
const TELL: std::time::Duration = std::time::Duration::from_millis(200);

/// A copy of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// With the volume's name it names the backup.
    pub id: String,
    pub volume: String,
    pub created_unix_nanos: i64,
    /// Of the archive.
    pub bytes: u64,
    /// Of what is in it; 0: not known.
    pub content_bytes: u64,
    /// The volume's, when it was copied.
    pub labels: BTreeMap<String, String>,
    /// Owner, group and mode of the volume's own folder.
    root: (u32, u32, u32),
}

/// Ends the copying thread when whoever waits for it has gone.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts what passes, and ends when nobody wants it any more.
struct Counted<W> {
    to: W,
    count: Arc<AtomicU64>,
    unwanted: Arc<AtomicBool>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let written = self.to.write(bytes)?;
        self.count.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Names of files in a folder of backups.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn file(&self, id: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{id}.{kind}"))
    }

    fn making(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{BEING_WRITTEN}{id}"))
    }

    /// Removes what others left half written.
    fn prepare(&self) -> Result<()> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|cause| failed("make", &self.folder, &cause))?;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(BEING_WRITTEN) {
                fs::remove_file(entry.path()).map_err(|cause| failed("remove", &entry.path(), &cause))?;
            }
        }
        Ok(())
    }

    /// A backup whose archive `write` writes. It says what is in it by bytes, and its root's owner, group and mode.
    fn make(
        &self,
        volume: String,
        labels: BTreeMap<String, String>,
        write: impl FnOnce(&Path) -> Result<(u64, (u32, u32, u32))>,
    ) -> Result<Backup> {
        self.prepare()?;
        let now = now_unix_nanos();
        let id = (now / 1_000_000).to_string();
        let making = self.making(&id);
        let (content_bytes, root) = write(&making).inspect_err(|_| drop(fs::remove_file(&making)))?;
        let bytes = fs::metadata(&making).map_err(|cause| failed("read", &making, &cause))?.len();
        let backup = Backup { id, volume, created_unix_nanos: now, bytes, content_bytes, labels, root };
        self.keep(&making, &backup)?;
        Ok(backup)
    }

    /// The archive's name, then the record: a backup is there once its record is.
    fn keep(&self, making: &Path, backup: &Backup) -> Result<()> {
        let record = self.file(&backup.id, RECORD);
        let temporary = self.making(&format!("{}.{RECORD}", backup.id));
        let write = || -> std::io::Result<()> {
            File::open(making)?.sync_all()?;
            fs::rename(making, self.file(&backup.id, ARCHIVE))?;
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(backup)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &record)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|cause| failed("keep", &record, &cause))
    }

    fn read(&self, id: &str) -> Option<Backup> {
        let path = self.file(id, RECORD);
        let file = File::open(&path).ok()?;
        let mut text = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut text).ok()?;
        match serde_json::from_slice(&text) {
            Ok(backup) => Some(backup),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the record of a backup is not read");
                None
            }
        }
    }

    fn list(&self) -> Vec<Backup> {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let ids = names.filter_map(|name| Some(name.to_str()?.strip_suffix(".json")?.to_owned()));
        ids.filter(|id| is_id(id)).filter_map(|id| self.read(&id)).collect()
    }
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() < 20 && id.bytes().all(|byte| byte.is_ascii_digit())
}

impl Volumes {
    fn backups_folder(&self) -> PathBuf {
        self.engine.config().data_root.join("backups")
    }

    fn place(&self, volume: &str) -> Result<Place> {
        super::local::name(volume)?;
        Ok(Place { folder: self.backups_folder().join(volume) })
    }

    /// One that has its files in a folder of its own.
    async fn with_files(&self, name: &str) -> Result<Volume> {
        let volume = self.inspect(name).await?;
        match volume.file_system() {
            None => Ok(volume),
            Some(_) => Err(Error::conflict(format!(
                "volume {name} stands for a file system that is mounted only in instances"
            ))
            .with_hint("back it up where that file system is, or by an instance that has it")),
        }
    }

    /// All backups of all volumes, newest first.
    pub async fn backups(&self) -> Result<Vec<Backup>> {
        let folder = self.backups_folder();
        blocking(move || {
            let names = fs::read_dir(&folder).into_iter().flatten().flatten();
            let mut all: Vec<Backup> = names.flat_map(|entry| Place { folder: entry.path() }.list()).collect();
            all.sort_by_key(|backup| std::cmp::Reverse(backup.created_unix_nanos));
            Ok(all)
        })
        .await
    }

    /// One of them.
    pub async fn backup_of(&self, volume: &str, id: &str) -> Result<Backup> {
        let place = self.place(volume)?;
        let found = is_id(id).then(|| place.read(id)).flatten();
        found.ok_or_else(|| Error::not_found(format!("there is no backup {id} of volume {volume}")))
    }

    /// Its archive, for reading.
    pub async fn backup_file(&self, volume: &str, id: &str) -> Result<File> {
        let backup = self.backup_of(volume, id).await?;
        let path = self.place(volume)?.file(&backup.id, ARCHIVE);
        File::open(&path).map_err(|cause| failed("open", &path, &cause))
    }

    /// Copies a volume; `hold`: what runs with it is held still meanwhile. `tell` hears bytes copied, of how many.
    pub async fn backup(&self, name: &str, hold: bool, mut tell: impl FnMut(u64, u64)) -> Result<Backup> {
        let volume = self.with_files(name).await?;
        let _pin = self.pin(name);
        let (place, shared, owned) = (self.place(name)?, self.shared(), name.to_owned());
        let all = blocking(move || Ok(shared.size_bytes(&owned))).await?;
        // Until the copy is there; a backup that is cancelled lets them go on too.
        let mut held = Vec::new();
        for id in if hold { self.running(name).await? } else { Vec::new() } {
            held.push(self.engine.containers().hold_still(&id).await?);
        }
        let (count, unwanted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let _wanted = Wanted(unwanted.clone());
        let counted = count.clone();
        let mut work = tokio::task::spawn_blocking(move || copy(&volume, &place, counted, unwanted));
        loop {
            tokio::select! {
                made = &mut work => {
                    return made.map_err(|cause| Error::internal(format!("the backup ended early: {cause}")))?;
                }
                () = tokio::time::sleep(TELL) => tell(count.load(Ordering::Relaxed).min(all), all),
            }
        }
    }

    /// Instances that run with it.
    async fn running(&self, name: &str) -> Result<Vec<String>> {
        let mut running = Vec::new();
        for id in self.users().await?.remove(name).unwrap_or_default() {
            if let Ok(found) = self.engine.containers().inspect(&id, false).await
                && matches!(found.state.phase, berth_types::Phase::Running { .. } | berth_types::Phase::Paused { .. })
            {
                running.push(id);
            }
        }
        Ok(running)
    }

    /// Keeps an archive (tar, plain, gzip or zstd) as a backup of a volume, which need not be there.
    pub async fn backup_upload(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        bytes_max: u64,
        body: ByteSource,
    ) -> Result<Backup> {
        let (place, volume) = (self.place(name)?, name.to_owned());
        blocking(move || {
            place.make(volume, labels, |making| {
                let write = || -> std::io::Result<()> {
                    let mut file = File::create(making)?;
                    let copied = std::io::copy(&mut Source::new(body).take(bytes_max + 1), &mut file)?;
                    match copied > bytes_max {
                        true => Err(std::io::Error::other(format!("it is larger than {} GiB", bytes_max >> 30))),
                        false => Ok(()),
                    }
                };
                write().map_err(|cause| failed("write", making, &cause))?;
                Ok((0, (0, 0, 0o755)))
            })
        })
        .await
    }

    /// Puts a backup into the volume `to`: a new one, or in place of what is in it. Refused while something runs with it.
    pub async fn restore(&self, volume: &str, id: &str, to: &str, labels: BTreeMap<String, String>) -> Result<()> {
        let backup = self.backup_of(volume, id).await?;
        let archive = self.backup_file(volume, id).await?;
        let fresh = self.inspect(to).await.is_err();
        if !fresh {
            self.with_files(to).await?;
            self.stopped(to).await?;
        }
        let request = VolumeCreate { name: to.to_owned(), labels, ..VolumeCreate::default() };
        let (target, mut pin) = self.create_pinned(request).await?;
        pin.keep();
        let beside = target.mountpoint.with_file_name(".restored");
        let (unpacked, root) = (beside.clone(), backup.root);
        let made = blocking(move || unpack(archive, &unpacked, root)).await;
        let exchanged = match made {
            Ok(()) if fresh => exchange(&beside, &target.mountpoint),
            Ok(()) => match self.stopped(to).await {
                Ok(()) => exchange(&beside, &target.mountpoint),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        // What was there before, or what could not be put there.
        let gone = beside.clone();
        blocking(move || match fs::remove_dir_all(&gone) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", &gone, &cause)),
            _ => Ok(()),
        })
        .await?;
        drop(pin);
        if exchanged.is_err() && fresh {
            self.remove(to, true).await?;
        }
        exchanged
    }

    async fn stopped(&self, name: &str) -> Result<()> {
        match self.running(name).await?.as_slice() {
            [] => Ok(()),
            ids => Err(Error::conflict(format!("volume {name} is in use by running instances: {}", ids.join(", ")))
                .with_hint("stop them, or restore into a new volume")),
        }
    }

    pub async fn remove_backup(&self, volume: &str, id: &str) -> Result<()> {
        let backup = self.backup_of(volume, id).await?;
        let place = self.place(volume)?;
        blocking(move || {
            for kind in [RECORD, ARCHIVE] {
                let path = place.file(&backup.id, kind);
                match fs::remove_file(&path) {
                    Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                        return Err(failed("remove", &path, &cause));
                    }
                    _ => {}
                }
            }
            // Others may be in it.
            fs::remove_dir(&place.folder).ok();
            Ok(())
        })
        .await
    }
}

fn copy(volume: &Volume, place: &Place, count: Arc<AtomicU64>, unwanted: Arc<AtomicBool>) -> Result<Backup> {
    place.make(volume.name.clone(), volume.labels.clone(), |making| {
        pack(volume, making, count.clone(), unwanted)?;
        let root = fs::metadata(&volume.mountpoint).map_err(|cause| failed("read", &volume.mountpoint, &cause))?;
        Ok((count.load(Ordering::Relaxed), (root.uid(), root.gid(), root.mode() & 0o7777)))
    })
}

fn opened(path: &Path) -> Result<Root> {
    Root::stopped(&Rootfs::Directory { path: path.to_owned() }, &[], false)
        .map_err(|error| Error::because(ErrorKind::Internal, "cannot open the volume", &error))
}

fn pack(volume: &Volume, making: &Path, count: Arc<AtomicU64>, unwanted: Arc<AtomicBool>) -> Result<()> {
    let told = |cause: std::io::Error| failed("write", making, &cause);
    let root = opened(&volume.mountpoint)?;
    let packing = |error: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::Internal, format!("cannot copy {}", volume.name), error)
    };
    let top = root.find(Path::new("/")).map_err(|error| packing(&error))?;
    let mut encoder = zstd::Encoder::new(File::create(making).map_err(told)?, LEVEL).map_err(told)?;
    files::pack_content(&root, &top, Counted { to: &mut encoder, count, unwanted }).map_err(|error| packing(&error))?;
    encoder.finish().map_err(told)?;
    Ok(())
}

fn unpack(archive: File, to: &Path, (user, group, mode): (u32, u32, u32)) -> Result<()> {
    let make = || -> std::io::Result<()> {
        match fs::remove_dir_all(to) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(to)
    };
    make().map_err(|cause| failed("make", to, &cause))?;
    let root = opened(to)?;
    let unpacking = |error: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::InvalidArgument, "cannot restore from the archive", error)
    };
    let top = root.find(Path::new("/")).map_err(|error| unpacking(&error))?;
    files::unpack(&root, &top, decompressed(archive)?, UnpackOptions::default()).map_err(|error| unpacking(&error))?;
    let own = || -> std::io::Result<()> {
        std::os::unix::fs::chown(to, Some(user), Some(group))?;
        fs::set_permissions(to, fs::Permissions::from_mode(mode))
    };
    own().map_err(|cause| failed("own", to, &cause))
}

/// At no moment is the volume without a folder.
fn exchange(one: &Path, other: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(|errno| failed("exchange", other, &errno.into()))
}
