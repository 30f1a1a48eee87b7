//! The one error type of the engine's edge.
//!
//! Parts have small enums of their own (`thiserror`). Where an operation of the engine ends, they become
//! an [`Error`]: a kind that doors map to a status or exit code in one table, the action with its
//! subject, the chain of causes, and at most one hint. It crosses process boundaries whole (serde).
//!
//! ```text
//! cannot start container web: cannot publish port 8080/tcp: address already in use by container proxy
//! hint: stop proxy, or publish another port with -p 8081:80
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;

/// What sort of failure this is, as far as a caller must tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request itself is wrong; asking again the same way cannot succeed.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// The object's present state forbids it (name taken, still running, in use).
    Conflict,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Allowed to ask, not allowed to have.
    Forbidden,
    /// This engine or host cannot do it.
    NotImplemented,
    /// The host lacks something now: a full disk, no memory, a service that is down.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
    /// The container's program could not be started (not found, not executable).
    CannotRun,
    /// Bytes from outside are damaged or hostile.
    DataLoss,
    /// Our fault or the kernel's surprise.
    Internal,
}

/// A failed operation: what, on what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub kind: ErrorKind,
    /// What failed and on what, as one sentence without a final period.
    pub message: String,
    /// Why, outermost cause first. Each entry is printed once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do, where that is sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The kernel's error number behind it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), causes: Vec::new(), hint: None, errno: None }
    }

    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Conflict, message)
    }

    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, message)
    }

    pub fn not_implemented(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotImplemented, message)
    }

    /// An error whose causes are `source` and everything behind it.
    pub fn because(kind: ErrorKind, message: impl Into<String>, source: &(dyn std::error::Error + 'static)) -> Error {
        let mut error = Error::new(kind, message);
        let mut cause = Some(source);
        while let Some(e) = cause {
            error.causes.push(e.to_string());
            if let Some(io) = e.downcast_ref::<std::io::Error>() {
                error.errno = error.errno.or(io.raw_os_error());
            }
            cause = e.source();
        }
        error
    }

    /// Puts `message` in front: the old message becomes the first cause. Kind, hint and errno stay.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Error {
        let inner = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, inner);
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_of_a_chain_is_printed_once() {
        let io = std::io::Error::from_raw_os_error(13);
        let error = Error::because(ErrorKind::Forbidden, "cannot open /x", &io).context("cannot start web");
        assert_eq!(error.to_string(), "cannot start web: cannot open /x: Permission denied (os error 13)");
        assert_eq!(error.errno, Some(13));
    }
}
