//! A machine that does not begin with its firmware: its state and its memory are given as descriptors.
//!
//! ```text
//!  engine                        berth-vmm                       QEMU
//!  start.sock  <-- connects --   receive
//!              -- state, memory ->
//!                                spawned with both open  ------>  -incoming defer, memory mapped
//!                                load: migrate-incoming  ------>  reads the state, stands still
//!                                (a fork: old cards off) ------>
//!                                cont                    ------>  runs
//!              <-- "ok", or why not, and the end of the stream
//! ```
//!
//! The files themselves stay out of the jail: the memory of one machine is nothing for another one to read. Memory is
//! given in one of three ways. Shared: a file in memory that is this machine's own from now on. Private: one that
//! several machines map copy-on-write; it is sealed, so that none of them can change it. Or it is part of the state.

use crate::command;
use crate::qmp::{Client, QmpError};
use crate::spec::{EVENTS_SOCKET, Machine, Nic, RUN, START_SOCKET, Start};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage};
use serde_json::json;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A loaded host starts QEMU slowly; a state of gigabytes takes its time to be read.
const LOAD_SECONDS_MAX: u64 = 600;
const OPENS_SECONDS_MAX: u64 = 60;
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// What the engine hears of a failure.
const WHY_BYTES_MAX: usize = 2000;
const FINE: &str = "ok";

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("cannot get the saved state from the engine: {0}")]
    Receive(io::Error),
    #[error("the engine gave no state")]
    Nothing,
    #[error("QEMU has ended before its guest ran; its last words stand above")]
    Ended,
    #[error("QEMU did not read the saved state within {LOAD_SECONDS_MAX} seconds")]
    Late,
    #[error("QEMU cannot use the saved state: {0}")]
    Refused(String),
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

/// The engine's side: gives descriptors over an accepted connection, and hears how it went.
pub fn give(stream: &mut UnixStream, state: BorrowedFd<'_>, memory: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = std::iter::once(state).chain(memory).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(&*stream, &[IoSlice::new(b"s")], &mut ancillary, rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

/// How it went, in the words of `berth-vmm`: `Err` is why the machine does not run.
pub fn hear(stream: &mut UnixStream) -> io::Result<Result<(), String>> {
    use std::io::Read;
    stream.set_read_timeout(Some(Duration::from_secs(LOAD_SECONDS_MAX + 60)))?;
    let mut text = String::new();
    stream.take(WHY_BYTES_MAX as u64).read_to_string(&mut text)?;
    Ok(match text.as_str() {
        FINE => Ok(()),
        "" => Err("the machine ended before its state was read".to_owned()),
        _ => Err(text),
    })
}

/// What `berth-vmm` was given; the descriptors are inherited by QEMU.
pub(crate) struct Given {
    stream: UnixStream,
    pub(crate) state: OwnedFd,
    pub(crate) memory: Option<OwnedFd>,
}

pub(crate) fn receive() -> Result<Given, RestoreError> {
    let path = Path::new(RUN).join(START_SOCKET);
    let stream = UnixStream::connect(path).map_err(RestoreError::Receive)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    // Without close-on-exec: QEMU is to have them.
    rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty())
        .map_err(|errno| RestoreError::Receive(errno.into()))?;
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(some) => some.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let state = descriptors.next().ok_or(RestoreError::Nothing)?;
    let memory = descriptors.next();
    drop(descriptors);
    Ok(Given { stream, state, memory })
}

impl Given {
    /// Tells the engine how it went.
    pub(crate) fn tell(mut self, outcome: &Result<(), RestoreError>) {
        let text = outcome.as_ref().map_or_else(ToString::to_string, |()| FINE.to_owned());
        // An engine that is gone finds the machine running, or ended.
        self.stream.write_all(&text.as_bytes()[..text.len().min(WHY_BYTES_MAX)]).ok();
    }
}

