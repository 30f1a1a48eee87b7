//! A whole system with an agent in it: processes, files, snapshots that are asked for, forks that become others.

use crate::{clear, start, view};
use berth_testkit::{Engine, guests, programs, wait_until};
use berth_vm::initramfs::Archive;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the guest's kernel starts: file systems, modules, a disk, the agent.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done
ip link set lo up
mount -t ext4 /dev/vda /data 2>/dev/null || { mke2fs /dev/vda >/dev/null 2>&1; mount -t ext4 /dev/vda /data; }
/bin/berth-agent --service &
echo the agent was started
while :; do sleep 1000; done
";

/// What an image's own kernel starts first: finds the disk and goes over to it.
const FIRST: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done
mount -t ext4 /dev/vda /root || exec sh
exec switch_root /root /sbin/init
";
const SECOND: &str = "#!/bin/busybox sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
/usr/local/sbin/berth-agent --service &
while :; do sleep 1000; done
";

/// An installed kernel's folder.
fn kernel(engine: &Engine) -> Option<PathBuf> {
    if !guests::ready(engine) {
        return None;
    }
    let kernels = engine.root().join("data/guests/kernels");
    Some(std::fs::read_dir(kernels).unwrap().next()?.unwrap().path())
}

/// A first file system with that init.
fn initrd(kernel: &Path, init: &str) -> Archive {
    let mut archive = Archive::default();
    for folder in ["bin", "data", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp"] {
        archive.folder(folder);
    }
    let mut put = |name: &str, from: &Path| archive.file(name, &std::fs::read(from).unwrap());
    put("bin/busybox", Path::new("/bin/busybox"));
    let order = kernel.join("modules/order");
    for name in std::fs::read_to_string(&order).unwrap().lines() {
        put(&format!("modules/{name}"), &kernel.join("modules").join(name));
    }
    put("modules/order", &order);
    archive.file("init", init.as_bytes());
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
    archive
}

/// Kernel and first file system of a small Linux.
fn linux(engine: &Engine) -> Option<(PathBuf, PathBuf)> {
    let kernel = kernel(engine)?;
    let mut archive = initrd(&kernel, INIT);
    archive.file("bin/berth-agent", &std::fs::read(programs().join("berth-agent")).unwrap());
    let initrd = engine.root().join("linux.initrd");
    std::fs::write(&initrd, archive.finish()).unwrap();
    Some((kernel.join("vmlinux"), initrd))
}

/// What a command in the machine says.
#[track_caller]
fn said(engine: &Engine, machine: &str, script: &str) -> String {
    engine.berth(["vm", "exec", machine, "/bin/sh", "-c", script]).success()
}

