//! `top`: a container's processes by the host's `ps`.

use super::{Containers, Top};
use berth_types::{Error, Result};

impl Containers {
    /// Its processes by the host's `ps`; empty arguments mean `-ef`.
    pub async fn top(&self, container: &str, ps_arguments: &str) -> Result<Top> {
        let _ = (&self.engine, container, ps_arguments);
        Err(Error::not_implemented("top"))
    }
}
