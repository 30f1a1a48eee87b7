//! A connection that has become a container's standard streams.

use super::client::connect;
use crate::containers::OutputStream;
use berth_shim_proto::{Attach, Body, Request, ShimMessage, frame, stream};
use berth_types::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// The shim answers at once; more means that it hangs.
const REPLY_SECONDS_MAX: u64 = 30;

/// Ctrl-P, Ctrl-Q
const DETACH_KEYS: [u8; 2] = [16, 17];

/// An attached connection before its bytes flow.
pub(crate) struct Streams {
    connection: UnixStream,
    /// Bytes that came with the reply.
    early: Vec<u8>,
}

/// Connects to the streams of `attach.target` of the shim in `dir`.
pub(crate) async fn attach(dir: &Path, attach: Attach) -> Result<Streams> {
    let failed = |cause: std::io::Error| Error::because(ErrorKind::Unavailable, "cannot attach", &cause);
    let work = async {
        let mut connection = connect(dir).await.map_err(failed)?;
        let mut bytes = Vec::new();
        frame::encode(&Request { sequence: 1, body: Body::Attach(attach) }, &mut bytes)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot attach", &cause))?;
        connection.write_all(&bytes).await.map_err(failed)?;
        let mut buffer = Vec::with_capacity(4096);
        loop {
            let message = frame::decode::<ShimMessage>(&mut buffer)
                .map_err(|cause| Error::because(ErrorKind::Internal, "cannot attach", &cause))?;
            match message {
                Some(ShimMessage::Reply { result, .. }) => {
                    result?;
                    return Ok(Streams { connection, early: buffer });
                }
                Some(ShimMessage::Notice(_)) => {}
                None => {
                    if connection.read_buf(&mut buffer).await.map_err(failed)? == 0 {
                        return Err(Error::new(ErrorKind::Unavailable, "the container's shim has gone"));
                    }
                }
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(REPLY_SECONDS_MAX), work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "the container's shim does not answer")),
    }
}

/// How a client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The streams have ended.
    End,
    /// It typed the detach keys, or hung up.
    Detached,
}

impl Streams {
    /// Moves bytes until the container's streams end or the client goes. `keys`: what a terminal's user
    /// types to detach. `close_stdin`: the end of the client's input is the end of the container's.
    pub(crate) async fn run(
        self,
        output: mpsc::Sender<(OutputStream, Bytes)>,
        input: Option<mpsc::Receiver<Bytes>>,
        keys: Option<Vec<u8>>,
        close_stdin: bool,
    ) -> Left {
        let (mut reader, mut writer) = self.connection.into_split();
        let typing = async move {
            let Some(mut input) = input else { return std::future::pending::<Left>().await };
            let mut watch = keys.map(Detach::new);
            while let Some(bytes) = input.recv().await {
                let (bytes, detach) = match &mut watch {
                    Some(watch) => watch.feed(&bytes),
                    None => (bytes.to_vec(), false),
                };
                for part in bytes.chunks(stream::CHUNK_BYTES_MAX) {
                    let mut chunk = stream::header(stream::STDIN, part.len()).to_vec();
                    chunk.extend_from_slice(part);
                    if writer.write_all(&chunk).await.is_err() {
                        // Nobody reads any more; output may still come.
                        input.close();
                        return std::future::pending().await;
                    }
                }
                if detach {
                    return Left::Detached;
                }
            }
            if close_stdin {
                // Its streams may have ended already.
                writer.write_all(&stream::header(stream::STDIN_EOF, 0)).await.ok();
            }
            // The connection stays whole: dropping this half would say more than that.
            std::future::pending().await
        };
        let closed = output.clone();
        let reading = async move {
            let mut buffer = bytes::BytesMut::from(self.early.as_slice());
            loop {
                while let Some((kind, length)) = whole(&buffer) {
                    let mut chunk = buffer.split_to(stream::HEADER_BYTES + length);
                    let chunk = chunk.split_off(stream::HEADER_BYTES).freeze();
                    let from = match kind {
                        stream::STDOUT => OutputStream::Stdout,
                        stream::STDERR => OutputStream::Stderr,
                        stream::END => return Left::End,
                        _ => continue,
                    };
                    if output.send((from, chunk)).await.is_err() {
                        return Left::Detached;
                    }
                }
                buffer.reserve(4096);
                match reader.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return Left::End,
                    Ok(_) => {}
                }
            }
        };
        tokio::select! {
            left = reading => left,
            left = typing => left,
            () = closed.closed() => Left::Detached,
        }
    }
}

/// Kind and length of the first chunk, once all of it is there.
fn whole(buffer: &[u8]) -> Option<(u8, usize)> {
    let header = buffer.first_chunk::<{ stream::HEADER_BYTES }>()?;
    // A length that no peer of ours sends ends the stream.
    let (kind, length) = stream::parse_header(*header).unwrap_or((stream::END, 0));
    (buffer.len() >= stream::HEADER_BYTES + length).then_some((kind, length))
}

/// Watches typed bytes for the detach keys; keeps back what may become them.
struct Detach {
    keys: Vec<u8>,
    matched: usize,
}

impl Detach {
    fn new(keys: Vec<u8>) -> Detach {
        Detach { keys, matched: 0 }
    }

    /// What to pass on, and whether the keys were completed.
    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte != self.keys[self.matched] && self.matched > 0 {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

/// `ctrl-p,ctrl-q`, `ctrl-a,x`: letters and control keys; empty: Docker's default.
pub(crate) fn parse_detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(DETACH_KEYS.to_vec());
    }
    let invalid = || Error::invalid(format!("Invalid escape keys ({text}) provided"));
    let key = |key: &str| match key.as_bytes() {
        [byte] => Some(*byte),
        _ => match key.strip_prefix("ctrl-")?.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            b"@" => Some(0),
            b"[" => Some(27),
            b"\\" => Some(28),
            b"]" => Some(29),
            b"^" => Some(30),
            b"_" => Some(31),
            _ => None,
        },
    };
    text.split(',').map(|part| key(part).ok_or_else(invalid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read_as_docker_writes_them() {
        assert_eq!(parse_detach_keys("").unwrap(), [16, 17]);
        assert_eq!(parse_detach_keys("ctrl-a,x,ctrl-[").unwrap(), [1, b'x', 27]);
        for bad in ["ctrl-A", "ctrl-", "ab", "a,,b"] {
            assert!(parse_detach_keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn typed_bytes_are_kept_back_only_while_they_may_become_the_keys() {
        let mut detach = Detach::new(vec![16, 17]);
        assert_eq!(detach.feed(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(detach.feed(&[16]), (vec![], false));
        assert_eq!(detach.feed(&[16, b'c']), (vec![16, 16, b'c'], false));
        assert_eq!(detach.feed(&[b'x', 16, 17, b'y']), (b"x".to_vec(), true));
    }

    #[test]
    fn a_chunk_counts_once_it_is_whole() {
        let mut bytes = stream::header(stream::STDOUT, 2).to_vec();
        bytes.push(b'h');
        assert_eq!(whole(&bytes), None);
        bytes.push(b'i');
        assert_eq!(whole(&bytes), Some((stream::STDOUT, 2)));
    }
}
