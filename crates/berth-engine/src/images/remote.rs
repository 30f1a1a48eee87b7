//! Layers without an image: what build caches in registries and folders are made of.

use super::config::ImageConfig;
use super::registry::{Credentials, failed, reference};
use super::{Images, blocking, pull, push};
use berth_build::Layer;
use berth_registry::manifest::{CONFIG_BYTES_MAX, DOCKER_LAYER_GZIP};
use berth_registry::{Access, BytesSource, Descriptor, Manifest, Platform, RegistryError, Repository};
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

/// A repository that a cache lies in.
pub(crate) struct RemoteLayers {
    images: Images,
    repository: Repository,
    name: ImageName,
}

/// What an image says about its own making, and its layers.
pub(crate) struct Carried {
    pub text: String,
    pub layers: Vec<Layer>,
}

impl Images {
    pub(crate) fn remote_layers(&self, name: &ImageName, credentials: Option<Credentials>) -> RemoteLayers {
        self.repository(name, credentials, Access::Pull)
    }

    /// The same, to write to.
    pub(crate) fn cache_repository(&self, name: &ImageName, credentials: Option<Credentials>) -> RemoteLayers {
        self.repository(name, credentials, Access::Push)
    }

    fn repository(&self, name: &ImageName, credentials: Option<Credentials>, access: Access) -> RemoteLayers {
        let name = name.clone().or_latest();
        let repository = self.shared().registries.client.repository(&name, access, credentials);
        RemoteLayers { images: self.clone(), repository, name }
    }

    /// Of an image that is here.
    pub(crate) fn carried_cache(&self, reference: &str) -> Result<Carried> {
        let shared = self.shared();
        let record = shared.find(reference)?;
        let layers = record.layers.iter().zip(&record.layer_bytes);
        Ok(Carried {
            text: shared.config(&record.id)?.config.build_cache.clone(),
            layers: layers.map(|(&diff_id, &bytes)| Layer { diff_id, bytes }).collect(),
        })
    }

    /// Those of the layers that are here, with what they take on the disk. Blocks.
    pub(crate) fn layers_here(&self, wanted: Vec<Digest>) -> Result<BTreeMap<Digest, u64>> {
        let shared = self.shared();
        let mut here = BTreeMap::new();
        for layer in wanted {
            if let Some(bytes) = shared.disk.layer_bytes(&layer)? {
                here.insert(layer, bytes);
            }
        }
        Ok(here)
    }

    /// A packed layer becomes one of this engine's. Blocks.
    pub(crate) fn unpack_layer(&self, packed: File, diff_id: &Digest) -> Result<()> {
        let shared = self.shared();
        let unpacked = berth_image::unpack(shared.disk.snapshots(), std::io::BufReader::new(packed), Some(diff_id))
            .map_err(|cause| Error::because(ErrorKind::DataLoss, "it cannot be unpacked", &cause))?;
        shared.disk.commit_layers(vec![unpacked.layer])
    }

    /// A layer packed, as a registry would have it. Blocks.
    pub(crate) fn pack_layer(&self, diff_id: Digest) -> Result<(Descriptor, File)> {
        let draft = push::pack_here(&self.shared(), diff_id)?;
        let file = draft.file().map_err(|cause| {
            Error::because(ErrorKind::Internal, format!("cannot read layer {}", diff_id.short()), &cause)
        })?;
        Ok((Descriptor::new(DOCKER_LAYER_GZIP, draft.digest(), draft.size()), file))
    }
}

impl RemoteLayers {
    fn fail<T>(&self, action: &str, outcome: Result<T, RegistryError>) -> Result<T> {
        outcome.map_err(|cause| failed(action, &self.name, &cause))
    }

    /// What the name means; of an index's `entries` the host's.
    pub(crate) async fn manifest(&self, entries: Option<&[Descriptor]>) -> Result<Manifest> {
        let wanted = match entries {
            None => reference(&self.name),
            Some(entries) => {
                let chosen = berth_registry::choose(entries, &Platform::host());
                self.fail("read", chosen)?.digest.to_string()
            }
        };
        self.fail("read", self.repository.manifest(&wanted).await)
    }

    pub(crate) async fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.fail("read", self.repository.blob_bytes(descriptor, CONFIG_BYTES_MAX).await)
    }

    /// What an image's configuration says about its making.
    pub(crate) fn carried(&self, config: &[u8]) -> Result<Carried> {
        let config = ImageConfig::parse(config)?;
        let layers = config.rootfs.diff_ids.iter().map(|&diff_id| Layer { diff_id, bytes: 0 });
        Ok(Carried { text: config.build_cache.clone(), layers: layers.collect() })
    }

    /// Brings one layer here.
    pub(crate) async fn fetch(&self, descriptor: &Descriptor, diff_id: Digest) -> Result<()> {
        pull::one_layer(&self.images, &self.repository, &self.name, descriptor, diff_id).await
    }

    /// Sees to it that the repository has these layers; as what.
    pub(crate) async fn send(&self, layers: &[Digest]) -> Result<Vec<Descriptor>> {
        push::layers(&self.images, &self.repository, &self.name, layers).await
    }

    pub(crate) async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        self.fail("write", self.repository.has_blob(&descriptor.digest).await)
    }

    /// Writes a manifest and the configuration that it names.
    pub(crate) async fn put(&self, config: Vec<u8>, manifest: &Manifest) -> Result<()> {
        let (digest, size) = (super::digest_of(&config), config.len() as u64);
        let source = Arc::new(BytesSource(config.into()));
        self.fail("write", self.repository.upload(&digest, size, source, Arc::new(|_| {})).await)?;
        let tag = self.name.tag().unwrap_or(berth_types::reference::DEFAULT_TAG);
        self.fail("write", self.repository.put_manifest(tag, manifest).await)
    }
}

/// One layer made visible by whoever fetched it.
pub(super) async fn keep(
    images: &Images,
    staged: Option<berth_snapshot::StagedLayer>,
    descriptor: Descriptor,
    diff_id: Digest,
    name: ImageName,
    turn: tokio::sync::OwnedMutexGuard<()>,
) -> Result<()> {
    let images = images.clone();
    blocking(move || {
        // Ends with the work, also where nobody waits for it any more.
        let _turn = turn;
        let shared = images.shared();
        shared.disk.commit_layers(staged.into_iter().collect())?;
        if shared.disk.layer_bytes(&diff_id)?.is_none() {
            return Err(Error::internal(format!("layer {} got lost", diff_id.short())));
        }
        shared.remember_blobs(&[(diff_id, descriptor.clone())], name.domain(), name.path())?;
        if let Err(cause) = shared.disk.remove_blob(&descriptor.digest) {
            tracing::warn!(%cause, digest = %descriptor.digest, "a blob that was unpacked is still on the disk");
        }
        Ok(())
    })
    .await
}
