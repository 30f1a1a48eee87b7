//! Our standard streams as one stream of a machine's agent, within its windows.

use berth_agent_proto::{DATA_BYTES_MAX, Kind, STDERR, STDIN, STDOUT, WINDOW_BYTES, encode};
use rustix::event::PollFlags;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};

/// While so much waits to be sent, nothing more is read.
const WAITING_BYTES_MAX: usize = 256 << 10;

pub(crate) struct Relay {
    stream: u32,
    reads: bool,
    /// How much input the guest still takes.
    left: u32,
    out: [Vec<u8>; 2],
    /// The terminal's settings before ours, which pass every key on.
    before: Option<Termios>,
}

fn put(kind: Kind, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    encode(kind, stream, payload, out).expect("a payload of at most a data frame");
}

fn descriptor(channel: u8) -> BorrowedFd<'static> {
    match channel {
        STDIN => rustix::stdio::stdin(),
        STDOUT => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

impl Relay {
    pub(crate) fn new(stream: u32, tty: bool, stdin: bool) -> Relay {
        let mut before = None;
        if tty && let Ok(settings) = rustix::termios::tcgetattr(rustix::stdio::stdin()) {
            let mut raw = settings.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok();
            before = Some(settings);
        }
        for channel in [STDIN, STDOUT, STDERR] {
            rustix::io::ioctl_fionbio(descriptor(channel), true).ok();
        }
        Relay { stream, reads: stdin || tty, left: WINDOW_BYTES, out: [Vec::new(), Vec::new()], before }
    }

    /// Descriptors to wait for, given how much waits on the way to the guest.
    pub(crate) fn watched(&self, waiting: usize) -> Vec<(BorrowedFd<'static>, PollFlags)> {
        let mut watched = Vec::new();
        if self.reads && self.left > 0 && waiting < WAITING_BYTES_MAX {
            watched.push((descriptor(STDIN), PollFlags::IN));
        }
        for channel in [STDOUT, STDERR] {
            if !self.out[usize::from(channel - STDOUT)].is_empty() {
                watched.push((descriptor(channel), PollFlags::OUT));
            }
        }
        watched
    }

    /// Moves what can be moved.
    pub(crate) fn pump(&mut self, to_guest: &mut Vec<u8>) {
        while self.reads && self.left > 0 && to_guest.len() < WAITING_BYTES_MAX {
            let room = DATA_BYTES_MAX.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let mut payload = vec![0_u8; 1 + room];
            payload[0] = STDIN;
            match rustix::io::read(descriptor(STDIN), &mut payload[1..]) {
                Ok(count) if count > 0 => {
                    self.left -= u32::try_from(count).unwrap_or(self.left);
                    put(Kind::Data, self.stream, &payload[..=count], to_guest);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => {
                    self.reads = false;
                    put(Kind::Eof, self.stream, &[STDIN], to_guest);
                }
            }
        }
        for channel in [STDOUT, STDERR] {
            self.write(channel, to_guest);
        }
    }

    fn write(&mut self, channel: u8, to_guest: &mut Vec<u8>) {
        let out = &mut self.out[usize::from(channel - STDOUT)];
        let mut written = 0;
        while written < out.len() {
            match rustix::io::write(descriptor(channel), &out[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody reads any more: as if it had been read.
                Err(_) => written = out.len(),
            }
        }
        out.drain(..written);
        if written > 0 {
            let mut payload = vec![channel];
            payload.extend(u32::try_from(written).unwrap_or(u32::MAX).to_le_bytes());
            put(Kind::Window, self.stream, &payload, to_guest);
        }
    }

    /// Output of the guest's; what is beyond its window is thrown away.
    pub(crate) fn data(&mut self, payload: &[u8]) {
        let Some((&channel, bytes)) = payload.split_first() else { return };
        let Some(out) = channel.checked_sub(STDOUT).and_then(|at| self.out.get_mut(usize::from(at))) else { return };
        if out.len() + bytes.len() <= usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX) {
            out.extend_from_slice(bytes);
        }
    }

    pub(crate) fn grant(&mut self, payload: &[u8]) {
        if let [STDIN, a, b, c, d] = payload {
            let more = u32::from_le_bytes([*a, *b, *c, *d]);
            self.left = self.left.saturating_add(more).min(WINDOW_BYTES);
        }
    }

    pub(crate) fn signal(&self, number: i32, to_guest: &mut Vec<u8>) {
        put(Kind::Signal, self.stream, &number.to_le_bytes(), to_guest);
    }

    /// Our terminal has another size.
    pub(crate) fn resized(&self, to_guest: &mut Vec<u8>) {
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            let payload = [size.ws_row.to_le_bytes(), size.ws_col.to_le_bytes()].concat();
            put(Kind::Resize, self.stream, &payload, to_guest);
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.out.iter().all(Vec::is_empty)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before).ok();
        }
        for channel in [STDIN, STDOUT, STDERR] {
            rustix::io::ioctl_fionbio(descriptor(channel), false).ok();
        }
    }
}
