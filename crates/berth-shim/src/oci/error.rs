//! What can go wrong on the OCI command line, and how it is said.
//!
//! The chain of causes is printed once, on one line, by [`render`]. Some wordings are a contract: containerd
//! takes "does not exist" and "container not running" for a container that is gone, Docker and podman turn
//! "executable file not found" into exit code 127 and "permission denied" into 126.

use super::args::ArgsError;
use std::path::PathBuf;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("unknown command \"{0}\" (see berth-runtime --help)")]
    UnknownCommand(String),
    #[error("{what} is not supported: {why}")]
    NotSupported { what: &'static str, why: &'static str },
    #[error("container ID \"{0}\" is not valid: letters, digits and _ + - . only, at most 1024")]
    BadId(String),
    #[error("container with ID {0} already exists")]
    Exists(String),
    #[error("container {0} does not exist")]
    NotFound(String),
    #[error("container not running")]
    NotRunning,
    #[error("cannot {action} container {id}: it is {status}")]
    WrongStatus { action: &'static str, id: String, status: &'static str },
    #[error("cannot {step} {}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not valid", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("configuration: {0}")]
    Config(String),
    #[error("cannot {step}")]
    Sys {
        step: &'static str,
        #[source]
        errno: rustix::io::Errno,
    },
    #[error("cannot {step}")]
    Part {
        step: &'static str,
        #[source]
        source: Box<dyn std::error::Error>,
    },
}

impl CliError {
    pub(crate) fn file(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> CliError {
        let path = path.into();
        move |source| CliError::File { step, path, source }
    }

    pub(crate) fn json(path: impl Into<PathBuf>) -> impl FnOnce(serde_json::Error) -> CliError {
        let path = path.into();
        move |source| CliError::Json { path, source }
    }

    pub(crate) fn sys(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> CliError {
        move |errno| CliError::Sys { step, errno }
    }

    pub(crate) fn part<E: std::error::Error + 'static>(step: &'static str) -> impl FnOnce(E) -> CliError {
        move |source| CliError::Part { step, source: Box::new(source) }
    }
}

/// An error and its causes in one line.
pub(crate) fn render(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
