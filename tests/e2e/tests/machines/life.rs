//! A machine from create to rm, over its engine's end, with its snapshots and clones, and in its jail.

use crate::guests::disk;
use crate::{boots, clear, console, start, state, view, wait_for_text};
use berth_testkit::{kill, wait_until};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

#[test]
fn a_machine_lives_from_create_to_rm() {
    let Some(engine) = start("vm-life") else { return };
    let disk = disk(&engine);
    let given = format!("{},size=8M", disk.display());
    engine.berth(["vm", "create", "--disk", &given, "-m", "64m", "--label", "tier=web", "one"]).success();
    assert_eq!(state(&engine, "one"), "created");
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "boot A", 1);
    let seen = view(&engine, "one");
    assert_eq!((seen["state"].as_str(), seen["cpus"].as_u64()), (Some("running"), Some(1)));
    assert_eq!((seen["memory_bytes"].as_u64(), seen["labels"]["tier"].as_str()), (Some(64 << 20), Some("web")));
    assert_eq!(seen["disks"][0]["size_bytes"].as_u64(), Some(8 << 20));
    assert!(engine.berth(["vm", "ls"]).success().contains("one"));
    // Docker's commands neither list it nor take its processes for a container's.
    assert!(!engine.docker(["ps", "-aq", "--no-trunc"]).success().contains(seen["id"].as_str().unwrap()));
    let refused = engine.docker(["exec", "one", "true"]);
    assert!(refused.code != 0 && refused.stderr.contains("the guest's agent does not answer"), "{refused:?}");
    let silent = engine.berth(["vm", "start", "--wait", "--wait-timeout", "1", "one"]).failure(1);
    assert!(silent.contains("no agent of its guest has answered") && silent.contains("boot A"), "{silent}");
    engine.docker(["cp", "one:/etc/passwd", "-"]).failure(1);
    engine.docker(["commit", "one"]).failure(1);

    engine.berth(["vm", "reset", "one"]).success();
    wait_for_text(&engine, "one", "boot B", 1);
    engine.berth(["vm", "pause", "one"]).success();
    assert_eq!(state(&engine, "one"), "paused");
    let refused = engine.berth(["vm", "reset", "one"]).failure(1);
    assert!(refused.contains("berth vm resume one"), "{refused}");
    engine.berth(["vm", "resume", "one"]).success();

    // This guest has no ear for the power button: the plug is pulled after the grace.
    engine.berth(["vm", "stop", "-t", "1", "one"]).success();
    assert_eq!(state(&engine, "one"), "exited");
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "boot C", 1);
    let refused = engine.berth(["vm", "rm", "one"]).failure(1);
    assert!(refused.contains("running"), "{refused}");
    engine.docker(["container", "prune", "-f"]).success();
    engine.berth(["vm", "kill", "one"]).success();
    wait_until("its end", || state(&engine, "one") == "exited");
    engine.docker(["container", "prune", "-f"]).success();
    engine.berth(["vm", "rename", "one", "two"]).success();
    engine.berth(["vm", "rm", "two"]).success();
    engine.berth(["vm", "inspect", "two"]).failure(1);
    clear(&engine);
}

#[test]
fn a_guest_that_switches_itself_off_has_ended_well_and_its_disk_keeps_what_it_wrote() {
    let Some(engine) = start("vm-off") else { return };
    let disk = disk(&engine);
    let path = disk.to_str().unwrap();
    // Two machines from one file share its bytes and none of their writes.
    for name in ["left", "right"] {
        engine.berth(["vm", "create", "--disk", path, "-m", "64m", "--start", name]).success();
    }
    let bases = std::fs::read_dir(engine.root().join("data/machines/bases")).unwrap().count();
    assert_eq!(bases, 1);
    wait_for_text(&engine, "left", "boot A", 1);
    let mut line = console(&engine, "left");
    line.send("q");
    wait_until("the guest has switched itself off", || state(&engine, "left") == "exited");
    assert_eq!(view(&engine, "left")["exit_code"].as_i64(), Some(0));
    engine.berth(["vm", "start", "left"]).success();
    wait_for_text(&engine, "left", "boot B", 1);
    wait_for_text(&engine, "right", "boot A", 1);
    engine.berth(["vm", "restart", "-t", "0", "right"]).success();
    wait_for_text(&engine, "right", "boot B", 1);
    assert_eq!(std::fs::read(&disk).unwrap()[512], 0, "the file that they came from is untouched");
    clear(&engine);
}

