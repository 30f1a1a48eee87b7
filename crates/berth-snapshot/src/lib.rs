//! Layers and snapshots of file systems.
//!
//! ```text
//!  begin_layer -> LayerWriter --entry, write--> settle -> finish -> StagedLayer --commit_layers--> layer <id>
//!                                                                                                  |   |
//!  prepare(key, layers) -> Rootfs: the layers and a place to write ---- rootfs(key) -- remove(key) |   |
//!  adopt(key) -> AdoptedLayer: what was written into a snapshot -- finish -> StagedLayer               |   |
//!  view(layers) -> Rootfs, read-only --------------------------------------------------------------'   |
//!  open_layer(id) -> LayerReader: a layer's files one by one, and the record of its archive -----------'
//! ```
//!
//! A layer is what one archive changes: files, and whiteouts for what it deletes from the layers below. It is
//! named by the digest of its archive and never changes. A snapshot is some layers and a place to write. Drivers
//! answer mounts as data ([`Rootfs`]); they never mount.
//!
//! A layer becomes visible by a rename after everything in it is on the disk: a crash or a power cut at any
//! moment leaves whole layers, and folders that [`Snapshotter`]'s next opening removes. A snapshot appears by
//! a rename too. Everything may be used from several threads at once; who removes a layer sees to it that
//! nobody needs it.
//!
//! Every driver passes [`snapshot_contract_tests!`]. The trait says nothing about how a layer lies on the disk:
//! a folder of files, or one EROFS image per layer ([`LayerForm`]).

mod contract;
mod erofs;
mod layer;
mod overlay;

pub use contract::checks;
pub use layer::{
    AdoptedLayer, Content, Displaced, Entry, Found, LayerReader, LayerWriter, Look, Meta, Probe, Retired, StagedLayer,
};
pub use overlay::{LayerForm, OverlayDriver};

pub use berth_sys::disk_usage::TreeUsage;
use berth_types::Digest;
use berth_types::mount::Rootfs;
use std::io;
use std::path::PathBuf;

/// A step with layers or snapshots that failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {action} {}", path.display())]
    Step {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot make {}: {why}", path.display())]
    Refused { path: PathBuf, why: &'static str },
    #[error("there is no layer {0}")]
    NoLayer(Digest),
    #[error("there is no snapshot {0}")]
    NoSnapshot(String),
    #[error("snapshot {key} is damaged: {why}")]
    Damaged { key: String, why: &'static str },
    #[error("{0:?} is no name for a snapshot")]
    Key(String),
}

impl SnapshotError {
    /// An entry asked for something that no layer may have.
    pub fn is_refusal(&self) -> bool {
        matches!(self, SnapshotError::Refused { .. })
    }
}

/// An EROFS image outside of any driver, written in `folder`, which goes with it: [`StagedLayer::into_probe`] tells the
/// file that can be taken from there.
pub fn write_image(folder: PathBuf) -> Result<Box<dyn LayerWriter>> {
    Ok(Box::new(erofs::Writer::begin(folder)?))
}

pub type Result<T, E = SnapshotError> = std::result::Result<T, E>;

pub(crate) fn step(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.into();
    move |cause| SnapshotError::Step { action, path, cause }
}

/// A folder for root alone; whether it was there does not matter.
pub(crate) fn make_folder(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(step("make", path))
}

pub(crate) fn shown(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path).into()
}

/// Layers and snapshots of one engine.
pub trait Snapshotter: Send + Sync {
    /// Begins a layer.
    fn begin_layer(&self) -> Result<Box<dyn LayerWriter>>;

    /// Makes layers visible, durably: all of them reach the disk first. One that is here already stays as it is.
    fn commit_layers(&self, layers: Vec<StagedLayer>) -> Result<()>;

    /// Puts a layer, durably, where a damaged one of its name may lie. Who has that mounted goes on, and sees it
    /// put right as far as files can be that are in use; who mounts the layer from now on sees `layer`.
    fn mend_layer(&self, layer: StagedLayer) -> Result<()>;

    /// What a layer takes on the disk; `None` where there is none of that name.
    fn layer_bytes(&self, id: &Digest) -> Result<Option<u64>>;

    fn open_layer(&self, id: &Digest) -> Result<Box<dyn LayerReader>>;

    fn layers(&self) -> Result<Vec<Digest>>;

    /// Takes a layer out of sight; nothing happens where there is none.
    fn remove_layer(&self, id: &Digest) -> Result<Retired>;

    /// Makes the snapshot `key` on `layers`, lowest first. The same again answers the same.
    fn prepare(&self, key: &str, layers: &[Digest]) -> Result<Rootfs>;

    fn rootfs(&self, key: &str) -> Result<Rootfs>;

    /// Says of a root file system that was answered earlier where its layers are now: one that was mended may have
    /// another form.
    fn refresh(&self, rootfs: &mut Rootfs);

    /// Takes what was written into a snapshot out of it, to be a layer. Nobody has it mounted any more; of the
    /// snapshot only its name is left, for [`Snapshotter::remove`].
    fn adopt(&self, key: &str) -> Result<Box<dyn AdoptedLayer>>;

    /// The layers that a snapshot stands on, lowest first.
    fn layers_of(&self, key: &str) -> Result<Vec<Digest>>;

    /// Layers alone, read-only.
    fn view(&self, layers: &[Digest]) -> Rootfs;

    /// Removes a snapshot; nothing happens where there is none.
    fn remove(&self, key: &str) -> Result<()>;

    fn keys(&self) -> Result<Vec<String>>;

    /// What was written into a snapshot.
    fn usage(&self, key: &str) -> Result<TreeUsage>;

    /// Forgets what the driver keeps beside layers and snapshots and nothing needs any more.
    fn tidy(&self) -> Result<()>;
}
