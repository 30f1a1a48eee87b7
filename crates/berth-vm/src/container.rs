//! A machine that is there for one container: QEMU, the volumes' server, and the bridge to the guest's agent.
//!
//! Our standard streams, signals and exit code are the container's, so that whoever started us sees no machine.

use crate::bridge::Bridge;
use crate::command;
use crate::spec::{Machine, RUN, SHARES, SHARES_SOCKET, Shares, Workload};
use crate::supervise::SuperviseError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};
use std::io::PipeReader;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;
/// The volumes' server has made its socket by then.
const SERVER_SECONDS_MAX: u64 = 60;
/// Of a failed start that nobody has heard of.
const LINGER: Duration = Duration::from_secs(5);

pub(crate) fn supervise(machine: &Machine, workload: &Workload) -> Result<u8, SuperviseError> {
    let signals = berth_sys::signals::all_as_descriptor().map_err(SuperviseError::Signals)?;
    let mut bridge = Bridge::new(Some(workload.clone())).map_err(|source| SuperviseError::Agent { source })?;
    let begun =
        workload.shares.as_ref().map(serve).transpose().and_then(|server| Ok((server, start(machine, workload)?)));
    let (server, (mut qemu, console)) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            bridge.failed(&error.to_string());
            linger(&mut bridge);
            return Err(error);
        }
    };
    bridge.watch_console(console).map_err(|source| SuperviseError::Agent { source })?;
    let code = watch(&mut bridge, &signals, Pid::from_child(&qemu), server.as_ref().map(Pid::from_child))?;
    bridge.farewell();
    if bridge.complaint().is_some() {
        linger(&mut bridge);
    }
    if let Some(complaint) = bridge.complaint() {
        rustix::io::write(rustix::stdio::stderr(), format!("berth: {complaint}\n").as_bytes()).ok();
    }
    // What the guest had to keep it has written: the agent says that a container has ended after that. Whatever
    // still runs ends with us, the first process of its namespace.
    qemu.kill().ok();
    Ok(code)
}

/// Whoever waits for the container's start may be about to ask.
fn linger(bridge: &mut Bridge) {
    let deadline = Instant::now() + LINGER;
    while !bridge.was_heard() && Instant::now() < deadline {
        bridge.round();
        let patience = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if rustix::event::poll(&mut bridge.watched(), Some(&patience)).is_err() {
            return;
        }
    }
}

/// The volumes' server, once QEMU can reach it.
fn serve(shares: &Shares) -> Result<Child, SuperviseError> {
    let failed = |source| SuperviseError::Shares { source };
    let socket = Path::new(RUN).join(SHARES_SOCKET);
    std::fs::remove_file(&socket).ok();
    let mut server = Command::new(&shares.program);
    server.arg(format!("--socket-path={}", socket.display()));
    match shares.program.starts_with("/usr/lib/qemu") {
        // QEMU's own, up to 7.2.
        true => {
            let source = format!("source={SHARES}");
            for option in
                [source.as_str(), "sandbox=chroot", "cache=auto", "xattr", "announce_submounts", "log_level=err"]
            {
                server.args(["-o", option]);
            }
        }
        false => {
            server.arg(format!("--shared-dir={SHARES}"));
            server.args(["--sandbox=chroot", "--cache=auto", "--xattr", "--announce-submounts", "--log-level=error"]);
        }
    }
    let mut server = server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        // Looking for the local time its filter would end it, with its first complaint.
        .env("TZ", "UTC0")
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + Duration::from_secs(SERVER_SECONDS_MAX);
    while !socket.exists() {
        if let Some(status) = server.try_wait().map_err(failed)? {
            return Err(failed(std::io::Error::other(format!("it ended at once: {status}"))));
        }
        if Instant::now() > deadline {
            server.kill().ok();
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::os::unix::fs::chown(&socket, Some(shares.machine_user), Some(shares.machine_user)).map_err(failed)?;
    Ok(server)
}

fn start(machine: &Machine, workload: &Workload) -> Result<(Child, PipeReader), SuperviseError> {
    let mut qemu = Command::new(command::PROGRAM);
    qemu.args(command::arguments(machine, command::Descriptors::default())).env_clear().env("PATH", "/usr/bin:/bin");
    // What QEMU itself complains about stands beside what the guest's kernel said last.
    let (console, theirs) = std::io::pipe().map_err(|source| SuperviseError::Start { source })?;
    let copy = theirs.try_clone().map_err(|source| SuperviseError::Start { source })?;
    qemu.stdin(Stdio::null()).stdout(theirs).stderr(copy);
    if let Some(shares) = &workload.shares {
        // From root to a user: the kernel takes all capabilities away.
        qemu.uid(shares.machine_user).gid(shares.machine_user);
    }
    let child = qemu.spawn().map_err(|source| SuperviseError::Start { source })?;
    Ok((child, console))
}

/// Until the container has ended, or the machine.
fn watch(
    bridge: &mut Bridge,
    signals: &rustix::fd::OwnedFd,
    qemu: Pid,
    server: Option<Pid>,
) -> Result<u8, SuperviseError> {
    loop {
        if let Some(code) = bridge.round() {
            return Ok(code);
        }
        let patience = bridge.patience().map(crate::supervise::timespec);
        let mut watched = bridge.watched();
        watched.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        match rustix::event::poll(&mut watched, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SuperviseError::Signals(errno)),
        }
        while let Some(signal) = berth_sys::signals::next_signal(signals.as_fd()).map_err(SuperviseError::Signals)? {
            match signal {
                SIGCHLD => {}
                SIGWINCH => bridge.resized(),
                other => bridge.signal(other),
            }
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let code = crate::supervise::code_of(status);
            if pid == qemu {
                return Ok(bridge.machine_ended(code));
            }
            if Some(pid) == server {
                // Without its volumes the container would go on with other files.
                return Ok(bridge.machine_ended(code));
            }
        }
    }
}
