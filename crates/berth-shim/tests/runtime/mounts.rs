//! The container's file system: what is mounted, with which flags, and what is hidden.

use crate::bundle::{Bundle, host};
use serde_json::json;

/// The options of a mount point as the kernel tells them inside (the last line wins).
const OPTIONS: &str = "o() { awk -v t=\"$1\" '$5==t {l=$6} END {print l}' /proc/self/mountinfo; }; ";

#[test]
fn nothing_is_mounted_on_the_host() {
    let Some(mut b) = Bundle::new("host") else { return };
    b.sleeping();
    let during = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!during.contains(b.id.as_str()), "{during}");
}

#[test]
fn the_root_is_the_bundles_and_nothing_else() {
    let Some(mut b) = Bundle::new("root") else { return };
    std::fs::write(b.rootfs().join("marker"), "mine").unwrap();
    let out = b.prints("cat /marker; echo; ls /; chroot /proc/1/root cat /marker");
    assert!(out.starts_with("mine\n") && out.ends_with("mine"), "{out}");
    assert!(!out.contains("work"), "{out}");
}

#[test]
fn a_read_only_root_is_read_only() {
    let Some(mut b) = Bundle::new("ro") else { return };
    b.config["root"]["readonly"] = json!(true);
    let out = b.prints("touch /x 2>&1; touch /dev/shm/x && echo shm writable");
    assert!(out.contains("Read-only file system") && out.contains("shm writable"), "{out}");
}

#[test]
fn tmpfs_has_its_options() {
    let Some(mut b) = Bundle::new("tmpfs") else { return };
    b.mount(json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "nosuid", "size=1m", "mode=1700"] }));
    let out = b.prints(&format!("{OPTIONS} o /scratch; stat -c %a /scratch; dd if=/dev/zero of=/scratch/f bs=1k count=2000 2>&1 | head -1; stat -c %s /scratch/f"));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("noexec") && lines[0].contains("nosuid"), "{out}");
    assert_eq!(lines[1], "1700");
    assert_eq!(lines.last(), Some(&"1048576"));
}

#[test]
fn binds_are_writable_or_not_as_asked() {
    let Some(mut b) = Bundle::new("bind") else { return };
    let source = b.path.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "from the host\n").unwrap();
    b.mount(json!({ "destination": "/w", "type": "bind", "source": source, "options": ["rbind", "rprivate"] }));
    b.mount(json!({ "destination": "/r", "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"] }));
    b.mount(json!({ "destination": "/new/folder/f", "type": "bind", "source": source.join("f"), "options": ["bind", "ro"] }));
    let out =
        b.prints("cat /new/folder/f; echo x > /w/made; cat /r/made; touch /r/no 2>&1; echo y > /new/folder/f; true");
    assert_eq!(out.lines().take(2).collect::<Vec<_>>(), ["from the host", "x"]);
    assert!(out.contains("Read-only"), "{out}");
    assert_eq!(std::fs::read_to_string(source.join("made")).unwrap(), "x\n");
    assert_eq!(std::fs::read_to_string(source.join("f")).unwrap(), "from the host\n");
}

#[test]
fn a_missing_bind_source_is_an_error() {
    let Some(mut b) = Bundle::new("nosource") else { return };
    b.mount(json!({ "destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"] }));
    let words = b.run().failure();
    assert!(words.contains("/no/such/source"), "{words}");
    assert!(b.cgroups_left().is_empty());
}

#[test]
fn recursive_read_only_reaches_mounts_below() {
    let Some(mut b) = Bundle::new("rro") else { return };
    // /dev holds other mounts on every host (/dev/shm or /dev/pts).
    let below =
        host(&["sh", "-c", "awk '$5 ~ \"^/dev/\" && $6 ~ /^rw/ && / - tmpfs / {print $5; exit}' /proc/self/mountinfo"]);
    let below = String::from_utf8(below.stdout).unwrap().trim().to_owned();
    if below.is_empty() {
        eprintln!("skipped: the host has no writable tmpfs below /dev");
        return;
    }
    let inside = below.replacen("/dev", "/hostdev", 1);
    b.mount(
        json!({ "destination": "/hostdev", "type": "bind", "source": "/dev", "options": ["rbind", "rprivate", "ro"] }),
    );
    b.mount(
        json!({ "destination": "/all", "type": "bind", "source": "/dev", "options": ["rbind", "rprivate", "rro"] }),
    );
    let all = below.replacen("/dev", "/all", 1);
    let out = b.prints(&format!("{OPTIONS} o {inside}; o {all}"));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("rw"), "{out}");
    assert!(lines[1].starts_with("ro"), "{out}");
}

