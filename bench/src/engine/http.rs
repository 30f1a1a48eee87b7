//! The least of an HTTP/1.1 client: one request at a time on one connection.

use crate::Outcome;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> Outcome<Connection> {
        Ok(Connection { stream: BufReader::new(UnixStream::connect(socket)?) })
    }

    /// The body of an answer with a good status.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: Option<&str>) -> Outcome<Vec<u8>> {
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let code: u16 = status.split(' ').nth(1).ok_or("no status")?.parse()?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(self.line()?.trim(), 16)?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                answer.extend_from_slice(&chunk[..size]);
            }
        } else if !matches!(code, 204 | 304) {
            answer.resize(length.ok_or("an answer without length")?, 0);
            self.stream.read_exact(&mut answer)?;
        }
        match code {
            200..=299 | 304 => Ok(answer),
            _ => Err(format!("{method} {path}: {code} {}", String::from_utf8_lossy(&answer)).into()),
        }
    }

    /// A new container's id.
    pub(crate) fn create(&mut self, body: &str) -> Outcome<String> {
        let answer: serde_json::Value =
            serde_json::from_slice(&self.call("POST", "/v1.41/containers/create", Some(body))?)?;
        Ok(answer["Id"].as_str().ok_or("no Id")?.to_owned())
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("the engine closed the connection".into());
        }
        Ok(line.trim_end().to_owned())
    }
}
