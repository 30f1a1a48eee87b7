//! Restart policies: at an end, after the engine's death, after a reboot.

use berth_testkit::{Engine, wait_until};

fn count(engine: &Engine, name: &str) -> u64 {
    engine.inspect(name)["RestartCount"].as_u64().expect("inspect shows it")
}

fn is(engine: &Engine, name: &str, status: &str) -> bool {
    engine.inspect(name)["State"]["Status"] == status
}

#[test]
fn each_policy_does_what_it_says() {
    let Some(engine) = Engine::start("restart-kinds") else { return };
    let run = |name: &str, policy: &str, script: &str| {
        engine.docker(["run", "-d", "--name", name, "--restart", policy, "tiny", "sh", "-c", script]).success();
    };
    run("no", "no", "exit 1");
    run("good", "on-failure", "exit 0");
    run("thrice", "on-failure:3", "exit 4");
    run("always", "always", "exit 0");
    run("unless", "unless-stopped", "exit 0");
    wait_until("on-failure:3 has had its tries", || count(&engine, "thrice") == 3 && is(&engine, "thrice", "exited"));
    assert_eq!(engine.inspect("thrice")["State"]["ExitCode"], 4);
    for name in ["always", "unless"] {
        // Until the pause between two runs is long enough for what is asked in it below.
        wait_until("it is restarted again and again", || count(&engine, name) >= 5);
    }
    assert_eq!((count(&engine, "no"), count(&engine, "good")), (0, 0));
    assert!(is(&engine, "no", "exited") && is(&engine, "good", "exited"));
    // A stop is the end, also between two runs; a wait that hung on them hears it.
    for name in ["always", "unless"] {
        let waiting = engine.docker_running(["wait", name]);
        wait_until("it is between two runs", || is(&engine, name, "restarting"));
        let refusal = engine.docker(["rm", name]).failure(1);
        assert!(refusal.contains("stop the container before removing or force remove"), "{refusal}");
        let refused = engine.docker(["exec", name, "true"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        engine.docker(["stop", name]).success();
        assert_eq!(waiting.wait().success(), "0");
        assert!(is(&engine, name, "exited"));
    }
    // A start by hand begins to count anew.
    engine.docker(["start", "thrice"]).success();
    wait_until("three more", || count(&engine, "thrice") == 3 && is(&engine, "thrice", "exited"));
}

#[test]
fn pauses_between_restarts_grow() {
    let Some(engine) = Engine::start("restart-pauses") else { return };
    let since = engine.api("GET", "/info", "").json()["SystemTime"].as_str().unwrap().to_owned();
    let run = ["run", "-d", "--name", "box", "--restart", "on-failure:4", "tiny", "false"];
    engine.docker(run).success();
    wait_until("it has had its tries", || count(&engine, "box") == 4 && is(&engine, "box", "exited"));
    let until = engine.api("GET", "/info", "").json()["SystemTime"].as_str().unwrap().to_owned();
    let moments = |what: &str| -> Vec<i64> {
        let events = ["events", "--since", &since, "--until", &until, "--filter", &format!("event={what}")];
        let text = engine.docker(events.iter().chain(&["--format", "{{.TimeNano}}"])).success();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let (starts, ends) = (moments("start"), moments("die"));
    assert_eq!((starts.len(), ends.len()), (5, 5));
    // Never less than the pause: 0.1, 0.2, 0.4, 0.8 s.
    for (index, pause) in [100, 200, 400, 800].into_iter().enumerate() {
        let waited = (starts[index + 1] - ends[index]) / 1_000_000;
        assert!(waited >= pause, "pause {index}: {waited} ms");
    }
}

#[test]
fn a_policy_goes_on_over_the_engines_death() {
    let Some(mut engine) = Engine::start("restart-engine") else { return };
    let (shared, volume) = engine.shared();
    let run = |engine: &Engine, name: &str, policy: &str, script: &str| {
        let run = ["run", "-d", "--name", name, "--restart", policy, "-v", &volume];
        engine.docker(run.iter().chain(&["tiny", "sh", "-c", script])).success();
    };
    let wait = "while [ ! -e /shared/go ]; do sleep 0.02; done; rm /shared/go; exit 3";
    run(&engine, "ends-meanwhile", "always", wait);
    run(&engine, "in-between", "on-failure", "echo run >> /runs; [ $(wc -l < /runs) -ge 5 ]");
    run(&engine, "stopped", "unless-stopped", "exec sleep 1000");
    run(&engine, "stopped-always", "always", "exec sleep 1000");
    run(&engine, "goes-on", "always", "exec sleep 1000");
    engine.docker(["stop", "-t", "0", "stopped", "stopped-always"]).success();
    wait_until("it is between two runs", || is(&engine, "in-between", "restarting"));
    let (going, ending) = (engine.pid_of("goes-on"), engine.pid_of("ends-meanwhile"));
    engine.kill();
    std::fs::write(shared.join("go"), "").unwrap();
    wait_until("it has ended without an engine", || !std::path::Path::new(&format!("/proc/{ending}")).exists());
    engine.launch();
    wait_until("restarted", || is(&engine, "ends-meanwhile", "running"));
    assert_eq!(count(&engine, "ends-meanwhile"), 1);
    wait_until("its restarts went on until it was content", || {
        is(&engine, "in-between", "exited") && engine.inspect("in-between")["State"]["ExitCode"] == 0
    });
    assert_eq!(count(&engine, "in-between"), 4);
    assert!(is(&engine, "stopped", "exited"), "unless-stopped leaves alone what was stopped");
    wait_until("always means always", || is(&engine, "stopped-always", "running"));
    assert_eq!(engine.pid_of("goes-on"), going);
    assert_eq!(count(&engine, "goes-on"), 0);
}

#[test]
fn after_a_reboot_those_that_are_to_run_run() {
    let Some(mut engine) = Engine::start("restart-reboot") else { return };
    for policy in ["no", "always", "unless-stopped", "on-failure"] {
        engine.docker(["run", "-d", "--name", policy, "--restart", policy, "tiny", "sleep", "1000"]).success();
    }
    engine.docker(["run", "-d", "--name", "stopped", "--restart", "unless-stopped", "tiny", "sleep", "1000"]).success();
    engine.docker(["stop", "-t", "0", "stopped"]).success();
    engine.docker(["run", "-d", "--rm", "--name", "brief", "tiny", "sleep", "1000"]).success();
    engine.docker(["create", "--name", "never", "--restart", "always", "tiny", "sleep", "1000"]).success();
    engine.docker([
        "run",
        "-d",
        "--name",
        "port",
        "--restart",
        "always",
        "-p",
        "127.0.0.1::80",
        "tiny",
        "sleep",
        "1000",
    ]);
    let published = engine.docker(["port", "port"]).success();
    engine.reboot();
    engine.launch();
    for policy in ["always", "unless-stopped", "on-failure", "port"] {
        wait_until(policy, || is(&engine, policy, "running"));
    }
    assert!(published.contains("127.0.0.1:"), "{published}");
    assert!(engine.docker(["port", "port"]).success().contains("127.0.0.1:"));
    assert_eq!(engine.docker(["exec", "always", "echo", "hi"]).success(), "hi");
    let lost = engine.inspect("no");
    assert_eq!((&lost["State"]["Status"], &lost["State"]["ExitCode"]), (&"exited".into(), &255.into()));
    let why = engine.berth(["why", "no"]).success();
    assert!(why.contains("shim") || why.contains("host"), "{why}");
    assert!(is(&engine, "stopped", "exited") && is(&engine, "never", "created"));
    wait_until("a --rm container does not outlive its run", || {
        engine.api("GET", "/containers/brief/json", "").status == 404
    });
}

#[test]
fn a_container_of_rm_that_is_restarted_keeps_its_files() {
    let Some(engine) = Engine::start("restart-rm") else { return };
    let script = "echo run >> /runs; sleep 1000";
    engine.docker(["run", "-d", "--rm", "--init", "--name", "brief", "tiny", "sh", "-c", script]).success();
    for runs in 1..=3 {
        wait_until("it has written", || {
            engine.docker(["exec", "brief", "wc", "-l", "/runs"]).stdout.starts_with(&runs.to_string())
        });
        // Its overlay is not synced at its end, which the kernel remembers.
        let root = engine.docker(["exec", "brief", "grep", " / overlay ", "/proc/mounts"]).success();
        assert_eq!(root.contains("volatile"), !berth_testkit::in_machines(), "{root}");
        engine.docker(["restart", "-t", "1", "brief"]).success();
    }
    engine.docker(["stop", "-t", "1", "brief"]).success();
    wait_until("it is gone", || engine.api("GET", "/containers/brief/json", "").status == 404);
}

#[test]
fn rm_and_policies_exclude_each_other() {
    let Some(engine) = Engine::start("restart-bad") else { return };
    let refusal = engine.docker(["create", "--rm", "--restart", "always", "tiny"]);
    assert_ne!(refusal.code, 0);
    let body = r#"{"Image": "tiny", "HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}}"#;
    assert_eq!(engine.api("POST", "/containers/create", body).status, 400);
    for (policy, retries) in [("sometimes", 0), ("always", 3), ("on-failure", -1), ("", 3)] {
        let body = format!(
            r#"{{"Image": "tiny", "HostConfig": {{"RestartPolicy": {{"Name": "{policy}", "MaximumRetryCount": {retries}}}}}}}"#
        );
        let refusal = engine.api("POST", "/containers/create", &body);
        assert_eq!(refusal.status, 400, "{policy}:{retries}: {}", refusal.text());
    }
    engine.docker(["create", "--rm", "--name", "brief", "tiny"]).success();
    let refusal = engine.docker(["update", "--restart", "always", "brief"]).failure(1);
    assert!(refusal.contains("AutoRemove"), "{refusal}");
    // A policy that is set later counts from then on, and one taken away ends it.
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", "sleep 0.2; exit 1"]).success();
    engine.docker(["update", "--restart", "always", "box"]).success();
    wait_until("restarted", || count(&engine, "box") >= 2);
    engine.docker(["update", "--restart", "no", "box"]).success();
    wait_until("it is over", || is(&engine, "box", "exited"));
}

/// With the labels that Compose writes.
#[test]
fn after_a_reboot_a_project_comes_back_in_its_order() {
    let Some(mut engine) = Engine::start("restart-order") else { return };
    let project = "com.docker.compose.project=shop";
    let run = |name: &str, labels: &[&str], rest: &[&str]| {
        let mut words = vec!["run", "-d", "--name", name, "--restart", "always", "--label", project];
        labels.iter().for_each(|label| words.extend(["--label", label]));
        words.extend(rest);
        engine.docker(words).success();
    };
    let depends = "com.docker.compose.depends_on=db:service_healthy:true,gone:service_started:false";
    run("web", &["com.docker.compose.service=web", depends], &["tiny", "sleep", "1000"]);
    // Labels that turn in a circle do not stop anybody.
    let circle = "com.docker.compose.depends_on=odd:service_healthy:true";
    run("odd", &["com.docker.compose.service=odd", circle], &["tiny", "sleep", "1000"]);
    let health = ["--health-cmd", "test -e /t/ready", "--health-interval", "100ms", "--tmpfs", "/t", "tiny"];
    let slow = ["sh", "-c", "sleep 1; touch /t/ready; sleep 1000"];
    run("db", &["com.docker.compose.service=db"], &[&health[..], &slow[..]].concat());
    engine.reboot();
    engine.launch();
    for name in ["odd", "db", "web"] {
        wait_until(name, || is(&engine, name, "running"));
    }
    let db = engine.inspect("db")["State"]["Health"].clone();
    assert_eq!(db["Status"], "healthy");
    let well = db["Log"].as_array().into_iter().flatten().find(|probe| probe["ExitCode"] == 0).cloned();
    let well = well.expect("a good probe")["Start"].as_str().expect("a time").to_owned();
    let started = engine.inspect("web")["State"]["StartedAt"].as_str().expect("a time").to_owned();
    // Both in UTC and RFC 3339 with nine digits: their order is that of their texts.
    assert!(well < started, "healthy at {well}, web started at {started}");
}
