//! Copies of volumes, kept beside them.
//!
//! ```text
//! <data-root>/backups/<volume>/<unix millis>.tar.zst    what was in it (an uploaded one as it came)
//! <data-root>/backups/<volume>/<unix millis>.json       the record: written last, removed first
//! <data-root>/backups/<volume>/.new-<unix millis>       being written; one that nobody writes is removed by the next backup
//! ```
//!
//! A backup outlives its volume. Those of one volume, and those that hold the same instance still, are made one after
//! the other. What uses the volume can be held still while it is copied: then the copy is what a
//! power cut would have left. A restore is made beside the volume and exchanged with it at once.

use super::shared::{Shared, failed};
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
    /// Made by a schedule, which removes it in time.
    #[serde(default)]
    pub scheduled: bool,
    /// Owner, group and mode of the volume's own folder.
    root: (u32, u32, u32),
}

/// How a backup is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupWish {
    /// What runs with the volume is held still meanwhile.
    pub hold: bool,
    /// By a schedule.
    pub scheduled: bool,
    /// It fails once its archive is larger.
    pub bytes_max: u64,
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

/// Refuses bytes beyond a limit.
struct Limited<W> {
    to: W,
    left: u64,
    /// It has refused some.
    full: bool,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            self.full = true;
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        };
        self.to.write_all(bytes)?;
        self.left = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Names of files in a folder of backups.
struct Place {
    folder: PathBuf,
    volume: String,
}

/// An id that is being written, and nobody else's to remove; until it is dropped.
struct Writing {
    shared: Arc<Shared>,
    key: (String, String),
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.shared.writing().remove(&self.key);
    }
}

impl Place {
    fn file(&self, id: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{id}.{kind}"))
    }

    fn making(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{BEING_WRITTEN}{id}"))
    }

