//! Reading an archive of images.
//!
//! The archive is read once, from its beginning to its end, and written nowhere but as layers: whatever looks like
//! a layer is unpacked at once, as a staged layer that nobody sees; small files are kept in memory. At the end the
//! index says which layers belong to which image; the others go. So an archive whose index comes last, as
//! Docker's does, costs no second copy of its content.

use super::layout::{
    Config, DOCKER_MANIFEST, Descriptor, DockerImage, Index, Manifest, NAME, OCI_INDEX, Platform, REF_NAME,
    REFERENCE_TYPE, digest_of_path,
};
use crate::decode::{Packing, decoded};
use crate::stream::{Again, FromRead, Pieces};
use crate::tar::{self, Kind, TarError};
use crate::unpack::{UnpackError, clean, unpack_pieces};
use berth_snapshot::{SnapshotError, Snapshotter, StagedLayer};
use berth_types::{Digest, ImageName};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{self, Read};

/// A configuration, manifest or index. Docker takes configurations of four megabytes.
const SMALL_BYTES_MAX: u64 = 8 << 20;
/// All of them together.
const SMALL_TOTAL_MAX: usize = 128 << 20;
/// Files in the archive; a layer of the old layout has three.
const FILES_MAX: usize = 20_000;
/// Images in one archive, and names of one of them.
const IMAGES_MAX: usize = 4096;
/// Indexes within indexes.
const NESTED_MAX: usize = 4;
/// Links from one file's name to another's.
const LINKS_MAX: usize = 8;
/// Bytes between two words about progress.
const STEP_BYTES: u64 = 4 << 20;

/// Why an archive is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("invalid archive: {0}")]
    Invalid(String),
    #[error("cannot unpack layer {name}")]
    Layer {
        name: String,
        #[source]
        cause: UnpackError,
    },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("no image in the archive is for the platform {0}")]
    Platform(String),
}

impl LoadError {
    /// The archive is to blame, not the host.
    pub fn is_archive(&self) -> bool {
        match self {
            LoadError::Layer { cause, .. } => cause.is_archive(),
            LoadError::Snapshot(_) => false,
            _ => true,
        }
    }
}

fn invalid(text: impl Into<String>) -> LoadError {
    LoadError::Invalid(text.into())
}

/// An image whose layers are there.
#[derive(Debug)]
pub struct Loaded {
    pub id: Digest,
    /// Its bytes have the digest `id`.
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<Digest>,
    pub names: Vec<ImageName>,
    /// What it was committed on, where the archive says so and has that too.
    pub parent: Option<Digest>,
}

/// How far a layer is.
#[derive(Debug, Clone)]
pub struct Loading {
    /// The beginning of its name.
    pub id: String,
    pub current_bytes: u64,
    pub total_bytes: u64,
}

/// Reads the archive, commits the layers of its images, and says what they are. Nothing stays of an archive that
/// is not wholly right. `platform`, `os/arch[/variant]`, chooses among an image's platforms; the host's otherwise.
pub fn load(
    snapshots: &dyn Snapshotter,
    stream: impl Read,
    platform: Option<&str>,
    tell: &dyn Fn(Loading),
) -> Result<Vec<Loaded>, LoadError> {
    let (_, pieces) = decoded(FromRead::new(stream)).map_err(TarError::from)?;
    let mut archive = Archive { snapshots, tell, small: HashMap::new(), layers: HashMap::new(), links: HashMap::new() };
    archive.read(tar::Reader::new(pieces))?;
    let images = archive.images(platform)?;
    archive.commit(&images)?;
    Ok(images)
}

/// A layer as it came in.
struct Layer {
    diff_id: Digest,
    /// Absent where the layer was there before.
    staged: Option<StagedLayer>,
}

struct Archive<'a> {
    snapshots: &'a dyn Snapshotter,
    tell: &'a dyn Fn(Loading),
    small: HashMap<String, Bytes>,
    layers: HashMap<String, Layer>,
    links: HashMap<String, String>,
}

