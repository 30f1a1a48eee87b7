//! Writing an archive of images.
//!
//! As docker 28 writes it, except that the indexes come first and the layers last: who reads it as a stream knows
//! from the beginning what is to come. The same images give the same bytes.

use super::layout::{
    CONFIG_TYPE, Config, DOCKER_MANIFEST, Descriptor, DockerImage, INDEX_TYPE, Index, LAYER_TYPE, MANIFEST_TYPE,
    Manifest, NAME, OCI_INDEX, OCI_LAYOUT, REF_NAME, REPOSITORIES, blob_path,
};
use crate::record::{LayerArchive, RecordError};
use crate::tar::{Head, padding, trailer};
use berth_snapshot::{Meta, SnapshotError, Snapshotter};
use berth_types::{Digest, ImageName};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};

/// Bytes read of a layer at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Why an archive is not written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("cannot read the configuration of an image")]
    Config(#[source] serde_json::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("cannot read layer {0}")]
    Layer(Digest, #[source] io::Error),
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// An image to be saved.
#[derive(Debug)]
pub struct ToSave {
    pub config: Vec<u8>,
    pub layers: Vec<Digest>,
    pub names: Vec<ImageName>,
    pub parent: Option<Digest>,
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Writes `images` with their layers.
pub fn save(snapshots: &dyn Snapshotter, images: &[ToSave], to: &mut dyn Write) -> Result<(), SaveError> {
    let mut lengths: BTreeMap<Digest, u64> = BTreeMap::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        if !lengths.contains_key(layer) {
            lengths.insert(*layer, LayerArchive::open(layer, snapshots.open_layer(layer)?)?.length());
        }
    }
    let mut out = Out { to, done: HashSet::new() };
    out.folder("blobs/")?;
    out.folder("blobs/sha256/")?;
    let index = Indexes::of(images, &lengths)?;
    for (path, bytes) in &index.files {
        out.file(path, bytes)?;
    }
    for layer in images.iter().flat_map(|image| &image.layers) {
        if out.done.insert(blob_path(layer)) {
            let archive = LayerArchive::open(layer, snapshots.open_layer(layer)?)?;
            out.layer(layer, archive)?;
        }
    }
    out.to.write_all(&trailer()).and_then(|()| out.to.flush()).map_err(SaveError::Write)
}

/// All that is no layer.
struct Indexes {
    files: Vec<(String, Vec<u8>)>,
}

fn text<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have nothing that JSON cannot say")
}

impl Indexes {
    fn of(images: &[ToSave], lengths: &BTreeMap<Digest, u64>) -> Result<Indexes, SaveError> {
        let mut files = vec![(OCI_LAYOUT.to_owned(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec())];
        let (mut blobs, mut docker, mut manifests) = (Vec::new(), Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let here: HashSet<Digest> = images.iter().map(|image| digest_of(&image.config)).collect();
        for image in images {
            let id = digest_of(&image.config);
            let config: Config = serde_json::from_slice(&image.config).map_err(SaveError::Config)?;
            let plain = |media_type: &str, digest: &Digest, size: u64| Descriptor {
                media_type: media_type.to_owned(),
                digest: digest.to_string(),
                size,
                annotations: BTreeMap::new(),
                platform: None,
            };
            let layer = |layer: &Digest| plain(LAYER_TYPE, layer, lengths.get(layer).copied().unwrap_or(0));
            let manifest = text(&Manifest {
                schema_version: 2,
                media_type: MANIFEST_TYPE.to_owned(),
                config: plain(CONFIG_TYPE, &id, image.config.len() as u64),
                layers: image.layers.iter().map(layer).collect(),
            });
            let mut descriptor = plain(MANIFEST_TYPE, &digest_of(&manifest), manifest.len() as u64);
            descriptor.platform = Some(config.platform());
            for name in &image.names {
                let tag = name.tag().unwrap_or("latest").to_owned();
                let mut named = descriptor.clone();
                named.annotations.insert(NAME.to_owned(), name.to_string());
                named.annotations.insert(REF_NAME.to_owned(), tag.clone());
                manifests.push(named);
                let top = image.layers.last().map_or_else(|| id.hex(), Digest::hex);
                repositories.entry(name.familiar_repository()).or_default().insert(tag, top);
            }
            if image.names.is_empty() {
                manifests.push(descriptor);
            }
            docker.push(DockerImage {
                config: blob_path(&id),
                repo_tags: (!image.names.is_empty()).then(|| image.names.iter().map(ImageName::familiar).collect()),
                layers: Some(image.layers.iter().map(blob_path).collect()),
                parent: image.parent.filter(|parent| here.contains(parent)).map(|parent| parent.to_string()),
                layer_sources: image
                    .layers
                    .iter()
                    .map(|one| (one.to_string(), serde_json::json!(layer(one))))
                    .collect(),
            });
            blobs.push((blob_path(&id), image.config.clone()));
            blobs.push((blob_path(&digest_of(&manifest)), manifest));
        }
        files.push((DOCKER_MANIFEST.to_owned(), text(&docker)));
        let index = Index { schema_version: 2, media_type: INDEX_TYPE.to_owned(), manifests };
        files.push((OCI_INDEX.to_owned(), text(&index)));
        if !repositories.is_empty() {
            files.push((REPOSITORIES.to_owned(), text(&repositories)));
        }
        files.extend(blobs);
        Ok(Indexes { files })
    }
}

struct Out<'a> {
    to: &'a mut dyn Write,
    done: HashSet<String>,
}

impl Out<'_> {
    fn head(&mut self, path: &str, kind: u8, mode: u32, size: u64) -> Result<(), SaveError> {
        let meta = Meta { mode, ..Meta::default() };
        let head = Head { path: path.as_bytes(), kind, link: b"", size, device: (0, 0), meta: &meta };
        self.to.write_all(&head.to_bytes()).map_err(SaveError::Write)
    }

    fn folder(&mut self, path: &str) -> Result<(), SaveError> {
        self.head(path, b'5', 0o755, 0)
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), SaveError> {
        if !self.done.insert(path.to_owned()) {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.head(path, b'0', 0o644, size)?;
        self.to.write_all(bytes).and_then(|()| self.to.write_all(padding(size))).map_err(SaveError::Write)
    }

    fn layer(&mut self, id: &Digest, mut archive: LayerArchive) -> Result<(), SaveError> {
        let size = archive.length();
        self.head(&blob_path(id), b'0', 0o644, size)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match archive.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) => return Err(SaveError::Layer(*id, cause)),
            };
            self.to.write_all(&buffer[..count]).map_err(SaveError::Write)?;
        }
        self.to.write_all(padding(size)).map_err(SaveError::Write)
    }
}
