//! A failed command: its sentence, its hint, its exit code.
//!
//! What the engine answered keeps Docker's own text (`Error response from daemon: No such container: x`), and
//! so does what this program itself finds wrong where Docker's client has words for it, because scripts and CI
//! logs search for them. `berth: ` stands in front where its client writes `docker: `. Hints follow on lines
//! of their own, so a script that reads the first line is not confused by them.

use crate::template::TemplateError;
use std::io;

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The engine said no. `message` is its text.
    #[error("Error response from daemon: {message}")]
    Engine { status: u16, message: String, hint: Option<String> },
    /// Wrong use of a command or flag.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    #[error("{message}")]
    Failed { message: String, hint: Option<String> },
    /// The engine said no, and `message` is all that there is to print.
    #[error("{message}")]
    Refused { status: u16, message: String, hint: Option<String> },
    #[error("{doing}{source}")]
    Template { doing: &'static str, source: TemplateError },
    #[error("{doing}: {}", plain(source))]
    Io { doing: String, source: io::Error },
    #[error("the engine's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
    /// Everything was said already; only the code is left.
    #[error("")]
    Silent(u8),
    /// `inner` with another exit code.
    #[error("{inner}")]
    Coded { code: u8, inner: Box<CliError> },
}

impl CliError {
    pub(crate) fn failed(message: impl Into<String>) -> CliError {
        CliError::Failed { message: message.into(), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage { message: message.into(), hint: None }
    }

    pub(crate) fn template(doing: &'static str, source: TemplateError) -> CliError {
        CliError::Template { doing, source }
    }

    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> CliError {
        CliError::Io { doing: doing.into(), source }
    }

    pub(crate) fn with_hint(self, new: impl Into<String>) -> CliError {
        let new = new.into();
        match self {
            CliError::Engine { status, message, .. } => CliError::Engine { status, message, hint: Some(new) },
            CliError::Usage { message, .. } => CliError::Usage { message, hint: Some(new) },
            CliError::Failed { message, .. } => CliError::Failed { message, hint: Some(new) },
            CliError::Refused { status, message, .. } => CliError::Refused { status, message, hint: Some(new) },
            CliError::Coded { code, inner } => CliError::Coded { code, inner: Box::new(inner.with_hint(new)) },
            other => other,
        }
    }

    /// The same with its text rewritten; status, hint and code stay.
    pub(crate) fn with_text(self, edit: impl FnOnce(String) -> String) -> CliError {
        match self {
            CliError::Usage { message, hint } => CliError::Usage { message: edit(message), hint },
            CliError::Failed { message, hint } => CliError::Failed { message: edit(message), hint },
            CliError::Engine { status, message, hint } => {
                let full = CliError::Engine { status, message, hint: None }.to_string();
                CliError::Refused { status, message: edit(full), hint }
            }
            CliError::Refused { status, message, hint } => CliError::Refused { status, message: edit(message), hint },
            CliError::Coded { code, inner } => CliError::Coded { code, inner: Box::new(inner.with_text(edit)) },
            CliError::Template { .. } | CliError::Answer(_) => CliError::failed(edit(self.to_string())),
            CliError::Io { .. } if !self.is_broken_pipe() => CliError::failed(edit(self.to_string())),
            CliError::Io { .. } | CliError::Silent(_) => self,
        }
    }

    /// A wrong flag is followed by the usage of its command.
    pub(crate) fn with_usage(self, called: crate::cli::Called) -> CliError {
        match self {
            CliError::Usage { .. } => self.with_text(|text| {
                let (usage, path) = (called.usage(), called.path);
                format!("{text}\n\nUsage:  {usage}\n\nRun 'berth {path} --help' for more information")
            }),
            other => other,
        }
    }

    /// As Docker's client ends what it cannot do for `run` and for the flags of `create`.
    pub(crate) fn with_help(self, verb: &str) -> CliError {
        match self {
            CliError::Usage { .. } => self,
            other => other.with_text(|text| format!("berth: {text}\n\nRun 'berth {verb} --help' for more information")),
        }
    }

    pub(crate) fn with_code(self, code: u8) -> CliError {
        match self {
            CliError::Coded { inner, .. } => CliError::Coded { code, inner },
            CliError::Silent(_) => CliError::Silent(code),
            other => CliError::Coded { code, inner: Box::new(other) },
        }
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            CliError::Engine { hint, .. }
            | CliError::Usage { hint, .. }
            | CliError::Failed { hint, .. }
            | CliError::Refused { hint, .. } => hint.as_deref(),
            CliError::Coded { inner, .. } => inner.hint(),
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            CliError::Engine { status, .. } | CliError::Refused { status, .. } => Some(*status),
            CliError::Coded { inner, .. } => inner.status(),
            _ => None,
        }
    }

    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, CliError::Silent(_))
    }

    /// Whether the reader of our output has gone, which is no failure to speak of.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        match self {
            CliError::Io { source, .. } => source.kind() == io::ErrorKind::BrokenPipe,
            CliError::Coded { inner, .. } => inner.is_broken_pipe(),
            _ => false,
        }
    }

    /// 125 for wrong flags and all that `run` and friends set themselves, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Silent(code) | CliError::Coded { code, .. } => *code,
            CliError::Usage { .. } => 125,
            _ => 1,
        }
    }
}

/// The system's words without Rust's "(os error 2)", beginning in lower case as Docker prints them. A text of
/// our own may begin with a path and is left alone.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    match (error.raw_os_error(), text.chars().next()) {
        (Some(_), Some(first)) => first.to_lowercase().chain(text.chars().skip(1)).collect(),
        _ => text.to_owned(),
    }
}

impl From<TemplateError> for CliError {
    fn from(source: TemplateError) -> CliError {
        CliError::template("template parsing error: ", source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_sentences_and_paths_keep_their_case() {
        assert_eq!(plain(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(plain(&io::Error::other("/A/B: Is a directory (os error 21)")), "/A/B: Is a directory");
        let io = CliError::io("cannot open /X", io::Error::from_raw_os_error(13));
        assert_eq!(io.to_string(), "cannot open /X: permission denied");
    }

    #[test]
    fn codes_and_hints_survive_wrapping() {
        let error = CliError::usage("bad").with_hint("good").with_code(126);
        assert_eq!((error.exit_code(), error.hint(), error.to_string()), (126, Some("good"), "bad".to_owned()));
        assert_eq!(CliError::usage("x").exit_code(), 125);
        assert_eq!(CliError::failed("x").exit_code(), 1);
    }
}
