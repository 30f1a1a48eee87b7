//! We ask.

use super::{Code, Messages, PING_SECONDS, PONG_SECONDS, Status, WAITING_MAX, framed};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderValue, TE};
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// A connection that calls are made on; clones share it.
#[derive(Clone)]
pub struct Channel(SendRequest<Body>);

impl Channel {
    /// A channel over `io`, and what has to run as long as it is used; that ends when the other side goes.
    pub async fn open<IO>(io: IO) -> Result<(Channel, impl Future<Output = ()> + Send), Status>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(PING_SECONDS))
            .keep_alive_timeout(Duration::from_secs(PONG_SECONDS))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(io))
            .await;
        let (sender, connection) = opened.map_err(|cause| left(&cause))?;
        let ended = async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "a gRPC connection ended");
            }
        };
        Ok((Channel(sender), ended))
    }

    /// One message, one answer.
    pub async fn call<Q, A>(&self, path: &str, metadata: HeaderMap, message: &Q) -> Result<A, Status>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let (sending, mut replies) = self.converse(path, metadata);
        sending.send(message).await?;
        drop(sending);
        let answer = replies.next().await?;
        // The status is behind the answer.
        replies.end().await?;
        answer.ok_or_else(|| Status::internal("an answer without its message"))
    }

    /// Messages in both directions. Dropping [`Sending`] says that there are no more; dropping [`Replies`] cancels.
    pub fn converse(&self, path: &str, metadata: HeaderMap) -> (Sending, Replies) {
        let (sender, receiver) = mpsc::channel::<Bytes>(WAITING_MAX);
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
        });
        let mut request = Request::new(StreamBody::new(frames).boxed_unsync());
        *request.method_mut() = Method::POST;
        *request.headers_mut() = metadata;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        let opening: BoxFuture<'static, _> = match format!("http://localhost{path}").parse() {
            Ok(uri) => {
                *request.uri_mut() = uri;
                let answered = self.0.clone().send_request(request);
                Box::pin(async move { answered.await.map_err(|cause| left(&cause)) })
            }
            Err(cause) => {
                let status = Status::internal(format!("{path} is no call: {cause}"));
                Box::pin(async move { Err(status) })
            }
        };
        (Sending(sender), Replies(State::Opening(opening)))
    }
}

fn left(cause: &hyper::Error) -> Status {
    Status::new(Code::Unavailable, format!("the client has gone: {cause}"))
}

/// The asking side's messages.
pub struct Sending(mpsc::Sender<Bytes>);

impl Sending {
    /// Fails where the other side wants no more; why is in its replies.
    pub async fn send<M: prost::Message>(&self, message: &M) -> Result<(), Status> {
        let sent = self.0.send(framed(message)).await;
        sent.map_err(|_| Status::new(Code::Unavailable, "the client wants no more of this call"))
    }
}

enum State {
    Opening(BoxFuture<'static, Result<Response<Incoming>, Status>>),
    Open(Messages<Incoming>),
}

/// The other side's messages.
pub struct Replies(State);

impl Replies {
    /// The next message; `None` once the call ended well.
    pub async fn next<M: prost::Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let messages = self.open().await?;
        if let Some(message) = messages.next().await? {
            return Ok(Some(message));
        }
        match &messages.trailers {
            Some(trailers) => Status::read(trailers).map(|()| None),
            None => Err(Status::new(Code::Unavailable, "the client left in the middle of a call")),
        }
    }

    /// Waits for the end, whatever comes before it.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.next::<crate::proto::Empty>().await?.is_some() {}
        Ok(())
    }

    async fn open(&mut self) -> Result<&mut Messages<Incoming>, Status> {
        if let State::Opening(opening) = &mut self.0 {
            let response = opening.await?;
            let status = response.status();
            if status != hyper::StatusCode::OK {
                return Err(Status::new(Code::Unavailable, format!("the client answered {status}")));
            }
            let (head, body) = response.into_parts();
            let mut messages = Messages::new(body);
            // An answer without messages has its status in its head.
            if head.headers.contains_key("grpc-status") {
                messages.trailers = Some(head.headers);
            }
            self.0 = State::Open(messages);
        }
        match &mut self.0 {
            State::Open(messages) => Ok(messages),
            State::Opening(_) => Err(Status::internal("a call that is not open")),
        }
    }
}
