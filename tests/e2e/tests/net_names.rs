//! Names of containers, with the installed `docker` client.

use berth_testkit::{Engine, wait_until};

/// The addresses that `name` has for somebody in `container`, of one family.
fn look_up(engine: &Engine, container: &str, name: &str, kind: &str) -> Vec<String> {
    let output = engine.docker(["exec", container, "nslookup", &format!("-type={kind}"), name]);
    let lines = output.stdout.lines().skip_while(|line| !line.starts_with("Name:"));
    let addresses = lines.filter_map(|line| line.strip_prefix("Address: "));
    addresses.map(|address| address.trim().to_owned()).collect()
}

fn address(engine: &Engine, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    engine.docker(["inspect", "-f", &format, container]).success()
}

fn sleeper(engine: &Engine, name: &str, options: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend_from_slice(options);
    arguments.extend_from_slice(&["tiny", "sleep", "1000"]);
    engine.docker(arguments).success();
}

#[test]
fn containers_find_each_other_by_name_alias_and_id_and_only_on_networks_they_share() {
    let Some(engine) = Engine::start("names") else { return };
    for network in ["front", "back"] {
        engine.docker(["network", "create", network]).success();
    }
    sleeper(&engine, "web", &["--network", "front", "--network-alias", "www", "--hostname", "host1"]);
    sleeper(&engine, "app", &["--network", "front", "--network-alias", "www", "--link", "web:upstream"]);
    sleeper(&engine, "db", &["--network", "back"]);
    let web = address(&engine, "web", "front");
    let id = engine.docker(["inspect", "-f", "{{.Id}}", "web"]).success();
    for name in ["web", "WEB", "host1", "web.front", &id[..12], "upstream"] {
        assert_eq!(look_up(&engine, "app", name, "a"), [web.as_str()], "{name}");
    }
    assert_eq!(look_up(&engine, "app", "web", "aaaa").len(), 1);
    assert_eq!(look_up(&engine, "app", "www", "a").len(), 2);
    assert!(look_up(&engine, "web", "upstream", "a").is_empty(), "a link is for its container alone");
    assert!(look_up(&engine, "db", "web", "a").is_empty());
    // A shared name begins with the one or the other.
    let firsts: std::collections::BTreeSet<String> =
        (0..4).map(|_| look_up(&engine, "app", "www", "a").remove(0)).collect();
    assert_eq!(firsts.len(), 2);
    // On a network that wants it so it is answered with one of them at a time.
    engine.docker(["network", "create", "-o", "berth.network.names=one", "single"]).success();
    for container in ["web", "app", "db"] {
        engine.docker(["network", "connect", "--alias", "any", "single", container]).success();
    }
    let all: Vec<Vec<String>> = (0..6).map(|_| look_up(&engine, "db", "any", "a")).collect();
    assert!(all.iter().all(|answer| answer.len() == 1), "{all:?}");
    assert_eq!(all.iter().flatten().collect::<std::collections::BTreeSet<_>>().len(), 3, "{all:?}");
    for container in ["web", "app", "db"] {
        engine.docker(["network", "disconnect", "single", container]).success();
    }
    let reverse = engine.docker(["exec", "app", "nslookup", &web]).success();
    assert!(reverse.contains("name = web.front"), "{reverse}");
    if !berth_testkit::not_in_a_machine("names by TCP: the guest's server answers by UDP") {
        // Over TCP and with EDNS, asked by hand: the length, then the question for `web`.
        let question = r"\0\x1d\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        let ask = format!("printf '{}' | nc -w 2 127.0.0.11 53 | od -An -tx1", question.replace("x1d", "x15"));
        let answer = engine.docker(["exec", "app", "sh", "-c", &ask]).success();
        let octets: Vec<String> = web.split('.').map(|part| format!("{:02x}", part.parse::<u8>().unwrap())).collect();
        assert!(answer.split_whitespace().collect::<Vec<_>>().join(" ").ends_with(&octets.join(" ")), "{answer}");
    }

    // Names come and go with joining, renaming, leaving and ending.
    engine.docker(["network", "connect", "--alias", "data", "front", "db"]).success();
    assert_eq!(look_up(&engine, "app", "data", "a"), [address(&engine, "db", "front")]);
    assert_eq!(look_up(&engine, "db", "web", "a"), [web.as_str()]);
    engine.docker(["rename", "web", "site"]).success();
    assert_eq!(look_up(&engine, "app", "site", "a"), [web.as_str()]);
    assert!(look_up(&engine, "app", "web", "a").is_empty());
    engine.docker(["network", "disconnect", "front", "db"]).success();
    assert!(look_up(&engine, "app", "data", "a").is_empty());
    engine.docker(["rm", "-f", "site"]).success();
    assert_eq!(look_up(&engine, "app", "www", "a").len(), 1);
}

