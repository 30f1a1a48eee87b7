//! A started engine for tests: scratch folders, the built programs, the real clients, and waiting with a deadline.
//!
//! ```no_run
//! let Some(engine) = berth_testkit::Engine::start("ports") else { return };   // says "skipped: ..." by itself
//! engine.docker(["run", "--rm", "tiny", "true"]).success();
//! ```
//!
//! With `BERTH_KEEP` set, the folders of a test that failed stay for a look.
//!
//! Each engine has a data root, exec root, socket, bridge and cgroup parent of its own. Dropping it removes every
//! container through the API, ends the engine, and fails the test if a mount, process, cgroup, interface or
//! folder of it is left; then it takes away what an engine keeps for the next one.

mod api;
mod client;
mod engine;
mod leftovers;
mod link;
mod output;
mod registry;
mod server;
mod token;

pub use api::{Exchange, Remote, Response, frames};
pub use client::Client;
pub use engine::{Engine, kill, parent_of, tiny_archive};
pub use link::Link;
pub use output::Output;
pub use registry::Registry;
pub use server::{Reply, Request, Server};
pub use token::TokenServer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for anything in tests; generous because test machines are small and busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds; panics naming `what` after [`DEADLINE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The folder of the built programs: that of the running test's own profile.
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let deps = test.parent().expect("a program lies in a folder");
    deps.parent().expect("test programs lie in target/<profile>/deps").to_owned()
}

/// Why tests that make containers cannot run here, if they cannot.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if !PathBuf::from("/bin/busybox").exists() {
        return Some("needs busybox-static");
    }
    if !["berthd", "berth-shim", "berth-dns"].iter().all(|program| programs().join(program).exists()) {
        return Some("needs the built programs: cargo build --workspace --bins");
    }
    None
}
