//! Attach and exec: after its answer the connection carries raw bytes both ways.
//!
//! Such a connection is opened apart, with plain blocking sockets: two threads then move the bytes
//! (`session.rs`), so neither direction ever waits for the other and neither for a signal.

use super::Client;
use super::endpoint::Address;
use crate::error::{CliError, Result};
use crate::value::Value;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// An answer's head is far smaller; more is no HTTP.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The engine answers at once or is stuck.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) enum Raw {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Raw {
    pub(crate) fn try_clone(&self) -> io::Result<Raw> {
        Ok(match self {
            Raw::Unix(s) => Raw::Unix(s.try_clone()?),
            Raw::Tcp(s) => Raw::Tcp(s.try_clone()?),
        })
    }

    /// Tells the other side that no more input comes; its output still does.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        match self {
            Raw::Unix(s) => s.shutdown(Shutdown::Write),
            Raw::Tcp(s) => s.shutdown(Shutdown::Write),
        }
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Raw::Unix(s) => s.set_read_timeout(timeout),
            Raw::Tcp(s) => s.set_read_timeout(timeout),
        }
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Raw::Unix(s) => s.read(buffer),
            Raw::Tcp(s) => s.read(buffer),
        }
    }
}

impl Write for Raw {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Raw::Unix(s) => s.write(data),
            Raw::Tcp(s) => s.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that has become a stream.
#[derive(Debug)]
pub(crate) struct Hijacked {
    pub(crate) raw: Raw,
    /// Output that came in one piece with the answer's head.
    pub(crate) early: Vec<u8>,
}

impl Client {
    pub(crate) async fn hijack(&self, path: &str, body: Option<&serde_json::Value>) -> Result<Hijacked> {
        let io_error = |e| CliError::io(format!("the connection to the engine at {} broke", self.endpoint), e);
        // Starts the engine or explains its absence, then goes on by itself.
        let mut raw = match &self.endpoint.address {
            Address::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => Raw::Unix(stream),
                Err(_) => {
                    drop(self.endpoint.open().await?);
                    Raw::Unix(UnixStream::connect(path).map_err(io_error)?)
                }
            },
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).map_err(io_error)?;
                stream.set_nodelay(true).map_err(io_error)?;
                Raw::Tcp(stream)
            }
            Address::Tls(..) | Address::Ssh(_) | Address::Via(..) => {
                Raw::Unix(self.endpoint.bridged().map_err(io_error)?)
            }
        };
        let body = body.map(serde_json::Value::to_string).unwrap_or_default();
        // Our own API has its version in the path, and its streams change nothing.
        let target = match path.starts_with("/api/") {
            true => format!("GET {path}"),
            false => format!("POST /v{}{path}", self.api_version()),
        };
        let request = format!(
            "{target} HTTP/1.1\r\nHost: berth\r\nUser-Agent: berth/{}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        raw.write_all(request.as_bytes()).map_err(io_error)?;
        raw.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(io_error)?;
        let (status, early) = read_head(&mut raw).map_err(io_error)?;
        match status {
            101 | 200 => {
                raw.set_read_timeout(None).map_err(io_error)?;
                Ok(Hijacked { raw, early })
            }
            status => Err(refusal(status, raw, early)),
        }
    }
}

/// The status and what follows the head.
fn read_head(raw: &mut Raw) -> io::Result<(u16, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = raw.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(&buffer[..n]);
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
            let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))?;
            return Ok((status, seen.split_off(end + 4)));
        }
        if seen.len() > HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"));
        }
    }
}

/// Reads the error's JSON, whatever way its length is given.
fn refusal(status: u16, mut raw: Raw, mut body: Vec<u8>) -> CliError {
    let mut buffer = [0; 4096];
    loop {
        let json = body.iter().position(|b| *b == b'{').map(|at| &body[at..]).unwrap_or_default();
        if let Some(Ok(value)) = serde_json::Deserializer::from_slice(json).into_iter::<Value>().next() {
            return super::told(status, value.text("message"), &value);
        }
        match raw.read(&mut buffer) {
            Ok(n) if n > 0 && body.len() < HEAD_BYTES_MAX => body.extend_from_slice(&buffer[..n]),
            _ => {
                let message = format!("{status} {}", String::from_utf8_lossy(&body).trim());
                return CliError::Engine { status, message: message.trim().to_owned(), hint: None };
            }
        }
    }
}
