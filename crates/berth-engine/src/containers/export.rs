//! `export`: a container's whole file system as one archive.
//!
//! The layers and the changes over them, without anything mounted there, whether it runs or not.

use super::archive::{blocking, stream, whole};
use super::{ByteStream, Containers};
use crate::files::Root;
use berth_types::{Error, ErrorKind, Result};

impl Containers {
    /// Its whole file system as a tar archive.
    pub async fn export(&self, container: &str) -> Result<ByteStream> {
        let archive = self.export_of(container).await?;
        self.tell_read(container, "export");
        Ok(archive)
    }

    async fn export_of(&self, container: &str) -> Result<ByteStream> {
        let inspect = self.inspect(container, false).await?;
        if crate::guests::is_guest(&inspect.spec) {
            return crate::guests::export(&self.engine, inspect).await;
        }
        let rootfs = inspect.rootfs.ok_or_else(|| super::no_files(&inspect.name))?;
        let root = blocking(move || {
            Root::of_layers(&rootfs)
                .map_err(|error| Error::because(ErrorKind::Internal, "cannot open the container's files", &error))
        })
        .await?;
        Ok(stream(move |sink| whole(&root, sink)))
    }
}