impl Archive<'_> {
    fn read<P: Pieces>(&mut self, mut tar: tar::Reader<P>) -> Result<(), LoadError> {
        let mut small_total = 0;
        let mut files = 0;
        while let Some(member) = tar.next()? {
            tar.take_raw();
            let path = clean(&member.path).and_then(|path| String::from_utf8(path).ok());
            let Some(path) = path else {
                return Err(invalid(format!("{:?} leaves the archive", String::from_utf8_lossy(&member.path))));
            };
            files += 1;
            if files > FILES_MAX {
                return Err(invalid("it has too many files"));
            }
            match member.kind {
                Kind::Directory => {}
                Kind::Symlink | Kind::HardLink => {
                    let folder = match member.kind {
                        Kind::Symlink => path.rsplit_once('/').map_or("", |(folder, _)| folder),
                        _ => "",
                    };
                    let whole = [folder.as_bytes(), b"/", &member.link[..]].concat();
                    let to = clean(&whole).and_then(|path| String::from_utf8(path).ok());
                    let to = to.ok_or_else(|| invalid(format!("the link {path:?} leaves the archive")))?;
                    self.links.insert(path, to);
                }
                Kind::File => {
                    let first = tar.piece().map_err(TarError::from)?;
                    if is_layer(&path, &first) {
                        let layer = self.layer(&path, first, member.size, &mut tar)?;
                        self.layers.insert(path, layer);
                        continue;
                    }
                    if member.size > SMALL_BYTES_MAX || small_total > SMALL_TOTAL_MAX {
                        return Err(invalid(format!("{path:?} is too large and no layer")));
                    }
                    let mut bytes = first.to_vec();
                    while let Some(more) = tar.content()? {
                        bytes.extend_from_slice(&more);
                    }
                    small_total += bytes.len();
                    self.small.insert(path, bytes.into());
                }
                _ => return Err(invalid(format!("{path:?} is no file"))),
            }
        }
        // The rest of the stream: a sender that is not read to the end takes it for a failure.
        while !tar.rest()?.is_empty() {}
        Ok(())
    }

    fn layer<P: Pieces>(
        &self,
        path: &str,
        first: Bytes,
        size: u64,
        tar: &mut tar::Reader<P>,
    ) -> Result<Layer, LoadError> {
        let expected = digest_of_path(path);
        let plain = Packing::of(&first) == Packing::Plain;
        let mut pieces = Watched {
            rest: Again { first, rest: tar },
            // What is not compressed is hashed on its way anyway.
            hash: (expected.is_some() && !plain).then(Sha256::new),
            current: 0,
            told: 0,
            size,
            id: expected.map_or_else(|| path.chars().take(12).collect(), |digest| digest.short()),
            tell: self.tell,
        };
        let failed = |cause| LoadError::Layer { name: path.to_owned(), cause };
        if let Some(diff_id) = expected
            && plain
            && self.snapshots.layer_bytes(&diff_id)?.is_some()
        {
            pieces.hash = Some(Sha256::new());
            while !pieces.piece().map_err(TarError::from)?.is_empty() {}
            pieces.check(&diff_id)?;
            return Ok(Layer { diff_id, staged: None });
        }
        let named = if plain { expected.as_ref() } else { None };
        let unpacked = unpack_pieces(self.snapshots, &mut pieces, named).map_err(failed)?;
        if let Some(digest) = expected.filter(|_| !plain) {
            pieces.check(&digest)?;
        }
        Ok(Layer { diff_id: unpacked.diff_id, staged: Some(unpacked.layer) })
    }

    fn images(&self, platform: Option<&str>) -> Result<Vec<Loaded>, LoadError> {
        let wanted = platform.map(Platform::parse);
        let mut images = if let Some(text) = self.small(DOCKER_MANIFEST) {
            self.docker_images(text, wanted.as_ref())?
        } else if let Some(text) = self.small(OCI_INDEX) {
            let index: Index = json(OCI_INDEX, text)?;
            self.oci_images(&index.manifests, wanted.as_ref())?
        } else {
            return Err(invalid("it has neither manifest.json nor index.json: it is no archive of images"));
        };
        if let (true, Some(platform)) = (images.is_empty(), platform) {
            return Err(LoadError::Platform(platform.to_owned()));
        }
        let here: Vec<Digest> = images.iter().map(|image| image.id).collect();
        for image in &mut images {
            let id = image.id;
            image.parent = image.parent.filter(|parent| *parent != id && here.contains(parent));
        }
        Ok(images)
    }

    /// A small file, through the archive's own links.
    fn small(&self, path: &str) -> Option<&Bytes> {
        self.small.get(self.real(path)?.as_str())
    }

    fn real(&self, path: &str) -> Option<String> {
        let mut path = String::from_utf8(clean(path.as_bytes())?).ok()?;
        for _ in 0..LINKS_MAX {
            match self.links.get(&path) {
                Some(next) => path.clone_from(next),
                None => return Some(path),
            }
        }
        None
    }

    fn layer_at(&self, path: &str) -> Result<&Layer, LoadError> {
        let missing = || invalid(format!("the layer {path:?} is not in it"));
        self.layers.get(&self.real(path).ok_or_else(missing)?).ok_or_else(missing)
    }

    fn docker_images(&self, text: &Bytes, wanted: Option<&Platform>) -> Result<Vec<Loaded>, LoadError> {
        let list: Option<Vec<DockerImage>> = json(DOCKER_MANIFEST, text)?;
        let list = list.ok_or_else(|| invalid("invalid manifest, manifest cannot be null (but can be [])"))?;
        if list.len() > IMAGES_MAX {
            return Err(invalid("it has too many images"));
        }
        let mut images = Vec::new();
        for image in &list {
            let missing = || invalid(format!("the configuration {:?} is not in it", image.config));
            let config = self.small(&image.config).ok_or_else(missing)?;
            let id = checked(&image.config, config)?;
            let layers = image.layers.as_deref().unwrap_or_default();
            let found = layers.iter().map(|path| self.layer_at(path)).collect::<Result<Vec<_>, _>>()?;
            let Some(layers) = agreed(&image.config, config, &found, wanted)? else { continue };
            let mut names = Vec::new();
            for text in image.repo_tags.iter().flatten() {
                let name: ImageName = text.parse().map_err(|_| invalid(format!("invalid tag {text:?}")))?;
                if name.tag().is_none() || name.digest().is_some() {
                    return Err(invalid(format!("invalid tag {text:?}")));
                }
                names.push(name);
            }
            let parent = image.parent.as_deref().and_then(|parent| parent.parse().ok());
            images.push(Loaded { id, config: config.to_vec(), layers, names, parent });
        }
        Ok(images)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<(String, &Bytes), LoadError> {
        let digest: Digest = descriptor
            .digest
            .parse()
            .map_err(|_| invalid(format!("{:?} is no digest that can be checked", descriptor.digest)))?;
        let path = super::layout::blob_path(&digest);
        let bytes = self.small(&path).ok_or_else(|| invalid(format!("the blob {digest} is not in it")))?;
        checked(&path, bytes)?;
        Ok((path, bytes))
    }

    fn oci_images(&self, list: &[Descriptor], wanted: Option<&Platform>) -> Result<Vec<Loaded>, LoadError> {
        if list.len() > IMAGES_MAX {
            return Err(invalid("it has too many images"));
        }
        let mut images: Vec<Loaded> = Vec::new();
        let default = Platform::host();
        for descriptor in list {
            if descriptor.annotations.contains_key(REFERENCE_TYPE) {
                continue;
            }
            // Of several platforms under one name the wanted one counts.
            let named = |other: &&Descriptor| other.annotations.get(NAME) == descriptor.annotations.get(NAME);
            let fits = |one: &Descriptor| {
                one.platform.as_ref().is_none_or(|platform| platform.fits(wanted.unwrap_or(&default)))
            };
            let better = descriptor.annotations.contains_key(NAME) && list.iter().filter(named).any(&fits);
            if !fits(descriptor) && (better || wanted.is_some()) {
                continue;
            }
            let Some((manifest_path, manifest)) = self.manifest(descriptor, wanted, 0)? else { continue };
            let names: Vec<ImageName> = name_of(descriptor).into_iter().collect();
            let manifest: Manifest = json(&manifest_path, &manifest)?;
            let (path, config) = self.blob(&manifest.config)?;
            let id = checked(&path, config)?;
            let mut found = Vec::new();
            for layer in &manifest.layers {
                let digest: Digest =
                    layer.digest.parse().map_err(|_| invalid(format!("{:?} is no digest", layer.digest)))?;
                found.push(self.layer_at(&super::layout::blob_path(&digest))?);
            }
            let Some(layers) = agreed(&path, config, &found, wanted)? else { continue };
            match images.iter_mut().find(|image| image.id == id) {
                Some(same) => same.names.extend(names),
                None => images.push(Loaded { id, config: config.to_vec(), layers, names, parent: None }),
            }
        }
        Ok(images)
    }

    /// The manifest that `descriptor` leads to, through indexes by platform.
    fn manifest(
        &self,
        descriptor: &Descriptor,
        wanted: Option<&Platform>,
        depth: usize,
    ) -> Result<Option<(String, Bytes)>, LoadError> {
        let (path, bytes) = self.blob(descriptor)?;
        if !descriptor.media_type.contains("index") && !descriptor.media_type.contains("manifest.list") {
            return Ok(Some((path, bytes.clone())));
        }
        if depth >= NESTED_MAX {
            return Err(invalid("its indexes are nested too deep"));
        }
        let index: Index = json(&path, bytes)?;
        let host = Platform::host();
        let wanted_here = wanted.unwrap_or(&host);
        let images = || index.manifests.iter().filter(|one| !one.annotations.contains_key(REFERENCE_TYPE));
        let fitting = |one: &&Descriptor| one.platform.as_ref().is_none_or(|platform| platform.fits(wanted_here));
        // A layout need not have all platforms that its index names.
        let present = |one: &&Descriptor| self.blob(one).is_ok();
        let chosen = images().filter(fitting).find(present).or_else(|| match wanted {
            None => images().find(present),
            Some(_) => None,
        });
        match chosen {
            Some(next) => self.manifest(next, wanted, depth + 1),
            None => Ok(None),
        }
    }

    fn commit(&mut self, images: &[Loaded]) -> Result<(), LoadError> {
        let needed: std::collections::HashSet<Digest> =
            images.iter().flat_map(|image| image.layers.iter().copied()).collect();
        let mut staged: HashMap<Digest, StagedLayer> = HashMap::new();
        for (_, layer) in self.layers.drain() {
            // Two paths may have the same layer; one that no image has goes here.
            if let Some(one) = layer.staged.filter(|_| needed.contains(&layer.diff_id)) {
                staged.insert(layer.diff_id, one);
            }
        }
        self.snapshots.commit_layers(staged.into_values().collect())?;
        Ok(())
    }
}

