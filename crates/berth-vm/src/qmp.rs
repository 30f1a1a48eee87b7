//! The monitor protocol: one JSON object a line, bounded, with deadlines.
//!
//! ```text
//!  QEMU                                   we
//!  {"QMP": {...}}               ->
//!                               <-        {"execute": "qmp_capabilities"}
//!  {"return": {}}               ->
//!  {"event": ...}               ->        at any time
//!                               <-        {"execute": "query-status"}
//!  {"return": ...} | {"error": {"class", "desc"}}
//! ```
//!
//! The guest may have taken QEMU over: a line longer than [`LINE_BYTES_MAX`], more than [`EVENTS_MAX`] events before
//! an answer, nonsense or silence past the deadline are errors, and the connection is closed.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
use serde_json::{Value, json};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest honest answer is `query-named-block-nodes` of a long chain.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Events that may come between a question and its answer.
pub const EVENTS_MAX: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("cannot reach the machine's monitor")]
    Connect(#[source] std::io::Error),
    #[error("the conversation with the machine's monitor broke")]
    Broken(#[source] std::io::Error),
    #[error("the machine's monitor does not answer")]
    Silent,
    #[error("the machine's monitor sent what is no answer: {0}")]
    Nonsense(String),
    #[error("{description}")]
    Refused { class: String, description: String },
}

/// Lines out of a stream, at most so long.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line as an object.
    pub fn next_object(&mut self) -> Result<Option<Value>, QmpError> {
        loop {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                return match self.buffer.len() > LINE_BYTES_MAX {
                    true => Err(QmpError::Nonsense("a line without an end".to_owned())),
                    false => Ok(None),
                };
            };
            if end > LINE_BYTES_MAX {
                return Err(QmpError::Nonsense("a line without an end".to_owned()));
            }
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let value: Value = serde_json::from_slice(text).map_err(|cause| QmpError::Nonsense(cause.to_string()))?;
            return match value.is_object() {
                true => Ok(Some(value)),
                false => Err(QmpError::Nonsense("no object".to_owned())),
            };
        }
    }
}

/// Connects to a socket of a machine.
///
/// The folder belongs to the machine's user, who may have put anything there: a link is not followed, and what
/// is no socket is not opened.
pub fn dial(folder: &Path, name: &str) -> Result<UnixStream, QmpError> {
    use rustix::fs::{FileType, Mode, OFlags};
    let failed = |errno: rustix::io::Errno| QmpError::Connect(errno.into());
    let dir =
        rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(failed)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket).map_err(failed)?.st_mode);
    if kind != FileType::Socket {
        return Err(QmpError::Nonsense(format!("{name} is no socket")));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).map_err(QmpError::Connect)
}

fn line(command: &str, arguments: &Value) -> String {
    let mut line = json!({"execute": command, "arguments": arguments}).to_string();
    line.push('\n');
    line
}

/// A connection that has been greeted. Dropping it closes it: QEMU then waits for the next one.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
    deadline: Instant,
}

impl Client {
    /// Connects to `name` in `folder` and greets; all questions together may take `time`.
    pub fn connect(folder: &Path, name: &str, time: Duration) -> Result<Client, QmpError> {
        Client::over(dial(folder, name)?, time)
    }

