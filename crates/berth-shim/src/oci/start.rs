//! `start`: tells a created container to run its program, and hears whether it could.
//!
//! The container's process listens on `start.sock` in its folder (a descriptor it got before it lost sight of
//! the host). The one connection it accepts becomes its gate: it executes the program and the connection
//! closes by itself, or it says why not.

use super::error::{CliError, render};
use super::state::{Folder, Status};
use super::{Global, list};
use berth_runtime::hooks;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::process::ExitCode;

pub(crate) fn start(global: &Global, id: &str) -> Result<ExitCode, CliError> {
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    let status = list::status(&folder, &record);
    if status != Status::Created {
        return Err(CliError::WrongStatus { action: "start", id: id.to_owned(), status: status.word() });
    }
    let already = || CliError::WrongStatus { action: "start", id: id.to_owned(), status: "being started" };
    let directory = folder.directory()?;
    let lock = lock(&directory, &already)?;
    let socket = socket()?;
    match rustix::net::connect(&socket, &address(&directory)?) {
        // Somebody else started it since we looked.
        Err(Errno::NOENT) => return Err(already()),
        connected => connected.map_err(CliError::sys("reach the created process"))?,
    }
    // From here on it is started, whatever comes of it.
    rustix::fs::unlinkat(&directory, "start.sock", AtFlags::empty()).map_err(CliError::sys("remove start.sock"))?;
    drop(lock);
    berth_runtime::start_detached(socket).map_err(CliError::part("start the container"))?;
    if let Err(error) = hooks::run("poststart", Some(&record.poststart), &record.oci_state(Status::Running).to_string())
    {
        global.log.warn(&render(&error));
    }
    Ok(ExitCode::SUCCESS)
}

/// One start at a time: the process accepts the first connection, so whoever makes it must be the one that goes on. The
/// kernel lets go of the lock when its holder dies.
fn lock(folder: &OwnedFd, taken: &dyn Fn() -> CliError) -> Result<OwnedFd, CliError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(folder, ".", flags, Mode::empty()).map_err(CliError::sys("open its folder"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(taken()),
        locked => locked.map(|()| lock).map_err(CliError::sys("lock its folder")),
    }
}

/// The listening end, for the container's process.
pub(crate) fn listen(folder: &Folder) -> Result<OwnedFd, CliError> {
    let socket = socket()?;
    let directory = folder.directory()?;
    rustix::net::bind(&socket, &address(&directory)?).map_err(CliError::sys("make start.sock"))?;
    rustix::net::listen(&socket, 1).map_err(CliError::sys("listen on start.sock"))?;
    Ok(socket)
}

fn socket() -> Result<OwnedFd, CliError> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(CliError::sys("make a socket"))
}

/// Through the folder's descriptor: containerd's folders are longer than the 107 bytes of a socket's path.
fn address(folder: &OwnedFd) -> Result<SocketAddrUnix, CliError> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/start.sock", folder.as_raw_fd()))
        .map_err(CliError::sys("name start.sock"))
}
