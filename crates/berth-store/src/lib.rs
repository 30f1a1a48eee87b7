//! Durable records: JSON values by table and key.
//!
//! ```text
//! state.redb
//!   records   "<table>/<key>" -> JSON            one redb table; tables of ours are prefixes
//!   meta      "schema"        -> u32             grows when a record changes incompatibly
//! ```
//!
//! One thread writes. Batches that arrive while it syncs are committed together, so sixteen clients pay for
//! one fsync. A batch is atomic, and durable once its commit has answered. Reads never wait for writers.
//! A corrupt file is an error that names it; nothing is ever rewritten to "repair" it. A disk that was full for a
//! while costs the batches that were answered with an error, and no more ([`file`]).
//!
//! This crate does not know what a record means.

mod file;
mod writer;

use file::File;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");

/// The version that this code writes.
pub const SCHEMA: u32 = 1;

/// redb's page cache. Records live in the engine's memory anyway: this only serves start-up.
const CACHE_BYTES: usize = 1 << 20;

/// Longer than a killed process takes to go; whoever still holds the file then is another engine.
const LOCK_SECONDS_MAX: Duration = Duration::from_secs(2);
const LOCK_LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What went wrong with the records.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: Arc<redb::Error>,
    },
    #[error("{} was written by a newer engine (schema {found}, this one knows {SCHEMA})", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("cannot read the records")]
    Read(#[source] Arc<redb::Error>),
    #[error("cannot write the records")]
    Write(#[source] Arc<redb::Error>),
    #[error("record {key} does not read as what it should be")]
    Malformed {
        key: String,
        #[source]
        cause: Arc<serde_json::Error>,
    },
    #[error("the store is closed")]
    Closed,
}

/// One durable change: all of it happens, or nothing.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) changes: Vec<(String, Option<Vec<u8>>)>,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    pub fn put<T: Serialize>(&mut self, table: &str, key: &str, value: &T) -> Result<(), StoreError> {
        let key = format!("{table}/{key}");
        match serde_json::to_vec(value) {
            Ok(bytes) => self.changes.push((key, Some(bytes))),
            Err(cause) => return Err(StoreError::Malformed { key, cause: Arc::new(cause) }),
        }
        Ok(())
    }

    pub fn delete(&mut self, table: &str, key: &str) {
        self.changes.push((format!("{table}/{key}"), None));
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A handle; clones share the file and the writer.
#[derive(Clone)]
pub struct Store {
    file: Arc<File>,
    writer: Arc<writer::Writer>,
}

/// Changes one record's JSON from schema `from` to the next; called for every record of `table`.
pub type Migration = fn(from: u32, table: &str, record: serde_json::Value) -> serde_json::Value;

/// Waits a little for the file's lock: a program that a killed engine was just starting holds it until its exec.
fn open_file(path: &Path) -> Result<Database, redb::Error> {
    let deadline = Instant::now() + LOCK_SECONDS_MAX;
    loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_LOOK_AGAIN);
            }
            opened => return opened.map_err(redb::Error::from),
        }
    }
}

impl Store {
    /// Opens or makes the file, bringing older records up by `migrate`.
    pub fn open(path: &Path, migrate: Migration) -> Result<Store, StoreError> {
        Store::open_at(path, SCHEMA, migrate)
    }

    fn open_at(path: &Path, schema: u32, migrate: Migration) -> Result<Store, StoreError> {
        let of = path.to_owned();
        Store::open_by(path, Box::new(move || open_file(&of)), schema, migrate)
    }

    fn open_by(path: &Path, open: file::Opener, schema: u32, migrate: Migration) -> Result<Store, StoreError> {
        let failed = |cause: redb::Error| StoreError::Open { path: path.to_owned(), cause: Arc::new(cause) };
        let database = open().map_err(failed)?;
        let found = prepare(&database, schema).map_err(failed)?;
        if found > schema {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        if found < schema {
            bring_up(&database, found, schema, migrate).map_err(failed)?;
        }
        let file = Arc::new(File::new(database, open));
        let writer = Arc::new(writer::Writer::start(file.clone()));
        Ok(Store { file, writer })
    }

    pub fn get<T: DeserializeOwned>(&self, table: &str, key: &str) -> Result<Option<T>, StoreError> {
        let key = format!("{table}/{key}");
        let read = |database: &Database| -> Result<Option<Vec<u8>>, redb::Error> {
            let records = database.begin_read()?.open_table(RECORDS)?;
            Ok(records.get(key.as_str())?.map(|value| value.value().to_vec()))
        };
        let read = self.file.work(read).map_err(|cause| StoreError::Read(Arc::new(cause)))?;
        let Some(bytes) = read else { return Ok(None) };
        decode(&key, &bytes).map(Some)
    }

    /// All records of `table` in the order of their keys. A record that does not read is reported in its
    /// place, so that one damaged record does not take the others along.
    #[allow(clippy::type_complexity)]
    pub fn list<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<(String, Result<T, StoreError>)>, StoreError> {
        let prefix = format!("{table}/");
        // '0' follows '/' in ASCII: the first key past the table.
        let end = format!("{table}0");
        let read = |database: &Database| -> Result<Vec<(String, Result<T, StoreError>)>, redb::Error> {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let mut all = Vec::new();
            for entry in records.range::<&str>(prefix.as_str()..end.as_str())? {
                let (key, value) = entry?;
                all.push((key.value()[prefix.len()..].to_owned(), decode(key.value(), value.value())));
            }
            Ok(all)
        };
        self.file.work(read).map_err(|cause| StoreError::Read(Arc::new(cause)))
    }

    /// Hands `batch` to the writer; `done` is called on the writer's thread once it is durable or failed.
    pub fn submit(&self, batch: Batch, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.writer.submit(batch, Box::new(done));
    }

    /// Writes `batch` and waits until it is durable.
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        // A receiver that is gone needs no answer.
        self.submit(batch, move |result| drop(sender.send(result)));
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|cause| StoreError::Malformed { key: key.to_owned(), cause: Arc::new(cause) })
}

