//! The same bundle through our runtime and through runc: what a container finds inside must be the same.
//!
//! A probe in the container prints what it has (rights, limits, namespaces, mounts, devices, kernel parameters,
//! cgroup); what must differ (ids, sources, inode numbers) is made equal first. `REFERENCE=/usr/bin/crun` compares
//! with another runtime.

use super::bundle::{Bundle, ours, skipped};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn reference() -> Option<PathBuf> {
    if skipped() || !ours() {
        return None;
    }
    let named = std::env::var_os("REFERENCE").map(PathBuf::from);
    let found = named.or_else(|| {
        ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
    });
    if found.is_none() {
        eprintln!("skipped: needs runc to compare with");
    }
    found
}

/// Each part has a name, so that a difference says where it is.
const PROBE: &str = r#"
echo "== status"; grep -E '^(Umask|Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Cpus_allowed_list|SigBlk)' /proc/self/status
echo "== limits"; cat /proc/self/limits
echo "== oom"; cat /proc/self/oom_score_adj
echo "== id"; id; pwd; hostname; cat /proc/sys/kernel/domainname; env | sort
echo "== mounts"; while read id parent dev root target options rest; do
    case "$rest" in *" - "*) tail="${rest#* - }";; *) tail="${rest#- }";; esac
    case "$rest" in shared*|master*|unbindable*) kind="${rest%%:*}";; *) kind=private;; esac
    set -- $tail; [ "$1" = overlay ] && continue
    echo "$target $options $1 $3 $kind"; done </proc/self/mountinfo | sort
