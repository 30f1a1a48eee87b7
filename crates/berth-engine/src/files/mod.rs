//! A container's files, seen from the engine: `berth-files`, with what lies over the root of one that does not run.

pub(crate) use berth_files::*;

use crate::containers::MountPoint;
use berth_types::mount::Rootfs;
use berth_types::spec::MountKind;

/// The root of a container that does not run, with its volumes and binds.
pub(crate) fn stopped(rootfs: &Rootfs, points: &[MountPoint], read_only: bool) -> Result<Root, FilesError> {
    let covers = points.iter().filter_map(|point| match (point.kind, &point.detail.file_system) {
        (MountKind::Bind, _) | (MountKind::Volume, None) => Some(Cover {
            target: &point.target,
            source: &point.source,
            subpath: &point.detail.subpath,
            read_only: !point.read_write,
        }),
        // What such a volume stands for is mounted only while somebody runs; as is a tmpfs.
        (MountKind::Volume | MountKind::Tmpfs | MountKind::Image | MountKind::Secret | MountKind::Config, _) => None,
    });
    Root::stopped(rootfs, &covers.collect::<Vec<_>>(), read_only)
}
