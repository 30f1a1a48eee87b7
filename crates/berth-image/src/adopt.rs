//! What was written into a snapshot becomes a layer where it lies: its files are read once for their digest, and
//! moved, not copied.

use crate::changes::{Archive, settle_changes};
use crate::record;
use crate::unpack::{CommitError, UnpackError, Unpacked};
use berth_snapshot::Snapshotter;
use berth_types::Digest;
use sha2::{Digest as _, Sha256};
use std::io;

struct Adopting {
    record: record::Writer,
    hash: Sha256,
    bytes: u64,
    entries: u64,
}

impl Archive for Adopting {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content(bytes)?;
        self.record.raw(bytes)
    }

    fn begin(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.entries += 1;
        self.record.content(self.entries, path, 0, size)
    }

    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Makes a layer of what was written into snapshot `key`; `None` where there is nothing. Nobody may have the
/// snapshot mounted; nothing of it is left but its name.
pub fn adopt_changes(snapshots: &dyn Snapshotter, key: &str) -> Result<Option<Unpacked>, CommitError> {
    let mut adopted = snapshots.adopt(key).map_err(UnpackError::from)?;
    let record = adopted.record().map_err(UnpackError::from)?;
    let record = record::Writer::new(record).map_err(UnpackError::Record)?;
    let mut archive = Adopting { record, hash: Sha256::new(), bytes: 0, entries: 0 };
    if !settle_changes(adopted.files(), &mut archive)? {
        return Ok(None);
    }
    let diff_id = Digest::from_bytes(archive.hash.finalize().into());
    archive.record.finish(&[], archive.bytes, &diff_id).map_err(UnpackError::Record)?;
    let layer = adopted.finish(diff_id).map_err(UnpackError::from)?;
    Ok(Some(Unpacked { layer, diff_id, archive_bytes: archive.bytes }))
}
