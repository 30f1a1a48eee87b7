//! Bytes on their way, in pieces that several threads look at without copying.

use bytes::Bytes;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of one piece: large enough that handing it over costs nothing, small enough for the caches.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Buffers kept for use again.
const POOLED_MAX: usize = 64;

/// A stream in pieces. An empty piece is the end.
pub(crate) trait Pieces {
    fn piece(&mut self) -> io::Result<Bytes>;
}

/// Buffers that come back when the last view of them is gone: no page is faulted in twice.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

struct Pooled {
    buffer: Box<[u8]>,
    length: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < POOLED_MAX {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl Pool {
    /// One piece of what `reader` has; empty at its end.
    pub(crate) fn read(&self, reader: &mut (impl Read + ?Sized)) -> io::Result<Bytes> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_else(|| vec![0; PIECE_BYTES].into_boxed_slice());
        let mut length = 0;
        while length < buffer.len() {
            match reader.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(Bytes::from_owner(Pooled { buffer, length, pool: self.clone() }))
    }
}

/// A reader's bytes in pieces.
pub(crate) struct FromRead<R> {
    reader: R,
    pool: Pool,
}

impl<R: Read> FromRead<R> {
    pub(crate) fn new(reader: R) -> FromRead<R> {
        FromRead { reader, pool: Pool::default() }
    }
}

impl<R: Read> Pieces for FromRead<R> {
    fn piece(&mut self) -> io::Result<Bytes> {
        self.pool.read(&mut self.reader)
    }
}

/// Pieces as a reader.
pub(crate) struct AsRead<P> {
    pieces: P,
    rest: Bytes,
}

impl<P: Pieces> AsRead<P> {
    pub(crate) fn new(pieces: P) -> AsRead<P> {
        AsRead { pieces, rest: Bytes::new() }
    }
}

impl<P: Pieces> Read for AsRead<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.pieces.piece()?;
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        bytes::Buf::advance(&mut self.rest, count);
        Ok(count)
    }
}

impl<P: Pieces> io::BufRead for AsRead<P> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.rest = self.pieces.piece()?;
        }
        Ok(&self.rest)
    }

    fn consume(&mut self, count: usize) {
        bytes::Buf::advance(&mut self.rest, count);
    }
}

impl<P: Pieces + ?Sized> Pieces for Box<P> {
    fn piece(&mut self) -> io::Result<Bytes> {
        (**self).piece()
    }
}

impl<P: Pieces + ?Sized> Pieces for &mut P {
    fn piece(&mut self) -> io::Result<Bytes> {
        (**self).piece()
    }
}

/// Pieces with one put back in front.
pub(crate) struct Again<P> {
    pub first: Bytes,
    pub rest: P,
}

impl<P: Pieces> Pieces for Again<P> {
    fn piece(&mut self) -> io::Result<Bytes> {
        match self.first.is_empty() {
            false => Ok(std::mem::take(&mut self.first)),
            true => self.rest.piece(),
        }
    }
}

/// Pieces from another thread; the end is when that is gone.
pub(crate) struct Queue(pub Receiver<io::Result<Bytes>>);

impl Pieces for Queue {
    fn piece(&mut self) -> io::Result<Bytes> {
        self.0.recv().unwrap_or_else(|_| Ok(Bytes::new()))
    }
}

/// What is written goes to another thread in pieces.
pub(crate) struct ToQueue {
    sender: SyncSender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ToQueue {
    pub(crate) fn new(sender: SyncSender<io::Result<Bytes>>) -> ToQueue {
        ToQueue { sender, buffer: Vec::with_capacity(PIECE_BYTES) }
    }

    /// The last piece, or that it went wrong.
    pub(crate) fn finish(mut self, outcome: io::Result<()>) {
        // A reader that has given up has its own reason.
        let sent = match outcome {
            Ok(()) => self.send(),
            Err(cause) => self.sender.send(Err(cause)).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        };
        drop(sent);
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.sender.send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for ToQueue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PIECE_BYTES {
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

    #[test]
    fn bytes_survive_the_way_through_pieces_and_back() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n / 3) as u8).collect();
        let mut read = Vec::new();
        AsRead::new(FromRead::new(&bytes[..])).read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn a_buffer_is_used_again_when_its_last_view_is_gone() {
        let pool = Pool::default();
        let piece = pool.read(&mut &b"abc"[..]).unwrap();
        let view = piece.slice(1..);
        let place = piece.as_ptr();
        drop(piece);
        assert_eq!((&view[..], pool.free.lock().unwrap().len()), (&b"bc"[..], 0));
        drop(view);
        assert_eq!(pool.read(&mut &b"x"[..]).unwrap().as_ptr(), place);
    }
}
