//! Health checks.

use berth_testkit::{Engine, in_machines, wait_until};

fn status(engine: &Engine, name: &str) -> String {
    engine.inspect(name)["State"]["Health"]["Status"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_probe_decides_after_its_retries_and_takes_it_back() {
    let Some(engine) = Engine::start("health-verdict") else { return };
    let options = ["--health-cmd", "test -e /good || { echo not yet; exit 3; }", "--health-interval", "100ms"];
    let more = ["--health-retries", "2", "--name", "box", "tiny", "sleep", "1000"];
    engine.docker(["run", "-d"].iter().chain(&options).chain(&more)).success();
    // Where machines are emulated both probes may be over when this client is back.
    assert!(in_machines() || status(&engine, "box") == "starting");
    wait_until("unhealthy", || status(&engine, "box") == "unhealthy");
    let health = engine.inspect("box")["State"]["Health"].clone();
    assert!(health["FailingStreak"].as_u64().unwrap() >= 2, "{health}");
    let last = health["Log"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["ExitCode"], &last["Output"]), (&3.into(), &"not yet\n".into()));
    assert!(engine.docker(["ps"]).stdout.contains("(unhealthy)"));
    let why = engine.berth(["why", "box"]).success();
    assert!(why.contains("health probe fails") && why.contains("not yet"), "{why}");
    engine.docker(["exec", "box", "touch", "/good"]).success();
    wait_until("healthy", || status(&engine, "box") == "healthy");
    assert_eq!(engine.inspect("box")["State"]["Health"]["FailingStreak"], 0);
    assert_eq!(engine.docker(["ps", "-q", "--filter", "health=healthy"]).success().lines().count(), 1);
    assert_eq!(engine.docker(["ps", "-q", "--filter", "health=unhealthy"]).success(), "");
    wait_until("at most five results are kept", || {
        engine.inspect("box")["State"]["Health"]["Log"].as_array().unwrap().len() == 5
    });
    // A new run begins anew.
    engine.docker(["restart", "-t", "0", "box"]).success();
    assert!(in_machines() || status(&engine, "box") == "starting");
}

#[test]
fn a_probe_that_hangs_is_ended_by_its_timeout() {
    let Some(engine) = Engine::start("health-timeout") else { return };
    let options = ["--health-cmd", "sleep 600", "--health-interval", "100ms", "--health-timeout", "200ms"];
    let more = ["--health-retries", "1", "--name", "box", "tiny", "sleep", "1000"];
    engine.docker(["run", "-d"].iter().chain(&options).chain(&more)).success();
    wait_until("unhealthy", || status(&engine, "box") == "unhealthy");
    let log = engine.inspect("box")["State"]["Health"]["Log"][0].clone();
    assert_eq!(log["ExitCode"], -1);
    assert!(log["Output"].as_str().unwrap().contains("exceeded timeout"), "{log}");
    // Stopping does not wait for a probe.
    engine.docker(["stop", "-t", "0", "box"]).success();
    assert_eq!(engine.inspect("box")["State"]["Running"], false);
}

#[test]
fn the_start_period_forgives() {
    let Some(engine) = Engine::start("health-start") else { return };
    let options = ["--health-cmd", "test -e /good", "--health-interval", "50ms", "--health-retries", "1"];
    let more = ["--health-start-period", "1h", "--health-start-interval", "50ms", "--name", "box", "tiny"];
    engine.docker(["run", "-d"].iter().chain(&options).chain(&more).chain(&["sleep", "1000"])).success();
    wait_until("three probes failed", || {
        engine.inspect("box")["State"]["Health"]["Log"].as_array().is_some_and(|log| log.len() >= 3)
    });
    assert_eq!(status(&engine, "box"), "starting");
    engine.docker(["exec", "box", "touch", "/good"]).success();
    wait_until("healthy", || status(&engine, "box") == "healthy");
    engine.docker(["exec", "box", "rm", "/good"]).success();
    wait_until("from the first success on failures count", || status(&engine, "box") == "unhealthy");
}

#[test]
fn a_probe_survives_the_engine_and_tells_events() {
    let Some(mut engine) = Engine::start("health-engine") else { return };
    let options = ["--health-cmd", "test -e /good", "--health-interval", "100ms", "--health-retries", "1"];
    engine.docker(["run", "-d"].iter().chain(&options).chain(&["--name", "box", "tiny", "sleep", "1000"])).success();
    let told = ["events", "--since", "1h", "--filter", "event=health_status", "--format", "{{.Action}}"];
    let events = engine.docker_running(told);
    wait_until("unhealthy", || status(&engine, "box") == "unhealthy");
    events.wait_for("health_status: unhealthy");
    engine.restart_after_kill();
    assert_eq!(status(&engine, "box"), "unhealthy");
    let events = engine.docker_running(["events", "--filter", "event=health_status", "--format", "{{.Action}}"]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    engine.docker(["exec", "box", "touch", "/good"]).success();
    wait_until("healthy", || status(&engine, "box") == "healthy");
    events.wait_for("health_status: healthy");
}

#[test]
fn a_probe_that_is_under_way_when_its_check_goes_holds_up_no_end() {
    let Some(engine) = Engine::start("health-under-way") else { return };
    for (name, change) in [("none", ["--no-healthcheck"].as_slice()), ("other", &["--health-retries", "7"])] {
        let check = ["--health-cmd", "touch /probed; sleep 1000", "--health-interval", "50ms"];
        engine.docker(["run", "-d"].iter().chain(&check).chain(&["--name", name, "tiny", "sleep", "1000"])).success();
        wait_until("a probe is under way", || engine.docker(["exec", name, "test", "-e", "/probed"]).code == 0);
        engine.berth(["update"].iter().chain(change).chain(&[name])).success();
        engine.docker(["kill", name]).success();
        wait_until("it has ended", || engine.status_of(name) == "exited");
    }
}

#[test]
fn none_and_nonsense() {
    let Some(engine) = Engine::start("health-bad") else { return };
    engine.docker(["run", "-d", "--name", "none", "--no-healthcheck", "tiny", "sleep", "1000"]).success();
    assert_eq!(engine.inspect("none")["State"]["Health"], serde_json::Value::Null);
    for (check, words) in [
        (r#"{"Test": ["CMD", "true"], "Interval": 5}"#, "Interval in Healthcheck cannot be less than 1ms"),
        (r#"{"Test": ["CMD", "true"], "Retries": -1}"#, "Retries in Healthcheck cannot be negative"),
        (r#"{"Test": ["NOPE", "true"]}"#, ""),
        (r#"{"Test": 5}"#, "cannot unmarshal"),
    ] {
        let refusal =
            engine.api("POST", "/containers/create", &format!(r#"{{"Image": "tiny", "Healthcheck": {check}}}"#));
        assert!(refusal.status == 400 && refusal.message().contains(words), "{check}: {}", refusal.text());
    }
}

/// A container with a health check that fails once `/t/bad` is there, which a new run does not have.
///
/// One that somebody has put at `/shared/bad` goes with the run that fails of it.
fn fragile(engine: &Engine, action: &str, name: &str) {
    let label = format!("berth.health.on-failure={action}");
    let (_, volume) = engine.shared();
    let check = "if [ -e /shared/bad ]; then mv /shared/bad /t/; fi; test ! -e /t/bad";
    let options = ["--label", &label, "--tmpfs", "/t", "-v", &volume, "--restart", "always", "--health-cmd", check];
    let more = ["--health-interval", "100ms", "--health-retries", "2", "--name", name, "tiny"];
    let command = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"];
    engine.docker(["run", "-d"].iter().chain(&options).chain(&more).chain(&command)).success();
    wait_until("healthy", || status(engine, name) == "healthy");
}

#[test]
fn what_follows_when_it_is_unwell_is_its_labels_to_say() {
    let Some(mut engine) = Engine::start("health-action") else { return };
    let started = |engine: &Engine, name: &str| engine.inspect(name)["State"]["StartedAt"].clone();
    for (action, restarts) in [("restart", 0), ("kill", 1)] {
        fragile(&engine, action, action);
        let before = started(&engine, action);
        engine.docker(["exec", action, "touch", "/t/bad"]).success();
        wait_until("a new run", || started(&engine, action) != before && status(&engine, action) == "healthy");
        assert_eq!(engine.inspect(action)["RestartCount"], restarts, "{action}");
    }
    fragile(&engine, "stop", "stop");
    engine.docker(["exec", "stop", "touch", "/t/bad"]).success();
    wait_until("stopped, whatever its policy", || engine.inspect("stop")["State"]["Status"] == "exited");
    fragile(&engine, "none", "none");
    engine.docker(["exec", "none", "touch", "/t/bad"]).success();
    wait_until("unhealthy", || status(&engine, "none") == "unhealthy");
    assert_eq!(engine.inspect("none")["State"]["Running"], true);
    // What became unwell while no engine was there is not forgotten.
    let before = started(&engine, "restart");
    let (shared, _) = engine.shared();
    engine.docker(["rm", "-f", "kill", "none"]).success();
    engine.kill();
    std::fs::write(shared.join("bad"), "").expect("a file for the container");
    wait_until("a probe has found it", || !shared.join("bad").exists());
    // Long enough for another probe.
    std::thread::sleep(berth_testkit::deadline() / 50);
    engine.launch();
    wait_until("a new run", || started(&engine, "restart") != before && status(&engine, "restart") == "healthy");
    let refused = engine.docker(["create", "--label", "berth.health.on-failure=panic", "tiny"]).failure(1);
    assert!(refused.contains("none, kill, restart and stop are possible"), "{refused}");
}

#[test]
fn a_check_and_a_log_change_while_it_runs() {
    let Some(engine) = Engine::start("health-update") else { return };
    let line = "while :; do echo 0123456789012345678901234567890123456789; sleep 0.01; done";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", line]).success();
    let refused = engine.berth(["update", "--health-interval", "1s", "box"]).failure(1);
    assert!(refused.contains("has no health check whose times could change"), "{refused}");
    engine.berth(["update", "--health-cmd", "test -e /good", "--health-interval", "100ms", "box"]).success();
    wait_until("probed", || engine.inspect("box")["State"]["Health"]["FailingStreak"].as_u64() >= Some(1));
    engine.berth(["exec", "box", "touch", "/good"]).success();
    wait_until("healthy", || status(&engine, "box") == "healthy");
    engine.berth(["update", "--health-retries", "7", "box"]).success();
    let check = engine.inspect("box")["Config"]["Healthcheck"].clone();
    assert_eq!((&check["Retries"], &check["Interval"]), (&7.into(), &100_000_000.into()), "the rest stays: {check}");
    engine.berth(["update", "--no-healthcheck", "box"]).success();
    assert!(engine.inspect("box")["State"].get("Health").is_none_or(serde_json::Value::is_null));

    let refused = engine.berth(["update", "--log-opt", "colour=red", "box"]).failure(1);
    assert!(refused.contains("unknown log opt 'colour'"), "{refused}");
    engine.berth(["update", "--log-opt", "max-size=1k", "--log-opt", "max-file=2", "box"]).success();
    let seen = engine.inspect("box");
    assert_eq!(seen["HostConfig"]["LogConfig"]["Config"]["max-size"], "1k");
    let older = format!("{}.1", seen["LogPath"].as_str().expect("a path"));
    wait_until("the log is rotated", || std::path::Path::new(&older).exists());
    // Two files of nine lines each, and one goes every tenth of a second: between two looks at them both may have gone.
    wait_until("three lines", || engine.berth(["logs", "--tail", "3", "box"]).success().lines().count() == 3);
    engine.docker(["restart", "-t", "0", "box"]).success();
    assert_eq!(engine.inspect("box")["HostConfig"]["LogConfig"]["Config"]["max-file"], "2");
}
