//! Requests and answers over kept connections, redirects, silence, and the bytes that travel.
//!
//! HTTP/1.1 with a connection for every transfer that runs at the same time: layers then share nothing that one of
//! them could block. A kept connection that turns out to be closed is replaced without telling anybody.

use crate::config::Config;
use crate::connect::{self, Connected};
use crate::proxy::Proxy;
use crate::tls::Tls;
use crate::url::{self, Origin};
use crate::{ConnectError, RegistryError, error};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// Connections kept per origin, and how long: shorter than servers keep them.
const IDLE_MAX: usize = 8;
const IDLE_SECONDS_MAX: u64 = 45;
/// Of an answer that only says no.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;
/// Of the connection's read buffer: large reads are few system calls.
const READ_BUFFER_BYTES: usize = 512 << 10;

/// Bytes to send that can be read again from anywhere: what a resumed upload needs.
pub trait Source: Send + Sync {
    /// `length` bytes from `offset` on; without a length all there are, also those that are still to come.
    fn open(&self, offset: u64, length: Option<u64>) -> BoxStream<'static, io::Result<Bytes>>;
}

#[derive(Clone)]
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    /// Without a length it goes out in chunks.
    Source {
        source: Arc<dyn Source>,
        offset: u64,
        length: Option<u64>,
    },
}

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// One request.
#[derive(Clone)]
pub(crate) struct Call {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub payload: Payload,
    /// How long nothing may happen before the answer's head comes.
    pub patience: Option<Duration>,
}

impl Call {
    pub(crate) fn new(method: Method, uri: Uri) -> Call {
        Call { method, uri, headers: HeaderMap::new(), payload: Payload::Empty, patience: None }
    }

    /// A header; a value that cannot be one is left out, which only our own mistakes are.
    #[must_use]
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Call {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    #[must_use]
    pub(crate) fn sending(mut self, payload: Payload) -> Call {
        self.payload = payload;
        self
    }
}

struct Idle {
    sender: SendRequest<RequestBody>,
    through: Option<Proxy>,
    since: Instant,
}

type Pool = Arc<Mutex<HashMap<Origin, Vec<Idle>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Http {
    config: Arc<Config>,
    tls: Tls,
    pool: Pool,
    /// Whether an insecure `host[:port]` speaks TLS, once that is known.
    speaks_tls: Mutex<HashMap<String, bool>>,
}

impl Http {
    pub(crate) fn new(config: Arc<Config>) -> Http {
        let tls = Tls::new(&config.certificate_folders);
        Http { config, tls, pool: Pool::default(), speaks_tls: Mutex::default() }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    fn is_insecure(&self, origin: &Origin) -> bool {
        self.config.is_insecure(&origin.shown()) || self.config.is_insecure(&origin.authority())
    }

    /// Whether the insecure registry at `host` speaks TLS: it is asked once.
    pub(crate) async fn speaks_tls(&self, host: &str) -> Result<bool, RegistryError> {
        if let Some(known) = lock(&self.speaks_tls).get(host) {
            return Ok(*known);
        }
        let origin = Origin::of(&url::parse(&format!("https://{host}/"))?).expect("parsed as https");
        let tls = match self.dial(&origin).await {
            Ok(idle) => {
                self.keep(&origin, idle);
                true
            }
            // Something answers there, but not in TLS.
            Err(RegistryError::Connect { cause: ConnectError::Tls(..), .. }) => false,
            // With an explicit port nothing else can answer; without one it may be port 80.
            Err(cause @ RegistryError::Connect { .. }) if host.rsplit_once(':').is_some() => return Err(cause),
            Err(_) => return Ok(false),
        };
        lock(&self.speaks_tls).insert(host.to_owned(), tls);
        Ok(tls)
    }

    /// Forgets what [`Http::speaks_tls`] found out: the registry may have changed.
    pub(crate) fn forget(&self, host: &str) {
        lock(&self.speaks_tls).remove(host);
    }

    async fn dial(&self, origin: &Origin) -> Result<Idle, RegistryError> {
        let Connected { stream, through } =
            connect::connect(&self.config, &self.tls, origin, self.is_insecure(origin)).await?;
        let shaken = http1::Builder::new().max_buf_size(READ_BUFFER_BYTES).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|cause| broken(origin, &cause))?;
        tokio::spawn(async move {
            // What goes wrong here also reaches the request that waits for it.
            drop(connection.await);
        });
        Ok(Idle { sender, through, since: Instant::now() })
    }

