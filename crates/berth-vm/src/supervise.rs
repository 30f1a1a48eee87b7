//! `berth-vmm`: the first process of a machine's jail.
//!
//! ```text
//!  machine.json -> QEMU with our standard streams, which are the machine's serial line
//!  SIGTERM, SIGINT   the power button (system_powerdown); the engine kills the jail when its grace is over
//!  SIGCHLD           QEMU has ended: so do we, with its code
//! ```
//!
//! It has no right that QEMU lacks, keeps no state, and needs no engine: what it was asked for it does while the
//! engine is down. The engine's own questions go to QEMU's other monitor, not through here.

use crate::command;
use crate::qmp::Client;
use crate::spec::{EVENTS_SOCKET, Machine, RUN};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};
use serde_json::json;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
/// QEMU's monitor answers within that, or hangs.
const MONITOR_SECONDS_MAX: u64 = 5;
/// The description of a machine is far smaller.
const DESCRIPTION_BYTES_MAX: u64 = 1 << 20;

/// Code for a machine that could not be started at all.
const CANNOT_START: u8 = 125;

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("cannot read {path}: {source}")]
    Description { path: String, source: std::io::Error },
    #[error("cannot start {}: {source}", command::PROGRAM)]
    Start { source: std::io::Error },
    #[error("cannot watch signals: {0}")]
    Signals(rustix::io::Errno),
}

/// Runs the machine that `path` describes until it ends; the code to end with.
pub fn run(path: &Path) -> u8 {
    match supervise(path) {
        Ok(code) => code,
        Err(error) => {
            // The console is the only place that anybody looks at.
            let text = format!("berth-vmm: {error}\n");
            rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
            CANNOT_START
        }
    }
}

fn supervise(path: &Path) -> Result<u8, SuperviseError> {
    let machine = read(path)?;
    let signals = berth_sys::signals::all_as_descriptor().map_err(SuperviseError::Signals)?;
    let child = Command::new(command::PROGRAM)
        .args(command::arguments(&machine))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .spawn()
        .map_err(|source| SuperviseError::Start { source })?;
    let qemu = Pid::from_child(&child);
    loop {
        let mut watched = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SuperviseError::Signals(errno)),
        }
        while let Some(signal) = berth_sys::signals::next_signal(signals.as_fd()).map_err(SuperviseError::Signals)? {
            if matches!(signal, SIGTERM | SIGINT) {
                press_power_button();
            }
        }
        // Signals of one kind merge: everything that has ended is collected, whatever was read.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == qemu {
                let killed = status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or(killed).unwrap_or(i32::from(CANNOT_START));
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
        }
    }
}

fn read(path: &Path) -> Result<Machine, SuperviseError> {
    use std::io::Read;
    let failed = |source| SuperviseError::Description { path: path.display().to_string(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|cause| failed(cause.into()))
}

/// Asks the guest to end. One that does not listen is killed with the jail after its grace.
fn press_power_button() {
    let time = Duration::from_secs(MONITOR_SECONDS_MAX);
    let asked = Client::connect(Path::new(RUN), EVENTS_SOCKET, time)
        .and_then(|mut monitor| monitor.ask("system_powerdown", json!({})));
    if let Err(error) = asked {
        let text = format!("berth-vmm: the power button does not work: {error}\n");
        rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
    }
}
