//! A Dockerfile that is not one, and where.

use std::fmt;

/// First and last line, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lines {
    pub first: usize,
    pub last: usize,
}

impl Lines {
    pub fn new(first: usize, last: usize) -> Lines {
        Lines { first, last: last.max(first) }
    }
}

/// Why a text is no Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// BuildKit's words, without the position.
    pub message: String,
    pub lines: Option<Lines>,
    /// An instruction as a whole is wrong; otherwise its text could not be taken apart.
    pub instruction: bool,
}

impl ParseError {
    pub(crate) fn text(message: impl Into<String>, first: usize, last: usize) -> ParseError {
        ParseError { message: message.into(), lines: Some(Lines::new(first, last)), instruction: false }
    }

    /// An instruction's error, with the place left to the caller.
    pub(crate) fn plain(message: impl Into<String>) -> ParseError {
        ParseError { message: message.into(), lines: None, instruction: false }
    }

    pub fn at(mut self, lines: Lines) -> ParseError {
        self.lines.get_or_insert(lines);
        self
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.instruction, self.lines) {
            (true, Some(lines)) => write!(f, "dockerfile parse error on line {}: {}", lines.first, self.message),
            _ => f.write_str(&self.message),
        }
    }
}
