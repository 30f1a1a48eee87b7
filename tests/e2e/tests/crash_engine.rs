//! kill -9 of the engine and of shims: nothing is lost, nothing is left.

use berth_testkit::{Engine, kill, parent_of, wait_until};
use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn containers_run_on_and_keep_what_they_have() {
    let Some(mut engine) = Engine::start("crash-adopt") else { return };
    let write = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.005; done";
    let script = format!("echo hello > /index.html; busybox httpd -h / -p 80; {write}");
    let run =
        ["run", "-d", "--name", "box", "-p", "127.0.0.1::80", "--health-cmd", "true", "--health-interval", "200ms"];
    engine.docker(run.iter().chain(&["tiny", "sh", "-c", &script])).success();
    engine.docker(["run", "-d", "--name", "still", "tiny", "sleep", "1000"]).success();
    engine.docker(["pause", "still"]).success();
    let port = engine.docker(["port", "box", "80"]).success();
    let answers = || {
        use std::io::Read;
        let Ok(mut stream) = std::net::TcpStream::connect(&port) else { return false };
        let mut text = String::new();
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut text).is_ok()
            && text.contains("hello")
    };
    wait_until("it answers", answers);
    let before = engine.pid_of("box");
    let started = engine.inspect("box")["State"]["StartedAt"].clone();
    let address = engine.inspect("box")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].clone();
    for _ in 0..3 {
        engine.kill();
        assert!(answers(), "its port answers without an engine");
        engine.launch();
        assert!(answers());
        let now = engine.inspect("box");
        assert_eq!(now["State"]["Pid"], before);
        assert_eq!(now["State"]["StartedAt"], started);
        assert_eq!(now["NetworkSettings"]["Networks"]["bridge"]["IPAddress"], address);
        assert_eq!(engine.inspect("still")["State"]["Status"], "paused");
        assert_eq!(engine.docker(["exec", "box", "echo", "in"]).success(), "in");
        wait_until("healthy", || engine.inspect("box")["State"]["Health"]["Status"] == "healthy");
        // Its address is not given away.
        engine.docker(["run", "--rm", "tiny", "true"]).success();
    }
    engine.docker(["stop", "-t", "0", "box"]).success();
    let log = engine.docker(["logs", "box"]).success();
    let numbers: Vec<u32> = log.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    assert!(numbers.len() > 10 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a line is lost");
    engine.docker(["unpause", "still"]).success();
    assert_eq!(engine.docker(["exec", "still", "echo", "in"]).success(), "in");
    // The port is free again.
    engine.docker(["start", "box"]).success();
}

