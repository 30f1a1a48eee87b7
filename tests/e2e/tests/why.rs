//! `berth why`: injected failures and their causes.

use berth_testkit::{Engine, not_in_a_machine};

const STOPPED: &str = "files put into a container that does not run: they would be in its machine's disk";

fn why(engine: &Engine, name: &str) -> String {
    engine.berth(["why", name]).success()
}

#[track_caller]
fn says(engine: &Engine, name: &str, words: &[&str]) {
    let text = why(engine, name);
    for word in words {
        assert!(text.contains(word), "{name}: {word:?} is not in:\n{text}");
    }
}

#[test]
fn ends_have_their_reasons() {
    let Some(engine) = Engine::start("why-ends") else { return };
    engine.docker(["run", "--name", "fine", "tiny", "true"]).success();
    says(&engine, "fine", &["its work done (code 0)"]);

    engine.docker(["run", "--name", "failed", "tiny", "sh", "-c", "echo FATAL >&2; exit 3"]).failure(3);
    says(&engine, "failed", &["ended by itself with code 3", "FATAL", "berth logs failed"]);

    engine.docker(["run", "--name", "crashed", "tiny", "sh", "-c", "kill -SEGV $$"]);
    let text = why(&engine, "crashed");
    // The first process of a pid namespace is shielded from its own signals; it then ends by itself.
    assert!(text.contains("SIGSEGV") || text.contains("ended by itself"), "{text}");

    engine.docker(["run", "-d", "--name", "stopped", "--init", "tiny", "sleep", "1000"]).success();
    engine.docker(["stop", "stopped"]).success();
    says(&engine, "stopped", &["SIGTERM", "as asked"]);

    engine.docker(["run", "-d", "--name", "killed", "tiny", "sleep", "1000"]).success();
    engine.docker(["kill", "killed"]).success();
    engine.docker(["wait", "killed"]).success();
    says(&engine, "killed", &["SIGKILL", "as asked"]);

    engine.docker(["run", "-d", "--name", "stranger", "tiny", "sleep", "1000"]).success();
    let pid = engine.docker(["inspect", "-f", "{{.State.Pid}}", "stranger"]).success();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    engine.docker(["wait", "stranger"]).success();
    says(&engine, "stranger", &["SIGKILL", "from outside of this engine"]);

    engine.docker(["run", "--name", "oom", "-m", "16m", "tiny", "sh", "-c", "x=a; while true; do x=$x$x; done"]);
    says(&engine, "oom", &["out of memory", "16 MiB", "berth update --memory 32m"]);

    engine.docker(["run", "-d", "--name", "alive", "tiny", "sleep", "1000"]).success();
    says(&engine, "alive", &["runs since"]);
    engine.docker(["pause", "alive"]).success();
    says(&engine, "alive", &["paused", "berth unpause alive"]);
    engine.docker(["create", "--name", "made", "tiny"]).success();
    says(&engine, "made", &["never started", "berth start made"]);
}

#[test]
fn programs_that_do_not_start_have_their_reasons() {
    let Some(engine) = Engine::start("why-starts") else { return };
    let put = |name: &str, content: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = engine.root().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    // A program of another machine: this one's busybox with another number in its header.
    let mut foreign = std::fs::read("/bin/busybox").unwrap();
    foreign[18] = if foreign[18] == 183 { 62 } else { 183 };
    let cases: [(&str, &[u8], u32, &[&str]); 6] = [
        ("script", b"echo hello\n", 0o755, &["#!/bin/sh"]),
        ("windows", b"#!/bin/sh\r\necho\r\n", 0o755, &["Windows line endings"]),
        ("interpreter", b"#!/usr/bin/perl\n", 0o755, &["interpreter", "/usr/bin/perl"]),
        ("plain", b"#!/bin/sh\n", 0o644, &["not executable", "chmod +x"]),
        ("empty", b"", 0o755, &["empty file"]),
        ("foreign", &foreign, 0o755, &["another processor"]),
    ];
    for (name, content, mode, words) in cases {
        if not_in_a_machine(STOPPED) {
            break;
        }
        let path = put(name, content, mode);
        engine.docker(["create", "--name", name, "tiny", "/program"]).success();
        engine.docker(["cp", path.to_str().unwrap(), &format!("{name}:/program")]).success();
        assert_ne!(engine.docker(["start", "-a", name]).code, 0, "{name}");
        says(&engine, name, words);
    }
    assert_ne!(engine.docker(["run", "--name", "missing", "tiny", "nope"]).code, 0);
    says(&engine, "missing", &["\"nope\" is not in the image's PATH"]);
    assert_ne!(engine.docker(["run", "--name", "user", "-u", "nobodyhere", "tiny", "true"]).code, 0);
    says(&engine, "user", &["not in the image", "--user"]);
}

