//! Containers in machines of their own: `--isolation vm`, with a real kernel under real QEMU.
//!
//! A guest starts in some five seconds of processor time where every instruction is emulated, and a busy host has
//! little of that: so the tests make few machines and ask much of each.

use berth_testkit::{Engine, guests, wait_until};
use std::os::unix::fs::PermissionsExt;
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
    let only_read = format!("{}:/only-read:ro", folder.display());
    let volumes = [
        "-v",
        "kept:/kept",
        "-v",
        &bound,
        "-v",
        &only_read,
        "-m",
        "200m",
        "-e",
        "WORD=said",
        "--tmpfs",
        "/t:size=600m",
    ];
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

    // Whatever the guest's kernel does: what it may only read is so outside of it.
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", engine.pid_of("web"))).expect("its mounts");
    let rights = |share: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4).is_some_and(|path| path.ends_with(share)));
        line.and_then(|line| line.split(' ').nth(5)).unwrap_or_default().split(',').next().unwrap_or_default()
    };
    let all: Vec<&str> = ["/shares/0", "/shares/1", "/shares/2"].map(rights).into_iter().collect();
    assert_eq!(all.iter().filter(|word| **word == "ro").count(), 1, "{all:?} of {mounts}");
    assert_eq!(all.iter().filter(|word| **word == "rw").count(), 2, "{all:?} of {mounts}");

    let top = engine.docker(["top", "web"]).success();
    assert!(top.contains("PPID") && top.contains("httpd"), "{top}");
    files(&engine, "web");
    networks(&engine, "web");
    limits(&engine, "web");

    // Numbers.
    let stats = engine.docker(["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"]).success();
    assert!(!stats.starts_with("0B"), "{stats}");
    let inspect = engine.inspect("web");
    assert_eq!(inspect["HostConfig"]["Isolation"], "vm");
    // Whoever reaches the sockets commands the guest.
    let sockets = engine.root().join("run/machines").join(inspect["Id"].as_str().expect("an id"));
    assert_eq!(std::fs::metadata(&sockets).expect("the sockets' folder").permissions().mode() & 0o7777, 0o700);

    // Its end by its own decision; what it wrote is there the next time.
    engine.docker(["stop", "-t", "60", "web"]).success();
    let stopped = engine.docker(["cp", "web:/count", "-"]);
    assert!(stopped.code != 0 && stopped.stderr.contains("disk of its machine, which does not run"), "{stopped:?}");
    assert_eq!(engine.inspect("web")["State"]["ExitCode"], 7);
    assert!(engine.docker(["logs", "web"]).stdout.contains("asked"));
    engine.docker(["start", "web"]).success();
    let count = || engine.docker(["exec", "web", "cat", "/count"]).success();
    wait_until("both starts are in its file", || count() == "started\nstarted");
    // Killed at once: what it has just written is there all the same.
    engine.docker(["exec", "web", "sh", "-c", "echo late > /late"]).success();
    engine.docker(["restart", "-t", "0", "web"]).success();
    assert_eq!(engine.docker(["exec", "web", "cat", "/late"]).success(), "late");
    wait_until("the third start is in its file", || count() == "started\nstarted\nstarted");
    engine.docker(["kill", "web"]).success();
    wait_until("it was killed", || engine.inspect("web")["State"]["ExitCode"] == 137);
    engine.docker(["rm", "-f", "web", "peer"]).success();
}

/// It joins a network and leaves it, as it runs.
fn networks(engine: &Engine, web: &str) {
    engine.docker(["network", "create", "second"]).success();
    engine.docker(["run", "-d", "--name", "far", "--network", "second", "tiny", "sleep", "600"]).success();
    let ask = |words: &[&str]| engine.docker([&["exec", web], words].concat());
    assert_ne!(ask(&["ping", "-c", "1", "-w", "2", "far"]).code, 0);
    engine.docker(["network", "connect", "--alias", "also", "second", web]).success();
    let endpoint = engine.inspect(web)["NetworkSettings"]["Networks"]["second"].clone();
    let (address, mac) = (endpoint["IPAddress"].as_str().expect("one"), endpoint["MacAddress"].as_str().expect("one"));
    let seen = ask(&["ip", "addr", "show", "eth1"]).success();
    assert!(seen.contains(&format!("{address}/")) && seen.contains(mac), "{seen}");
    ask(&["ping", "-c", "1", "-w", "20", "far"]).success();
    let page = engine.docker(["exec", "far", "wget", "-qO-", "http://also/"]).success();
    assert_eq!(page, "page");
    engine.docker(["network", "disconnect", "second", web]).success();
    assert_ne!(ask(&["ip", "link", "show", "eth1"]).code, 0, "the card is gone");
    // Once more: nothing of the first time is in the way. The way out stays where it was.
    engine.docker(["network", "connect", "second", web]).success();
    ask(&["ping", "-c", "1", "-w", "20", "far"]).success();
    ask(&["ping", "-c", "1", "-w", "20", "peer"]).success();
    engine.docker(["network", "disconnect", "second", web]).success();
    engine.docker(["rm", "-f", "far"]).success();
}

