//! `pause` and `resume`: the freezer of the container's cgroup.

use super::error::CliError;
use super::state::{Folder, Status};
use super::{Global, cgroup, list};
use std::process::ExitCode;

pub(crate) fn pause(global: &Global, id: &str) -> Result<ExitCode, CliError> {
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    match list::status(&folder, &record) {
        Status::Running | Status::Created => cgroup::open(&record)?.freeze()?,
        Status::Stopped => return Err(CliError::NotRunning),
        status @ Status::Paused => {
            return Err(CliError::WrongStatus { action: "pause", id: id.to_owned(), status: status.word() });
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn resume(global: &Global, id: &str) -> Result<ExitCode, CliError> {
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    match list::status(&folder, &record) {
        Status::Paused => cgroup::open(&record)?.thaw()?,
        // A created container can be frozen too; its status stays "created".
        Status::Created if cgroup::is_frozen(&record) => cgroup::open(&record)?.thaw()?,
        Status::Stopped => return Err(CliError::NotRunning),
        status => return Err(CliError::WrongStatus { action: "resume", id: id.to_owned(), status: status.word() }),
    }
    Ok(ExitCode::SUCCESS)
}
