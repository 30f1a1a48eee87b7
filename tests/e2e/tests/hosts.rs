//! Several hosts behind one engine: joined by OpenSSH itself, driven by the command line and by the API, away and back.

use berth_testkit::{Engine, Sshd, wait_until};
use std::path::Path;

const CONSOLE: [&str; 2] = ["--console", "127.0.0.1:0"];
/// More than any host that tests run on has.
const MUCH: &str = "4096g";

/// Two engines, the first of which knows the second as `other`.
fn two(name: &str) -> Option<(Engine, Engine, Sshd)> {
    let mut here = Engine::start_with(&format!("{name}-here"), &CONSOLE)?;
    let there = Engine::start_with(&format!("{name}-there"), &CONSOLE)?;
    let sshd = Sshd::start(&here.root().join("sshd"), &there)?;
    here.restart_with_variable("BERTH_SSH", sshd.client());
    Some((here, there, sshd))
}

fn listed(here: &Engine) -> String {
    here.berth(["host", "ls"]).success()
}

/// What `host ls` says of one.
fn state(here: &Engine, host: &str) -> serde_json::Value {
    let all = here.api("GET", "/api/v1/hosts", "").expect(200).json();
    let found = all.as_array().expect("a list").iter().find(|one| one["name"] == host).cloned();
    found.unwrap_or_else(|| panic!("no host {host}: {all}"))
}

