//! Disk images and ISOs that browsers send, for machines to be made from.
//!
//! ```text
//! console.redb               uploads/<id>    its name, its size, whose it is; what it is, once all of it is there
//! <data-root>/uploads/<id>   its bytes so far
//! ```
//!
//! A file comes in parts, one after the other: how much is there is what the file's length says, so whoever was cut off
//! asks and goes on from there. Once it is whole it is looked at, and what no machine can be made from is refused and
//! removed. A machine takes a copy, so an upload may go at any time; it goes by itself a week after its last byte.

use crate::Api;
use crate::identity::{Role, Who};
use crate::schedules::now_millis;
use berth_engine::full;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

const UPLOADS_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 255;
pub(crate) const UPLOAD_BYTES_MAX: u64 = 1 << 40;
/// The host keeps so much for itself.
const SPARE_BYTES: u64 = 1 << 30;
const KEPT_MILLIS: i64 = 7 * 24 * 3_600_000;
/// Before the name of an upload where a file of the host may be named.
pub(crate) const PREFIX: &str = "upload:";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) user: String,
    /// Whose quota it counts in.
    pub(crate) project: Option<String>,
    pub(crate) created_unix_millis: i64,
    /// Once it is whole: qcow2, raw, iso, ...
    pub(crate) kind: Option<String>,
}

pub(crate) struct Uploads {
    store: Store,
    folder: PathBuf,
    /// Those that somebody is sending a part of.
    writing: Mutex<BTreeSet<String>>,
}

/// Nobody else sends to it until this is dropped.
struct Sending(Arc<Uploads>, String);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.writing.lock().expect("no holder of this lock panics").remove(&self.1);
    }
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of uploads", cause)
}

fn cannot(action: &str, path: &Path, cause: &std::io::Error) -> Error {
    full::or_here(ErrorKind::Internal, format!("cannot {action} {}", path.display()), cause)
}

fn none(id: &str) -> Error {
    Error::not_found(format!("there is no upload {id}"))
}

impl Uploads {
    pub(crate) fn new(store: Store, data_root: &Path) -> Uploads {
        Uploads { store, folder: data_root.join("uploads"), writing: Mutex::default() }
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, Upload)>> {
        let all = self.store.list::<Upload>("uploads").map_err(|cause| failed(&cause))?;
        Ok(all.into_iter().filter_map(|(id, upload)| Some((id, upload.ok()?))).collect())
    }

