//! attach: clients at a container's standard streams.

use berth_testkit::{Client, Engine, wait_until};
use rustix::process::Signal;
use std::io::Write as _;

#[test]
fn several_clients_see_the_same() {
    let Some(engine) = Engine::start("attach-many") else { return };
    let script = "while read line; do echo \"got $line\"; done; echo end";
    engine.docker(["run", "-di", "--name", "box", "tiny", "sh", "-c", script]).success();
    let mut typist = engine.docker_running(["attach", "box"]);
    let watchers: Vec<Client> = (0..4)
        .map(|number| match number % 2 {
            0 => engine.docker_running(["attach", "--no-stdin", "box"]),
            _ => engine.berth_running(["attach", "--no-stdin", "box"]),
        })
        .collect();
    // Each is there once it has seen a line.
    let mut sent = 0;
    for watcher in &watchers {
        wait_until("it is attached", || {
            sent += 1;
            typist.send(format!("probe {sent}\n"));
            std::thread::sleep(std::time::Duration::from_millis(20));
            watcher.stdout().contains("got probe")
        });
    }
    typist.send("last\n");
    typist.wait_for("got last");
    watchers.iter().for_each(|watcher| watcher.wait_for("got last"));
    // One that goes disturbs nobody.
    let mut watchers = watchers.into_iter();
    drop(watchers.next());
    typist.send("more\n");
    typist.wait_for("got more");
    for watcher in watchers {
        watcher.wait_for("got more");
        drop(watcher);
    }
    engine.docker(["kill", "box"]).success();
    assert_eq!(typist.wait().code, 137);
}

#[test]
fn the_detach_keys_leave_it_running() {
    let Some(engine) = Engine::start("attach-detach") else { return };
    for berth in [false, true] {
        let start = |arguments: &[&str]| match berth {
            true => engine.berth_on_terminal(arguments),
            false => engine.docker_on_terminal(arguments),
        };
        let name = if berth { "two" } else { "one" };
        let mut client = start(&["run", "-it", "--name", name, "tiny", "sh"]);
        client.wait_for("/ #");
        // Ctrl-P alone is a key like others.
        client.send([16]);
        client.send("echo o''ne\n");
        client.wait_for("one");
        client.send([16, 17]);
        let output = client.wait();
        assert!(output.code == 0, "{output:?}");
        assert_eq!(engine.inspect(name)["State"]["Running"], true);
        // Back to the same shell, with keys of one's own.
        let mut client = start(&["attach", "--detach-keys", "ctrl-x,q", name]);
        client.send("echo two\n");
        client.wait_for("two");
        client.send([24, b'q']);
        client.wait();
        assert_eq!(engine.inspect(name)["State"]["Running"], true);
        let mut client = start(&["attach", name]);
        client.send("exit 5\n");
        assert_eq!(client.wait().code, 5);
    }
}

#[test]
fn what_was_said_before_is_replayed_where_asked_for() {
    let Some(engine) = Engine::start("attach-replay") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", "echo early; exec sleep 1000"]).success();
    wait_until("it has spoken", || engine.docker(["logs", "box"]).stdout.contains("early"));
    let logs = engine.exchange("POST", "/containers/box/attach?logs=1&stdout=1&stderr=1", &[], b"").finish().unwrap();
    assert_eq!(berth_testkit::frames(&logs.body[..]), [(1, b"early\n".to_vec())]);
    // Without the wish it is not; the stream is quiet and ends with the container.
    let mut stream = engine.exchange(
        "POST",
        "/containers/box/attach?stream=1&stdout=1",
        &[("Upgrade", "tcp"), ("Connection", "Upgrade")],
        b"",
    );
    assert_eq!(stream.status(), 101);
    engine.docker(["kill", "box"]).success();
    assert_eq!(berth_testkit::frames(stream.stream()), []);
}

#[test]
fn a_terminal_follows_its_clients_size() {
    let Some(engine) = Engine::start("attach-resize") else { return };
    engine.docker(["run", "-dit", "--name", "box", "tiny", "sh"]).success();
    engine.api("POST", "/containers/box/resize?h=44&w=133", "").expect(200);
    wait_until("it has that size", || {
        engine.docker(["exec", "box", "sh", "-c", "stty size < /proc/1/fd/0"]).stdout.trim() == "44 133"
    });
    let mut client = engine.docker_on_terminal(["attach", "box"]);
    client.send("\n");
    client.wait_for("/ #");
    wait_until("the client's size arrives", || {
        engine.docker(["exec", "box", "sh", "-c", "stty size < /proc/1/fd/0"]).stdout.trim() == "30 100"
    });
    for bad in ["h=a&w=1", "h=1", "h=-1&w=2", "h=99999999&w=1"] {
        assert_eq!(engine.api("POST", &format!("/containers/box/resize?{bad}"), "").status, 400, "{bad}");
    }
    engine.docker(["run", "-d", "--name", "plain", "tiny", "sleep", "1000"]).success();
    // As dockerd answers: there is nothing to resize.
    assert_eq!(engine.api("POST", "/containers/plain/resize?h=1&w=1", "").status, 200);
    assert_eq!(engine.api("POST", "/containers/nobody/resize?h=1&w=1", "").status, 404);
}

