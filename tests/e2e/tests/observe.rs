//! What is seen of running containers: limits that change live, statistics, processes, events, exports; by both clients.

use berth_testkit::{Client, Engine, Output, in_machines, not_in_a_machine, wait_until};
use serde_json::Value;

/// The same command through `docker` and `berth`.
fn both(engine: &Engine, arguments: &[&str]) -> [(&'static str, Output); 2] {
    [("docker", engine.docker(arguments)), ("berth", engine.berth(arguments))]
}

fn by(engine: &Engine, client: &str, arguments: &[&str]) -> Output {
    if client == "docker" { engine.docker(arguments) } else { engine.berth(arguments) }
}

fn running(engine: &Engine, client: &str, arguments: &[&str]) -> Client {
    if client == "docker" { engine.docker_running(arguments) } else { engine.berth_running(arguments) }
}

#[test]
fn limits_change_on_a_running_container() {
    let Some(engine) = Engine::start("live-limits") else { return };
    engine
        .docker(["run", "-d", "--name", "box", "-m", "64m", "--memory-swap", "128m", "tiny", "sleep", "1000"])
        .success();
    let limit = |v1: &str, v2: &str| engine.cgroup("box", v1, v2).map(|text| text.trim().to_owned());
    let holds = |what: &str, v1: &str, v2: &str, wanted: [&str; 2]| {
        if let Some(is) = limit(v1, v2) {
            assert!(wanted.contains(&is.as_str()), "{what}: {is}, not {wanted:?}");
        }
    };
    let memory = || limit("memory/memory.limit_in_bytes", "memory.max");
    assert_eq!(memory().as_deref(), Some("67108864"));
    // Each client asks for other values than the one before.
    for (client, megabytes, micros, processes, shares) in
        [("docker", 80_u64, 30_000, "41", ["300", "30"]), ("berth", 96, 70_000, "43", ["700", "60"])]
    {
        let cpus = (f64::from(micros) / 100_000.0).to_string();
        let (memory_text, swap) = (format!("{megabytes}m"), format!("{}m", megabytes * 2));
        let asked = ["update", "--memory", &memory_text, "--memory-swap", &swap, "--cpus", &cpus, "box"];
        assert_eq!(by(&engine, client, &asked).success(), "box");
        assert_eq!(memory(), Some((megabytes << 20).to_string()), "{client}");
        holds(
            "swap",
            "memory/memory.memsw.limit_in_bytes",
            "memory.swap.max",
            [&(megabytes << 21).to_string(), &(megabytes << 20).to_string()],
        );
        holds("quota", "cpu/cpu.cfs_quota_us", "cpu.max", [&micros.to_string(), &format!("{micros} 100000")]);
        by(&engine, client, &["update", "--pids-limit", processes, "--cpu-shares", shares[0], "box"]).success();
        holds("pids", "pids/pids.max", "pids.max", [processes, processes]);
        let weight = limit("cpu/cpu.shares", "cpu.weight").unwrap_or_default();
        assert!(weight == shares[0] || weight.parse::<u32>().is_ok_and(|w| (1..100).contains(&w)), "{weight}");
        by(&engine, client, &["update", "--cpuset-cpus", "0", "--memory-reservation", "33554432", "box"]).success();
        holds("cpuset", "cpuset/cpuset.cpus", "cpuset.cpus", ["0", "0"]);
        holds("reservation", "memory/memory.soft_limit_in_bytes", "memory.low", ["33554432", "33554432"]);
        by(&engine, client, &["update", "--restart", "on-failure:3", "box"]).success();
        let host = engine.inspect("box")["HostConfig"].clone();
        assert_eq!(
            (&host["Memory"], &host["PidsLimit"]),
            (&(megabytes << 20).into(), &Value::from(processes.parse::<u64>().unwrap()))
        );
        assert_eq!(host["RestartPolicy"]["MaximumRetryCount"], 3);
    }
    // What is in use cannot be taken away, and what was refused changed nothing.
    engine.docker(["exec", "box", "dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M", "count=40"]).success();
    let refused = engine.docker(["update", "--memory", "8m", "--memory-swap", "8m", "box"]);
    let now = memory().unwrap_or_default();
    assert!(
        refused.code == 1 && now == (96_u64 << 20).to_string() || refused.code == 0 && now == (8 << 20).to_string(),
        "{} {} {now}",
        refused.code,
        refused.stderr
    );
    // The record is what the next start goes by.
    engine.docker(["restart", "-t", "0", "box"]).success();
    holds("pids after a restart", "pids/pids.max", "pids.max", ["43", "43"]);
}

#[test]
fn statistics_are_true() {
    let Some(engine) = Engine::start("live-stats") else { return };
    let busy = "dd if=/dev/zero of=/dev/shm/ballast bs=1M count=24 2>/dev/null; echo ready; while :; do :; done";
    engine.docker(["run", "-d", "--name", "busy", "-m", "128m", "tiny", "sh", "-c", busy]).success();
    engine.docker(["run", "-d", "--name", "idle", "tiny", "sleep", "1000"]).success();
    wait_until("it is ready", || engine.docker(["logs", "busy"]).stdout.contains("ready"));
    let format = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}|{{.NetIO}}";
    for (client, output) in both(&engine, &["stats", "--no-stream", "--format", format]) {
        let text = output.success();
        let of = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{client}: {text}"));
            line.split('|').map(str::to_owned).collect::<Vec<_>>()
        };
        let percent = |row: &[String]| row[1].trim_end_matches('%').parse::<f64>().expect("a percentage");
        let (busy, idle) = (of("busy"), of("idle"));
        // An emulated machine that does nothing is still at work.
        let quiet = if in_machines() { percent(&busy) } else { 5.0 };
        assert!(percent(&busy) > 5.0 && percent(&idle) < quiet, "{client}: {text}");
        let used: f64 = busy[2].split("MiB").next().and_then(|text| text.parse().ok()).expect("megabytes");
        if not_in_a_machine("numbers of the container alone: its statistics are the whole machine's") {
            assert!(used > 24.0, "{client}: {text}");
            continue;
        }
        assert!((24.0..40.0).contains(&used), "{client}: {text}");
        assert!(busy[2].ends_with("/ 128MiB"), "{client}: {text}");
        assert_eq!(busy[3], "1", "{client}: {text}");
    }
    // One reading, without waiting for a second.
    let once = engine.api("GET", "/containers/busy/stats?stream=0&one-shot=1", "").expect(200).json();
    assert!(in_machines() || once["memory_stats"]["limit"] == 128 << 20, "{once}");
    assert!(once["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().is_some_and(|nanos| nanos > 1_000_000), "{once}");
    assert!(once["networks"]["eth0"]["rx_bytes"].is_u64(), "{once}");
    // A stream goes on until its container is gone.
    let mut stream = running(&engine, "berth", &["stats", "--format", "{{.Name}}", "busy"]);
    stream.wait_for("busy");
    assert!(stream.runs());
}

#[test]
fn processes_are_listed_as_they_are() {
    let Some(engine) = Engine::start("live-top") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", "sleep 4321 & sleep 1234; true"]).success();
    wait_until("both are there", || engine.docker(["top", "box"]).stdout.contains("sleep 4321"));
    // The guest has numbers of its own.
    let pid = if in_machines() { None } else { Some(engine.pid_of("box").to_string()) };
    for (client, output) in both(&engine, &["top", "box", "-o", "pid,args"]) {
        let text = output.success();
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.remove(0).split_whitespace().collect::<Vec<_>>(), ["PID", "COMMAND"], "{client}");
        assert_eq!(lines.len(), 3, "{client}: {text}");
        let has = |pid: &String| lines.iter().any(|line| line.split_whitespace().next() == Some(pid));
        assert!(pid.as_ref().is_none_or(has), "{client}: {text}");
    }
    // Only this container's.
    engine.docker(["run", "-d", "--name", "other", "tiny", "sleep", "5555"]).success();
    for (client, output) in both(&engine, &["top", "box"]) {
        assert!(!output.success().contains("5555"), "{client}");
    }
}

