//! Known flaws of runtimes; each test is named by the flaw's number and fails when the flaw is put back.
//!
//! | flaw | what it was |
//! |---|---|
//! | CVE-2019-5736 | the host's runtime overwritten through `/proc/self/exe` |
//! | CVE-2019-19921, CVE-2023-27561 | `/proc` as a symbolic link in the root filesystem |
//! | CVE-2021-30465 | a mount's target swapped for a link by a neighbour |
//! | CVE-2023-25173 | supplementary groups not set |
//! | CVE-2024-21626 | a working directory through a leaked descriptor |
//! | CVE-2025-31133 | a masked path, or `/dev/null` under it, as a link |
//! | CVE-2025-52565 | `/dev/console` as a link |
//! | CVE-2025-52881 | writes meant for procfs redirected to other files |
//! | CVE-2026-41579 | `/dev` as a link to a folder of the host |
//! | GHSA-m8cg-xc2p-r3fc | a writable cgroup mount in a user namespace |

use crate::bundle::{Bundle, ours, program};
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// A folder of "the host" that must stay as it is, and whether it did.
struct Bait(std::path::PathBuf);

impl Bait {
    fn new(b: &Bundle) -> Bait {
        let path = b.path.join("bait");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "untouched").unwrap();
        Bait(path)
    }

    #[track_caller]
    fn is_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "the host's folder was changed");
        assert_eq!(std::fs::read_to_string(self.0.join("file")).unwrap(), "untouched");
    }
}

#[test]
fn cve_2019_5736_the_hosts_program_cannot_be_overwritten() {
    let Some(mut b) = Bundle::new("c5736") else { return };
    if !ours() {
        return;
    }
    // A copy, so that a failing test does no harm.
    let copy = b.path.join("runtime-copy");
    std::fs::copy(program(), &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    // The image's program is "the program that runs me": the runtime itself, executed again inside. Whoever holds
    // a descriptor of it waits until it has ended and opens it for writing.
    let script = "#!/proc/self/exe\n";
    std::fs::write(b.rootfs().join("bin/trap"), script).unwrap();
    std::fs::set_permissions(b.rootfs().join("bin/trap"), PermissionsExt::from_mode(0o755)).unwrap();
    b.script(
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); for p in /proc/[0-9]*; do \
         case $(readlink $p/exe) in /bin/busybox|'') ;; *) exec 9<$p/exe && touch /tmp/seen && break 2;; esac; done; done; \
         [ -e /tmp/seen ] || exit 0; j=0; while [ $j -lt 500 ]; do j=$((j+1)); (echo overwritten > /proc/self/fd/9) 2>/dev/null && touch /tmp/written; usleep 1000; done",
    );
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(&copy);
        command.arg("--root").arg(b.path.join("state")).args(words).current_dir(&b.path);
        b.finish(&mut command)
    };
    drop(b.command(&[]));
    run(&["create", &b.id]).success();
    run(&["start", &b.id]).success();
    for _ in 0..40 {
        run(&["exec", &b.id, "/bin/trap"]);
    }
    run(&["delete", "--force", &b.id]).success();
    assert_eq!(std::fs::read(&copy).unwrap(), before, "the runtime's program was overwritten");
    assert!(!b.rootfs().join("tmp/written").exists(), "the runtime's program could be opened for writing");
}

#[test]
fn cve_2019_5736_a_program_that_is_the_runtime_itself_is_no_way_out() {
    let Some(mut b) = Bundle::new("c5736b") else { return };
    if !ours() {
        return;
    }
    let copy = b.path.join("runtime-copy");
    std::fs::copy(program(), &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    b.args(&["/proc/self/exe", "--version"]);
    drop(b.command(&[]));
    let mut command = std::process::Command::new(&copy);
    command.arg("--root").arg(b.path.join("state")).args(["run", &b.id]).current_dir(&b.path);
    b.finish(&mut command);
    assert_eq!(std::fs::read(&copy).unwrap(), before);
}

#[test]
fn cve_2019_19921_proc_as_a_link_is_refused() {
    let Some(mut b) = Bundle::new("c19921") else { return };
    for (name, target) in [("proc", "/data"), ("proc", "../bait"), ("sys", "/data")] {
        let link = b.rootfs().join(name);
        std::fs::remove_dir(&link).unwrap();
        symlink(target, &link).unwrap();
        b.args(&["true"]);
        b.run().failure();
        assert!(b.cgroups_left().is_empty());
        std::fs::remove_file(&link).unwrap();
        std::fs::create_dir(&link).unwrap();
    }
    b.run().success();
}

#[test]
fn cve_2021_30465_a_target_that_is_a_link_stays_inside() {
    let Some(mut b) = Bundle::new("c30465") else { return };
    let bait = Bait::new(&b);
    symlink(&bait.0, b.rootfs().join("data/absolute")).unwrap();
    symlink("../../bait", b.rootfs().join("data/up")).unwrap();
    for name in ["absolute", "up"] {
        b.mount(
            json!({ "destination": format!("/data/{name}/sub"), "type": "tmpfs", "source": "tmpfs", "options": [] }),
        );
    }
    b.args(&["true"]);
    // Refused or made inside, but never in the host's folder.
    b.run();
    bait.is_untouched();
}

#[test]
fn cve_2021_30465_a_target_swapped_during_the_start_stays_inside() {
    let Some(mut b) = Bundle::new("c30465r") else { return };
    let bait = Bait::new(&b);
    let shared = b.path.join("shared");
    std::fs::create_dir_all(shared.join("a")).unwrap();
    symlink(&bait.0, shared.join("b")).unwrap();
    b.mount(json!({ "destination": "/vol", "type": "bind", "source": shared, "options": ["rbind"] }));
    b.mount(json!({ "destination": "/vol/a/inner", "type": "tmpfs", "source": "tmpfs", "options": [] }));
    b.mount(json!({ "destination": "/vol/a", "type": "tmpfs", "source": "tmpfs", "options": [] }));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, shared) = (stop.clone(), shared.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let (a, b) = (shared.join("a"), shared.join("b"));
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, rustix::fs::RenameFlags::EXCHANGE)
                    .unwrap();
            }
        })
    };
    b.args(&["true"]);
    for _ in 0..40 {
        b.run();
        bait.is_untouched();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
}

