//! Virtual machines: real QEMU, guests of a few hundred bytes.
#![allow(clippy::unwrap_used, reason = "a test program; clippy knows only #[test] functions as tests")]

mod agent;
mod boot;
mod bootable;
mod disks;
mod guests;
mod life;
mod memory;
mod network;
mod scale;
mod trouble;

use berth_testkit::{Client, Engine};
use serde_json::Value;
use std::path::Path;

/// An engine where machines run; says why where they do not.
#[expect(clippy::print_stderr, reason = "a test says that it is skipped")]
pub(crate) fn start(name: &str) -> Option<Engine> {
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        eprintln!("skipped: needs qemu-system-x86");
        return None;
    }
    if !berth_testkit::programs().join("berth-vmm").exists() {
        eprintln!("skipped: needs the built programs: cargo build --workspace --bins");
        return None;
    }
    Engine::start(name)
}

pub(crate) fn view(engine: &Engine, machine: &str) -> Value {
    engine.api("GET", &format!("/api/v1/machines/{machine}"), "").expect(200).json()
}

pub(crate) fn state(engine: &Engine, machine: &str) -> String {
    view(engine, machine)["state"].as_str().expect("a state").to_owned()
}

/// Until the serial line's log has this text so many times.
#[track_caller]
pub(crate) fn wait_for_text(engine: &Engine, machine: &str, text: &str, times: usize) {
    let mut seen = String::new();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while seen.matches(text).count() < times {
        assert!(
            std::time::Instant::now() < deadline,
            "{machine} did not write {text:?} {times} times:\n{seen}\n{}\n{}",
            view(engine, machine),
            engine.log()
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
        seen = engine.berth(["vm", "logs", machine]).success();
    }
}

/// Ends every machine; the engine's own end looks for what they left.
pub(crate) fn clear(engine: &Engine) {
    let all = engine.api("GET", "/api/v1/machines", "").expect(200).json();
    for machine in all.as_array().expect("a list") {
        engine.berth(["vm", "rm", "-f", machine["name"].as_str().expect("a name")]).success();
    }
    let folder = engine.root().join("data/machines");
    for shared in ["bases", "moments"] {
        let entries = std::fs::read_dir(folder.join(shared)).into_iter().flatten().flatten();
        let left: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(left.is_empty(), "{shared} that nobody has: {left:?}");
    }
    let left: Vec<String> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !["acceleration.json", "bases", "jail", "moments"].contains(&name.as_str()))
        .collect();
    assert!(left.is_empty(), "machines' folders: {left:?}");
}

/// Types at a console that is held open.
pub(crate) fn console(engine: &Engine, machine: &str) -> Client {
    engine.berth_on_terminal(["vm", "console", machine])
}

/// The disk's counter as the next boot shows it.
pub(crate) fn boots(engine: &Engine, machine: &str, letter: &str) {
    let before = engine.berth(["vm", "logs", machine]).success().matches(letter).count();
    engine.berth(["vm", "start", machine]).success();
    wait_for_text(engine, machine, letter, before + 1);
    engine.berth(["vm", "stop", "-t", "0", machine]).success();
}