/// In seconds since 1970, as `--since` and `--until` take it.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

#[test]
fn events_come_live_are_replayed_and_filtered() {
    let Some(engine) = Engine::start("live-events") else { return };
    let format = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
    let live: Vec<Client> = ["docker", "berth"]
        .iter()
        .map(|client| running(&engine, client, &["events", "--filter", "container=one", "--format", format]))
        .collect();
    // Both listen before anything happens: the engine counts its listeners.
    wait_until("both listen", || engine.api("GET", "/info", "").json()["NEventsListener"] == 2);
    let before = now();
    engine.docker(["run", "--name", "one", "--label", "team=red", "tiny", "sh", "-c", "exit 3"]).failure(3);
    let between = now();
    engine.docker(["run", "-d", "--name", "second", "tiny", "sleep", "1000"]).success();
    engine.docker(["kill", "second"]).success();
    engine.docker(["wait", "second"]).success();
    engine.docker(["rm", "one"]).success();
    let after = now();
    for (client, live) in ["docker", "berth"].iter().zip(&live) {
        live.wait_for("container destroy one");
        let text = live.stdout();
        let actions: Vec<&str> = text.lines().filter(|line| line.starts_with("container")).collect();
        let wanted = ["create", "attach", "start", "die", "destroy"].map(|action| format!("container {action} one"));
        assert_eq!(actions, wanted, "{client}");
        assert!(!text.contains("second"), "{client}: {text}");
    }
    let replay = |arguments: &[&str]| {
        let all: Vec<&str> = ["events", "--format", format].iter().chain(arguments).copied().collect();
        let [docker, berth] = both(&engine, &all).map(|(_, output)| output.success());
        assert_eq!(docker, berth, "{arguments:?}");
        docker
    };
    let whole = replay(&["--since", &before, "--until", &after]);
    for line in ["container create one", "container start second", "container kill second", "container die second"] {
        assert!(whole.contains(line), "{line} is not in\n{whole}");
    }
    let late = replay(&["--since", &between, "--until", &after]);
    assert!(!late.contains("create one") && late.contains("create second"), "{late}");
    let early = replay(&["--since", &before, "--until", &between]);
    assert!(early.contains("die one") && !early.contains("second"), "{early}");
    let filtered = |filters: &[&str]| {
        let pairs: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        replay(&[&["--since", &before, "--until", &after], &pairs[..]].concat())
    };
    assert_eq!(filtered(&["event=die"]), "container die one\ncontainer die second");
    assert_eq!(filtered(&["event=die", "container=second"]), "container die second");
    assert_eq!(
        filtered(&["label=team=red", "event=create", "event=destroy"]),
        "container create one\ncontainer destroy one"
    );
    assert_eq!(filtered(&["label=team=blue"]), "");
    let networks = filtered(&["type=network"]);
    assert!(networks.lines().count() >= 4 && networks.lines().all(|line| line.starts_with("network ")), "{networks}");
    assert!(filtered(&["image=tiny", "event=start"]).lines().count() == 2);
    let exit = engine.api(
        "GET",
        &format!("/events?since={before}&until={after}&filters=%7B%22event%22%3A%5B%22die%22%5D%7D"),
        "",
    );
    let codes: Vec<String> = exit
        .text()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| event["Actor"]["Attributes"]["exitCode"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(codes, ["3", "137"]);
}

#[test]
fn a_replay_survives_the_engine_that_saw_it() {
    let Some(mut engine) = Engine::start("events-kept") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    engine.restart_after_kill();
    engine.docker(["stop", "-t", "0", "box"]).success();
    // A duration would be cut to whole seconds by the client, and the last one with what happened in it.
    let until = now();
    let text = engine.docker(["events", "--since", "10m", "--until", &until, "--filter", "container=box"]).success();
    assert!(text.contains("container die"), "{text}");
}

#[test]
fn exports_and_changes_say_what_a_container_wrote() {
    let Some(engine) = Engine::start("live-export") else { return };
    let script = "echo new >/added; echo changed >>/etc/group; rm /etc/passwd; mkdir /folder; ln -s added /link; \
                  mkfifo /pipe; chmod 4755 /added; sleep 1000";
    engine.docker(["run", "-d", "--name", "box", "-v", "data:/data", "tiny", "sh", "-c", script]).success();
    let wanted = ["A /added", "A /data", "A /folder", "A /link", "A /pipe", "C /etc", "C /etc/group", "D /etc/passwd"];
    let changes = |client: &str| {
        let text = by(&engine, client, &["diff", "box"]).success();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    wait_until("it has written", || changes("docker").contains(&"A /pipe".to_owned()));
    for client in ["docker", "berth"] {
        assert_eq!(changes(client), wanted, "{client}");
        let file = engine.root().join(format!("{client}.tar"));
        by(&engine, client, &["export", "-o", file.to_str().unwrap(), "box"]).success();
        let mut archive = tar::Archive::new(std::fs::File::open(&file).unwrap());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
            if path == "added" {
                assert_eq!(entry.header().mode().unwrap() & 0o7777, 0o4755, "{client}");
            }
            names.push(path);
        }
        for name in ["added", "link", "pipe", "folder", "bin/busybox"] {
            assert!(names.iter().any(|have| have == name), "{client}: no {name} in {names:?}");
        }
        assert!(!names.iter().any(|name| name == "etc/passwd"), "{client}");
    }
}

#[test]
fn what_is_read_committed_and_pruned_is_told_as_dockerd_tells_it() {
    let Some(engine) = Engine::start("live-told") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    engine.docker(["exec", "box", "true"]).success();
    engine.docker(["exec", "box", "echo", "a", "b"]).success();
    engine.docker(["cp", "box:/etc/passwd", "-"]).success();
    engine.docker(["export", "-o", engine.root().join("box.tar").to_str().expect("UTF-8"), "box"]).success();
    engine.docker(["commit", "box", "made:1"]).success();
    engine.docker(["network", "prune", "-f"]).success();
    let format = "{{.Type}} {{.Action}}|{{.Actor.Attributes.name}}|{{.Actor.Attributes.reclaimed}}";
    let until = now();
    let text = engine.docker(["events", "--since", "1h", "--until", &until, "--format", format]).success();
    let lines: Vec<&str> = text.lines().collect();
    let id = engine.docker(["image", "inspect", "-f", "{{.Id}}", "made:1"]).success();
    for wanted in [
        "container exec_create: true |box|<no value>",
        "container exec_start: echo a b|box|<no value>",
        "container archive-path|box|<no value>",
        "container export|box|<no value>",
        &format!("image create|{id}|<no value>"),
        "image tag|made:1|<no value>",
        "network prune|<no value>|0",
    ] {
        assert_eq!(lines.iter().filter(|line| **line == wanted).count(), 1, "{wanted}: {text}");
    }
}

#[test]
fn prune_takes_what_nobody_uses_and_nothing_else() {
    let Some(engine) = Engine::start("live-prune") else { return };
    for client in ["docker", "berth"] {
        engine.docker(["run", "-d", "--name", "alive", "-v", "used:/x", "tiny", "sleep", "1000"]).success();
        engine.docker(["run", "--name", "kept", "--label", "keep", "tiny", "true"]).success();
        engine.docker(["run", "--name", "dead", "tiny", "true"]).success();
        engine.docker(["volume", "create", "unused"]).success();
        engine.docker(["network", "create", "unused"]).success();
        let text = by(&engine, client, &["container", "prune", "-f", "--filter", "label!=keep"]).success();
        assert!(text.contains("Deleted Containers:") && text.contains("Total reclaimed space:"), "{client}: {text}");
        let names = engine.docker(["ps", "-a", "--format", "{{.Names}}"]).success();
        assert_eq!(names, "kept\nalive", "{client}");
        // Named volumes stay unless all are asked for.
        by(&engine, client, &["volume", "prune", "-f"]).success();
        assert!(engine.docker(["volume", "ls", "-q"]).success().contains("unused"), "{client}");
        let text = by(&engine, client, &["volume", "prune", "-fa"]).success();
        assert!(text.contains("unused") && !text.contains("\nused"), "{client}: {text}");
        assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "used", "{client}");
        let text = by(&engine, client, &["network", "prune", "-f"]).success();
        assert!(text.contains("unused"), "{client}: {text}");
        by(&engine, client, &["system", "prune", "-f"]).success();
        assert_eq!(engine.docker(["ps", "-a", "--format", "{{.Names}}"]).success(), "alive", "{client}");
        assert_eq!(engine.docker(["images", "-q", "tiny"]).success().lines().count(), 1, "{client}");
        engine.docker(["rm", "-f", "alive"]).success();
        engine.docker(["volume", "rm", "used"]).success();
    }
}
