//! Build caches that lie elsewhere: in a registry, a folder, an image.
//!
//! ```text
//!  --cache-from   read before the build: keys, and which layers they came to; a layer is fetched when its files are needed
//!  --cache-to     written after it: inline     the image's configuration says what each step came to
//!                                  registry   a manifest of its own, with the layers of the result, or of all stages (max)
//!                                  local      the same as a folder (an OCI layout), sent to the client as an archive
//!  config         the text of it
//! ```
//!
//! A cache that cannot be read is no reason to fail: it is said, and the build goes on without. What it says is taken
//! as the word of whoever may write there, as with an image that is pulled.

mod config;
mod export;
mod import;

pub(super) use config::inline;
pub(super) use export::export;
pub(super) use import::Imported;

use super::Caller;
use crate::images::Credentials;
use berth_types::{ImageName, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a build has to do with caches and registries elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    pub from: Vec<CacheFrom>,
    pub to: Vec<CacheTo>,
    /// Where none of `from` is there, nothing is known: as the classic builder has it.
    pub from_only: bool,
    /// By domain, for images that are pulled as well.
    pub credentials: BTreeMap<String, Credentials>,
}

impl Elsewhere {
    /// Those that came with the request, or the caller's.
    pub(super) async fn credentials(
        &self,
        name: &ImageName,
        caller: Option<&dyn Caller>,
    ) -> Result<Option<Credentials>> {
        match (self.credentials.get(name.domain()), caller) {
            (Some(given), _) => Ok(Some(given.clone())),
            (None, Some(caller)) => caller.credentials(name.domain()).await,
            (None, None) => Ok(None),
        }
    }

    /// Whether the image is to say what it was made of.
    pub(super) fn inline(&self) -> bool {
        self.to.iter().any(|to| matches!(to, CacheTo::Inline))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum CacheFrom {
    /// A cache's own manifest, or an image that carries one.
    Registry(ImageName),
    /// A folder of this host.
    Folder(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub enum CacheTo {
    Inline,
    /// `max`: the layers of all stages, not only those of the result.
    Registry {
        name: ImageName,
        max: bool,
    },
    Folder {
        max: bool,
    },
}