    /// The same over a stream that is connected already.
    pub fn over(stream: UnixStream, time: Duration) -> Result<Client, QmpError> {
        let mut client = Client { stream, lines: Lines::default(), deadline: Instant::now() + time };
        let greeting = client.object()?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Nonsense("no greeting".to_owned()));
        }
        client.ask("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// One command and its answer.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let line = line(command, &arguments);
        self.set_timeouts()?;
        self.stream.write_all(line.as_bytes()).map_err(QmpError::Broken)?;
        self.answer()
    }

    /// Gives QEMU a descriptor under a name, for commands that take one.
    pub fn give(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), QmpError> {
        let line = line("getfd", &json!({"fdname": name}));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(QmpError::Broken(std::io::ErrorKind::OutOfMemory.into()));
        }
        self.set_timeouts()?;
        let sent = rustix::net::sendmsg(
            &self.stream,
            &[IoSlice::new(line.as_bytes())],
            &mut ancillary,
            rustix::net::SendFlags::NOSIGNAL,
        );
        match sent {
            Ok(count) if count == line.len() => self.answer().map(drop),
            Ok(_) => Err(QmpError::Broken(std::io::ErrorKind::WriteZero.into())),
            Err(errno) => Err(QmpError::Broken(errno.into())),
        }
    }

    fn answer(&mut self) -> Result<Value, QmpError> {
        // Events come in between; what matters of them can also be asked for.
        for _ in 0..EVENTS_MAX {
            let mut object = self.object()?;
            if let Some(value) = object.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = object.get("error") {
                let text = |key: &str| error[key].as_str().unwrap_or_default().chars().take(500).collect::<String>();
                return Err(QmpError::Refused { class: text("class"), description: text("desc") });
            }
            if object.get("event").is_none() {
                return Err(QmpError::Nonsense("neither answer nor event".to_owned()));
            }
        }
        Err(QmpError::Nonsense("events without end".to_owned()))
    }

    fn set_timeouts(&self) -> Result<(), QmpError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QmpError::Silent);
        }
        self.stream
            .set_read_timeout(Some(left))
            .and_then(|()| self.stream.set_write_timeout(Some(left)))
            .map_err(QmpError::Broken)
    }

    fn object(&mut self) -> Result<Value, QmpError> {
        loop {
            if let Some(object) = self.lines.next_object()? {
                return Ok(object);
            }
            self.set_timeouts()?;
            let mut part = [0_u8; 16 << 10];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(QmpError::Broken(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.lines.push(&part[..count]),
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) if matches!(cause.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Err(QmpError::Silent);
                }
                Err(cause) => return Err(QmpError::Broken(cause)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn against(answers: &'static [u8]) -> Result<Value, QmpError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let peer = std::thread::spawn(move || {
            theirs.write_all(answers).ok();
            // Held open: silence is not the same as an end.
            std::thread::sleep(Duration::from_millis(300));
        });
        let answer =
            Client::over(ours, Duration::from_millis(200)).and_then(|mut client| client.ask("query-status", json!({})));
        peer.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_is_found_behind_events() {
        let answer = against(
            b"{\"QMP\":{}}\r\n{\"return\":{}}\r\n{\"event\":\"RESUME\"}\r\n{\"return\":{\"status\":\"running\"}}\r\n",
        );
        assert_eq!(answer.unwrap()["status"], "running");
    }

    #[test]
    fn a_refusal_keeps_qemus_words() {
        let answer = against(
            b"{\"QMP\":{}}\n{\"return\":{}}\n{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such device\"}}\n",
        );
        assert_eq!(answer.unwrap_err().to_string(), "no such device");
    }

    #[test]
    fn a_monitor_that_was_taken_over_harms_nobody() {
        assert!(matches!(against(b"{\"QMP\":{}}\n{\"return\":{}}\n"), Err(QmpError::Silent)));
        assert!(matches!(against(b"hello\n"), Err(QmpError::Nonsense(_))));
        assert!(matches!(against(b"[1]\n"), Err(QmpError::Nonsense(_))));
        assert!(matches!(against(b"{\"QMP\":{}}\n{\"return\":{}}\n{}\n"), Err(QmpError::Nonsense(_))));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut lines = Lines::default();
        lines.push(&vec![b'['; LINE_BYTES_MAX + 1]);
        assert!(matches!(lines.next_object(), Err(QmpError::Nonsense(_))));
    }

    #[test]
    fn what_is_no_socket_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("qmp.sock"), b"").unwrap();
        std::os::unix::fs::symlink("/run/other.sock", folder.path().join("link.sock")).unwrap();
        for name in ["qmp.sock", "link.sock", "absent.sock"] {
            assert!(Client::connect(folder.path(), name, Duration::from_secs(1)).is_err(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_lines_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut lines = Lines::default();
            lines.push(&bytes);
            while let Ok(Some(object)) = lines.next_object() {
                assert!(object.is_object());
            }
        }
    }
}
