//! `docs/compatibility.md`: which endpoints are compared with a real dockerd, and by how many answers.
//!
//! The table is made from the recordings; `BERTH_BLESS=1` writes it, and without that it must be up to date.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const BEGIN: &str = "<!-- made by tests/e2e/tests/api_coverage.rs from the recordings -->\n";
const END: &str = "<!-- end -->\n";
/// Words that are verbs of a collection, not names of a thing in it.
const VERBS: &[&str] = &["json", "create", "prune", "load", "get", "leave", "update", "unlock", "unlockkey"];

/// `GET /containers/{id}/json` of a recorded line.
fn endpoint(line: &str) -> (String, String) {
    let request = line.split_once(" = ").map_or(line, |(_, request)| request);
    let mut words = request.split(' ');
    let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
    let path = path.split('?').next().unwrap_or_default().trim_start_matches('/');
    let path = match path.split_once('/') {
        Some((version, rest)) if version.starts_with('v') && version.contains('.') => rest,
        _ => path,
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    let collection = parts.first().copied().unwrap_or_default();
    let things = [
        "containers",
        "images",
        "volumes",
        "networks",
        "exec",
        "plugins",
        "nodes",
        "services",
        "tasks",
        "secrets",
        "configs",
    ];
    if things.contains(&collection) && parts.get(1).is_some_and(|part| !VERBS.contains(part)) {
        parts[1] = "{name}";
    }
    (format!("/{}", parts.join("/")), method.to_owned())
}

fn table() -> String {
    let answers = include_str!("../data/dockerd/answers.json");
    let answers: Vec<Value> = serde_json::from_str(answers).expect("the recordings are JSON");
    let mut rows: BTreeMap<(String, String), (u32, u32)> = BTreeMap::new();
    for answer in &answers {
        let key = endpoint(answer["request"].as_str().expect("a request"));
        let row = rows.entry(key).or_default();
        if answer["status"].as_u64().is_some_and(|status| status < 400) { row.0 += 1 } else { row.1 += 1 }
    }
    let mut out = String::from("| endpoint | method | answered | refused |\n|---|---|---|---|\n");
    for ((path, method), (good, bad)) in &rows {
        out.push_str(&format!("| `{path}` | {method} | {good} | {bad} |\n"));
    }
    let total: u32 = rows.values().map(|(good, bad)| good + bad).sum();
    out.push_str(&format!("\n{total} answers, {} endpoints.\n", rows.len()));
    out
}

#[test]
fn the_table_of_the_documents_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let text = std::fs::read_to_string(&path).expect("docs/compatibility.md is there");
    let (head, rest) = text.split_once(BEGIN).expect("it has a place for the table");
    let (_, tail) = rest.split_once(END).expect("the place has an end");
    let made = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os("BERTH_BLESS").is_some() {
        std::fs::write(&path, &made).expect("the document can be written");
        return;
    }
    assert!(made == text, "out of date: BERTH_BLESS=1 cargo test -p berth-e2e --test api_coverage");
}

#[test]
fn names_are_told_from_verbs() {
    let of = |line| endpoint(line).0;
    assert_eq!(of("x = POST /containers/create?name=x {}"), "/containers/create");
    assert_eq!(of("GET //v1.24/containers/x/json"), "/containers/{name}/json");
    assert_eq!(of("GET //_ping"), "/_ping");
}
