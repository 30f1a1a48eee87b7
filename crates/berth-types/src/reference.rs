//! Image names: `[host[:port]/]path[:tag][@digest]`, with Docker's defaults.
//!
//! Grammar: the distribution project's reference package, which Docker's clients follow. The *familiar*
//! form drops what Docker fills in: `docker.io/library/debian:latest` is written `debian:latest`.

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Longest repository name, domain included (distribution: `NameTotalLengthMax`).
const NAME_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
pub const DEFAULT_TAG: &str = "latest";

/// A repository with an optional tag and digest; neither given means the repository itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
}

impl ImageName {
    /// The registry's host, `docker.io` where none was written.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository path within the registry, `library/` filled in.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same with tag `latest` where neither tag nor digest was given.
    #[must_use]
    pub fn or_latest(mut self) -> ImageName {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    #[must_use]
    pub fn with_tag(mut self, tag: Option<String>) -> ImageName {
        self.tag = tag;
        self
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn pinned(mut self, digest: Digest) -> ImageName {
        self.tag = None;
        self.digest = Some(digest);
        self
    }

    /// The repository as people write it: defaults left out, no tag, no digest.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.split_once('/') {
            Some((DEFAULT_NAMESPACE, rest)) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole name as people write it.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_repository();
        self.push_suffix(&mut text);
        text
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// Whether `tag` is a well-formed tag.
pub fn is_valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty()
        && tag.len() <= TAG_LENGTH_MAX
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// One path component: runs of `[a-z0-9]` joined by `.`, `_`, `__` or any number of `-`.
fn is_valid_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    let mut separators = bytes.split(|&b| alnum(b)).filter(|run| !run.is_empty());
    separators.all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

fn is_valid_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else { return false };
        return !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = domain.split_once(':').map_or((domain, None), |(h, p)| (h, Some(p)));
    port.is_none_or(is_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl FromStr for ImageName {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<ImageName, InvalidReference> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| InvalidReference::Format)?)),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it belongs to the host's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_valid_tag(tag)) || name.is_empty() {
            return Err(InvalidReference::Format);
        }
        if tag.is_none() && name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidReference::LooksLikeId(name.to_owned()));
        }
        let looks_like_host = |first: &str| {
            first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
        };
        let (domain, path) = match name.split_once('/') {
            Some((first, path)) if looks_like_host(first) => (first, path),
            _ => (DEFAULT_DOMAIN, name),
        };
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            let filled_in = domain == DEFAULT_DOMAIN && !path.contains('/');
            let shown = if filled_in { format!("{DEFAULT_NAMESPACE}/{path}") } else { path.to_owned() };
            return Err(InvalidReference::Uppercase(shown));
        }
        if !is_valid_domain(domain) || path.is_empty() || !path.split('/').all(is_valid_component) {
            return Err(InvalidReference::Format);
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
            return Err(InvalidReference::TooLong);
        }
        Ok(ImageName { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

impl TryFrom<String> for ImageName {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<ImageName, InvalidReference> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.to_string()
    }
}

/// The canonical form, defaults written out.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.domain, self.path);
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn defaults_are_filled_in_and_left_out_again() {
        for (written, canonical, familiar) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("a/b:1", "docker.io/a/b:1", "a/b:1"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("host:5000/x/y:t", "host:5000/x/y:t", "host:5000/x/y:t"),
            ("index.docker.io/x", "docker.io/library/x", "x"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ] {
            let name = parse(written);
            assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (canonical, familiar));
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for bad in ["", ":x", "a:", "a//b", "a/", "-a", "a-", "a..b", "a___b", "a@sha256:1", "a b", "x:-t", "h_o:1/x"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
        assert!(matches!("Debian".parse::<ImageName>(), Err(InvalidReference::Uppercase(_))));
        assert!(matches!("a".repeat(64).parse::<ImageName>(), Err(InvalidReference::LooksLikeId(_))));
    }

    #[test]
    fn latest_is_added_only_to_a_bare_name() {
        assert_eq!(parse("x").or_latest().familiar(), "x:latest");
        assert_eq!(parse("x:1").or_latest().familiar(), "x:1");
    }
}