/// Makes the tables where they are missing and answers the schema found.
fn prepare(database: &Database, schema: u32) -> Result<u32, redb::Error> {
    // A file in order is only read: opening costs no fsync.
    let reading = database.begin_read()?;
    if let Ok(meta) = reading.open_table(META)
        && let Some(found) = meta.get("schema")?
    {
        return Ok(found.value());
    }
    let writing = database.begin_write()?;
    writing.open_table(RECORDS)?;
    writing.open_table(META)?.insert("schema", schema)?;
    writing.commit()?;
    Ok(schema)
}

fn bring_up(database: &Database, found: u32, schema: u32, migrate: Migration) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    {
        let mut records = writing.open_table(RECORDS)?;
        let mut changed = Vec::new();
        for entry in records.iter()? {
            let (key, value) = entry?;
            // Unreadable records stay as they are and are reported by `list`.
            let Ok(mut record) = serde_json::from_slice(value.value()) else { continue };
            let table = key.value().split('/').next().unwrap_or_default();
            for from in found..schema {
                record = migrate(from, table, record);
            }
            changed.push((key.value().to_owned(), record.to_string()));
        }
        for (key, record) in changed {
            records.insert(key.as_str(), record.as_bytes())?;
        }
        writing.open_table(META)?.insert("schema", schema)?;
    }
    writing.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unchanged(_: u32, _: &str, record: serde_json::Value) -> serde_json::Value {
        record
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let store = Store::open(&path, unchanged).unwrap();
        let mut batch = Batch::new();
        batch.put("a", "1", &"one").unwrap();
        batch.put("a", "2", &"two").unwrap();
        batch.put("ab", "3", &3).unwrap();
        store.commit(batch).unwrap();
        let mut batch = Batch::new();
        batch.delete("a", "1");
        store.commit(batch).unwrap();
        drop(store);

        let store = Store::open(&path, unchanged).unwrap();
        let all = store.list::<String>("a").unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0.as_str(), all[0].1.as_ref().unwrap().as_str()), ("2", "two"));
        assert_eq!(store.get::<i32>("ab", "3").unwrap(), Some(3));
        assert_eq!(store.get::<i32>("ab", "4").unwrap(), None);
    }

    #[test]
    fn concurrent_commits_all_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state.redb"), unchanged).unwrap();
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || {
                    let mut batch = Batch::new();
                    batch.put("t", &n.to_string(), &n).unwrap();
                    store.commit(batch).unwrap();
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(store.list::<i32>("t").unwrap().len(), 16);
    }

    /// A file on a disk that is full while `full` says so.
    #[derive(Debug)]
    struct Disk {
        file: redb::backends::FileBackend,
        full: Arc<std::sync::atomic::AtomicBool>,
    }

    impl Disk {
        fn room(&self) -> std::io::Result<()> {
            match self.full.load(std::sync::atomic::Ordering::Acquire) {
                true => Err(std::io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> std::io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.room().and_then(|()| self.file.set_len(len))
        }
        fn sync_data(&self) -> std::io::Result<()> {
            self.room().and_then(|()| self.file.sync_data())
        }
        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.room().and_then(|()| self.file.write(offset, data))
        }
    }

    #[test]
    fn a_disk_that_was_full_for_a_while_is_written_again() {
        use std::sync::atomic::Ordering;
        let folder = tempfile::tempdir().unwrap();
        let (path, full) = (folder.path().join("state.redb"), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let (of, is_full) = (path.clone(), full.clone());
        let open = move || {
            let file = std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&of)?;
            let disk = Disk { file: redb::backends::FileBackend::new(file)?, full: is_full.clone() };
            Database::builder().create_with_backend(disk).map_err(redb::Error::from)
        };
        let store = Store::open_by(&path, Box::new(open), SCHEMA, unchanged).unwrap();
        let put = |key: &str| {
            let mut batch = Batch::new();
            batch.put("t", key, &key).unwrap();
            store.commit(batch)
        };
        put("before").unwrap();
        full.store(true, Ordering::Release);
        for _ in 0..3 {
            assert!(matches!(put("meanwhile"), Err(StoreError::Write(_))));
        }
        full.store(false, Ordering::Release);
        put("after").unwrap();
        assert_eq!(store.get::<String>("t", "before").unwrap().as_deref(), Some("before"));
        drop(store);
        let store = Store::open(&path, unchanged).unwrap();
        assert_eq!(store.get::<String>("t", "after").unwrap().as_deref(), Some("after"));
    }

    #[test]
    fn older_records_are_brought_up_and_newer_files_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let store = Store::open(&path, unchanged).unwrap();
        let mut batch = Batch::new();
        batch.put("t", "k", &1).unwrap();
        store.commit(batch).unwrap();
        drop(store);
        let plus_one = |_, _: &str, record: serde_json::Value| (record.as_i64().unwrap() + 1).into();
        let store = Store::open_at(&path, SCHEMA + 2, plus_one).unwrap();
        assert_eq!(store.get::<i32>("t", "k").unwrap(), Some(3));
        drop(store);
        assert!(matches!(Store::open(&path, unchanged), Err(StoreError::Newer { found: 3, .. })));
    }
}
