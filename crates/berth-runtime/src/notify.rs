//! The agent that decides about system calls of `SCMP_ACT_NOTIFY`.
//!
//! It listens at `linux.seccomp.listenerPath` and gets, in one message, the filter's descriptor and the container
//! process state (runtime-spec, "Container Process State"). The child itself hands it over, as only it has the
//! descriptor, however many programs there were between its making and its start: it connects at the very
//! beginning, while paths and pids are still the host's, and sends once the filter is in force. The filter must let
//! `sendmsg` pass, as with every runtime.

use crate::error::{LaunchError, Step};
use crate::seccomp::Filter;
use oci_spec::runtime::Spec;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::path::Path;

pub(crate) struct Agent {
    socket: OwnedFd,
    state: Vec<u8>,
}

/// What is told of the container. `init`: its first process, for one that joins it.
pub(crate) struct Of<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) status: &'a str,
    pub(crate) init: Option<i32>,
}

/// A filter that notifies needs somebody to notify.
pub(crate) fn check(spec: &Spec, filter: Option<&Filter>) -> Result<(), LaunchError> {
    match filter.is_some_and(|filter| filter.notify) && path(spec).is_none() {
        true => Err(LaunchError::configuration("seccomp: SCMP_ACT_NOTIFY needs a listenerPath")),
        false => Ok(()),
    }
}

fn path(spec: &Spec) -> Option<&Path> {
    spec.linux().as_ref()?.seccomp().as_ref()?.listener_path().as_deref()
}

impl Agent {
    /// Connects, where the filter asks for it. In the host's mount namespace.
    pub(crate) fn connect(spec: &Spec, filter: Option<&Filter>, of: &Of<'_>) -> Result<Option<Agent>, LaunchError> {
        let Some(path) = path(spec).filter(|_| filter.is_some_and(|filter| filter.notify)) else { return Ok(None) };
        let connect = || {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        let connected: rustix::io::Result<OwnedFd> = connect();
        let socket = connected.step(|| format!("reach the seccomp agent at {}", path.display()))?;
        // The host's procfs names us by the host's number; getpid(2) says 1 here.
        let own = std::fs::read_link("/proc/self").ok();
        let pid: Option<i32> = own.and_then(|link| link.to_str()?.parse().ok());
        let pid = pid.ok_or_else(|| LaunchError::host("cannot find the own pid in /proc/self"))?;
        let metadata = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()?.listener_metadata().clone());
        let container = crate::hooks::state(spec, of.id, of.status, of.init.unwrap_or(pid), of.bundle);
        let container: serde_json::Value =
            serde_json::from_str(&container).map_err(|error| LaunchError::host(error.to_string()))?;
        let state = serde_json::json!({
            "ociVersion": spec.version(), "fds": ["seccompFd"], "pid": pid,
            "metadata": metadata.unwrap_or_default(), "state": container,
        });
        Ok(Some(Agent { socket, state: state.to_string().into_bytes() }))
    }

    pub(crate) fn send(&self, listener: BorrowedFd<'_>) -> Result<(), LaunchError> {
        let fds = [listener];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(LaunchError::host("no room for a descriptor"));
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&self.state)], &mut ancillary, SendFlags::NOSIGNAL)
            .step(|| "hand the filter to the seccomp agent".to_owned())
            .map(drop)
    }
}