echo "== dev"; find /dev ! -path '/dev/pts/*' | sort | while read f; do echo "$f $(stat -c '%F %a %u:%g %t:%T' $f 2>/dev/null) $(readlink $f)"; done
echo "== fds"; for f in /proc/self/fd/*; do case "$(readlink $f)" in /*) readlink $f;; esac; done | grep -v '^/proc\|^/dev/null\|out\.\|err\.' | sort
echo "== masked"; for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do echo "$f $(wc -c <$f 2>&1)"; done; ls -A /proc/acpi /sys/firmware
echo "== readonly"; for f in /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/irq/default_smp_affinity; do (echo >$f) 2>&1 | grep -o 'Read-only\|denied\|Permission'; done
echo "== sysctl"; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max 2>&1
echo "== namespaces"; for n in cgroup ipc mnt net pid user uts time; do [ "$(readlink /proc/self/ns/$n)" = "$(grep "^$n " /host-ns | cut -d' ' -f2)" ] && echo "$n the host's" || echo "$n its own"; done
echo "== cgroup"; for c in memory cpu pids cpuset blkio devices; do for f in memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness cpu.shares cpu.cfs_quota_us cpu.cfs_period_us pids.max cpuset.cpus cpuset.mems devices.list blkio.throttle.read_bps_device; do
    [ -e /sys/fs/cgroup/$c/$f ] && echo "$c/$f $(cat /sys/fs/cgroup/$c/$f | sort | tr '\n' ' ')"; done; done
for f in memory.max memory.swap.max memory.low cpu.weight cpu.max pids.max cpuset.cpus io.max; do [ -e /sys/fs/cgroup/$f ] && echo "$f $(cat /sys/fs/cgroup/$f | tr '\n' ' ')"; done; true
"#;

/// What the container printed, each line with the name of its part.
fn said(change: &dyn Fn(&mut Bundle), runtime: Option<PathBuf>) -> BTreeSet<String> {
    let mut bundle = Bundle::new("same").expect("it was looked for");
    if let Some(runtime) = runtime {
        bundle.runtime = runtime;
    }
    let namespaces: String = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"]
        .iter()
        .map(|name| format!("{name} {}\n", std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display()))
        .collect();
    std::fs::write(bundle.rootfs().join("host-ns"), namespaces).unwrap();
    change(&mut bundle);
    let text = bundle.prints(PROBE);
    let id = bundle.id.clone();
    let mut part = String::new();
    let mut lines = BTreeSet::new();
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(name) => name.clone_into(&mut part),
            None => drop(lines.insert(format!("{part}: {}", line.trim_end().replace(&id, "<ID>")))),
        }
    }
    assert!(lines.len() > 60, "the probe did not run: {text}");
    lines
}

fn same(change: impl Fn(&mut Bundle)) {
    let Some(reference) = reference() else { return };
    let (own, theirs) = (said(&change, None), said(&change, Some(reference)));
    let wanted = |line: &&String| !ACCEPTED.iter().any(|start| line.starts_with(start));
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>, whose: &str| {
        one.difference(other).filter(wanted).map(|line| format!("{whose} {line}")).collect::<Vec<_>>()
    };
    let all = [only(&own, &theirs, "ours  "), only(&theirs, &own, "theirs")].concat();
    assert!(all.is_empty(), "differences:\n{}", all.join("\n"));
}

fn set(bundle: &mut Bundle, pointer: &str, value: Value) {
    let (above, name) = pointer.rsplit_once('/').unwrap();
    bundle.config.pointer_mut(above).unwrap()[name] = value;
}

/// Where we differ on purpose.
const ACCEPTED: [&str; 9] = [
    // Masked by the host's /dev/null, read-only; runc takes the container's own, which root inside can change.
    "mounts: /proc/interrupts ",
    "mounts: /proc/keys ",
    "mounts: /proc/timer_list ",
    // Small and bounded; runc's empty folders are of the default size.
    "mounts: /proc/acpi ",
    "mounts: /sys/firmware ",
    // Read-only as a mount; runc makes the superblock so.
    "mounts: /sys ",
    // All of it read-only where "ro" is asked for, with the v2 tree of a hybrid host.
    "mounts: /sys/fs/cgroup ",
    "mounts: /sys/fs/cgroup/unified ",
    // Docker's default has the console, and no tun any more.
    "cgroup: devices/devices.list ",
];

#[test]
fn a_plain_container_is_the_same() {
    same(|_| {});
}

#[test]
fn rights_and_limits_are_the_same() {
    same(|b| {
        let some = json!(["CAP_NET_RAW", "CAP_KILL", "CAP_SYS_PTRACE"]);
        set(
            b,
            "/process/capabilities",
            json!({
                "bounding": some, "permitted": some, "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
            }),
        );
        set(b, "/process/user", json!({"uid": 1234, "gid": 77, "additionalGids": [5, 4242], "umask": 0o027}));
        set(b, "/process/noNewPrivileges", json!(true));
        set(b, "/process/oomScoreAdj", json!(222));
        set(b, "/process/cwd", json!("/tmp"));
        set(
            b,
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 111}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600},
            ]),
        );
        set(
            b,
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
            }),
        );
    });
}

#[test]
fn mounts_and_devices_are_the_same() {
    same(|b| {
        let (source, inner) = (b.path.join("source"), b.path.join("file"));
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(&inner, "").unwrap();
        b.mount(json!({"destination": "/bound", "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid", "nodev"]}));
        b.mount(json!({"destination": "/etc/file", "type": "bind", "source": inner, "options": ["bind", "rprivate"]}));
        b.mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=2m", "mode=1770", "noexec"]}));
        b.mount(json!({"destination": "/slave", "type": "bind", "source": source, "options": ["rbind", "rslave"]}));
        set(b, "/root/readonly", json!(true));
        set(
            b,
            "/linux/devices",
            json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/below/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0},
            ]),
        );
    });
}

#[test]
fn namespaces_parameters_and_groups_are_the_same() {
    same(|b| {
        b.namespaces(&["mount", "network", "uts", "pid", "ipc", "cgroup"]);
        b.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
        set(
            b,
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096", "fs.mqueue.msg_max": "50"}),
        );
        set(b, "/hostname", json!("elsewhere"));
        set(
            b,
            "/linux/resources",
            json!({
                "devices": [
                    {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                    {"allow": true, "type": "b", "access": "m"},
                ],
                "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432},
                "cpu": {"shares": 333, "quota": 25000, "period": 50000, "cpus": "0"},
                "pids": {"limit": 50},
            }),
        );
    });
}

#[test]
fn the_hosts_namespaces_are_the_same() {
    same(|b| drop(b.namespaces(&["mount", "pid"]).config["hostname"].take()));
}
