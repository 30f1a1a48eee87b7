//! One request on a connection of its own, and its answer.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer that goes on longer has no end.
const PATIENCE: Duration = Duration::from_secs(20);
const API: &str = "/v1.51";

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// JSON; several JSON values one behind the other as an array under `stream`; else text under `text`.
    pub(crate) body: Value,
}

impl Exchange {
    /// `METHOD /path [body]`
    pub(crate) fn run(socket: &Path, request: &str) -> Exchange {
        let mut words = request.splitn(3, ' ');
        let method = words.next().expect("a method");
        let path = words.next().expect("a path");
        let body = words.next();
        let path = match path.strip_prefix('/') {
            Some(rest) if rest.starts_with('/') => rest.to_owned(),
            _ => format!("{API}{path}"),
        };
        let path: String = path.chars().map(escaped).collect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n");
        if let Some(body) = body {
            let kind = if body == "not-a-tar" { "application/x-tar" } else { "application/json" };
            head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(body.unwrap_or_default());
        let mut stream = UnixStream::connect(socket).expect("the engine listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(head.as_bytes()).expect("the request is taken");
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            panic!("{request}: no end of the answer: {error}; so far {}", String::from_utf8_lossy(&bytes));
        }
        Exchange::parse(&bytes, request)
    }

    fn parse(bytes: &[u8], request: &str) -> Exchange {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{request}: no head"));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = &bytes[end + 4..];
        let body = if chunked { dechunk(body) } else { body.to_vec() };
        Exchange { status, headers, body: read(&body) }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What a request line cannot hold as it is.
fn escaped(c: char) -> String {
    match c {
        '"' | '{' | '}' | '[' | ']' => format!("%{:02X}", c as u32),
        c => c.to_string(),
    }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..end]);
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || bytes.len() < end + 2 + size {
            break;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    out
}

fn read(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().collect();
    match values {
        Ok(mut values) if values.len() == 1 => values.remove(0),
        Ok(values) if !values.is_empty() => serde_json::json!({"stream": values}),
        _ if bytes.len() > 512 && bytes.windows(5).any(|w| w == b"ustar") => serde_json::json!({"tar": true}),
        _ => serde_json::json!({"text": bytes.iter().map(|b| char::from(*b)).collect::<String>()}),
    }
}
