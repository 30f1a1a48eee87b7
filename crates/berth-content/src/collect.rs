//! Which blobs go.

use super::{Blobs, Result, Shared, remove_file, step};
use berth_types::Digest;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub removed: usize,
    pub bytes: u64,
}

impl Blobs {
    /// Removes blobs and unfinished ingests that no lease holds, that `needed` does not want, and that nobody has
    /// written for `idle`. With `Duration::ZERO` age does not count.
    pub fn collect(&self, needed: impl Fn(&Digest) -> bool, idle: Duration) -> Result<Collected> {
        let mut done = Collected::default();
        for folder in [self.shared.blobs(), self.shared.partials()] {
            for entry in std::fs::read_dir(&folder).map_err(step("read", &folder))? {
                let path = entry.map_err(step("read", &folder))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                // Nothing of ours has another name: it is a stranger's, or a mistake, and never read.
                let Ok(digest) = Digest::from_hex(name) else { continue };
                collect_one(&self.shared, &path, &digest, &needed, idle, &mut done)?;
            }
        }
        Ok(done)
    }

    /// Bytes on the disk of all blobs, unfinished ones too.
    pub fn disk_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        for folder in [self.shared.blobs(), self.shared.partials()] {
            for entry in std::fs::read_dir(&folder).map_err(step("read", &folder))? {
                // One that is gone since takes nothing.
                bytes += entry.and_then(|entry| entry.metadata()).map_or(0, |meta| meta.blocks() * 512);
            }
        }
        Ok(bytes)
    }

    /// Complete blobs whose bytes do not have their digest.
    pub fn damaged(&self) -> Result<Vec<Digest>> {
        let mut damaged = Vec::new();
        let mut buffer = vec![0; 256 << 10];
        for digest in self.digests()? {
            // One that is gone since is not damaged.
            let Some(blob) = self.get(&digest)? else { continue };
            let found = super::ingest::digest_of_file(blob.file, &mut buffer);
            if found.map_err(step("read", &self.shared.blob(&digest)))? != digest {
                damaged.push(digest);
            }
        }
        Ok(damaged)
    }

    /// Digests of the complete blobs.
    pub fn digests(&self) -> Result<HashSet<Digest>> {
        let folder = self.shared.blobs();
        let entries = std::fs::read_dir(&folder).map_err(step("read", &folder))?;
        let name = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        Ok(entries.filter_map(name).filter_map(|name| Digest::from_hex(&name).ok()).collect())
    }
}

fn collect_one(
    shared: &Shared,
    path: &Path,
    digest: &Digest,
    needed: &impl Fn(&Digest) -> bool,
    idle: Duration,
    done: &mut Collected,
) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(step("stat", path)(cause)),
    };
    // A clock that went back makes a file look new: it stays a little longer.
    let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
    // The lock is held over the removal: nobody begins to use it in between.
    let state = shared.state();
    if age < idle || state.held.contains_key(digest) || state.open.contains(digest) || needed(digest) {
        return Ok(());
    }
    if remove_file(path)? {
        done.removed += 1;
        done.bytes += meta.blocks() * 512;
    }
    Ok(())
}
