//! Named secrets and configurations without a swarm: by docker's client and ours, in containers, and where they lie.

use berth_testkit::Engine;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const WORD: &str = "hunter2-of-the-test";

fn secret(engine: &Engine, name: &str) {
    engine.docker_with_input(["secret", "create", "--label", "for=test", name, "-"], WORD.as_bytes()).success();
}

/// Files below `folder` that hold the secret's content.
fn holders(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holders(&path, into),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(WORD.len()).any(|window| window == WORD.as_bytes()) {
                    into.push(path);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn both_clients_keep_list_and_remove_secrets() {
    let Some(engine) = Engine::start("secrets-clients") else { return };
    secret(&engine, "db");
    let made = engine.berth_with_input(["secret", "create", "other", "-"], b"x").success();
    assert_eq!(made.trim().len(), 25, "{made}");
    let format = ["secret", "ls", "--format", "{{.Name}} {{.Labels}}"];
    assert_eq!(engine.docker(format).success(), engine.berth(format).success());
    assert_eq!(engine.docker(["secret", "ls", "-q", "--filter", "name=oth"]).success(), made);
    let shown = engine.docker(["secret", "inspect", "db"]).success();
    assert_eq!(shown, engine.berth(["secret", "inspect", "db"]).success());
    assert!(shown.contains("\"for\": \"test\"") && !shown.contains("Data") && !shown.contains(WORD), "{shown}");
    let again = engine.docker_with_input(["secret", "create", "db", "-"], b"y").failure(1);
    assert!(again.contains("secret db already exists"), "{again}");
    let bad = engine.docker_with_input(["secret", "create", "no/good", "-"], b"y").failure(1);
    assert!(bad.contains("invalid secret name"), "{bad}");
    engine.docker(["secret", "rm", "db"]).success();
    engine.berth(["secret", "rm", "other"]).success();
    assert_eq!(engine.docker(["secret", "ls", "-q"]).success(), "");
    let gone = engine.api("GET", "/v1.51/secrets/db", "").expect(404).message();
    assert_eq!(gone, "secret db not found");
    engine.api("DELETE", "/v1.51/secrets/db", "").expect(404);
}

#[test]
fn labels_change_and_nothing_else() {
    let Some(engine) = Engine::start("secrets-update") else { return };
    secret(&engine, "db");
    let update =
        |version: u32, body: &str| engine.api("POST", &format!("/v1.51/secrets/db/update?version={version}"), body);
    update(1, r#"{"Name": "db", "Labels": {"a": "b"}}"#).expect(200);
    assert!(update(1, r#"{"Labels": {}}"#).expect(400).message().contains("update out of sequence"));
    assert!(update(2, r#"{"Data": "eA=="}"#).expect(400).message().contains("only updates to Labels"));
    let all = engine.api("GET", "/v1.51/secrets?filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D", "").expect(200).json();
    assert_eq!(all[0]["Spec"]["Labels"]["a"], "b");
    assert_eq!(all[0]["Version"]["Index"], 2);
    engine
        .api("POST", "/v1.51/secrets/create", r#"{"Name": "x", "Data": "eA==", "Driver": {"Name": "vault"}}"#)
        .expect(400);
}

#[test]
fn a_container_sees_a_copy_in_memory_and_the_disk_has_only_the_stores() {
    let Some(mut engine) = Engine::start("secrets-mount") else { return };
    secret(&engine, "db");
    let seen = "cat /run/secrets/db; echo; stat -c '%a %u:%g' /run/secrets/db; grep ' /run/secrets/db ' /proc/mounts";
    // docker's own client sends a type of mount that it does not know.
    let mount = "type=secret,source=db,target=/run/secrets/db";
    let text = engine.docker(["run", "--rm", "--mount", mount, "tiny", "sh", "-c", seen]).success();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], [WORD, "444 0:0"], "{text}");
    assert!(lines[2].contains("tmpfs") || lines[2].contains("ramfs"), "{text}");
    assert!(lines[2].contains("ro,") && lines[2].contains("nosuid"), "{text}");
    let own = "type=secret,src=db,dst=/etc/key,uid=7,gid=8,mode=400";
    let text = engine.berth(["run", "--rm", "--mount", own, "tiny", "stat", "-c", "%a %u:%g", "/etc/key"]).success();
    assert_eq!(text.trim(), "400 7:8");
    let denied = ["run", "--rm", "--user", "9", "--mount", own, "tiny", "cat", "/etc/key"];
    assert!(engine.berth(denied).failure(1).contains("ermission denied"));

    // Compose and others have labels.
    let label = "berth.secrets=db, db=/etc/again";
    engine.docker(["run", "-d", "--name", "box", "--label", label, "tiny", "sleep", "1000"]).success();
    let read = |path: &str| engine.docker(["exec", "box", "cat", path]).success();
    assert_eq!((read("/run/secrets/db").as_str(), read("/etc/again").as_str()), (WORD, WORD));
    let mounts = engine.inspect("box")["Mounts"].to_string();
    assert!(mounts.contains(r#""Type":"secret","Name":"db","Source":"""#), "{mounts}");
    let held = engine.docker(["secret", "rm", "db"]).failure(1);
    assert!(held.contains("secret 'db' is in use by: box"), "{held}");

    let mut found = Vec::new();
    holders(engine.root(), &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("data"), "{found:?}");
    let mode = std::fs::metadata(&found[0]).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    engine.restart_after_kill();
    engine.docker(["restart", "-t", "0", "box"]).success();
    assert_eq!(engine.docker(["exec", "box", "cat", "/run/secrets/db"]).success(), WORD);
    engine.docker(["rm", "-f", "box"]).success();
    engine.docker(["secret", "rm", "db"]).success();
    let missing = engine.docker(["run", "--rm", "--mount", mount, "tiny", "true"]).failure(125);
    assert!(missing.contains("secret db not found"), "{missing}");
}

#[test]
fn configurations_are_secrets_that_may_be_looked_at() {
    let Some(engine) = Engine::start("secrets-config") else { return };
    let file = engine.root().join("motd");
    std::fs::write(&file, "hello\n").expect("a file");
    engine.berth(["config", "create", "motd", file.to_str().expect("plain")]).success();
    assert!(engine.docker(["config", "inspect", "--pretty", "motd"]).success().contains("hello"));
    let text =
        engine.berth(["run", "--rm", "--mount", "type=config,src=motd,dst=/etc/motd", "tiny", "cat", "/etc/motd"]);
    assert_eq!(text.success().trim(), "hello");
    let body = r#"{"Labels": {"a": "b"}}"#;
    engine.api("POST", "/v1.51/configs/motd/update?version=1", body).expect(200);
    let shown = engine.api("GET", "/v1.51/configs/motd", "").expect(200).json();
    assert_eq!(shown["Spec"]["Data"], "aGVsbG8K");
    assert_eq!(engine.docker(["config", "ls", "--format", "{{.Name}}"]).success().trim(), "motd");
    engine.api("POST", "/v1.51/configs/create", r#"{"Name": "x", "Data": "!"}"#).expect(400);
    assert_eq!(engine.api("GET", "/v1.51/configs", "").expect(200).json()[0]["Spec"]["Name"], "motd");
    engine.api("DELETE", "/v1.51/configs/motd", "").expect(204);
}
