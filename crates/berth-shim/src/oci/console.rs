//! Terminals of containers: handed to a console socket, or carried to our own standard streams.

use super::error::CliError;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::path::Path;

/// Connects to the socket of `--console-socket`, before the container is made: a wrong path fails early.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, CliError> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(CliError::sys("make a socket"))?;
    let connected = SocketAddrUnix::new(path).and_then(|address| rustix::net::connect(&socket, &address));
    connected.map_err(|errno| CliError::File {
        step: "connect to the console socket",
        path: path.to_owned(),
        source: errno.into(),
    })?;
    Ok(socket)
}

/// Sends the terminal's master as runc does: one message, the name as data, the descriptor beside it.
pub(crate) fn send(socket: &OwnedFd, terminal: &OwnedFd) -> Result<(), CliError> {
    let fds = [terminal.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // One descriptor fits: the buffer was made for it.
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(CliError::Sys { step: "send the terminal", errno: Errno::NOBUFS });
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL)
        .map_err(CliError::sys("send the terminal"))?;
    Ok(())
}

/// Our own terminal in raw mode; the drop restores it.
#[derive(Debug)]
pub(crate) struct RawMode(Option<rustix::termios::Termios>);

impl RawMode {
    /// Does nothing where standard input is no terminal.
    pub(crate) fn enter() -> RawMode {
        let stdin = rustix::stdio::stdin();
        let Ok(before) = rustix::termios::tcgetattr(stdin) else { return RawMode(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let set = rustix::termios::tcsetattr(stdin, rustix::termios::OptionalActions::Now, &raw);
        RawMode(set.is_ok().then_some(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let stdin = rustix::stdio::stdin();
            // Nothing can be done when the terminal has gone.
            rustix::termios::tcsetattr(stdin, rustix::termios::OptionalActions::Now, before).unwrap_or_default();
        }
    }
}

/// The size of our own terminal as rows and columns; (0, 0) where there is none.
pub(crate) fn own_size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(rustix::stdio::stdin()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// Gives the container's terminal the size of ours.
pub(crate) fn copy_size(terminal: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        // The terminal closes with its last process; a size is then of no use.
        rustix::termios::tcsetwinsize(terminal, size).unwrap_or_default();
    }
}

/// Both directions between our standard streams and the container's terminal.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) terminal: OwnedFd,
    to_terminal: Vec<u8>,
    pub(crate) stdin_open: bool,
    pub(crate) terminal_open: bool,
}

/// Read at once.
const CHUNK_BYTES: usize = 4096;

impl Carrier {
    pub(crate) fn new(terminal: OwnedFd) -> Result<Carrier, CliError> {
        rustix::io::ioctl_fionbio(&terminal, true).map_err(CliError::sys("prepare the terminal"))?;
        Ok(Carrier { terminal, to_terminal: Vec::new(), stdin_open: true, terminal_open: true })
    }

    /// What to wait for. Input is read only while nothing waits to be written, so nothing piles up.
    pub(crate) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        if self.terminal_open {
            let writing = if self.to_terminal.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&self.terminal, PollFlags::IN | writing));
        }
        if self.stdin_open && self.to_terminal.is_empty() {
            fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
        fds
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn carry(&mut self) -> Result<(), CliError> {
        if self.terminal_open {
            self.terminal_open = drain(self.terminal.as_fd())?;
        }
        if self.stdin_open && self.to_terminal.is_empty() && readable(rustix::stdio::stdin())? {
            let mut chunk = [0; CHUNK_BYTES];
            match rustix::io::read(rustix::stdio::stdin(), &mut chunk) {
                Ok(0) => {
                    self.stdin_open = false;
                    // The end of input of a terminal is a character, VEOF (termios(3)).
                    self.to_terminal.push(4);
                }
                Ok(count) => self.to_terminal.extend_from_slice(&chunk[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.stdin_open = false,
            }
        }
        if self.terminal_open && !self.to_terminal.is_empty() {
            match rustix::io::write(&self.terminal, &self.to_terminal) {
                Ok(count) => drop(self.to_terminal.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.to_terminal.clear(),
            }
        }
        Ok(())
    }

    /// What the terminal still holds once its processes have gone.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        if self.terminal_open {
            self.terminal_open = drain(self.terminal.as_fd())?;
        }
        Ok(())
    }
}

fn readable(fd: BorrowedFd<'_>) -> Result<bool, CliError> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(CliError::Sys { step: "wait for input", errno }),
    }
}

/// Copies what is there to standard output; false once the other side has closed (EIO, pty(7)).
fn drain(terminal: BorrowedFd<'_>) -> Result<bool, CliError> {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let count = match rustix::io::read(terminal, &mut chunk) {
            Ok(0) | Err(Errno::IO) => return Ok(false),
            Ok(count) => count,
            Err(Errno::AGAIN) => return Ok(true),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(CliError::Sys { step: "read the terminal", errno }),
        };
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            match rustix::io::write(rustix::stdio::stdout(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(CliError::Sys { step: "write to standard output", errno }),
            }
        }
    }
}
