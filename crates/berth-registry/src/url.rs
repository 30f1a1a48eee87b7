//! The few things about URLs that hyper's [`Uri`] leaves out: origins, relative locations, queries.

use crate::RegistryError;
use hyper::Uri;

/// Longest URL that an answer may send us to.
const URL_BYTES_MAX: usize = 16 << 10;

/// Where a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub tls: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl Origin {
    pub(crate) fn of(uri: &Uri) -> Option<Origin> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        Some(Origin { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }

    /// `host:port`, for a Host header and for dialling.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Without the port that the scheme implies.
    pub(crate) fn shown(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        let whole = self.authority();
        if self.port == usual {
            whole.rsplit_once(':').map_or(whole.clone(), |(host, _)| host.to_owned())
        } else {
            whole
        }
    }
}

/// An absolute http(s) URL.
pub(crate) fn parse(text: &str) -> Result<Uri, RegistryError> {
    let invalid = |why: String| RegistryError::Configuration { what: format!("URL {text:?}"), why };
    if text.len() > URL_BYTES_MAX {
        return Err(RegistryError::TooLarge { what: "a URL".to_owned(), limit_bytes: URL_BYTES_MAX as u64 });
    }
    // A fragment never goes to the server.
    let text = text.split('#').next().unwrap_or_default();
    let uri: Uri = text.parse().map_err(|cause| invalid(format!("{cause}")))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("it holds a user name".to_owned()));
    }
    // hyper gives no port for one that is none; the scheme's would be another place than what was asked for.
    let port = uri.authority().and_then(|authority| authority.as_str().rsplit_once(':')).map(|(_, port)| port);
    if port.is_some_and(|port| !port.is_empty() && !port.ends_with(']') && port.parse::<u16>().is_err()) {
        return Err(invalid("its port is none".to_owned()));
    }
    match Origin::of(&uri) {
        Some(_) => Ok(uri),
        None => Err(invalid("neither http:// nor https://".to_owned())),
    }
}

/// What `location` in an answer to `base` means.
pub(crate) fn join(base: &Uri, location: &str) -> Result<Uri, RegistryError> {
    if location.contains("://") && !location.starts_with(['/', '?']) {
        return parse(location);
    }
    let (scheme, authority) = (base.scheme_str().unwrap_or("https"), base.authority().map_or("", |a| a.as_str()));
    if location.starts_with("//") {
        return parse(&format!("{scheme}:{location}"));
    }
    if location.starts_with('/') {
        return parse(&format!("{scheme}://{authority}{location}"));
    }
    let folder = match location.starts_with('?') {
        true => base.path().to_owned(),
        false => base.path().rsplit_once('/').map_or("/".to_owned(), |(folder, _)| format!("{folder}/")),
    };
    parse(&format!("{scheme}://{authority}{folder}{location}"))
}

/// Adds `name=value` behind what is there.
pub(crate) fn with_query(uri: &Uri, pairs: &[(&str, &str)]) -> Result<Uri, RegistryError> {
    let mut text = uri.to_string();
    for (name, value) in pairs {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encode(value));
    }
    parse(&text)
}

/// Everything but letters, digits, `-._~` escaped; `:` and `/` may stand in a query as they are, and token servers
/// log them so.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_in_all_their_forms() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/".parse().unwrap();
        for (location, whole) in [
            ("http://x/y?z=1", "http://x/y?z=1"),
            ("/v2/b?_state=a%3D", "https://r.example:5000/v2/b?_state=a%3D"),
            ("//cdn/x", "https://cdn/x"),
            ("uuid", "https://r.example:5000/v2/a/blobs/uploads/uuid"),
            ("?n=2", "https://r.example:5000/v2/a/blobs/uploads/?n=2"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), whole);
        }
        for bad in [
            "ftp://x/",
            "https://user:pass@x/",
            "http://",
            "http://x:99999/",
            "http://x:y/",
            &"a".repeat(URL_BYTES_MAX + 1),
        ] {
            assert!(join(&base, bad).is_err(), "{bad}");
        }
        for good in ["http://[::1]/x", "http://[::1]:80/x", "http://x:1/"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let with = with_query(&"http://x/a?b=1".parse().unwrap(), &[("scope", "repository:a/b:pull"), ("q", "a b")]);
        assert_eq!(with.unwrap().to_string(), "http://x/a?b=1&scope=repository:a/b:pull&q=a%20b");
    }

    #[test]
    fn origins_know_their_ports() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert_eq!(origin("https://X.example/").authority(), "x.example:443");
        assert_eq!(origin("https://X.example/").shown(), "x.example");
        assert_eq!(origin("http://[::1]:5000/").authority(), "[::1]:5000");
    }
}
