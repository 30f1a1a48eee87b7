//! `stats`: a container's meters.

use super::{Containers, StatsOptions, StatsStream};
use berth_types::{Error, Result};

impl Containers {
    /// Its meters.
    pub async fn stats(&self, container: &str, options: StatsOptions) -> Result<StatsStream> {
        let _ = (&self.engine, container, options);
        Err(Error::not_implemented("stats"))
    }
}
