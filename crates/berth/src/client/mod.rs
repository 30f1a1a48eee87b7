//! The Docker Engine API over one socket.
//!
//! ```text
//! bridge.rs     ssh:// and TLS, as a plain stream
//! endpoint.rs   unix://, tcp:// or ssh:// from flags, environment and contexts
//! mod.rs        request -> answer; a finished connection is kept for the next request
//! body.rs       what is sent: nothing, JSON, or a file or pipe as it is read
//! hijack.rs     attach and exec: the connection turns into raw streams
//! demux.rs      stdout and stderr out of one stream
//! ```
//!
//! One thread, one connection at a time unless requests overlap. Paths carry `/v1.51` (or
//! `DOCKER_API_VERSION`), without the extra `_ping` by which Docker's client asks for the version first:
//! an engine too old for it says so, and the number it names is used from then on.

pub(crate) mod body;
mod bridge;
pub(crate) mod demux;
pub(crate) mod endpoint;
pub(crate) mod hijack;

use crate::error::{CliError, Result};
use crate::value::Value;
use body::Body;
use endpoint::Endpoint;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The version whose fields this program knows.
const API_VERSION: &str = "1.51";
/// An answer that is kept whole in memory is not larger than this; tar streams never are kept.
const ANSWER_BYTES_MAX: usize = 256 << 20;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    version: RefCell<String>,
    idle: RefCell<Vec<SendRequest<Body>>>,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Client {
        let version = std::env::var("DOCKER_API_VERSION").ok().filter(|v| !v.is_empty());
        let version = version.unwrap_or_else(|| API_VERSION.to_owned());
        Client { endpoint, version: RefCell::new(version), idle: RefCell::new(Vec::new()) }
    }

    pub(crate) fn api_version(&self) -> String {
        self.version.borrow().clone()
    }

    async fn connection(&self) -> Result<SendRequest<Body>> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            match idle {
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let stream = self.endpoint.open().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        tokio::spawn(async move {
            // What goes wrong here also reaches the request that waits for it.
            drop(connection.with_upgrades().await);
        });
        Ok(sender)
    }

    fn broken(&self, error: &hyper::Error) -> CliError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        CliError::failed(format!("the connection to the engine at {} broke: {cause}", self.endpoint))
    }

    /// Sends a request and returns the answer when its head is there and it is not an error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer<'_>> {
        let replayable = body.is_replayable();
        let retry = if replayable { body.copy() } else { None };
        match self.send_once(method.clone(), path, headers, body).await {
            Err(CliError::Engine { status: 400, message, hint }) => match (older_version(&message), retry) {
                (Some(version), Some(body)) if version != *self.version.borrow() => {
                    self.version.replace(version);
                    self.send_once(method, path, headers, body).await
                }
                _ => Err(CliError::Engine { status: 400, message, hint }),
            },
            other => other,
        }
    }

    async fn send_once(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Result<Answer<'_>> {
        let mut sender = self.connection().await?;
        // Our own API has its version in the path.
        let uri =
            if path.starts_with("/api/") { path.to_owned() } else { format!("/v{}{path}", self.version.borrow()) };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("Host", "berth")
            .header("User-Agent", concat!("berth/", env!("CARGO_PKG_VERSION")));
        if let Some(kind) = body.content_type() {
            request = request.header("Content-Type", kind);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(body).map_err(|e| CliError::failed(format!("cannot make a request for {path}: {e}")))?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        let status = response.status().as_u16();
        let answer = Answer { client: self, sender: Some(sender), response };
        if status >= 400 {
            return Err(answer.into_error().await);
        }
        Ok(answer)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        self.send(Method::GET, path, &[], Body::empty()).await?.bytes().await
    }

    pub(crate) async fn get_value(&self, path: &str) -> Result<Value> {
        Ok(Value::parse(&self.get(path).await?)?)
    }

    pub(crate) async fn post(&self, path: &str) -> Result<Vec<u8>> {
        self.send(Method::POST, path, &[], Body::empty()).await?.bytes().await
    }

    pub(crate) async fn post_json(&self, path: &str, json: &serde_json::Value) -> Result<Value> {
        let body = Body::json(json);
        let bytes = self.send(Method::POST, path, &[], body).await?.bytes().await?;
        if bytes.is_empty() { Ok(Value::Null) } else { Ok(Value::parse(&bytes)?) }
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Vec<u8>> {
        self.send(Method::DELETE, path, &[], Body::empty()).await?.bytes().await
    }

    /// Whether an engine answers, within `deadline`.
    pub(crate) async fn ping(&self, deadline: Duration) -> bool {
        let ping = self.send(Method::GET, "/_ping", &[], Body::empty());
        matches!(tokio::time::timeout(deadline, ping).await, Ok(Ok(_)))
    }
}

/// "client version 1.51 is too new. Maximum supported API version is 1.41" -> 1.41
fn older_version(message: &str) -> Option<String> {
    let (_, version) = message.split_once("Maximum supported API version is ")?;
    let version: String = version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    Some(version.trim_end_matches('.').to_owned())
}

/// An answer whose head has arrived.
pub(crate) struct Answer<'c> {
    client: &'c Client,
    sender: Option<SendRequest<Body>>,
    response: Response<Incoming>,
}