#[test]
fn signals_pass_through_the_client() {
    let Some(engine) = Engine::start("attach-signals") else { return };
    let script = "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.02; done";
    for berth in [false, true] {
        let arguments = ["run", "--rm", "tiny", "sh", "-c", script];
        let client = if berth { engine.berth_running(arguments) } else { engine.docker_running(arguments) };
        client.wait_for("ready");
        client.signal(Signal::INT);
        let output = client.wait();
        assert_eq!((output.code, output.stdout.as_str()), (4, "ready\ninterrupted\n"));
    }
}

#[test]
fn input_ends_where_the_client_ends_it() {
    let Some(engine) = Engine::start("attach-eof") else { return };
    let mut client = engine.docker_running(["run", "-i", "--name", "box", "tiny", "sh", "-c", "cat; echo over"]);
    client.send("text\n");
    client.wait_for("text");
    client.close_input();
    assert_eq!(client.wait().success(), "text\nover");
    // A container that keeps its input open (not once) survives its client.
    engine.docker(["run", "-di", "--name", "open", "tiny", "cat"]).success();
    let mut client = engine.docker_running(["attach", "open"]);
    client.send("one\n");
    client.wait_for("one");
    drop(client);
    let mut client = engine.docker_running(["attach", "open"]);
    client.send("two\n");
    client.wait_for("two");
}

#[test]
fn a_slow_client_loses_nothing_and_holds_only_its_container() {
    let Some(engine) = Engine::start("attach-slow") else { return };
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo done > /done";
    engine.docker(["create", "--name", "box", "tiny", "sh", "-c", script]).success();
    let headers = [("Upgrade", "tcp"), ("Connection", "Upgrade")];
    let mut slow = engine.exchange("POST", "/containers/box/attach?stream=1&stdout=1", &headers, b"");
    engine.docker(["start", "box"]).success();
    // It reads nothing; others go on.
    assert_eq!(engine.docker(["run", "--rm", "tiny", "echo", "hi"]).success(), "hi");
    assert_eq!(engine.docker(["exec", "box", "test", "-e", "/done"]).code, 1, "the container waits for it");
    let frames = berth_testkit::frames(slow.stream());
    assert_eq!(frames.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 3_000_000);
    assert_eq!(engine.docker(["wait", "box"]).success(), "0");
    // One that hangs up without reading lets it go on.
    engine.docker(["start", "box"]).success();
    let gone = engine.exchange("POST", "/containers/box/attach?stream=1&stdout=1", &headers, b"");
    drop(gone);
    wait_until("it has ended", || engine.inspect("box")["State"]["Running"] == false);
}

/// Under load `start -ai` of one that had just ended said "cannot attach: No such file".
#[test]
fn an_attach_that_meets_the_end_waits_for_the_next_start() {
    use std::io::Read;
    let Some(engine) = Engine::start("attach-end") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", "echo hello; exec sleep 1000"]).success();
    let id = engine.inspect("box")["Id"].as_str().unwrap().to_owned();
    // What a shim takes along when it goes; the engine has not heard of an end yet.
    std::fs::remove_file(engine.root().join("run/shims").join(id).join("shim.sock")).unwrap();
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| {
            let headers = [("Upgrade", "tcp"), ("Connection", "Upgrade")];
            let path = "/containers/box/attach?stream=1&stdout=1";
            let mut exchange = engine.exchange("POST", path, &headers, b"");
            let mut said = [0; 14];
            exchange.stream().read_exact(&mut said).map(|()| said)
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        engine.docker(["kill", "box"]).success();
        engine.docker(["start", "box"]).success();
        assert_eq!(&attached.join().unwrap().unwrap(), b"\x01\0\0\0\0\0\0\x06hello\n");
    });
}

#[test]
fn half_open_streams_do_not_pile_up() {
    let Some(engine) = Engine::start("attach-half") else { return };
    engine.docker(["run", "-di", "--name", "box", "tiny", "cat"]).success();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", engine.pid())).unwrap().count();
    let before = open();
    let headers = [("Upgrade", "tcp"), ("Connection", "Upgrade")];
    for _ in 0..50 {
        let path = "/containers/box/attach?stream=1&stdout=1&stdin=1";
        drop(engine.exchange("POST", path, &headers, b""));
    }
    wait_until("their descriptors are back", || open() <= before + 4);
    assert_eq!(engine.inspect("box")["State"]["Running"], true);
}

#[test]
fn thousands_of_connections_that_only_sit_there_keep_nobody_from_working() {
    const SITTING: usize = 3000;
    let Some(engine) = Engine::start("attach-sit") else { return };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let more = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, more).unwrap();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", engine.pid())).unwrap().count();
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (before, kilobytes) = (open(), resident());
    let connect = || std::os::unix::net::UnixStream::connect(engine.socket()).unwrap();
    let mut sitting: Vec<_> = (0..SITTING).map(|_| connect()).collect();
    // Some with half a request, some with a whole one whose answer they do not read.
    for (number, stream) in sitting.iter_mut().enumerate() {
        match number % 3 {
            0 => stream.write_all(b"GET /containers/json HTTP/1.1\r\nHost: e\r\nX-").unwrap(),
            1 => stream.write_all(b"GET /version HTTP/1.1\r\nHost: e\r\n\r\n").unwrap(),
            _ => {}
        }
    }
    wait_until("all of them are there", || open() >= SITTING);
    engine.docker(["run", "--rm", "tiny", "echo", "works"]).success();
    let each = resident().saturating_sub(kilobytes) / SITTING as u64;
    assert!(each < 64, "{each} KB a connection");
    drop(sitting);
    wait_until("their descriptors are back", || open() <= before + 4);
}
