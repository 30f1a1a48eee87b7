//! What all of an engine's image operations share: records, names, layers, and who is at work.

use super::catalog::{Catalog, Record};
use super::config::ImageConfig;
use super::disk::Disk;
use super::registry::Registries;
use crate::EngineConfig;
use berth_snapshot::StagedLayer;
use berth_store::{Batch, Store, StoreError};
use berth_types::spec::ImageDefaults;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tables of the store.
const IMAGES: &str = "image";
const CONFIGS: &str = "image-config";
const NAMES: &str = "image-name";

/// Parsed configurations kept for the next container; more than any host uses at a time.
const CACHED_MAX: usize = 256;

#[derive(Clone)]
pub(super) struct Cached {
    pub config: Arc<ImageConfig>,
    pub defaults: Arc<ImageDefaults>,
}

pub(crate) struct Shared {
    pub(super) store: Store,
    pub(super) disk: Disk,
    catalog: RwLock<Catalog>,
    cached: Mutex<HashMap<Digest, Cached>>,
    /// Held for reading by whoever makes or takes layers, for writing while unneeded ones are removed.
    layers: RwLock<()>,
    /// Layers may be lying around that nobody needs.
    unswept: AtomicBool,
    /// Layers that somebody needs although no image has them yet, and how many do.
    pinned: Mutex<BTreeMap<Digest, usize>>,
    pub(super) registries: Registries,
    /// The build cache, whose layers stay.
    builds: Arc<crate::builds::Shared>,
}

/// Keeps layers, those that are still to come too, until it is dropped. Unlike [`AtWork`] it may live as long as a
/// download takes.
pub(super) struct Pins {
    shared: Arc<Shared>,
    layers: Vec<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pinned = self.shared.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in &self.layers {
            if let Some(count) = pinned.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(layer);
                }
            }
        }
        drop(pinned);
        self.shared.mark_unswept();
    }
}

/// Layers that exist stay while this lives; dropping the last one removes what nobody needs.
pub(super) struct AtWork<'a> {
    shared: &'a Shared,
    guard: Option<RwLockReadGuard<'a, ()>>,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        self.shared.sweep_if_due();
    }
}

fn records_failed(cause: &StoreError) -> Error {
    Error::because(ErrorKind::Internal, "cannot keep the records of images", cause)
}

impl Shared {
    /// Reads the records and removes what a crash left on the disk. `containers` are the keys of snapshots
    /// that still belong to somebody; `None` keeps all.
    pub(crate) fn open(config: &EngineConfig, store: Store, builds: Arc<crate::builds::Shared>) -> Result<Arc<Shared>> {
        let disk = Disk::open(&config.data_root, config.storage_driver)?;
        let mut catalog = Catalog::default();
        for (key, record) in store.list::<Record>(IMAGES).map_err(|cause| records_failed(&cause))? {
            match record {
                Ok(record) => drop(catalog.images.insert(record.id, Arc::new(record))),
                Err(cause) => tracing::error!(image = key, %cause, "an image's record is damaged: left out"),
            }
        }
        for (key, id) in store.list::<Digest>(NAMES).map_err(|cause| records_failed(&cause))? {
            match (key.parse::<ImageName>(), id) {
                (Ok(name), Ok(id)) if catalog.images.contains_key(&id) => drop(catalog.names.insert(name, id)),
                _ => tracing::error!(name = key, "an image's name leads nowhere: left out"),
            }
        }
        let shared = Arc::new(Shared {
            store,
            disk,
            catalog: RwLock::new(catalog),
            cached: Mutex::default(),
            layers: RwLock::new(()),
            unswept: AtomicBool::new(true),
            pinned: Mutex::default(),
            registries: Registries::open(config)?,
            builds,
        });
        let needed = shared.catalog().images.values().flat_map(|record| record.layers.iter().copied()).collect();
        shared.forget_blobs(&needed)?;
        // An engine answers before half a gigabyte of small files is gone.
        let retired = shared.retire_if_due();
        if !retired.is_empty() {
            drop(std::thread::Builder::new().name("remove-layers".to_owned()).spawn(move || drop(retired)));
        }
        Ok(shared)
    }

