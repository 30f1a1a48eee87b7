//! What steps came to, kept across builds and restarts.
//!
//! ```text
//!  store, table build-cache   key -> layer, when made, what for
//!  held                       layers of running builds that no record names yet
//!  used                       when each was needed last, in memory; the record's time after a restart
//! ```
//!
//! A record keeps its layer from being swept. Past the budget the records that were not needed for longest go.

use super::{CacheEntry, CacheKind};
use berth_build::{Known, Layer};
use berth_store::{Batch, Store};
use berth_types::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const TABLE: &str = "build-cache";
/// More records than this are never kept: each costs memory.
const RECORDS_MAX: usize = 100_000;
/// What cached layers may take when nobody says otherwise.
pub(crate) const BUDGET_BYTES: u64 = 20 << 30;
/// What is written for people about a step.
const WHAT_CHARS_MAX: usize = 200;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub known: Known,
    pub what: String,
    #[serde(default)]
    pub used_unix_nanos: i64,
}

#[derive(Default)]
struct Inner {
    records: BTreeMap<Digest, Record>,
    held: BTreeMap<Digest, usize>,
}

pub(crate) struct Cache {
    store: Store,
    inner: Mutex<Inner>,
}

/// Layers that stay while this lives.
pub(crate) struct Held {
    cache: Arc<Cache>,
    layers: Mutex<Vec<Digest>>,
}