#[test]
fn a_machine_outlives_its_engine_and_its_console_comes_back() {
    let Some(mut engine) = start("vm-outlives") else { return };
    let disk = disk(&engine);
    engine.berth(["vm", "create", "--disk", disk.to_str().unwrap(), "-m", "64m", "--start", "box"]).success();
    wait_for_text(&engine, "box", "boot A", 1);
    let mut line = console(&engine, "box");
    // Before it is connected the terminal itself shows what is typed: once, and the guest does it again.
    wait_until("the guest repeats what is typed", || {
        line.send("before");
        std::thread::sleep(std::time::Duration::from_millis(200));
        line.stdout().matches("before").count() > 3
    });
    engine.restart_after_kill();
    assert_eq!(state(&engine, "box"), "running");
    // The first bytes may be typed into the connection that is just breaking: typed until they come back.
    wait_until("the console is back", || {
        line.send("after");
        std::thread::sleep(std::time::Duration::from_millis(200));
        line.stdout().contains("after")
    });
    // Nothing but the one boot: the machine has not noticed.
    assert_eq!(engine.berth(["vm", "logs", "box"]).success().matches("boot ").count(), 1);
    engine.berth(["vm", "reset", "box"]).success();
    wait_for_text(&engine, "box", "boot B", 1);

    // QEMU killed under the engine: an end with a code, and it starts again.
    let pid = engine.pid_of("box");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    kill(children.trim().parse().unwrap());
    wait_until("its end", || state(&engine, "box") == "exited");
    assert_eq!(view(&engine, "box")["exit_code"].as_i64(), Some(137));
    engine.berth(["vm", "start", "box"]).success();
    wait_for_text(&engine, "box", "boot C", 1);
    engine.reboot();
    engine.launch();
    wait_until("the engine knows that it ended", || state(&engine, "box") == "exited");
    engine.berth(["vm", "start", "box"]).success();
    wait_for_text(&engine, "box", "boot D", 1);
    clear(&engine);
}

#[test]
fn a_machine_is_asked_right_after_its_start() {
    let Some(engine) = start("vm-at-once") else { return };
    let disk = disk(&engine);
    engine.berth(["vm", "create", "--disk", &disk.to_string_lossy(), "-m", "64m", "one"]).success();
    for turn in 0..5 {
        // Its monitor is not there yet when the start is answered.
        engine.berth(["vm", "start", "one"]).success();
        engine.berth(["vm", "snapshot", "one", &format!("at-{turn}")]).success();
        let id = view(&engine, "one")["id"].as_str().unwrap().to_owned();
        let sockets = std::fs::metadata(engine.root().join("run/machines").join(id)).unwrap();
        assert_eq!(sockets.permissions().mode() & 0o7777, 0o700, "whoever reaches the sockets commands the machine");
        engine.berth(["vm", "kill", "one"]).success();
        wait_until("it has ended", || state(&engine, "one") == "exited");
    }
    clear(&engine);
}

