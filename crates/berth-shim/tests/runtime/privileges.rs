//! Who the program is and what it may: users, groups, capabilities, no_new_privs, syscall filters.

use crate::bundle::{Bundle, ours, wait_until};
use rustix::fd::OwnedFd;
use serde_json::json;
use std::os::unix::net::UnixListener;

/// The capability lines of /proc/self/status as one text: inheritable, permitted, effective, bounding, ambient.
const CAPS: &str = "grep ^Cap /proc/self/status | awk '{print $2}' | tr '\\n' ' '";

#[test]
fn dockers_capabilities_and_no_others() {
    let Some(mut b) = Bundle::new("caps") else { return };
    let set = "00000000a80425fb";
    let none = "0000000000000000";
    assert_eq!(b.prints(CAPS), format!("{none} {set} {set} {set} {none} "));
}

#[test]
fn without_capabilities_there_are_none() {
    let Some(mut b) = Bundle::new("nocaps") else { return };
    b.config["process"]["capabilities"] = json!({});
    let none = "0000000000000000";
    assert_eq!(b.prints(CAPS), format!("{none} {none} {none} {none} {none} "));
}

#[test]
fn all_five_sets_are_as_configured() {
    let Some(mut b) = Bundle::new("ambient") else { return };
    let net = json!(["CAP_NET_BIND_SERVICE"]);
    b.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    b.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"], "permitted": net, "effective": net, "inheritable": net, "ambient": net
    });
    let bit = "0000000000000400";
    assert_eq!(b.prints(CAPS), format!("{bit} {bit} {bit} 0000000000000401 {bit} "));
}

#[test]
fn another_user_has_no_capabilities_left() {
    let Some(mut b) = Bundle::new("user") else { return };
    b.config["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 20, 2000] });
    let out = b.prints(&format!("id -u; id -g; id -G; {CAPS}"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..3], ["1000", "1001", "1001 5 20 2000"]);
    let words: Vec<&str> = lines[3].split(' ').collect();
    assert_eq!(words[2], "0000000000000000", "effective");
}

#[test]
fn no_groups_of_the_caller_are_left() {
    let Some(mut b) = Bundle::new("groups") else { return };
    b.config["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    assert_eq!(b.prints("grep ^Groups /proc/self/status | tr -d '\\t '"), "Groups:\n");
}

#[test]
fn no_new_privs_is_set_when_asked() {
    let Some(mut b) = Bundle::new("nnp") else { return };
    assert!(b.prints("grep NoNewPrivs /proc/self/status").contains('0'));
    b.config["process"]["noNewPrivileges"] = json!(true);
    assert!(b.prints("grep NoNewPrivs /proc/self/status").contains('1'));
}

#[test]
fn a_filter_answers_with_its_errno() {
    let Some(mut b) = Bundle::new("seccomp") else { return };
    for no_new_privileges in [false, true] {
        b.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        b.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                { "names": ["sethostname"], "action": "SCMP_ACT_ERRNO" }
            ]
        });
        let out =
            b.prints("grep ^Seccomp: /proc/self/status | tr -d '\\t '; mkdir /tmp/x 2>&1; hostname no 2>&1; echo on");
        assert!(out.starts_with("Seccomp:2\n"), "{out}");
        assert!(out.contains("No space left on device"), "{out}");
        assert!(out.contains("Operation not permitted") && out.ends_with("on\n"), "{out}");
    }
}

#[test]
fn a_filter_that_allows_little_still_starts_the_program() {
    let Some(mut b) = Bundle::new("strict") else { return };
    if !ours() {
        return;
    }
    // What a static "true" needs, and what the kernel must let the runtime do last.
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "names": [
            "execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat",
            "getrandom", "mprotect", "exit_group", "prctl", "getuid", "uname", "newfstatat", "capset"
        ], "action": "SCMP_ACT_ALLOW" }]
    });
    b.args(&["/bin/true"]);
    let said = b.run();
    assert_eq!(said.code, 0, "{said:?}");
}

/// Stands at `path` and answers one notified call with "no such device".
fn agent(listener: UnixListener) -> std::thread::JoinHandle<(OwnedFd, serde_json::Value)> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [std::io::IoSliceMut::new(&mut bytes)];
        let received =
            rustix::net::recvmsg(&stream, &mut buffers, &mut ancillary, rustix::net::RecvFlags::CMSG_CLOEXEC).unwrap();
        let fd = ancillary.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        (fd.expect("the filter's descriptor"), serde_json::from_slice(&bytes[..received.bytes]).unwrap())
    })
}

#[test]
fn the_seccomp_agent_gets_the_filter_and_the_state() {
    let Some(mut b) = Bundle::new("notify") else { return };
    let path = b.path.join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "listenerPath": path,
        "listenerMetadata": "who asks",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
    });
    // Without anybody who holds the filter the call fails with ENOSYS; with the agent it waits for an answer.
    b.script("mkdir /tmp/asked 2>/tmp/said; exec sleep 1000");
    let agent = agent(listener);
    b.create();
    let pid = b.pid();
    b.start();
    let (filter, state) = agent.join().unwrap();
    assert_eq!(state["fds"], json!(["seccompFd"]), "{state}");
    assert_eq!(state["metadata"], "who asks");
    assert_eq!((&state["pid"], &state["state"]["pid"]), (&json!(pid), &json!(pid)), "{state}");
    assert_eq!(state["state"]["id"], b.id);
    // Readable once a process waits for its answer.
    let mut fds = [rustix::event::PollFd::new(&filter, rustix::event::PollFlags::IN)];
    let deadline = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&deadline)).unwrap(), 1, "no call was notified");
    // The last holder gone, whoever waits hears that there is no such call.
    drop(filter);
    wait_until("the program to hear", || b.rootfs().join("tmp/said").metadata().is_ok_and(|said| said.len() > 0));
    assert!(std::fs::read_to_string(b.rootfs().join("tmp/said")).unwrap().contains("not implemented"));
}

#[test]
fn a_notifying_filter_without_an_agent_is_refused() {
    let Some(mut b) = Bundle::new("nonotify") else { return };
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": b.path.join("nobody.sock"),
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]
    });
    b.args(&["true"]);
    b.run().failure();
    assert!(b.cgroups_left().is_empty());
}

#[test]
fn an_unknown_capability_is_refused() {
    let Some(mut b) = Bundle::new("badcap") else { return };
    if !ours() {
        return;
    }
    b.config["process"]["capabilities"]["bounding"] = json!(["CAP_NONSENSE"]);
    b.run().failure();
}

#[test]
fn nothing_of_the_host_program_can_be_seen_from_inside() {
    let Some(mut b) = Bundle::new("exe") else { return };
    let out = b.prints("readlink /proc/1/exe; ls /proc | grep -c '^[0-9]'");
    assert!(out.starts_with("/bin/busybox\n"), "{out}");
}
