//! Bodies that no client sends: damaged, of wrong types, absurd, huge. Each is refused with a status of 4xx and words,
//! and the engine that refused it lives on. (What dockerd itself answers to bad requests is compared in `api_answers`.)

use berth_testkit::{Engine, Response};
use serde_json::{Value, json};
use std::time::Duration;

const FIELDS: &str = include_str!("../data/api/create_fields.txt");
const PATIENCE: Duration = Duration::from_secs(20);

/// Endpoints that read a JSON object. `box` runs, `data` is a volume, `sea` a network; `{exec}` an exec of `box`.
const JSON: [&str; 12] = [
    "/containers/create?name=made",
    "/containers/box/update",
    "/containers/box/exec",
    "/exec/{exec}/start",
    "/commit?container=box&repo=made",
    "/networks/create",
    "/networks/sea/connect",
    "/networks/sea/disconnect",
    "/volumes/create",
    "/auth",
    "/api/v1/images/bootstrap",
    "/api/v1/containers/box/clone",
];
/// Endpoints that read an archive or a stream.
const ARCHIVES: [&str; 4] =
    ["/images/load", "/images/create?fromSrc=-&repo=made", "/build?t=made", "/api/v1/images/receive"];

fn scene(name: &str) -> Option<(Engine, String)> {
    let engine = Engine::start(name)?;
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    engine.docker(["volume", "create", "data"]).success();
    engine.docker(["network", "create", "sea"]).success();
    let exec = engine.api("POST", "/containers/box/exec", r#"{"Cmd": ["true"]}"#).expect(201).json();
    let exec = exec["Id"].as_str().expect("an id").to_owned();
    Some((engine, exec))
}

fn post(engine: &Engine, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Response> {
    let begun = berth_testkit::Exchange::begin(&engine.socket(), "POST", path, headers, body, PATIENCE);
    begun.and_then(berth_testkit::Exchange::finish)
}

/// Why an answer is none that a person could work with.
fn fault(response: Option<&Response>) -> Option<String> {
    let Some(response) = response else { return Some("no answer".to_owned()) };
    let message = response.message();
    let words = message.split_whitespace().count();
    let internals = ["panicked", "unwrap", "src/", "RustError", "Error {", "Some("];
    match response.status {
        400..=499 if words < 2 => Some(format!("{} without words: {}", response.status, response.text())),
        400..=499 if internals.iter().any(|word| message.contains(word)) => {
            Some(format!("{} in a programmer's words: {message}", response.status))
        }
        400..=499 => None,
        status => Some(format!("{status}: {}", response.text())),
    }
}

#[test]
fn damaged_json_is_refused_by_every_endpoint_that_reads_it() {
    let Some((engine, exec)) = scene("bad-json") else { return };
    let pid = engine.pid();
    let deep = "[".repeat(200_000);
    let deep_objects = r#"{"a":"#.repeat(50_000);
    let bodies: [(&str, &[u8]); 12] = [
        ("cut off", b"{\"Image\": \"tiny\""),
        ("no JSON", b"nonsense"),
        ("a list", b"[]"),
        ("a text", b"\"text\""),
        ("a number", b"5"),
        ("two objects", b"{} {}"),
        ("trailing words", b"{} and more"),
        ("not UTF-8", b"{\"Image\": \"\xff\xfe\"}"),
        ("a zero byte", b"{\"Image\": \"\0\"}"),
        ("a number beyond all numbers", b"{\"HostConfig\": {\"Memory\": 1e999}, \"Memory\": 1e999, \"Detach\": 1e999}"),
        ("deep lists", deep.as_bytes()),
        ("deep objects", deep_objects.as_bytes()),
    ];
    let mut faults = Vec::new();
    for path in JSON {
        let path = path.replace("{exec}", &exec);
        for (what, body) in bodies {
            // These are good JSON for an endpoint that has no such fields, or that takes a list of no members.
            let answer = post(&engine, &path, &[("Content-Type", "application/json")], body);
            faults.extend(fault(answer.as_ref()).map(|why| format!("{path}, {what}: {why}")));
        }
        let answer = post(&engine, &path, &[("Content-Type", "text/plain")], b"{}");
        faults.extend(fault(answer.as_ref()).map(|why| format!("{path}, of another type: {why}")));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(engine.pid(), pid);
    engine.api("GET", "/_ping", "").expect(200);
    assert_eq!(engine.status_of("box"), "running");
}

#[test]
fn huge_bodies_cost_nothing_and_are_refused() {
    let Some((engine, exec)) = scene("bad-huge") else { return };
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).expect("the engine runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    let before = resident();
    let mut faults = Vec::new();
    for path in JSON {
        let path = path.replace("{exec}", &exec);
        // Announced, and not sent: the engine must not make room for it.
        let announced = [("Content-Type", "application/json"), ("Content-Length", "1099511627776")];
        let answer = post(&engine, &path, &announced, b"{\"Image\": \"");
        faults.extend(fault(answer.as_ref()).map(|why| format!("{path}, a terabyte announced: {why}")));
        let mut body = b"{\"Image\": \"".to_vec();
        body.resize(40 << 20, b'a');
        let answer = post(&engine, &path, &[("Content-Type", "application/json")], &body);
        faults.extend(fault(answer.as_ref()).map(|why| format!("{path}, 40 MB: {why}")));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let after = resident();
    assert!(after < before + 64, "the engine grew from {before} to {after} MB");
    engine.api("GET", "/_ping", "").expect(200);
}

#[test]
fn archives_that_are_none_are_refused() {
    let Some((engine, _)) = scene("bad-archives") else { return };
    let gzip_of_nothing = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let mut half = berth_testkit::tiny_archive().to_vec();
    half.truncate(half.len() / 2);
    let bodies: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("words", b"this is no archive, whatever its name says, and it is long enough to hold a header"),
        ("gzip of nothing", gzip_of_nothing),
        ("a broken gzip", b"\x1f\x8b\x08\x00nonsense"),
        ("a broken zstd", b"\x28\xb5\x2f\xfdnonsense"),
        ("half an archive", &half),
    ];
    let mut faults = Vec::new();
    for path in ARCHIVES {
        for (what, body) in bodies {
            let answer = post(&engine, path, &[("Content-Type", "application/x-tar")], body);
            let Some(answer) = answer else {
                faults.push(format!("{path}, {what}: no answer"));
                continue;
            };
            // A stream of messages has begun with 200 and tells the failure in its last one; nothing imports as nothing.
            let told = answer.status == 200 && answer.text().contains("\"error\"");
            let empty_import = path.contains("fromSrc") && what.contains("nothing");
            if !told && !empty_import {
                faults.extend(fault(Some(&answer)).map(|why| format!("{path}, {what}: {why}")));
            }
        }
    }
    let answer = post(&engine, "/images/tiny/push", &[("X-Registry-Auth", "not base64 {")], b"");
    faults.extend(fault(answer.as_ref()).map(|why| format!("push with bad credentials: {why}")));
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let images = engine.docker(["images", "-q", "made"]).success();
    assert!(images.lines().count() <= 1, "{images}");
    engine.api("GET", "/_ping", "").expect(200);
}

/// A body in which the field at `path` (as in create_fields.txt) has `value`.
fn with(path: &str, value: &Value) -> Value {
    let Some((first, rest)) = path.split_once('.') else { return of_name(path, value.clone()) };
    of_name(first, with(rest, value))
}

fn of_name(name: &str, value: Value) -> Value {
    match name {
        _ if name.ends_with("{}[]") => json!({(name.trim_end_matches("{}[]")): {"80/tcp": [value]}}),
        _ if name.ends_with("[]") => json!({(name.trim_end_matches("[]")): [value]}),
        _ if name.ends_with("{}") => json!({(name.trim_end_matches("{}")): {"bridge": value}}),
        _ => json!({name: value}),
    }
}

#[test]
fn no_value_of_any_field_of_create_upsets_the_engine() {
    let Some((engine, _)) = scene("bad-values") else { return };
    let values = [
        // No value at all, to Go.
        json!(null),
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{0}"),
        json!("../../../../etc"),
        json!("a".repeat(70_000)),
        json!([]),
        json!(["", "=", ":", "::::", "/:/", "a:b:c:d"]),
        json!([null, 5]),
        json!({}),
        json!({"a": {"b": []}}),
    ];
    let (mut faults, mut refused, mut taken) = (Vec::new(), 0, 0);
    for field in FIELDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        for value in &values {
            let mut body = with(field, value);
            if body.get("Image").is_none() {
                body["Image"] = json!("tiny");
            }
            let answer = engine.try_api("POST", "/v1.43/containers/create", body.to_string().as_bytes());
            match &answer {
                Some(created) if created.status == 201 => {
                    taken += 1;
                    let id = created.json()["Id"].as_str().expect("an id").to_owned();
                    // Whatever was taken can be shown, started or refused in words, and removed.
                    let inspected = engine.api("GET", &format!("/containers/{id}/json"), "");
                    if inspected.status != 200 {
                        faults.push(format!("{field} = {value}: inspect answers {}", inspected.text()));
                    }
                    engine.api("DELETE", &format!("/containers/{id}?force=1&v=1"), "").expect(204);
                }
                other => {
                    refused += 1;
                    let shown = value.to_string().chars().take(60).collect::<String>();
                    faults.extend(fault(other.as_ref()).map(|why| format!("{field} = {shown}: {why}")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(refused > 700 && taken > 200, "{refused} refused, {taken} taken");
    engine.api("GET", "/_ping", "").expect(200);
    // Names that the values made up.
    engine.api("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D", "").expect(200);
}
