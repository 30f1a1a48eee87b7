//! Create, start, kill, delete, and what refuses what.

use crate::bundle::{Bundle, ours, wait_until};
use std::path::Path;
use std::process::Stdio;

#[test]
fn run_prints_and_returns_the_exit_code() {
    let Some(mut b) = Bundle::new("run") else { return };
    b.script("echo out; echo err >&2; exit 7");
    let said = b.run();
    assert_eq!((said.code, said.out.as_str()), (7, "out\n"));
    assert!(said.err.contains("err"));
    assert!(b.cgroups_left().is_empty());
    assert!(b.call(&["state", &b.id]).failure().contains("does not exist"));
}

#[test]
fn a_program_killed_by_a_signal_counts_as_128_and_the_signal() {
    let Some(mut b) = Bundle::new("signal") else { return };
    // A PID 1 cannot kill itself by a signal it has no handler for; without a PID namespace it can.
    b.namespaces(&["mount", "ipc", "uts", "network"]);
    b.script("kill -9 $$");
    assert_eq!(b.run().code, 137);
}

#[test]
fn the_program_waits_for_start() {
    let Some(mut b) = Bundle::new("steps") else { return };
    b.script("touch /tmp/ran; exec sleep 1000");
    let pid_file = b.path.join("pid");
    b.call(&["create", "--pid-file", pid_file.to_str().unwrap(), &b.id]).success();
    assert_eq!(b.status(), "created");
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert_eq!(pid, b.pid());
    assert!(!b.rootfs().join("tmp/ran").exists());
    b.start();
    wait_until("the program runs", || b.rootfs().join("tmp/ran").exists());
    assert_eq!(b.status(), "running");
    assert_eq!(b.pid(), pid);
    b.call(&["kill", &b.id, "KILL"]).success();
    b.wait_for_status("stopped");
    assert_eq!(b.pid(), 0);
    b.call(&["delete", &b.id]).success();
    assert!(b.cgroups_left().is_empty());
    assert!(!b.path.join("state").join(&b.id).exists());
}

#[test]
fn commands_out_of_turn_are_refused() {
    let Some(mut b) = Bundle::new("turns") else { return };
    assert!(b.call(&["start", &b.id]).failure().contains("does not exist"));
    b.sleeping();
    b.call(&["start", &b.id]).failure();
    b.call(&["create", &b.id]).failure();
    assert_eq!(b.status(), "running");
    b.call(&["delete", &b.id]).failure();
    b.call(&["resume", &b.id]).failure();
    assert_eq!(b.status(), "running");
    b.call(&["kill", &b.id, "9"]).success();
    b.wait_for_status("stopped");
    // containerd's shim looks for these words.
    assert!(b.call(&["kill", &b.id, "9"]).failure().contains("container not running"));
    b.exec(&["true"]).failure();
    b.call(&["start", &b.id]).failure();
    b.call(&["delete", &b.id]).success();
    b.call(&["delete", "--force", &b.id]).success();
    assert!(b.call(&["delete", &b.id]).failure().contains("does not exist"));
}

#[test]
fn delete_force_ends_a_running_container() {
    let Some(mut b) = Bundle::new("force") else { return };
    b.sleeping();
    let pid = b.pid();
    b.call(&["delete", "--force", &b.id]).success();
    assert!(!Path::new(&format!("/proc/{pid}/ns")).exists() || b.call(&["state", &b.id]).code != 0);
    assert!(b.cgroups_left().is_empty());
}

#[test]
fn delete_of_a_created_container_needs_no_force() {
    let Some(b) = Bundle::new("created") else { return };
    b.create();
    b.call(&["delete", &b.id]).success();
    assert!(b.cgroups_left().is_empty());
}

#[test]
fn a_program_that_is_not_there_fails_the_create_and_leaves_nothing() {
    let Some(mut b) = Bundle::new("missing") else { return };
    b.args(&["nosuch"]);
    let words = b.call(&["create", &b.id]).failure();
    assert!(words.contains("executable file not found in $PATH"), "{words}");
    assert!(b.call(&["state", &b.id]).failure().contains("does not exist"));
    assert!(b.cgroups_left().is_empty());
    b.args(&["/bin/nosuch"]);
    assert!(b.run().failure().contains("no such file or directory"));
    std::fs::write(b.rootfs().join("bin/plain"), "x").unwrap();
    b.args(&["/bin/plain"]);
    assert!(b.run().failure().contains("permission denied"));
    assert!(b.cgroups_left().is_empty());
}

#[test]
fn a_log_file_gets_errors_as_json() {
    let Some(mut b) = Bundle::new("log") else { return };
    b.args(&["nosuch"]);
    let log = b.path.join("log.json");
    b.call(&["--log", log.to_str().unwrap(), "--log-format", "json", "create", &b.id]).failure();
    let text = std::fs::read_to_string(&log).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("executable file not found"));
}

