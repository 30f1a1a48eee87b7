//! The volumes of one engine: a table in memory, read once from the disk.

use super::{ANONYMOUS_LABEL, Volume, VolumeCreate, local, now};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const RECORD: &str = "volume.json";
const DATA: &str = "_data";
/// Larger records are not ours.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// What is kept beside the folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    created_unix_nanos: i64,
    driver_options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    /// The container that an anonymous volume was made with.
    #[serde(skip_serializing_if = "String::is_empty")]
    made_for: String,
}

pub(crate) struct Shared {
    folder: PathBuf,
    table: Mutex<Table>,
    /// Backups that are being written: volume and id.
    writing: Mutex<BTreeSet<(String, String)>>,
    /// Backups of one thing wait for one another.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct Table {
    /// `None` until somebody asks: an engine's start does not wait for it.
    records: Option<BTreeMap<String, Record>>,
    /// Volumes of containers that are being made, with how often.
    pinned: BTreeMap<String, usize>,
}

/// Keeps a volume from being removed while it lives.
pub(crate) struct Pin {
    shared: Arc<Shared>,
    name: String,
    /// Made for the pin's holder: goes with it.
    own: bool,
}

impl Pin {
    /// It stays, whatever becomes of the pin.
    pub(crate) fn keep(&mut self) {
        self.own = false;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        if let Some(count) = table.pinned.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                table.pinned.remove(&self.name);
            }
        }
        drop(table);
        if self.own
            && let Err(error) = self.shared.remove(&self.name)
        {
            tracing::warn!(volume = self.name, %error, "anonymous volume not removed");
        }
    }
}

pub(super) fn failed(action: &str, path: &Path, cause: &std::io::Error) -> Error {
    let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
    Error::because(kind, format!("cannot {action} {}", path.display()), cause)
}

impl Shared {
    pub(crate) fn open(data_root: &Path) -> Arc<Shared> {
        let folder = data_root.join("volumes");
        Arc::new(Shared { folder, table: Mutex::default(), writing: Mutex::default(), turns: Mutex::default() })
    }

    pub(super) fn writing(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.writing.lock().expect("no holder of this lock panics")
    }

    /// Waits until nobody else works on `what`.
    pub(super) async fn turn(&self, what: String) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().expect("no holder of this lock panics");
            // Those that nobody holds or waits for.
            turns.retain(|name, turn| *name == what || Arc::strong_count(turn) > 1);
            turns.entry(what).or_default().clone()
        };
        turn.lock_owned().await
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }

    /// The table with its records read.
    fn records(&self) -> Result<MutexGuard<'_, Table>> {
        let mut table = self.lock();
        if table.records.is_none() {
            table.records = Some(self.read()?);
        }
        Ok(table)
    }

    fn read(&self) -> Result<BTreeMap<String, Record>> {
        let mut records = BTreeMap::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(records),
            Err(cause) => return Err(failed("read", &self.folder, &cause)),
        };
        for entry in entries {
            let entry = entry.map_err(|cause| failed("read", &self.folder, &cause))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(".new-") || name.starts_with(".gone-") {
                remove_tree(&entry.path());
            } else if local::name(name).is_ok() && entry.path().join(DATA).is_dir() {
                records.insert(name.to_owned(), read_record(&entry.path()));
            }
        }
        Ok(records)
    }

    fn view(&self, name: &str, record: &Record) -> Volume {
        Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: self.folder.join(name).join(DATA),
            labels: record.labels.clone(),
            driver_options: record.driver_options.clone(),
            created_unix_nanos: record.created_unix_nanos,
            usage: None,
        }
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<Volume>> {
        let table = self.records()?;
        Ok(table.records.as_ref().and_then(|all| all.get(name)).map(|record| self.view(name, record)))
    }

    pub(super) fn list(&self) -> Result<Vec<Volume>> {
        let table = self.records()?;
        Ok(table.records.iter().flatten().map(|(name, record)| self.view(name, record)).collect())
    }

    pub(super) fn pin(self: &Arc<Self>, name: &str, own: bool) -> Pin {
        *self.lock().pinned.entry(name.to_owned()).or_default() += 1;
        Pin { shared: self.clone(), name: name.to_owned(), own }
    }

    /// The volume, pinned, and whether it was made just now.
    pub(super) fn create(self: &Arc<Self>, mut request: VolumeCreate) -> Result<(Volume, Pin, bool)> {
        local::check(&request)?;
        let anonymous = request.name.is_empty();
        if anonymous {
            request.name = random_name()?;
            request.labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        // The pin is taken before the look: nobody removes it in between.
        let mut pin = self.pin(&request.name, false);
        let mut table = self.records()?;
        let records = table.records.as_mut().expect("records() has read them");
        if let Some(record) = records.get(&request.name) {
            if !request.driver_options.is_empty() && request.driver_options != record.driver_options {
                return Err(Error::conflict(format!(
                    "create {0}: a volume named {0} exists with other driver options",
                    request.name
                )));
            }
            let volume = self.view(&request.name, record);
            drop(table);
            return Ok((volume, pin, false));
        }
        let record = Record {
            created_unix_nanos: now(),
            driver_options: request.driver_options,
            labels: request.labels,
            made_for: request.made_for.filter(|_| anonymous).map(String::from).unwrap_or_default(),
        };
        self.make(&request.name, &record, !anonymous)?;
        let volume = self.view(&request.name, &record);
        records.insert(request.name, record);
        drop(table);
        pin.own = anonymous;
        Ok((volume, pin, true))
    }

    /// Writes it under a temporary name and renames. An anonymous volume's record is not synced: it is
    /// worth what its container's is, which is committed later.
    fn make(&self, name: &str, record: &Record, durable: bool) -> Result<()> {
        let temporary = self.folder.join(format!(".new-{name}"));
        remove_tree(&temporary);
        let make = || -> std::io::Result<()> {
            let folder = |path: &Path, mode: u32| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
            folder(&self.folder, 0o701)?;
            folder(&temporary, 0o701)?;
            folder(&temporary.join(DATA), 0o755)?;
            // Whatever the engine's umask: containers' users must be able to look in.
            fs::set_permissions(temporary.join(DATA), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            let mut file = fs::File::create(temporary.join(RECORD))?;
            file.write_all(&serde_json::to_vec(record)?)?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, self.folder.join(name))?;
            if durable {
                fs::File::open(&self.folder)?.sync_all()?;
            }
            Ok(())
        };
        make().map_err(|cause| {
            remove_tree(&temporary);
            failed("make volume", Path::new(name), &cause)
        })
    }

    /// Anonymous volumes that were made with container `id`.
    pub(super) fn made_for(&self, id: &ContainerId) -> Result<Vec<String>> {
        let table = self.records()?;
        let all = table.records.iter().flatten().filter(|(_, record)| record.made_for == id.as_str());
        Ok(all.map(|(name, _)| name.clone()).collect())
    }

    /// False where it was gone already. Refused while it is pinned.
    pub(super) fn remove(&self, name: &str) -> Result<bool> {
        let mut table = self.records()?;
        if table.pinned.contains_key(name) {
            return Err(Error::conflict(format!("remove {name}: volume is in use")));
        }
        let records = table.records.as_mut().expect("records() has read them");
        if !records.contains_key(name) {
            return Ok(false);
        }
        let gone = self.folder.join(format!(".gone-{name}"));
        remove_tree(&gone);
        match fs::rename(self.folder.join(name), &gone) {
            Ok(()) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed("remove volume", Path::new(name), &cause)),
        }
        records.remove(name);
        drop(table);
        remove_tree(&gone);
        Ok(true)
    }

    /// Bytes on disk, each file counted once.
    pub(super) fn size_bytes(&self, name: &str) -> u64 {
        berth_sys::disk_usage::disk_bytes(&self.folder.join(name))
    }
}