/// Memory, processors and number of processes at once, as far as the machine has room for them.
fn limits(engine: &Engine, web: &str) {
    let value = |file: &str| engine.docker(["exec", web, "cat", &format!("/sys/fs/cgroup/{file}")]).success();
    let change = ["update", "-m", "150m", "--memory-swap", "-1", "--pids-limit", "77", web];
    let output = engine.docker(change);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!((value("memory.max"), value("pids.max")), ((150 << 20).to_string(), "77".to_owned()));
    let total = || -> u64 {
        let line = engine.docker(["exec", web, "grep", "MemTotal", "/proc/meminfo"]).success();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    };
    let processors = || engine.docker(["exec", web, "nproc"]).success();
    let said = |arguments: &[&str]| {
        let output = engine.docker([&["update"], arguments, &[web]].concat());
        assert_eq!(output.code, 0, "{output:?}");
        output.stderr + &output.stdout
    };
    // More than it began with: plugged in, and used.
    let before = total();
    assert_eq!(processors(), "1");
    let words = said(&["-m", "700m", "--memory-swap", "-1", "--cpus", "2"]);
    assert!(!words.contains("next start"), "{words}");
    assert_eq!(processors(), "2");
    assert!(total() >= before + (400 << 10), "{before} KiB became {}", total());
    assert_eq!(value("memory.max"), (700 << 20).to_string());
    // More than the machine began with.
    let fill = "dd if=/dev/zero of=/t/full bs=1M count=350 2>/dev/null && rm /t/full";
    engine.docker(["exec", web, "sh", "-c", fill]).success();
    // Back again; what it began with it keeps.
    let words = said(&["-m", "150m", "--memory-swap", "-1", "--cpus", "1"]);
    assert!(!words.contains("next start"), "{words}");
    assert_eq!((value("memory.max"), processors()), ((150 << 20).to_string(), "1".to_owned()));
    assert!(total() <= before + (64 << 10), "{before} KiB became {}", total());
    // More than there is room for.
    let words = said(&["-m", "9g", "--memory-swap", "-1"]);
    assert!(words.contains("from its next start on, as it began with room for"), "{words}");
    said(&["-m", "200m", "--memory-swap", "-1"]);
    engine.docker(["pause", web]).success();
    let refused = engine.docker(["update", "-m", "210m", "--memory-swap", "-1", web]).failure(1);
    assert!(refused.contains("is paused: its guest hears of no limits"), "{refused}");
    engine.docker(["unpause", web]).success();
}

/// `cp` both ways, `diff`, `export`, `commit`: its guest's agent reads and writes them.
fn files(engine: &Engine, web: &str) {
    let local = engine.root().join("copied");
    let shown = local.to_string_lossy().into_owned();
    let copy = |from: &str, to: &str| engine.docker(["cp", from, to]);
    copy("web:/count", &shown).success();
    assert_eq!(std::fs::read_to_string(&local).expect("the copy"), "started\n");
    // More than a window of the port's, there and back.
    let make = "head -c 700000 /dev/urandom > /big; ln -s /big /link; rm /etc/passwd; mkfifo /pipe; mkdir /put";
    engine.docker(["exec", web, "sh", "-c", make]).success();
    copy("web:/big", &shown).success();
    copy(&shown, "web:/put/again").success();
    engine.docker(["exec", web, "cmp", "/big", "/put/again"]).success();
    copy("web:/bound/from-host", &shown).success();
    assert_eq!(std::fs::read_to_string(&local).expect("the copy"), "host", "mounts are seen");
    let absent = copy("web:/absent", &shown);
    assert!(absent.stderr.contains("Could not find the file /absent in container web"), "{absent:?}");
    let wrong = engine.docker_with_input(["cp", "-", "web:/count"], b"");
    assert!(wrong.code != 0, "{wrong:?}");

    let changes = engine.docker(["diff", web]).success();
    let changes: Vec<&str> = changes.lines().collect();
    for line in ["A /big", "A /count", "A /link", "C /etc", "D /etc/passwd", "A /put/again"] {
        assert!(changes.contains(&line), "{line}: {changes:?}");
    }
    assert!(!changes.iter().any(|line| line.contains("hosts")), "{changes:?}");

    let archive = engine.root().join("export.tar");
    engine.docker(["export", "-o", &archive.to_string_lossy(), web]).success();
    let names = std::process::Command::new("tar").arg("-tf").arg(&archive).output().expect("tar");
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let has = |name: &str| names.lines().any(|line| line == name);
    assert!(has("big") && has("bin/busybox") && !has("etc/passwd") && !has("bound/from-host"), "{names}");

    engine.docker(["commit", web, "of-guest"]).success();
    let look = "cat /count; readlink /link; ls /etc/passwd || echo gone; test -p /pipe && wc -c < /put/again";
    let seen = engine.docker(["run", "--rm", "of-guest", "sh", "-c", look]);
    assert_eq!(seen.stdout, "started\n/big\ngone\n700000\n", "{seen:?}");
    engine.docker(["exec", web, "true"]).success();
    engine.docker(["rmi", "of-guest"]).success();
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
    for words in [
        &["--network", "host"][..],
        &["--pid", "host"],
        &["--device", "/dev/null"],
        &["--ipc", "host"],
        &["-v", "/tmp:/x:rslave"],
        &["--mount", "type=bind,src=/tmp,dst=/x,bind-propagation=shared"],
        &["--mount", "type=image,src=tiny,dst=/x"],
    ] {
        let output = engine.docker([&["create", "--isolation", "vm"], words, &["tiny"]].concat());
        assert!(output.code != 0 && output.stderr.contains("--isolation vm"), "{words:?}: {output:?}");
    }
    assert!(Path::new(&engine.root().join("data/guests/kernels")).exists());
    let kernels = engine.berth(["vm", "kernel", "ls"]).success();
    assert!(kernels.contains("yes"), "{kernels}");
}
