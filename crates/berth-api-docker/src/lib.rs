//! The Docker Engine API: translates, nothing more.
//!
//! ```text
//! connection -> version prefix -> route -> parse -> one call of the engine -> render
//! ```
//!
//! Versions [`version::OLDEST`] to [`version::CURRENT`] are spoken, with or without `/v1.NN` in front.
//! Every failure is `{"message": ...}` with a status from one table ([`error`]). Bodies are read with
//! limits and with the leniency that Go's `encoding/json` has (keys in any case, `null` is absent,
//! unknown keys are ignored). No handler holds a lock, looks at a path, or finds a second object.

#![cfg_attr(test, recursion_limit = "256")]

pub mod error;
pub mod json;
pub mod params;
pub mod server;
pub mod version;

mod absent;
mod build;
mod buildkit;
mod containers;
mod events;
mod images;
mod networks;
mod secrets;
mod spec;
mod system;
mod time;
mod usage;
mod volumes;

pub use server::{Listener, router, serve};
