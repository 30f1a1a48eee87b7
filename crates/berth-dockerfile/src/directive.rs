//! `# syntax=`, `# escape=`, `# check=` before everything else.

use crate::Lines;

/// A parser directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub name: String,
    pub value: String,
    pub lines: Lines,
}

/// Reads directives line by line until the first line that is none.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: usize,
    seen: Vec<String>,
    done: bool,
}

impl Reader {
    pub(crate) fn read(&mut self, line: &str) -> Result<Option<Directive>, String> {
        self.line += 1;
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = line.strip_prefix('#').and_then(key_value) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(format!("only one {name} parser directive can be used"));
        }
        self.seen.push(name.clone());
        Ok(Some(Directive { name, value: value.to_owned(), lines: Lines::new(self.line, self.line) }))
    }
}

fn key_value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let (name, value) = text.split_once('=')?;
    // The same as ^([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$.
    let name = name.trim_end_matches(['\t', '\n', '\x0c', '\r', ' ']).to_ascii_lowercase();
    let value = value.trim_matches(['\t', '\n', '\x0c', '\r', ' ']);
    (matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty()).then_some((name, value))
}

/// All directives of a Dockerfile; those before one that is repeated.
pub fn directives(text: &str) -> Vec<Directive> {
    let mut reader = Reader::default();
    let mut text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.starts_with("#!") {
        reader.line += 1;
        text = text.split_once('\n').map_or("", |(_, rest)| rest);
    }
    let mut all = Vec::new();
    for line in text.lines() {
        match reader.read(line) {
            Ok(Some(directive)) => all.push(directive),
            Ok(None) if reader.done => break,
            Ok(None) => {}
            Err(_) => break,
        }
    }
    all
}
