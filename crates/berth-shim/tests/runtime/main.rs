//! The runtime from outside: containers made, entered and ended through `berth-runtime`.
//!
//! Needs root and `/bin/busybox`; without, every test says "skipped" aloud. `RUNTIME=/usr/bin/crun cargo test`
//! runs the same tests against another runtime, to prove the tests; those of our own wording are then left out.
//! Each test has folders, ids and cgroups of its own, and looks for what its container left behind.

#![allow(clippy::unwrap_used, reason = "a test program; clippy knows only #[test] functions as tests")]

mod bundle;
mod cgroups;
mod entering;
mod hooks;
mod lifecycle;
mod mounts;
mod privileges;
mod program;
mod same;
mod security;
mod terminal;
mod users;