    /// Theirs; every one for an administrator. To others it is not there.
    pub(crate) fn get(&self, who: &Who, id: &str) -> Result<Upload> {
        let found = self.store.get::<Upload>("uploads", id).map_err(|cause| failed(&cause))?;
        found.filter(|one| one.is_open_to(who)).ok_or_else(|| none(id))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    pub(crate) fn received(&self, id: &str) -> u64 {
        fs::metadata(self.path(id)).map_or(0, |meta| meta.len())
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))
    }

    async fn put(&self, id: &str, upload: &Upload) -> Result<()> {
        let mut batch = Batch::new();
        batch.put("uploads", id, upload).map_err(|cause| failed(&cause))?;
        self.commit(batch).await
    }

    /// Makes room for a file that is to come.
    pub(crate) async fn begin(&self, upload: Upload) -> Result<String> {
        if upload.name.is_empty() || upload.name.len() > NAME_BYTES_MAX || upload.name.contains(['/', '\0']) {
            return Err(Error::invalid(format!("a file's name has 1 to {NAME_BYTES_MAX} bytes and no slash")));
        }
        if !(1..=UPLOAD_BYTES_MAX).contains(&upload.size_bytes) {
            let message = format!("a file of {} bytes: 1 byte to 1 TiB can be sent", upload.size_bytes);
            return Err(Error::invalid(message));
        }
        let all = self.list()?;
        if all.len() >= UPLOADS_MAX {
            return Err(Error::conflict(format!("there are {UPLOADS_MAX} uploads already"))
                .with_hint("remove those that are not needed any more"));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|cause| cannot("make", &self.folder, &cause))?;
        let free = rustix::fs::statvfs(&self.folder).map_err(|errno| cannot("look at", &self.folder, &errno.into()))?;
        // What others have been promised and not sent yet is not free.
        let promised: u64 = all.iter().map(|(id, one)| one.size_bytes.saturating_sub(self.received(id))).sum();
        let free = (free.f_bavail * free.f_frsize).saturating_sub(promised + SPARE_BYTES);
        if upload.size_bytes > free {
            let mib = |bytes: u64| bytes >> 20;
            let message =
                format!("{} has {} MiB, and the host has room for {}", upload.name, mib(upload.size_bytes), mib(free));
            return Err(Error::new(ErrorKind::Unavailable, message).with_hint("free space on the host's page"));
        }
        let id = berth_types::digest::hex(&crate::identity::random::<8>()?);
        let path = self.path(&id);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        file.map_err(|cause| cannot("make", &path, &cause))?;
        self.put(&id, &upload).await?;
        Ok(id)
    }

    fn sending(self: &Arc<Self>, id: &str) -> Result<Sending> {
        match self.writing.lock().expect("no holder of this lock panics").insert(id.to_owned()) {
            true => Ok(Sending(self.clone(), id.to_owned())),
            false => Err(Error::conflict(format!("somebody is sending a part of upload {id} already"))),
        }
    }

    /// Takes a part that begins at `offset`, which is where the last one ended. What came before it broke off stays.
    pub(crate) async fn take(
        self: &Arc<Self>,
        id: &str,
        upload: &Upload,
        offset: u64,
        mut part: mpsc::Receiver<Result<Bytes>>,
    ) -> Result<()> {
        let _sending = self.sending(id)?;
        let path = self.path(id);
        let mut at = self.received(id);
        if offset != at || upload.kind.is_some() {
            return Err(Error::conflict(format!(
                "{at} bytes of {} are here, and this part begins at {offset}",
                upload.name
            ))
            .with_hint("ask how much is here, and go on from there"));
        }
        let opened = File::options().append(true).open(&path).map_err(|cause| cannot("open", &path, &cause))?;
        let mut file = tokio::fs::File::from_std(opened);
        let mut outcome = Ok(());
        while outcome.is_ok() {
            let Some(chunk) = part.recv().await else { break };
            outcome = match chunk {
                Ok(chunk) if at + chunk.len() as u64 > upload.size_bytes => {
                    Err(Error::invalid(format!("more is sent than the {} bytes of {}", upload.size_bytes, upload.name)))
                }
                Ok(chunk) => {
                    at += chunk.len() as u64;
                    file.write_all(&chunk).await.map_err(|cause| cannot("write", &path, &cause))
                }
                Err(error) => Err(error),
            };
        }
        // The bytes that were taken are in the file before anybody is told.
        file.flush().await.map_err(|cause| cannot("write", &path, &cause))?;
        outcome
    }

    /// Of a whole file: what it is. One that is no image is removed.
    pub(crate) async fn finish(&self, api: &Api, id: &str, mut upload: Upload) -> Result<Upload> {
        let path = self.path(id);
        match api.engine.machines().look_at(path, &upload.name).await {
            Ok(kind) => {
                upload.kind = Some(kind.to_owned());
                self.put(id, &upload).await?;
                Ok(upload)
            }
            Err(error) => {
                self.remove(id).await?;
                Err(error)
            }
        }
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete("uploads", id);
        self.commit(batch).await?;
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", &path, &cause)),
            _ => Ok(()),
        }
    }

    /// The file that `upload:<id>` names, whole; `None`: it names a file of the host.
    pub(crate) fn named(&self, who: &Who, source: &Path) -> Result<Option<PathBuf>> {
        let Some(id) = source.to_str().and_then(|text| text.strip_prefix(PREFIX)) else { return Ok(None) };
        let upload = self.get(who, id)?;
        match upload.kind {
            Some(_) => Ok(Some(self.path(id))),
            None => {
                let message =
                    format!("{} of {} bytes of {} are here", self.received(id), upload.size_bytes, upload.name);
                Err(Error::conflict(message).with_hint("send the rest first"))
            }
        }
    }

    /// Removes what is old, and files that no record names.
    pub(crate) async fn sweep(&self, now: i64) -> Result<()> {
        let all = self.list()?;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !all.iter().any(|(id, _)| name.to_str() == Some(id)) {
                fs::remove_file(entry.path()).map_err(|cause| cannot("remove", &entry.path(), &cause))?;
            }
        }
        for (id, upload) in all {
            let written = fs::metadata(self.path(&id)).and_then(|meta| meta.modified()).ok();
            let written = written.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let last = written.map_or(upload.created_unix_millis, |time| time.as_millis() as i64);
            if now.saturating_sub(last) > KEPT_MILLIS {
                tracing::info!(upload = id, name = upload.name, "an upload that was kept for a week is removed");
                self.remove(&id).await?;
            }
        }
        Ok(())
    }
}

