//! Layers, snapshots and blobs: the one place that knows the crates they come from.
//!
//! ```text
//! <data root>/layers, chains, snapshots    berth-snapshot's
//! <data root>/content                      berth-content's: downloads on their way, blobs that are kept
//! ```

use super::Progress;
use super::mounts::{self, Mounts, Stacking};
use crate::files::Root;
use crate::full;
use berth_content::{Blobs, ContentError};
use berth_image::{CommitError, LoadError, RecordError, SaveError, UnpackError};
use berth_snapshot::{LayerForm, OverlayDriver, Retired, SnapshotError, Snapshotter, StagedLayer, TreeUsage};
use berth_types::mount::Rootfs;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use sha2::Digest as _;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an unfinished download, or a blob that nobody holds, waits for somebody to go on with it.
const BLOB_IDLE: Duration = Duration::from_secs(24 * 3600);

/// An unpacked layer and what it takes on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    pub diff_id: Digest,
    pub bytes: u64,
}

/// An image whose layers are on the disk and that no record knows yet.
#[derive(Debug)]
pub(super) struct Loaded {
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
    pub names: Vec<ImageName>,
    /// What it was committed on.
    pub parent: Option<Digest>,
}

/// How new layers lie on the disk; those that are there stay as they are and go on being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageDriver {
    /// A folder of files for each layer.
    Overlay,
    /// An EROFS image for each layer, overlayfs on top.
    Erofs,
}

impl StorageDriver {
    /// As `info` says it.
    pub fn name(self) -> &'static str {
        match self {
            StorageDriver::Overlay => "overlayfs",
            StorageDriver::Erofs => "erofs",
        }
    }
}

impl std::str::FromStr for StorageDriver {
    type Err = String;

    fn from_str(name: &str) -> Result<StorageDriver, String> {
        match name {
            // dockerd's names for it.
            "overlay" | "overlay2" | "overlayfs" => Ok(StorageDriver::Overlay),
            "erofs" => Ok(StorageDriver::Erofs),
            other => Err(format!("there is no storage driver {other:?}: overlay or erofs")),
        }
    }
}

pub(super) struct Disk {
    snapshots: Box<dyn Snapshotter>,
    driver: StorageDriver,
    data_root: PathBuf,
    mounts: Mounts,
    blobs: Blobs,
}

/// Whose fault it is if the disk is not full.
fn of_archive(is_archive: bool) -> ErrorKind {
    if is_archive { ErrorKind::DataLoss } else { ErrorKind::Internal }
}

fn layers_failed(cause: &SnapshotError) -> Error {
    match cause {
        SnapshotError::NoLayer(layer) => {
            Error::new(ErrorKind::DataLoss, format!("layer {} is missing from the disk", layer.short()))
                .with_hint("berth system check --repair fetches it again, from a registry that it is known to be in")
        }
        cause => full::or_here(ErrorKind::Internal, "cannot keep layers and snapshots", cause),
    }
}

fn blobs_failed(cause: &ContentError) -> Error {
    full::or_here(ErrorKind::Internal, "cannot keep blobs", cause)
}

fn unpack_failed(cause: &UnpackError) -> Error {
    full::or_here(of_archive(cause.is_archive()), "cannot unpack the archive", cause)
}

fn commit_failed(action: &str, cause: &CommitError) -> Error {
    full::or_here(ErrorKind::Internal, action, cause)
}

/// Makes an empty image and has it mounted.
fn try_out(snapshots: &OverlayDriver) -> Result<Stacking> {
    let probe = || -> Result<StagedLayer, SnapshotError> {
        let mut writer = snapshots.begin_layer()?;
        writer.settle()?;
        writer.finish(Digest::from_bytes([0xff; 32]))
    };
    let image = probe().map_err(|cause| layers_failed(&cause))?.into_probe();
    mounts::try_out(&image.path)
}

impl Disk {
    /// With `None` new layers are images where the kernel lets all containers of one share a mount, else folders
    /// (docs/images.md has the measurements).
    pub(super) fn open(data_root: &Path, wanted: Option<StorageDriver>) -> Result<Disk> {
        let open = |form| OverlayDriver::open(data_root, form).map_err(|cause| layers_failed(&cause));
        let (driver, snapshots) = match wanted {
            Some(StorageDriver::Overlay) => (StorageDriver::Overlay, open(LayerForm::Folder)?),
            _ => {
                let images = open(LayerForm::Image)?;
                match (try_out(&images), wanted) {
                    (Ok(Stacking::Shared), _) => (StorageDriver::Erofs, images),
                    (tried, None) => {
                        tracing::debug!(?tried, "new layers are folders");
                        drop(images);
                        (StorageDriver::Overlay, open(LayerForm::Folder)?)
                    }
                    (tried, Some(_)) => tried.map(|_| (StorageDriver::Erofs, images))?,
                }
            }
        };
        let blobs = Blobs::open(&data_root.join("content")).map_err(|cause| blobs_failed(&cause))?;
        let (snapshots, data_root) = (Box::new(snapshots), data_root.to_owned());
        Ok(Disk { snapshots, driver, data_root, mounts: Mounts::default(), blobs })
    }