/// The monitor of a QEMU that is about to start.
fn reach(deadline: Instant, ended: &mut dyn FnMut() -> bool) -> Result<Client, RestoreError> {
    loop {
        match Client::connect(Path::new(RUN), EVENTS_SOCKET, Duration::from_secs(LOAD_SECONDS_MAX)) {
            Ok(monitor) => return Ok(monitor),
            Err(_) if ended() => return Err(RestoreError::Ended),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            // Its socket is not there yet.
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Lets a machine whose disks have limits go on with them: its QEMU waits for that (`command::arguments`).
pub(crate) fn begin_limited(machine: &Machine, ended: &mut dyn FnMut() -> bool) -> Result<(), RestoreError> {
    let mut monitor = reach(Instant::now() + Duration::from_secs(OPENS_SECONDS_MAX), ended)?;
    limit(machine, &mut monitor)?;
    Ok(monitor.ask("cont", json!({})).map(drop)?)
}

fn limit(machine: &Machine, monitor: &mut Client) -> Result<(), QmpError> {
    command::throttles(&machine.disks).try_for_each(|limits| monitor.ask(command::THROTTLE, limits).map(drop))
}

/// Lets QEMU read the state and go on. `ended` says whether QEMU is gone.
pub(crate) fn load(
    machine: &Machine,
    state: BorrowedFd<'_>,
    ended: &mut dyn FnMut() -> bool,
) -> Result<(), RestoreError> {
    let deadline = Instant::now() + Duration::from_secs(LOAD_SECONDS_MAX);
    let mut monitor = reach(deadline, ended)?;
    let gone = |error: QmpError, ended: &mut dyn FnMut() -> bool| match error {
        QmpError::Broken(_) => {
            // The connection ends a moment before the process.
            while !ended() && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
            }
            RestoreError::Ended
        }
        other => other.into(),
    };
    let given = matches!(machine.start, Start::Restored { memory: Some(_), .. });
    ignore_shared_memory(&mut monitor, given)?;
    monitor.ask("migrate-incoming", json!({"uri": format!("fd:{}", state.as_raw_fd())}))?;
    loop {
        let answer = monitor.ask("query-migrate", json!({})).map_err(|error| gone(error, ended))?;
        match answer["status"].as_str() {
            Some("completed") => break,
            Some("failed" | "cancelled") => {
                let why = answer["error-desc"].as_str().unwrap_or("no reason given");
                return Err(RestoreError::Refused(why.to_owned()));
            }
            _ if Instant::now() > deadline => return Err(RestoreError::Late),
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
    if let Start::Restored { fork: true, .. } = machine.start {
        for index in 0..machine.nics.len() {
            // They have another machine's hardware address: off the wire before the guest says a word, and out.
            monitor.ask("set_link", json!({"name": format!("nic{index}"), "up": false}))?;
            monitor.ask("device_del", json!({"id": format!("nic{index}")}))?;
        }
    }
    limit(machine, &mut monitor)?;
    monitor.ask("cont", json!({})).map_err(|error| gone(error, ended))?;
    Ok(())
}

/// Whether memory that is a file of its own is left out of a state: the same for who writes it and who reads it.
pub fn ignore_shared_memory(monitor: &mut Client, ignore: bool) -> Result<(), QmpError> {
    let capability = json!({"capability": "x-ignore-shared", "state": ignore});
    monitor.ask("migrate-set-capabilities", json!({"capabilities": [capability]})).map(drop)
}

/// Plugs a fork's own card in once the guest has given back the one that it was forked with; false: not yet.
pub(crate) fn plug_in(index: usize, nic: &Nic) -> Result<bool, QmpError> {
    let mut monitor = Client::connect(Path::new(RUN), EVENTS_SOCKET, Duration::from_secs(5))?;
    match monitor.ask("device_add", crate::command::card(index, nic)) {
        Ok(_) => Ok(true),
        // "Duplicate device ID": the old one is still there.
        Err(QmpError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What QEMU inherits, as it names them.
pub(crate) fn numbers(given: Option<&Given>) -> crate::command::Descriptors {
    crate::command::Descriptors {
        state: given.map(|given| given.state.as_fd().as_raw_fd()),
        memory: given.and_then(|given| given.memory.as_ref()).map(|memory| memory.as_fd().as_raw_fd()),
    }
}
