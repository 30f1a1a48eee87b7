//! `/containers` and `/exec`.

use axum::Router;
use axum::body::Body;
use berth_engine::Engine;
use bytes::Bytes;
use std::future::Future;
use tokio::sync::mpsc;

mod summary;

pub(crate) use summary::render_summary;

/// Chunks between a producer and a slow client; more would only hide that it is slow.
const CHUNKS_MAX: usize = 16;

pub(crate) fn router() -> Router<Engine> {
    Router::new()
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
