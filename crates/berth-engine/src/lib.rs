//! What a user can ask for: containers, images, volumes, networks, events.
//!
//! ```text
//! <data-root>/lock                 held by the one engine that owns this folder
//! <data-root>/state.redb           records (berth-store)
//! <data-root>/containers/<id>/     hostname, hosts, resolv.conf, logs
//! <data-root>/volumes/<name>/_data
//! <data-root>/machines/            disks of machines, see [`machines`]
//! <exec-root>/shims/<id>/          what a shim needs without the engine (berth-shim-proto)
//! <exec-root>/netns/<id>           network namespaces
//! ```
//!
//! [`Engine`] is a cheap handle. Each container's changes happen under that container's own lock, one at a
//! time, and only [`berth_types::Phase::after`] makes a new phase; different containers never wait for each
//! other. The engine makes processes in one way only: it starts programs. It may be killed at any line: what
//! it was doing is finished or undone by the next engine that opens the same folders.

pub mod builds;
pub mod containers;
pub mod events;
mod files;
pub mod filters;
pub mod full;
pub mod guests;
pub mod host;
pub mod images;
pub mod machines;
pub mod networks;
pub mod oci;
pub mod secrets;
mod shim;
pub mod system;
pub mod volumes;

pub use engine::{Engine, EngineConfig};
pub use filters::Filters;

mod engine;
