//! Hooks: which run where, in what order, and what their failing does.

use crate::bundle::{Bundle, wait_until};
use serde_json::{Value, json};

/// A hook that writes its name, its namespaces and the state's status to a file of the host.
fn hook(b: &Bundle, name: &str) -> Value {
    let log = b.path.join("hooks.log");
    let script = format!(
        "state=$(cat); status=$(echo \"$state\" | tr ',{{}}' '\\n\\n\\n' | grep '\"status\"' | cut -d'\"' -f4); \
         echo {name} $status $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/uts) >> {}",
        log.display()
    );
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 20 })
}

#[test]
fn hooks_run_in_order_and_in_the_right_namespaces() {
    let Some(mut b) = Bundle::new("hooks") else { return };
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    b.config["hooks"] = kinds.iter().map(|kind| ((*kind).to_owned(), json!([hook(&b, kind)]))).collect();
    b.config["hooks"]["startContainer"] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /data/start-container; hostname >> /data/start-container"] }]);
    b.script("test -s /data/start-container || exit 5; exec sleep 1000");
    b.create();
    assert!(!b.rootfs().join("data/start-container").exists());
    b.start();
    wait_until("poststart ran", || std::fs::read_to_string(b.path.join("hooks.log")).unwrap().contains("poststart"));
    assert_eq!(b.status(), "running");
    b.call(&["delete", "--force", &b.id]).success();
    let log = std::fs::read_to_string(b.path.join("hooks.log")).unwrap();
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(names, kinds, "{log}");
    let status: Vec<&str> = lines.iter().map(|line| line[1]).collect();
    assert!(status[0] == "creating" || status[0] == "created", "{log}");
    assert_eq!(status[3..], ["running", "stopped"], "{log}");
    let own = std::fs::read_link("/proc/self/ns/uts").unwrap();
    let in_container: Vec<bool> = lines.iter().map(|line| line[3] != own.to_str().unwrap()).collect();
    assert_eq!(in_container, [false, false, true, false, false], "{log}");
    let inside = std::fs::read_to_string(b.rootfs().join("data/start-container")).unwrap();
    assert!(inside.contains(&b.id) && inside.ends_with("box\n"), "{inside}");
}

#[test]
fn a_failing_create_hook_fails_the_create_and_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let Some(mut b) = Bundle::new("hookfail") else { return };
        b.config["hooks"][kind] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exit 4"] }]);
        b.call(&["create", &b.id]).failure();
        assert!(b.call(&["state", &b.id]).failure().contains("does not exist"), "{kind}");
        assert!(b.cgroups_left().is_empty(), "{kind}");
    }
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    let Some(mut b) = Bundle::new("poststop") else { return };
    b.config["hooks"]["poststop"] = json!([{ "path": "/bin/false" }]);
    b.sleeping();
    b.call(&["delete", "--force", &b.id]);
    assert!(b.call(&["state", &b.id]).failure().contains("does not exist"));
}

#[test]
fn a_hook_can_change_the_network_before_the_program_runs() {
    let Some(mut b) = Bundle::new("hooknet") else { return };
    let script = "pid=$(tr ',{}' '\\n\\n\\n' | grep '\"pid\"' | tr -dc 0-9); nsenter -t $pid -n ip link set lo up";
    b.config["hooks"]["createRuntime"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }]);
    assert!(b.prints("busybox ip link show lo").contains("UP"));
}
