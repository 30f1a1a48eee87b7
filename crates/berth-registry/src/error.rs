//! What can go wrong with a registry, with the registry's own reason kept.

use crate::tls::TlsError;
use berth_types::Digest;
use serde::Deserialize;
use std::io;

/// Reasons kept of one answer, and bytes of each.
const REASONS_MAX: usize = 8;
const REASON_BYTES_MAX: usize = 512;

/// A conversation that failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach {host}")]
    Connect {
        host: String,
        #[source]
        cause: ConnectError,
    },
    /// The connection ended in the middle of a request or an answer.
    #[error("the connection to {host} broke")]
    Broken {
        host: String,
        #[source]
        cause: io::Error,
    },
    #[error("{host} sent nothing for {seconds} s")]
    Silent { host: String, seconds: u64 },
    /// The registry said no.
    #[error("{}", refusal(host, *status, reasons))]
    Refused { host: String, status: u16, reasons: Vec<Reason>, retry_after_seconds: Option<u64> },
    #[error("cannot log in to {host}: {why}")]
    Login { host: String, why: String },
    #[error("no token from {realm}")]
    Token {
        realm: String,
        #[source]
        cause: Box<RegistryError>,
    },
    /// What came is not what was asked for: never shown to anybody.
    #[error("{host} sent a damaged {what}: {why}")]
    Damaged { host: String, what: String, why: String },
    #[error("{what} from {host} has digest {actual}, not {expected}")]
    WrongDigest { host: String, what: String, expected: Digest, actual: Digest },
    /// Docker's words, and what it does not say.
    #[error("no matching manifest for {wanted} in the manifest list entries: it has {}", list(available))]
    NoPlatform { wanted: String, available: Vec<String> },
    /// The same of a name that means a single image.
    #[error("the image is for {is}, not for {wanted}")]
    OtherPlatform { wanted: String, is: String },
    #[error("{0}")]
    Unsupported(String),
    /// A limit of ours.
    #[error("{what} is larger than {limit_bytes} bytes")]
    TooLarge { what: String, limit_bytes: u64 },
    #[error("{host} redirects in circles or too often")]
    Redirects { host: String },
    /// The data to be sent could not be read.
    #[error("cannot read what is to be sent")]
    Source(#[source] io::Error),
    #[error("invalid {what}: {why}")]
    Configuration { what: String, why: String },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot look up {0}")]
    Resolve(String, #[source] io::Error),
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("cannot connect to {0}")]
    Tcp(String, #[source] io::Error),
    #[error("no connection within {0} s")]
    Timeout(u64),
    #[error("TLS with {0} failed")]
    Tls(String, #[source] TlsError),
    #[error("proxy {proxy} refused: {why}")]
    Proxy { proxy: String, why: String },
    #[error("cannot use {file}")]
    File {
        file: String,
        #[source]
        cause: io::Error,
    },
    #[error("{file} holds no usable certificate or key: {why}")]
    Certificate { file: String, why: String },
}

/// One entry of a registry's `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub code: String,
    pub message: String,
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "no image at all".to_owned() } else { words.join(", ") }
}

/// Docker's form: `code in lower case: message`.
fn refusal(host: &str, status: u16, reasons: &[Reason]) -> String {
    let said: Vec<String> = reasons.iter().map(Reason::to_string).collect();
    match said.is_empty() {
        true => format!("{host} answered HTTP {status}"),
        false => said.join("\n"),
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.to_ascii_lowercase().replace('_', " ");
        match (code.is_empty(), self.message.is_empty()) {
            (true, _) => f.write_str(&self.message),
            (false, true) => f.write_str(&code),
            (false, false) => write!(f, "{code}: {}", self.message),
        }
    }
}

