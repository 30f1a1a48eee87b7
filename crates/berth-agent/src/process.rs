//! A stream that is a process: its pipes or terminal, within the windows of the other side.

use crate::port::Port;
use berth_agent_proto::{DATA_BYTES_MAX, Ended, Kind, STDERR, STDIN, STDOUT, WINDOW_BYTES};
use berth_agent_proto::{Failure, FailureKind};
use berth_runtime::{LaunchError, LaunchKind, Running, Stdio};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::termios::Winsize;

pub(crate) fn launch_failure(error: &LaunchError) -> Failure {
    let kind = match error.kind {
        LaunchKind::Configuration => FailureKind::Invalid,
        LaunchKind::NotFound => FailureKind::NoProgram,
        LaunchKind::CannotRun => FailureKind::CannotRun,
        LaunchKind::Host => FailureKind::Internal,
        LaunchKind::Gone => FailureKind::Conflict,
    };
    Failure::new(kind, error.text.clone())
}

/// An output of the process and how much of it the host still takes.
struct Output {
    fd: Option<OwnedFd>,
    left: u32,
}

pub(crate) struct Process {
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    outputs: [Output; 2],
    input: Vec<u8>,
    input_ends: bool,
    exit: Option<Ended>,
}

/// Our ends of a process that is about to be made.
pub(crate) struct Ends {
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
}

/// Both ends of its standard streams.
pub(crate) fn streams(tty: bool, size: (u16, u16), stdin: bool) -> Result<(Ends, Stdio), Failure> {
    if tty {
        return Ok((Ends { stdin: None, outputs: [None, None] }, Stdio::Terminal { rows: size.0, columns: size.1 }));
    }
    let failed =
        |errno: Errno| Failure::new(FailureKind::Internal, format!("cannot make the standard streams: {errno}"));
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed);
    let (reader, writer) = match stdin {
        true => {
            let (reader, writer) = pipe()?;
            rustix::io::ioctl_fionbio(&writer, true).map_err(failed)?;
            (reader, Some(writer))
        }
        false => {
            (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?, None)
        }
    };
    let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
    for ours in [&out, &err] {
        rustix::io::ioctl_fionbio(ours, true).map_err(failed)?;
    }
    Ok((Ends { stdin: writer, outputs: [Some(out), Some(err)] }, Stdio::Files { stdin: reader, stdout, stderr }))
}

impl Process {
    pub(crate) fn new(running: Running, ends: Ends) -> Process {
        if let Some(terminal) = &running.terminal {
            rustix::io::ioctl_fionbio(terminal, true).ok();
        }
        let [stdout, stderr] = ends.outputs.map(|fd| Output { fd, left: WINDOW_BYTES });
        Process {
            pid: running.pid,
            pidfd: running.pidfd,
            stdin: ends.stdin,
            terminal: running.terminal,
            outputs: [stdout, stderr],
            input: Vec::new(),
            input_ends: false,
            exit: None,
        }
    }

    /// One of the agent's own, with pipes.
    pub(crate) fn own(pid: i32, pidfd: OwnedFd, ends: Ends) -> Process {
        let [stdout, stderr] = ends.outputs.map(|fd| Output { fd, left: WINDOW_BYTES });
        let outputs = [stdout, stderr];
        let stdin = ends.stdin;
        Process { pid, pidfd, stdin, terminal: None, outputs, input: Vec::new(), input_ends: false, exit: None }
    }

