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
# What `poweroff` tells an init: its last word goes to the disk first.
trap 'echo in order >> /data/ended; umount /data; echo ends in order; poweroff -f' USR2
while :; do sleep 1 & wait; done
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
pub(crate) fn linux(engine: &Engine) -> Option<(PathBuf, PathBuf)> {
    let kernel = kernel(engine)?;
    let mut archive = initrd(&kernel, INIT);
    archive.file("bin/berth-agent", &std::fs::read(programs().join("berth-agent")).unwrap());
    let initrd = engine.root().join("linux.initrd");
    std::fs::write(&initrd, archive.finish()).unwrap();
    Some((kernel.join("vmlinux"), initrd))
}

/// What a command in the machine says.
#[track_caller]
pub(crate) fn said(engine: &Engine, machine: &str, script: &str) -> String {
    engine.berth(["vm", "exec", machine, "/bin/sh", "-c", script]).success()
}

/// What is said of a process that does not end, where the script does its work as soon as that runs.
fn waits_in_vain(engine: &Engine, machine: &str, program: &[&str], script: &str) -> String {
    let script = format!("until pidof {}; do sleep 1; done; {script}", program[0]);
    engine.berth(["vm", "exec", "-d", machine, "/bin/sh", "-c", &script]).success();
    let output = engine.berth([&["vm", "exec", machine], program].concat());
    assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{output:?}");
    output.stderr
}

pub(crate) fn wait_for_agent(engine: &Engine, machine: &str) {
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

    // How it is, by its own word: its agent's, and the balloon's where the agent is gone.
    let guest = |query: &str| view(&engine, &format!("one{query}"))["guest"].clone();
    assert!(guest("").is_null());
    let seen = guest("?guest=true");
    let number = |value: &serde_json::Value, name: &str| value[name].as_u64().unwrap();
    let (used, total) = (number(&seen, "memory_used_bytes"), number(&seen, "memory_total_bytes"));
    assert!(0 < used && used < total && (100 << 20..192 << 20).contains(&total), "{seen}");
    assert_eq!((seen["source"].as_str(), number(&seen, "uptime_millis") > 0), (Some("agent"), true), "{seen}");
    let disk = seen["filesystems"].as_array().unwrap().iter().find(|one| one["path"] == "/data").unwrap();
    assert!(number(disk, "used_bytes") >= 300_000 && number(disk, "total_bytes") <= 64 << 20, "{disk}");
    let listed = engine.berth(["vm", "ls"]).success();
    assert!(listed.contains("MiB / 192MiB"), "{listed}");
    let row =
        engine.berth(["vm", "stats", "--no-stream", "--format", "{{.Name}} {{.GuestMem}} {{.CPUPerc}}"]).success();
    assert!(row.starts_with("one ") && row.contains("MiB / ") && row.ends_with('%'), "{row}");
    assert!(engine.berth(["vm", "inspect", "-f", "{{.guest.source}}", "one"]).success().contains("agent"));

    names(&engine, "one");

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

/// What a DHCP client does with what it is told.
const LEASE: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
set -- $staticroutes
while [ $# -ge 2 ]; do
  case $2 in 0.0.0.0) ip route add $1 dev $interface ;; *) ip route add $1 via $2 dev $interface ;; esac
  shift 2
done
for server in $dns; do echo nameserver $server; done > /etc/resolv.conf
";

/// Its first card, by DHCP.
pub(crate) fn ask_for_address(engine: &Engine, machine: &str) {
    let script = engine.root().join("lease");
    std::fs::write(&script, LEASE).unwrap();
    engine.berth(["vm", "cp", script.to_str().unwrap(), &format!("{machine}:/lease")]).success();
    said(engine, machine, "chmod 755 /lease; ip link set eth0 up; udhcpc -i eth0 -n -q -s /lease");
}

