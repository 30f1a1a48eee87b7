//! Builds, through both doors: `berth build` and docker's client without BuildKit.
#![allow(clippy::unwrap_used, reason = "a test program; clippy knows only #[test] functions as tests")]

mod cache;
mod common;
mod copying;
mod failures;
mod hostile;
mod language;
mod mounts;
mod outputs;
