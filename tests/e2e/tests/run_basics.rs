//! create, start, run, stop, kill, restart, pause, wait, rename, remove: the life of one container.

use berth_testkit::{Engine, wait_until};
use rustix::process::Signal;

#[test]
fn exit_codes_are_dockers() {
    let Some(engine) = Engine::start("run-codes") else { return };
    for (arguments, code) in [
        (&["tiny", "true"][..], 0),
        (&["tiny", "sh", "-c", "exit 42"], 42),
        (&["tiny", "sh", "-c", "exit 255"], 255),
        // Found, but not a program.
        (&["tiny", "/etc/passwd"], 126),
        (&["tiny", "/tmp"], 126),
        (&["tiny", "nothing-of-this-name"], 127),
        (&["tiny", "/no/such/file"], 127),
        (&["--memory", "1k", "tiny", "true"], 125),
        (&["--name", "not/good", "tiny", "true"], 125),
        (&["-p", "99999:80", "tiny", "true"], 125),
        (&["no-such-image-here", "true"], 125),
        // SIGKILL and SIGTERM from inside, to a process that is not the first.
        (&["--init", "tiny", "sh", "-c", "kill -9 $$"], 137),
        (&["--init", "tiny", "sh", "-c", "kill -15 $$"], 143),
    ] {
        for client in ["docker", "berth"] {
            let all: Vec<&str> = ["run", "--rm", "--pull", "never"].iter().chain(arguments).copied().collect();
            let output = if client == "docker" { engine.docker(&all) } else { engine.berth(&all) };
            assert_eq!(output.code, code, "{client} {all:?}: {}{}", output.stdout, output.stderr);
        }
    }
    // Nothing of any of them is left.
    wait_until("no container is left", || engine.containers().is_empty());
}

