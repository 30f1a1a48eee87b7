//! Our API's answers beside those of a real dockerd, field by field.
//!
//! ```text
//! data/dockerd/requests.txt   what is asked, in order
//! data/dockerd/answers.json   what dockerd 28.5.2 answered: status, headers, body
//! data/dockerd/accepted.txt   where we answer otherwise on purpose, each with its reason
//! ```
//!
//! To record again, against a dockerd that holds no container, image or volume:
//! `BERTH_RECORD=/path/to/docker.sock cargo test -p berth-e2e --test api_answers`. Ids, times, addresses and sizes are
//! made equal first; then presence, type and value of every field must agree, and the order of keys too.

mod support;

use berth_testkit::Engine;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{accepted::Accepted, exchange::Exchange, normal};

const REQUESTS: &str = include_str!("../data/dockerd/requests.txt");
const ACCEPTED: &str = include_str!("../data/dockerd/accepted.txt");

fn answers_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/dockerd/answers.json")
}

/// Sends everything; the answers by line of `requests.txt`, in order.
fn ask(socket: &Path) -> Vec<(String, Exchange)> {
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    let mut answers = Vec::new();
    for line in REQUESTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, request) = match line.split_once(" = ") {
            Some((name, request)) if name.chars().all(|c| c.is_ascii_alphanumeric()) => (Some(name), request),
            _ => (None, line),
        };
        // Events are asked for up to the end of this second.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut request = request.replace("{now}", &(now + 1).to_string());
        for (name, id) in &ids {
            request = request.replace(&format!("{{{name}}}"), id);
        }
        let exchange = Exchange::run(socket, &request);
        // What has no name is not needed again: it must not stand in later lists of one engine only.
        let listed = ["/containers/create ", "/networks/create "].iter().any(|path| request.contains(path));
        let unnamed = name.is_none() && listed;
        if unnamed && exchange.status == 201 {
            let kind = if request.contains("/networks/") { "networks" } else { "containers" };
            let id = exchange.body["Id"].as_str().expect("created things have an id");
            Exchange::run(socket, &format!("DELETE /{kind}/{id}?v=1"));
        }
        if let Some(name) = name {
            let id = exchange.body["Id"].as_str().unwrap_or("missing").to_owned();
            ids.insert(name.to_owned(), id);
        }
        answers.push((line.to_owned(), exchange));
    }
    answers
}

fn record(socket: &Path) {
    let answers = ask(socket);
    let mut list = Vec::new();
    for (line, exchange) in answers {
        list.push(normal::exchange(&line, &exchange));
    }
    let text = serde_json::to_string_pretty(&Value::Array(list)).expect("JSON of JSON");
    std::fs::write(answers_file(), text + "\n").expect("the answers can be written");
}

#[test]
fn every_answer_is_dockerds_but_for_the_accepted_differences() {
    if let Some(socket) = std::env::var_os("BERTH_RECORD") {
        return record(Path::new(&socket));
    }
    let Some(engine) = Engine::start("answers") else { return };
    let recorded = std::fs::read(answers_file()).expect("the answers are recorded");
    let recorded: Vec<Value> = serde_json::from_slice(&recorded).expect("the answers are JSON");
    let mut accepted = Accepted::parse(ACCEPTED);
    let mut differing = Vec::new();
    let ours = ask(&engine.socket());
    assert_eq!(recorded.len(), ours.len(), "requests were added or taken away: record again");
    for ((line, exchange), theirs) in ours.iter().zip(&recorded) {
        assert_eq!(theirs["request"], line.as_str(), "requests were changed: record again");
        let ours = normal::exchange(line, exchange);
        let differences: Vec<String> = normal::differences(theirs, &ours)
            .into_iter()
            .filter(|d| !accepted.covers(line, d))
            .map(|d| d.to_string())
            .collect();
        if !differences.is_empty() {
            differing.push(format!("{line}\n    {}", differences.join("\n    ")));
        }
    }
    assert!(differing.is_empty(), "{} requests are answered otherwise:\n{}", differing.len(), differing.join("\n"));
    let unused = accepted.unused();
    assert!(unused.is_empty(), "accepted differences that do not occur any more: {unused:#?}");
}
