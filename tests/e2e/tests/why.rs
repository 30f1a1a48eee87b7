//! `berth why`: injected failures and their causes.

use berth_testkit::Engine;

fn why(engine: &Engine, name: &str) -> String {
    engine.berth(["why", name]).success()
}

#[track_caller]
fn says(engine: &Engine, name: &str, words: &[&str]) {
    let text = why(engine, name);
    for word in words {
        assert!(text.contains(word), "{name}: {word:?} is not in:\n{text}");
    }
}

#[test]
fn ends_have_their_reasons() {
    let Some(engine) = Engine::start("why-ends") else { return };
    engine.docker(["run", "--name", "fine", "tiny", "true"]).success();
    says(&engine, "fine", &["its work done (code 0)"]);

    engine.docker(["run", "--name", "failed", "tiny", "sh", "-c", "echo FATAL >&2; exit 3"]).failure(3);
    says(&engine, "failed", &["ended by itself with code 3", "FATAL", "berth logs failed"]);

    engine.docker(["run", "--name", "crashed", "tiny", "sh", "-c", "kill -SEGV $$"]);
    let text = why(&engine, "crashed");
    // The first process of a pid namespace is shielded from its own signals; it then ends by itself.
    assert!(text.contains("SIGSEGV") || text.contains("ended by itself"), "{text}");

    engine.docker(["run", "-d", "--name", "stopped", "--init", "tiny", "sleep", "1000"]).success();
    engine.docker(["stop", "stopped"]).success();
    says(&engine, "stopped", &["SIGTERM", "as asked"]);

    engine.docker(["run", "-d", "--name", "killed", "tiny", "sleep", "1000"]).success();
    engine.docker(["kill", "killed"]).success();
    engine.docker(["wait", "killed"]).success();
    says(&engine, "killed", &["SIGKILL", "as asked"]);

    engine.docker(["run", "-d", "--name", "stranger", "tiny", "sleep", "1000"]).success();
    let pid = engine.docker(["inspect", "-f", "{{.State.Pid}}", "stranger"]).success();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    engine.docker(["wait", "stranger"]).success();
    says(&engine, "stranger", &["SIGKILL", "from outside of this engine"]);

    engine.docker(["run", "--name", "oom", "-m", "16m", "tiny", "sh", "-c", "x=a; while true; do x=$x$x; done"]);
    says(&engine, "oom", &["out of memory", "16 MiB", "berth update --memory 32m"]);

    engine.docker(["run", "-d", "--name", "alive", "tiny", "sleep", "1000"]).success();
    says(&engine, "alive", &["runs since"]);
    engine.docker(["pause", "alive"]).success();
    says(&engine, "alive", &["paused", "berth unpause alive"]);
    engine.docker(["create", "--name", "made", "tiny"]).success();
    says(&engine, "made", &["never started", "berth start made"]);
}

#[test]
fn programs_that_do_not_start_have_their_reasons() {
    let Some(engine) = Engine::start("why-starts") else { return };
    let put = |name: &str, content: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = engine.root().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    // A program of another machine: this one's busybox with another number in its header.
    let mut foreign = std::fs::read("/bin/busybox").unwrap();
    foreign[18] = if foreign[18] == 183 { 62 } else { 183 };
    let cases: [(&str, &[u8], u32, &[&str]); 6] = [
        ("script", b"echo hello\n", 0o755, &["#!/bin/sh"]),
        ("windows", b"#!/bin/sh\r\necho\r\n", 0o755, &["Windows line endings"]),
        ("interpreter", b"#!/usr/bin/perl\n", 0o755, &["interpreter", "/usr/bin/perl"]),
        ("plain", b"#!/bin/sh\n", 0o644, &["not executable", "chmod +x"]),
        ("empty", b"", 0o755, &["empty file"]),
        ("foreign", &foreign, 0o755, &["another processor"]),
    ];
    for (name, content, mode, words) in cases {
        let path = put(name, content, mode);
        engine.docker(["create", "--name", name, "tiny", "/program"]).success();
        engine.docker(["cp", path.to_str().unwrap(), &format!("{name}:/program")]).success();
        assert_ne!(engine.docker(["start", "-a", name]).code, 0, "{name}");
        says(&engine, name, words);
    }
    assert_ne!(engine.docker(["run", "--name", "missing", "tiny", "nope"]).code, 0);
    says(&engine, "missing", &["\"nope\" is not in the image's PATH"]);
    assert_ne!(engine.docker(["run", "--name", "user", "-u", "nobodyhere", "tiny", "true"]).code, 0);
    says(&engine, "user", &["not in the image", "--user"]);
}
