//! `kill`: a signal to the container's first process, or with `--all` to every process of its cgroup.

use super::args::{ArgsError, Parsed};
use super::error::CliError;
use super::state::{Folder, Record};
use super::{Global, cgroup, signal};
use rustix::fd::AsFd;
use rustix::process::{Pid, PidfdFlags};
use std::process::ExitCode;

pub(crate) fn kill(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let (id, name) = match flags.rest.as_slice() {
        [id] => (id, "TERM"),
        [id, signal] => (id, signal.as_str()),
        _ => return Err(ArgsError::Count { command: "kill", what: "takes a container's ID and a signal" }.into()),
    };
    let number = signal::parse(name).ok_or_else(|| CliError::Config(format!("unknown signal \"{name}\"")))?;
    let record = Folder::open(&global.root, id)?.load(id)?;
    if flags.has("all") {
        // Also of a container whose first process has gone: without a PID namespace others may live on.
        cgroup::open(&record)?.signal_all(number)?;
        return Ok(ExitCode::SUCCESS);
    }
    send(&record, number)?;
    Ok(ExitCode::SUCCESS)
}

/// Signals the container's first process. The pidfd is opened before the start time is compared, so that what
/// gets the signal is what was compared.
pub(crate) fn send(record: &Record, number: i32) -> Result<(), CliError> {
    let pid = Pid::from_raw(record.pid).ok_or(CliError::NotRunning)?;
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Err(CliError::NotRunning) };
    if !record.is_alive() {
        return Err(CliError::NotRunning);
    }
    if number == 0 {
        return Ok(());
    }
    match berth_sys::signals::pidfd_send_signal(pidfd.as_fd(), number) {
        Err(rustix::io::Errno::SRCH) => Err(CliError::NotRunning),
        sent => sent.map_err(CliError::sys("send the signal")),
    }
}
