//! `logs`: what a container wrote.

use super::{Containers, LogOptions, LogStream};
use berth_types::{Error, Result};

impl Containers {
    /// Its log.
    pub async fn logs(&self, container: &str, options: LogOptions) -> Result<LogStream> {
        let _ = (&self.engine, container, options);
        Err(Error::not_implemented("logs"))
    }
}
