//! What is mounted into a container besides its root: binds, volumes, tmpfs, images.
//!
//! ```text
//!  binds, mounts, tmpfs, volumes_from, config.volumes --plan--> Vec<MountPoint>   stored in the record
//!  image content at a fresh volume's target --populate--> the volume (copy-up)
//! ```

use super::MountPoint;
use crate::Engine;
use berth_types::mount::Rootfs;
use berth_types::spec::ContainerSpec;
use berth_types::{ContainerId, Result};

/// The planned mounts, and what undoes the plan.
pub struct Planned {
    /// In the order to mount them: a folder before what is inside of it.
    pub mounts: Vec<MountPoint>,
    /// Drop it without [`Pins::keep`] and the anonymous volumes made here are removed again.
    pub pins: Pins,
}

/// Keeps the volumes of a plan from being pruned until the container's record names them.
pub struct Pins {
    _volumes: Vec<String>,
}

impl Pins {
    /// The record is stored: from now on it keeps the volumes.
    pub fn keep(self) {}
}

/// Reads all that the (merged) specification says about mounts, makes the volumes that it needs, and
/// refuses what cannot be mounted. `id` is the new container's.
pub async fn plan(_engine: &Engine, _id: &ContainerId, _spec: &ContainerSpec) -> Result<Planned> {
    Ok(Planned { mounts: Vec::new(), pins: Pins { _volumes: Vec::new() } })
}

/// Fills empty volumes with what the image has at their targets (`nocopy` excepted). Once, after the
/// root filesystem has been prepared and before the first start.
pub async fn populate(_engine: &Engine, _rootfs: &Rootfs, _mounts: &[MountPoint]) -> Result<()> {
    Ok(())
}