    pub(super) fn driver(&self) -> StorageDriver {
        self.driver
    }

    /// For transfers, which unpack while they fetch.
    pub(super) fn snapshots(&self) -> &dyn Snapshotter {
        &*self.snapshots
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Makes layers visible together.
    pub(super) fn commit_layers(&self, layers: Vec<StagedLayer>) -> Result<()> {
        self.snapshots.commit_layers(layers).map_err(|cause| layers_failed(&cause))
    }

    /// What a layer takes on the disk; `None` where it is not here.
    pub(super) fn layer_bytes(&self, diff_id: &Digest) -> Result<Option<u64>> {
        self.snapshots.layer_bytes(diff_id).map_err(|cause| layers_failed(&cause))
    }

    pub(super) fn prepare(&self, key: &str, layers: &[Digest]) -> Result<Rootfs> {
        let mut rootfs = self.snapshots.prepare(key, layers).map_err(|cause| layers_failed(&cause))?;
        self.mounts.hold(&mut rootfs)?;
        Ok(rootfs)
    }

    pub(super) fn rootfs(&self, key: &str) -> Result<Rootfs> {
        let mut rootfs = self.snapshots.rootfs(key).map_err(|cause| layers_failed(&cause))?;
        self.mounts.hold(&mut rootfs)?;
        Ok(rootfs)
    }

    /// The layers alone, read-only.
    pub(super) fn view(&self, layers: &[Digest]) -> Rootfs {
        self.snapshots.view(layers)
    }

    pub(super) fn remove(&self, key: &str) -> Result<()> {
        self.snapshots.remove(key).map_err(|cause| layers_failed(&cause))
    }

    pub(super) fn keys(&self) -> Result<Vec<String>> {
        self.snapshots.keys().map_err(|cause| layers_failed(&cause))
    }

    pub(super) fn usage(&self, key: &str) -> Result<TreeUsage> {
        self.snapshots.usage(key).map_err(|cause| layers_failed(&cause))
    }

    /// Bytes of blobs, unfinished downloads among them.
    pub(super) fn blob_bytes(&self) -> Result<u64> {
        self.blobs.disk_bytes().map_err(|cause| blobs_failed(&cause))
    }

    /// Says where the layers of a root file system are, and are mounted, now.
    pub(super) fn hold(&self, rootfs: &mut Rootfs) -> Result<()> {
        self.snapshots.refresh(rootfs);
        self.mounts.hold(rootfs)
    }

    /// A mount would keep the layer's file on the disk.
    fn retire(&self, layer: &Digest) -> Result<Retired, SnapshotError> {
        self.mounts.forget(&self.data_root.join("layers").join(layer.hex()));
        self.snapshots.remove_layer(layer)
    }

    /// Takes the layers out of sight that neither `needed` names nor a snapshot stands on; their files go with the
    /// answer. Nobody may make or take layers meanwhile.
    pub(super) fn sweep(&self, needed: &BTreeSet<Digest>) -> Result<Vec<Retired>> {
        let sweep = || -> Result<Vec<Retired>, SnapshotError> {
            let mut used = needed.clone();
            for key in self.snapshots.keys()? {
                used.extend(self.snapshots.layers_of(&key)?);
            }
            let mut retired = Vec::new();
            for layer in self.snapshots.layers()? {
                if !used.contains(&layer) {
                    retired.push(self.retire(&layer)?);
                }
            }
            self.snapshots.tidy()?;
            Ok(retired)
        };
        let retired = sweep().map_err(|cause| layers_failed(&cause))?;
        self.blobs.collect(|_| false, BLOB_IDLE).map_err(|cause| blobs_failed(&cause))?;
        Ok(retired)
    }

    /// Compares a layer's files with its name; the bytes of its archive.
    pub(super) fn check(&self, layer: &Digest) -> Result<u64> {
        let opened = self.snapshots.open_layer(layer).map_err(|cause| layers_failed(&cause))?;
        berth_image::check(layer, opened).map_err(|cause| match &cause {
            // They say themselves that it is.
            RecordError::Damaged(_)
            | RecordError::Digest { .. }
            | RecordError::File { .. }
            | RecordError::Differs { .. } => {
                let mut error = Error::because(ErrorKind::DataLoss, String::new(), &cause);
                error.message = error.causes.remove(0);
                error
            }
            _ => Error::because(ErrorKind::DataLoss, format!("layer {} is damaged", layer.short()), &cause),
        })
    }

    /// Takes one layer out of sight unless a snapshot stands on it. Nobody may make or take layers meanwhile.
    pub(super) fn set_aside(&self, layer: &Digest) -> Result<Option<Retired>> {
        let retire = || -> Result<Option<Retired>, SnapshotError> {
            for key in self.snapshots.keys()? {
                if self.snapshots.layers_of(&key)?.contains(layer) {
                    return Ok(None);
                }
            }
            self.retire(layer).map(Some)
        };
        retire().map_err(|cause| layers_failed(&cause))
    }

    /// Puts a whole layer where the damaged one of its name is. Containers that run go on; what is mounted from now on
    /// is the whole one. Nobody may make or take layers meanwhile.
    pub(super) fn mend(&self, layer: &Digest, whole: StagedLayer) -> Result<()> {
        self.snapshots.mend_layer(whole).map_err(|cause| layers_failed(&cause))?;
        // What is in memory of the damaged one is not right.
        self.mounts.forget(&self.data_root.join("layers").join(layer.hex()));
        Ok(())
    }

    /// Complete blobs that are not what their names say.
    pub(super) fn damaged_blobs(&self) -> Result<Vec<Digest>> {
        self.blobs.damaged().map_err(|cause| blobs_failed(&cause))
    }

    /// Removes blobs and parts of them that `needed` does not want and nobody uses now; how many bytes that gave back.
    pub(super) fn prune_blobs(&self, needed: impl Fn(&Digest) -> bool) -> Result<u64> {
        let pruned = self.blobs.collect(needed, Duration::ZERO).map_err(|cause| blobs_failed(&cause))?;
        Ok(pruned.bytes)
    }

    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.blobs.remove(digest).map(drop).map_err(|cause| blobs_failed(&cause))
    }