#[test]
fn two_starts_at_once_start_once() {
    let Some(mut b) = Bundle::new("race") else { return };
    if !ours() {
        return;
    }
    b.script("echo x >> /tmp/starts; exec sleep 1000");
    b.create();
    let spawn = || b.command(&["start", &b.id]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut children: Vec<_> = (0..4).map(|_| spawn()).collect();
    let good = children.iter_mut().map(|child| child.wait().unwrap()).filter(|status| status.success()).count();
    assert_eq!(good, 1);
    wait_until("the program runs", || b.rootfs().join("tmp/starts").exists());
    assert_eq!(std::fs::read_to_string(b.rootfs().join("tmp/starts")).unwrap(), "x\n");
}

#[test]
fn a_state_folder_may_have_a_long_path() {
    let Some(b) = Bundle::new("long") else { return };
    let root = b.path.join("x".repeat(90)).join("y".repeat(90));
    let root = root.to_str().unwrap();
    b.call(&["--root", root, "create", &b.id]).success();
    b.call(&["--root", root, "start", &b.id]).success();
    wait_until("it ends", || b.call(&["--root", root, "state", &b.id]).out.contains("stopped"));
    b.call(&["--root", root, "delete", &b.id]).success();
}

#[test]
fn kill_all_reaches_every_process_without_a_pid_namespace() {
    let Some(mut b) = Bundle::new("killall") else { return };
    b.namespaces(&["mount", "ipc", "uts", "network"]);
    b.script("sleep 1001 & sleep 1002 & touch /tmp/ready; wait");
    b.create();
    b.start();
    wait_until("it is ready", || b.rootfs().join("tmp/ready").exists());
    let pids = |b: &Bundle| -> Vec<i32> {
        serde_json::from_str::<Option<Vec<i32>>>(&b.call(&["ps", "--format", "json", &b.id]).success())
            .unwrap()
            .unwrap_or_default()
    };
    wait_until("three processes", || pids(&b).len() == 3);
    b.call(&["kill", "--all", &b.id, "KILL"]).success();
    wait_until("no process", || !ours() || pids(&b).is_empty());
    b.wait_for_status("stopped");
}

#[test]
fn list_shows_the_containers_of_its_root() {
    let Some(mut b) = Bundle::new("list") else { return };
    b.sleeping();
    assert_eq!(b.call(&["list", "--quiet"]).success(), format!("{}\n", b.id));
    let rows: serde_json::Value = serde_json::from_str(&b.call(&["list", "--format", "json"]).success()).unwrap();
    assert_eq!((rows[0]["id"].as_str(), rows[0]["status"].as_str()), (Some(b.id.as_str()), Some("running")));
    let table = b.call(&["list"]).success();
    assert!(table.starts_with("ID") || table.starts_with("NAME"), "{table}");
    assert!(table.contains("running"));
}

#[test]
fn what_is_not_done_is_refused_and_not_ignored() {
    let Some(b) = Bundle::new("refused") else { return };
    if !ours() {
        return;
    }
    assert!(b.call(&["checkpoint", &b.id]).failure().contains("not supported"));
    assert!(b.call(&["--systemd-cgroup", "run", &b.id]).failure().contains("systemd cgroup driver"));
    assert!(b.call(&["run", "--no-pivot", &b.id]).failure().contains("pivot_root"));
    assert!(b.call(&["frobnicate", &b.id]).failure().contains("unknown command"));
    assert!(b.call(&["run", "--frobnicate", &b.id]).failure().contains("unknown flag"));
    assert!(b.call(&["run", "../x"]).failure().contains("not valid"));
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    let Some(b) = Bundle::new("spec") else { return };
    if !ours() {
        return;
    }
    let other = b.path.join("other");
    std::fs::create_dir(&other).unwrap();
    b.call(&["spec", "--bundle", other.to_str().unwrap()]).success();
    b.call(&["spec", "--bundle", other.to_str().unwrap()]).failure();
    let text = std::fs::read_to_string(other.join("config.json")).unwrap();
    let mut written: serde_json::Value = serde_json::from_str(&text).unwrap();
    written["process"]["terminal"] = false.into();
    written["process"]["args"] = serde_json::json!(["echo", "it runs"]);
    written["linux"]["cgroupsPath"] = b.cgroup().into();
    let config = std::mem::replace(&mut Bundle::new("dummy").unwrap().config, written.clone());
    drop(config);
    let mut b = b;
    b.config = written;
    assert_eq!(b.run().success(), "it runs\n");
}

#[test]
fn features_and_version_are_told() {
    let Some(b) = Bundle::new("features") else { return };
    let features: serde_json::Value = serde_json::from_str(&b.call(&["features"]).success()).unwrap();
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&"time".into()) || !ours());
    assert!(b.call(&["--version"]).success().contains("version"));
}

#[test]
fn a_failing_create_does_not_harm_the_container_that_has_the_name() {
    let Some(mut b) = Bundle::new("same") else { return };
    b.sleeping();
    let (pid, left) = (b.pid(), b.cgroups_left().len());
    b.call(&["create", &b.id]).failure();
    assert_eq!((b.pid(), b.cgroups_left().len(), b.status()), (pid, left, "running".to_owned()));
}
