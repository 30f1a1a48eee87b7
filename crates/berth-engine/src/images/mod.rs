//! Images as the engine's users see them.
//!
//! ```text
//!  Images     the handle: resolve, list, load, save, tag, remove, ...
//!  catalog    which images there are and what they are called; decides, touches nothing
//!  shared     the catalog behind its lock, durable changes, cached configurations, sweeping of layers
//!  disk       layers and containers' snapshots: the crates below
//!  config     an image's configuration, JSON <-> the engine's words; changes: --change
//!  look       list, inspect, history, disk usage     manage    tag, remove, prune
//!  transfer   load, save, import, commit             bootstrap base images from packages; busybox
//!  registry   registries for this engine     pull, push     known: packed forms of layers, and where they lie
//!  remote     layers without an image: build caches
//!  send       from engine to engine, only the layers that are missing there
//!  check      layers compared with their digests
//! ```
//!
//! An image's id is the digest of its configuration. Layers are unpacked once per digest and shared. A record is
//! written after its layers are whole on the disk and deleted before they are removed: a crash leaves at most
//! layers that nobody needs, which the next engine removes when it starts. Readers never wait for transfers.

mod bootstrap;
mod built;
mod busybox;
mod catalog;
mod changes;
mod check;
mod config;
mod disk;
mod known;
mod look;
mod manage;
mod mounts;
mod pipe;
pub(crate) mod platform;
mod pull;
mod push;
mod registry;
mod remote;
mod send;
mod shared;
mod transfer;
mod types;

pub use disk::StorageDriver;
pub use pull::PullOptions;
pub use push::PushOptions;
pub use registry::{
    Credentials, Distribution, Found, Proxies, Registry, RegistryOptions, TransferMessage, TransferProgress,
    TransferStream,
};
pub use send::Offer;
pub use types::*;

pub(crate) use config::{moment, rfc3339};
pub(crate) use disk::digest_of;
pub(crate) use pipe::Source;
pub(crate) use remote::RemoteLayers;
pub(crate) use shared::Shared;

use crate::Engine;
use berth_snapshot::TreeUsage;
use berth_types::mount::Rootfs;
use berth_types::{Digest, Error, Result};
use std::sync::Arc;

/// The engine's images. `reference` is a name, an id or a unique prefix of an id everywhere.
#[derive(Clone)]
pub struct Images {
    engine: Engine,
}

/// Runs work that reads and writes files off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(Error::internal(format!("work on images ended early: {cause}"))),
    }
}

/// `1 layer`, `2 layers`
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Images {
    pub(crate) fn new(engine: Engine) -> Images {
        Images { engine }
    }

    fn shared(&self) -> Arc<Shared> {
        self.engine.image_state().clone()
    }

    /// The image that `reference` means. `No such image: x` otherwise.
    pub fn resolve(&self, reference: &str) -> Result<Resolved> {
        let shared = self.shared();
        let id = shared.catalog().find(reference)?;
        Ok(Resolved { id, defaults: shared.config(&id)?.defaults })
    }

    /// Makes the writable snapshot of container `key` on `image`; the same again answers the same.
    pub fn prepare_rootfs(&self, key: &str, image: &Digest) -> Result<Rootfs> {
        let shared = self.shared();
        let _at_work = shared.at_work();
        let record = shared.catalog().images.get(image).cloned();
        let record = record.ok_or_else(|| catalog::no_such(&image.to_string()))?;
        shared.disk.prepare(key, &record.layers)
    }

    /// `rootfs` of a container's record, with its layers' mounts as they are now.
    pub(crate) fn mounted(&self, mut rootfs: Rootfs) -> Result<Rootfs> {
        self.shared().disk.hold(&mut rootfs)?;
        Ok(rootfs)
    }

    /// The snapshot of `key` as it was prepared.
    pub fn rootfs(&self, key: &str) -> Result<Rootfs> {
        self.shared().disk.rootfs(key)
    }

    /// The image's own files, read-only.
    pub fn view(&self, image: &Digest) -> Result<Rootfs> {
        let shared = self.shared();
        let record = shared.catalog().images.get(image).cloned();
        let record = record.ok_or_else(|| catalog::no_such(&image.to_string()))?;
        Ok(shared.disk.view(&record.layers))
    }

    /// Removes the snapshot of `key`; nothing happens when there is none.
    pub fn remove_rootfs(&self, key: &str) -> Result<()> {
        self.shared().disk.remove(key)
    }

    /// Keys of all containers' snapshots, for cleaning up after a crash.
    pub fn rootfs_keys(&self) -> Result<Vec<String>> {
        self.shared().disk.keys()
    }

    /// What was written into the writable part of `key`.
    pub fn rootfs_usage(&self, key: &str) -> Result<TreeUsage> {
        self.shared().disk.usage(key)
    }

    /// The id that `reference` means now.
    pub(crate) fn id_of(&self, reference: &str) -> Option<Digest> {
        self.shared().catalog().find(reference).ok()
    }

    /// Bytes of all layers of `image`, as `ps --size` and `images` show it; 0 for one that is gone.
    pub fn size(&self, image: &Digest) -> u64 {
        self.shared().catalog().images.get(image).map_or(0, |record| record.size_bytes())
    }

    /// How new layers lie on the disk.
    pub fn storage_driver(&self) -> StorageDriver {
        self.shared().disk.driver()
    }

    /// How many images there are.
    pub fn count(&self) -> usize {
        self.shared().catalog().images.len()
    }

    /// Names of `image`, familiar form, sorted.
    pub fn names(&self, image: &Digest) -> Vec<String> {
        self.shared().catalog().familiar_names(image).0
    }
}
