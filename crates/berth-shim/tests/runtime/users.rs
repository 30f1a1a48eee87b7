//! User namespaces: ids are mapped, and root inside is nobody outside.

use crate::bundle::Bundle;
use serde_json::json;
use std::os::unix::fs::MetadataExt;

const FIRST: u32 = 100_000;

fn mapped(name: &str) -> Option<Bundle> {
    let mut b = Bundle::new(name)?;
    b.namespaces(&["mount", "network", "uts", "pid", "ipc", "user"]);
    let map = json!([{ "containerID": 0, "hostID": FIRST, "size": 65536 }]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    // As an engine with mapped ids does it: the root belongs to the container's root.
    for folder in ["", "bin", "proc", "sys", "dev", "etc", "tmp", "data"] {
        std::os::unix::fs::chown(b.rootfs().join(folder), Some(FIRST), Some(FIRST)).unwrap();
    }
    std::fs::set_permissions(&b.path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Some(b)
}

#[test]
fn root_inside_is_nobody_outside() {
    let Some(mut b) = mapped("userns") else { return };
    let out = b.prints("id -u; cat /proc/self/uid_map | tr -s ' '; touch /data/made; echo x > /dev/null && echo null");
    assert_eq!(out, format!("0\n 0 {FIRST} 65536\nnull\n"));
    assert_eq!(std::fs::metadata(b.rootfs().join("data/made")).unwrap().uid(), FIRST);
}

#[test]
fn other_users_are_mapped_too() {
    let Some(mut b) = mapped("useruser") else { return };
    b.config["process"]["user"] = json!({ "uid": 33, "gid": 33, "additionalGids": [44] });
    std::fs::set_permissions(b.rootfs().join("data"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(b.prints("id -u; id -G; touch /data/made"), "33\n33 44\n");
    assert_eq!(std::fs::metadata(b.rootfs().join("data/made")).unwrap().uid(), FIRST + 33);
}

#[test]
fn exec_enters_the_user_namespace() {
    let Some(mut b) = mapped("userexec") else { return };
    b.sleeping();
    let out = b.exec(&["sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user"]).success();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "0");
    assert_eq!(lines[1], lines[2]);
}

#[test]
fn a_bind_of_a_folder_that_only_real_root_may_enter_works() {
    let Some(mut b) = mapped("userbind") else { return };
    let closed = b.path.join("closed");
    std::fs::create_dir_all(closed.join("open")).unwrap();
    std::fs::write(closed.join("open/f"), "reached\n").unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    b.mount(json!({ "destination": "/m", "type": "bind", "source": closed.join("open"), "options": ["rbind", "ro"] }));
    assert_eq!(b.prints("cat /m/f"), "reached\n");
}
