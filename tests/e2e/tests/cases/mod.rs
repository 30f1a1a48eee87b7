//! `data/api/create_cases.txt`: what stands in it, and how it is run.

pub(crate) mod runner;

use serde_json::Value;

/// What is said about some fields.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) fields: Vec<&'a str>,
    pub(crate) trials: Vec<Trial<'a>>,
}

/// One body and what comes of it.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    /// Shell lines of the host, before it.
    pub(crate) before: Vec<String>,
    pub(crate) body: &'a str,
    pub(crate) checks: Vec<Check<'a>>,
    /// In place of them where every container has a machine.
    pub(crate) in_machine: Option<Check<'a>>,
    /// Nothing but `inspect` can show it.
    pub(crate) only_shown: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Check<'a> {
    pub(crate) kind: Kind,
    pub(crate) what: &'a str,
    pub(crate) wanted: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Inside,
    Logs,
    Host,
    Docker,
    Cgroup,
    Shown,
    Warns,
    Refused,
    Unstarted,
    /// Not looked at, for the reason that is wanted.
    Left,
}

impl Kind {
    fn of(word: &str) -> Option<Kind> {
        Some(match word {
            "in" => Kind::Inside,
            "logs" => Kind::Logs,
            "host" => Kind::Host,
            "docker" => Kind::Docker,
            "cgroup" => Kind::Cgroup,
            "shown" => Kind::Shown,
            "warns" => Kind::Warns,
            "refused" => Kind::Refused,
            "unstarted" => Kind::Unstarted,
            "left" => Kind::Left,
            _ => return None,
        })
    }
}

/// Panics, naming the line, where the file is not well-formed.
pub(crate) fn parse(text: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    let (mut before, mut note) = (Vec::new(), false);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(fields) = line.strip_prefix("= ") {
            assert!(before.is_empty(), "no body before: {line}");
            note = false;
            cases.push(Case { fields: fields.split(' ').collect(), trials: Vec::new() });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("before the first case: {line}"));
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, line.rsplit_once(" => ")) {
            ("note", _) => note = true,
            ("body", _) => {
                case.trials.push(Trial {
                    before: std::mem::take(&mut before),
                    body: rest,
                    checks: vec![],
                    in_machine: None,
                    only_shown: note,
                });
            }
            ("host", None) => before.push(rest.to_owned()),
            ("docker", None) => before.push(line.to_owned()),
            (word, Some((left, wanted))) => {
                let of_machine = word == "machine";
                let left = if of_machine { left.split_once(' ').map_or("", |(_, rest)| rest) } else { left };
                let (word, what) = left.split_once(' ').unwrap_or((left, ""));
                let kind = Kind::of(word).unwrap_or_else(|| panic!("unknown word: {line}"));
                let trial = case.trials.last_mut().unwrap_or_else(|| panic!("no body before: {line}"));
                let check = Check { kind, what, wanted };
                match of_machine {
                    true => trial.in_machine = Some(check),
                    false => trial.checks.push(check),
                }
            }
            _ => panic!("nothing is expected: {line}"),
        }
    }
    for trial in cases.iter().flat_map(|case| &case.trials) {
        assert!(!trial.checks.is_empty(), "no check after: {}", trial.body);
        let shown = trial.checks.iter().all(|check| check.kind == Kind::Shown);
        assert!(!shown || trial.only_shown, "only `inspect` shows it, and no note says why: {}", trial.body);
    }
    cases
}

/// `more` over `base`, objects merged.
pub(crate) fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                match base.get_mut(&key) {
                    Some(below) if below.is_object() => merge(below, value),
                    _ => drop(base.insert(key, value)),
                }
            }
        }
        (base, more) => *base = more,
    }
}
