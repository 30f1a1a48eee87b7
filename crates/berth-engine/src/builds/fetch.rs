//! `ADD` from elsewhere.

use crate::Engine;
use berth_build::{Remote, Tree};
use berth_types::{Error, Result};
use std::path::Path;
use std::sync::Arc;

pub(crate) async fn fetch(_engine: &Engine, what: &Remote, _scratch: &Path) -> Result<Arc<dyn Tree>> {
    let url = match what {
        Remote::Http { url, .. } | Remote::Git { url, .. } => url,
    };
    Err(Error::not_implemented(format!("cannot fetch {url}: this engine fetches nothing")))
}