/// By its first bytes: compressed, or a tar header or the zeros of an empty archive.
fn is_layer(path: &str, first: &[u8]) -> bool {
    if path.ends_with(".json") || matches!(path, OCI_INDEX | DOCKER_MANIFEST) {
        return false;
    }
    Packing::of(first) != Packing::Plain || tar::is_header(first)
}

/// The digest of `bytes`; it must be the one that the path names.
fn checked(path: &str, bytes: &[u8]) -> Result<Digest, LoadError> {
    let found = Digest::from_bytes(Sha256::digest(bytes).into());
    match digest_of_path(path) {
        Some(expected) if expected != found => Err(invalid(format!("{path} has the digest {found}"))),
        _ => Ok(found),
    }
}

/// A configuration and its layers must tell the same story. `None`: it is for another platform.
fn agreed(
    path: &str,
    config: &[u8],
    layers: &[&Layer],
    wanted: Option<&Platform>,
) -> Result<Option<Vec<Digest>>, LoadError> {
    let config: Config = json(path, config)?;
    if !config.os.is_empty() && config.os != "linux" {
        return Err(invalid(format!("cannot load {} image on linux", config.os)));
    }
    if wanted.is_some_and(|wanted| !config.platform().fits(wanted)) {
        return Ok(None);
    }
    let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
    if layers.len() != diff_ids.len() {
        return Err(invalid(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            layers.len(),
            diff_ids.len()
        )));
    }
    for (number, (expected, layer)) in diff_ids.iter().zip(layers).enumerate() {
        if *expected != layer.diff_id {
            return Err(invalid(format!(
                "invalid diffID for layer {number}: expected \"{expected}\", got \"{}\"",
                layer.diff_id
            )));
        }
    }
    Ok(Some(diff_ids))
}

