//! `cp` both ways: tar archives out of and into a container, contained to its root.

use super::{Archive, ArchivePut, ByteSource, Containers, PathStat};
use berth_types::{Error, Result};

impl Containers {
    /// A file or folder of it as a tar archive.
    pub async fn archive_get(&self, container: &str, path: &str) -> Result<Archive> {
        let _ = (&self.engine, container, path);
        Err(Error::not_implemented("archive_get"))
    }

    /// What is at `path`; a final link is not followed.
    pub async fn archive_stat(&self, container: &str, path: &str) -> Result<PathStat> {
        let _ = (&self.engine, container, path);
        Err(Error::not_implemented("archive_stat"))
    }

    /// Unpacks a tar archive (plain, gzip, zstd) into a folder of it.
    pub async fn archive_put(&self, container: &str, path: &str, options: ArchivePut, body: ByteSource) -> Result<()> {
        let _ = (&self.engine, container, path, options, body);
        Err(Error::not_implemented("archive_put"))
    }
}
