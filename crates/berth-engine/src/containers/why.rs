//! `why`: why a container is in the state that it is in.

use super::{Containers, Why};
use berth_types::{Error, Result};

impl Containers {
    /// Why it is in the state that it is in.
    pub async fn why(&self, container: &str) -> Result<Why> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("why"))
    }
}
