//! Known flaws of runtimes; each test is named by the flaw's number and fails when the flaw is put back. Where several
//! defences stand behind one another, each has a test of its own in which the others are out of the way: which they
//! are is in docs/security.md.
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

use crate::bundle::{Bundle, ours};
use berth_sys::mounts::{MountChange, attributes, change_mount};
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::os::fd::AsFd;
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
fn cve_2019_5736_the_program_runs_from_a_mount_that_nobody_can_write() {
    let Some(b) = Bundle::new("c5736") else { return };
    if !ours() {
        return;
    }
    let inode = std::fs::metadata(&b.runtime).unwrap().ino();
    // As it runs, and by executing itself again.
    for environment in [None, Some(("BERTH_EXECUTE_AGAIN", "1"))] {
        // Made and not started: its first process is the runtime's own program still.
        b.finish(b.command(&["create", &b.id]).envs(environment)).success();
        let process = format!("/proc/{}", b.pid());
        let mapped = std::fs::read_dir(format!("{process}/map_files")).unwrap().map(|entry| entry.unwrap().path());
        let mut seen = 0;
        for program in mapped.chain([format!("{process}/exe").into()]) {
            if std::fs::metadata(&program).unwrap().ino() == inode {
                let flags = rustix::fs::statvfs(&program).unwrap().f_flag;
                assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{}: {flags:?}", program.display());
                // Nor made writable: root of any user namespace may change a mount that a descriptor holds detached.
                let change = MountChange { clear: attributes::RDONLY, ..MountChange::default() };
                let opened = rustix::fs::open(&program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
                let refused = change_mount(opened.as_fd(), change, None, false);
                assert_eq!(refused, Err(rustix::io::Errno::INVAL), "{}", program.display());
                seen += 1;
            }
        }
        assert!(seen > 1, "neither the program nor its parts were found");
        b.call(&["delete", "--force", &b.id]).success();
    }
}

#[test]
fn cve_2019_5736_a_neighbour_does_not_see_the_program() {
    let (Some(mut b), Some(mut other)) = (Bundle::new("c5736n"), Bundle::new("c5736o")) else { return };
    b.sleeping();
    // In the first one's pid namespace, with its user and its rights, and still the runtime's own program.
    let namespaces = other.config["linux"]["namespaces"].as_array_mut().unwrap();
    let pid = namespaces.iter_mut().find(|namespace| namespace["type"] == "pid").unwrap();
    pid["path"] = json!(format!("/proc/{}/ns/pid", b.pid()));
    other.create();
    let look = "for p in /proc/[0-9]*; do echo \"$p $(readlink $p/exe)\"; done";
    let seen = b.exec(&["sh", "-c", look]).success();
    assert!(seen.lines().any(|line| line.ends_with("/bin/busybox")), "{seen}");
    assert!(seen.lines().any(|line| line.ends_with(' ')), "the neighbour is not there: {seen}");
    assert!(!seen.contains("runtime"), "{seen}");
}

#[test]
fn cve_2019_19921_proc_as_a_link_is_refused() {
    let Some(mut b) = Bundle::new("c19921") else { return };
    // Masks refuse links as well.
    b.config["linux"]["maskedPaths"] = json!([]);
    b.config["linux"]["readonlyPaths"] = json!([]);
    for (name, target) in [("proc", "/data"), ("proc", "../bait"), ("sys", "/data")] {
        let link = b.rootfs().join(name);
        std::fs::remove_dir(&link).unwrap();
        symlink(target, &link).unwrap();
        b.args(&["true"]);
        let said = b.run().failure();
        assert!(!ours() || said.contains("is or contains a link"), "{said}");
        assert!(b.cgroups_left().is_empty());
        std::fs::remove_file(&link).unwrap();
        std::fs::create_dir(&link).unwrap();
    }
    b.run().success();
}

#[test]
fn cve_2023_27561_a_read_only_path_that_is_a_link_is_refused() {
    let Some(mut b) = Bundle::new("c27561") else { return };
    symlink("/etc", b.rootfs().join("link")).unwrap();
    b.config["linux"]["readonlyPaths"] = json!(["/link"]);
    b.args(&["true"]);
    if ours() {
        assert!(b.run().failure().contains("is or contains a link"));
    }
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
    b.script("pwd");
    // Nothing of ours is open by then; what the caller passes on is, and it is a folder of the host.
    let outside = b.path.clone();
    let bait = Bait::new(&b);
    for path in ["/proc/self/fd/3", "/proc/thread-self/fd/3", "/proc/self/fd/3/bait", "/proc/self/fd/3/bait/new"] {
        b.config["process"]["cwd"] = json!(path);
        let said = b.call_with_three(&outside, &["run", "--preserve-fds", "1", &b.id]).failure();
        // One that is missing is made, but only inside.
        assert!(!ours() || said.contains("outside of the container's root") || path.ends_with("new"), "{said}");
        bait.is_untouched();
    }
    b.config["process"]["cwd"] = json!("/");
    b.sleeping();
    let words = ["exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", &b.id, "pwd"];
    let said = b.call_with_three(&outside, &words).failure();
    assert!(!ours() || said.contains("outside of the container's root"), "{said}");
}

#[test]
fn cve_2024_21626_nothing_of_the_host_is_open_when_the_working_directory_is_entered() {
    let Some(mut b) = Bundle::new("c21626n") else { return };
    b.script("cat ../../../etc/shadow");
    for number in 0..20 {
        b.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let said = b.run().failure();
        assert!(!said.contains("outside of the container's root"), "a folder of the host is open as {number}: {said}");
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
    std::fs::write(b.rootfs().join("secret"), "not of the host's device\n").unwrap();
    std::fs::write(b.path.join("secret"), "not of the host's device\n").unwrap();
    b.config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    // As the image has it, and as it is on the host.
    let outside = b.path.join("secret");
    for target in [Path::new("/secret"), Path::new("../secret"), &outside] {
        symlink(target, b.rootfs().join("dev/null")).unwrap();
        assert_eq!(b.prints("cat /proc/keys"), "", "{}", target.display());
        std::fs::remove_file(b.rootfs().join("dev/null")).unwrap();
    }
}

#[test]
fn cve_2025_52565_a_console_that_is_a_link_is_refused() {
    let Some(mut b) = Bundle::new("c52565") else { return };
    if !ours() {
        return;
    }
    // The image's own /dev, with a link to what is inside: following it would be a mount over that.
    b.config["mounts"].as_array_mut().unwrap().retain(|mount| {
        let target = mount["destination"].as_str().unwrap();
        !target.starts_with("/dev") || target == "/dev/pts"
    });
    std::fs::create_dir(b.rootfs().join("dev/pts")).unwrap();
    std::fs::write(b.rootfs().join("data/secret"), "masked").unwrap();
    b.config["process"]["terminal"] = json!(true);
    b.args(&["true"]);
    let socket = b.path.join("console.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let create = ["create", "--console-socket", socket.to_str().unwrap(), &b.id];
    symlink("/data/secret", b.rootfs().join("dev/console")).unwrap();
    let said = b.call(&create).failure();
    assert!(said.contains("/dev/console is a link"), "{said}");
    std::fs::remove_file(b.rootfs().join("dev/console")).unwrap();
    b.call(&create).success();
}

#[test]
fn cve_2025_52565_a_terminal_is_of_a_real_devpts() {
    let Some(mut b) = Bundle::new("c52565p") else { return };
    if !ours() {
        return;
    }
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    std::fs::create_dir(b.rootfs().join("dev/pts")).unwrap();
    std::fs::write(b.rootfs().join("dev/pts/ptmx"), "").unwrap();
    b.config["process"]["terminal"] = json!(true);
    b.args(&["true"]);
    let socket = b.path.join("console.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let said = b.call(&["create", "--console-socket", socket.to_str().unwrap(), &b.id]).failure();
    assert!(said.contains("/dev/pts is not a devpts"), "{said}");
}

#[test]
fn cve_2025_52881_sysctls_are_written_to_a_real_procfs() {
    let Some(mut b) = Bundle::new("c52881") else { return };
    if !ours() {
        return;
    }
    // No procfs at all, but files of the image where it would be: the write must not land in them.
    b.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    let fake = b.rootfs().join("proc/sys/kernel/msgmax");
    std::fs::create_dir_all(fake.parent().unwrap()).unwrap();
    std::fs::write(&fake, "untouched").unwrap();
    b.config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4322" });
    b.sleeping();
    assert_eq!(std::fs::read_to_string(&fake).unwrap(), "untouched");
    // And it came to where it belongs.
    let file =
        rustix::fs::open(format!("/proc/{}/ns/ipc", b.pid()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let inside = std::thread::spawn(move || {
        // This thread's only: it ends with it.
        rustix::thread::move_into_link_name_space(
            file.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::InterProcessCommunication),
        )
        .unwrap();
        std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap()
    });
    assert_eq!(inside.join().unwrap(), "4322\n");
}

#[test]
fn cve_2025_52881_labels_are_written_to_a_real_procfs() {
    let Some(mut b) = Bundle::new("c52881a") else { return };
    if !ours() {
        return;
    }
    b.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    let fakes = ["attr/exec", "attr/apparmor/exec"].map(|name| b.rootfs().join("proc/self").join(name));
    std::fs::create_dir_all(fakes[1].parent().unwrap()).unwrap();
    let untouched = |b: &Bundle| {
        for fake in &fakes {
            assert_eq!(std::fs::read_to_string(fake).unwrap(), "untouched", "{}", b.id);
        }
    };
    fakes.iter().for_each(|fake| std::fs::write(fake, "untouched").unwrap());
    b.sleeping();
    // Whether the host takes such labels does not matter here, only where they were written.
    b.call(&["exec", "--apparmor", "unconfined", &b.id, "true"]);
    untouched(&b);
    b.call(&["delete", "--force", &b.id]).success();
    b.args(&["true"]);
    for label in ["apparmorProfile", "selinuxLabel"] {
        b.config["process"][label] = json!("unconfined");
        b.run();
        untouched(&b);
        b.config["process"].as_object_mut().unwrap().remove(label);
    }
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

/// The flags of all mounts at and below /sys/fs/cgroup, and what could be made there.
const CGROUP_MOUNTS: &str = "awk '$5 ~ \"^/sys/fs/cgroup\" { print $6 }' /proc/self/mountinfo; \
    for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/made 2>/dev/null && echo made; done; true";

#[track_caller]
fn all_read_only(said: &str) {
    assert!(!said.is_empty() && !said.contains("made"), "{said}");
    for flags in said.lines() {
        assert!(flags.split(',').any(|flag| flag == "ro"), "{said}");
    }
}

#[test]
fn ghsa_m8cg_xc2p_r3fc_a_read_only_cgroup_mount_is_read_only() {
    let Some(mut b) = Bundle::new("m8cg") else { return };
    let mount = |options: &[&str]| json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options });
    b.mount(mount(&["ro", "nosuid", "noexec", "nodev"]));
    // Root is the owner of all that is there: only the mount refuses.
    for more in [&["cgroup"][..], &[]] {
        b.namespaces(&[&["mount", "network", "uts", "pid", "ipc"], more].concat());
        all_read_only(&b.prints(CGROUP_MOUNTS));
    }
    b.config["mounts"].as_array_mut().unwrap().pop();
    b.mount(mount(&["rw"]));
    assert!(b.prints(CGROUP_MOUNTS).contains("made"), "the test can fail");
}

#[test]
fn ghsa_m8cg_xc2p_r3fc_also_in_a_user_namespace() {
    let Some(mut b) = Bundle::new("m8cgu") else { return };
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    std::fs::set_permissions(&b.path, PermissionsExt::from_mode(0o755)).unwrap();
    b.mount(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"] }));
    for more in [&["cgroup"][..], &[]] {
        b.namespaces(&[&["mount", "network", "uts", "pid", "ipc", "user"], more].concat());
        all_read_only(&b.prints(CGROUP_MOUNTS));
    }
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
