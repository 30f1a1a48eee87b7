//! `diff`: what a container changed against its image.

use super::archive::blocking;
use super::{Change, Containers};
use crate::files::{self, FilesError, Root};
use berth_types::mount::{Overlay, Rootfs};
use berth_types::{Error, ErrorKind, Result};

impl Containers {
    /// What it changed against its image.
    pub async fn changes(&self, container: &str) -> Result<Vec<Change>> {
        let inspect = self.inspect(container, false).await?;
        if crate::guests::is_guest(&inspect.spec) {
            return crate::guests::changes(&self.engine, inspect).await;
        }
        match inspect.rootfs {
            Some(Rootfs::Overlay(overlay)) => blocking(move || changes(&overlay)).await,
            None => Err(super::no_files(&inspect.name)),
            Some(Rootfs::Directory { .. }) => {
                Err(Error::conflict(format!("container {} has no layers to compare", inspect.name)))
            }
        }
    }
}

fn changes(overlay: &Overlay) -> Result<Vec<Change>> {
    let Some(upper) = &overlay.upper else { return Ok(Vec::new()) };
    let compare = || -> std::result::Result<Vec<Change>, FilesError> {
        files::changes(&upper.upper, Root::of_image(&Rootfs::Overlay(overlay.clone()))?)
    };
    compare()
        .map_err(|error| Error::because(ErrorKind::Internal, "cannot compare the container with its image", &error))
}