fn json<'a, T: serde::Deserialize<'a>>(path: &str, text: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(text).map_err(|cause| invalid(format!("{path} cannot be read: {cause}")))
}

/// The name that an index gives an image; a mere tag is no name.
fn name_of(descriptor: &Descriptor) -> Option<ImageName> {
    let whole = descriptor
        .annotations
        .get(NAME)
        .or_else(|| descriptor.annotations.get(REF_NAME).filter(|name| name.contains(':') || name.contains('/')))?;
    let name: ImageName = whole.parse().ok()?;
    name.digest().is_none().then(|| name.or_latest())
}

/// Pieces that are counted, told about, and hashed where somebody wants to know.
struct Watched<'a, P> {
    rest: P,
    hash: Option<Sha256>,
    current: u64,
    told: u64,
    size: u64,
    id: String,
    tell: &'a dyn Fn(Loading),
}

impl<P> Watched<'_, P> {
    fn check(&mut self, expected: &Digest) -> Result<(), LoadError> {
        let found = self.hash.take().map(|hash| Digest::from_bytes(hash.finalize().into()));
        match found {
            Some(found) if found != *expected => Err(invalid(format!("the blob {expected} has the digest {found}"))),
            _ => Ok(()),
        }
    }
}

impl<P: Pieces> Pieces for Watched<'_, P> {
    fn piece(&mut self) -> io::Result<Bytes> {
        let piece = self.rest.piece()?;
        if let Some(hash) = &mut self.hash {
            hash.update(&piece);
        }
        self.current += piece.len() as u64;
        if self.current >= self.told + STEP_BYTES || piece.is_empty() {
            self.told = self.current;
            (self.tell)(Loading { id: self.id.clone(), current_bytes: self.current, total_bytes: self.size });
        }
        Ok(piece)
    }
}
