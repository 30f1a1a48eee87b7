//! Streams between the async doors and work that blocks.

use crate::containers::ByteSource;
use berth_types::{Error, Result};
use bytes::{Buf, Bytes};
use std::io;
use tokio::sync::mpsc;

/// A request's body, read by a thread that may block.
pub(crate) struct Source {
    source: ByteSource,
    chunk: Bytes,
    /// Why the body ended early: told instead of the reader's own words.
    pub(crate) failed: Option<Error>,
}

impl Source {
    pub(crate) fn new(source: ByteSource) -> Source {
        Source { source, chunk: Bytes::new(), failed: None }
    }
}

impl io::Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.source.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => {
                    let cause = io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string());
                    self.failed = Some(error);
                    return Err(cause);
                }
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Ok(count)
    }
}

/// Bytes per chunk to a client: few enough to stay in the caches.
const CHUNK_BYTES: usize = 64 << 10;

/// An answer's body, written by a thread that may block. A client that goes away is a broken pipe.
pub(super) struct Sink {
    sender: mpsc::Sender<Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Sink {
    pub(super) fn new(sender: mpsc::Sender<Result<Bytes>>) -> Sink {
        Sink { sender, chunk: Vec::with_capacity(CHUNK_BYTES) }
    }

    fn send(&mut self) -> io::Result<()> {
        let chunk = Bytes::from(std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES)));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The rest, or why there is none.
    pub(super) fn finish(mut self, outcome: Result<()>) {
        let last = match outcome {
            Ok(()) if self.chunk.is_empty() => return,
            Ok(()) => Ok(Bytes::from(std::mem::take(&mut self.chunk))),
            Err(error) => Err(error),
        };
        // A client that has gone needs no last word.
        drop(self.sender.blocking_send(last));
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_written_arrives_whole_and_in_order() {
        let (sender, receiver) = mpsc::channel(2);
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || {
            let mut sink = Sink::new(sender);
            sink.write_all(&sent).unwrap();
            sink.finish(Ok(()));
        });
        let mut read = Vec::new();
        Source::new(receiver).read_to_end(&mut read).unwrap();
        writer.join().unwrap();
        assert_eq!(read, bytes);
    }

    #[test]
    fn a_body_that_is_cut_off_is_an_error_and_says_why() {
        let (sender, receiver) = mpsc::channel(2);
        sender.try_send(Ok(Bytes::from_static(b"abc"))).unwrap();
        sender.try_send(Err(Error::invalid("cut off"))).unwrap();
        drop(sender);
        let mut source = Source::new(receiver);
        assert!(source.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(source.failed.unwrap().message, "cut off");
    }
}
