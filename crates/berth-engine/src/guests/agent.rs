//! A conversation with a guest's agent, by way of its machine's `berth-vmm`.
//!
//! Both may be hostile: what they say is bounded in size and time, and believed in nothing else.

use berth_agent_proto::{Answer, Decoder, Failure, FailureKind, Kind, Request, Say, encode};
use berth_types::{Error, ErrorKind, Result};
use berth_vm::spec::CONTROL_SOCKET;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const STREAM: u32 = 1;
const READ_BYTES: usize = 64 << 10;

/// A failure in the guest as an error of ours.
pub(crate) fn told(failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::NoProgram | FailureKind::CannotRun => ErrorKind::CannotRun,
        FailureKind::Invalid | FailureKind::ReadOnly => ErrorKind::InvalidArgument,
        FailureKind::Full => ErrorKind::Unavailable,
        FailureKind::Conflict => ErrorKind::Conflict,
        FailureKind::Unsupported => ErrorKind::NotImplemented,
        FailureKind::Internal => ErrorKind::Internal,
    };
    let mut error = Error::new(kind, failure.text.clone());
    error.errno = match failure.kind {
        FailureKind::NoProgram => Some(2),
        FailureKind::CannotRun => Some(13),
        _ => None,
    };
    error
}

pub(super) fn lost(what: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Unavailable, format!("cannot {what} the guest's agent"), cause)
}

/// One connection, one question at a time. Blocks: for threads that may.
pub(crate) struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    /// Each answer's, or each piece's of a stream.
    time: Duration,
    deadline: Instant,
}

impl Agent {
    /// `run` is the machine's folder of sockets, which its jail can write: no link is followed.
    pub(crate) fn connect(run: &Path, time: Duration) -> Result<Agent> {
        let stream = berth_vm::qmp::dial(run, CONTROL_SOCKET).map_err(|cause| lost("reach", &cause))?;
        Ok(Agent { stream, decoder: Decoder::default(), time, deadline: Instant::now() + time })
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer> {
        self.question(request)?.map_err(|failure| told(&failure))
    }

    /// The same with a failure in the guest's words.
    pub(super) fn question(&mut self, request: &Request) -> Result<std::result::Result<Answer, Failure>> {
        self.renew();
        self.send(Kind::Request, &request.to_json())?;
        loop {
            let frame = self.frame()?;
            if frame.kind == Kind::Answer {
                return serde_json::from_slice(&frame.payload).map_err(|cause| lost("understand", &cause));
            }
            if frame.kind == Kind::End {
                return Err(Error::new(ErrorKind::Unavailable, "the guest's agent is gone"));
            }
        }
    }

    /// There is progress.
    pub(super) fn renew(&mut self) {
        self.deadline = Instant::now() + self.time;
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(Error::new(ErrorKind::Timeout, "the guest's agent does not answer")),
            false => Ok(left),
        }
    }

    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        encode(kind, STREAM, payload, &mut bytes)
            .map_err(|cause| Error::because(ErrorKind::InvalidArgument, "too long for a guest's agent", &cause))?;
        let left = self.left()?;
        self.stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(&bytes))
            .map_err(|cause| lost("speak to", &cause))
    }

    pub(super) fn frame(&mut self) -> Result<berth_agent_proto::Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|cause| lost("understand", &cause))? {
                if frame.stream == STREAM {
                    return Ok(frame);
                }
                continue;
            }
            let left = self.left()?;
            self.stream.set_read_timeout(Some(left)).map_err(|cause| lost("hear", &cause))?;
            let mut bytes = vec![0_u8; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(Error::new(ErrorKind::Unavailable, "the guest's agent is gone")),
                Ok(count) => self.decoder.push(&bytes[..count]),
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(Error::new(ErrorKind::Timeout, "the guest's agent does not answer"));
                }
                Err(cause) => return Err(lost("hear", &cause)),
            }
        }
    }
}
