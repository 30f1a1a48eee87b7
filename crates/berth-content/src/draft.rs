//! A blob whose digest is known only when it is written.

use super::follow::{Follower, Outcome, Progress};
use super::{Blob, Result, Shared, step};
use berth_types::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a draft's file is called; no digest, so nobody takes it for an unfinished blob.
const PREFIX: &str = "draft-";

/// Bytes on their way to becoming a blob. Dropping it removes them.
#[derive(Debug)]
pub struct Draft {
    shared: Arc<Shared>,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    sealed: bool,
    progress: Arc<Progress>,
}

/// Removes what an earlier engine left.
pub(super) fn clean(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(step("read", folder))? {
        let path = entry.map_err(step("read", folder))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX)) {
            super::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Draft {
    pub(super) fn begin(shared: Arc<Shared>) -> Result<Draft> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = shared.partials().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(step("make", &path))?;
        Ok(Draft { shared, path, file, hash: Sha256::new(), size: 0, sealed: false, progress: Arc::default() })
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// What was written, for reading; it stays readable when the draft is dropped.
    pub fn file(&self) -> Result<File> {
        File::open(&self.path).map_err(step("open", &self.path))
    }

    /// Reads it from its beginning, waiting for what is still to be written until [`Draft::end`]; what was written stays
    /// readable when the draft is dropped.
    pub fn follow(&self) -> Result<Follower> {
        Follower::open(&self.path, self.progress.clone())
    }

    /// Nothing more will be written: readers come to the end.
    pub fn end(&self) {
        self.progress.set(self.size, Outcome::Whole);
    }

    /// Makes it a blob, durably.
    pub fn seal(mut self) -> Result<Blob> {
        let digest = self.digest();
        self.file.sync_all().map_err(step("sync", &self.path))?;
        let path = self.shared.blob(&digest);
        std::fs::rename(&self.path, &path).map_err(step("rename", &self.path))?;
        self.sealed = true;
        let folder = self.shared.blobs();
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(step("sync", &folder))?;
        let file = File::open(&path).map_err(step("open", &path))?;
        Ok(Blob { digest, size: self.size, file })
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        self.progress.set(self.size, Outcome::Open);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.progress.abandon();
        if !self.sealed {
            // What stays is removed when the folder is opened next.
            drop(std::fs::remove_file(&self.path));
        }
    }
}
