//! Images as the engine's users see them.

mod catalog;
mod changes;
mod config;
mod types;

pub use types::*;

use crate::Engine;
use crate::containers::{ByteSource, ByteStream};
use berth_types::mount::Rootfs;
use berth_types::{Digest, Error, ImageName, Result};

/// The engine's images. `reference` is a name, an id or a unique prefix of an id everywhere.
#[derive(Clone)]
pub struct Images {
    engine: Engine,
}

impl Images {
    pub(crate) fn new(engine: Engine) -> Images {
        Images { engine }
    }

    /// The image that `reference` means. `No such image: x` otherwise.
    pub fn resolve(&self, reference: &str) -> Result<Resolved> {
        let _ = &self.engine;
        Err(Error::not_found(format!("No such image: {reference}")))
    }

    /// Makes the writable snapshot of container `key` on `image`; the same again answers the same.
    pub fn prepare_rootfs(&self, key: &str, image: &Digest) -> Result<Rootfs> {
        Err(Error::not_implemented(format!("snapshot {key} of {image}")))
    }

    /// The snapshot of `key` as it was prepared.
    pub fn rootfs(&self, key: &str) -> Result<Rootfs> {
        Err(Error::not_implemented(format!("snapshot {key}")))
    }

    /// Removes the snapshot of `key`; nothing happens when there is none.
    pub fn remove_rootfs(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    /// Keys of all containers' snapshots, for cleaning up after a crash.
    pub fn rootfs_keys(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Bytes on disk of the writable part of `key`.
    pub fn rootfs_size(&self, _key: &str) -> Result<u64> {
        Ok(0)
    }

    /// Bytes of all layers of `image`, as `ps --size` and `images` show it.
    pub fn size(&self, image: &Digest) -> Result<u64> {
        Err(Error::not_found(format!("No such image: {image}")))
    }

    /// How many images there are.
    pub fn count(&self) -> usize {
        0
    }

    /// Names of `image`, familiar form, sorted.
    pub fn names(&self, _image: &Digest) -> Vec<String> {
        Vec::new()
    }

    /// Those that match, newest first.
    pub async fn list(&self, options: &ListOptions) -> Result<Vec<Summary>> {
        options.filters.only(&["dangling", "label", "label!", "before", "since", "reference", "until"])?;
        Ok(Vec::new())
    }

    /// Everything about it.
    pub async fn inspect(&self, reference: &str) -> Result<Inspect> {
        Err(Error::not_found(format!("No such image: {reference}")))
    }

    /// How it was made, newest step first.
    pub async fn history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        Err(Error::not_found(format!("No such image: {reference}")))
    }

    /// Gives it one more name, taking that from whichever image had it.
    pub async fn tag(&self, reference: &str, name: ImageName) -> Result<()> {
        Err(Error::not_found(format!("No such image: {reference} ({name})")))
    }

    /// Takes a name away, and the image with its last one.
    pub async fn remove(&self, reference: &str, _options: RemoveOptions) -> Result<Vec<Removed>> {
        Err(Error::not_found(format!("No such image: {reference}")))
    }

    /// Removes images without a name, or with `dangling=false` all that no container uses.
    pub async fn prune(&self, _filters: &crate::Filters) -> Result<Pruned> {
        Ok(Pruned::default())
    }

    /// Reads an archive of `save`, Docker's or OCI's layout.
    pub async fn load(&self, _archive: ByteSource, _options: LoadOptions) -> Result<ProgressStream> {
        Err(Error::not_implemented("load"))
    }

    /// The images with their layers as one archive that every engine loads.
    pub async fn save(&self, _references: &[String]) -> Result<ByteStream> {
        Err(Error::not_implemented("save"))
    }

    /// Makes an image of one layer from a file system's archive.
    pub async fn import(&self, _archive: ByteSource, _options: ImportOptions) -> Result<Digest> {
        Err(Error::not_implemented("import"))
    }

    /// Makes an image of a container as it is now.
    pub async fn commit(&self, _options: CommitOptions) -> Result<Digest> {
        Err(Error::not_implemented("commit"))
    }

    /// Makes a base image from a distribution's packages.
    pub async fn bootstrap(&self, _request: Bootstrap) -> Result<ProgressStream> {
        Err(Error::not_implemented("bootstrap"))
    }

    /// What images take on the disk.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        Ok(DiskUsage::default())
    }
}
