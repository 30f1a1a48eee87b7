//! `diff`: what a container changed against its image.

use super::{Change, Containers};
use berth_types::{Error, Result};

impl Containers {
    /// What it changed against its image.
    pub async fn changes(&self, container: &str) -> Result<Vec<Change>> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("changes"))
    }
}
