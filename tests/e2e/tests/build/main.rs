//! Builds, through all doors: `berth build`, docker's client without BuildKit, and buildx where it is.
#![allow(clippy::unwrap_used, reason = "a test program; clippy knows only #[test] functions as tests")]

mod buildx;
mod cache;
mod common;
mod copying;
mod elsewhere;
mod failures;
mod hostile;
mod language;
mod mounts;
mod outputs;
mod posted;
mod remote;
mod terminal;
mod trouble;
mod wire;