#[test]
fn output_and_input_pass_through() {
    let Some(engine) = Engine::start("run-streams") else { return };
    let output = engine.docker(["run", "--rm", "tiny", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let big = "x".repeat(3 << 20);
    let output = engine.docker_with_input(["run", "--rm", "-i", "tiny", "wc", "-c"], big.as_bytes());
    assert_eq!(output.success().trim(), big.len().to_string());
    let output = engine.berth_with_input(["run", "--rm", "-i", "tiny", "cat"], big.as_bytes());
    assert_eq!(output.success().len(), big.len());
    let many = engine.docker(["run", "--rm", "tiny", "sh", "-c", "yes | head -c 5000000"]).success();
    // The final newline is cut off.
    assert_eq!(many.len(), 4_999_999);
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(engine) = Engine::start("run-tty") else { return };
    for berth in [false, true] {
        let start = |arguments: &[&str]| match berth {
            true => engine.berth_on_terminal(arguments),
            false => engine.docker_on_terminal(arguments),
        };
        let mut client = start(&["run", "--rm", "-it", "tiny", "sh"]);
        client.wait_for("/ #");
        client.send("tty; stty size; echo wo''rks\n");
        client.wait_for("works");
        let text = client.stdout();
        assert!(text.contains("/dev/pts/0") && text.contains("30 100"), "{text}");
        client.send("exit 7\n");
        assert_eq!(client.wait().code, 7);
    }
}

#[test]
fn stop_asks_waits_and_kills() {
    let Some(engine) = Engine::start("run-stop") else { return };
    // One that listens ends by itself, with its own code.
    let polite = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
    engine.docker(["run", "-d", "--name", "polite", "tiny", "sh", "-c", polite]).success();
    engine.wait_for_handler("polite", Signal::TERM);
    engine.docker(["stop", "polite"]).success();
    assert_eq!(engine.docker(["wait", "polite"]).success(), "5");
    // One that does not is killed after its grace.
    engine.docker(["run", "-d", "--name", "deaf", "tiny", "sleep", "1000"]).success();
    engine.docker(["stop", "-t", "1", "deaf"]).success();
    assert_eq!(engine.inspect("deaf")["State"]["ExitCode"], 137);
    // Its own stop signal, and one given by hand.
    let usr1 = "trap 'exit 6' USR1; trap 'exit 8' HUP; while :; do sleep 0.05; done";
    engine.docker(["run", "-d", "--name", "own", "--stop-signal", "USR1", "tiny", "sh", "-c", usr1]).success();
    engine.wait_for_handler("own", Signal::HUP);
    engine.berth(["stop", "own"]).success();
    assert_eq!(engine.inspect("own")["State"]["ExitCode"], 6);
    engine.docker(["start", "own"]).success();
    engine.wait_for_handler("own", Signal::HUP);
    engine.docker(["stop", "--signal", "HUP", "own"]).success();
    assert_eq!(engine.inspect("own")["State"]["ExitCode"], 8);
    // The container's own grace.
    engine.docker(["run", "-d", "--name", "hasty", "--stop-timeout", "0", "tiny", "sleep", "1000"]).success();
    engine.docker(["stop", "hasty"]).success();
    assert_eq!(engine.inspect("hasty")["State"]["ExitCode"], 137);
    // Stopped already: no error, no second event.
    engine.docker(["stop", "hasty"]).success();
    assert_eq!(engine.api("POST", "/containers/hasty/stop", "").status, 304);
    assert_eq!(engine.api("POST", "/containers/nobody/stop", "").status, 404);
    let refusal = engine.api("POST", "/containers/hasty/stop?signal=NOPE", "").expect(400);
    assert!(refusal.message().contains("invalid signal"), "{}", refusal.message());
}

#[test]
fn kill_sends_any_signal_to_a_running_one_only() {
    let Some(engine) = Engine::start("run-kill") else { return };
    let script = "trap 'echo got-hup' HUP; trap 'echo got-usr2' USR2; echo ready; while :; do sleep 0.05; done";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", script]).success();
    let logs = || engine.docker(["logs", "box"]).success();
    wait_until("it is ready", || logs().contains("ready"));
    for (signal, word) in [("HUP", "got-hup"), ("SIGUSR2", "got-usr2")] {
        engine.docker(["kill", "-s", signal, "box"]).success();
        wait_until(word, || logs().contains(word));
    }
    assert_eq!(engine.inspect("box")["State"]["Running"], true);
    assert_eq!(engine.api("POST", "/containers/box/kill?signal=bogus", "").status, 400);
    engine.berth(["kill", "box"]).success();
    assert_eq!(engine.docker(["wait", "box"]).success(), "137");
    let refusal = engine.docker(["kill", "box"]).failure(1);
    assert!(refusal.contains("is not running"), "{refusal}");
    assert_eq!(engine.api("POST", "/containers/box/kill", "").status, 409);
}

#[test]
fn pause_holds_everything_still() {
    let Some(engine) = Engine::start("run-pause") else { return };
    let count = "i=0; while :; do i=$((i+1)); echo $i > /n; sleep 0.02; done";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", count]).success();
    let number = || {
        let copied = engine.docker(["cp", "box:/n", "-"]).stdout;
        copied.chars().filter(char::is_ascii_graphic).collect::<String>()
    };
    wait_until("it counts", || engine.docker(["exec", "box", "cat", "/n"]).code == 0);
    engine.docker(["pause", "box"]).success();
    assert_eq!(engine.inspect("box")["State"]["Status"], "paused");
    let first = number();
    assert_eq!(engine.api("POST", "/containers/box/pause", "").status, 409);
    assert_eq!(engine.api("POST", "/containers/box/start", "").status, 409);
    let refusal = engine.docker(["exec", "box", "true"]).failure(1);
    assert!(refusal.contains("paused"), "{refusal}");
    assert_eq!(number(), first);
    engine.docker(["unpause", "box"]).success();
    assert_eq!(engine.api("POST", "/containers/box/unpause", "").status, 409);
    wait_until("it goes on", || engine.docker(["exec", "box", "cat", "/n"]).code == 0);
    // A paused one can be stopped, killed and removed.
    engine.docker(["pause", "box"]).success();
    engine.docker(["stop", "-t", "0", "box"]).success();
    engine.docker(["start", "box"]).success();
    engine.docker(["pause", "box"]).success();
    engine.docker(["kill", "box"]).success();
    engine.docker(["wait", "box"]).success();
    engine.docker(["start", "box"]).success();
    engine.docker(["pause", "box"]).success();
    let refusal = engine.docker(["rm", "box"]).failure(1);
    assert!(refusal.contains("paused"), "{refusal}");
    engine.docker(["rm", "-f", "box"]).success();
}

#[test]
fn restart_is_a_new_run_of_the_same_container() {
    let Some(engine) = Engine::start("run-restart") else { return };
    // To the disk: in a machine an end without a grace is a pulled plug.
    let script = "echo run >> /runs; sync; echo said; exec sleep 1000";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", script]).success();
    wait_until("the first run", || engine.docker(["logs", "box"]).stdout.contains("said"));
    let before = engine.inspect("box")["State"]["Pid"].clone();
    engine.docker(["restart", "-t", "0", "box"]).success();
    let after = engine.inspect("box");
    assert_eq!((&after["State"]["Running"], &after["RestartCount"]), (&true.into(), &0.into()));
    assert_ne!(after["State"]["Pid"], before);
    wait_until("the second run", || engine.docker(["exec", "box", "cat", "/runs"]).stdout.lines().count() == 2);
    // Also of one that is stopped.
    engine.docker(["stop", "-t", "0", "box"]).success();
    engine.berth(["restart", "box"]).success();
    assert_eq!(engine.inspect("box")["State"]["Running"], true);
    // A --rm container survives its restart.
    engine.docker(["run", "-d", "--rm", "--name", "brief", "tiny", "sleep", "1000"]).success();
    engine.docker(["restart", "-t", "0", "brief"]).success();
    assert_eq!(engine.inspect("brief")["State"]["Running"], true);
    engine.docker(["stop", "-t", "0", "brief"]).success();
    wait_until("it goes with its end", || engine.api("GET", "/containers/brief/json", "").status == 404);
}

#[test]
fn wait_hears_the_end_it_asked_for() {
    let Some(engine) = Engine::start("run-wait") else { return };
    engine.docker(["create", "--name", "box", "tiny", "sh", "-c", "sleep 0.3; exit 9"]).success();
    // Not running: answered at once, with the code of the last run.
    assert_eq!(engine.docker(["wait", "box"]).success(), "0");
    let next = engine.exchange("POST", "/containers/box/wait?condition=next-exit", &[], b"");
    let removed = engine.exchange("POST", "/containers/box/wait?condition=removed", &[], b"");
    // The head is there before the end: clients rely on it.
    assert_eq!((next.status(), removed.status()), (200, 200));
    engine.docker(["start", "box"]).success();
    assert_eq!(next.finish().unwrap().json()["StatusCode"], 9);
    engine.docker(["rm", "box"]).success();
    assert_eq!(removed.finish().unwrap().json()["StatusCode"], 9);
    assert_eq!(engine.api("POST", "/containers/box/wait", "").status, 404);
    let refusal = engine.api("POST", "/containers/box/wait?condition=never", "");
    assert!(matches!(refusal.status, 400 | 404), "{}", refusal.status);
}

#[test]
fn names_are_unique_and_can_change() {
    let Some(engine) = Engine::start("run-names") else { return };
    engine.docker(["create", "--name", "first", "tiny"]).success();
    let refusal = engine.docker(["create", "--name", "first", "tiny"]).failure(1);
    assert!(refusal.contains("Conflict. The container name \"/first\" is already in use"), "{refusal}");
    engine.docker(["create", "--name", "second", "tiny"]).success();
    let taken = engine.api("POST", "/containers/second/rename?name=first", "").expect(409);
    assert!(taken.message().contains("already in use"), "{}", taken.message());
    for bad in ["", "a%2Fb", "-x", "%20"] {
        assert_eq!(engine.api("POST", &format!("/containers/second/rename?name={bad}"), "").status, 400, "{bad}");
    }
    engine.docker(["rename", "second", "third"]).success();
    assert_eq!(engine.inspect("third")["Name"], "/third");
    assert_eq!(engine.api("GET", "/containers/second/json", "").status, 404);
    engine.berth(["create", "--name", "second", "tiny"]).success();
    // By id, by a prefix of it, with a slash.
    let id = engine.inspect("third")["Id"].as_str().unwrap().to_owned();
    for reference in [&id, &id[..12], "/third"] {
        assert_eq!(engine.docker(["inspect", "-f", "{{.Name}}", reference]).success(), "/third");
    }
}

#[test]
fn a_running_container_is_removed_by_force_only() {
    let Some(engine) = Engine::start("run-rm") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    let refusal = engine.api("DELETE", "/containers/box", "").expect(409);
    assert!(refusal.message().contains("stop the container before removing or force remove"), "{}", refusal.message());
    engine.berth(["rm", "-f", "box"]).success();
    assert_eq!(engine.api("DELETE", "/containers/box", "").status, 404);
    // Docker's client says yes to a second `rm -f`.
    engine.docker(["rm", "-f", "box"]).success();
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let Some(engine) = Engine::start("run-init") else { return };
    let orphan = "(sleep 0.05 & ) ; trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done";
    engine.docker(["run", "-d", "--init", "--name", "box", "tiny", "sh", "-c", orphan]).success();
    wait_until("it is ready", || engine.docker(["logs", "box"]).stdout.contains("ready"));
    wait_until("no zombie is left", || {
        let states = engine.docker(["exec", "box", "sh", "-c", "cat /proc/[0-9]*/stat"]).stdout;
        !states.lines().any(|line| line.contains(") Z "))
    });
    engine.docker(["stop", "box"]).success();
    assert_eq!(engine.inspect("box")["State"]["ExitCode"], 3);
}

/// Two times 16 x 3 short lives: once in some thousand an end was not heard, and the client waited for good.
#[test]
fn many_short_lives_at_once_all_come_to_their_end() {
    if berth_testkit::not_in_a_machine("96 machines: where they are emulated that is an hour") {
        return;
    }
    let Some(engine) = Engine::start("run-many") else { return };
    std::thread::scope(|scope| {
        for number in 0..16 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..3 {
                    let said = format!("number {number} {round}");
                    let words = ["run", "--rm", "tiny", "echo", &said];
                    assert_eq!(engine.docker(words).success(), said);
                    assert_eq!(engine.berth(words).success(), said);
                }
            });
        }
    });
}

