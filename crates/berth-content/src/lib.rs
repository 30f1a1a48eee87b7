//! Blobs by digest.
//!
//! ```text
//! content/
//!   blobs/sha256/<hex>    complete: its bytes have that digest; never changed
//!   partial/<hex>         being written, named by the digest that it is to have; renamed when it has it
//!   partial/draft-<n>     being written, to be named by the digest that comes out
//! ```
//!
//! A blob is written in pieces by one [`Ingest`] per digest. Dropping it before [`Ingest::commit`] keeps what is
//! there: the next ingest of that digest, also of the next engine, says by [`Ingest::offset`] where to go on.
//! [`Ingest::follow`] reads a blob from its beginning while it is still being written and learns of its end only
//! after the digest was found right, so a layer unpacks while it downloads and never from wrong bytes alone.
//!
//! ```no_run
//! # use berth_content::*; use std::io::Read;
//! # fn download(from: u64) -> impl Iterator<Item = Vec<u8>> { std::iter::empty() }
//! # fn example(digest: berth_types::Digest, size: u64) -> Result<(), ContentError> {
//! let blobs = Blobs::open("/var/lib/berth/content".as_ref())?;
//! let lease = blobs.lease();
//! lease.hold(&digest);
//! if blobs.get(&digest)?.is_none() {
//!     let mut ingest = blobs.ingest(&digest, Some(size))?;   // ContentError::Busy: somebody else writes it
//!     let follower = ingest.follow()?;                       // give it to the thread that unpacks
//!     for piece in download(ingest.offset()) {               // "Range: bytes=<offset>-"; or ingest.restart()
//!         ingest.write(&piece)?;
//!     }
//!     let blob = ingest.commit()?;                           // checks size and digest, fsync, rename;
//!     // or ingest.consume(), where only the follower wants the bytes
//! }
//! # Ok(()) }
//! ```
//!
//! A blob is kept while a [`Lease`] holds it or [`Blobs::collect`]'s caller needs it. Leases end with the process;
//! what a crash leaves is collected when it has not been touched for a while. Calls block on the disk; everything
//! may be used from several threads at once.
//!
//! What a blob means is not known here: manifests are `berth-image`'s.

mod collect;
mod draft;
mod follow;
mod ingest;

pub use collect::Collected;
pub use draft::Draft;
pub use follow::Follower;
pub use ingest::Ingest;

use berth_types::Digest;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A step with blobs that failed.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("cannot {action} {}", path.display())]
    Step {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{0} is being written by somebody else")]
    Busy(Digest),
    #[error("{digest} has {found} bytes instead of {expected}")]
    Size { digest: Digest, expected: u64, found: u64 },
    #[error("the bytes of {expected} have the digest {found}")]
    Digest {
        expected: Digest,
        found: Digest,
        /// Some of the bytes came from an earlier ingest: trying once more from the start may succeed.
        resumed: bool,
    },
}

pub type Result<T, E = ContentError> = std::result::Result<T, E>;

fn step(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError {
    let path = path.to_owned();
    move |cause| ContentError::Step { action, path, cause }
}

/// The blobs of one engine. Cloning costs a counter.
#[derive(Debug, Clone)]
pub struct Blobs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many leases hold a blob.
    held: HashMap<Digest, usize>,
    /// Digests that are being written.
    open: HashSet<Digest>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }
}

/// A complete blob, open for reading: it stays readable also when it is removed meanwhile.
#[derive(Debug)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub file: File,
}

impl Blobs {
    /// Opens or makes the folder.
    pub fn open(root: &Path) -> Result<Blobs> {
        let shared = Shared { root: root.to_owned(), state: Mutex::default() };
        for folder in [shared.blobs(), shared.partials()] {
            std::fs::create_dir_all(&folder).map_err(step("make", &folder))?;
        }
        draft::clean(&shared.partials())?;
        Ok(Blobs { shared: Arc::new(shared) })
    }

    /// Begins a blob whose digest comes out when it is written.
    pub fn draft(&self) -> Result<Draft> {
        Draft::begin(self.shared.clone())
    }

    /// The blob, where it is here and complete.
    pub fn get(&self, digest: &Digest) -> Result<Option<Blob>> {
        let path = self.shared.blob(digest);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata().map_err(step("stat", &path))?.len();
                Ok(Some(Blob { digest: *digest, size, file }))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(step("open", &path)(cause)),
        }
    }

    /// Begins to write a blob, or goes on where an earlier ingest of it stopped.
    pub fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Ingest> {
        Ingest::begin(self.shared.clone(), *digest, size)
    }

    /// Writes a small blob whole.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = ingest::digest_of(bytes);
        if self.get(&digest)?.is_none() {
            let mut ingest = self.ingest(&digest, Some(bytes.len() as u64))?;
            ingest.restart()?;
            ingest.write(bytes)?;
            ingest.commit()?;
        }
        Ok(digest)
    }

    /// Something to hold blobs with. Hold a digest before asking whether it is here.
    pub fn lease(&self) -> Lease {
        Lease { shared: self.shared.clone(), digests: Mutex::default() }
    }

    /// Removes a blob that no lease holds, and what there is of an unfinished one; whether it was there.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        let state = self.shared.state();
        if state.held.contains_key(digest) || state.open.contains(digest) {
            return Ok(false);
        }
        let whole = remove_file(&self.shared.blob(digest))?;
        Ok(remove_file(&self.shared.partial(digest))? || whole)
    }
}

/// Whether it was there.
fn remove_file(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(step("remove", path)(cause)),
    }
}

/// Keeps blobs from being collected until it is dropped.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    digests: Mutex<HashSet<Digest>>,
}

impl Lease {
    /// Whether the blob is here or not: one that comes later is held too.
    pub fn hold(&self, digest: &Digest) {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.insert(*digest) {
            *self.shared.state().held.entry(*digest).or_insert(0) += 1;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let digests = std::mem::take(self.digests.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut state = self.shared.state();
        for digest in digests {
            if let Some(count) = state.held.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(&digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