    /// Unpacks one archive as a layer.
    pub(super) fn unpack(&self, archive: &mut dyn Read) -> Result<Layer> {
        let unpacked = berth_image::unpack(&*self.snapshots, archive, None).map_err(|cause| unpack_failed(&cause))?;
        self.keep(unpacked.layer)
    }

    fn keep(&self, layer: StagedLayer) -> Result<Layer> {
        let kept = Layer { diff_id: layer.id, bytes: layer.bytes };
        self.snapshots.commit_layers(vec![layer]).map_err(|cause| layers_failed(&cause))?;
        Ok(kept)
    }

    fn layer(&self, diff_id: Digest) -> Result<Layer> {
        let bytes = self.snapshots.layer_bytes(&diff_id).map_err(|cause| layers_failed(&cause))?;
        let missing = || Error::internal(format!("layer {diff_id} is missing"));
        Ok(Layer { diff_id, bytes: bytes.ok_or_else(missing)? })
    }

    pub(super) fn load(
        &self,
        archive: &mut dyn Read,
        platform: Option<&str>,
        tell: &dyn Fn(Progress),
    ) -> Result<Vec<Loaded>> {
        let step = |at: berth_image::Loading| {
            tell(Progress::Step {
                id: at.id,
                action: "Loading layer".to_owned(),
                current_bytes: at.current_bytes,
                total_bytes: at.total_bytes,
            });
        };
        let failed = |cause: LoadError| match cause {
            LoadError::Platform(_) => Error::not_found(cause.to_string()),
            cause => full::or_here(of_archive(cause.is_archive()), "cannot load the archive", &cause),
        };
        let images = berth_image::load(&*self.snapshots, archive, platform, &step).map_err(failed)?;
        let known = |image: berth_image::Loaded| {
            let layers = image.layers.into_iter().map(|layer| self.layer(layer)).collect::<Result<Vec<_>>>()?;
            Ok(Loaded { config: image.config, layers, names: image.names, parent: image.parent })
        };
        images.into_iter().map(known).collect()
    }

    pub(super) fn save(&self, images: &[berth_image::ToSave], to: &mut dyn Write) -> Result<()> {
        berth_image::save(&*self.snapshots, images, to).map_err(|cause| match cause {
            // The client has gone: it knows.
            SaveError::Write(cause) => Error::because(ErrorKind::Cancelled, "cannot send the archive", &cause),
            cause => Error::because(ErrorKind::DataLoss, "cannot save the images", &cause),
        })
    }

    /// A container's changes as a layer; `None` where there are none.
    pub(super) fn commit(&self, key: &str) -> Result<Option<Layer>> {
        let Rootfs::Overlay(overlay) = self.rootfs(key)? else { return Ok(None) };
        let Some(upper) = overlay.upper.clone() else { return Ok(None) };
        let image = Root::of_image(&Rootfs::Overlay(overlay))
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot open the container's image", &cause))?;
        let made_for_mounting = crate::files::made_for_mounting(&upper.upper, &image);
        let leave_out = |path: &Path| made_for_mounting.contains(&path);
        let made = berth_image::unpack_changes(&*self.snapshots, &upper.upper, &leave_out);
        let made = made.map_err(|cause| commit_failed("cannot commit the container", &cause))?;
        made.map(|unpacked| self.keep(unpacked.layer)).transpose()
    }

    /// What was written into a snapshot that nobody uses any more becomes a layer by a rename; `None` where there
    /// is nothing.
    pub(super) fn adopt(&self, key: &str) -> Result<Option<Layer>> {
        let made = berth_image::adopt_changes(&*self.snapshots, key);
        let made = made.map_err(|cause| commit_failed("cannot keep what the step wrote", &cause))?;
        made.map(|unpacked| self.keep(unpacked.layer)).transpose()
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}