/// The reasons in an answer's body: the distribution's `errors`, a token server's `details` or `error`, or plain text.
pub(crate) fn reasons(body: &[u8]) -> Vec<Reason> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: Option<serde_json::Value>,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        error_description: Option<String>,
        #[serde(default)]
        error: Option<serde_json::Value>,
        #[serde(default)]
        message: Option<String>,
    }
    let word = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let plain = |text: &str| Reason { code: String::new(), message: clean(text) };
    let Ok(said) = serde_json::from_slice::<Errors>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        // A web server's page of HTML explains nothing.
        return if text.is_empty() || text.starts_with('<') { Vec::new() } else { vec![plain(text)] };
    };
    let mut all: Vec<Reason> = said
        .errors
        .into_iter()
        .take(REASONS_MAX)
        .map(|entry| Reason {
            code: clean(&entry.code.map(word).unwrap_or_default()),
            message: clean(&entry.message.unwrap_or_default()),
        })
        .collect();
    if all.is_empty() {
        let other = [said.details, said.error_description, said.message, said.error.map(word)];
        all.extend(other.into_iter().flatten().find(|text| !text.is_empty()).map(|text| plain(&text)));
    }
    all
}

/// What a status says by itself, in the distribution's words: answers to HEAD have no body.
pub(crate) fn usual_reason(status: u16) -> Option<Reason> {
    let (code, message) = match status {
        401 => ("UNAUTHORIZED", "authentication required"),
        403 => ("DENIED", "requested access to the resource is denied"),
        429 => ("TOOMANYREQUESTS", "too many requests"),
        _ => return None,
    };
    Some(Reason { code: code.to_owned(), message: message.to_owned() })
}

/// Foreign text for a terminal: bounded, without control characters.
fn clean(text: &str) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= REASON_BYTES_MAX).last();
    text[..end.unwrap_or(0)].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether a look-up found that there is no such name, rather than nobody to ask. Only the C library's words say so.
fn is_nobodys_name(cause: &io::Error) -> bool {
    let text = cause.to_string();
    ["Name or service not known", "No address associated", "Name does not resolve"].iter().any(|no| text.contains(no))
}

impl RegistryError {
    /// Asking again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Connect { cause, .. } => {
                matches!(cause, ConnectError::Tcp(..) | ConnectError::Timeout(_) | ConnectError::Proxy { .. })
                    || matches!(cause, ConnectError::Resolve(_, cause) if !is_nobodys_name(cause))
            }
            RegistryError::Broken { .. } | RegistryError::Silent { .. } => true,
            RegistryError::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            // The token server was asked often enough already.
            RegistryError::Token { .. } => false,
            _ => false,
        }
    }

    /// The host is there, and nothing listens at that port.
    pub(crate) fn is_nobody_at_home(&self) -> bool {
        matches!(self, RegistryError::Connect { cause: ConnectError::Tcp(_, cause), .. }
            if cause.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// The thing is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, RegistryError::Refused { status: 404, .. })
    }

    /// Not allowed, or not known who asks.
    pub fn is_denied(&self) -> bool {
        match self {
            RegistryError::Refused { status, .. } => matches!(status, 401 | 403),
            RegistryError::Login { .. } => true,
            RegistryError::Token { cause, .. } => cause.is_denied(),
            _ => false,
        }
    }

    /// How long the registry asks to wait.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            RegistryError::Refused { retry_after_seconds, .. } => *retry_after_seconds,
            RegistryError::Token { cause, .. } => cause.retry_after_seconds(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_reasons_are_found_in_all_their_forms() {
        let texts = |body: &str| reasons(body.as_bytes()).iter().map(Reason::to_string).collect::<Vec<_>>();
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(texts(body), ["manifest unknown: manifest unknown"]);
        assert_eq!(texts(r#"{"details":"incorrect username or password"}"#), ["incorrect username or password"]);
        assert_eq!(texts(r#"{"error":"invalid_grant"}"#), ["invalid_grant"]);
        assert_eq!(texts("slow down\x1b[2J"), ["slow down [2J"]);
        assert!(texts("<html>").is_empty() && texts("").is_empty() && texts("{}").is_empty());
        assert_eq!(clean(&"ä".repeat(600)).len(), REASON_BYTES_MAX);
    }

    #[test]
    fn a_name_that_nobody_has_is_not_asked_for_again() {
        let look_up = |text: &str| RegistryError::Connect {
            host: "x".into(),
            cause: ConnectError::Resolve("x".into(), io::Error::other(text.to_owned())),
        };
        let said = "failed to lookup address information: ";
        assert!(!look_up(&format!("{said}Name or service not known")).is_transient());
        assert!(look_up(&format!("{said}Temporary failure in name resolution")).is_transient());
    }
}