impl Answer<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The whole body; the connection is free again afterwards.
    pub(crate) async fn bytes(mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if out.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CliError::failed("the engine's answer is larger than 256 MiB"));
            }
            out.extend_from_slice(&chunk);
        }
        if let Some(sender) = self.sender.take() {
            self.client.idle.borrow_mut().push(sender);
        }
        Ok(out)
    }

    /// The next piece of the body as it comes.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            return match self.response.body_mut().frame().await {
                None => Ok(None),
                Some(Err(e)) => Err(self.client.broken(&e)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Ok(Some(data)),
                    Err(_trailers) => continue,
                },
            };
        }
    }

    /// The next JSON value of a stream of them, one per line or simply one behind the other.
    pub(crate) async fn json(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Value>> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(buffer).into_iter::<Value>();
            match values.next() {
                Some(Ok(value)) => {
                    let used = values.byte_offset();
                    buffer.drain(..used);
                    return Ok(Some(value));
                }
                Some(Err(e)) if !e.is_eof() => return Err(e.into()),
                _ => {}
            }
            if buffer.len() > ANSWER_BYTES_MAX {
                return Err(CliError::failed("the engine sent a message larger than 256 MiB"));
            }
            match self.chunk().await? {
                Some(chunk) => buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    async fn into_error(self) -> CliError {
        let status = self.response.status();
        let body = match self.bytes().await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let parsed = Value::parse(&body).unwrap_or_default();
        let message = match parsed.text("message") {
            "" => match String::from_utf8_lossy(&body).trim() {
                "" => status.to_string(),
                text => text.chars().take(1000).collect(),
            },
            message => message.to_owned(),
        };
        told(status.as_u16(), &message, &parsed)
    }
}

/// An engine's refusal; our own API says causes and hint apart.
fn told(status: u16, message: &str, answer: &Value) -> CliError {
    let (message, hint) = split_hint(message);
    let causes = answer.get("causes").list().iter().map(Value::str);
    let message = std::iter::once(message.as_str()).chain(causes).collect::<Vec<_>>().join(": ");
    let hint = hint.or(Some(answer.text("hint").to_owned()).filter(|hint| !hint.is_empty()));
    CliError::Engine { status, message, hint }
}

/// The engine puts its hint on a line of its own behind the message.
fn split_hint(message: &str) -> (String, Option<String>) {
    match message.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (message.to_owned(), None),
    }
}

/// A path segment or query value with everything but letters, digits and `-._~` escaped.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An image name in a path keeps its slashes and colon.
pub(crate) fn encode_name(text: &str) -> String {
    encode(text).replace("%2F", "/").replace("%3A", ":").replace("%40", "@")
}

/// `path?a=b&c=d`, leaving out empty values.
pub(crate) fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        query.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", encode(v))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Answers each connection's requests with the given bytes, in order. Only what a client must cope
    /// with is tested against it; the real engine is what the commands are tested with.
    fn serve(name: &str, answers: Vec<&'static str>) -> String {
        let path = std::env::temp_dir().join(format!("berth-client-{}-{name}.sock", std::process::id()));
        let _gone = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut seen = Vec::new();
                let mut byte = [0];
                while !seen.ends_with(b"\r\n\r\n") {
                    if stream.read(&mut byte).unwrap() == 0 {
                        return;
                    }
                    seen.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        format!("unix://{}", path.display())
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn one_connection_serves_several_requests() {
        let host = serve(
            "reuse",
            vec![
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n",
            ],
        );
        run(async {
            let client = Client::new(Endpoint::parse(&host).unwrap());
            assert_eq!(client.get("/_ping").await.unwrap(), b"OK");
            assert_eq!(client.get_value("/x").await.unwrap(), Value::Map(vec![]));
        });
    }

    #[test]
    fn an_error_keeps_the_engines_words_and_its_hint() {
        let host = serve(
            "error",
            vec![
                "HTTP/1.1 404 Not Found\r\nContent-Length: 53\r\n\r\n{\"message\":\"No such container: x\\nhint: look around\"}",
            ],
        );
        run(async {
            let client = Client::new(Endpoint::parse(&host).unwrap());
            let error = client.get("/containers/x/json").await.unwrap_err();
            assert_eq!(error.to_string(), "Error response from daemon: No such container: x");
            assert_eq!((error.hint(), error.status()), (Some("look around"), Some(404)));
        });
    }

    #[test]
    fn an_older_engine_is_asked_again_in_its_own_version() {
        let host = serve(
            "older",
            vec![
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 90\r\n\r\n{\"message\":\"client version 1.51 is too new. Maximum supported API version is 1.41, sorry\"}",
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
            ],
        );
        run(async {
            let client = Client::new(Endpoint::parse(&host).unwrap());
            assert_eq!(client.get("/_ping").await.unwrap(), b"OK");
            assert_eq!(client.api_version(), "1.41");
        });
    }

    #[test]
    fn a_connection_that_breaks_is_an_error_with_its_address() {
        let host = serve("broken", vec!["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"]);
        run(async {
            let client = Client::new(Endpoint::parse(&host).unwrap());
            let error = client.get("/x").await.unwrap_err();
            assert!(error.to_string().contains("broke"), "{error}");
        });
    }

    #[test]
    fn queries_escape_what_is_not_plain() {
        assert_eq!(with_query("/x", &[("a", "b c&d"), ("e", "")]), "/x?a=b%20c%26d");
        assert_eq!(encode_name("reg:5000/a/b:1@sha256:x"), "reg:5000/a/b:1@sha256:x");
    }
}
