//! A terminal or pipes here, a process there, and the bytes between them.
//!
//! ```text
//! stdin  --thread--> socket     ends with a half-close, or at the detach keys
//! socket --thread--> stdout, stderr
//! main thread: signals, window size, the container's exit
//! ```
//!
//! The threads block in plain reads and writes, so a slow reader of our output slows the container down
//! and nothing is lost; the main thread stays free. Input that nobody can take any more ends quietly.

use crate::client::demux::{Channel, Demux};
use crate::client::hijack::{Hijacked, Raw};
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

const BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) enum Event {
    /// All output has been written, or cannot be.
    OutputEnded(io::Result<()>),
    /// The detach keys were typed.
    Detached,
}

pub(crate) struct Plan {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) detach_keys: Vec<u8>,
}

/// Starts the two threads.
pub(crate) fn pump(hijacked: Hijacked, plan: Plan) -> io::Result<mpsc::UnboundedReceiver<Event>> {
    let (events, receiver) = mpsc::unbounded_channel();
    let Hijacked { raw, early } = hijacked;
    if plan.stdin {
        let socket = raw.try_clone()?;
        let events = events.clone();
        let keys = if plan.tty { plan.detach_keys.clone() } else { Vec::new() };
        std::thread::spawn(move || {
            if let Ok(true) = input(socket, keys) {
                drop(events.send(Event::Detached));
            }
        });
    }
    std::thread::spawn(move || {
        let result = output(raw, &early, &plan);
        drop(events.send(Event::OutputEnded(result)));
    });
    Ok(receiver)
}

/// Copies stdin; true when the detach keys ended it.
fn input(mut socket: Raw, keys: Vec<u8>) -> io::Result<bool> {
    let mut keys = DetachKeys::new(keys);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(0) => break,
            Ok(n) => n,
            Err(rustix::io::Errno::INTR) => continue,
            // Somebody who shares our stdin made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                let stdin = rustix::stdio::stdin();
                let mut poll = [rustix::event::PollFd::from_borrowed_fd(stdin, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut poll, None)?;
                continue;
            }
            // A stdin that is closed or in another process group's terminal gives no input.
            Err(_) => break,
        };
        let (pass, detached) = keys.filter(&buffer[..n]);
        socket.write_all(&pass)?;
        if detached {
            return Ok(true);
        }
    }
    socket.half_close()?;
    Ok(false)
}

fn output(mut socket: Raw, early: &[u8], plan: &Plan) -> io::Result<()> {
    let mut demux = Demux::default();
    let mut sink = |data: &[u8]| -> io::Result<()> {
        if plan.tty {
            return write_fd(Channel::Stdout, data);
        }
        demux.feed(data, |channel, data| match channel {
            Channel::Stdout if !plan.stdout => Ok(()),
            Channel::Stderr if !plan.stderr => Ok(()),
            channel => write_fd(channel, data),
        })
    };
    sink(early)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => sink(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The engine or the network went away; the exit status decides what is said.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Writes everything to stdout or stderr, past Rust's buffers.
pub(crate) fn write_fd(channel: Channel, mut data: &[u8]) -> io::Result<()> {
    let fd = match channel {
        Channel::Stdout => rustix::stdio::stdout(),
        Channel::Stderr | Channel::Engine => rustix::stdio::stderr(),
    };
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(n) => data = &data[n..],
            Err(rustix::io::Errno::INTR) => {}
            // Somebody made our terminal non-blocking (it is shared): wait until it takes more.
            Err(rustix::io::Errno::AGAIN) => {
                let mut poll = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut poll, None)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Finds the detach keys in what is typed. Keys that begin the sequence are held back until it is clear
/// that they do not complete it.
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    pub(crate) fn new(keys: Vec<u8>) -> DetachKeys {
        DetachKeys { keys, matched: 0 }
    }

    /// What to pass on, and whether the sequence is complete.
    pub(crate) fn filter(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (data.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(data.len());
        for byte in data {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                pass.push(*byte);
            }
        }
        (pass, false)
    }
}

/// `ctrl-p,ctrl-q`, `a,ctrl-@`: bytes of a detach sequence.
pub(crate) fn parse_detach_keys(text: &str) -> Result<Vec<u8>, String> {
    let one = |key: &str| match key.strip_prefix("ctrl-") {
        Some(letter) => match letter.as_bytes() {
            [c @ (b'a'..=b'z' | b'A'..=b'Z')] => Some(c.to_ascii_lowercase() - b'a' + 1),
            [b'@'] => Some(0),
            [c @ b'['..=b'_'] => Some(c - b'@'),
            _ => None,
        },
        None if key.len() == 1 => key.bytes().next(),
        None => None,
    };
    text.split(',')
        .map(|key| one(key).ok_or_else(|| format!("invalid detach keys ({text}): Unknown character: '{key}'")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_in_any_pieces_and_false_starts_pass() {
        let keys = parse_detach_keys("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys, [16, 17]);
        let mut d = DetachKeys::new(keys.clone());
        assert_eq!(d.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(d.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(d.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(d.filter(b"\x11zz"), (vec![], true));
        assert_eq!(DetachKeys::new(vec![]).filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
        assert_eq!(parse_detach_keys("ctrl-@,a,ctrl-[").unwrap(), [0, b'a', 27]);
        assert!(parse_detach_keys("ctrl-1").is_err() && parse_detach_keys("ab").is_err());
    }
}