#[test]
fn cve_2023_25173_supplementary_groups_are_set() {
    let Some(mut b) = Bundle::new("c25173") else { return };
    b.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [3000] });
    assert_eq!(b.prints("grep ^Groups /proc/self/status | tr -d '\\t '"), "Groups:3000\n");
    if !ours() {
        return;
    }
    std::fs::write(b.rootfs().join("etc/passwd"), "app:x:1000:1000::/data:/bin/sh\n").unwrap();
    std::fs::write(b.rootfs().join("etc/group"), "app:x:1000:\nextra:x:3001:other,app\n").unwrap();
    b.config["process"]["user"] = json!({ "uid": 0, "gid": 0, "username": "app" });
    assert_eq!(b.prints("id -u; id -G; echo $HOME"), "1000\n1000 3001\n/data\n");
    b.config["process"]["user"] = json!({ "uid": 0, "gid": 0, "username": "ghost" });
    assert!(b.run().failure().contains("unable to find user ghost: no matching entries in passwd file"));
}

#[test]
fn cve_2024_21626_no_working_directory_outside() {
    let Some(mut b) = Bundle::new("c21626") else { return };
    b.script("pwd; ls -d ../../../work ../../../root/.ssh 2>&1; cat ../../../etc/shadow 2>&1");
    for number in 0..20 {
        for path in ["/proc/self/fd", "/proc/1/fd", "/proc/thread-self/fd"] {
            b.config["process"]["cwd"] = json!(format!("{path}/{number}"));
            let said = b.run();
            if said.code == 0 || said.out.starts_with('/') {
                let first = said.out.lines().next().unwrap_or_default();
                assert!(!said.out.contains("root:"), "{said:?}");
                assert!(first.starts_with('/') && !first.contains("unreachable"), "{said:?}");
            }
        }
    }
    b.config["process"]["cwd"] = json!("/");
    b.sleeping();
    for number in 3..12 {
        let cwd = format!("/proc/self/fd/{number}");
        let said = b.call(&["exec", "--cwd", &cwd, &b.id, "sh", "-c", "cat ../../../etc/shadow"]);
        assert!(!said.out.contains("root:"), "{said:?}");
    }
}

#[test]
fn cve_2024_21626_no_descriptor_of_the_host_in_exec() {
    let Some(mut b) = Bundle::new("c21626fd") else { return };
    b.sleeping();
    let out = b.exec(&["sh", "-c", "ls -l /proc/self/fd | awk '{print $NF}'"]).success();
    assert!(!out.contains("cgroup") && !out.contains("state"), "{out}");
    assert_eq!(b.exec(&["sh", "-c", "ls /proc/self/fd | sort | tr '\\n' ' '"]).success(), "0 1 2 3 ");
}

#[test]
fn cve_2025_31133_a_masked_path_that_is_a_link_is_refused() {
    let Some(mut b) = Bundle::new("c31133") else { return };
    symlink("/etc", b.rootfs().join("link")).unwrap();
    b.config["linux"]["maskedPaths"] = json!(["/link"]);
    b.args(&["true"]);
    if ours() {
        b.run().failure();
    }
}