    pub(super) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes of the catalog go through [`Shared::change`]: what is on the disk comes first.
    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn at_work(&self) -> AtWork<'_> {
        AtWork { shared: self, guard: Some(self.layers.read().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// Removes every layer that no image and no container's snapshot needs, unless somebody is at work with
    /// layers: then they do it when they are done.
    pub(super) fn sweep_if_due(&self) {
        drop(self.retire_if_due());
    }

    /// The same, with the files still to be removed: that takes its time and needs no lock.
    fn retire_if_due(&self) -> Vec<berth_snapshot::Retired> {
        if !self.unswept.load(Ordering::Acquire) {
            return Vec::new();
        }
        let Ok(_alone) = self.layers.try_write() else { return Vec::new() };
        if !self.unswept.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut needed: BTreeSet<Digest> =
            self.catalog().images.values().flat_map(|record| record.layers.iter().copied()).collect();
        needed.extend(self.pinned.lock().unwrap_or_else(PoisonError::into_inner).keys());
        needed.extend(self.builds.layers());
        self.disk.sweep(&needed).unwrap_or_else(|cause| {
            tracing::warn!(%cause, "layers that nobody needs are still on the disk");
            Vec::new()
        })
    }

    /// Keeps `layers` from being swept. Waits for a sweep that is going on: what is there afterwards stays.
    pub(super) fn pin(shared: &Arc<Shared>, layers: Vec<Digest>) -> Pins {
        let _no_sweep = shared.layers.read().unwrap_or_else(PoisonError::into_inner);
        let mut pinned = shared.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in &layers {
            *pinned.entry(*layer).or_insert(0) += 1;
        }
        drop(pinned);
        Pins { shared: shared.clone(), layers }
    }

    /// Takes a damaged layer out of sight; `false` where containers stand on it.
    pub(super) fn set_aside(&self, layer: &Digest) -> Result<bool> {
        let alone = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        let retired = self.disk.set_aside(layer)?;
        drop(alone);
        Ok(retired.is_some())
    }

    /// Puts a whole layer where the damaged one of its name is, whoever stands on that.
    pub(super) fn mend(&self, layer: &Digest, whole: StagedLayer) -> Result<()> {
        let _alone = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        self.disk.mend(layer, whole)
    }

    /// Says that layers may have become unneeded.
    pub(super) fn mark_unswept(&self) {
        self.unswept.store(true, Ordering::Release);
    }

    /// Configuration of `id`, parsed once.
    pub(super) fn config(&self, id: &Digest) -> Result<Cached> {
        let lock = || self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = lock().get(id) {
            return Ok(cached.clone());
        }
        let config = ImageConfig::parse(self.config_bytes(id)?.as_bytes())?;
        let cached = Cached { defaults: Arc::new(config.defaults(*id)?), config: Arc::new(config) };
        let mut all = lock();
        if all.len() >= CACHED_MAX {
            all.clear();
        }
        all.insert(*id, cached.clone());
        Ok(cached)
    }

    /// The configuration's bytes, whose digest is the id.
    pub(super) fn config_bytes(&self, id: &Digest) -> Result<String> {
        let text: Option<String> = self.store.get(CONFIGS, &id.hex()).map_err(|cause| records_failed(&cause))?;
        text.ok_or_else(|| Error::internal(format!("the configuration of image {} is missing", id.short())))
    }

    pub(super) fn find(&self, reference: &str) -> Result<Arc<Record>> {
        let catalog = self.catalog();
        let id = catalog.find(reference)?;
        catalog.images.get(&id).cloned().ok_or_else(|| super::catalog::no_such(reference))
    }

    /// Makes a change durable, then visible. `decide` sees the catalog as it is and says what becomes of it;
    /// changes happen one at a time.
    pub(super) fn change<T>(&self, decide: impl FnOnce(&Catalog, &mut Changes) -> Result<T>) -> Result<T> {
        let mut catalog = self.catalog_mut();
        let mut changes = Changes::default();
        let answer = decide(&catalog, &mut changes)?;
        let is_here = |id| catalog.images.contains_key(id) || changes.images.iter().any(|(record, _)| record.id == *id);
        debug_assert!(changes.names.iter().all(|(_, id)| is_here(id)), "a name leads nowhere");
        let mut batch = Batch::new();
        let put = |batch: &mut Batch, changes: &Changes| -> Result<(), StoreError> {
            for (record, config) in &changes.images {
                batch.put(IMAGES, &record.id.hex(), &**record)?;
                if let Some(config) = config {
                    batch.put(CONFIGS, &record.id.hex(), config)?;
                }
            }
            for (name, id) in &changes.names {
                batch.put(NAMES, &name.to_string(), id)?;
            }
            Ok(())
        };
        put(&mut batch, &changes).map_err(|cause| records_failed(&cause))?;
        for name in &changes.untagged {
            batch.delete(NAMES, &name.to_string());
        }
        for id in &changes.deleted {
            batch.delete(IMAGES, &id.hex());
            batch.delete(CONFIGS, &id.hex());
        }
        if batch.is_empty() {
            return Ok(answer);
        }
        self.store.commit(batch).map_err(|cause| records_failed(&cause))?;
        for name in changes.untagged {
            catalog.names.remove(&name);
        }
        for id in changes.deleted {
            catalog.images.remove(&id);
            self.cached.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            self.mark_unswept();
        }
        for (record, _) in changes.images {
            catalog.images.insert(record.id, record);
        }
        catalog.names.extend(changes.names);
        Ok(answer)
    }
}

/// What one change does; names given last win.
#[derive(Default)]
pub(super) struct Changes {
    /// New or changed records; a new one comes with its configuration.
    pub images: Vec<(Arc<Record>, Option<String>)>,
    pub names: Vec<(ImageName, Digest)>,
    pub untagged: Vec<ImageName>,
    pub deleted: Vec<Digest>,
}