    fn keep(&self, origin: &Origin, idle: Idle) {
        keep(&self.pool, origin, idle);
    }

    fn idle(&self, origin: &Origin) -> Option<Idle> {
        let mut pool = lock(&self.pool);
        let kept = pool.get_mut(origin)?;
        kept.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed().as_secs() < IDLE_SECONDS_MAX);
        kept.pop()
    }

    /// Sends `call` and answers when the head of its answer is there, whatever its status.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, RegistryError> {
        let origin = Origin::of(&call.uri).ok_or_else(|| RegistryError::Configuration {
            what: format!("URL {}", call.uri),
            why: "neither http:// nor https://".to_owned(),
        })?;
        // Servers close kept connections at any time: a failure on one of them says nothing about the server.
        while let Some(mut idle) = self.idle(&origin) {
            if idle.sender.ready().await.is_err() {
                continue;
            }
            let activity = Arc::new(AtomicU64::new(0));
            match self.exchange(idle, &origin, call.clone(), &activity).await {
                // Of an upload some bytes may have arrived: who sends it asks how many.
                Err(RegistryError::Broken { .. }) if activity.load(Ordering::Relaxed) == 0 => {}
                other => return other,
            }
        }
        let idle = self.dial(&origin).await?;
        self.exchange(idle, &origin, call, &Arc::default()).await
    }

    /// `activity` counts the pieces of the body that go out.
    async fn exchange(
        &self,
        mut idle: Idle,
        origin: &Origin,
        call: Call,
        activity: &Arc<AtomicU64>,
    ) -> Result<Answer, RegistryError> {
        let host = origin.shown();
        let patience = call.patience.unwrap_or(self.config.silence_timeout);
        let target = match &idle.through {
            Some(_) => call.uri.clone(),
            None => call.uri.path_and_query().map_or("/", |path| path.as_str()).parse().expect("it was part of a URL"),
        };
        let mut request = Request::builder().method(call.method.clone()).uri(target);
        if let Some(headers) = request.headers_mut() {
            *headers = call.headers;
            let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
            headers.insert(header::HOST, value(&host));
            headers.insert(header::USER_AGENT, value(&self.config.user_agent));
            if let Some(authorization) = idle.through.as_ref().and_then(|proxy| proxy.authorization.as_deref()) {
                headers.insert(header::PROXY_AUTHORIZATION, value(authorization));
            }
            let length = match &call.payload {
                Payload::Empty if matches!(call.method, Method::GET | Method::HEAD) => None,
                Payload::Empty => Some(0),
                Payload::Bytes(bytes) => Some(bytes.len() as u64),
                Payload::Source { length, .. } => *length,
            };
            if let Some(length) = length {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        let body = body(call.payload, activity.clone());
        let request = request.body(body).map_err(|cause| RegistryError::Configuration {
            what: format!("request to {host}"),
            why: cause.to_string(),
        })?;
        let mut sending = std::pin::pin!(idle.sender.send_request(request));
        let mut seen = 0;
        let response = loop {
            match tokio::time::timeout(patience, &mut sending).await {
                Ok(Ok(response)) => break response,
                Ok(Err(cause)) => return Err(send_failed(origin, cause)),
                Err(_) => {
                    let now = activity.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(RegistryError::Silent { host, seconds: patience.as_secs() });
                    }
                    seen = now;
                }
            }
        };
        let (head, incoming) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            uri: call.uri,
            host,
            body: incoming,
            back: Some(Back { idle, origin: origin.clone(), pool: self.pool.clone() }),
            silence: self.config.silence_timeout,
        })
    }

    /// [`Http::send`], going where redirects lead. Credentials stay with the origin they were meant for.
    pub(crate) async fn follow(&self, mut call: Call) -> Result<Answer, RegistryError> {
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(call.clone()).await?;
            let moved = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.header(&header::LOCATION).filter(|_| moved).map(str::to_owned) else {
                return Ok(answer);
            };
            let host = answer.host.clone();
            let to = url::join(&call.uri, &location)?;
            answer.drain().await;
            let (from, next) = (Origin::of(&call.uri), Origin::of(&to));
            if let (Some(from), Some(next)) = (&from, &next)
                && from.tls
                && !next.tls
                && !self.is_insecure(next)
            {
                let why = format!("it redirects from https to plain http ({})", next.shown());
                return Err(RegistryError::Damaged { host, what: "answer".to_owned(), why });
            }
            if from != next {
                call.headers.remove(header::AUTHORIZATION);
            }
            call.uri = to;
        }
        Err(RegistryError::Redirects { host: Origin::of(&call.uri).map_or(String::new(), |origin| origin.shown()) })
    }
}

