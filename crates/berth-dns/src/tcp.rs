//! DNS over TCP: each message behind its length (RFC 1035, 4.2.2), on sockets that never block.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// What may wait to be written; a client that does not read loses its connection.
const OUT_BYTES_MAX: usize = 256 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// A connection's two directions.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// The connection is over, for whatever reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Stream {
    pub(crate) fn new(socket: TcpStream) -> Stream {
        Stream { socket, input: Vec::new(), output: Vec::new() }
    }

    /// Puts a message in line.
    pub(crate) fn push(&mut self, message: &[u8]) -> Result<(), Closed> {
        let length = u16::try_from(message.len()).map_err(|_| Closed)?;
        if self.output.len() + message.len() > OUT_BYTES_MAX {
            return Err(Closed);
        }
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(message);
        Ok(())
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), Closed> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(0) => return Err(Closed),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        self.output = Vec::new();
        Ok(())
    }

    /// Reads once, and answers the messages that are complete, each at most `bytes_max` long.
    pub(crate) fn read(&mut self, bytes_max: usize) -> Result<Vec<Vec<u8>>, Closed> {
        let mut part = [0; READ_BYTES];
        match self.socket.read(&mut part) {
            Ok(0) => return Err(Closed),
            Ok(count) => self.input.extend_from_slice(&part[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(Closed),
        }
        let mut messages = Vec::new();
        while let Some(head) = self.input.first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*head));
            if length > bytes_max {
                return Err(Closed);
            }
            let Some(message) = self.input.get(2..2 + length) else { break };
            messages.push(message.to_vec());
            self.input.drain(..2 + length);
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(messages)
    }
}