#[test]
fn cve_2025_31133_masks_are_not_made_of_what_the_image_calls_null() {
    let Some(mut b) = Bundle::new("c31133n") else { return };
    if !ours() {
        return;
    }
    // No tmpfs on /dev: the image's own folder, with a link where the device should be.
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    std::fs::write(b.rootfs().join("secret"), "content of the image\n").unwrap();
    symlink("/secret", b.rootfs().join("dev/null")).unwrap();
    b.config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    let said = b.prints_or_fails("cat /proc/keys");
    assert!(!said.contains("content of the image"), "{said}");
}

#[test]
fn cve_2025_52565_a_console_that_is_a_link_is_not_followed() {
    let Some(mut b) = Bundle::new("c52565") else { return };
    let bait = Bait::new(&b);
    b.config["mounts"].as_array_mut().unwrap().retain(|mount| {
        let target = mount["destination"].as_str().unwrap();
        !target.starts_with("/dev") || target == "/dev/pts"
    });
    std::fs::create_dir(b.rootfs().join("dev/pts")).unwrap();
    symlink(bait.0.join("file"), b.rootfs().join("dev/console")).unwrap();
    b.config["process"]["terminal"] = json!(true);
    b.args(&["true"]);
    b.run();
    bait.is_untouched();
}

#[test]
fn cve_2025_52881_sysctls_are_written_to_a_real_procfs() {
    let Some(mut b) = Bundle::new("c52881") else { return };
    // A file system of somebody else in place of procfs: the write must not land in it.
    let fake = b.path.join("fake");
    std::fs::create_dir_all(fake.join("sys/kernel")).unwrap();
    std::fs::write(fake.join("sys/kernel/msgmax"), "untouched").unwrap();
    b.mount(json!({ "destination": "/proc/sys", "type": "bind", "source": fake.join("sys"), "options": ["bind"] }));
    b.config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4322" });
    b.args(&["true"]);
    b.run();
    assert_eq!(std::fs::read_to_string(fake.join("sys/kernel/msgmax")).unwrap(), "untouched");
}

#[test]
fn cve_2025_52881_mounts_over_procfs_are_refused() {
    let Some(mut b) = Bundle::new("c52881m") else { return };
    b.mount(json!({ "destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs", "options": [] }));
    b.args(&["true"]);
    b.run().failure();
}

#[test]
fn cve_2026_41579_dev_as_a_link_changes_nothing_on_the_host() {
    let Some(mut b) = Bundle::new("c41579") else { return };
    let bait = Bait::new(&b);
    for keep_mount in [true, false] {
        std::fs::remove_dir_all(b.rootfs().join("dev"))
            .or_else(|_| std::fs::remove_file(b.rootfs().join("dev")))
            .unwrap();
        symlink(&bait.0, b.rootfs().join("dev")).unwrap();
        if !keep_mount {
            b.config["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        }
        b.args(&["true"]);
        b.run();
        bait.is_untouched();
    }
}

#[test]
fn ghsa_m8cg_xc2p_r3fc_the_cgroup_mount_of_a_user_namespace_is_read_only() {
    let Some(mut b) = Bundle::new("m8cg") else { return };
    b.namespaces(&["mount", "network", "uts", "pid", "ipc", "user", "cgroup"]);
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    std::fs::set_permissions(&b.path, PermissionsExt::from_mode(0o755)).unwrap();
    b.mount(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"] }));
    b.script("for d in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/pids; do mkdir $d/x 2>/dev/null && echo made; done; true");
    let said = b.run();
    assert!(!said.out.contains("made"), "{said:?}");
}

#[test]
fn special_files_of_the_host_are_hidden() {
    let Some(mut b) = Bundle::new("hidden") else { return };
    let paths = ["/proc/interrupts", "/sys/devices/virtual/powercap", "/proc/keys", "/proc/kcore"];
    b.config["linux"]["maskedPaths"] = json!(paths);
    let out = b.prints("for p in /proc/interrupts /proc/keys /proc/kcore; do head -c 1 $p 2>/dev/null | wc -c; done; ls /sys/devices/virtual/powercap 2>/dev/null | wc -l");
    assert_eq!(out, "0\n0\n0\n0\n");
}

#[test]
fn nobody_inside_changes_the_hosts_null() {
    let Some(mut b) = Bundle::new("null") else { return };
    // The mode that it has: where the flaw is there, nothing breaks.
    let text = b
        .prints("chmod 666 /proc/keys 2>/dev/null && echo changed; echo x >/proc/keys && echo written; cat /proc/keys");
    if ours() {
        assert_eq!(text, "written\n");
    }
}

#[test]
fn the_bundle_and_its_owner_stay_as_they_were() {
    let Some(mut b) = Bundle::new("owner") else { return };
    let before = std::fs::metadata(b.rootfs()).unwrap();
    b.prints("true");
    let after = std::fs::metadata(b.rootfs()).unwrap();
    assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
    assert!(Path::new(&b.rootfs().join("bin/busybox")).exists());
}
