//! Whole images as archives: what `docker save` writes and `docker load` reads.
//!
//! ```text
//! oci-layout  index.json                   OCI image layout: manifests by digest, names as annotations
//! manifest.json  repositories              Docker's own index of the same blobs
//! blobs/sha256/<hex>                       configurations, manifests, layers
//! <id>/layer.tar  <id>/json  <hex>.json    where older Dockers and podman have layers and configurations
//! ```

mod layout;
mod load;
mod save;

pub use load::{LoadError, Loaded, Loading, load};
pub use save::{SaveError, ToSave, save};
