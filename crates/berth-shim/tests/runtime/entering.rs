//! Exec: one more process, in the same namespaces, cgroups and limits.

use crate::bundle::{Bundle, wait_until};
use serde_json::json;

#[test]
fn exec_joins_every_namespace_and_cgroup() {
    let Some(mut b) = Bundle::new("exec") else { return };
    b.namespaces(&["mount", "network", "uts", "pid", "ipc", "cgroup"]);
    b.sleeping();
    let script = "for n in mnt net uts pid ipc cgroup user; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup";
    let inside = b.exec(&["sh", "-c", script]).success();
    let of_init = b.exec(&["sh", "-c", &script.replace("self", "1")]).success();
    assert_eq!(inside, of_init);
}

#[test]
fn exec_returns_the_exit_code_and_streams() {
    let Some(mut b) = Bundle::new("execcode") else { return };
    b.sleeping();
    let said = b.exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!((said.code, said.out.as_str()), (9, "out\n"));
    assert!(said.err.contains("err"));
    assert_eq!(b.exec(&["sh", "-c", "kill -9 $$"]).code, 137);
    let words = b.exec(&["nosuch"]).failure();
    assert!(words.contains("executable file not found in $PATH"), "{words}");
}

#[test]
fn exec_takes_user_directory_environment_and_capabilities() {
    let Some(mut b) = Bundle::new("execflags") else { return };
    b.sleeping();
    let words = [
        "exec",
        "--user",
        "1000:1001",
        "--cwd",
        "/data",
        "--env",
        "X=1",
        "--additional-gids",
        "77",
        "--cap",
        "CAP_NET_ADMIN",
    ];
    let words: Vec<&str> =
        words.into_iter().chain([b.id.as_str(), "sh", "-c", "id -u; id -g; id -G; pwd; echo $X"]).collect();
    assert_eq!(b.call(&words).success(), "1000\n1001\n1001 77\n/data\n1\n");
}

#[test]
fn exec_takes_a_process_file() {
    let Some(mut b) = Bundle::new("execfile") else { return };
    b.sleeping();
    let mut process = b.config["process"].clone();
    process["args"] = json!(["sh", "-c", "pwd; echo $FROM; grep ^CapEff /proc/self/status"]);
    process["cwd"] = json!("/tmp");
    process["env"] = json!(["PATH=/bin", "FROM=file"]);
    process["capabilities"] = json!({ "bounding": [], "effective": [], "permitted": [] });
    let file = b.path.join("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    let out = b.call(&["exec", "--process", file.to_str().unwrap(), &b.id]).success();
    assert_eq!(out, "/tmp\nfile\nCapEff:\t0000000000000000\n");
}

#[test]
fn a_detached_exec_returns_while_its_process_runs() {
    let Some(mut b) = Bundle::new("execdetach") else { return };
    b.sleeping();
    let pid_file = b.path.join("execpid");
    let words = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), &b.id, "sleep", "1003"];
    b.call(&words).success();
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, "sleep\x001003\0");
    let pids: Vec<i32> = serde_json::from_str(&b.call(&["ps", "--format", "json", &b.id]).success()).unwrap();
    assert!(pids.contains(&pid) && pids.contains(&b.pid()), "{pids:?}");
}

#[test]
fn exec_applies_the_filter_and_no_new_privs() {
    let Some(mut b) = Bundle::new("execseccomp") else { return };
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }]
    });
    b.sleeping();
    let said = b.exec(&["sh", "-c", "grep ^Seccomp: /proc/self/status; mkdir /tmp/x"]);
    assert!(said.out.contains('2') && said.err.contains("No space left"), "{said:?}");
}

#[test]
fn exec_waits_for_nothing_that_its_process_leaves_behind() {
    let Some(mut b) = Bundle::new("execleft") else { return };
    b.sleeping();
    assert_eq!(b.exec(&["sh", "-c", "sleep 1004 >/dev/null 2>&1 & echo done"]).success(), "done\n");
}

#[test]
fn exec_into_a_paused_container_is_refused() {
    let Some(mut b) = Bundle::new("execpaused") else { return };
    b.sleeping();
    b.call(&["pause", &b.id]).success();
    b.exec(&["true"]).failure();
    b.call(&["resume", &b.id]).success();
    b.exec(&["true"]).success();
}

#[test]
fn many_execs_leave_no_zombies() {
    let Some(mut b) = Bundle::new("execmany") else { return };
    b.sleeping();
    for _ in 0..10 {
        b.exec(&["true"]).success();
    }
    let pids: Vec<i32> = serde_json::from_str(&b.call(&["ps", "--format", "json", &b.id]).success()).unwrap();
    assert_eq!(pids, [b.pid()]);
}

#[test]
fn signals_of_the_caller_reach_the_program() {
    let Some(mut b) = Bundle::new("forward") else { return };
    b.script("trap 'echo got; exit 3' TERM; touch /tmp/ready; while :; do usleep 10000; done");
    let out = std::fs::File::create(b.path.join("forwarded")).unwrap();
    let mut child = b.command(&["run", &b.id]).stdout(out).spawn().unwrap();
    wait_until("the program is ready", || b.rootfs().join("tmp/ready").exists());
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(std::fs::read_to_string(b.path.join("forwarded")).unwrap(), "got\n");
}

#[test]
fn namespaces_of_another_container_can_be_joined() {
    let Some(mut first) = Bundle::new("joined") else { return };
    let Some(mut second) = Bundle::new("joining") else { return };
    first.sleeping();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid());
    second.config["linux"]["namespaces"] = json!([
        { "type": "mount" },
        { "type": "network", "path": path("net") },
        { "type": "ipc", "path": path("ipc") },
        { "type": "uts", "path": path("uts") },
        { "type": "pid", "path": path("pid") },
    ]);
    if let Some(object) = second.config.as_object_mut() {
        object.remove("hostname");
    }
    let out =
        second.prints("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; test $$ != 1 && echo not first");
    let lines: Vec<&str> = out.lines().collect();
    for (line, kind) in lines.iter().zip(["net", "ipc", "uts", "pid"]) {
        assert_eq!(*line, std::fs::read_link(path(kind)).unwrap().to_str().unwrap());
    }
    assert_eq!(lines[4], "not first");
}
