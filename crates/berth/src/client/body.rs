//! What a request carries.

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Large enough that a stream of gigabytes is bound by the disk, small enough that a few are in flight.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 4;

pub(crate) enum Body {
    Whole { bytes: Option<Bytes>, json: bool },
    Stream { chunks: mpsc::Receiver<io::Result<Bytes>>, length: Option<u64> },
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::Whole { bytes: None, json: false }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Body {
        Body::Whole { bytes: Some(Bytes::from(value.to_string())), json: true }
    }

    /// Reads `source` on a thread of its own, a few chunks ahead of the socket.
    pub(crate) fn reader(mut source: impl Read + Send + 'static, length: Option<u64>) -> Body {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        std::thread::spawn(move || {
            loop {
                let mut buffer = vec![0; CHUNK_BYTES];
                let chunk = match source.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => {
                        buffer.truncate(n);
                        Ok(Bytes::from(buffer))
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => Err(e),
                };
                let failed = chunk.is_err();
                if sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        });
        Body::Stream { chunks, length }
    }

    /// What another thread writes, chunk by chunk.
    pub(crate) fn channel() -> (ChannelWriter, Body) {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        (ChannelWriter { sender, buffer: Vec::with_capacity(CHUNK_BYTES) }, Body::Stream { chunks, length: None })
    }

    pub(super) fn is_replayable(&self) -> bool {
        matches!(self, Body::Whole { .. })
    }

    pub(super) fn copy(&self) -> Option<Body> {
        match self {
            Body::Whole { bytes, json } => Some(Body::Whole { bytes: bytes.clone(), json: *json }),
            Body::Stream { .. } => None,
        }
    }

    pub(super) fn content_type(&self) -> Option<&'static str> {
        match self {
            Body::Whole { json: true, .. } => Some("application/json"),
            Body::Whole { .. } => None,
            Body::Stream { .. } => Some("application/x-tar"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Body::Whole { bytes, .. } => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream { chunks, .. } => chunks.poll_recv(cx).map(|c| c.map(|c| c.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole { bytes: None, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream { length: Some(n), .. } => SizeHint::with_exact(*n),
            Body::Stream { .. } => SizeHint::default(),
        }
    }
}

/// The writing end of [`Body::channel`]. What is not finished with `finish` ends as an error, so that a
/// writer that fails half-way does not look like the end of the data.
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    pub(crate) fn finish(mut self) -> io::Result<()> {
        io::Write::flush(&mut self)
    }

    pub(crate) fn fail(self, error: io::Error) {
        // Nobody to tell when the other side is gone already.
        drop(self.sender.blocking_send(Err(error)));
    }
}

impl io::Write for ChannelWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.sender.blocking_send(Ok(Bytes::from(full))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