/// A device that is not there any more, and containers whose namespaces it shares.
fn of_the_host(engine: &Engine, start: impl Fn(&str)) {
    let node = engine.root().join("node");
    let made = std::process::Command::new("mknod").arg(&node).args(["c", "1", "3"]).status().expect("mknod runs");
    assert!(made.success());
    let device = format!("{}:/dev/x", node.display());
    engine.docker(["create", "--name", "device-gone", "--device", &device, "tiny", "true"]).success();
    std::fs::remove_file(&node).expect("our own node");
    start("device-gone");
    says(engine, "device-gone", &["a device that it asks for is not there", "node"]);

    engine.docker(["create", "--name", "owner", "--ipc", "shareable", "tiny", "true"]).success();
    for (name, option) in [
        ("joins-network", "--network=container:owner"),
        ("joins-pid", "--pid=container:owner"),
        ("joins-ipc", "--ipc=container:owner"),
    ] {
        engine.docker(["create", "--name", name, option, "tiny", "true"]).success();
        start(name);
        says(engine, name, &["the container whose namespace it joins does not run"]);
    }
}

#[test]
fn starts_that_fail_for_what_is_around_them_have_their_reasons() {
    let Some(engine) = Engine::start("why-around") else { return };
    let start = |name: &str| {
        let refused = engine.docker(["start", name]);
        assert_ne!(refused.code, 0, "{name} starts");
    };
    let root = engine.root().display().to_string();
    // A port that another container, or a process of the host, has.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}:80", listener.local_addr().unwrap().port());
    engine.docker(["create", "--name", "port-of-host", "-p", &taken, "tiny", "true"]).success();
    start("port-of-host");
    let own = format!("(pid {})", std::process::id());
    says(&engine, "port-of-host", &["a port that it publishes is taken", &own, "of the host listens", "-p"]);
    drop(listener);
    engine.docker(["run", "-d", "--name", "holder", "-p", &taken, "tiny", "sleep", "1000"]).success();
    start("port-of-host");
    says(&engine, "port-of-host", &["a port that it publishes is taken", "container holder publishes port"]);
    engine.docker(["rm", "-f", "holder"]).success();

    // What it mounts went away, or is of another kind.
    std::fs::create_dir(engine.root().join("going")).unwrap();
    let going = format!("type=bind,source={root}/going,target=/x");
    engine.docker(["create", "--name", "mount-gone", "--mount", &going, "tiny", "true"]).success();
    std::fs::remove_dir(engine.root().join("going")).unwrap();
    start("mount-gone");
    says(&engine, "mount-gone", &["something that it mounts is not there", "going"]);
    std::fs::write(engine.root().join("file"), "").unwrap();
    engine.docker(["create", "--name", "mount-kind", "-v", &format!("{root}/file:/etc"), "tiny", "true"]).success();
    start("mount-kind");
    says(&engine, "mount-kind", &["joins a file and a folder", "/etc"]);

    if !not_in_a_machine("devices and namespaces of others: refused when it is created") {
        of_the_host(&engine, start);
    }

    // Networks that it needs.
    engine.docker(["network", "create", "leaving"]).success();
    engine.docker(["create", "--name", "network-gone", "--network", "leaving", "tiny", "true"]).success();
    engine.docker(["network", "rm", "leaving"]).success();
    start("network-gone");
    says(&engine, "network-gone", &["its network is gone", "leaving", "berth network ls"]);
    engine.docker(["create", "--name", "still", "--ipc", "shareable", "tiny", "true"]).success();
    engine.docker(["create", "--name", "linked", "--link", "still:db", "tiny", "true"]).success();
    start("linked");
    says(&engine, "linked", &["a container that it is linked to does not run", "/still AS /linked/db"]);

    // Folder and people of the image.
    engine.docker(["create", "--name", "folder", "-w", "/etc/passwd", "tiny", "true"]).success();
    start("folder");
    says(&engine, "folder", &["its working directory is not a folder", "/etc/passwd", "-w"]);
    engine.docker(["create", "--name", "group", "-u", "0:strangers", "tiny", "true"]).success();
    start("group");
    says(&engine, "group", &["its user or group is not in the image", "strangers"]);
    engine.docker(["create", "--name", "program-folder", "tiny", "/etc"]).success();
    start("program-folder");
    says(&engine, "program-folder", &["/etc is a folder, not a program"]);

    if not_in_a_machine(STOPPED) {
        return;
    }
    // A program of this host, whose loader the image lacks.
    engine.docker(["create", "--name", "loader", "tiny", "/program"]).success();
    engine.docker(["cp", "-L", "/bin/ls", "loader:/program"]).success();
    start("loader");
    says(&engine, "loader", &["the loader of /program is missing", "ld-linux", "C library"]);
}

/// elf(5), as short as it gets, of two instructions: `xor eax, eax` and `mov [rax], eax`.
#[cfg(target_arch = "x86_64")]
fn faulty_program() -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for word in [2_u16, 62] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [AT + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for word in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    let length = HEADERS + 4;
    for word in [1_u32, 5] {
        elf.extend(word.to_le_bytes());
    }
    for word in [0, AT, AT, length, length, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"\x31\xc0\x89\x00");
    elf
}

