//! The text of a cache for elsewhere: BuildKit's cache configuration, version 0, with our keys in it.
//!
//! ```text
//!  {"layers":  [{"blob": packed layer, "parent": index or -1, "annotations": {"diffID", "mediaType", "size"}}],
//!   "records": [{"digest": key, "layers": [{"layer": index, "createdAt"}]},           the step added this layer
//!               {"digest": key, "chains": [{"layers": [], "createdAt"}]},             it changed no file
//!               {"digest": key, "berth": {"diffID", "size", "createdAt"}}]}           a layer known by name alone
//! ```
//!
//! Registries and tools that know BuildKit's caches know these. BuildKit's keys are digests of its own graph, ours of
//! what steps can see, so each engine takes nothing from the other's records, and neither is confused by them. In an
//! image (`moby.buildkit.cache.v0`) there are the records alone: indexes are those of the image's layers.

use crate::images::{moment, rfc3339};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_build::{CacheRecord, Known, Layer};
use berth_types::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// More records are no build's: each costs memory.
const RECORDS_MAX: usize = 50_000;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CacheConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<CacheLayer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Record>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CacheLayer {
    pub blob: String,
    pub parent: i64,
    pub annotations: Annotations,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Annotations {
    pub media_type: String,
    #[serde(rename = "diffID")]
    pub diff_id: String,
    pub size: u64,
    pub created_at: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    #[serde(rename = "layers", skip_serializing_if = "Vec::is_empty")]
    results: Vec<Place>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chains: Vec<Chain>,
    digest: String,
    #[serde(rename = "berth", skip_serializing_if = "Option::is_none")]
    named: Option<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    layer: usize,
    created_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chain {
    layers: Vec<usize>,
    created_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(rename = "diffID")]
    diff_id: Digest,
    size: u64,
    created_at: String,
}

/// The records, where layer `x` has index `places[x]`.
pub(super) fn records(of: &[CacheRecord], places: &BTreeMap<Digest, usize>, epoch_seconds: Option<i64>) -> Vec<Record> {
    let epoch = epoch_seconds.map(|seconds| seconds.saturating_mul(1_000_000_000));
    let mut seen = BTreeSet::new();
    let mut all: Vec<Record> = Vec::new();
    for record in of.iter().filter(|record| seen.insert(record.key)).take(RECORDS_MAX) {
        let created_at = rfc3339(epoch.unwrap_or(record.known.created_unix_nanos));
        let mut made = Record { digest: record.key.to_string(), ..Record::default() };
        match record.known.layer {
            None => made.chains.push(Chain { layers: Vec::new(), created_at }),
            Some(layer) => match places.get(&layer.diff_id) {
                Some(&layer) => made.results.push(Place { layer, created_at }),
                None => made.named = Some(Named { diff_id: layer.diff_id, size: layer.bytes, created_at }),
            },
        }
        all.push(made);
    }
    // The same build, the same text.
    all.sort_by(|a, b| a.digest.cmp(&b.digest));
    all
}

/// What an image's configuration carries.
pub(in crate::builds) fn inline(of: &[CacheRecord], layers: &[Layer], epoch_seconds: Option<i64>) -> String {
    let places = layers.iter().enumerate().map(|(index, layer)| (layer.diff_id, index)).collect();
    let text = serde_json::to_vec(&records(of, &places, epoch_seconds));
    STANDARD.encode(text.unwrap_or_default())
}

/// What the records say; `layers`: what each index is. Those of other engines, and what is broken, say nothing.
pub(super) fn known(records: &[Record], layers: &[Option<Layer>]) -> BTreeMap<Digest, Known> {
    let mut known = BTreeMap::new();
    for record in records.iter().take(RECORDS_MAX) {
        let Ok(key) = record.digest.parse::<Digest>() else { continue };
        let (layer, created_at) = if let Some(place) = record.results.first() {
            let Some(Some(layer)) = layers.get(place.layer) else { continue };
            (Some(*layer), &place.created_at)
        } else if let Some(named) = &record.named {
            (Some(Layer { diff_id: named.diff_id, bytes: named.size }), &named.created_at)
        } else {
            match record.chains.first() {
                Some(chain) if chain.layers.is_empty() => (None, &chain.created_at),
                _ => continue,
            }
        };
        known.insert(key, Known { layer, created_unix_nanos: moment(created_at) });
    }
    known
}

pub(super) fn read(bytes: &[u8]) -> Result<CacheConfig> {
    serde_json::from_slice(bytes).map_err(|cause| broken(&cause))
}

pub(super) fn read_inline(text: &str) -> Result<Vec<Record>> {
    let bytes = STANDARD.decode(text).map_err(|cause| broken(&cause))?;
    serde_json::from_slice(&bytes).map_err(|cause| broken(&cause))
}

fn broken(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::DataLoss, "it is no build cache that can be read", cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn layer(byte: u8) -> Layer {
        Layer { diff_id: Digest::from_bytes([byte; 32]), bytes: u64::from(byte) }
    }

    fn record(key: u8, layer: Option<Layer>) -> CacheRecord {
        let known = Known { layer, created_unix_nanos: 1_000_000_000 };
        CacheRecord { key: Digest::from_bytes([key; 32]), known, layers: Arc::default() }
    }

    #[test]
    fn what_is_written_is_read_again_also_what_is_known_by_name_alone() {
        let all = [record(1, Some(layer(11))), record(2, None), record(3, Some(layer(13)))];
        let places = BTreeMap::from([(layer(11).diff_id, 0)]);
        let written = CacheConfig { layers: Vec::new(), records: records(&all, &places, None) };
        let text = serde_json::to_string(&written).unwrap();
        let again = read(text.as_bytes()).unwrap();
        let known = known(&again.records, &[Some(layer(11))]);
        assert_eq!(known.into_iter().collect::<Vec<_>>(), all.clone().map(|record| (record.key, record.known)));
        // BuildKit's own words for it.
        assert!(text.contains(r#""layers":[{"layer":0,"createdAt":"1970-01-01T00:00:01Z"}]"#), "{text}");
        let inline = read_inline(&inline(&all, &[layer(11)], None)).unwrap();
        assert_eq!(serde_json::to_string(&inline).unwrap(), serde_json::to_string(&written.records).unwrap());
    }

    #[test]
    fn what_buildkit_wrote_and_what_is_broken_says_nothing() {
        let text = r#"{"layers":[{"blob":"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef","parent":-1,
            "annotations":{"createdAt":"2026-01-01T00:00:00Z"}}],
            "records":[{"digest":"random:x"},{"digest":"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            "layers":[{"layer":7,"createdAt":"2026-01-01T00:00:00Z"}],"inputs":[[{"link":0}]]}]}"#;
        let read = read(text.as_bytes()).unwrap();
        assert!(known(&read.records, &[None]).is_empty());
        assert!(super::read(b"[").is_err() && read_inline("!").is_err());
    }
}
