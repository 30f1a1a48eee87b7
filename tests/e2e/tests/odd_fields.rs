//! Fields that few clients send: honoured or refused, never ignored. What the body of `create` has is in `create_fields.rs`.

use berth_testkit::Engine;

/// Method, address, body, status, and words of the refusal.
const REFUSED: [(&str, &str, &str, u16, &str); 23] = [
    ("POST", "/containers/box/restart?signal=NOPE", "", 400, "invalid signal: NOPE"),
    ("POST", "/containers/box/stop?signal=NOPE", "", 400, "invalid signal: NOPE"),
    ("POST", "/containers/box/wait?condition=nope", "", 400, "invalid condition"),
    ("GET", "/containers/box/top?ps_args=nope", "", 400, "ps: error: "),
    ("GET", "/containers/box/top?ps_args=-o%20comm", "", 400, "Couldn't find PID field"),
    ("GET", "/containers/box/archive?path=a%00b", "", 400, "has a NUL character in it"),
    ("POST", "/containers/box/attach?detachKeys=nope&logs=1&stdout=1", "", 400, "Invalid escape keys (nope)"),
    ("POST", "/containers/box/exec", r#"{"Cmd":["true"],"DetachKeys":"nope"}"#, 400, "Invalid escape keys (nope)"),
    ("POST", "/containers/box/update", r#"{"Devices":[{"PathOnHost":"/dev/null"}]}"#, 400, "cannot be updated"),
    ("POST", "/networks/create", r#"{"Name":"a","ConfigFrom":{"Network":"b"}}"#, 404, "configuration network \"b\""),
    ("POST", "/networks/create", r#"{"Name":"a","Scope":"swarm"}"#, 403, "swarm is not active"),
    ("POST", "/networks/create", r#"{"Name":"a","Scope":"moon"}"#, 501, "networks wider than this host"),
    ("GET", "/networks/bridge?scope=swarm", "", 404, "network bridge not found"),
    ("GET", "/networks/bridge?verbose=nope", "", 400, "invalid value for verbose: nope"),
    (
        "POST",
        "/volumes/create",
        r#"{"Name":"a","ClusterVolumeSpec":{"Group":"x"}}"#,
        400,
        "cluster volumes need a swarm",
    ),
    (
        "POST",
        "/images/create?fromImage=nobody.invalid/x&platform=nope",
        "",
        400,
        "unknown operating system or architecture",
    ),
    ("POST", "/images/tiny/push?platform=linux/s390x", "", 404, "does not match the specified platform"),
    ("DELETE", "/images/tiny?platforms=linux/s390x", "", 404, "does not match the specified platform"),
    ("POST", "/build/prune?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", "", 400, "invalid filter 'nope'"),
    ("POST", "/build/prune?min-free-space=1", "", 501, "a prune until so much is free"),
    ("POST", "/build?version=3", "", 400, "invalid version \"3\""),
    ("GET", "/system/df?type=nope", "", 400, "nope"),
    ("GET", "/events?since=1&until=2&filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", "", 400, "invalid filter 'nope'"),
];

#[test]
fn what_cannot_be_honoured_is_refused_and_changes_nothing() {
    let Some(engine) = Engine::start("odd-fields") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    let pid = engine.pid_of("box");
    for (method, path, body, status, words) in REFUSED {
        let answer = engine.api(method, &format!("/v1.51{path}"), body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.message().contains(words), "{method} {path}: {}", answer.message());
    }
    assert_eq!(engine.pid_of("box"), pid);
    assert_eq!(engine.docker(["network", "ls", "-q", "--filter", "type=custom"]).success(), "");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "");
    // A build's, with a context that is one.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM tiny\n").unwrap();
    let archive = std::process::Command::new("tar").arg("-C").arg(folder.path()).args(["-c", "."]).output().unwrap();
    let headers = [("Content-Type", "application/x-tar")];
    for (option, status, words) in [
        ("isolation=nope", 400, "unsupported isolation"),
        ("outputs=%5B%7B%7D%5D", 501, "outputs"),
        ("squash=1", 501, "squash"),
    ] {
        let path = format!("/v1.51/build?{option}");
        let answer = engine.exchange("POST", &path, &headers, &archive.stdout).finish().expect("an answer");
        assert_eq!(answer.status, status, "{option}: {}", answer.text());
        assert!(answer.message().contains(words), "{option}: {}", answer.message());
    }
}
