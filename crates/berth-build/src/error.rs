//! A build that failed: why, where in the file, and what may help.

use berth_dockerfile::Lines;
use berth_types::{Error, ErrorKind};

/// Lines shown above and below the ones that failed.
const AROUND: usize = 2;
/// Longer instructions are shown by their ends.
const SHOWN_MAX: usize = 12;

#[derive(Debug, Clone)]
pub struct BuildError(Box<Failure>);

#[derive(Debug, Clone)]
pub struct Failure {
    pub error: Error,
    pub lines: Option<Lines>,
    /// The step that failed, where one did.
    pub step: Option<usize>,
    /// `RUN`: its command and exit code.
    pub exit: Option<(String, i32)>,
    /// The Dockerfile around the place, with a mark; set once by [`BuildError::show`].
    pub snippet: String,
}

impl std::ops::Deref for BuildError {
    type Target = Failure;
    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl std::ops::DerefMut for BuildError {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.0
    }
}

impl BuildError {
    pub fn new(error: Error) -> BuildError {
        BuildError(Box::new(Failure { error, lines: None, step: None, exit: None, snippet: String::new() }))
    }

    pub fn invalid(message: impl Into<String>) -> BuildError {
        BuildError::new(Error::invalid(message))
    }

    pub fn cancelled() -> BuildError {
        BuildError::new(Error::new(ErrorKind::Cancelled, "the build was cancelled"))
    }

    #[must_use]
    pub fn at(mut self, lines: Lines) -> BuildError {
        self.lines.get_or_insert(lines);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> BuildError {
        self.error.hint.get_or_insert(hint.into());
        self
    }

    /// Cuts the lines out of the file.
    #[must_use]
    pub fn show(mut self, name: &str, file: &[u8]) -> BuildError {
        let Some(lines) = self.lines.filter(|_| self.snippet.is_empty()) else { return self };
        let text = String::from_utf8_lossy(file);
        let all: Vec<&str> = text.lines().collect();
        let (first, last) = (lines.first.max(1), lines.last.min(all.len()));
        let (from, to) = (first.saturating_sub(AROUND + 1), (last + AROUND).min(all.len()));
        let mut out = format!("{name}:{}\n--------------------\n", lines.first);
        for (number, line) in all.iter().enumerate().take(to).skip(from).map(|(at, line)| (at + 1, line)) {
            let marked = (first..=last).contains(&number);
            if marked && number >= first + SHOWN_MAX && number + 1 < last {
                continue;
            }
            let line: String = line.chars().take(200).collect();
            out.push_str(&format!("{number:4} | {} {line}\n", if marked { ">>>" } else { "   " }));
        }
        out.push_str("--------------------");
        self.snippet = out;
        self
    }
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl From<Error> for BuildError {
    fn from(error: Error) -> BuildError {
        BuildError::new(error)
    }
}

impl From<berth_dockerfile::ParseError> for BuildError {
    fn from(error: berth_dockerfile::ParseError) -> BuildError {
        let mut failed = BuildError::invalid(error.to_string());
        failed.lines = error.lines;
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_failed_are_marked_within_those_around_them() {
        let file = b"FROM a\nRUN b\nRUN c \\\n  d\nRUN e\nRUN f\nRUN g\n";
        let shown = BuildError::invalid("x").at(Lines::new(3, 4)).show("Dockerfile", file).snippet.clone();
        let expected = "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN b\n   3 | >>> RUN c \\\n   \
            4 | >>>   d\n   5 |     RUN e\n   6 |     RUN f\n--------------------";
        assert_eq!(shown, expected);
    }
}