#[test]
fn ends_without_an_engine_are_known_to_the_next_one() {
    let Some(mut engine) = Engine::start("crash-ends") else { return };
    let (shared, volume) = engine.shared();
    let wait = "while [ ! -e /shared/go ]; do sleep 0.01; done";
    let names = ["code", "signal", "noisy", "brief"];
    for (name, end) in [("code", "exit 42"), ("signal", "kill -9 $$"), ("noisy", "yes | head -n 50000; exit 7")] {
        let script = format!("{wait}; {end}");
        engine.docker(["run", "-d", "--init", "--name", name, "-v", &volume, "tiny", "sh", "-c", &script]).success();
    }
    engine.docker(["run", "-d", "--rm", "--name", "brief", "-v", &volume, "tiny", "sh", "-c", wait]).success();
    let pids = names.map(|name| engine.pid_of(name));
    engine.kill();
    std::fs::write(shared.join("go"), "").unwrap();
    wait_until("all have ended", || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    engine.launch();
    for (name, code) in [("code", "42"), ("signal", "137"), ("noisy", "7")] {
        assert_eq!(engine.docker(["wait", name]).success(), code, "{name}");
        wait_until("it is recorded", || engine.inspect(name)["State"]["Status"] == "exited");
    }
    assert_eq!(engine.docker(["logs", "noisy"]).success().lines().count(), 50_000);
    wait_until("a --rm container goes with its end", || engine.api("GET", "/containers/brief/json", "").status == 404);
    // And once more: what was recorded stays recorded.
    engine.restart_after_kill();
    assert_eq!(engine.docker(["wait", "code"]).success(), "42");
}

#[test]
fn an_end_that_was_recorded_is_not_told_again() {
    let Some(mut engine) = Engine::start("crash-told") else { return };
    let kept = engine.root().join("kept");
    // The shim's folder as it was between the record of its end and the sweep.
    let caught = (0..50).any(|_| {
        engine.docker(["rm", "-f", "box"]);
        std::fs::remove_dir_all(&kept).ok();
        std::fs::create_dir(&kept).unwrap();
        let run = ["run", "-d", "--name", "box", "--restart", "on-failure:1", "tiny", "sleep", "0.2"];
        let folder = engine.root().join("run/shims").join(engine.docker(run).success());
        let copy = |name: &str| std::fs::copy(folder.join(name), kept.join(name)).is_ok();
        assert!(copy("made"));
        while folder.is_dir() && !copy("exit.json") {
            std::hint::spin_loop();
        }
        wait_until("it has ended", || engine.status_of("box") == "exited" && !folder.is_dir());
        kept.join("exit.json").exists()
    });
    assert!(caught, "its end was never seen in its folder");
    let folder = engine.root().join("run/shims").join(engine.containers().remove(0));
    engine.kill();
    std::fs::rename(&kept, &folder).unwrap();
    engine.launch();
    wait_until("it is swept", || !folder.exists());
    let state = engine.inspect("box");
    assert_eq!((&state["State"]["Status"], &state["RestartCount"]), (&"exited".into(), &0.into()), "{state}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let told = engine.api("GET", &format!("/events?since=1&until={now}"), "").expect(200).text();
    assert!(!told.contains("\"die\""), "{told}");
}

#[test]
fn clients_that_come_back_see_the_truth() {
    let Some(mut engine) = Engine::start("crash-clients") else { return };
    let script = "i=0; while [ ! -e /go ]; do i=$((i+1)); echo line $i; sleep 0.01; done; echo last; exit 6";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", script]).success();
    let waiting = engine.docker_running(["wait", "box"]);
    let following = engine.docker_running(["logs", "-f", "box"]);
    following.wait_for("line 3");
    engine.kill();
    // They hear that the engine has gone instead of hanging.
    assert_ne!(waiting.wait().code, 0);
    drop(following.wait());
    engine.launch();
    let (waiting, following) = (engine.docker_running(["wait", "box"]), engine.docker_running(["logs", "-f", "box"]));
    following.wait_for("line 3");
    let attached = engine.docker_running(["attach", "--no-stdin", "box"]);
    attached.wait_for("line");
    engine.docker(["exec", "box", "touch", "/go"]).success();
    assert_eq!(waiting.wait().success(), "6");
    let text = following.wait().success();
    assert!(text.starts_with("line 1\n") && text.ends_with("last"), "{text}");
    assert_eq!(attached.wait().code, 6);
}

#[test]
fn a_killed_shim_ends_its_container_with_an_honest_reason() {
    let Some(mut engine) = Engine::start("crash-shim") else { return };
    for name in ["box", "other", "again", "away", "still"] {
        let policy = if name == "again" { "on-failure" } else { "no" };
        engine
            .docker(["run", "-d", "--name", name, "--restart", policy, "-p", "80", "tiny", "sleep", "1000"])
            .success();
    }
    let waiting = engine.docker_running(["wait", "box"]);
    let pids = ["box", "again", "away"].map(|name| engine.pid_of(name));
    kill(parent_of(pids[0]));
    assert_eq!(waiting.wait().success(), "255");
    wait_until("its process is gone", || !Path::new(&format!("/proc/{}", pids[0])).exists());
    let state = engine.inspect("box")["State"].clone();
    assert_eq!((&state["Status"], &state["Error"]), (&"exited".into(), &"its shim was killed".into()));
    let why = engine.berth(["why", "box"]).success();
    assert!(why.contains("shim"), "{why}");
    // A paused one cannot even die before it is let go on.
    let still = engine.pid_of("still");
    engine.docker(["pause", "still"]).success();
    kill(parent_of(still));
    wait_until("the paused one is gone", || !Path::new(&format!("/proc/{still}")).exists());
    wait_until("and known to be", || engine.inspect("still")["State"]["Error"] == "its shim was killed");
    // It can be started again, and so does its policy.
    engine.docker(["start", "box"]).success();
    assert_eq!(engine.docker(["exec", "box", "echo", "in"]).success(), "in");
    kill(parent_of(pids[1]));
    wait_until("started again by its policy", || {
        let state = engine.inspect("again")["State"].clone();
        state["Running"] == true && state["Pid"] != pids[1] && state["Pid"] != 0
    });
    // Killed while no engine was there.
    engine.kill();
    kill(parent_of(pids[2]));
    engine.launch();
    wait_until("known to the next engine", || engine.inspect("away")["State"]["Status"] == "exited");
    assert_eq!(engine.inspect("away")["State"]["Error"], "its shim was killed");
    wait_until("its process is gone", || !Path::new(&format!("/proc/{}", pids[2])).exists());
    assert_eq!(engine.docker(["exec", "other", "echo", "in"]).success(), "in");
}

/// A commit holds its container still while it reads; an engine that dies over it leaves it going.
#[test]
fn an_engine_killed_while_it_commits_leaves_nothing_standing_still() {
    let Some(mut engine) = Engine::start("crash-commit") else { return };
    let script = "head -c 30000000 /dev/urandom > /big; while :; do echo tick; sleep 0.01; done";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", script]).success();
    let ticks = |engine: &Engine| engine.docker(["logs", "box"]).stdout.lines().count();
    wait_until("its file is there", || ticks(&engine) > 0);
    let commit = engine.docker_running(["commit", "box", "made"]);
    wait_until("it stands still", || engine.status_of("box") == "paused");
    engine.kill();
    assert_ne!(commit.wait().code, 0, "killed in time");
    engine.launch();
    assert_eq!(engine.status_of("box"), "running");
    let before = ticks(&engine);
    wait_until("it goes on", || ticks(&engine) > before);
    // By its user it is paused for longer than an engine lives.
    engine.docker(["pause", "box"]).success();
    engine.restart_after_kill();
    assert_eq!(engine.status_of("box"), "paused");
}

/// The end of a container whose record cannot be written stays with its shim until it can be.
#[test]
fn an_end_on_a_full_disk_is_not_lost() {
    if berth_testkit::not_in_a_machine("a full disk of 48 MB: there is no room for a kernel") {
        return;
    }
    let Some(mut engine) = Engine::start("crash-full") else { return };
    let mounts = [("data", "48m"), ("run", "16m")].map(|(name, size)| (engine.root().join(name), size));
    engine.stop();
    for (folder, size) in &mounts {
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status().unwrap();
        assert!(mounted.success());
    }
    engine.launch();
    let archive = engine.root().join("tiny.tar");
    std::fs::write(&archive, berth_testkit::tiny_archive()).unwrap();
    engine.docker(["import", archive.to_str().unwrap(), "tiny"]).success();
    for (name, code) in [("early", 41), ("late", 42)] {
        let script = format!("trap 'exit {code}' TERM; while :; do sleep 0.05; done");
        engine.docker(["run", "-d", "--name", name, "tiny", "sh", "-c", &script]).success();
    }
    engine.docker(["create", "--name", "third", "tiny", "true"]).success();
    let full: Vec<_> = mounts.iter().map(|(folder, _)| folder.join("full")).collect();
    let fill = || {
        for path in &full {
            let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
            while file.write_all(&[1]).is_ok() {}
        }
    };
    let free = || full.iter().for_each(|path| std::fs::remove_file(path).unwrap());

    for name in ["early", "late"] {
        engine.wait_for_handler(name, rustix::process::Signal::TERM);
    }
    // The engine lives through it: what it could not write it writes later.
    fill();
    engine.docker(["kill", "-s", "TERM", "early"]).success();
    assert_eq!(engine.docker(["wait", "early"]).success(), "41");
    // Its end waits to be written, or was, and left room that a start would take.
    let mut refused = engine.docker(["start", "early"]);
    wait_until("nothing of it can be made anew", || {
        if refused.code == 0 {
            engine.wait_for_handler("early", rustix::process::Signal::TERM);
            engine.docker(["kill", "-s", "TERM", "early"]);
            engine.docker(["wait", "early"]);
            fill();
            refused = engine.docker(["start", "early"]);
        }
        refused.code != 0
    });
    // And it says why.
    let unwritten = refused.stderr.contains("the end of its last run cannot be written");
    let refused = engine.docker(["start", "third"]);
    assert!(refused.code != 0 && refused.stderr.to_lowercase().contains("no space left"), "{refused:?}");
    let data = format!("the disk of {} is full: ", mounts[0].0.display());
    let early = ("early", "its end cannot be written");
    for (name, words) in [("third", "does not start: the disk is full"), early].iter().take(1 + usize::from(unwritten))
    {
        let why = engine.berth(["why", name]).success();
        assert!(why.contains(words) && why.contains(&data) && why.contains("berth system prune"), "{why}");
    }
    free();
    let shim = engine.root().join("run/shims").join(engine.inspect("early")["Id"].as_str().unwrap());
    wait_until("it is written", || !shim.exists());
    engine.restart_after_kill();
    // A start that failed for the disk has a code of its own.
    assert_eq!(engine.docker(["wait", "early"]).success(), if unwritten { "41" } else { "128" });

    // It does not: the next one asks the shim.
    fill();
    engine.docker(["kill", "-s", "TERM", "late"]).success();
    assert_eq!(engine.docker(["wait", "late"]).success(), "42");
    engine.kill();
    free();
    engine.launch();
    assert_eq!(engine.docker(["wait", "late"]).success(), "42");
    for name in ["early", "late"] {
        engine.docker(["start", name]).success();
    }
    engine.docker(["rm", "-f", "early", "late", "third"]).success();
    engine.kill();
    for (folder, _) in &mounts {
        wait_until("nobody uses it", || Command::new("umount").arg(folder).status().is_ok_and(|done| done.success()));
    }
    engine.launch();
}

#[test]
fn idle_shims_that_were_killed_are_replaced() {
    let Some(engine) = Engine::start("crash-idle") else { return };
    for _ in 0..3 {
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", engine.pid())).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|text| text.parse().ok()) {
            let line = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if line.starts_with("berth-shim") {
                kill(child);
            }
        }
        engine.docker(["run", "--rm", "tiny", "true"]).success();
    }
}

#[test]
fn a_second_engine_on_the_same_folders_is_refused() {
    let Some(engine) = Engine::start("crash-second") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    let second = Command::new(berth_testkit::programs().join("berthd"))
        .args(["-H", &format!("unix://{}", engine.root().join("second.sock").display())])
        .arg("--data-root")
        .arg(engine.root().join("data"))
        .arg("--exec-root")
        .arg(engine.root().join("run"))
        .output()
        .unwrap();
    assert!(!second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    assert_eq!(engine.docker(["exec", "box", "echo", "in"]).success(), "in");
}

#[test]
fn a_graceful_end_is_no_different_for_containers() {
    let Some(mut engine) = Engine::start("crash-graceful") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    let before = engine.pid_of("box");
    engine.stop();
    assert!(Path::new(&format!("/proc/{before}")).exists());
    engine.launch();
    assert_eq!(engine.pid_of("box"), before);
    assert_eq!(engine.docker(["exec", "box", "echo", "in"]).success(), "in");
}
