//! Copy-up: a fresh volume starts with what the image has at its target.

use super::MountPoint;
use crate::Engine;
use crate::files::{self, Root};
use berth_types::mount::Rootfs;
use berth_types::spec::MountKind;
use berth_types::{Error, Result};
use std::path::Path;

/// Fills empty volumes with what the image has at their targets (`nocopy` excepted). Once, after the
/// root filesystem has been prepared and before the first start.
pub async fn populate(_engine: &Engine, rootfs: &Rootfs, mounts: &[MountPoint]) -> Result<()> {
    let wanted: Vec<MountPoint> = mounts.iter().filter(|point| wants(point)).cloned().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let rootfs = rootfs.clone();
    let work = move || fill(&rootfs, &wanted);
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("copy-up ended early: {error}"))),
    }
}

fn wants(point: &MountPoint) -> bool {
    point.kind == MountKind::Volume
        && point.detail.copy_up
        && point.detail.subpath.is_empty()
        && point.detail.file_system.is_none()
        && std::fs::read_dir(&point.source).is_ok_and(|mut entries| entries.next().is_none())
}

fn fill(rootfs: &Rootfs, points: &[MountPoint]) -> Result<()> {
    let root = Root::of_image(rootfs)
        .map_err(|cause| Error::because(berth_types::ErrorKind::Internal, "failed to populate volumes", &cause))?;
    for point in points {
        let target = Path::new(&point.target);
        let fail = |cause: files::FilesError| {
            let what = format!("failed to populate volume {}: cannot copy {}", point.name, point.target);
            Error::because(berth_types::ErrorKind::Internal, what, &cause)
        };
        let found = match root.find(target) {
            Ok(found) => found,
            Err(error) if error.is_absent() => continue,
            Err(error) => return Err(fail(error)),
        };
        if found.is_dir() {
            files::copy_folder(&found, &point.source).map_err(fail)?;
        }
    }
    Ok(())
}
