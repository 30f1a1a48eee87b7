//! Why a process could not be made.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What kind of failure it is; Docker's exit codes 125, 126 and 127 are made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchKind {
    /// The configuration asks for something that cannot be.
    Configuration,
    /// The program, or its loader, is not there (127).
    NotFound,
    /// The program is there but may not or cannot be executed (126).
    CannotRun,
    /// The host refused a step.
    Host,
    /// The container that was to be joined is ending: its namespaces are gone before its process is.
    Gone,
}

/// A launch that failed: `text` is a whole sentence without the words around it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{text}")]
pub struct LaunchError {
    pub kind: LaunchKind,
    pub text: String,
}

impl LaunchError {
    pub fn configuration(text: impl Into<String>) -> LaunchError {
        LaunchError { kind: LaunchKind::Configuration, text: text.into() }
    }

    pub fn host(text: impl Into<String>) -> LaunchError {
        LaunchError { kind: LaunchKind::Host, text: text.into() }
    }
}

/// Puts the step before the system's reason.
pub(crate) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, LaunchError>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, LaunchError> {
        self.map_err(|errno| LaunchError::host(format!("{}: {}", what(), reason(errno))))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, LaunchError> {
        self.map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => LaunchError::host(format!("{}: {}", what(), reason(errno))),
            None => LaunchError::host(format!("{}: {error}", what())),
        })
    }
}

/// A step of joining a container's process.
pub(crate) fn join<T>(result: Result<T, Errno>, what: &str) -> Result<T, LaunchError> {
    let gone = matches!(result, Err(Errno::SRCH));
    result.step(|| what.to_owned()).map_err(|error| match gone {
        true => LaunchError { kind: LaunchKind::Gone, ..error },
        false => error,
    })
}

/// The system's words, in Docker's lower case.
pub(crate) fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