impl Upload {
    pub(crate) fn is_open_to(&self, who: &Who) -> bool {
        who.role == Role::Admin || self.user == who.user
    }
}

/// Sweeps, for ever.
pub(crate) async fn run(uploads: Arc<Uploads>) {
    const EVERY: std::time::Duration = std::time::Duration::from_secs(3600);
    loop {
        if let Err(error) = uploads.sweep(now_millis()).await {
            tracing::warn!(%error, "old uploads stay");
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Arc<Uploads> {
        let store = Store::open(&folder.join("a.redb"), |_, _, record| record).unwrap();
        Arc::new(Uploads::new(store, folder))
    }

    #[test]
    fn a_disk_without_room_is_told_from_other_failures() {
        for (errno, kind) in [(28, ErrorKind::Unavailable), (122, ErrorKind::Unavailable), (5, ErrorKind::Internal)] {
            let error = cannot("write", Path::new("/x"), &std::io::Error::from_raw_os_error(errno));
            assert_eq!((error.kind, error.hint.is_some()), (kind, kind == ErrorKind::Unavailable), "{error}");
        }
    }

    fn upload(size_bytes: u64) -> Upload {
        Upload {
            name: "disk.img".to_owned(),
            size_bytes,
            user: "root".to_owned(),
            project: None,
            created_unix_millis: 0,
            kind: None,
        }
    }

    async fn send(
        uploads: &Arc<Uploads>,
        id: &str,
        of: &Upload,
        offset: u64,
        parts: &[Result<&'static str>],
    ) -> Result<()> {
        let (sender, receiver) = mpsc::channel(8);
        for part in parts {
            let part = part.as_ref().map(|text| Bytes::from_static(text.as_bytes())).map_err(Clone::clone);
            sender.send(part).await.unwrap();
        }
        drop(sender);
        uploads.take(id, of, offset, receiver).await
    }

    #[tokio::test]
    async fn what_came_before_it_broke_off_stays_and_the_rest_follows() {
        let folder = tempfile::tempdir().unwrap();
        let (uploads, of) = (open(folder.path()), upload(9));
        let id = uploads.begin(of.clone()).await.unwrap();
        let cut = send(&uploads, &id, &of, 0, &[Ok("1234"), Err(Error::invalid("cut off"))]).await;
        assert_eq!(cut.unwrap_err().message, "cut off");
        assert_eq!(uploads.received(&id), 4);
        assert!(
            send(&uploads, &id, &of, 0, &[Ok("1234")])
                .await
                .unwrap_err()
                .message
                .contains("4 bytes of disk.img are here")
        );
        assert!(uploads.named(&Who::local(), Path::new(&format!("upload:{id}"))).is_err(), "half of it is no disk");
        assert!(
            send(&uploads, &id, &of, 4, &[Ok("56"), Ok("7890")]).await.unwrap_err().message.contains("more is sent")
        );
        send(&uploads, &id, &of, 6, &[Ok("789")]).await.unwrap();
        assert_eq!(fs::read(folder.path().join("uploads").join(&id)).unwrap(), b"123456789");
        assert_eq!(uploads.named(&Who::local(), Path::new("/var/x.img")).unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_too_large_or_odd_is_refused_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = open(folder.path());
        for bad in [
            upload(0),
            upload(UPLOAD_BYTES_MAX + 1),
            upload(UPLOAD_BYTES_MAX),
            Upload { name: "a/b".to_owned(), ..upload(1) },
            Upload { name: String::new(), ..upload(1) },
        ] {
            assert!(uploads.begin(bad.clone()).await.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn old_ones_and_what_nobody_knows_go() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = open(folder.path());
        let id = uploads.begin(upload(9)).await.unwrap();
        let stray = folder.path().join("uploads/stray");
        fs::write(&stray, "x").unwrap();
        uploads.sweep(now_millis()).await.unwrap();
        assert!(!stray.exists() && uploads.list().unwrap().len() == 1);
        uploads.sweep(now_millis() + KEPT_MILLIS + 60_000).await.unwrap();
        assert_eq!(uploads.list().unwrap(), []);
        assert!(!folder.path().join("uploads").join(id).exists());
    }
}