fn wait_for_agent(engine: &Engine, machine: &str) {
    let begun = std::time::Instant::now();
    while engine.berth(["vm", "exec", machine, "/bin/true"]).code != 0 {
        let log = || engine.berth(["vm", "logs", machine]).stdout;
        assert!(begun.elapsed().as_secs() < 300, "no agent in {machine}:\n{}\n{}", log(), engine.log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn an_agent_runs_processes_copies_files_and_makes_forks_others() {
    let Some(engine) = start("vm-agent") else { return };
    let Some((kernel, initrd)) = linux(&engine) else { return };
    engine.docker(["network", "create", "back"]).success();
    let (kernel, initrd) = (kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let boot =
        ["--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet mitigations=off no_timer_check"];
    let rest = ["--disk", "size=64M", "-m", "192m", "--network", "back", "--start", "one"];
    engine.berth([&["vm", "create"], &boot[..], &rest].concat()).success();
    let early = engine.berth(["vm", "exec", "one", "true"]);
    assert!(early.code != 0 && early.stderr.contains("agent"), "{early:?}");
    wait_for_agent(&engine, "one");

    // Processes: output, input, codes.
    let output =
        engine.berth_with_input(["vm", "exec", "-i", "one", "/bin/sh", "-c", "cat; echo no >&2; exit 7"], b"in");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "in", "no\n"));
    assert_eq!(said(&engine, "one", "id -u; pwd"), "0\n/");
    // Files, both ways.
    let file = engine.root().join("there");
    std::fs::write(&file, vec![b'x'; 300_000]).unwrap();
    let shown = file.to_str().unwrap();
    engine.berth(["vm", "cp", shown, "one:/data/there"]).success();
    assert_eq!(said(&engine, "one", "wc -c < /data/there"), "300000");
    engine.berth(["vm", "cp", "one:/etc/passwd", shown]).success();
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("root:"));

    // Nothing was written to the disk yet, but the guest is asked before its disk is taken.
    said(&engine, "one", "echo kept > /data/late");
    engine.berth(["vm", "clone", "--start", "one", "two"]).success();
    wait_for_agent(&engine, "two");
    assert_eq!(said(&engine, "two", "cat /data/late; wc -c < /data/there"), "kept\n300000");
    said(&engine, "one", "echo on > /data/on");
    engine.berth(["vm", "rm", "-f", "two"]).success();

    // Forks share neither identity nor random numbers with each other and with where they come from.
    engine.berth(["vm", "fork", "one", "fork", "-n", "2"]).success();
    let names: Vec<String> = engine.berth(["vm", "ls", "-q"]).success().lines().map(str::to_owned).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let mut seen: [BTreeSet<String>; 5] = Default::default();
    for name in &names {
        let script = "hostname; cat /etc/machine-id 2>/dev/null || echo none; head -c 16 /dev/urandom | md5sum; \
                      cat /sys/class/net/e*/address; ip -4 -o addr show | grep -v ' lo ' | awk '{print $4}'";
        let lines = said(&engine, name, script);
        let lines: Vec<&str> = lines.lines().collect();
        for (set, line) in seen.iter_mut().zip(&lines) {
            assert!(set.insert((*line).to_owned()), "{name} shares {line:?}");
        }
        let network = view(&engine, name)["networks"]["back"].clone();
        assert_eq!(network["mac"].as_str(), lines.get(3).copied(), "{lines:?}");
        if name != "one" {
            assert_eq!(lines[0], name.as_str());
            assert!(lines[4].starts_with(network["ipv4"].as_str().unwrap()), "{lines:?} {network}");
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let theirs: u64 = said(&engine, name, "date +%s").parse().unwrap();
            assert!(now.abs_diff(theirs) < 120, "its clock says {theirs}, ours {now}");
        }
    }
    let gateway = engine.docker(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "back"]).success();
    let fork = names.iter().find(|name| *name != "one").unwrap();
    wait_until("its new card reaches the network", || {
        engine.berth(["vm", "exec", fork, "/bin/ping", "-c", "1", "-w", "5", gateway.trim()]).code == 0
    });
    clear(&engine);
}

#[test]
fn an_image_with_a_kernel_becomes_a_machine() {
    let Some(engine) = start("vm-image") else { return };
    let Some(kernel) = kernel(&engine) else { return };
    let refused = engine.berth(["vm", "create", "--from-image", "tiny", "none"]).failure(1);
    assert!(refused.contains("has no kernel"), "{refused}");
    let tree = engine.root().join("tree");
    for folder in ["bin", "sbin", "boot", "proc", "sys", "dev", "etc/systemd/system", "usr"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    for name in ["sh", "mount", "sleep", "cat", "stat", "true"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    std::fs::write(tree.join("sbin/init"), SECOND).unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tree.join("sbin/init"), all).unwrap();
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    std::fs::write(tree.join("etc/owned"), "by somebody").unwrap();
    std::os::unix::fs::chown(tree.join("etc/owned"), Some(33), Some(44)).unwrap();
    // The newer one counts.
    std::fs::write(tree.join("boot/vmlinuz-6.1.9"), "no kernel").unwrap();
    std::fs::copy(kernel.join("vmlinux"), tree.join("boot/vmlinuz-6.1.10")).unwrap();
    std::fs::write(tree.join("boot/initrd.img-6.1.10"), initrd(&kernel, FIRST).finish()).unwrap();
    let archive = engine.root().join("tree.tar");
    let packed = std::process::Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.unwrap().success());
    engine.docker(["import", archive.to_str().unwrap(), "bootable"]).success();

    let words = ["vm", "create", "--from-image", "bootable,size=300M", "-m", "192m", "--start", "box"];
    engine.berth(words).success();
    wait_for_agent(&engine, "box");
    assert_eq!(said(&engine, "box", "cat /etc/owned; stat -c ' %u %g' /etc/owned"), "by somebody 33 44");
    let unit = said(&engine, "box", "cat /etc/systemd/system/multi-user.target.wants/berth-agent.service");
    assert!(unit.contains("--service"), "{unit}");
    // What it writes is its own; the image stays what it was.
    said(&engine, "box", "echo new > /etc/owned");
    engine.berth(["vm", "create", "--from-image", "bootable,size=300M", "-m", "192m", "other"]).success();
    let left = std::fs::read_dir(engine.root().join("data/machines")).unwrap();
    let left = left.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("from-image")).count();
    assert_eq!(left, 0, "what it was made of is gone");
    engine.berth(["vm", "start", "other"]).success();
    wait_for_agent(&engine, "other");
    assert_eq!(said(&engine, "other", "cat /etc/owned"), "by somebody");
    clear(&engine);
}
