//! Reading caches, and fetching what they have.

use super::config::{self, CacheConfig, MEDIA_TYPE};
use super::{CacheFrom, Elsewhere};
use crate::Engine;
use crate::builds::Caller;
use crate::builds::cache::{Cache, Held};
use crate::images::RemoteLayers;
use berth_build::{Known, Layer};
use berth_registry::{Descriptor, Document, Manifest, manifest};
use berth_types::{Digest, Error, ErrorKind, Result};
use futures_util::future::join_all;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a layer can be had.
#[derive(Clone)]
enum Source {
    Registry(Arc<RemoteLayers>, Box<Descriptor>),
    File(PathBuf),
}

/// What all caches together say.
pub(in crate::builds) struct Imported {
    engine: Engine,
    known: BTreeMap<Digest, Known>,
    sources: BTreeMap<Digest, Source>,
    /// Layers that are not here yet.
    away: Mutex<BTreeSet<Digest>>,
    /// One at a time brings layers here.
    fetching: tokio::sync::Mutex<()>,
    /// Whether any of the caches was there.
    found_any: bool,
    /// Words for whoever waits.
    tell: Box<dyn Fn(String) + Send + Sync>,
}

/// One cache as it was read.
#[derive(Default)]
struct Read {
    known: BTreeMap<Digest, Known>,
    sources: Vec<(Digest, Source)>,
}