    /// An id of its own for a new backup; removes what an engine before left half written.
    fn claim(&self, shared: &Arc<Shared>) -> Result<Writing> {
        let mut writing = shared.writing();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|cause| failed("make", &self.folder, &cause))?;
        let key = |id: &str| (self.volume.clone(), id.to_owned());
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(left) = name.to_str().and_then(|name| name.strip_prefix(BEING_WRITTEN)) else { continue };
            if !writing.contains(&key(left.trim_end_matches(".json"))) {
                fs::remove_file(entry.path()).map_err(|cause| failed("remove", &entry.path(), &cause))?;
            }
        }
        let mut id = now_unix_nanos() / 1_000_000;
        let taken = |id: i64| {
            let id = id.to_string();
            writing.contains(&key(&id)) || [ARCHIVE, RECORD].iter().any(|kind| self.file(&id, kind).exists())
        };
        while taken(id) {
            id += 1;
        }
        let key = key(&id.to_string());
        writing.insert(key.clone());
        drop(writing);
        Ok(Writing { shared: shared.clone(), key })
    }

    /// A backup whose archive `write` writes. It says what is in it by bytes, and its root's owner, group and mode.
    fn make(
        &self,
        shared: &Arc<Shared>,
        labels: BTreeMap<String, String>,
        scheduled: bool,
        write: impl FnOnce(&Path) -> Result<(u64, (u32, u32, u32))>,
    ) -> Result<Backup> {
        let writing = self.claim(shared)?;
        let id = writing.key.1.clone();
        let making = self.making(&id);
        let (content_bytes, root) = write(&making).inspect_err(|_| drop(fs::remove_file(&making)))?;
        let bytes = fs::metadata(&making).map_err(|cause| failed("read", &making, &cause))?.len();
        let (volume, created_unix_nanos) = (self.volume.clone(), now_unix_nanos());
        let backup = Backup { id, volume, created_unix_nanos, bytes, content_bytes, labels, scheduled, root };
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
        Ok(Place { folder: self.backups_folder().join(volume), volume: volume.to_owned() })
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
            let place = |entry: fs::DirEntry| Place {
                folder: entry.path(),
                volume: entry.file_name().to_string_lossy().into_owned(),
            };
            let mut all: Vec<Backup> = names.flat_map(|entry| place(entry).list()).collect();
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

    /// Copies a volume. `tell` hears bytes copied, of how many.
    pub async fn backup(&self, name: &str, wish: BackupWish, mut tell: impl FnMut(u64, u64)) -> Result<Backup> {
        self.with_files(name).await?;
        let mut turns = vec![self.shared().turn(format!("volume {name}")).await];
        // As it is now: whoever was before us may have taken long.
        let volume = self.with_files(name).await?;
        let _pin = self.pin(name);
        let (place, shared, owned) = (self.place(name)?, self.shared(), name.to_owned());
        let sized = shared.clone();
        let all = blocking(move || Ok(sized.size_bytes(&owned))).await?;
        // Until the copy is there; a backup that is cancelled lets them go on too.
        let mut held = Vec::new();
        let mut running = if wish.hold { self.running(name).await? } else { Vec::new() };
        // In one order everywhere: nobody waits in a circle.
        running.sort_unstable();
        for id in running {
            turns.push(shared.turn(format!("instance {id}")).await);
            held.push(self.engine.containers().hold_still(&id).await?);
        }
        let (count, unwanted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let _wanted = Wanted(unwanted.clone());
        let counted = count.clone();
        let mut work = tokio::task::spawn_blocking(move || copy(&volume, &place, &shared, wish, counted, unwanted));
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
        let (place, shared) = (self.place(name)?, self.shared());
        blocking(move || {
            place.make(&shared, labels, false, |making| {
                let write = || -> std::io::Result<()> {
                    let mut file = File::create(making)?;
                    let copied = std::io::copy(&mut Source::new(body).take(bytes_max + 1), &mut file)?;
                    match copied > bytes_max {
                        true => Err(std::io::ErrorKind::QuotaExceeded.into()),
                        false => Ok(()),
                    }
                };
                write().map_err(|cause| not_written(making, bytes_max, &cause))?;
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
        let (place, shared) = (self.place(volume)?, self.shared());
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
            // Others may be in it, or are about to be.
            let writing = shared.writing();
            if !writing.iter().any(|(volume, _)| *volume == place.volume) {
                fs::remove_dir(&place.folder).ok();
            }
            Ok(())
        })
        .await
    }
}

fn copy(
    volume: &Volume,
    place: &Place,
    shared: &Arc<Shared>,
    wish: BackupWish,
    count: Arc<AtomicU64>,
    unwanted: Arc<AtomicBool>,
) -> Result<Backup> {
    place.make(shared, volume.labels.clone(), wish.scheduled, |making| {
        pack(volume, making, wish.bytes_max, count.clone(), unwanted)?;
        let root = fs::metadata(&volume.mountpoint).map_err(|cause| failed("read", &volume.mountpoint, &cause))?;
        Ok((count.load(Ordering::Relaxed), (root.uid(), root.gid(), root.mode() & 0o7777)))
    })
}

/// `bytes_max`: where that is what it ran into, it is said.
fn not_written(making: &Path, bytes_max: u64, cause: &std::io::Error) -> Error {
    match cause.kind() {
        std::io::ErrorKind::QuotaExceeded => {
            Error::conflict(format!("the backup is larger than the {} MiB that there is room for", bytes_max >> 20))
                .with_hint("remove older backups, or ask for more room")
        }
        _ => failed("write", making, cause),
    }
}

fn opened(path: &Path) -> Result<Root> {
    Root::stopped(&Rootfs::Directory { path: path.to_owned() }, &[], false)
        .map_err(|error| Error::because(ErrorKind::Internal, "cannot open the volume", &error))
}

fn pack(
    volume: &Volume,
    making: &Path,
    bytes_max: u64,
    count: Arc<AtomicU64>,
    unwanted: Arc<AtomicBool>,
) -> Result<()> {
    let told = |cause: std::io::Error| not_written(making, bytes_max, &cause);
    let root = opened(&volume.mountpoint)?;
    let packing = |error: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::Internal, format!("cannot copy {}", volume.name), error)
    };
    let top = root.find(Path::new("/")).map_err(|error| packing(&error))?;
    let file = Limited { to: File::create(making).map_err(told)?, left: bytes_max, full: false };
    let mut encoder = zstd::Encoder::new(file, LEVEL).map_err(told)?;
    let packed = files::pack_content(&root, &top, Counted { to: &mut encoder, count, unwanted });
    if let Err(error) = packed {
        return Err(match encoder.get_ref().full {
            true => told(std::io::ErrorKind::QuotaExceeded.into()),
            false => packing(&error),
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path) -> Place {
        Place { folder: folder.join("backups/data"), volume: "data".to_owned() }
    }

    #[test]
    fn backups_of_one_volume_that_are_made_at_once_leave_each_other_alone() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::open(folder.path());
        let place = place(folder.path());
        fs::create_dir_all(&place.folder).unwrap();
        let orphan = place.making("5");
        fs::write(&orphan, "of an engine that was killed").unwrap();
        let fill = |path: &Path, text: &str| {
            fs::write(path, text).unwrap();
            Ok((1, (0, 0, 0o755)))
        };
        let mut inner = None;
        let outer = place.make(&shared, BTreeMap::new(), true, |making| {
            assert!(!orphan.exists(), "what nobody writes is removed");
            let made = fill(making, "outer");
            inner = Some(place.make(&shared, BTreeMap::new(), false, |making| fill(making, "inner")).unwrap());
            // The folder stays while somebody writes there.
            place.list().iter().for_each(|one| assert_eq!(Some(one), inner.as_ref()));
            made
        });
        let (outer, inner) = (outer.unwrap(), inner.unwrap());
        assert_ne!(outer.id, inner.id);
        assert_eq!(fs::read_to_string(place.file(&outer.id, ARCHIVE)).unwrap(), "outer");
        assert_eq!(fs::read_to_string(place.file(&inner.id, ARCHIVE)).unwrap(), "inner");
        assert!(outer.scheduled && !inner.scheduled && shared.writing().is_empty());
    }

    #[test]
    fn what_is_over_the_limit_is_refused_before_it_is_written() {
        let mut limited = Limited { to: Vec::new(), left: 5, full: false };
        limited.write_all(b"12345").unwrap();
        assert_eq!(limited.write_all(b"6").unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
        assert!(limited.full && limited.to == b"12345");
        assert!(
            not_written(Path::new("x"), 5 << 20, &std::io::ErrorKind::QuotaExceeded.into()).message.contains("5 MiB")
        );
    }

    #[test]
    fn a_record_of_before_there_were_schedules_is_read() {
        let old = r#"{"id":"5","volume":"data","created_unix_nanos":1,"bytes":2,"content_bytes":3,"labels":{},"root":[0,0,493]}"#;
        assert!(!serde_json::from_str::<Backup>(old).unwrap().scheduled);
    }
}
