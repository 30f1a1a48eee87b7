//! Secrets on the disk. They are few and asked for seldom: every question reads the folder.

use super::{Secret, SecretCreate, SecretKind};
use crate::events::now_unix_nanos;
use crate::full;
use berth_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

const RECORD: &str = "secret.json";
const DATA: &str = "data";
const ID_LETTERS: usize = 25;
/// Larger records are not ours.
const RECORD_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    labels: BTreeMap<String, String>,
    created_unix_nanos: i64,
    updated_unix_nanos: i64,
    version: u64,
}

pub(crate) struct Shared {
    kind: SecretKind,
    folder: PathBuf,
    /// One change at a time: names are unique.
    changes: Mutex<()>,
}

fn failed(action: &str, path: &Path, cause: &io::Error) -> Error {
    full::or_here(ErrorKind::Internal, format!("cannot {action} {}", path.display()), cause)
}

/// The content at `path`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|cause| failed("read", path, &cause))
}

fn new_id() -> Result<String> {
    let mut bytes = [0; ID_LETTERS];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::because(ErrorKind::Internal, "cannot get random bytes", &io::Error::from(errno)))?;
    Ok(bytes.map(|byte| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::from(byte) % 36])).iter().collect())
}

impl Shared {
    pub(crate) fn open(data_root: &Path, kind: SecretKind) -> Result<Shared> {
        let folder = data_root.join(format!("{}s", kind.as_str()));
        let shared = Shared { kind, folder, changes: Mutex::new(()) };
        shared.sweep().map_err(|cause| failed("clear", &shared.folder, &cause))?;
        Ok(shared)
    }

    /// What an earlier engine left half done.
    fn sweep(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn no_such(&self, reference: &str) -> Error {
        Error::not_found(format!("{} {reference} not found", self.kind.as_str()))
    }

    fn load(&self, id: &str) -> Result<Secret> {
        let folder = self.folder.join(id);
        let path = folder.join(RECORD);
        let fail = |cause: &io::Error| failed("read", &path, cause);
        let mut text = String::new();
        let file = File::open(&path).map_err(|cause| fail(&cause))?;
        file.take(RECORD_BYTES_MAX).read_to_string(&mut text).map_err(|cause| fail(&cause))?;
        let record: Record = serde_json::from_str(&text)
            .map_err(|cause| Error::because(ErrorKind::DataLoss, format!("{} is damaged", path.display()), &cause))?;
        Ok(Secret {
            id: id.to_owned(),
            name: record.name,
            labels: record.labels,
            created_unix_nanos: record.created_unix_nanos,
            updated_unix_nanos: record.updated_unix_nanos,
            version: record.version,
            data: folder.join(DATA),
        })
    }

    /// All, by name.
    pub(super) fn list(&self) -> Result<Vec<Secret>> {
        let fail = |cause: &io::Error| failed("read", &self.folder, cause);
        let entries = match fs::read_dir(&self.folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|cause| fail(&cause))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(|cause| fail(&cause))?.file_name();
            if let Some(id) = name.to_str().filter(|id| !id.starts_with('.')) {
                match self.load(id) {
                    Ok(secret) => all.push(secret),
                    // Removed since the folder was read.
                    Err(_) if !self.folder.join(id).exists() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Full id, then full name, then an id's beginning that only one has.
    pub(crate) fn find(&self, reference: &str) -> Result<Secret> {
        let mut all = self.list()?;
        let exact = |by: fn(&Secret) -> &str| all.iter().position(|secret| by(secret) == reference);
        if let Some(at) = exact(|secret| &secret.id).or_else(|| exact(|secret| &secret.name)) {
            return Ok(all.swap_remove(at));
        }
        all.retain(|secret| !reference.is_empty() && secret.id.starts_with(reference));
        match all.len() {
            0 => Err(self.no_such(reference)),
            1 => Ok(all.swap_remove(0)),
            count => Err(Error::invalid(format!(
                "{} {reference} is ambiguous ({count} matches found based on ID prefix)",
                self.kind.as_str()
            ))),
        }
    }

    pub(super) fn create(&self, request: SecretCreate) -> Result<Secret> {
        let _changes = self.lock();
        if self.list()?.iter().any(|secret| secret.name == request.name) {
            let kind = self.kind.as_str();
            return Err(Error::conflict(format!("{kind} {} already exists", request.name)));
        }
        let id = new_id()?;
        let now = now_unix_nanos();
        let record = Record {
            name: request.name,
            labels: request.labels,
            created_unix_nanos: now,
            updated_unix_nanos: now,
            version: 1,
        };
        let making = self.folder.join(format!(".new-{id}"));
        let make = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&making)?;
            write_new(&making.join(DATA), &request.data)?;
            write_new(&making.join(RECORD), &serde_json::to_vec_pretty(&record)?)?;
            File::open(&making)?.sync_all()?;
            fs::rename(&making, self.folder.join(&id))?;
            File::open(&self.folder)?.sync_all()
        };
        if let Err(cause) = make() {
            // Whatever is left of it the next engine removes.
            fs::remove_dir_all(&making).ok();
            return Err(failed("write", &making, &cause));
        }
        self.load(&id)
    }

    pub(super) fn set_labels(&self, reference: &str, version: u64, labels: BTreeMap<String, String>) -> Result<Secret> {
        let _changes = self.lock();
        let secret = self.find(reference)?;
        if secret.version != version {
            return Err(Error::invalid(format!(
                "update out of sequence: {} is at version {}",
                secret.name, secret.version
            )));
        }
        let record = Record {
            name: secret.name,
            labels,
            created_unix_nanos: secret.created_unix_nanos,
            updated_unix_nanos: now_unix_nanos(),
            version: version + 1,
        };
        let folder = self.folder.join(&secret.id);
        let write = || -> io::Result<()> {
            let new = folder.join(format!(".{RECORD}"));
            // A crash may have left one.
            fs::remove_file(&new).or_else(|cause| match cause.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(cause),
            })?;
            write_new(&new, &serde_json::to_vec_pretty(&record)?)?;
            fs::rename(&new, folder.join(RECORD))?;
            File::open(&folder)?.sync_all()
        };
        write().map_err(|cause| failed("write", &folder, &cause))?;
        self.load(&secret.id)
    }

    pub(super) fn remove(&self, id: &str) -> Result<()> {
        let _changes = self.lock();
        let (folder, gone) = (self.folder.join(id), self.folder.join(format!(".gone-{id}")));
        let remove = || -> io::Result<()> {
            fs::rename(&folder, &gone)?;
            fs::remove_dir_all(&gone)?;
            File::open(&self.folder)?.sync_all()
        };
        match remove() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(self.no_such(id)),
            outcome => outcome.map_err(|cause| failed("remove", &folder, &cause)),
        }
    }
}

