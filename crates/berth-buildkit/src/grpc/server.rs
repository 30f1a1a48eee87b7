//! We answer.

use super::{Messages, PING_SECONDS, PONG_SECONDS, Status, WAITING_MAX, framed};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Calls at the same time on one connection.
const CALLS_MAX: u32 = 128;

/// What is sent back: messages and trailers.
pub type Reply = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

/// A call that came in.
pub struct Call {
    head: hyper::http::request::Parts,
    messages: Messages<Incoming>,
}

impl Call {
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    pub fn headers(&self) -> &hyper::HeaderMap {
        &self.head.headers
    }

    /// What the caller sent beside its messages.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn metadata_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// The next message; `None` once the caller has no more.
    pub async fn next<M: prost::Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.messages.next().await
    }

    /// The one message of a call that has one.
    pub async fn only<M: prost::Message + Default>(&mut self) -> Result<M, Status> {
        self.next().await?.ok_or_else(|| Status::internal("a call without its message"))
    }
}

/// The answer of a call that has one message.
pub fn reply<M: prost::Message>(outcome: Result<M, Status>) -> Reply {
    let (message, end) = match outcome {
        Ok(message) => (Some(Ok(Frame::data(framed(&message)))), Ok(())),
        Err(status) => (None, Err(status)),
    };
    let frames = message.into_iter().chain([Ok(Frame::trailers(Status::trailers(end)))]);
    answer(StreamBody::new(futures_util::stream::iter(frames)))
}

/// A sender of the answer's messages; it closes when the caller goes.
pub struct Answers<M>(mpsc::Sender<Frame<Bytes>>, std::marker::PhantomData<fn(M)>);

impl<M: prost::Message> Answers<M> {
    /// Fails where nobody listens any more.
    pub async fn send(&self, message: M) -> Result<(), Status> {
        let sent = self.0.send(Frame::data(framed(&message))).await;
        sent.map_err(|_| Status::new(super::Code::Cancelled, "the caller has gone"))
    }

    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The answer of a call that has many: `produce` sends them, and what it returns is how the call ended.
pub fn stream<M, F>(produce: impl FnOnce(Answers<M>) -> F) -> Reply
where
    M: prost::Message,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let ending = sender.clone();
    let work = produce(Answers(sender, std::marker::PhantomData));
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = ending.closed() => return,
        };
        // A caller that has gone wants no status.
        ending.send(Frame::trailers(Status::trailers(outcome))).await.ok();
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        Some((Ok::<_, Infallible>(frame), receiver))
    });
    answer(StreamBody::new(frames))
}

fn answer<B>(body: B) -> Reply
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut response = Response::new(body.boxed_unsync());
    let kind = hyper::header::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}

/// Answers calls until the connection ends. A call whose stream the caller resets is dropped where it is.
pub async fn serve<IO, S, F>(io: IO, service: Arc<S>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let handler = hyper::service::service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move {
            let (head, body) = request.into_parts();
            Ok::<_, Infallible>(service(Call { head, messages: Messages::new(body) }).await)
        }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_MAX)
        .keep_alive_interval(Duration::from_secs(PING_SECONDS))
        .keep_alive_timeout(Duration::from_secs(PONG_SECONDS))
        .serve_connection(TokioIo::new(io), handler)
        .await;
    if let Err(cause) = served {
        tracing::debug!(%cause, "a gRPC connection ended");
    }
}
