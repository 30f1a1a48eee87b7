//! Bad days: a disk that is full in the middle of a snapshot, an engine that is killed while it makes a machine.

use crate::{boots, clear, guests, start, state, wait_for_text};
use berth_testkit::{Engine, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A full disk: taken away with the value.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Small {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(at).status().unwrap();
        assert!(mounted.success());
        Small(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().unwrap();
    }
}

#[test]
fn a_snapshot_on_a_full_disk_is_none_and_its_machine_goes_on() {
    let Some(mut engine) = start("vm-full") else { return };
    engine.stop();
    let moments = engine.root().join("data/machines/moments");
    let small = Small::mount(&moments, "size=256k");
    engine.launch();
    let disk = guests::disk(&engine);
    engine.berth(["vm", "create", "--disk", disk.to_str().unwrap(), "-m", "64m", "--start", "one"]).success();
    wait_for_text(&engine, "one", "boot A", 1);
    let refused = engine.berth(["vm", "snapshot", "--memory", "one", "too-much"]).failure(1);
    assert!(refused.to_lowercase().contains("no space left") || refused.contains("full"), "{refused}");
    let all = |engine: &Engine| engine.api("GET", "/api/v1/machines/one/snapshots", "").expect(200).json();
    assert_eq!(all(&engine).as_array().unwrap().len(), 0, "half a snapshot");
    let left: Vec<_> = std::fs::read_dir(&moments).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "of what was not saved: {left:?}");
    // It runs, and hears its buttons.
    assert_eq!(state(&engine, "one"), "running");
    engine.berth(["vm", "reset", "one"]).success();
    wait_for_text(&engine, "one", "boot B", 1);
    // With room it is done, also after another engine came.
    drop(small);
    engine.restart_after_kill();
    engine.berth(["vm", "snapshot", "--memory", "one", "fits"]).success();
    assert_eq!(all(&engine)[0]["name"], "fits");
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "revert", "--disks-only", "one", "fits"]).success();
    boots(&engine, "one", "boot C");
    clear(&engine);
}

#[test]
fn an_engine_killed_while_it_makes_a_machine_leaves_all_of_it_or_nothing() {
    let Some(mut engine) = start("vm-cut") else { return };
    // Long enough to be killed in the middle of.
    const BYTES: usize = 96 << 20;
    let disk = guests::disk(&engine);
    let mut bytes = std::fs::read(&disk).unwrap();
    bytes.resize(BYTES, 0x5a);
    std::fs::write(&disk, &bytes).unwrap();
    let (path, machines) = (disk.to_str().unwrap().to_owned(), engine.root().join("data/machines"));
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    // The first byte is brought in; half of it is; the machine's own folder is there.
    let moments: [&dyn Fn() -> bool; 3] = [
        &|| !entries(&machines.join("bases")).is_empty(),
        &|| entries(&machines.join("bases")).iter().any(|one| one.metadata().is_ok_and(|meta| meta.len() >= 48 << 20)),
        &|| entries(&machines).iter().any(|one| one.file_name().is_some_and(|name| name.len() == 64)),
    ];
    for (round, moment) in moments.iter().enumerate() {
        let name = format!("cut-{round}");
        let make = |engine: &Engine| engine.berth_running(["vm", "create", "--disk", &path, "-m", "64m", &name]);
        let making = make(&engine);
        wait_until("it has come so far", moment);
        engine.restart_after_kill();
        making.wait();
        let there = engine.berth(["vm", "ls", "-q"]).success().lines().any(|one| one == name);
        if !there {
            let left: Vec<PathBuf> = entries(&machines.join("bases"));
            assert!(left.is_empty(), "round {round}: {left:?}");
            let again = make(&engine).wait();
            assert_eq!(again.code, 0, "round {round}: {again:?}");
        }
        boots(&engine, &name, "boot A");
        engine.berth(["vm", "rm", "-f", &name]).success();
        wait_until("its disk goes with it", || entries(&machines.join("bases")).is_empty());
    }
    clear(&engine);
}
