//! A snapshot's upper folder becomes a layer's files by a rename.

use super::is_missing;
use crate::layer::{AdoptedLayer, StagedLayer, Temporary};
use crate::{Result, SnapshotError, make_folder, step};
use berth_sys::disk_usage::disk_bytes;
use berth_types::Digest;
use rustix::fs::{Gid, Mode, Uid};
use std::fs::File;
use std::path::{Path, PathBuf};

pub(super) struct Adopted {
    folder: Temporary,
    files: PathBuf,
}

impl Adopted {
    /// Moves `upper` of snapshot `key` into the new folder `path`.
    pub(super) fn take(key: &str, upper: &Path, path: PathBuf) -> Result<Adopted> {
        make_folder(&path)?;
        let folder = Temporary { path, kept: false };
        let files = folder.path.join("fs");
        std::fs::rename(upper, &files).map_err(|cause| match is_missing(&cause) {
            true => SnapshotError::NoSnapshot(key.to_owned()),
            false => step("rename", upper)(cause),
        })?;
        // The archive has no entry for the top: what was done to it is no part of the layer.
        rustix::fs::chown(&files, Some(Uid::ROOT), Some(Gid::ROOT))
            .and_then(|()| rustix::fs::chmod(&files, Mode::from_raw_mode(0o755)))
            .map_err(|errno| step("change the rights of", &files)(errno.into()))?;
        Ok(Adopted { folder, files })
    }
}

impl AdoptedLayer for Adopted {
    fn files(&self) -> &Path {
        &self.files
    }

    fn record(&mut self) -> Result<File> {
        let path = self.folder.path.join("record");
        File::create(&path).map_err(step("create", &path))
    }

    fn finish(self: Box<Self>, id: Digest) -> Result<StagedLayer> {
        let path = self.folder.path.join("bytes");
        // With the block that this file itself takes.
        let bytes = disk_bytes(&self.folder.path) + 4096;
        std::fs::write(&path, bytes.to_string()).map_err(step("write", &path))?;
        Ok(StagedLayer { id, bytes, folder: self.folder })
    }
}
