//! Pipes and terminals of one process: its output to the log and to clients, its input from them.

use berth_runtime::Stdio;
use berth_types::{Error, ErrorKind};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;

const READ_BYTES: usize = 64 << 10;
/// What a process does not read piles up to here; then its clients wait.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Our ends of a process's standard streams.
#[derive(Default)]
pub(crate) struct Streams {
    stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    input: Vec<u8>,
    /// Close standard input once `input` is written.
    input_ends: bool,
}

fn failed(errno: Errno) -> Error {
    Error::because(ErrorKind::Unavailable, "cannot make the standard streams", &std::io::Error::from(errno))
}

fn null() -> Result<OwnedFd, Error> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
}

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) tty: bool,
    pub(crate) size: (u16, u16),
    pub(crate) stdin: bool,
    /// Without it output goes nowhere.
    pub(crate) output: bool,
}

impl Streams {
    /// Both ends: ours, and the process's.
    pub(crate) fn make(wanted: &Wanted) -> Result<(Streams, Stdio), Error> {
        if wanted.tty {
            let (rows, columns) = wanted.size;
            return Ok((Streams::default(), Stdio::Terminal { rows, columns }));
        }
        let mut ours = Streams::default();
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed);
        let open = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true).map_err(failed);
        let stdin = match wanted.stdin {
            true => {
                let (reader, writer) = pipe()?;
                open(&writer)?;
                ours.stdin = Some(writer);
                reader
            }
            false => null()?,
        };
        let (stdout, stderr) = match wanted.output {
            true => {
                let ((out_reader, stdout), (err_reader, stderr)) = (pipe()?, pipe()?);
                open(&out_reader)?;
                open(&err_reader)?;
                (ours.stdout, ours.stderr) = (Some(out_reader), Some(err_reader));
                (stdout, stderr)
            }
            false => (null()?, null()?),
        };
        Ok((ours, Stdio::Files { stdin, stdout, stderr }))
    }

    /// The runtime's end of a terminal becomes ours.
    pub(crate) fn take_terminal(&mut self, terminal: Option<OwnedFd>) {
        if let Some(terminal) = terminal {
            // A terminal that blocks only makes a slow writer slow.
            rustix::io::ioctl_fionbio(&terminal, true).ok();
            self.terminal = Some(terminal);
        }
    }

    pub(crate) fn output_is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some() || self.terminal.is_some()
    }

    /// Reads once from one of them: bytes, or `None` where there is nothing now. Closed at its end.
    pub(crate) fn read(which: &mut Option<OwnedFd>) -> Option<Vec<u8>> {
        let fd = which.as_ref()?;
        let mut bytes = vec![0_u8; READ_BYTES];
        match rustix::io::read(fd, &mut bytes[..]) {
            Ok(0) => *which = None,
            Ok(count) => {
                bytes.truncate(count);
                return Some(bytes);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: nobody has the terminal's other end any more.
            Err(_) => *which = None,
        }
        None
    }

    pub(crate) fn takes_input(&self) -> bool {
        self.input.len() < INPUT_BYTES_MAX
    }

    pub(crate) fn input(&mut self, bytes: &[u8]) {
        if self.input_fd().is_some() {
            self.input.extend_from_slice(bytes);
            self.write_input();
        }
    }

    /// No more input. A terminal's user types its own end.
    pub(crate) fn end_input(&mut self) {
        self.input_ends = true;
        self.write_input();
    }

    fn input_fd(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref().or(self.stdin.as_ref())
    }

    /// Where to wait until more input can be written.
    pub(crate) fn input_interest(&self) -> Option<BorrowedFd<'_>> {
        if self.input.is_empty() { None } else { self.input_fd().map(AsFd::as_fd) }
    }

    pub(crate) fn write_input(&mut self) {
        while !self.input.is_empty() {
            let Some(fd) = self.input_fd() else { break };
            match rustix::io::write(fd, &self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Nobody reads it.
                Err(_) => {
                    self.input.clear();
                    self.stdin = None;
                }
            }
        }
        self.input = Vec::new();
        if self.input_ends {
            self.stdin = None;
        }
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        let Some(terminal) = &self.terminal else {
            return Err(Error::conflict("the process has no terminal"));
        };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(failed)
    }
}

/// What to wait for on an output.
pub(crate) const READ: PollFlags = PollFlags::IN;