#[test]
fn snapshots_are_a_tree_and_clones_share_nothing_but_the_past() {
    let Some(engine) = start("vm-history") else { return };
    let disk = disk(&engine);
    engine.berth(["vm", "create", "--disk", disk.to_str().unwrap(), "-m", "64m", "one"]).success();
    boots(&engine, "one", "boot A");
    engine.berth(["vm", "snapshot", "one", "after-a"]).success();
    engine.berth(["vm", "snapshot", "one", "x"]).success();
    engine.berth(["vm", "forget", "one", "x"]).success();
    engine.berth(["vm", "snapshot", "one", ".x"]).failure(1);
    let refused = engine.berth(["vm", "snapshot", "one", "after-a"]).failure(1);
    assert!(refused.contains("already"), "{refused}");
    boots(&engine, "one", "boot B");
    // Live: the guest does not notice, and what it writes later is not in it.
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "boot C", 1);
    engine.berth(["vm", "snapshot", "one", "after-c"]).success();
    engine.berth(["vm", "reset", "one"]).success();
    wait_for_text(&engine, "one", "boot D", 1);
    let refused = engine.berth(["vm", "revert", "one", "after-a"]).failure(1);
    assert!(refused.contains("berth vm stop one"), "{refused}");
    // A clone of a running machine begins with what its disk holds.
    engine.berth(["vm", "clone", "one", "two"]).success();
    boots(&engine, "two", "boot E");
    engine.berth(["vm", "kill", "one"]).success();
    wait_until("its end", || state(&engine, "one") == "exited");
    engine.berth(["vm", "revert", "one", "after-c"]).success();
    boots(&engine, "one", "boot D");
    engine.berth(["vm", "revert", "one", "after-a"]).success();
    boots(&engine, "one", "boot B");
    engine.berth(["vm", "snapshot", "one", "other-b"]).success();
    let parents: Vec<(String, String)> = {
        let all = engine.api("GET", "/api/v1/machines/one/snapshots", "").expect(200).json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["parent"]))).collect()
    };
    let want = [("after-a", ""), ("after-c", "after-a"), ("other-b", "after-a")];
    assert_eq!(parents, want.map(|(name, parent)| (name.to_owned(), parent.to_owned())));
    assert!(engine.berth(["vm", "snapshots", "one"]).success().contains("other-b *"));
    // From the middle: what comes after it stays.
    engine.berth(["vm", "forget", "one", "after-a"]).success();
    engine.berth(["vm", "revert", "one", "after-c"]).success();
    boots(&engine, "one", "boot D");
    engine.berth(["vm", "revert", "one", "after-a"]).failure(1);
    // The origin goes; the clone has all that it stands on.
    engine.berth(["vm", "rm", "one"]).success();
    boots(&engine, "two", "boot F");
    clear(&engine);
}

#[test]
fn a_machine_grows_while_it_runs_where_it_can() {
    let Some(engine) = start("vm-grows") else { return };
    let disk = disk(&engine);
    engine.berth(["vm", "create", "--disk", disk.to_str().unwrap(), "-m", "64m", "--start", "one"]).success();
    wait_for_text(&engine, "one", "boot A", 1);
    let size = |bytes: u64| assert_eq!(view(&engine, "one")["disks"][0]["size_bytes"].as_u64(), Some(bytes));
    engine.berth(["vm", "update", "--disk", "disk0=16M", "one"]).success();
    size(16 << 20);
    let later = engine.berth(["vm", "update", "-c", "2", "-m", "96m", "one"]);
    assert!(later.stderr.contains("2 processors: from its next start on"), "{later:?}");
    for (wrong, says) in [("disk0=1M", "does not shrink"), ("disk7=1G", "has no disk"), ("disk0=16777217", "sectors")] {
        let refused = engine.berth(["vm", "update", "--disk", wrong, "one"]).failure(1);
        assert!(refused.contains(says), "{wrong}: {refused}");
    }
    engine.berth(["vm", "update", "-m", "1m", "one"]).failure(1);
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "update", "--disk", "disk0=32M", "one"]).success();
    size(32 << 20);
    boots(&engine, "one", "boot B");
    let seen = view(&engine, "one");
    assert_eq!((seen["cpus"].as_u64(), seen["memory_bytes"].as_u64()), (Some(2), Some(96 << 20)));
    clear(&engine);
}

