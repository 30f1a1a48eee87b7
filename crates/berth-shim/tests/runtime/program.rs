//! What the program finds: environment, directory, streams, limits, names.

use crate::bundle::{Bundle, ours};
use serde_json::json;
use std::os::fd::AsRawFd;

#[test]
fn environment_and_arguments_are_as_configured() {
    let Some(mut b) = Bundle::new("env") else { return };
    b.config["process"]["env"] = json!(["PATH=/bin", "A=1", "EMPTY=", "B=x=y"]);
    let out = b.prints("env; echo \"[$0]\"");
    for line in ["A=1", "EMPTY=", "B=x=y", "PATH=/bin", "[sh]"] {
        assert!(out.lines().any(|found| found == line), "{line} in {out}");
    }
    b.args(&["echo", "a b", "*", "$A"]);
    assert_eq!(b.run().success(), "a b * $A\n");
}

#[test]
fn a_missing_working_directory_is_made() {
    let Some(mut b) = Bundle::new("cwd") else { return };
    b.config["process"]["cwd"] = json!("/data/new/deep");
    assert_eq!(b.prints("pwd; stat -c %a /data/new /data/new/deep"), "/data/new/deep\n755\n755\n");
    b.config["process"]["cwd"] = json!("relative");
    b.run().failure();
}

#[test]
fn hostname_and_domainname_are_the_containers() {
    let Some(mut b) = Bundle::new("names") else { return };
    b.config["domainname"] = json!("example.test");
    let out = b.prints("hostname; cat /proc/sys/kernel/domainname");
    assert_eq!(out, "box\nexample.test\n");
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(own.trim(), "box");
}

#[test]
fn it_is_process_one_of_its_own_namespaces() {
    let Some(mut b) = Bundle::new("ns") else { return };
    let out = b.prints("echo $$; for n in mnt net uts pid ipc; do readlink /proc/self/ns/$n; done");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "1");
    for (line, name) in lines[1..].iter().zip(["mnt", "net", "uts", "pid", "ipc"]) {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(*line, host.to_str().unwrap());
    }
}

#[test]
fn resource_limits_are_set() {
    let Some(mut b) = Bundle::new("rlimit") else { return };
    b.config["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
    ]);
    assert_eq!(b.prints("ulimit -Sn; ulimit -Hn; ulimit -c"), "100\n200\n0\n");
}

#[test]
fn a_limit_above_the_hosts_is_set_as_high_as_may_be() {
    let Some(mut b) = Bundle::new("rlimithigh") else { return };
    if !ours() {
        return;
    }
    b.config["process"]["rlimits"] =
        json!([{ "type": "RLIMIT_NOFILE", "soft": 4_000_000_000_u64, "hard": 4_000_000_000_u64 }]);
    b.args(&["sh", "-c", "ulimit -Hn"]);
    let said = b.run();
    match said.code {
        // Above what the kernel takes at all (fs.nr_open), or clamped to what we may.
        0 => assert!(said.out.trim().parse::<u64>().unwrap() < 4_000_000_000, "{said:?}"),
        _ => assert!(said.err.contains("rlimit"), "{said:?}"),
    }
}

#[test]
fn the_session_keyring_is_its_own() {
    let Some(mut b) = Bundle::new("keyring") else { return };
    // The kernel lists what the user may see; without a keyring of its own, ours is not among it.
    b.config["linux"]["maskedPaths"] = json!([]);
    let keys = b.prints("cat /proc/keys");
    if keys.is_empty() {
        eprintln!("skipped: this kernel shows no keys");
        return;
    }
    assert!(keys.contains(&format!("_ses.{}", b.id)), "{keys}");
}

#[test]
fn oom_score_and_umask_are_set() {
    let Some(mut b) = Bundle::new("oom") else { return };
    b.config["process"]["oomScoreAdj"] = json!(123);
    b.config["process"]["user"]["umask"] = json!(0o027);
    assert_eq!(b.prints("cat /proc/self/oom_score_adj; umask; touch /tmp/f; stat -c %a /tmp/f"), "123\n0027\n640\n");
}

#[test]
fn sysctls_are_the_namespaces_own() {
    let Some(mut b) = Bundle::new("sysctl") else { return };
    b.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "4321" });
    let out = b.prints("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    assert_eq!(out, "0\n4321\n");
    // Not of any namespace, or of one that is the host's: it would change the host. (The value is the host's own.)
    let own = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim().to_owned();
    b.config["linux"]["sysctl"] = json!({ "kernel.panic": own("kernel/panic") });
    b.run().failure();
    b.namespaces(&["mount", "pid"]);
    b.config.as_object_mut().unwrap().remove("hostname");
    b.config["linux"]["sysctl"] = json!({ "kernel.msgmax": own("kernel/msgmax") });
    b.run().failure();
}

#[test]
fn only_the_asked_descriptors_reach_the_program() {
    let Some(mut b) = Bundle::new("fds") else { return };
    b.script("ls /proc/self/fd | sort | tr '\\n' ' '");
    // 3 is ls's own folder.
    assert_eq!(b.run().success(), "0 1 2 3 ");
    let file = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    assert!(file.as_raw_fd() > 2);
    assert_eq!(b.run().success(), "0 1 2 3 ", "a descriptor of the caller leaked");
}

#[test]
fn preserved_descriptors_arrive_from_three_on() {
    let Some(mut b) = Bundle::new("preserve") else { return };
    b.script("cat <&3");
    let data = b.path.join("passed");
    std::fs::write(&data, "through\n").unwrap();
    assert_eq!(b.call_with_three(&data, &["run", "--preserve-fds", "1", &b.id]).success(), "through\n");
}

#[test]
fn personality_is_thirty_two_bit() {
    let Some(mut b) = Bundle::new("persona") else { return };
    b.config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let out = b.prints("busybox uname -m");
    assert!(["i686", "armv7l", "armv8l"].contains(&out.trim()), "{out}");
}

#[test]
fn a_script_without_its_interpreter_says_so() {
    let Some(mut b) = Bundle::new("interpreter") else { return };
    std::fs::write(b.rootfs().join("bin/odd"), "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(b.rootfs().join("bin/odd"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    b.args(&["odd"]);
    assert!(b.run().failure().contains("no such file or directory"));
}

#[test]
fn time_can_be_the_containers_own() {
    let Some(mut b) = Bundle::new("time") else { return };
    b.namespaces(&["mount", "pid", "ipc", "uts", "network", "time"]);
    b.config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000, "nanosecs": 0 } });
    let out = b.prints("cut -d. -f1 /proc/uptime");
    let inside: u64 = out.trim().parse().unwrap();
    assert!(inside >= 1_000_000, "{inside}");
}