#[test]
fn names_are_answered_while_the_engine_is_down_and_after_the_name_server_was_killed() {
    let Some(mut engine) = Engine::start("names-down") else { return };
    engine.docker(["network", "create", "n"]).success();
    sleeper(&engine, "aa", &["--network", "n"]);
    // Looks up in a loop and counts what failed, and outlives who stops it: never while the engine is killed and started again.
    let watch = "n=0; bad=0; while [ ! -e /tmp/stop ]; do nslookup -type=a aa >/dev/null 2>&1 || bad=$((bad+1)); n=$((n+1)); done; echo $n $bad > /tmp/done; sleep 1";
    engine.docker(["run", "-d", "--name", "bb", "--network", "n", "tiny", "sh", "-c", watch]).success();
    for _ in 0..3 {
        engine.restart_after_kill();
    }
    engine.docker(["exec", "bb", "touch", "/tmp/stop"]).success();
    let mut counts = String::new();
    wait_until("the counts", || {
        // The loop's container ends with it.
        let output = engine.docker(["cp", "bb:/tmp/done", "-"]);
        counts = output.stdout;
        counts.contains(" 0\n") || counts.contains(' ') && output.code == 0
    });
    let line = counts.lines().find(|line| line.split(' ').count() == 2 && line.ends_with(" 0"));
    assert!(line.is_some(), "lookups and failures: {counts:?}");
    assert_eq!(look_up(&engine, "aa", "aa", "a").len(), 1);

    // The name server itself is killed: the engine starts another, and no container is restarted for it.
    let run = engine.root().join("run");
    let servers = || -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.next() == Some(b"berth-dns") && words.next() == Some(run.to_str().unwrap().as_bytes())
        };
        pids.filter(ours).collect()
    };
    let [first] = servers()[..] else { panic!("one name server: {:?}", servers()) };
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("another name server", || servers().iter().any(|pid| *pid != first));
    wait_until("an answer", || look_up(&engine, "aa", "aa", "a").len() == 1);
    // It ends with the last container that has names.
    engine.docker(["rm", "-f", "aa", "bb"]).success();
    engine.kill();
    wait_until("the name server's end", || servers().is_empty());
}

#[test]
fn the_resolvers_file_says_what_was_asked_for() {
    let Some(engine) = Engine::start("names-file") else { return };
    engine.docker(["network", "create", "n"]).success();
    let file = |options: &[&str]| {
        let mut arguments = vec!["run", "--rm", "--network", "n"];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&["tiny", "cat", "/etc/resolv.conf"]);
        engine.docker(arguments).success()
    };
    let all = file(&["--dns", "192.0.2.1", "--dns-search", "example.com", "--dns-option", "timeout:1"]);
    assert_eq!(all, "nameserver 127.0.0.11\nsearch example.com\noptions timeout:1 ndots:0");
    assert!(file(&[]).starts_with("nameserver 127.0.0.11\n"));
    let hosts = engine
        .docker([
            "run",
            "--rm",
            "--add-host",
            "up:host-gateway",
            "--add-host",
            "x=10.1.1.1",
            "tiny",
            "cat",
            "/etc/hosts",
        ])
        .success();
    assert!(hosts.contains("10.1.1.1\tx") && hosts.contains("\tup"), "{hosts}");
    // On the default bridge there are no names; joining a network later brings them.
    sleeper(&engine, "late", &[]);
    let read = |path: &str| engine.docker(["exec", "late", "cat", path]).success();
    assert!(!read("/etc/resolv.conf").contains("127.0.0.11"));
    engine.docker(["network", "connect", "n", "late"]).success();
    assert!(read("/etc/resolv.conf").contains("127.0.0.11"));
    assert!(read("/etc/hosts").contains(&address(&engine, "late", "n")));
    assert_eq!(look_up(&engine, "late", "late", "a"), [address(&engine, "late", "n")]);
}

/// The first ones start the name server while the others bring their sockets.
#[test]
fn containers_that_start_at_once_all_look_names_up() {
    let Some(engine) = Engine::start("names-at-once") else { return };
    engine.docker(["network", "create", "crowd"]).success();
    let names: Vec<String> = (0..8).map(|n| format!("one{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let run = ["run", "-d", "--network", "crowd", "--name", name, "tiny", "sleep", "1000"];
            let engine = &engine;
            scope.spawn(move || engine.berth(run).success());
        }
    });
    for (name, other) in names.iter().zip(names.iter().rev()) {
        let answer = engine.berth(["exec", name, "nslookup", "-type=a", other]);
        assert_eq!(answer.code, 0, "{name} asks for {other}: {}{}", answer.stdout, answer.stderr);
    }
    engine.clear();
}