#[test]
fn devices_are_the_usual_ones_and_those_asked_for() {
    let Some(mut b) = Bundle::new("devices") else { return };
    b.config["linux"]["devices"] =
        json!([{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8 }]);
    let out = b.prints(
        "for d in null zero full random urandom tty fuse; do stat -c '%n %F %a %t:%T %u:%g' /dev/$d; done; \
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; echo x > /dev/null && echo ok; head -c 3 /dev/zero | wc -c",
    );
    for line in [
        "/dev/null character special file 666 1:3 0:0",
        "/dev/full character special file 666 1:7 0:0",
        "/dev/urandom character special file 666 1:9 0:0",
        "/dev/fuse character special file 640 a:e5 7:8",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "pts/ptmx",
        "ok",
        "3",
    ] {
        assert!(out.lines().any(|found| found == line), "{line} in {out}");
    }
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_refuse() {
    let Some(mut b) = Bundle::new("masks") else { return };
    let out = b.prints(
        "cat /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
         echo 1 > /proc/sys/kernel/msgmax; touch /sys/x 2>&1; true",
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{out}");
    assert!(out.contains("Read-only"), "{out}");
    let said = b.run();
    assert!(said.err.contains("Read-only file system"), "{said:?}");
}

#[test]
fn a_masked_path_that_is_not_there_is_fine() {
    let Some(mut b) = Bundle::new("nomask") else { return };
    b.config["linux"]["maskedPaths"] = json!(["/proc/no-such-file", "/nothing/here"]);
    b.config["linux"]["readonlyPaths"] = json!(["/proc/no-such-file", "/nothing/here"]);
    assert_eq!(b.prints("echo fine"), "fine\n");
}

#[test]
fn the_containers_own_mounts_do_not_reach_the_host() {
    let Some(mut b) = Bundle::new("propagation") else { return };
    let source = b.path.join("source");
    std::fs::create_dir(&source).unwrap();
    b.config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    b.config["process"]["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN"]);
    b.config["process"]["capabilities"]["permitted"] = json!(["CAP_SYS_ADMIN"]);
    for (name, option) in [("p", "rprivate"), ("s", "rslave"), ("n", "rbind")] {
        b.mount(json!({ "destination": format!("/{name}"), "type": "bind", "source": source, "options": ["rbind", option] }));
    }
    b.script("for n in p s n; do mkdir -p /$n/$n; mount -t tmpfs x /$n/$n || exit 1; touch /$n/$n/hidden; done");
    b.run().success();
    for name in ["p", "s", "n"] {
        assert!(source.join(name).is_dir());
        assert!(!source.join(name).join("hidden").exists(), "{name}: a mount of the container is on the host");
    }
}

#[test]
fn the_roots_propagation_is_as_asked() {
    let Some(mut b) = Bundle::new("rootprop") else { return };
    for (asked, tag) in [("private", ""), ("slave", "master:"), ("shared", "shared:"), ("unbindable", "unbindable")] {
        b.config["linux"]["rootfsPropagation"] = json!(asked);
        let out = b.prints(
            "awk '$5 == \"/\" {for (i = 7; $i != \"-\"; i++) printf \"%s \", $i; print \"\"}' /proc/self/mountinfo",
        );
        match asked {
            // A slave of nobody is private.
            "private" | "slave" => assert!(!out.contains("shared:"), "{asked}: {out}"),
            _ => assert!(out.contains(tag), "{asked}: {out}"),
        }
    }
}

#[test]
fn a_mount_on_the_host_reaches_a_slave_bind() {
    let Some(mut b) = Bundle::new("rslave") else { return };
    let source = b.path.join("source");
    std::fs::create_dir(&source).unwrap();
    // A shared mount in a namespace of the test's own: the host's stay as they are.
    b.mount(json!({ "destination": "/s", "type": "bind", "source": source, "options": ["rbind", "rslave"] }));
    b.mount(json!({ "destination": "/p", "type": "bind", "source": source, "options": ["rbind", "rprivate"] }));
    b.args(&["sleep", "1000"]);
    let create = b.command(&["create", &b.id]);
    let mut words = vec!["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let script = format!(
        "mount --bind {source} {source} && mount --make-shared {source} && \"$0\" \"$@\" && mkdir {source}/late && \
         mount -t tmpfs x {source}/late && touch {source}/late/seen && \"$0\" --root {state} start {id} && \
         \"$0\" --root {state} exec {id} sh -c 'ls /s/late; echo; ls /p/late'",
        source = source.display(),
        state = b.path.join("state").display(),
        id = b.id
    );
    words.push(&script);
    let mut command = std::process::Command::new(words[0]);
    command.args(&words[1..]).arg(create.get_program()).args(create.get_args()).current_dir(&b.path);
    let said = b.finish(&mut command);
    assert_eq!((said.code, said.out.as_str()), (0, "seen\n\n"), "{said:?}");
}

#[test]
fn the_mqueue_and_a_terminal_file_system_are_there() {
    let Some(mut b) = Bundle::new("mqueue") else { return };
    let out = b.prints("awk '{print $5}' /proc/self/mountinfo");
    for target in ["/", "/proc", "/dev", "/dev/pts", "/sys", "/dev/mqueue", "/dev/shm"] {
        assert!(out.lines().any(|line| line == target), "{target} in {out}");
    }
}

#[test]
fn a_tmpfs_can_take_over_what_its_target_held() {
    let Some(mut b) = Bundle::new("copyup") else { return };
    std::fs::write(b.rootfs().join("data/kept"), "content\n").unwrap();
    std::fs::create_dir(b.rootfs().join("data/folder")).unwrap();
    std::os::unix::fs::symlink("kept", b.rootfs().join("data/link")).unwrap();
    b.mount(json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "tmpcopyup"] }));
    let out =
        b.prints("cat /data/kept /data/link; stat -c %F /data/folder; echo more > /data/kept; readlink /data/link");
    assert_eq!(out, "content\ncontent\ndirectory\nkept\n");
    assert_eq!(std::fs::read_to_string(b.rootfs().join("data/kept")).unwrap(), "content\n");
}

#[test]
fn ids_of_a_mount_can_be_mapped() {
    let Some(mut b) = Bundle::new("idmap") else { return };
    let source = b.path.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "x").unwrap();
    std::os::unix::fs::chown(source.join("f"), Some(1000), Some(1000)).unwrap();
    let map = json!([{ "containerID": 1000, "hostID": 4711, "size": 1 }]);
    b.mount(json!({ "destination": "/m", "type": "bind", "source": source, "options": ["bind"], "uidMappings": map, "gidMappings": map }));
    assert_eq!(b.prints("stat -c %u:%g /m/f"), "4711:4711\n");
}