#[test]
fn a_privileged_one_has_the_hosts_devices_and_its_own_terminals() {
    let Some(engine) = Engine::start("run-privileged") else { return };
    let look = "readlink /dev/ptmx; ls /dev; mount -t tmpfs none /tmp && echo mounted";
    for (berth, words) in [(false, &["--privileged"][..]), (true, &["--privileged", "--device", "/dev/ptmx"])] {
        if words.contains(&"--device") && berth_testkit::not_in_a_machine("a device of the host") {
            // Refused there: what it sees of devices is its guest's.
            continue;
        }
        let run: Vec<&str> = ["run", "--rm"].iter().chain(words).chain(&["tiny", "sh", "-c", look]).copied().collect();
        let said = if berth { engine.berth(run) } else { engine.docker(run) }.success();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.first(), Some(&"pts/ptmx"), "{said}");
        assert!(lines.contains(&"kmsg") && lines.contains(&"mounted"), "{said}");
    }
    let mut client = engine.docker_on_terminal(["run", "--rm", "-it", "--privileged", "tiny", "sh"]);
    client.wait_for("/ #");
    client.send("tty; exit 7\n");
    let ended = client.wait();
    assert!(ended.code == 7 && ended.stdout.contains("/dev/pts/0"), "{ended:?}");
}
