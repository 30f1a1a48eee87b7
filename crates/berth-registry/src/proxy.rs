//! Which proxy a connection goes through, by the rules of Go's `httpproxy`, which dockerd's users know.

use crate::config::{Proxies, cidr_contains};
use crate::url::Origin;
use crate::{ConnectError, RegistryError};
use base64::Engine as _;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The head of a proxy's answer to CONNECT.
const HEAD_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub origin: Origin,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl Proxy {
    /// `None` for an empty text.
    pub(crate) fn parse(text: &str) -> Result<Option<Proxy>, RegistryError> {
        if text.is_empty() {
            return Ok(None);
        }
        // The password stays out of messages.
        let invalid = |why: &str| RegistryError::Configuration { what: "proxy URL".to_owned(), why: why.to_owned() };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let uri = format!("{scheme}://{host}/").parse().map_err(|_| invalid("not a URL"))?;
        let origin = Origin::of(&uri).ok_or_else(|| invalid("only http:// and https:// proxies are supported"))?;
        let authorization = user.map(|user| {
            let user = decode(user);
            let user = if user.contains(':') { user } else { format!("{user}:") };
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
        });
        Ok(Some(Proxy { origin, authorization }))
    }
}

/// `%41` -> `A`; what is no escape stays.
fn decode(text: &str) -> String {
    let (mut out, bytes, mut at) = (Vec::new(), text.as_bytes(), 0);
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The proxy on the way to `to`.
pub(crate) fn choose(proxies: &Proxies, to: &Origin) -> Option<Proxy> {
    let text = if to.tls { &proxies.https } else { &proxies.http };
    if text.is_empty() || is_direct(&proxies.none, to) {
        return None;
    }
    // Checked when the configuration was read.
    Proxy::parse(text).ok().flatten()
}

fn is_direct(none: &str, to: &Origin) -> bool {
    let address = to.host.parse::<IpAddr>().ok();
    if to.host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    none.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" || address.is_some_and(|address| cidr_contains(entry, address)) {
            return true;
        }
        let entry = entry.to_ascii_lowercase();
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.starts_with('[') => (name, port.parse::<u16>().ok()),
            _ => (entry.as_str(), None),
        };
        if port.is_some_and(|port| port != to.port) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']').trim_start_matches('*');
        let below = |suffix: &str| to.host.ends_with(suffix) && to.host.len() > suffix.len();
        match name.starts_with('.') {
            true => below(name),
            false => to.host == name || below(&format!(".{name}")),
        }
    })
}

/// Asks the proxy at the other end of `stream` for a tunnel to `to`.
pub(crate) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    to: &Origin,
) -> Result<(), ConnectError> {
    let refused = |why: String| ConnectError::Proxy { proxy: proxy.origin.shown(), why };
    let authority = to.authority();
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(authorization) = &proxy.authorization {
        head.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|cause| refused(cause.to_string()))?;
    let mut answer = Vec::new();
    // The other side speaks only after we do: nothing behind the head can be lost.
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.map_err(|cause| refused(format!("no answer: {cause}")))?;
        answer.push(byte);
        if answer.len() > HEAD_BYTES_MAX {
            return Err(refused("its answer is too long".to_owned()));
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    match line.split_whitespace().nth(1) {
        Some("200") if line.starts_with("HTTP/1.") => Ok(()),
        _ => Err(refused(line.chars().filter(|c| !c.is_control()).take(200).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_exceptions_are_gos() {
        let none = "example.com, .sub.test,10.0.0.0/8,host:5000,*.star.test";
        for (url, direct) in [
            ("https://example.com", true),
            ("https://a.example.com", true),
            ("https://notexample.com", false),
            ("https://a.sub.test", true),
            ("https://sub.test", false),
            ("http://10.1.1.1", true),
            ("http://host:5000", true),
            ("http://host:5001", false),
            ("http://x.star.test", true),
            ("http://127.0.0.1:1", true),
            ("http://localhost", true),
            ("http://other", false),
        ] {
            assert_eq!(is_direct(none, &origin(url)), direct, "{url}");
        }
        assert!(is_direct("*", &origin("https://x")));
    }

    #[test]
    fn a_proxy_is_chosen_by_scheme_and_keeps_its_password() {
        let proxies = Proxies { http: "p:3128".into(), https: "http://u:p%40ss@q:1".into(), none: String::new() };
        assert_eq!(choose(&proxies, &origin("http://r/")).unwrap().origin.authority(), "p:3128");
        let proxy = choose(&proxies, &origin("https://r/")).unwrap();
        assert_eq!(proxy.origin.authority(), "q:1");
        assert_eq!(proxy.authorization.unwrap(), "Basic dTpwQHNz");
        assert!(choose(&Proxies::default(), &origin("http://r/")).is_none());
    }

    #[tokio::test]
    async fn a_proxys_refusal_is_told() {
        let (mut here, mut there) = tokio::io::duplex(1024);
        let proxy = Proxy::parse("http://p:1").unwrap().unwrap();
        there.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
        let refused = tunnel(&mut here, &proxy, &origin("https://r/")).await.unwrap_err();
        assert!(refused.to_string().contains("407 Proxy Authentication Required"), "{refused}");
    }
}
