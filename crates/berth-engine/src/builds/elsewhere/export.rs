//! Writing caches.

use super::config::{self, Annotations, CacheConfig, CacheLayer, MEDIA_TYPE};
use super::{CacheTo, Imported};
use crate::builds::Message;
use crate::builds::cache::Cache;
use crate::builds::stream::Said;
use crate::builds::worker::Job;
use crate::images::{RemoteLayers, digest_of, rfc3339};
use berth_build::{Built, Layer};
use berth_registry::manifest::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST};
use berth_registry::{Descriptor, Manifest};
use berth_types::{Digest, Error, ErrorKind, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

/// A manifest has no more layers; those of further steps are known by name alone.
const LAYERS_MAX: usize = 500;

/// A layer that the cache has, and what it lies on.
struct Kept {
    layer: Layer,
    /// Index of the next one below that the cache has.
    parent: Option<usize>,
    created_unix_nanos: i64,
}

/// Writes all that are wanted. A cache that was asked for and cannot be written fails the build.
pub(in crate::builds) async fn export(job: &Job, built: &Built, said: &Said) -> Result<()> {
    let (engine, from, cache) = (&job.engine, job.imported.as_ref(), &job.shared.cache);
    for to in &job.elsewhere.to {
        match to {
            // The image's configuration has it already.
            CacheTo::Inline => {}
            CacheTo::Registry { name, max } => {
                let kept = kept(built, *max, from, cache).await;
                let credentials = job.elsewhere.credentials(name, job.caller.as_deref()).await?;
                let place = engine.images().cache_repository(name, credentials);
                let blobs = send(&place, &kept, from, cache).await?;
                let (config, manifest) = texts(built, &kept, &blobs);
                place.put(config, &manifest).await.map_err(|error| error.context("cannot write the build cache"))?;
                note(said, format!("cache written to {} ({} layers)", name.familiar(), kept.len()));
            }
            CacheTo::Folder { max } => {
                let mut kept = kept(built, *max, from, cache).await;
                if let Some(from) = from {
                    let layers: Vec<Layer> = kept.iter().map(|kept| kept.layer).collect();
                    if !from.ready(&layers, cache).await {
                        kept.clear();
                    }
                }
                let count = kept.len();
                let (images, built, to) = (engine.images(), built.clone(), said.file(Message::Cache));
                let packed = tokio::task::spawn_blocking(move || {
                    let mut archive = tar::Builder::new(std::io::BufWriter::with_capacity(64 << 10, to));
                    let mut blobs = Vec::new();
                    for kept in &kept {
                        let (descriptor, file) = images.pack_layer(kept.layer.diff_id)?;
                        put(&mut archive, &blob_path(&descriptor.digest), file, descriptor.size)?;
                        blobs.push(descriptor);
                    }
                    let (config, manifest) = texts(&built, &kept, &blobs);
                    let index = json!({"schemaVersion": 2, "manifests": [manifest.descriptor()]}).to_string();
                    for (path, bytes) in [
                        (blob_path(&digest_of(&config)), config.as_slice()),
                        (blob_path(&manifest.digest), manifest.bytes.as_slice()),
                        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
                        // Last: what it names is there.
                        ("index.json".to_owned(), index.as_bytes()),
                    ] {
                        put(&mut archive, &path, bytes, bytes.len() as u64)?;
                    }
                    let mut sink = archive.into_inner().map_err(|cause| unsent(&cause))?;
                    sink.flush().map_err(|cause| unsent(&cause))
                });
                packed.await.map_err(|cause| Error::internal(format!("packing the cache ended early: {cause}")))??;
                note(said, format!("cache packed ({count} layers)"));
            }
        }
    }
    Ok(())
}

fn note(said: &Said, text: String) {
    said.say(Message::Note(text));
}

/// The layers that the cache is to have, each once, below before above.
async fn kept(built: &Built, max: bool, from: Option<&Imported>, cache: &Cache) -> Vec<Kept> {
    let of_result: BTreeSet<Digest> = built.layers.iter().map(|layer| layer.diff_id).collect();
    let mut wanted: BTreeMap<Digest, i64> = BTreeMap::new();
    for record in &built.records {
        let Some(layer) = record.known.layer else { continue };
        if max || of_result.contains(&layer.diff_id) {
            wanted.entry(layer.diff_id).or_insert(record.known.created_unix_nanos);
        }
    }
    let mut kept: Vec<Kept> = Vec::new();
    let mut places: BTreeMap<Digest, usize> = BTreeMap::new();
    for record in &built.records {
        let mut parent = None;
        for layer in record.layers.iter() {
            let Some(created) = wanted.get(&layer.diff_id) else { continue };
            let place = match places.get(&layer.diff_id) {
                Some(place) => *place,
                None if kept.len() >= LAYERS_MAX => continue,
                None => {
                    // What is known by name alone, and can be had from nowhere, stays so.
                    let can_be_had = match from {
                        Some(from) if from.descriptor(&layer.diff_id).is_none() => from.ready(&[*layer], cache).await,
                        _ => true,
                    };
                    if !can_be_had {
                        continue;
                    }
                    kept.push(Kept { layer: *layer, parent, created_unix_nanos: *created });
                    places.insert(layer.diff_id, kept.len() - 1);
                    kept.len() - 1
                }
            };
            parent = Some(place);
        }
    }
    kept
}

/// Sees to it that the repository has them all; what it has already is not fetched for that.
async fn send(place: &RemoteLayers, kept: &[Kept], from: Option<&Imported>, cache: &Cache) -> Result<Vec<Descriptor>> {
    let mut blobs: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    let mut rest = Vec::new();
    for kept in kept {
        let known = from.filter(|from| !from.is_here(Some(kept.layer))).and_then(|f| f.descriptor(&kept.layer.diff_id));
        match known {
            Some(descriptor) if place.has(&descriptor).await? => {
                blobs.insert(kept.layer.diff_id, descriptor);
            }
            _ => rest.push(kept.layer),
        }
    }
    if let Some(from) = from
        && !from.ready(&rest, cache).await
    {
        return Err(Error::new(ErrorKind::Unavailable, "cannot write the build cache: a layer of it cannot be had"));
    }
    let ids: Vec<Digest> = rest.iter().map(|layer| layer.diff_id).collect();
    let sent = place.send(&ids).await.map_err(|error| error.context("cannot write the build cache"))?;
    blobs.extend(ids.into_iter().zip(sent));
    Ok(kept.iter().map(|kept| blobs[&kept.layer.diff_id].clone()).collect())
}

/// The cache's configuration, and the manifest that names it.
fn texts(built: &Built, kept: &[Kept], blobs: &[Descriptor]) -> (Vec<u8>, Manifest) {
    let kind = |blob: &Descriptor| match blob.media_type.as_str() {
        kind if kind.ends_with("zstd") => OCI_LAYER_ZSTD,
        _ => OCI_LAYER_GZIP,
    };
    let epoch = built.epoch_seconds.map(|seconds| seconds.saturating_mul(1_000_000_000));
    let layers = kept.iter().zip(blobs).map(|(kept, blob)| CacheLayer {
        blob: blob.digest.to_string(),
        parent: kept.parent.map_or(-1, |parent| i64::try_from(parent).unwrap_or(-1)),
        annotations: Annotations {
            media_type: kind(blob).to_owned(),
            diff_id: kept.layer.diff_id.to_string(),
            size: kept.layer.bytes,
            created_at: rfc3339(epoch.unwrap_or(kept.created_unix_nanos)),
        },
    });
    let places = kept.iter().enumerate().map(|(index, kept)| (kept.layer.diff_id, index)).collect();
    let config = CacheConfig {
        layers: layers.collect(),
        records: config::records(&built.records, &places, built.epoch_seconds),
    };
    let config = serde_json::to_vec(&config).unwrap_or_default();
    let layers: Vec<_> =
        blobs.iter().map(|blob| json!({"mediaType": kind(blob), "digest": blob.digest, "size": blob.size})).collect();
    let text = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": MEDIA_TYPE, "digest": digest_of(&config), "size": config.len()},
        "layers": layers,
    });
    let manifest = Manifest::new(OCI_MANIFEST, text.to_string().into_bytes());
    (config, manifest)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn unsent(cause: &std::io::Error) -> Error {
    Error::because(ErrorKind::Internal, "cannot pack the build cache", cause)
}

fn put<W: Write>(archive: &mut tar::Builder<W>, path: &str, from: impl Read, size: u64) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, from).map_err(|cause| unsent(&cause))
}
