//! A client that goes on running: followers, attached terminals, waits.

use crate::{Output, deadline};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// A started client whose output is collected as it comes. Killed when it is dropped.
pub struct Client {
    shown: String,
    child: Child,
    input: Option<File>,
    out: Collected,
    err: Collected,
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    ended: bool,
}

/// What a stream has said so far, and whether it has ended.
#[derive(Clone, Default)]
struct Collected(Arc<(Mutex<Said>, Condvar)>);

impl Collected {
    fn from(mut source: impl Read + Send + 'static) -> Collected {
        let collected = Collected::default();
        let shared = collected.0.clone();
        std::thread::spawn(move || {
            let mut part = [0_u8; 8192];
            loop {
                // A terminal whose other end has gone says EIO: its end.
                let count = source.read(&mut part).unwrap_or(0);
                let mut state = shared.0.lock().expect("no holder of this lock panics");
                state.bytes.extend_from_slice(&part[..count]);
                state.ended = count == 0;
                shared.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        collected
    }

    /// Of a stream that is not there.
    fn none() -> Collected {
        Collected(Arc::new((Mutex::new(Said { bytes: Vec::new(), ended: true }), Condvar::new())))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().expect("no holder of this lock panics").bytes).into_owned()
    }

    /// Whether `holds` came true before the deadline; the end of the stream ends the wait.
    fn wait(&self, mut holds: impl FnMut(&str, bool) -> bool) -> bool {
        let end = Instant::now() + deadline();
        let mut state = self.0.0.lock().expect("no holder of this lock panics");
        loop {
            if holds(&String::from_utf8_lossy(&state.bytes), state.ended) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return false;
            }
            state = self.0.1.wait_timeout(state, left).expect("no holder of this lock panics").0;
        }
    }
}

impl Client {
    /// With pipes. It can be interrupted, also where the tests run in the background.
    pub fn start(mut command: Command) -> Client {
        berth_sys::signals::heed_interrupts().expect("SIGINT has a default action");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let input = child.stdin.take().map(|stdin| File::from(std::os::fd::OwnedFd::from(stdin)));
        let out = Collected::from(child.stdout.take().expect("piped"));
        let err = Collected::from(child.stderr.take().expect("piped"));
        Client { shown, child, input, out, err }
    }

    /// With a terminal of this size as its standard streams.
    pub fn start_with_terminal(mut command: Command, rows: u16, columns: u16) -> Client {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal");
        let name = ptsname(&ours, Vec::new()).expect("a terminal").into_string().expect("a path");
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&ours, size).expect("a terminal's size");
        let theirs = || {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(rustix::fs::open(name.as_str(), flags, Mode::empty()).expect("a terminal"))
        };
        command.stdin(theirs()).stdout(theirs()).stderr(theirs());
        let shown = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        // The command holds the other end open until it is dropped.
        drop(command);
        let ours = File::from(ours);
        let out = Collected::from(ours.try_clone().expect("a descriptor"));
        Client { shown, child, input: Some(ours), out, err: Collected::none() }
    }

    pub fn stdout(&self) -> String {
        self.out.text()
    }

    pub fn stderr(&self) -> String {
        self.err.text()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still there.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// Types `text`.
    #[track_caller]
    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(text.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", self.shown));
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until standard output has `words`.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        let came = self.out.wait(|text, _| text.contains(words));
        assert!(came, "{}: no {words:?} in\n{}\nstderr: {}", self.shown, self.stdout(), self.stderr());
    }

    /// Waits until standard output has this many lines.
    #[track_caller]
    pub fn wait_for_lines(&self, count: usize) {
        let came = self.out.wait(|text, _| text.lines().count() >= count);
        assert!(came, "{}: not {count} lines in\n{}\nstderr: {}", self.shown, self.stdout(), self.stderr());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let end = Instant::now() + deadline();
        let status = loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => break status,
                None if Instant::now() > end => {
                    panic!("{} does not end\nstdout: {}\nstderr: {}", self.shown, self.stdout(), self.stderr())
                }
                None => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        self.out.wait(|_, ended| ended);
        self.err.wait(|_, ended| ended);
        Output {
            command: self.shown.clone(),
            code: status.code().unwrap_or(-1),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    /// `kill` of the client with `signal`; what it was attached to goes on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It may just have ended.
            rustix::process::kill_process(pid, signal).ok();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