    /// What to wait for. The order is that of [`Process::ready`].
    pub(crate) fn watched(&self, room: bool) -> [Option<(BorrowedFd<'_>, PollFlags)>; 4] {
        let reads = |output: &Output| room && output.left > 0;
        let out = |index: usize| {
            let output = &self.outputs[index];
            output.fd.as_ref().filter(|_| reads(output)).map(|fd| (fd.as_fd(), PollFlags::IN))
        };
        let writes = !self.input.is_empty() || self.input_ends;
        let terminal = self.terminal.as_ref().and_then(|fd| {
            let read = if reads(&self.outputs[0]) { PollFlags::IN } else { PollFlags::empty() };
            let both = read | if self.input.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            (!both.is_empty()).then(|| (fd.as_fd(), both))
        });
        let stdin = self.stdin.as_ref().filter(|_| writes).map(|fd| (fd.as_fd(), PollFlags::OUT));
        let ended = self.exit.is_none().then(|| (self.pidfd.as_fd(), PollFlags::IN));
        [out(0).or(terminal), out(1), stdin, ended]
    }

    /// Moves what can be moved. Its end, once all of its output is on the way.
    pub(crate) fn pump(&mut self, stream: u32, port: &mut Port) -> Option<Ended> {
        if self.exit.is_none() {
            self.exit = ended(&self.pidfd);
        }
        self.write_input(stream, port);
        let mut more = false;
        for channel in [STDOUT, STDERR] {
            more |= self.read_output(channel, stream, port);
        }
        if more { None } else { self.exit.clone() }
    }

    /// Whether there may be more of that output.
    fn read_output(&mut self, channel: u8, stream: u32, port: &mut Port) -> bool {
        let output = &mut self.outputs[usize::from(channel - STDOUT)];
        let fd = if channel == STDOUT && self.terminal.is_some() { &mut self.terminal } else { &mut output.fd };
        loop {
            let Some(open) = fd.as_ref() else { return false };
            if output.left == 0 || !port.has_room() {
                return true;
            }
            let room = DATA_BYTES_MAX.min(usize::try_from(output.left).unwrap_or(usize::MAX));
            let mut payload = vec![0_u8; 1 + room];
            payload[0] = channel;
            match rustix::io::read(open, &mut payload[1..]) {
                Ok(count) if count > 0 => {
                    output.left -= u32::try_from(count).unwrap_or(output.left);
                    port.send(Kind::Data, stream, &payload[..=count]);
                }
                Err(Errno::INTR) => {}
                // Nothing now. Of a process that has ended that is all: what it left behind may hold the pipe for ever.
                Err(Errno::AGAIN) => return false,
                // EIO: nobody has the terminal's other end.
                Ok(_) | Err(_) => {
                    *fd = None;
                    port.send(Kind::Eof, stream, &[channel]);
                    return false;
                }
            }
        }
    }

    fn write_input(&mut self, stream: u32, port: &mut Port) {
        let Some(fd) = self.stdin.as_ref().or(self.terminal.as_ref()) else {
            self.drop_input(stream, port);
            return;
        };
        let mut written = 0;
        let mut broken = false;
        while written < self.input.len() {
            match rustix::io::write(fd, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.input.drain(..written);
        grant(stream, written, port);
        if broken {
            self.stdin = None;
            self.drop_input(stream, port);
        } else if self.input.is_empty() && self.input_ends {
            self.stdin = None;
        }
    }

    /// Nobody reads it: the sender goes on as if somebody did.
    fn drop_input(&mut self, stream: u32, port: &mut Port) {
        let dropped = std::mem::take(&mut self.input).len();
        grant(stream, dropped, port);
    }

    /// More than its window is a mistake of the sender's and is thrown away.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        let window = usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX);
        if self.input.len() + bytes.len() <= window {
            self.input.extend_from_slice(bytes);
        }
    }

    pub(crate) fn end_input(&mut self) {
        self.input_ends = true;
    }

    pub(crate) fn grant(&mut self, channel: u8, bytes: u32) {
        if let Some(output) = channel.checked_sub(STDOUT).and_then(|index| self.outputs.get_mut(usize::from(index))) {
            output.left = output.left.saturating_add(bytes).min(WINDOW_BYTES);
        }
    }

    pub(crate) fn signal(&self, number: i32) {
        // One that has ended needs none.
        berth_sys::signals::pidfd_send_signal(self.pidfd.as_fd(), number).ok();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(terminal, size).ok();
        }
    }
}

fn grant(stream: u32, bytes: usize, port: &mut Port) {
    if bytes > 0 {
        let mut payload = vec![STDIN];
        payload.extend(u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes());
        port.send(Kind::Window, stream, &payload);
    }
}

/// Reaps it where it has ended.
fn ended(pidfd: &OwnedFd) -> Option<Ended> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look) {
        Ok(status) => status?,
        Err(Errno::INTR) => return None,
        // Somebody else has reaped it; nobody knows how it ended.
        Err(_) => return Some(Ended::Code(u8::MAX)),
    };
    Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, signal) => Ended::Signal(u8::try_from(signal.unwrap_or(9)).unwrap_or(9)),
    })
}