#[test]
fn another_host_is_driven_through_ssh_with_every_command() {
    let Some((here, there, _sshd)) = two("hosts") else { return };
    assert_eq!(here.berth(["host", "add", "other", "ssh://other"]).success(), "other");
    assert!(regex::Regex::new(r"(?m)^other\s+up\s+0/0 ").unwrap().is_match(&listed(&here)), "{}", listed(&here));
    let twice = here.berth(["host", "add", "other", "ssh://other"]).failure(1);
    assert!(twice.contains("there is a host other already"), "{twice}");

    // Containers, with their streams.
    assert_eq!(here.berth(["--host", "other", "run", "--rm", "tiny", "echo", "from afar"]).success(), "from afar");
    let piped = here.berth_with_input(["--host", "other", "run", "-i", "--rm", "tiny", "cat"], b"through two engines");
    assert_eq!(piped.success(), "through two engines");
    here.berth(["--host", "other", "run", "-d", "--name", "far", "tiny", "sleep", "100000"]).success();
    assert_eq!(there.status_of("far"), "running");
    assert_eq!(here.berth(["--host", "other", "exec", "far", "hostname"]).success().len(), 12);
    assert_eq!(here.berth(["ps", "-q"]).success(), "", "it is there, not here");
    let missing = here.berth(["--host", "nowhere", "ps"]).failure(1);
    assert!(missing.contains("there is no host nowhere"), "{missing}");

    // Machines.
    if Path::new("/usr/bin/qemu-system-x86_64").exists() {
        let create = ["--host", "other", "vm", "create", "--disk", "size=8M", "-m", "64m", "--start", "box"];
        here.berth(create).success();
        assert!(here.berth(["--host", "other", "vm", "ls"]).success().contains("box"));
        assert_eq!(there.api("GET", "/api/v1/machines/box", "").expect(200).json()["state"], "running");
        wait_until("the machine is counted", || state(&here, "other")["about"]["machines"] == 1);
        here.berth(["--host", "other", "vm", "rm", "-f", "box"]).success();
    }

    // The API: a call as it is there, an answer as it is there; the other engine knows who asked.
    let instances = here.api("GET", "/api/v1/hosts/other/api/instances", "").expect(200).json();
    assert_eq!(instances[0]["name"], "far");
    let wish = r#"{"name": "wished", "image": "tiny", "command": ["sleep", "100000"], "start": true}"#;
    here.api("POST", "/api/v1/hosts/other/api/instances", wish).expect(200);
    assert_eq!(there.status_of("wished"), "running");
    let refused = here.api("POST", "/api/v1/hosts/other/api/instances", r#"{"image": "nothing"}"#).expect(404);
    assert!(refused.message().contains("nothing"), "{}", refused.text());
    for own in ["/api/v1/hosts/other/api/hosts/x/api/instances", "/api/v1/hosts/other/api/dial"] {
        here.api("POST", own, "{}").expect(400);
    }
    let audit = there.api("GET", "/api/v1/audit?search=instance.create", "").expect(200).json();
    assert_eq!((&audit[0]["who"], &audit[0]["outcome"]), (&"root through root".into(), &"404 Not Found".into()));
    assert_eq!(audit[1]["outcome"], "ok");
    here.berth(["host", "rm", "other"]).success();
    assert!(!listed(&here).contains("other"));
    here.berth(["--host", "other", "ps"]).failure(1);
    assert_eq!(there.status_of("far"), "running", "a host that is forgotten goes on");
}

#[test]
fn what_is_new_goes_where_most_room_is() {
    let Some((here, there, _sshd)) = two("room") else { return };
    here.berth(["host", "add", "other", "ssh://other"]).success();
    let place = || here.api("GET", "/api/v1/hosts/place", "").expect(200).json()["host"].clone();
    // Both are on one host here: only what is promised tells them apart.
    here.berth(["create", "--name", "greedy", "-m", MUCH, "tiny", "sleep", "100000"]).success();
    assert_eq!(place(), "other");
    here.berth(["--host", "most-room", "run", "-d", "--name", "placed", "tiny", "sleep", "100000"]).success();
    assert_eq!(there.status_of("placed"), "running");
    here.berth(["rm", "-f", "greedy"]).success();
    there.berth(["run", "-d", "--name", "greedy", "-m", MUCH, "tiny", "sleep", "100000"]).success();
    assert_eq!(place(), "here");
    here.berth(["--host", "most-room", "run", "-d", "--name", "at-home", "tiny", "sleep", "100000"]).success();
    assert_eq!(here.status_of("at-home"), "running");
    // One that has ended promises nothing.
    there.berth(["kill", "greedy"]).success();
    here.berth(["create", "--name", "greedy", "-m", MUCH, "tiny"]).success();
    wait_until("its promise is over", || place() == "other");
}

#[test]
fn a_host_that_is_away_is_shown_so_and_nothing_hangs() {
    let Some((here, mut there, mut sshd)) = two("away") else { return };
    here.berth(["host", "add", "other", "ssh://other"]).success();
    here.berth(["--host", "other", "run", "-d", "--name", "far", "tiny", "sleep", "100000"]).success();
    let calls = || here.api("GET", "/api/v1/hosts/other/api/instances", "");
    calls().expect(200);
    wait_until("it is counted", || state(&here, "other")["about"]["running"] == 1);

    // The engine there is gone: ssh's far end says so.
    there.kill();
    let error = calls().expect(503);
    assert!(error.message().contains("host other does not answer"), "{}", error.text());
    wait_until("it is away", || state(&here, "other")["state"] == "away");
    let why = state(&here, "other")["error"].to_string();
    assert!(why.contains("berth.sock") || why.contains("engine"), "{why}");
    assert_eq!(state(&here, "other")["about"]["instances"], 1, "what it last said is kept");
    assert!(listed(&here).contains("away"), "{}", listed(&here));
    let refused = here.berth(["--host", "other", "ps"]).failure(1);
    assert!(refused.contains("host other does not answer"), "{refused}");
    assert_eq!(here.api("GET", "/api/v1/hosts/place", "").expect(200).json()["host"], "here");
    here.berth(["--host", "most-room", "run", "--rm", "tiny", "true"]).success();
    there.launch();
    wait_until("it is back", || state(&here, "other")["state"] == "up");
    assert_eq!(calls().expect(200).json()[0]["state"], "running", "its instances ran on");

    // Nobody listens for ssh, then nobody is let in: ssh's own words.
    sshd.stop();
    there.kill();
    there.launch();
    wait_until("ssh is refused", || state(&here, "other")["error"].to_string().contains("refused"));
    sshd.forget_keys();
    sshd.launch();
    wait_until("the key is refused", || state(&here, "other")["error"].to_string().contains("Permission denied"));

    // One that answers nothing at all: a listener that never speaks.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("https://{}", silent.local_addr().expect("bound"));
    let body = format!(r#"{{"name": "silent", "address": "{address}", "fingerprint": "AB", "token": "x"}}"#);
    here.api("POST", "/api/v1/hosts", &body).expect(200);
    assert_eq!(state(&here, "silent")["state"], "away");
    let error = here.api("GET", "/api/v1/hosts/silent/api/instances", "").expect(503);
    assert!(error.message().contains("host silent does not answer"), "{}", error.text());
    for bad in ["ftp://x", "https://x", "ssh://-oProxyCommand=true", "ssh://a b", ""] {
        let body = serde_json::json!({"name": "bad", "address": bad}).to_string();
        here.api("POST", "/api/v1/hosts", &body).expect(400);
    }
}
