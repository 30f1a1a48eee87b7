//! `export`: a container's whole file system as one archive.

use super::{ByteStream, Containers};
use berth_types::{Error, Result};

impl Containers {
    /// Its whole file system as a tar archive.
    pub async fn export(&self, container: &str) -> Result<ByteStream> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("export"))
    }
}