impl Cache {
    pub(crate) fn open(store: Store) -> Result<Arc<Cache>> {
        let failed =
            |cause: berth_store::StoreError| Error::because(ErrorKind::DataLoss, "cannot read the build cache", &cause);
        let mut inner = Inner::default();
        for (key, record) in store.list::<Record>(TABLE).map_err(failed)? {
            // A damaged record costs one step, done again.
            if let (Ok(key), Ok(record)) = (Digest::from_hex(&key), record) {
                inner.records.insert(key, record);
            }
        }
        Ok(Arc::new(Cache { store, inner: Mutex::new(inner) }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Layers that records and running builds need.
    pub(crate) fn layers(&self) -> BTreeSet<Digest> {
        let inner = self.inner();
        let of_records = inner.records.values().filter_map(|record| record.known.layer);
        of_records.map(|layer| layer.diff_id).chain(inner.held.keys().copied()).collect()
    }

    pub(crate) fn lookup(&self, key: &Digest) -> Option<Known> {
        let mut inner = self.inner();
        let record = inner.records.get_mut(key)?;
        record.used_unix_nanos = crate::events::now_unix_nanos();
        Some(record.known)
    }

    /// Written behind: losing it costs one step, done again.
    pub(crate) fn remember(&self, key: &Digest, known: Known, what: &str) {
        let record = Record {
            known,
            what: what.chars().take(WHAT_CHARS_MAX).collect(),
            used_unix_nanos: known.created_unix_nanos,
        };
        let mut batch = Batch::new();
        if let Err(error) = batch.put(TABLE, &key.hex(), &record) {
            return tracing::error!(%error, "a step's result is not kept");
        }
        {
            let mut inner = self.inner();
            if inner.records.len() >= RECORDS_MAX {
                return;
            }
            inner.records.insert(*key, record);
        }
        self.store.submit(batch, |result| {
            if let Err(error) = result {
                tracing::error!(%error, "a step's result is not kept");
            }
        });
    }

    /// Removes records until what only the cache keeps fits `budget_bytes`, those not needed for longest first;
    /// 0 with `all` for everything. Answers the keys that went and the bytes that only they kept.
    pub(crate) fn evict(
        &self,
        budget_bytes: u64,
        needed: &BTreeSet<Digest>,
        only: &dyn Fn(&Record) -> bool,
    ) -> (Vec<Digest>, u64) {
        let mut inner = self.inner();
        let mut total: u64 = 0;
        let mut users: BTreeMap<Digest, (usize, u64)> = BTreeMap::new();
        for layer in inner.records.values().filter_map(|record| record.known.layer) {
            let entry = users.entry(layer.diff_id).or_insert((0, layer.bytes));
            entry.0 += 1;
            if entry.0 == 1 && !needed.contains(&layer.diff_id) {
                total += layer.bytes;
            }
        }
        let mut order: Vec<(i64, Digest)> = inner
            .records
            .iter()
            .filter(|(_, record)| only(record))
            .map(|(key, record)| (record.used_unix_nanos, *key))
            .collect();
        order.sort();
        let (mut gone, mut freed) = (Vec::new(), 0);
        let mut batch = Batch::new();
        for (_, key) in order {
            if budget_bytes > 0 && total <= budget_bytes {
                break;
            }
            let Some(record) = inner.records.remove(&key) else { continue };
            batch.delete(TABLE, &key.hex());
            gone.push(key);
            if let Some(entry) = record.known.layer.and_then(|layer| users.get_mut(&layer.diff_id)) {
                entry.0 -= 1;
                let layer = record.known.layer.map(|layer| layer.diff_id);
                if entry.0 == 0 && layer.is_none_or(|layer| !needed.contains(&layer)) {
                    total = total.saturating_sub(entry.1);
                    freed += entry.1;
                }
            }
        }
        drop(inner);
        self.store.submit(batch, |result| {
            if let Err(error) = result {
                tracing::error!(%error, "the build cache was not cleaned");
            }
        });
        (gone, freed)
    }

    /// What is kept, for people: a layer once, under the key that was needed last.
    pub(crate) fn entries(&self, needed: &BTreeSet<Digest>) -> Vec<CacheEntry> {
        let inner = self.inner();
        let mut layers: BTreeMap<Digest, CacheEntry> = BTreeMap::new();
        let mut all = Vec::new();
        for (key, record) in &inner.records {
            let layer = record.known.layer;
            let is = |set: &dyn Fn(&Digest) -> bool| layer.is_some_and(|layer| set(&layer.diff_id));
            let entry = CacheEntry {
                id: *key,
                kind: CacheKind::Step,
                description: record.what.clone(),
                bytes: layer.map_or(0, |layer| layer.bytes),
                created_unix_nanos: record.known.created_unix_nanos,
                used_unix_nanos: record.used_unix_nanos,
                shared: is(&|id| needed.contains(id)),
                in_use: is(&|id| inner.held.contains_key(id)),
            };
            match layer {
                None => all.push(entry),
                Some(layer) => match layers.get(&layer.diff_id) {
                    Some(other) if other.used_unix_nanos >= entry.used_unix_nanos => {}
                    _ => drop(layers.insert(layer.diff_id, entry)),
                },
            }
        }
        all.extend(layers.into_values());
        all.sort_by_key(|entry| (entry.created_unix_nanos, entry.id));
        all
    }

    pub(crate) fn hold(self: &Arc<Cache>) -> Held {
        Held { cache: self.clone(), layers: Mutex::default() }
    }
}

impl Held {
    pub(crate) fn add(&self, layer: &Layer) {
        *self.cache.inner().held.entry(layer.diff_id).or_default() += 1;
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).push(layer.diff_id);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.cache.inner();
        for layer in self.layers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(count) = inner.held.get_mut(&layer) {
                *count -= 1;
                if *count == 0 {
                    inner.held.remove(&layer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let open = || Store::open(&path, |_, _, record| record).unwrap();
        let digest = |byte| Digest::from_bytes([byte; 32]);
        let known =
            |byte, at| Known { layer: Some(Layer { diff_id: digest(byte), bytes: 10 }), created_unix_nanos: at };
        {
            let cache = Cache::open(open()).unwrap();
            cache.remember(&digest(1), known(11, 1), "RUN one");
            cache.remember(&digest(2), known(12, 2), "RUN two");
            cache.remember(&digest(3), Known { layer: None, created_unix_nanos: 3 }, "WORKDIR /");
        }
        let cache = Cache::open(open()).unwrap();
        assert_eq!(cache.lookup(&digest(1)), Some(known(11, 1)));
        assert_eq!(cache.layers().len(), 2);
        // The first was needed just now, so the second goes.
        let (gone, freed) = cache.evict(10, &BTreeSet::new(), &|_| true);
        assert_eq!((gone, freed), (vec![digest(2)], 10));
        let held = cache.hold();
        held.add(&Layer { diff_id: digest(20), bytes: 1 });
        assert!(cache.layers().contains(&digest(20)));
        drop(held);
        assert!(!cache.layers().contains(&digest(20)));
        assert_eq!(cache.evict(0, &BTreeSet::new(), &|_| true).0.len(), 2);
    }
}
