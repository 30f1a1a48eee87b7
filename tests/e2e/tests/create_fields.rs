//! Every field of `POST /containers/create` is honoured or refused, never silently ignored.
//!
//! ```text
//! data/api/create_fields.txt   all fields that Docker's API documents
//! data/api/create_cases.txt    for each, a value and what comes of it (its head says how to write one)
//! ```
//!
//! A field without a case fails the test, and so does a case that a plain container would pass as well.

mod cases;

use berth_testkit::Engine;
use cases::runner::Runner;
use cases::{Case, parse};
use std::collections::BTreeSet;

const FIELDS: &str = include_str!("../data/api/create_fields.txt");
const CASES: &str = include_str!("../data/api/create_cases.txt");

fn fields() -> BTreeSet<&'static str> {
    FIELDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn every_field_has_a_case_and_every_case_a_field() {
    let covered: BTreeSet<&str> = parse(CASES).iter().flat_map(|case| case.fields.iter().copied()).collect();
    let missing: Vec<_> = fields().difference(&covered).copied().collect();
    assert!(missing.is_empty(), "fields without a case in create_cases.txt: {missing:#?}");
    let unknown: Vec<_> = covered.difference(&fields()).copied().collect();
    assert!(unknown.is_empty(), "cases about fields that are not in create_fields.txt: {unknown:#?}");
}

/// `only`: fields whose name starts so; all where it is empty.
fn run(name: &str, wanted: impl Fn(&Case<'_>) -> bool) {
    let Some(engine) = Engine::start(name) else { return };
    let only = std::env::var("BERTH_CASES").unwrap_or_default();
    let runner = Runner::new(&engine);
    let mut failures = Vec::new();
    let cases = parse(CASES);
    let chosen = cases.iter().filter(|case| wanted(case));
    for case in chosen.filter(|case| case.fields.iter().any(|field| field.contains(&only))) {
        if let Err(why) = runner.run(case) {
            failures.push(format!("= {}\n{why}", case.fields.join(" ")));
        }
    }
    runner.end();
    assert!(failures.is_empty(), "{} cases failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn host_config_is_honoured_or_refused() {
    run("fields-host", |case| case.fields[0].starts_with("HostConfig"));
}

#[test]
fn config_and_endpoints_are_honoured_or_refused() {
    run("fields-config", |case| !case.fields[0].starts_with("HostConfig"));
}