/// A file that nobody but root reads.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store(folder: &Path) -> Shared {
        Shared::open(folder, SecretKind::Secret).unwrap()
    }

    fn request(name: &str) -> SecretCreate {
        SecretCreate { name: name.to_owned(), labels: BTreeMap::new(), data: b"hunter2".to_vec() }
    }

    #[test]
    fn a_secret_lies_where_only_root_reads_it_and_goes_whole() {
        let folder = tempfile::tempdir().unwrap();
        let shared = store(folder.path());
        let made = shared.create(request("db")).unwrap();
        assert_eq!(made.id.len(), ID_LETTERS);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&made.data), mode(made.data.parent().unwrap())), (0o600, 0o700));
        assert_eq!(read(&made.data).unwrap(), b"hunter2");
        assert_eq!(shared.create(request("db")).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(shared.find("db").unwrap(), made);
        assert_eq!(shared.find(&made.id[..6]).unwrap(), made);
        shared.remove(&made.id).unwrap();
        assert_eq!(shared.find("db").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(shared.remove(&made.id).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(fs::read_dir(folder.path().join("secrets")).unwrap().count(), 0);
    }

    #[test]
    fn labels_change_in_sequence_only() {
        let folder = tempfile::tempdir().unwrap();
        let shared = store(folder.path());
        shared.create(request("db")).unwrap();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let changed = shared.set_labels("db", 1, labels.clone()).unwrap();
        assert_eq!((changed.version, changed.labels), (2, labels.clone()));
        assert!(shared.set_labels("db", 1, labels).unwrap_err().message.contains("out of sequence"));
        assert_eq!(store(folder.path()).find("db").unwrap().version, 2);
    }

    #[test]
    fn what_was_half_done_is_gone_with_the_next_engine() {
        let folder = tempfile::tempdir().unwrap();
        let shared = store(folder.path());
        shared.create(request("db")).unwrap();
        let half = folder.path().join("secrets/.new-x");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(DATA), b"x").unwrap();
        let again = store(folder.path());
        assert!(!half.exists());
        assert_eq!(again.list().unwrap().len(), 1);
    }
}
