//! Containers in machines of their own: `--isolation vm`, with a real kernel under real QEMU.
//!
//! A guest starts in some five seconds of processor time where every instruction is emulated, and a busy host has
//! little of that: so the tests make few machines and ask much of each.

use berth_testkit::{Engine, guests, wait_until};
use std::path::Path;

fn start(name: &str) -> Option<Engine> {
    let engine = Engine::start(name)?;
    guests::ready(&engine).then_some(engine)
}

#[test]
fn a_container_runs_in_its_own_kernel() {
    let Some(engine) = start("guest-run") else { return };
    let ours = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let script = "uname -r; echo out; echo err >&2; id -u; cat /proc/1/comm; hostname; exit 42";
    for words in [&["--isolation", "vm"][..], &["--runtime", "vm"]] {
        let arguments = [&["run", "--rm", "--hostname", "inside"], words, &["tiny", "sh", "-c", script]].concat();
        let output = engine.docker(&arguments);
        assert_eq!(output.code, 42, "{output:?}\n{}", engine.log());
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_ne!(lines[0], ours.trim(), "it is the host's kernel");
        assert_eq!(lines[1..], ["out", "0", "sh", "inside"], "{output:?}");
        assert_eq!(output.stderr, "err\n");
    }
    // What a shell would say, as for any container.
    for (command, code) in [("nothing-of-this-name", 127), ("/etc/passwd", 126)] {
        let output = engine.docker(["run", "--rm", "--isolation", "vm", "tiny", command]);
        assert_eq!(output.code, code, "{output:?}");
    }
    wait_until("no container is left", || engine.containers().is_empty());
    let left = std::fs::read_dir(engine.root().join("data/guests/roots")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the disk of an image that nobody runs");
}

#[test]
fn it_is_used_like_any_container() {
    let Some(engine) = start("guest-use") else { return };
    engine.docker(["network", "create", "lan"]).success();
    engine.docker(["volume", "create", "kept"]).success();
    let folder = engine.root().join("bound");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("from-host"), "host").expect("a file");
    let bound = format!("{}:/bound", folder.display());
    let script = "echo started >> /count; echo line; mkdir -p /www; echo page > /www/index.html; \
                  httpd -p 80 -h /www; trap 'echo asked; exit 7' TERM; while :; do sleep 1; done";
    let arguments = ["-d", "--name", "web", "--isolation", "vm", "--network", "lan", "-p", "127.0.0.1::80"];
    let volumes = ["-v", "kept:/kept", "-v", &bound, "-m", "200m", "-e", "WORD=said"];
    engine.docker([&["run"], &arguments[..], &volumes, &["tiny", "sh", "-c", script]].concat()).success();

    // Logs, exec with input, codes and users, a terminal.
    wait_until("the log has its line", || engine.docker(["logs", "web"]).stdout.contains("line"));
    let output = engine.docker_with_input(["exec", "-i", "web", "sh", "-c", "cat; echo $WORD >&2; exit 5"], b"given");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (5, "given", "said\n"));
    assert_eq!(engine.docker(["exec", "-u", "nobody", "web", "id", "-u"]).success(), "65534");
    assert_eq!(engine.docker(["exec", "web", "no-such-program"]).code, 127);
    let mut terminal = engine.docker_on_terminal(["exec", "-it", "web", "sh"]);
    terminal.wait_for("/ #");
    terminal.send("stty size; tty; exit 3\n");
    terminal.wait_for("/dev/pts/");
    assert_eq!(terminal.wait().code, 3);

    // Ports, names, from both sides.
    let port = engine.docker(["port", "web", "80"]).success();
    wait_until("the published port answers", || {
        let page =
            engine.docker(["run", "--rm", "--network", "host", "tiny", "wget", "-qO-", &format!("http://{port}/")]);
        page.stdout == "page\n"
    });
    let page = engine.docker(["run", "--rm", "--network", "lan", "tiny", "wget", "-qO-", "http://web/"]);
    assert_eq!(page.success(), "page");
    engine.docker(["run", "-d", "--name", "peer", "--network", "lan", "tiny", "sleep", "600"]).success();
    let address = engine.inspect("peer")["NetworkSettings"]["Networks"]["lan"]["IPAddress"].clone();
    let found = engine.docker(["exec", "web", "nslookup", "peer"]).success();
    assert!(found.contains(address.as_str().expect("an address")), "{found}");
    engine.docker(["exec", "web", "ping", "-c", "1", "-w", "20", "peer"]).success();

    // Volumes and binds, both ways, with owners.
    let write = "echo volume > /kept/a; cat /bound/from-host; echo guest > /bound/from-guest; chown 65534 /kept/a";
    assert_eq!(engine.docker(["exec", "web", "sh", "-c", write]).success(), "host");
    assert_eq!(std::fs::read_to_string(folder.join("from-guest")).expect("the guest's file"), "guest\n");
    let seen =
        engine.docker(["run", "--rm", "-v", "kept:/kept", "tiny", "sh", "-c", "cat /kept/a; stat -c %u /kept/a"]);
    assert_eq!(seen.success(), "volume\n65534");

    let top = engine.docker(["top", "web"]).success();
    assert!(top.contains("PPID") && top.contains("httpd"), "{top}");
    let copied = engine.docker(["cp", "web:/count", "-"]);
    assert!(copied.code != 0 && copied.stderr.contains("disk of its machine"), "{copied:?}");

    // Numbers.
    let stats = engine.docker(["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"]).success();
    assert!(!stats.starts_with("0B"), "{stats}");
    let inspect = engine.inspect("web");
    assert_eq!(inspect["HostConfig"]["Isolation"], "vm");

    // Its end by its own decision; what it wrote is there the next time.
    engine.docker(["stop", "-t", "60", "web"]).success();
    assert_eq!(engine.inspect("web")["State"]["ExitCode"], 7);
    assert!(engine.docker(["logs", "web"]).stdout.contains("asked"));
    engine.docker(["start", "web"]).success();
    let count = || engine.docker(["exec", "web", "cat", "/count"]).success();
    wait_until("both starts are in its file", || count() == "started\nstarted");
    engine.docker(["rm", "-f", "web", "peer"]).success();
}

#[test]
fn a_guest_that_does_not_start_says_what_its_console_said() {
    let Some(engine) = start("guest-stuck") else { return };
    let short = ["--annotation", "berth.vm.boot-seconds=1"];
    let output =
        engine.docker([&["run", "--name", "stuck", "--isolation", "vm"], &short[..], &["tiny", "true"]].concat());
    assert_eq!(output.code, 125, "{output:?}");
    assert!(output.stderr.contains("the guest did not start within 1 seconds"), "{output:?}");
    let error = engine.inspect("stuck")["State"]["Error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("did not start"), "{error}");
    engine.docker(["rm", "stuck"]).success();
}

#[test]
fn what_a_machine_cannot_share_is_refused() {
    let Some(engine) = start("guest-refused") else { return };
    for words in [&["--network", "host"][..], &["--pid", "host"], &["--device", "/dev/null"], &["--ipc", "host"]] {
        let output = engine.docker([&["create", "--isolation", "vm"], words, &["tiny"]].concat());
        assert!(output.code != 0 && output.stderr.contains("--isolation vm"), "{words:?}: {output:?}");
    }
    assert!(Path::new(&engine.root().join("data/guests/kernels")).exists());
    let kernels = engine.berth(["vm", "kernel", "ls"]).success();
    assert!(kernels.contains("yes"), "{kernels}");
}