fn keep(pool: &Pool, origin: &Origin, idle: Idle) {
    let mut pool = lock(pool);
    let kept = pool.entry(origin.clone()).or_default();
    if kept.len() < IDLE_MAX {
        kept.push(Idle { since: Instant::now(), ..idle });
    }
}

fn body(payload: Payload, activity: Arc<AtomicU64>) -> RequestBody {
    match payload {
        Payload::Empty => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        Payload::Bytes(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
        Payload::Source { source, offset, length } => {
            let frames = source.open(offset, length).map(move |chunk| {
                activity.fetch_add(1, Ordering::Relaxed);
                chunk.map(Frame::data)
            });
            StreamBody::new(frames).boxed_unsync()
        }
    }
}

fn innermost(cause: &hyper::Error) -> String {
    let mut inner: &dyn std::error::Error = cause;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn broken(origin: &Origin, cause: &hyper::Error) -> RegistryError {
    let cause = io::Error::new(io::ErrorKind::UnexpectedEof, innermost(cause));
    RegistryError::Broken { host: origin.shown(), cause }
}

/// A body of ours that could not be read is not the registry's fault.
fn send_failed(origin: &Origin, cause: hyper::Error) -> RegistryError {
    if cause.is_user() {
        return RegistryError::Source(io::Error::other(innermost(&cause)));
    }
    broken(origin, &cause)
}

struct Back {
    idle: Idle,
    origin: Origin,
    pool: Pool,
}

/// An answer whose head is there.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Of the request that it answers, redirects followed.
    pub uri: Uri,
    pub host: String,
    body: Incoming,
    back: Option<Back>,
    silence: Duration,
}

impl Answer {
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn named(&self, name: &'static str) -> Option<&str> {
        self.header(&HeaderName::from_static(name))
    }

    /// The body's length, where the head says it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The next bytes; `None` at the body's proper end, after which the connection is kept.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match tokio::time::timeout(self.silence, self.body.frame()).await {
                Err(_) => {
                    return Err(RegistryError::Silent { host: self.host.clone(), seconds: self.silence.as_secs() });
                }
                Ok(None) => {
                    if let Some(back) = self.back.take() {
                        keep(&back.pool, &back.origin, back.idle);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(cause))) => {
                    let cause = io::Error::new(io::ErrorKind::UnexpectedEof, innermost(&cause));
                    return Err(RegistryError::Broken { host: self.host.clone(), cause });
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, unless it is longer than `limit_bytes`.
    pub(crate) async fn bytes(mut self, what: &str, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge { what: what.to_owned(), limit_bytes };
        if self.length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large());
        }
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (all.len() + chunk.len()) as u64 > limit_bytes {
                return Err(too_large());
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Reads the rest where that is short, so that the connection can be used again.
    pub(crate) async fn drain(self) {
        if self.length().is_none_or(|length| length <= REFUSAL_BYTES_MAX) {
            // Nobody needs the bytes; a connection that breaks is simply not kept.
            drop(self.bytes("answer", REFUSAL_BYTES_MAX).await);
        }
    }

    /// The registry's no in its own words.
    pub(crate) async fn refusal(self) -> RegistryError {
        let (host, status) = (self.host.clone(), self.status.as_u16());
        let retry_after_seconds = self.header(&header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let body = self.bytes("answer", REFUSAL_BYTES_MAX).await.unwrap_or_default();
        let mut reasons = error::reasons(&body);
        if reasons.is_empty() {
            reasons.extend(error::usual_reason(status));
        }
        RegistryError::Refused { host, status, reasons, retry_after_seconds }
    }
}
