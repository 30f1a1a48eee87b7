//! `/containers` and `/exec`.

use axum::Router;
use axum::body::Body;
use berth_engine::Engine;
use berth_engine::containers::{ByteSource, ByteStream};
use berth_types::Error;
use bytes::Bytes;
use std::future::Future;
use tokio::sync::mpsc;

mod archive;
mod attach;
mod clones;
mod create;
mod exec;
mod inspect;
mod lifecycle;
mod logs;
mod stats;
mod summary;

pub(crate) use summary::render_summary;

/// Chunks between a producer and a slow client; more would only hide that it is slow.
const CHUNKS_MAX: usize = 16;

pub(crate) fn router() -> Router<Engine> {
    Router::new()
        .merge(archive::router())
        .merge(attach::router())
        .merge(clones::router())
        .merge(create::router())
        .merge(exec::router())
        .merge(inspect::router())
        .merge(lifecycle::router())
        .merge(logs::router())
        .merge(stats::router())
}

/// A body whose chunks `produce` sends. The producer sees the sender close when the client goes.
pub(crate) fn stream_body<F: Future<Output = ()> + Send + 'static>(
    produce: impl FnOnce(mpsc::Sender<Bytes>) -> F,
) -> Body {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::spawn(produce(sender));
    Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), receiver))
    }))
}

/// A tar archive from the engine as a body; an error cuts the connection, so that a client sees it is not whole.
pub(crate) fn archive_body(stream: ByteStream) -> Body {
    Body::from_stream(futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((chunk.map_err(std::io::Error::other), stream))
    }))
}

/// What is read of a body that the engine has no use for any more. A client that still writes would never see the
/// answer that says why if its connection were cut.
const UNWANTED_BYTES_MAX: usize = 4 << 30;

/// A request's body as the engine reads it.
pub(crate) fn byte_source(body: Body) -> ByteSource {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::spawn(async move {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = futures_util::StreamExt::next(&mut chunks).await {
            let chunk = chunk.map_err(|cause| Error::invalid(format!("request body is cut off: {cause}")));
            let ended = chunk.is_err();
            if sender.send(chunk).await.is_err() {
                return drain(chunks).await;
            }
            if ended {
                return;
            }
        }
    });
    receiver
}

async fn drain(mut chunks: axum::body::BodyDataStream) {
    let mut read = 0;
    while let Some(Ok(chunk)) = futures_util::StreamExt::next(&mut chunks).await {
        read += chunk.len();
        if read > UNWANTED_BYTES_MAX {
            return;
        }
    }
}
