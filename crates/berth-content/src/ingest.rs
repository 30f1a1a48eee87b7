//! Writing one blob in pieces.
//!
//! ```text
//!  ingest(digest) --> partial/<hex>, exclusive --write*--> commit: size, digest, fsync, rename, fsync of the folder
//!                        |                         |
//!                        '-- offset(): what an     '-- drop: the bytes stay for the next ingest
//!                            earlier one left          wrong size or digest: they go
//! ```

use super::follow::{Follower, Outcome, Progress};
use super::{Blob, ContentError, Result, Shared, remove_file, step};
use berth_types::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

pub(super) fn digest_of_file(mut file: File, buffer: &mut [u8]) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

/// One blob on its way in. There is one at a time for each digest.
#[derive(Debug)]
pub struct Ingest {
    shared: Arc<Shared>,
    digest: Digest,
    size: Option<u64>,
    path: PathBuf,
    file: File,
    hash: Sha256,
    offset: u64,
    /// The bytes before it were there already.
    resumed_at: u64,
    progress: Arc<Progress>,
}

impl Ingest {
    pub(super) fn begin(shared: Arc<Shared>, digest: Digest, size: Option<u64>) -> Result<Ingest> {
        if !shared.state().open.insert(digest) {
            return Err(ContentError::Busy(digest));
        }
        let path = shared.partial(&digest);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match open {
            Ok(file) => file,
            Err(cause) => {
                shared.state().open.remove(&digest);
                return Err(step("open", &path)(cause));
            }
        };
        let mut ingest = Ingest {
            shared,
            digest,
            size,
            path,
            file,
            hash: Sha256::new(),
            offset: 0,
            resumed_at: 0,
            progress: Arc::default(),
        };
        ingest.read_what_is_there()?;
        Ok(ingest)
    }

    fn read_what_is_there(&mut self) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.hash.update(&buffer[..count]);
                    self.offset += count as u64;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(step("read", &self.path)(cause)),
            }
        }
        // More than there can be: it is no beginning of this blob.
        if self.size.is_some_and(|size| self.offset > size) {
            return self.restart();
        }
        self.resumed_at = self.offset;
        self.progress.set(self.offset, Outcome::Open);
        Ok(())
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes are there: the next one written is this one.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets what is there, where the source cannot go on in the middle. Before the first [`Ingest::follow`]'s
    /// reader has begun: it would read the old bytes.
    pub fn restart(&mut self) -> Result<()> {
        let rewind = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            io::Seek::rewind(file)
        };
        rewind(&mut self.file).map_err(step("empty", &self.path))?;
        self.hash = Sha256::new();
        (self.offset, self.resumed_at) = (0, 0);
        self.progress.set(0, Outcome::Open);
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let found = self.offset + bytes.len() as u64;
        if let Some(expected) = self.size
            && found > expected
        {
            return Err(ContentError::Size { digest: self.digest, expected, found });
        }
        if let Err(cause) = self.file.write_all(bytes) {
            // Part of the piece may have been written: back to what the hash has seen.
            let back = self.file.set_len(self.offset);
            let seek = io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.offset));
            drop((back, seek));
            return Err(step("write", &self.path)(cause));
        }
        self.hash.update(bytes);
        self.offset = found;
        self.progress.set(found, Outcome::Open);
        Ok(())
    }

    /// Reads the blob from its beginning, waiting for what is still to be written.
    pub fn follow(&self) -> Result<Follower> {
        Follower::open(&self.path, self.progress.clone())
    }

    /// Checks size and digest and makes it a blob, durably. Wrong bytes are removed.
    pub fn commit(self) -> Result<Blob> {
        let checked = self.check();
        if let Err(error) = checked {
            remove_file(&self.path)?;
            return Err(error);
        }
        self.file.sync_all().map_err(step("sync", &self.path))?;
        let path = self.shared.blob(&self.digest);
        std::fs::rename(&self.path, &path).map_err(step("rename", &self.path))?;
        let folder = self.shared.blobs();
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(step("sync", &folder))?;
        self.progress.set(self.offset, Outcome::Whole);
        let file = File::open(&path).map_err(step("open", &path))?;
        Ok(Blob { digest: self.digest, size: self.offset, file })
    }

    /// Checks size and digest, tells the followers, and keeps nothing: for bytes that were wanted only on their way
    /// to somewhere else. Nothing is synced; the followers read on.
    pub fn consume(self) -> Result<()> {
        let checked = self.check();
        if checked.is_ok() {
            self.progress.set(self.offset, Outcome::Whole);
        }
        remove_file(&self.path)?;
        checked
    }

    /// Checks size and digest, tells the followers, and leaves the bytes as an unfinished ingest: for bytes that are
    /// wanted until something else is durable. The next ingest of the digest finds them; [`Blobs::remove`] ends them.
    ///
    /// [`Blobs::remove`]: crate::Blobs::remove
    pub fn park(self) -> Result<()> {
        if let Err(error) = self.check() {
            remove_file(&self.path)?;
            return Err(error);
        }
        self.progress.set(self.offset, Outcome::Whole);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if let Some(expected) = self.size
            && expected != self.offset
        {
            return Err(ContentError::Size { digest: self.digest, expected, found: self.offset });
        }
        let found = Digest::from_bytes(self.hash.clone().finalize().into());
        match found == self.digest {
            true => Ok(()),
            false => Err(ContentError::Digest { expected: self.digest, found, resumed: self.resumed_at > 0 }),
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.progress.abandon();
        self.shared.state().open.remove(&self.digest);
    }
}