#[test]
fn ends_of_all_kinds_have_their_reasons() {
    let Some(mut engine) = Engine::start("why-kinds") else { return };
    // Of its own accord, with what it said.
    let cases: [(&str, &[&str], &[&str]); 7] = [
        (
            "full",
            &["--tmpfs", "/t:size=64k", "tiny", "dd", "if=/dev/zero", "of=/t/x", "bs=1M", "count=1"],
            &["ended by itself with code 1", "No space left on device", "a disk is full"],
        ),
        ("readonly", &["--read-only", "tiny", "sh", "-c", "echo x >/file"], &["code 1", "may only read", "--tmpfs"]),
        (
            "forbidden",
            &["-u", "nobody", "tiny", "sh", "-c", "echo x >/etc/passwd"],
            &["code 1", "was refused access", "--user"],
        ),
        (
            "files",
            &["--ulimit", "nofile=3:3", "tiny", "cat", "/etc/passwd"],
            &["limit of open files is too low", "--ulimit nofile"],
        ),
        ("typo", &["tiny", "sh", "-c", "srever --port 80"], &["code 127", "do not find a command", "srever"]),
        ("lonely-shell", &["tiny", "sh"], &["code 0", "a shell without standard input ends at once"]),
        ("inner", &["--init", "tiny", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"], &["code 137", "SIGKILL"]),
    ];
    for (name, arguments, words) in cases {
        let all: Vec<&str> = ["run", "--name", name].iter().chain(arguments).copied().collect();
        engine.docker(&all);
        says(&engine, name, words);
    }
    // A child's memory is the container's.
    let greedy = "sh -c 'x=a; while true; do x=$x$x; done'; exit 5";
    engine.docker(["run", "--name", "child-oom", "-m", "16m", "tiny", "sh", "-c", greedy]);
    says(&engine, "child-oom", &["out of memory", "its memory limit is 16 MiB"]);
    if !not_in_a_machine("the most memory that a container had: of its machine only the whole is known") {
        says(&engine, "child-oom", &["the most that it had was"]);
    }

    // A forbidden system call, and a fault.
    let profile = engine.root().join("profile.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
    std::fs::write(&profile, rules).unwrap();
    let seccomp = format!("seccomp={}", profile.display());
    engine.docker(["run", "--name", "forbidden-call", "--security-opt", &seccomp, "tiny", "mkdir", "/x"]);
    says(&engine, "forbidden-call", &["crashed with SIGSYS", "seccomp"]);
    #[cfg(target_arch = "x86_64")]
    if !not_in_a_machine(STOPPED) {
        let program = engine.root().join("fault");
        std::fs::write(&program, faulty_program()).unwrap();
        let set = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, set).unwrap();
        engine.docker(["create", "--name", "fault", "tiny", "/fault"]).success();
        engine.docker(["cp", program.to_str().unwrap(), "fault:/fault"]).success();
        engine.docker(["start", "-a", "fault"]).failure(139);
        says(&engine, "fault", &["crashed with SIGSEGV", "a fault of the program itself"]);
    }

    // One that does not listen to stop.
    engine.docker(["run", "-d", "--name", "deaf", "tiny", "sleep", "1000"]).success();
    engine.docker(["stop", "-t", "1", "deaf"]).success();
    says(&engine, "deaf", &["SIGKILL", "as asked", "grace"]);

    // Health, and restarts without end.
    let probe = ["--health-cmd", "echo not yet; exit 7", "--health-interval", "50ms", "--health-retries", "2"];
    let all: Vec<&str> =
        ["run", "-d", "--name", "ill"].iter().chain(&probe).chain(&["tiny", "sleep", "1000"]).copied().collect();
    engine.docker(&all).success();
    berth_testkit::wait_until("it is unhealthy", || why(&engine, "ill").contains("its health probe fails"));
    says(&engine, "ill", &["probes failed one after another", "code 7", "not yet"]);
    engine.docker(["run", "-d", "--name", "again", "--restart", "always", "tiny", "sh", "-c", "exit 3"]).success();
    berth_testkit::wait_until("it waits to be restarted", || {
        let text = why(&engine, "again");
        text.contains("waits to be started again") && text.contains("ended by itself with code 3")
    });

    // While no engine was there, and without a shim.
    engine
        .docker([
            "run",
            "-d",
            "--name",
            "orphan",
            "tiny",
            "sh",
            "-c",
            "trap 'exit 9' TERM; while :; do sleep 0.05; done",
        ])
        .success();
    engine.docker(["run", "-d", "--name", "shimless", "tiny", "sleep", "1000"]).success();
    engine.wait_for_handler("orphan", rustix::process::Signal::TERM);
    let (orphan, shim) = (engine.pid_of("orphan"), berth_testkit::parent_of(engine.pid_of("shimless")));
    engine.kill();
    assert!(std::process::Command::new("kill").args(["-TERM", &orphan.to_string()]).status().unwrap().success());
    berth_testkit::wait_until("it has ended", || !std::path::Path::new(&format!("/proc/{orphan}")).exists());
    engine.launch();
    says(&engine, "orphan", &["ended by itself with code 9"]);
    berth_testkit::kill(shim);
    berth_testkit::wait_until("its end is known", || engine.status_of("shimless") == "exited");
    says(&engine, "shimless", &["nobody could learn how", "its monitor was killed", "berth start shimless"]);
}
