//! Limits, and what is steered by cgroups: update, pause, ps, events; and what is shown inside.

use crate::bundle::{Bundle, ours};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A file of the container's cgroup by its v1 or v2 name.
fn read(b: &Bundle, controller: &str, v1: &str, v2: &str) -> String {
    let v1_file = Path::new("/sys/fs/cgroup").join(controller).join(&b.cgroup()[1..]).join(v1);
    let v2_file: PathBuf = Path::new("/sys/fs/cgroup").join(&b.cgroup()[1..]).join(v2);
    let file = if v1_file.exists() { v1_file } else { v2_file };
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
}

#[test]
fn limits_are_in_force_and_can_be_changed() {
    let Some(mut b) = Bundle::new("limits") else { return };
    b.config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    b.config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    b.config["linux"]["resources"]["cpu"] = json!({ "quota": 50000, "period": 100_000, "shares": 512 });
    b.sleeping();
    assert_eq!(read(&b, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(read(&b, "pids", "pids.max", "pids.max"), "20");
    let changed = json!({ "memory": { "limit": 128 << 20 }, "pids": { "limit": 33 } });
    std::fs::write(b.path.join("resources.json"), changed.to_string()).unwrap();
    b.call(&["update", "--resources", "resources.json", &b.id]).success();
    assert_eq!(read(&b, "memory", "memory.limit_in_bytes", "memory.max"), "134217728");
    assert_eq!(read(&b, "pids", "pids.max", "pids.max"), "33");
    b.call(&["update", "--pids-limit", "44", &b.id]).success();
    assert_eq!(read(&b, "pids", "pids.max", "pids.max"), "44");
    assert_eq!(read(&b, "memory", "memory.limit_in_bytes", "memory.max"), "134217728");
}

#[test]
fn too_many_processes_are_refused_by_the_kernel() {
    let Some(mut b) = Bundle::new("pids") else { return };
    b.config["linux"]["resources"]["pids"] = json!({ "limit": 5 });
    b.script("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait");
    let said = b.run();
    assert!(said.err.contains("fork"), "{said:?}");
}

#[test]
fn too_much_memory_ends_the_program() {
    let Some(mut b) = Bundle::new("memory") else { return };
    b.config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    b.args(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    assert_eq!(b.run().code, 137);
}

#[test]
fn only_allowed_devices_can_be_opened() {
    let Some(mut b) = Bundle::new("devices") else { return };
    b.script("mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg; cat /dev/null && head -c 1 /dev/zero | wc -c");
    let said = b.run();
    assert_eq!(said.err.matches("Operation not permitted").count(), 2, "{said:?}");
    assert_eq!(said.out.trim(), "1");
}

#[test]
fn a_paused_container_stands_still() {
    let Some(mut b) = Bundle::new("pause") else { return };
    b.script("i=0; while :; do i=$((i+1)); echo $i > /tmp/count; usleep 1000; done");
    b.create();
    b.start();
    b.call(&["pause", &b.id]).success();
    assert_eq!(b.status(), "paused");
    let count = || std::fs::read_to_string(b.rootfs().join("tmp/count")).unwrap_or_default();
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(count(), before);
    b.call(&["pause", &b.id]).failure();
    b.call(&["resume", &b.id]).success();
    assert_eq!(b.status(), "running");
    crate::bundle::wait_until("it counts again", || count() != before);
    b.call(&["pause", &b.id]).success();
    b.call(&["delete", "--force", &b.id]).success();
}

#[test]
fn ps_and_events_tell_of_the_container() {
    let Some(mut b) = Bundle::new("ps") else { return };
    b.sleeping();
    let pids: Vec<i32> = serde_json::from_str(&b.call(&["ps", "--format", "json", &b.id]).success()).unwrap();
    assert_eq!(pids, [b.pid()]);
    assert!(b.call(&["ps", &b.id]).success().contains("sleep 1000"));
    if ours() {
        assert!(b.call(&["ps", &b.id, "-o", "pid,comm"]).success().contains("sleep"));
        let event: serde_json::Value = serde_json::from_str(&b.call(&["events", "--stats", &b.id]).success()).unwrap();
        assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(b.id.as_str())));
        assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{event}");
        assert_eq!(event["data"]["pids"]["current"], 1);
    }
}

#[test]
fn the_cgroup_mount_shows_the_own_group_and_is_read_only() {
    let Some(mut b) = Bundle::new("cgmount") else { return };
    for private in [false, true] {
        let mut kinds = vec!["mount", "network", "uts", "pid", "ipc"];
        if private {
            kinds.push("cgroup");
        }
        b.namespaces(&kinds);
        b.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
        b.mount(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"] }));
        b.config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        let out = b.prints(
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
             mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x 2>&1; grep :memory: /proc/self/cgroup; \
             grep -q . /proc/self/cgroup && echo there",
        );
        assert!(out.starts_with("67108864\n"), "private: {private}: {out}");
        assert!(out.contains("Read-only") && out.ends_with("there\n"), "{out}");
        // On v1 memory is joined after the others, and before the namespace begins there.
        if let Some(line) = out.lines().find(|line| line.contains(":memory:")) {
            let place = if private { ":/".to_owned() } else { format!(":{}", b.cgroup()) };
            assert!(line.ends_with(&place), "private: {private}: {out}");
        }
    }
}
