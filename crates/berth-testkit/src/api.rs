//! The engine's socket without a client in between: requests as they are sent, answers as they come.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Response {
    pub request: String,
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What an error says.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Panics with everything said unless the status is `wanted`.
    #[track_caller]
    pub fn expect(self, wanted: u16) -> Response {
        assert_eq!(self.status, wanted, "{}: {}", self.request, self.text());
        self
    }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: berth\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head
}

/// Connects and sends; the answer's head has been read, its body not.
pub struct Exchange {
    reader: BufReader<UnixStream>,
    response: Response,
}

impl Exchange {
    /// `None` where the engine is not there, or goes before it has answered.
    pub fn begin(
        socket: &Path,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        patience: Duration,
    ) -> Option<Exchange> {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        stream.set_write_timeout(Some(patience)).ok()?;
        let length = body.len().to_string();
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        if !headers.iter().any(|(name, _)| ["transfer-encoding", "content-length"].contains(&&*name.to_lowercase())) {
            all.push(("Content-Length", &length));
        }
        stream.write_all(head(method, path, &all).as_bytes()).ok()?;
        // An engine that refuses early does not read the rest; its answer counts all the same.
        drop(stream.write_all(body));
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let response = Response { request: format!("{method} {path}"), status, headers, body: Vec::new() };
        Some(Exchange { reader, response })
    }

    pub fn status(&self) -> u16 {
        self.response.status
    }

    /// The raw connection after the head: a hijacked stream.
    pub fn stream(&mut self) -> &mut BufReader<UnixStream> {
        &mut self.reader
    }

    /// Reads the body; `None` where it is cut off.
    pub fn finish(mut self) -> Option<Response> {
        let chunked = self.response.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let length = self.response.header("content-length").and_then(|text| text.parse::<usize>().ok());
        let mut body = Vec::new();
        if chunked {
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line).ok()?;
                let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
                let start = body.len();
                body.resize(start + size, 0);
                self.reader.read_exact(&mut body[start..]).ok()?;
                self.reader.read_line(&mut line).ok()?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = length {
            body.resize(length, 0);
            self.reader.read_exact(&mut body).ok()?;
        } else if !matches!(self.response.status, 204 | 304) {
            self.reader.read_to_end(&mut body).ok()?;
        }
        self.response.body = body;
        Some(self.response)
    }
}

/// An engine's socket by itself: for threads that go on while the engine is killed and started again.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(crate) socket: std::path::PathBuf,
}

impl Remote {
    /// `None` where the engine is not there, or goes before it has answered whole.
    pub fn try_api(&self, method: &str, path: &str, body: &str) -> Option<Response> {
        let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
        Exchange::begin(&self.socket, method, path, headers, body.as_bytes(), crate::deadline())?.finish()
    }

    /// The same with an archive as its body.
    pub fn try_archive(&self, method: &str, path: &str, archive: &[u8]) -> Option<Response> {
        let headers = [("Content-Type", "application/x-tar")];
        Exchange::begin(&self.socket, method, path, &headers, archive, crate::deadline())?.finish()
    }
}

/// Output of a stream without a terminal: `(stream, bytes)` per frame, until it ends.
pub fn frames(mut reader: impl Read) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let mut header = [0_u8; 8];
    while reader.read_exact(&mut header).is_ok() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut bytes = vec![0_u8; length as usize];
        if reader.read_exact(&mut bytes).is_err() {
            break;
        }
        all.push((header[0], bytes));
    }
    all
}
