//! Images as the engine's users see them.

use crate::Engine;
use berth_types::mount::Rootfs;
use berth_types::spec::ImageDefaults;
use berth_types::{Digest, Error, Result};
use std::sync::Arc;

/// The engine's images.
#[derive(Clone)]
pub struct Images {
    engine: Engine,
}

/// An image that a container can be made from.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub id: Digest,
    /// Shared with the cache: not parsed again for the next container.
    pub defaults: Arc<ImageDefaults>,
}

impl Images {
    pub(crate) fn new(engine: Engine) -> Images {
        Images { engine }
    }

    /// The image that `reference` (name, id or unique id prefix) means. `No such image: x` otherwise.
    pub fn resolve(&self, reference: &str) -> Result<Resolved> {
        let _ = &self.engine;
        Err(Error::not_found(format!("No such image: {reference}")))
    }

    /// Makes the writable snapshot of container `key` on `image`; the same again answers the same.
    pub fn prepare_rootfs(&self, key: &str, image: &Digest) -> Result<Rootfs> {
        Err(Error::not_implemented(format!("snapshot {key} of {image}")))
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
}
