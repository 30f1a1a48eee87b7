//! `docs/compatibility.md`: every endpoint of Docker's reference, since which version, and which tests call it.
//!
//! ```text
//! data/api/endpoints.txt       the endpoints that the Moby project publishes
//! data/dockerd/answers.json    recorded answers of a real dockerd, compared in api_answers.rs
//! tests/**                     every test's own calls, found by their paths
//! ```
//!
//! `BERTH_BLESS=1` writes the table, and without that it must be up to date; an endpoint that nothing calls fails.

use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- made by tests/e2e/tests/api_coverage.rs -->\n";
const END: &str = "<!-- end -->\n";

/// One endpoint of the reference.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    since: &'static str,
    pattern: Regex,
}

impl Endpoint {
    fn all() -> Vec<Endpoint> {
        let lines = include_str!("../data/api/endpoints.txt").lines();
        let parse = |line: &'static str| {
            let mut words = line.split(' ');
            let mut next = || words.next().expect("a line has three words");
            let (method, path, since) = (next(), next(), next());
            // Names of images and plugins have slashes; no other thing has.
            let slashes = ["/images/", "/plugins/", "/distribution/"].iter().any(|start| path.starts_with(start));
            let name = if slashes { ".+" } else { "[^/]+" };
            let pattern = Regex::new(&format!("^{}$", path.replace("{}", name))).expect("a good pattern");
            Endpoint { method, path, since, pattern }
        };
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse).collect()
    }
}

/// Method and path of what was sent: `x = POST /v1.44/containers/create?name=x {}`.
fn sent(line: &str) -> (String, String) {
    let request = line.split_once(" = ").map_or(line, |(_, request)| request);
    let mut words = request.split(' ');
    let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
    (method.to_owned(), bare(path))
}

/// Without version and parameters.
fn bare(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default().trim_start_matches('/');
    match path.split_once('/') {
        Some((version, rest)) if version.starts_with("v1.") => format!("/{rest}"),
        _ => format!("/{path}"),
    }
}

/// The endpoint that answers; one without a name in its path before one with.
fn endpoint<'a>(all: &'a [Endpoint], method: &str, path: &str) -> Option<&'a Endpoint> {
    let fits = |end: &&Endpoint| end.method == method && end.pattern.is_match(path);
    all.iter().filter(fits).min_by_key(|end| (end.path.contains("{}"), std::cmp::Reverse(end.path.len())))
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the tests' folder").map(|entry| entry.expect("its entry").path()) {
        match entry.is_dir() {
            true => sources(&entry, into),
            false if entry.extension().is_some_and(|kind| kind == "rs") => into.push(entry),
            false => {}
        }
    }
}

/// Which test files send what: `api("POST", "/containers/...` and the like, in one expression.
fn callers(all: &[Endpoint]) -> BTreeMap<(&'static str, &'static str), BTreeSet<String>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let call =
        Regex::new(r#"(?s)"(GET|POST|PUT|DELETE|HEAD)",\s*(?:&?format!\(\s*)?&?"(/[^"]*)""#).expect("a good pattern");
    let mut files = Vec::new();
    sources(&tests, &mut files);
    let mut callers: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.ends_with("api_coverage.rs")) {
        let text = std::fs::read_to_string(file).expect("a source");
        for found in call.captures_iter(&text) {
            let path = bare(&found[2]);
            if let Some(end) = endpoint(all, &found[1], &path) {
                let name = file.strip_prefix(&tests).expect("in the folder").with_extension("");
                callers.entry((end.path, end.method)).or_default().insert(name.display().to_string());
            }
        }
    }
    callers
}

/// Answers recorded from dockerd: with a status below 400, and the others.
fn recorded(all: &[Endpoint]) -> BTreeMap<(&'static str, &'static str), (u32, u32)> {
    let answers: Vec<Value> =
        serde_json::from_str(include_str!("../data/dockerd/answers.json")).expect("the recordings are JSON");
    let mut counts: BTreeMap<_, (u32, u32)> = BTreeMap::new();
    for answer in &answers {
        let (method, path) = sent(answer["request"].as_str().expect("a request"));
        let Some(end) = endpoint(all, &method, &path) else { continue };
        let count = counts.entry((end.path, end.method)).or_default();
        if answer["status"].as_u64().is_some_and(|status| status < 400) { count.0 += 1 } else { count.1 += 1 }
    }
    counts
}

fn table(all: &[Endpoint]) -> String {
    let (callers, recorded) = (callers(all), recorded(all));
    let mut out = String::from(
        "| endpoint | method | since | recorded: answered | refused | called by the tests |\n|---|---|---|---|---|---|\n",
    );
    for end in all {
        let key = (end.path, end.method);
        let (good, bad) = recorded.get(&key).copied().unwrap_or_default();
        let tests: Vec<&str> = callers.get(&key).into_iter().flatten().map(String::as_str).collect();
        let (method, since) = (end.method, end.since);
        let path = end.path.replace("{}", "{name}");
        out.push_str(&format!("| `{path}` | {method} | {since} | {good} | {bad} | {} |\n", tests.join(" ")));
    }
    let total: u32 = recorded.values().map(|(good, bad)| good + bad).sum();
    out.push_str(&format!("\n{} endpoints, {total} recorded answers.\n", all.len()));
    out
}

#[test]
fn the_table_of_the_documents_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let text = std::fs::read_to_string(&path).expect("docs/compatibility.md is there");
    let (head, rest) = text.split_once(BEGIN).expect("it has a place for the table");
    let (_, tail) = rest.split_once(END).expect("the place has an end");
    let made = format!("{head}{BEGIN}{}{END}{tail}", table(&Endpoint::all()));
    if std::env::var_os("BERTH_BLESS").is_some() {
        std::fs::write(&path, &made).expect("the document can be written");
        return;
    }
    assert!(made == text, "out of date: BERTH_BLESS=1 cargo test -p berth-e2e --test api_coverage");
}

/// Called by clients in the tests (docker, Compose, buildx), whose own paths are not in the sources.
const THROUGH_CLIENTS: &[(&str, &str)] = &[("POST", "/session"), ("POST", "/build"), ("POST", "/images/{}/push")];

#[test]
fn every_endpoint_is_called() {
    let all = Endpoint::all();
    let (callers, recorded) = (callers(&all), recorded(&all));
    let uncalled: Vec<String> = all
        .iter()
        .filter(|end| !THROUGH_CLIENTS.contains(&(end.method, end.path)))
        .filter(|end| {
            let key = (end.path, end.method);
            !callers.contains_key(&key) && !recorded.contains_key(&key)
        })
        .map(|end| format!("{} {}", end.method, end.path))
        .collect();
    assert!(uncalled.is_empty(), "no test calls {uncalled:#?}");
}

#[test]
fn names_are_told_from_verbs() {
    let all = Endpoint::all();
    let of = |line: &str| {
        let (method, path) = sent(line);
        endpoint(&all, &method, &path).map(|end| end.path)
    };
    assert_eq!(of("x = POST /containers/create?name=x {}"), Some("/containers/create"));
    assert_eq!(of("GET //v1.24/containers/x/json"), Some("/containers/{}/json"));
    assert_eq!(of("GET /images/a/b:1/json"), Some("/images/{}/json"));
    assert_eq!(of("GET /images/json"), Some("/images/json"));
    assert_eq!(of("DELETE /images/a/b"), Some("/images/{}"));
    assert_eq!(of("GET //_ping"), Some("/_ping"));
    assert_eq!(of("GET /nope"), None);
}
