//! Layers and folders reach the disk.

use crate::erofs::IMAGE;
use crate::layer::StagedLayer;
use crate::{Result, step};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

pub(super) fn folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(step("sync", path))
}

/// Waits until `layers`, which lie in the folder `opened`, are on the disk.
pub(super) fn layers(layers: &[StagedLayer], opened: &File, path: &Path) -> Result<()> {
    if layers.iter().all(|layer| layer.folder.path.join(IMAGE).exists()) {
        return images(layers);
    }
    // One call for tens of thousands of files: syncing each would wait for the disk as many times.
    rustix::fs::syncfs(opened).map_err(|errno| step("sync", path)(errno.into()))
}

/// Layers that are images have few files: these, and nothing else of the file system. Packed layers on their way in go
/// when these are there, and what other programs write is not waited for.
fn images(layers: &[StagedLayer]) -> Result<()> {
    let mut files = Vec::new();
    for layer in layers {
        let folder = &layer.folder.path;
        for entry in std::fs::read_dir(folder).map_err(step("read", folder))? {
            let path = entry.map_err(step("read", folder))?.path();
            let file = File::open(&path).map_err(step("open", &path))?;
            // All at once: the first sync then takes the others along.
            berth_sys::writeback::begin(file.as_fd(), 0, 0);
            files.push((path, file));
        }
    }
    for (path, file) in files {
        file.sync_all().map_err(step("sync", path))?;
    }
    layers.iter().try_for_each(|layer| folder(&layer.folder.path))
}
