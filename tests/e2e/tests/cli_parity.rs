//! `alias docker=berth`: the same command lines through both clients, the same answers.
//!
//! The lines stand in `data/cli/parity.txt`. Exit code, standard output and standard error are compared after what
//! must differ is made equal: the program's name, ids, times and ages, and the names of objects that each client
//! made for itself (`a-x`, `b-x`). Hints are our addition and are left out.

use berth_testkit::{Engine, Output, programs};
use regex::Regex;
use std::path::Path;
use std::process::Stdio;

const LINES: &str = include_str!("../data/cli/parity.txt");

/// Whose object a `%name` is.
#[derive(Clone, Copy)]
enum Side {
    Docker,
    Berth,
}

impl Side {
    fn prefix(self) -> &'static str {
        match self {
            Side::Docker => "a",
            Side::Berth => "b",
        }
    }
}

struct Normal {
    rules: Vec<(Regex, &'static str)>,
}

impl Normal {
    fn new() -> Normal {
        let rules = [
            (r"\b[ab]-(\w+)", "%$1"),
            (r"config-[ab]\b", "config"),
            (r"\b[0-9a-f]{64}\b", "<ID>"),
            (r"\b[0-9a-f]{12}\b", "<id>"),
            (r"\d{4}-\d\d-\d\dT[\d:]+(\.\d+)?(Z|[+-]\d\d:\d\d)", "<TIME>"),
            (r"(Less than a|About an?|\d+) (second|minute|hour)s?( ago)?", "<AGE>"),
            (r"(?m)^hint: .*\n?", ""),
            // Padding depends on what was just replaced.
            (r" {2,}", "  "),
            (r"(?m)[ \t]+$", ""),
        ];
        Normal { rules: rules.map(|(rule, to)| (Regex::new(rule).expect("a good rule"), to)).into() }
    }

    fn text(&self, text: &str) -> String {
        let text = text.replace("docker", "berth").replace("Docker", "berth");
        self.rules.iter().fold(text, |text, (rule, to)| rule.replace_all(&text, *to).into_owned())
    }

    fn output(&self, output: &Output) -> [String; 3] {
        [format!("exit code {}", output.code), self.text(&output.stdout), self.text(&output.stderr)]
    }
}

/// Words as a shell would cut them: quotes, double quotes with `\"`.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut open, mut quote) = (Vec::new(), String::new(), false, None);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('"'), '\\') if matches!(chars.peek(), Some('"' | '\\')) => word.extend(chars.next()),
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => (quote, open) = (Some(c), true),
            (None, ' ') => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (None, c) => word.push(c),
        }
    }
    assert!(quote.is_none(), "unclosed quote: {line}");
    if open || !word.is_empty() {
        words.push(word);
    }
    words
}

fn run(engine: &Engine, side: Side, line: &str) -> Output {
    let program = match side {
        Side::Docker => Path::new("docker").to_owned(),
        Side::Berth => programs().join("berth"),
    };
    let words: Vec<String> = words(line)
        .into_iter()
        .map(|word| match word.strip_prefix('%') {
            Some(name) => format!("{}-{name}", side.prefix()),
            None => word.replace("name=%", &format!("name={}-", side.prefix())),
        })
        .collect();
    let mut command = engine.command(&program);
    command.env("DOCKER_CONFIG", engine.root().join(format!("config-{}", side.prefix())));
    // What both clients know.
    command.env("DOCKER_API_VERSION", "1.50");
    if words.first().is_some_and(|word| word == "context") {
        command.env_remove("DOCKER_HOST").env_remove("BERTH_HOST");
    }
    command.args(&words).stdin(Stdio::null());
    Output::of(&mut command)
}

#[test]
fn both_clients_say_the_same_for_every_line() {
    let Some(engine) = Engine::start("parity") else { return };
    let normal = Normal::new();
    let mut differing = Vec::new();
    for line in LINES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(scene) = line.strip_prefix('!') {
            run(&engine, Side::Docker, scene);
            continue;
        }
        let (docker, berth) = (run(&engine, Side::Docker, line), run(&engine, Side::Berth, line));
        let (theirs, ours) = (normal.output(&docker), normal.output(&berth));
        if theirs != ours {
            differing.push(format!("{line}\n--- docker\n{}\n--- berth\n{}", theirs.join("\n"), ours.join("\n")));
        }
    }
    assert!(differing.is_empty(), "{} lines differ:\n\n{}", differing.len(), differing.join("\n\n"));
}

#[test]
fn shell_words_are_cut_as_a_shell_cuts_them() {
    assert_eq!(words(r#"a  "b c" 'd "e"' f"g\"h" """#), ["a", "b c", "d \"e\"", "fg\"h", ""]);
}