fn read_record(folder: &Path) -> Record {
    let path = folder.join(RECORD);
    let read = || -> std::io::Result<Record> {
        if fs::metadata(&path)?.len() > RECORD_BYTES_MAX {
            return Err(std::io::Error::other("larger than any record"));
        }
        Ok(serde_json::from_slice(&fs::read(&path)?)?)
    };
    read().unwrap_or_else(|error| {
        // The data is there and somebody's: better a volume without labels than none.
        tracing::warn!(path = %path.display(), %error, "volume record not read");
        let created = fs::metadata(folder).map_or(0, |meta| meta.ctime().saturating_mul(1_000_000_000));
        Record { created_unix_nanos: created, ..Record::default() }
    })
}

fn remove_tree(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => tracing::warn!(path = %path.display(), error = %cause, "folder not removed"),
    }
}

fn random_name() -> Result<String> {
    let mut bytes = [0_u8; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(32) => Ok(ContainerId::from_bytes(bytes).to_string()),
        Ok(_) => Err(Error::internal("the kernel gave too few random bytes")),
        Err(errno) => Err(Error::because(ErrorKind::Internal, "no random bytes", &std::io::Error::from(errno))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> VolumeCreate {
        VolumeCreate { name: name.to_owned(), ..VolumeCreate::default() }
    }

    #[test]
    fn a_volume_survives_its_engine() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::open(folder.path());
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let (made, _, new) = shared.create(VolumeCreate { labels, ..named("data") }).unwrap();
        assert!(new && made.mountpoint.is_dir());
        std::fs::write(made.mountpoint.join("file"), "x").unwrap();
        let again = Shared::open(folder.path());
        assert_eq!(again.get("data").unwrap(), Some(made));
        assert!(!again.create(named("data")).unwrap().2);
    }

    #[test]
    fn what_was_half_made_is_gone_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".new-x", ".gone-y"] {
            std::fs::create_dir_all(folder.path().join("volumes").join(name).join("_data")).unwrap();
        }
        assert_eq!(Shared::open(folder.path()).list().unwrap(), []);
        assert_eq!(std::fs::read_dir(folder.path().join("volumes")).unwrap().count(), 0);
    }

    #[test]
    fn an_anonymous_volume_goes_with_the_container_that_was_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::open(folder.path());
        let (volume, pin, _) = shared.create(VolumeCreate::default()).unwrap();
        assert_eq!(volume.name.len(), 64);
        assert!(shared.remove(&volume.name).is_err(), "pinned");
        drop(pin);
        assert_eq!(shared.list().unwrap(), []);
        let (_, mut pin, _) = shared.create(VolumeCreate::default()).unwrap();
        pin.keep();
        drop(pin);
        assert_eq!(shared.list().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_record_does_not_hide_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volumes/data");
        std::fs::create_dir_all(volume.join("_data")).unwrap();
        std::fs::write(volume.join("volume.json"), "{").unwrap();
        assert_eq!(Shared::open(folder.path()).list().unwrap().len(), 1);
    }

    #[test]
    fn other_options_for_a_taken_name_are_a_conflict() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::open(folder.path());
        drop(shared.create(named("data")).unwrap());
        let options = [("type", "tmpfs"), ("device", "tmpfs")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let request = VolumeCreate { driver_options: options.into(), ..named("data") };
        assert_eq!(shared.create(request).map(|_| ()).unwrap_err().kind, ErrorKind::Conflict);
    }
}
