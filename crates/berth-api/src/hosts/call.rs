//! Calls to another engine. A connection whose answer has been read is kept for the next call: by ssh a new one
//! takes longer than most answers.

use super::dial::Far;
use super::ssh::Words;
use axum::body::Body;
use berth_types::{Error, ErrorKind, Result};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const IDLE_MAX: usize = 4;
/// Less than the other side waits for the next head.
const IDLE: Duration = Duration::from_secs(8);
/// Until an answer begins; what takes longer is a task or a stream.
const ANSWER_SECONDS_MAX: u64 = 120;

/// What is shared by all calls to one host.
pub(super) struct Link {
    idle: Mutex<Vec<(SendRequest<Body>, Instant)>>,
    /// Changes when the host is given up: whoever waits for an answer is told.
    lost: watch::Sender<()>,
}

impl Default for Link {
    fn default() -> Link {
        Link { idle: Mutex::default(), lost: watch::Sender::new(()) }
    }
}

impl Link {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(SendRequest<Body>, Instant)>> {
        self.idle.lock().expect("no holder of this lock panics")
    }

    fn take(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle();
        idle.retain(|(sender, since)| since.elapsed() < IDLE && !sender.is_closed());
        idle.pop().map(|(sender, _)| sender)
    }

    fn put(&self, sender: SendRequest<Body>) {
        let mut idle = self.idle();
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        if idle.len() < IDLE_MAX {
            idle.push((sender, Instant::now()));
        }
    }

    /// Ends what is kept: it leads to where nobody answers.
    pub(super) fn forget(&self) {
        self.idle().clear();
    }

    /// The same, and ends what waits for an answer.
    pub(super) fn give_up(&self) {
        self.forget();
        self.lost.send_replace(());
    }
}

/// The host does not answer, and why.
pub(super) fn away(name: &str, cause: impl std::fmt::Display) -> Error {
    let mut error = Error::new(ErrorKind::Unavailable, format!("host {name} does not answer"));
    error.causes.push(cause.to_string());
    error.with_hint("its instances run on; look there whether the engine runs and can be reached")
}

impl Far {
    /// Sends one request; `user` and `role` are what it is asked as.
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        user: &str,
        role: &str,
        seconds: u64,
    ) -> Result<Response<Incoming>> {
        let headers = request.headers_mut();
        let target = self.host.address.split_once("://").map_or("", |(_, target)| target);
        let value = |text: &str| HeaderValue::from_str(text).map_err(|cause| away(&self.name, cause));
        headers.insert(HOST, value(target.rsplit_once('@').map_or(target, |(_, host)| host))?);
        if !self.host.token.is_empty() {
            headers.insert(AUTHORIZATION, value(&format!("Bearer {}", self.host.token))?);
        }
        headers.insert(HeaderName::from_static("x-berth-for"), value(user)?);
        headers.insert(HeaderName::from_static("x-berth-role"), value(role)?);
        let mut lost = self.link.lost.subscribe();
        let answered = tokio::select! {
            answered = tokio::time::timeout(Duration::from_secs(seconds), self.answer(request)) => answered,
            // Its sender is in `self`: it changes, or nothing comes.
            _ = lost.changed() => return Err(away(&self.name, "it went away meanwhile")),
        };
        let answered = answered.unwrap_or_else(|_| Err(away(&self.name, format!("no answer within {seconds} s"))));
        if answered.is_err() {
            self.link.forget();
        }
        answered
    }

    async fn answer(&self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        while let Some(mut sender) = self.link.take() {
            let again = repeated(&request);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(sender, response)),
                // Closed there just as it was taken: what was not sent, or changes nothing, is sent anew.
                Err(mut refused) => match refused.take_message().or(again) {
                    Some(unsent) => request = unsent,
                    None => return Err(away(&self.name, refused.into_error())),
                },
            }
        }
        let (pipe, words) = self.open().await?;
        let (mut sender, connection) = handshake(TokioIo::new(pipe)).await.map_err(|cause| away(&self.name, cause))?;
        tokio::spawn(async move {
            if let Err(cause) = connection.with_upgrades().await {
                tracing::debug!(%cause, "a connection to another host ended");
            }
        });
        match sender.send_request(request).await {
            Ok(response) => Ok(self.keep(sender, response)),
            Err(cause) => Err(self.explained(words, &cause).await),
        }
    }

    /// The program's own words where it has said some: hyper knows only that the bytes ended.
    async fn explained(&self, words: Words, cause: &hyper::Error) -> Error {
        match words.read().await {
            said if said.is_empty() => away(&self.name, cause),
            said => away(&self.name, said),
        }
    }

    fn keep(&self, mut sender: SendRequest<Body>, response: Response<Incoming>) -> Response<Incoming> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let link: Arc<Link> = self.link.clone();
            tokio::spawn(async move {
                // Ready once the answer has been read to its end; never, where it was left.
                if sender.ready().await.is_ok() {
                    link.put(sender);
                }
            });
        }
        response
    }

    pub(crate) async fn pass_on(&self, request: Request<Body>, user: &str, role: &str) -> Result<Response<Incoming>> {
        self.send(request, user, role, ANSWER_SECONDS_MAX).await
    }
}

/// The same once more, where it only asks.
fn repeated(request: &Request<Body>) -> Option<Request<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}
