//! A started engine for tests: scratch folders, the built programs, the real clients, and waiting with a deadline.
//!
//! ```no_run
//! let Some(engine) = berth_testkit::Engine::start("ports") else { return };   // says "skipped: ..." by itself
//! engine.docker(["run", "--rm", "tiny", "true"]).success();
//! ```
//!
//! With `BERTH_TEST_ISOLATION=vm` every container has a machine of its own, where a kernel for them can be had.
//! With `BERTH_KEEP` set, the folders of a test that failed stay for a look.
//!
//! Each engine has a data root, exec root, socket, bridge and cgroup parent of its own. Dropping it removes every
//! container through the API, ends the engine, and fails the test if a mount, process, cgroup, interface or
//! folder of it is left; then it takes away what an engine keeps for the next one.

mod api;
mod client;
mod df;
mod engine;
pub mod guests;
mod leftovers;
mod link;
mod output;
mod random;
mod registry;
mod server;
mod sshd;
mod token;

pub use api::{Exchange, Remote, Response, frames};
pub use client::Client;
pub use df::du;
pub use engine::{Engine, kill, parent_of, tiny_archive};
pub use link::Link;
pub use output::Output;
pub use random::{Random, setting};
pub use registry::Registry;
pub use server::{Reply, Request, Server};
pub use sshd::Sshd;
pub use token::TokenServer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for anything in tests; generous because test machines are small and busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// With `BERTH_TEST_ISOLATION=vm` all containers that tests make have machines of their own (docs/machines.md).
pub fn in_machines() -> bool {
    std::env::var_os("BERTH_TEST_ISOLATION").is_some_and(|value| value == "vm")
}

/// Whether every container has a machine; says `why` what follows in a test is nothing for one. What users meet of it stands
/// in the table of docs/machines.md.
pub fn not_in_a_machine(why: &str) -> bool {
    if in_machines() {
        eprintln!("not in a machine: {why}");
    }
    in_machines()
}

/// [`DEADLINE`], or more where every container brings a kernel with it that may be emulated.
pub fn deadline() -> Duration {
    if in_machines() { 10 * DEADLINE } else { DEADLINE }
}

/// Polls `condition` until it holds; panics naming `what` after [`deadline`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = deadline();
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A block device of the host, for limits that name one; `None` where it has none.
pub fn disk() -> Option<String> {
    let names = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = names.filter(|name| !name.starts_with("loop") && !name.starts_with("zram")).min()?;
    Some(format!("/dev/{name}"))
}

/// The folder of the built programs: that of the running test's own profile.
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let deps = test.parent().expect("a program lies in a folder");
    deps.parent().expect("test programs lie in target/<profile>/deps").to_owned()
}

/// A plugin of docker's client: the file that the variable `named` names, or the one in Docker's plugin folders.
pub fn docker_plugin(name: &str, named: &str) -> Option<PathBuf> {
    let folders = ["/usr/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker", "/usr/local/libexec/docker"];
    let standard = folders.iter().map(|folder| PathBuf::from(folder).join("cli-plugins").join(name));
    std::env::var_os(named).map(PathBuf::from).into_iter().chain(standard).find(|path| path.exists())
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
