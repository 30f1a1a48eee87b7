//! A connection that carries the agent's frames: to the agent itself, or of a client on the control socket.

use berth_agent_proto::{Decoder, Frame, FrameError, Kind, encode};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

const READ_BYTES: usize = 64 << 10;
/// While so much waits to be sent, whoever fills it is not read.
pub(crate) const WAITING_BYTES_MAX: usize = 1 << 20;
/// More than all windows of a client's streams can be: it does not read what it asked for.
const HELD_BYTES_MAX: usize = 16 << 20;

pub(crate) struct Wire {
    stream: UnixStream,
    pub(crate) decoder: Decoder,
    pub(crate) out: Vec<u8>,
    pub(crate) gone: bool,
    /// It waited for something and knows that nothing comes any more.
    pub(crate) told: bool,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Wire> {
        stream.set_nonblocking(true)?;
        Ok(Wire { stream, decoder: Decoder::default(), out: Vec::new(), gone: false, told: false })
    }

    pub(crate) fn watched(&self, reads: bool) -> (BorrowedFd<'_>, PollFlags) {
        let read = if reads { PollFlags::IN } else { PollFlags::empty() };
        let write = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (self.stream.as_fd(), read | write)
    }

    pub(crate) fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        if encode(kind, stream, payload, &mut self.out).is_err() || self.out.len() > HELD_BYTES_MAX {
            self.gone = true;
        }
    }

    pub(crate) fn receive(&mut self) {
        let mut bytes = vec![0_u8; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.gone = true,
            Ok(count) => self.decoder.push(&bytes[..count]),
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next_frame()
    }

    pub(crate) fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => {
                    self.gone |= cause.kind() != ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.out.drain(..sent);
    }

    /// For the last words: waits until they are sent, but not for ever.
    pub(crate) fn flush_all(&mut self) {
        let limit = std::time::Duration::from_secs(2);
        if self.stream.set_nonblocking(false).and_then(|()| self.stream.set_write_timeout(Some(limit))).is_ok() {
            self.flush();
        }
    }
}