/// Names, both ways: a guest that configured itself by DHCP, and containers of its network.
fn names(engine: &Engine, machine: &str) {
    engine
        .docker(["run", "-d", "--name", "peer", "--network", "back", "--network-alias", "db", "tiny", "sleep", "1000"])
        .success();
    ask_for_address(engine, machine);
    assert_eq!(said(engine, machine, "cat /etc/resolv.conf"), "nameserver 169.254.0.53");
    let address = |name: &str| match name {
        "peer" => engine.inspect("peer")["NetworkSettings"]["Networks"]["back"]["IPAddress"].clone(),
        machine => view(engine, machine)["networks"]["back"]["ipv4"].clone(),
    };
    let (peer, own) = (address("peer"), address(machine));
    let (peer, own) = (peer.as_str().unwrap(), own.as_str().unwrap());
    for name in ["peer", "db", "PEER.back"] {
        let found = said(engine, machine, &format!("nslookup {name}"));
        assert!(found.contains(peer), "{name}: {found}");
    }
    said(engine, machine, "ping -c 1 -w 20 peer");
    // A name that nobody has is none, at once and not after a resolver's patience.
    let nobody = engine.berth(["vm", "exec", machine, "/bin/sh", "-c", "nslookup nobody-has-this 2>&1"]);
    assert!(nobody.code != 0 && nobody.stdout.contains("NXDOMAIN"), "{nobody:?}");
    // The other way; and a container that is gone has no name any more.
    let found = engine.docker(["exec", "peer", "nslookup", machine]).success();
    assert!(found.contains(own), "{found}");
    engine.docker(["exec", "peer", "ping", "-4", "-c", "1", "-w", "20", machine]).success();
    engine.docker(["rm", "-f", "peer"]).success();
    wait_until("the name of what is gone is none", || {
        engine.berth(["vm", "exec", machine, "/bin/sh", "-c", "nslookup peer 2>&1"]).stdout.contains("NXDOMAIN")
    });
}

#[test]
fn a_machine_is_stopped_in_order_by_its_agent() {
    let Some(engine) = start("vm-order") else { return };
    let Some((kernel, initrd)) = linux(&engine) else { return };
    let (kernel, initrd) = (kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let boot = ["--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet mitigations=off"];
    let rest = ["--disk", "size=64M", "-m", "192m", "--network", "none", "--start", "one"];
    engine.berth([&["vm", "create"], &boot[..], &rest].concat()).success();
    wait_for_agent(&engine, "one");
    // A guest that hears nothing of a power button: nobody but its agent brings it to its end.
    engine.berth(["vm", "stop", "-t", "600", "one"]).success();
    assert_eq!(
        (view(&engine, "one")["state"].as_str(), view(&engine, "one")["exit_code"].as_i64()),
        (Some("exited"), Some(0))
    );
    let log = engine.berth(["vm", "logs", "one"]).success();
    assert!(log.contains("ends in order"), "{log}");
    let refused = engine.berth(["vm", "stats", "--no-stream", "one"]).failure(1);
    assert!(refused.contains("machine one is not running"), "{refused}");
    assert!(engine.berth(["vm", "ls", "-a"]).success().contains("one "));

    engine.berth(["vm", "start", "one"]).success();
    wait_for_agent(&engine, "one");
    assert_eq!(said(&engine, "one", "cat /data/ended"), "in order");
    // One that does not run is no error for those that do.
    engine.berth(["vm", "create", "--disk", "size=1M", "-m", "64m", "--network", "none", "off"]).success();
    let rows =
        engine.berth(["vm", "stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}}", "one", "off"]).success();
    assert!(rows.starts_with("off --\none ") && rows.ends_with('%'), "{rows}");

    // Its agent is killed, and then there is another one: whoever waits for a process of the first is told.
    let again = "killall -9 berth-agent; sleep 1; /bin/berth-agent --service &";
    let told = waits_in_vain(&engine, "one", &["tail", "-f", "/dev/null"], again);
    assert!(told.contains("began anew") || told.contains("is gone"), "{told}");
    wait_for_agent(&engine, "one");
    // Without its agent: the balloon's driver knows of the memory, and the plug is pulled after the grace.
    let told = waits_in_vain(&engine, "one", &["usleep", "4000000000"], "killall berth-agent");
    assert!(told.contains("the guest's agent is gone"), "{told}");
    let guest = || view(&engine, "one?guest=true")["guest"].clone();
    wait_until("the balloon tells", || guest()["source"] == "balloon");
    let seen = guest();
    assert!(seen["memory_used_bytes"].as_u64() < seen["memory_total_bytes"].as_u64(), "{seen}");
    engine.berth(["vm", "stop", "-t", "1", "one"]).success();
    assert_eq!(view(&engine, "one")["exit_code"].as_i64(), Some(137));
    engine.berth(["vm", "start", "one"]).success();
    wait_for_agent(&engine, "one");
    assert_eq!(said(&engine, "one", "cat /data/ended"), "in order", "the second end was none in order");
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
    assert_eq!(said(&engine, "box", "cat /etc/hostname"), "box");
    // What it writes is its own; the image stays what it was.
    said(&engine, "box", "echo new > /etc/owned");
    engine.berth(["vm", "create", "--from-image", "bootable,size=300M", "-m", "192m", "other"]).success();
    let left = std::fs::read_dir(engine.root().join("data/machines")).unwrap();
    let left = left.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("from-image")).count();
    assert_eq!(left, 0, "what it was made of is gone");
    engine.berth(["vm", "start", "--wait", "other"]).success();
    assert_eq!(said(&engine, "other", "cat /etc/owned"), "by somebody");
    clear(&engine);
}
