//! What builds need of images: states of layers, snapshots on them, and an image of what was built.

use super::Images;
use super::catalog::Record;
use super::config::{ImageConfig, Layers, Step, host_architecture, rfc3339};
use super::disk::{self, Layer, Loaded};
use berth_build::platform::Platform;
use berth_build::{BaseImage, Built, History};
use berth_types::mount::Rootfs;
use berth_types::{Digest, ErrorKind, ImageName, Result};

/// BuildKit's word for "now" where nothing says when.
const NOBODY_SAID: i64 = 0;

impl Images {
    /// An image of this engine as the beginning of a stage.
    pub(crate) fn base(&self, reference: &str) -> Result<BaseImage> {
        let shared = self.shared();
        let record = shared.find(reference)?;
        let config = shared.config(&record.id)?.config;
        let layers = record.layers.iter().zip(&record.layer_bytes);
        let history = config.history.iter().map(|step| History {
            created_unix_nanos: Some(step.created_unix_nanos()).filter(|nanos| *nanos != NOBODY_SAID),
            created_by: step.created_by.clone(),
            comment: step.comment.clone(),
            author: step.author.clone(),
            empty_layer: step.empty_layer,
        });
        Ok(BaseImage {
            id: Some(record.id),
            config: config.inner()?,
            platform: Platform {
                os: config.os.clone(),
                architecture: match config.architecture.as_str() {
                    "" => host_architecture().to_owned(),
                    architecture => architecture.to_owned(),
                },
                variant: config.variant.clone(),
            },
            author: config.author.clone(),
            layers: layers.map(|(&diff_id, &bytes)| berth_build::Layer { diff_id, bytes }).collect(),
            history: history.collect(),
        })
    }

    /// A writable snapshot on `layers`.
    pub(crate) fn prepare_state(&self, key: &str, layers: &[berth_build::Layer]) -> Result<Rootfs> {
        let ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        self.shared().disk.prepare(key, &ids)
    }

    /// The files of `layers`, read-only.
    pub(crate) fn view_state(&self, layers: &[berth_build::Layer]) -> Rootfs {
        let ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        self.shared().disk.view(&ids)
    }

    /// What was written into snapshot `key` becomes a layer, without a copy; the snapshot is gone afterwards.
    /// `None` where nothing was written. `hold` is called before anybody could take the layer for unneeded.
    pub(crate) fn commit_state(
        &self,
        key: &str,
        hold: &dyn Fn(&berth_build::Layer),
    ) -> Result<Option<berth_build::Layer>> {
        let shared = self.shared();
        let at_work = shared.at_work();
        let layer = shared.disk.adopt(key)?;
        let layer = layer.map(|layer| berth_build::Layer { diff_id: layer.diff_id, bytes: layer.bytes });
        if let Some(layer) = &layer {
            hold(layer);
        }
        drop(at_work);
        shared.disk.remove(key)?;
        Ok(layer)
    }

    /// Records what was built; `build_cache` is what its configuration says of that. The same again is the same image.
    pub(crate) fn add_built(
        &self,
        built: &Built,
        build_cache: String,
        names: Vec<ImageName>,
        now: i64,
    ) -> Result<Digest> {
        let config = config_of(built, build_cache, now)?;
        let ids: Vec<Digest> = built.layers.iter().map(|layer| layer.diff_id).collect();
        // What a cache elsewhere said of a layer's size is not what it takes here.
        let here = self.layers_here(ids)?;
        let bytes = |layer: &berth_build::Layer| here.get(&layer.diff_id).copied().unwrap_or(layer.bytes);
        let layers = built.layers.iter().map(|layer| Layer { diff_id: layer.diff_id, bytes: bytes(layer) }).collect();
        let id = disk::digest_of(&config);
        for name in &names {
            self.event("tag", &id, &name.familiar());
        }
        self.add(Loaded { config, layers, names, parent: None }, now)
    }

    /// Layers that images stand on.
    pub(crate) fn needed_layers(&self) -> std::collections::BTreeSet<Digest> {
        let shared = self.shared();
        let catalog = shared.catalog();
        catalog.images.values().flat_map(|record: &std::sync::Arc<Record>| record.layers.iter().copied()).collect()
    }

    /// Layers may have become unneeded: they go now, or with the last who is at work.
    pub(crate) fn sweep_layers(&self) {
        let shared = self.shared();
        shared.mark_unswept();
        shared.sweep_if_due();
    }
}

fn config_of(built: &Built, build_cache: String, now: i64) -> Result<Vec<u8>> {
    let epoch = built.epoch_seconds.map(|seconds| seconds.saturating_mul(1_000_000_000));
    let newest = built.history.iter().rev().find_map(|step| step.created_unix_nanos);
    let step = |step: &History| Step {
        created: step.created_unix_nanos.map(rfc3339).unwrap_or_default(),
        author: step.author.clone(),
        created_by: step.created_by.clone(),
        comment: step.comment.clone(),
        empty_layer: step.empty_layer,
    };
    let mut config = ImageConfig {
        architecture: built.platform.architecture.clone(),
        author: built.author.clone(),
        created: rfc3339(epoch.or(newest).unwrap_or(now)),
        history: built.history.iter().map(step).collect(),
        os: built.platform.os.clone(),
        rootfs: Layers {
            kind: "layers".to_owned(),
            diff_ids: built.layers.iter().map(|layer| layer.diff_id).collect(),
        },
        variant: built.platform.variant.clone(),
        build_cache,
        ..ImageConfig::default()
    };
    config.set_inner(&built.config);
    if built.layers.len() > super::config::LAYERS_MAX {
        return Err(berth_types::Error::new(
            ErrorKind::InvalidArgument,
            format!("the image would have more than {} layers", super::config::LAYERS_MAX),
        ));
    }
    Ok(config.to_bytes())
}
