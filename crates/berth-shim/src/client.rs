//! A connection to the engine, or of a client that has become a container's streams.

use berth_shim_proto::{Answer, Notice, Request, ShimMessage, Target, frame, stream};
use berth_types::Error;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

/// A client that lets more than this pile up makes the container wait.
const WAITING_BYTES_MAX: usize = 256 << 10;
const READ_BYTES: usize = 16 << 10;

pub(crate) struct Client {
    socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Hears of what happens.
    pub(crate) subscribed: bool,
    /// The container is paused for as long as this client is there.
    pub(crate) holds: bool,
    pub(crate) attached: Option<Attached>,
    /// Nothing comes from it any more.
    pub(crate) gone: bool,
    /// Close it once everything is written.
    ending: bool,
}

/// What an attached client gets and gives.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    pub(crate) target: Target,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// What a client typed.
pub(crate) enum Typed {
    Bytes(Vec<u8>),
    End,
}

impl Client {
    pub(crate) fn new(socket: OwnedFd) -> Result<Client, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Client {
            socket,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            subscribed: false,
            holds: false,
            attached: None,
            gone: false,
            ending: false,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What to wait for; `reads`: whether its bytes are wanted now.
    pub(crate) fn interest(&self, reads: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        if reads && !self.gone {
            flags |= PollFlags::IN;
        }
        if !self.outgoing.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.outgoing.len() > WAITING_BYTES_MAX
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.gone && (self.outgoing.is_empty() || self.attached.is_none()) || (self.ending && self.outgoing.is_empty())
    }

    /// Not inlined: in the frame of the loop, which never returns, the buffer would stay for the container's life.
    #[inline(never)]
    pub(crate) fn read(&mut self) {
        let mut part = [0_u8; READ_BYTES];
        match rustix::io::read(&self.socket, &mut part) {
            Ok(0) => self.gone = true,
            Ok(count) => self.incoming.extend_from_slice(&part[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The next whole request.
    pub(crate) fn request(&mut self) -> Option<Request> {
        if self.attached.is_some() {
            return None;
        }
        match frame::decode(&mut self.incoming) {
            Ok(request) => {
                if self.incoming.is_empty() {
                    self.incoming = Vec::new();
                }
                request
            }
            Err(error) => {
                say!("{error}");
                self.gone = true;
                None
            }
        }
    }

    /// The next whole chunk of an attached client.
    pub(crate) fn typed(&mut self) -> Option<Typed> {
        let header = *self.incoming.first_chunk::<{ stream::HEADER_BYTES }>()?;
        let Some((kind, length)) = stream::parse_header(header) else {
            self.gone = true;
            return None;
        };
        if self.incoming.len() < stream::HEADER_BYTES + length {
            return None;
        }
        let rest = self.incoming.split_off(stream::HEADER_BYTES + length);
        let mut chunk = std::mem::replace(&mut self.incoming, rest);
        match kind {
            stream::STDIN => Some(Typed::Bytes(chunk.split_off(stream::HEADER_BYTES))),
            stream::STDIN_EOF => Some(Typed::End),
            _ => {
                self.gone = true;
                None
            }
        }
    }

    pub(crate) fn reply(&mut self, sequence: u64, result: Result<Answer, Error>) {
        self.say(&ShimMessage::Reply { sequence, result });
    }

    pub(crate) fn notice(&mut self, notice: &Notice) {
        self.say(&ShimMessage::Notice(notice.clone()));
    }

    fn say(&mut self, message: &ShimMessage) {
        if self.gone {
            return;
        }
        if let Err(error) = frame::encode(message, &mut self.outgoing) {
            say!("{error}");
        }
        self.write();
    }

    /// Output of the container for an attached client.
    pub(crate) fn output(&mut self, kind: u8, bytes: &[u8]) {
        if self.gone {
            return;
        }
        for part in bytes.chunks(stream::CHUNK_BYTES_MAX) {
            self.outgoing.extend_from_slice(&stream::header(kind, part.len()));
            self.outgoing.extend_from_slice(part);
        }
        self.write();
    }

    /// The streams have ended.
    pub(crate) fn end(&mut self) {
        self.outgoing.extend_from_slice(&stream::header(stream::END, 0));
        self.ending = true;
        self.write();
    }

    pub(crate) fn write(&mut self) {
        while !self.outgoing.is_empty() {
            match rustix::net::send(&self.socket, &self.outgoing, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.gone = true;
                    self.outgoing.clear();
                }
            }
        }
        self.outgoing = Vec::new();
    }
}