#[test]
fn a_template_is_cloned_and_can_be_removed_before_its_clones() {
    let Some(mut engine) = start("vm-template") else { return };
    let disk = disk(&engine);
    let path = disk.to_str().unwrap();
    engine.berth(["vm", "create", "--disk", path, "-m", "64m", "-p", "0:80", "golden"]).success();
    boots(&engine, "golden", "boot A");
    engine.berth(["vm", "template", "golden"]).success();
    let refused = engine.berth(["vm", "start", "golden"]).failure(1);
    assert!(refused.contains("template") && refused.contains("berth vm clone golden"), "{refused}");
    assert!(engine.berth(["vm", "ls"]).success().contains("Template"));
    engine.berth(["vm", "clone", "golden", "left", "right"]).success();
    let (left, right) = (view(&engine, "left"), view(&engine, "right"));
    assert_ne!(left["id"], right["id"]);
    engine.restart_after_kill();
    engine.berth(["vm", "rm", "golden"]).success();
    boots(&engine, "left", "boot B");
    boots(&engine, "left", "boot C");
    boots(&engine, "right", "boot B");
    clear(&engine);
}

#[test]
fn a_machine_is_jailed() {
    let Some(engine) = start("vm-jail") else { return };
    let disk = disk(&engine);
    engine.berth(["vm", "create", "--disk", disk.to_str().unwrap(), "-m", "64m", "--start", "box"]).success();
    wait_for_text(&engine, "box", "boot A", 1);
    let pid = engine.pid_of("box");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let qemu: i32 = children.trim().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let uid: u32 = field("Uid:")[0].parse().unwrap();
    assert!((0x7000_0000..0x7100_0000).contains(&uid), "its own user: {uid}");
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("CapBnd:"), ["0000000000000000"]);
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), (vec!["2".to_owned()], vec!["1".to_owned()]));
    let root = PathBuf::from(format!("/proc/{qemu}/root"));
    assert!(!root.join("etc/shadow").exists() && !root.join("root").exists() && !root.join("var/lib").exists());
    assert!(std::fs::read_dir(root.join("bases")).unwrap().count() == 1);
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of("self"), of(&qemu.to_string()), "{kind}");
    }
    clear(&engine);
}

#[test]
fn disks_that_would_open_other_files_are_refused() {
    let Some(engine) = start("vm-hostile") else { return };
    let path = |name: &str| engine.root().join(name).display().to_string();
    std::fs::write(path("secret"), "x".repeat(1 << 16)).unwrap();
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-b", &path("secret"), "-F", "raw", &path("backed.qcow2")])
        .status();
    if made.is_ok_and(|status| status.success()) {
        let refused = engine.berth(["vm", "create", "--disk", &path("backed.qcow2"), "box"]).failure(1);
        assert!(refused.contains("backing file") && refused.contains("hint:"), "{refused}");
        // As raw bytes it is only a disk that begins strangely.
        let given = format!("{},format=raw", path("backed.qcow2"));
        engine.berth(["vm", "create", "--disk", &given, "raw"]).success();
    } else {
        eprintln!("skipped in part: needs qemu-img (qemu-utils)");
    }
    for (disk, says) in [
        ("/dev/zero", "regular file"),
        ("/nonexistent.img", "No such file"),
        ("size=1", "from 512"),
        ("size=900T", "possible"),
    ] {
        let refused = engine.berth(["vm", "create", "--disk", disk, "box"]).failure(1);
        assert!(refused.contains(says), "{disk}: {refused}");
    }
    engine.berth(["vm", "create", "box"]).failure(1);
    let body = json!({"name": "box", "disks": [{"size_bytes": 1 << 20}], "memory_bytes": 1}).to_string();
    assert_eq!(engine.api("POST", "/api/v1/machines", &body).status, 400);
    assert!(engine.berth(["vm", "ls", "-q"]).success().lines().all(|name| name == "raw"));
    clear(&engine);
}
