//! Differences that are meant, each with its reason.
//!
//! ```text
//! # reason, for all lines up to the next one
//! PATTERN-OF-REQUEST | PATTERN-OF-FIELD [| what]
//! ```
//!
//! `#?` in front of a reason: what is being built, so that a rule may cease to apply. Patterns are regular expressions for the whole; `what` is `missing`, `extra`, `type`, `value`, `order`,
//! `length`, or `from X` where dockerd's value is X.

use super::normal::Difference;
use regex::Regex;

struct Rule {
    text: String,
    request: Regex,
    field: Regex,
    what: Option<String>,
    used: bool,
    passing: bool,
}

pub(crate) struct Accepted {
    rules: Vec<Rule>,
}

impl Accepted {
    pub(crate) fn parse(text: &str) -> Accepted {
        let mut rules = Vec::new();
        let (mut reason, mut passing) = (false, false);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if line.starts_with('#') {
                (reason, passing) = (true, line.starts_with("#?"));
                continue;
            }
            assert!(reason, "no reason in front of {line}");
            let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
            let [request, field, rest @ ..] = parts.as_slice() else { panic!("not a rule: {line}") };
            let whole =
                |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).unwrap_or_else(|e| panic!("{line}: {e}"));
            rules.push(Rule {
                text: line.to_owned(),
                request: whole(request),
                field: whole(field),
                what: rest.first().map(|what| (*what).to_owned()),
                used: false,
                passing,
            });
        }
        Accepted { rules }
    }

    pub(crate) fn covers(&mut self, request: &str, difference: &Difference) -> bool {
        let mut covered = false;
        for rule in &mut self.rules {
            let theirs = difference.theirs.as_ref().map(ToString::to_string);
            let what = rule.what.as_ref().is_none_or(|what| match what.strip_prefix("from ") {
                Some(value) => theirs.as_deref() == Some(value),
                None => what == difference.what,
            });
            if what && rule.request.is_match(request) && rule.field.is_match(&difference.path) {
                rule.used = true;
                covered = true;
            }
        }
        covered
    }

    pub(crate) fn unused(&self) -> Vec<&str> {
        self.rules.iter().filter(|rule| !rule.used && !rule.passing).map(|rule| rule.text.as_str()).collect()
    }
}