impl Imported {
    /// Reads all of them; what cannot be read is told.
    pub(in crate::builds) async fn read(
        engine: &Engine,
        wanted: &Elsewhere,
        caller: Option<&dyn Caller>,
        held: &Held,
        tell: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Imported> {
        let mut all = Imported {
            engine: engine.clone(),
            known: BTreeMap::new(),
            sources: BTreeMap::new(),
            away: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            found_any: false,
            tell: Box::new(tell),
        };
        let read = join_all(wanted.from.iter().map(|from| one(engine, wanted, caller, from))).await;
        for (from, read) in wanted.from.iter().zip(read) {
            match read {
                Ok(read) => {
                    all.found_any = true;
                    for (key, known) in read.known {
                        all.known.entry(key).or_insert(known);
                    }
                    for (layer, source) in read.sources {
                        all.sources.entry(layer).or_insert(source);
                    }
                }
                Err(error) => (all.tell)(format!("cache of {} not used: {error}", shown(from))),
            }
        }
        let layers: BTreeMap<Digest, Layer> =
            all.known.values().filter_map(|known| known.layer).map(|layer| (layer.diff_id, layer)).collect();
        // Before anybody looks: what is here stays here.
        layers.values().for_each(|layer| held.add(layer));
        let here = here(engine, layers.keys().copied().collect()).await?;
        for known in all.known.values_mut() {
            known.layer = known.layer.map(|layer| as_here(layer, &here));
        }
        all.away = Mutex::new(layers.into_keys().filter(|layer| !here.contains_key(layer)).collect());
        Ok(all)
    }

    pub(in crate::builds) fn found_any(&self) -> bool {
        self.found_any
    }

    pub(in crate::builds) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn away(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the layer may be named in this engine's own cache.
    pub(in crate::builds) fn is_here(&self, layer: Option<Layer>) -> bool {
        layer.is_none_or(|layer| !self.away().contains(&layer.diff_id))
    }

    /// A step made it here after all.
    pub(in crate::builds) fn made(&self, layer: &Layer) {
        self.away().remove(&layer.diff_id);
    }

    pub(in crate::builds) fn lookup(&self, key: &Digest) -> Option<Known> {
        self.known.get(key).copied()
    }

    /// Brings those layers here that are not; `false` where one cannot be had.
    pub(in crate::builds) async fn ready(&self, layers: &[Layer], cache: &Cache) -> bool {
        let missing = |away: &BTreeSet<Digest>| -> Vec<Digest> {
            layers.iter().map(|layer| layer.diff_id).filter(|layer| away.contains(layer)).collect()
        };
        if missing(&self.away()).is_empty() {
            return true;
        }
        let _turn = self.fetching.lock().await;
        let wanted = missing(&self.away());
        if wanted.iter().any(|layer| !self.sources.contains_key(layer)) {
            return false;
        }
        let fetched = join_all(wanted.iter().map(|layer| self.fetch(*layer))).await;
        let mut all = true;
        for (layer, fetched) in wanted.into_iter().zip(fetched) {
            match fetched {
                Ok(here) => {
                    self.away().remove(&layer);
                    // From now on this engine knows it by itself.
                    for (key, known) in &self.known {
                        let layer = known.layer.filter(|known| known.diff_id == layer);
                        if let Some(layer) = layer.map(|layer| as_here(layer, &here)) {
                            cache.remember(key, Known { layer: Some(layer), ..*known }, "from a cache elsewhere");
                        }
                    }
                }
                Err(error) => {
                    (self.tell)(format!("layer {} of a cache not used: {error}", layer.short()));
                    all = false;
                }
            }
        }
        all
    }

    /// Its size as it is here.
    async fn fetch(&self, diff_id: Digest) -> Result<BTreeMap<Digest, u64>> {
        self.bring(diff_id).await?;
        here(&self.engine, vec![diff_id]).await
    }

    async fn bring(&self, diff_id: Digest) -> Result<()> {
        match self.sources.get(&diff_id) {
            Some(Source::Registry(from, descriptor)) => from.fetch(descriptor, diff_id).await,
            Some(Source::File(path)) => {
                let (images, path) = (self.engine.images(), path.clone());
                let unpacked = tokio::task::spawn_blocking(move || images.unpack_layer(open(&path)?, &diff_id));
                unpacked.await.map_err(|cause| Error::internal(format!("unpacking ended early: {cause}")))?
            }
            None => Err(Error::not_found("nobody has it")),
        }
    }

    /// The packed form of a layer that lies in the registry that a cache is written to.
    pub(super) fn descriptor(&self, diff_id: &Digest) -> Option<Descriptor> {
        match self.sources.get(diff_id) {
            Some(Source::Registry(_, descriptor)) => Some(Descriptor::clone(descriptor)),
            _ => None,
        }
    }
}

async fn here(engine: &Engine, layers: Vec<Digest>) -> Result<BTreeMap<Digest, u64>> {
    let images = engine.images();
    let here = tokio::task::spawn_blocking(move || images.layers_here(layers)).await;
    here.map_err(|cause| Error::internal(format!("looking for layers ended early: {cause}")))?
}

/// Caches elsewhere do not know what a layer takes on this disk.
fn as_here(layer: Layer, here: &BTreeMap<Digest, u64>) -> Layer {
    Layer { bytes: here.get(&layer.diff_id).copied().unwrap_or(layer.bytes), ..layer }
}

fn shown(from: &CacheFrom) -> String {
    match from {
        CacheFrom::Registry(name) => name.familiar(),
        CacheFrom::Folder(path) => path.display().to_string(),
    }
}

async fn one(engine: &Engine, wanted: &Elsewhere, caller: Option<&dyn Caller>, from: &CacheFrom) -> Result<Read> {
    match from {
        CacheFrom::Folder(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || folder(&path)).await;
            read.map_err(|cause| Error::internal(format!("reading a cache ended early: {cause}")))?
        }
        CacheFrom::Registry(name) => {
            // An image of this engine's own, as the classic builder means it.
            if let Ok(carried) = engine.images().carried_cache(&name.familiar()) {
                let layers: Vec<Option<Layer>> = carried.layers.into_iter().map(Some).collect();
                let records = if carried.text.is_empty() { Vec::new() } else { config::read_inline(&carried.text)? };
                return Ok(Read { known: config::known(&records, &layers), sources: Vec::new() });
            }
            registry(engine.images().remote_layers(name, wanted.credentials(name, caller).await?)).await
        }
    }
}

async fn registry(from: RemoteLayers) -> Result<Read> {
    let from = Arc::new(from);
    let mut document = parse(&from.manifest(None).await?)?;
    if let Document::Index(entries) = &document {
        let of_cache = entries.iter().find(|entry| entry.media_type == MEDIA_TYPE);
        match of_cache {
            Some(config) => {
                let config = config::read(&from.blob(config).await?)?;
                let blobs: Vec<Descriptor> = entries.clone();
                return Ok(separate(&config, &blobs, |blob| Source::Registry(from.clone(), Box::new(blob))));
            }
            None => document = parse(&from.manifest(Some(entries)).await?)?,
        }
    }
    let Document::Image { config, layers } = document else {
        return Err(Error::invalid("an index of indexes is no cache"));
    };
    let text = from.blob(&config).await?;
    if config.media_type == MEDIA_TYPE {
        return Ok(separate(&config::read(&text)?, &layers, |blob| Source::Registry(from.clone(), Box::new(blob))));
    }
    let carried = from.carried(&text)?;
    if carried.text.is_empty() {
        return Err(Error::not_found("it is an image that carries no cache").with_hint("--cache-to type=inline"));
    }
    let found: Vec<Option<Layer>> = carried.layers.iter().copied().map(Some).collect();
    let sources = carried.layers.iter().zip(layers);
    Ok(Read {
        known: config::known(&config::read_inline(&carried.text)?, &found),
        sources: sources.map(|(layer, blob)| (layer.diff_id, Source::Registry(from.clone(), Box::new(blob)))).collect(),
    })
}

fn parse(manifest: &Manifest) -> Result<Document> {
    manifest.parse().map_err(|cause| Error::because(ErrorKind::DataLoss, "it cannot be read", &cause))
}

/// A cache with a manifest of its own.
fn separate(config: &CacheConfig, blobs: &[Descriptor], source: impl Fn(Descriptor) -> Source) -> Read {
    let mut sources = Vec::new();
    let mut layers = Vec::new();
    for layer in &config.layers {
        let blob = layer.blob.parse::<Digest>().ok();
        let blob = blobs.iter().find(|descriptor| Some(descriptor.digest) == blob);
        let diff_id = layer.annotations.diff_id.parse::<Digest>().ok();
        layers.push(diff_id.map(|diff_id| Layer { diff_id, bytes: layer.annotations.size }));
        if let (Some(blob), Some(diff_id)) = (blob, diff_id) {
            sources.push((diff_id, source(blob.clone())));
        }
    }
    Read { known: config::known(&config.records, &layers), sources }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// A folder that `--cache-to type=local` wrote.
fn folder(path: &Path) -> Result<Read> {
    let blob = |digest: &Digest| path.join("blobs/sha256").join(digest.hex());
    let whole = |path: &Path, digest: Option<&Digest>| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = open(path)?.take(manifest::CONFIG_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|cause| unreadable(path, &cause))?;
        match digest {
            Some(digest) if crate::images::digest_of(&bytes) != *digest => {
                Err(Error::new(ErrorKind::DataLoss, format!("{} is damaged", path.display())))
            }
            _ => Ok(bytes),
        }
    };
    let text = whole(&path.join("index.json"), None)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|cause| Error::because(ErrorKind::DataLoss, "index.json cannot be read", &cause))?;
    let first = index.manifests.last().ok_or_else(|| Error::not_found("index.json names nothing"))?;
    let text = whole(&blob(&first.digest), Some(&first.digest))?;
    let Document::Image { config, layers } = parse(&Manifest::new(&first.media_type, text))? else {
        return Err(Error::invalid("it is no cache that this engine wrote"));
    };
    let config = config::read(&whole(&blob(&config.digest), Some(&config.digest))?)?;
    Ok(separate(&config, &layers, |layer| Source::File(blob(&layer.digest))))
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Error {
    Error::because(ErrorKind::Unavailable, format!("cannot read {}", path.display()), cause)
}

/// A plain file; nothing that would make the reader wait, and no link.
fn open(path: &Path) -> Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unreadable(path, &errno.into()))?;
    let file = std::fs::File::from(opened);
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err(Error::invalid(format!("{} is no file", path.display()))),
        Err(cause) => Err(unreadable(path, &cause)),
    }
}
