//! `delete`: what is left of a container goes away: cgroup, folder; then the poststop hooks.

use super::args::Parsed;
use super::error::{CliError, render};
use super::state::{Folder, Record, Status};
use super::{Global, cgroup, kill, list};
use berth_runtime::hooks;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use std::process::ExitCode;

/// A killed process that is still there after this hangs in the kernel.
const KILLED_SECONDS_MAX: i64 = 10;

pub(crate) fn delete(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let id = flags.only_id("delete")?;
    let force = flags.has("force");
    let folder = match Folder::open(&global.root, id) {
        Err(CliError::NotFound(_)) if force => return Ok(ExitCode::SUCCESS),
        folder => folder?,
    };
    let record = match folder.load(id) {
        // A create that was killed half-way: nothing but the folder is known.
        Err(CliError::NotFound(_)) if force => {
            folder.remove()?;
            return Ok(ExitCode::SUCCESS);
        }
        record => record?,
    };
    match list::status(&folder, &record) {
        Status::Stopped => {}
        // Nobody's program runs in it yet.
        Status::Created => end(&record)?,
        _ if force => end(&record)?,
        status => return Err(CliError::WrongStatus { action: "delete", id: id.to_owned(), status: status.word() }),
    }
    clean(global, &folder, &record)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes everything of a stopped container.
pub(crate) fn clean(global: &Global, folder: &Folder, record: &Record) -> Result<(), CliError> {
    // Both even if one fails: what can go, goes.
    let cgroup = cgroup::remove(record);
    let folder = folder.remove();
    if let Err(error) = hooks::run("poststop", Some(&record.poststop), &record.oci_state(Status::Stopped).to_string()) {
        global.log.warn(&render(&error));
    }
    cgroup.and(folder)
}

/// Kills the container's first process and waits until it has gone.
fn end(record: &Record) -> Result<(), CliError> {
    let Some(pid) = Pid::from_raw(record.pid) else { return Ok(()) };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    match kill::send(record, 9) {
        Err(CliError::NotRunning) => return Ok(()),
        sent => sent?,
    }
    if cgroup::is_frozen(record) {
        // A frozen process takes its signals, also this one, once thawed.
        cgroup::open(record)?.thaw()?;
    }
    let timeout = Timespec { tv_sec: KILLED_SECONDS_MAX, tv_nsec: 0 };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err(CliError::Config(format!("process {} is still there after it was killed", record.pid))),
        polled => polled.map(drop).map_err(CliError::sys("wait for the killed process")),
    }
}
