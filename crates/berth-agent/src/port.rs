//! The serial port to the host.

use berth_agent_proto::{Decoder, Frame, FrameError, Kind, PORT, encode_marked};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::time::{Duration, Instant};

const PORTS: &str = "/sys/class/virtio-ports";
/// A port that the machine has is there within that.
const APPEARS_SECONDS_MAX: u64 = 60;
const READ_BYTES: usize = 64 << 10;
/// While so much waits to be sent, nothing more is read from processes.
const WAITING_BYTES_MAX: usize = 512 << 10;

pub(crate) struct Port {
    fd: OwnedFd,
    decoder: Decoder,
    outgoing: Vec<u8>,
    sent: usize,
    /// Nobody holds the other end.
    pub(crate) alone: bool,
}

/// Waits for the port.
pub(crate) fn open() -> Result<Port, String> {
    let deadline = Instant::now() + Duration::from_secs(APPEARS_SECONDS_MAX);
    loop {
        if let Some(path) = find() {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|errno| format!("cannot open {path}: {errno}"))?;
            return Ok(Port { fd, decoder: Decoder::default(), outgoing: Vec::new(), sent: 0, alone: false });
        }
        if Instant::now() > deadline {
            return Err(format!("the machine has no port {PORT}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find() -> Option<String> {
    for entry in std::fs::read_dir(PORTS).into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = format!("/dev/{}", entry.file_name().to_string_lossy());
        if name.trim_end() == PORT && std::path::Path::new(&device).exists() {
            return Some(device);
        }
    }
    None
}

impl Port {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn wants(&self) -> PollFlags {
        match self.outgoing.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        }
    }

    /// Whether more may be put on the way.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.len() - self.sent < WAITING_BYTES_MAX
    }

    pub(crate) fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        // What is longer than a frame cannot be said; whoever asked hears the stream's end.
        if encode_marked(kind, stream, payload, &mut self.outgoing).is_err() {
            eprintln!("berth-agent: an answer of {} bytes is too long", payload.len());
        }
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// What was not sent yet is nobody's any more.
    pub(crate) fn forget(&mut self) {
        self.outgoing.clear();
        self.sent = 0;
    }

    pub(crate) fn flush(&mut self) {
        while self.sent < self.outgoing.len() {
            match rustix::io::write(&self.fd, &self.outgoing[self.sent..]) {
                Ok(0) | Err(Errno::AGAIN) => return,
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.alone = true;
                    return;
                }
            }
        }
        self.forget();
    }

    pub(crate) fn receive(&mut self) {
        let mut bytes = vec![0_u8; READ_BYTES];
        match rustix::io::read(&self.fd, &mut bytes[..]) {
            Ok(0) => self.alone = true,
            Ok(count) => {
                self.alone = false;
                self.decoder.push(&bytes[..count]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.alone = true,
        }
    }

    /// The host's next frame; after nonsense whatever comes next that looks like one, which a reset is.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next_frame() {
                Ok(frame) => return frame,
                Err(FrameError::Kind(_) | FrameError::Long(_)) => self.decoder.skip(),
            }
        }
    }
}
