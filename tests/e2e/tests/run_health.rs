//! Health checks.

use berth_testkit::{Engine, wait_until};

fn status(engine: &Engine, name: &str) -> String {
    engine.inspect(name)["State"]["Health"]["Status"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_probe_decides_after_its_retries_and_takes_it_back() {
    let Some(engine) = Engine::start("health-verdict") else { return };
    let options = ["--health-cmd", "test -e /good || { echo not yet; exit 3; }", "--health-interval", "100ms"];
    let more = ["--health-retries", "2", "--name", "box", "tiny", "sleep", "1000"];
    engine.docker(["run", "-d"].iter().chain(&options).chain(&more)).success();
    assert_eq!(status(&engine, "box"), "starting");
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
    assert_eq!(status(&engine, "box"), "starting");
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
    let events = engine.docker_running(["events", "--filter", "event=health_status", "--format", "{{.Action}}"]);
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
