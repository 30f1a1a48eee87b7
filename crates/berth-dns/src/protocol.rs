//! What the engine tells the name server: one request, one reply, on a SOCK_SEQPACKET Unix socket.
//!
//! A request is a list of [`Op`]s, done in order. The descriptors with it belong to its [`Op::Serve`]s that say
//! `sockets`, three each: UDP socket, listening TCP socket, network namespace.
//!
//! An engine that has just started says `Hello`, then in one or several requests `Begin`, everything that is so, `End`:
//! what was not said again in between is forgotten, and nothing that stays is ever missing.

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::IpAddr;

/// Raised with any change of what is said; an engine replaces a name server of another version.
pub const VERSION: u32 = 2;
/// A request or reply; a hello's reply lists every container.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
pub const DESCRIPTORS_PER_CONTAINER: usize = 3;
/// The kernel passes at most 253 at once (unix(7), SCM_MAX_FD).
pub const SERVES_MAX: usize = 60;
const DESCRIPTORS_MAX: usize = SERVES_MAX * DESCRIPTORS_PER_CONTAINER;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Hello,
    Begin,
    End,
    /// A container that may ask, and what it sees. Without sockets: those it has stay.
    Serve {
        view: View,
        sockets: bool,
    },
    Unserve {
        container: String,
    },
    /// Names and addresses of a container on a network.
    Put {
        network: String,
        label: String,
        /// A name that several have is answered with one of them at a time.
        one: bool,
        container: String,
        names: Vec<String>,
        addresses: Vec<IpAddr>,
    },
    Remove {
        network: String,
        container: String,
    },
    /// Another version takes over.
    Quit,
}

/// What one container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub container: String,
    /// Network ids, the preferred first.
    pub networks: Vec<String>,
    /// Name servers of its own, asked from its namespace; empty: the host's.
    pub servers: Vec<IpAddr>,
    /// Whether it has a way out at all: a container of internal networks only learns nothing from outside.
    pub forward: bool,
    /// Names for it alone, and whose they are.
    pub links: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub version: u32,
    /// After a hello: the containers that have their sockets here.
    pub serving: Vec<String>,
    pub error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("cannot speak to the name server")]
    Io(#[source] Errno),
    #[error("the name server's socket was closed")]
    Closed,
    #[error("a message does not read")]
    Malformed(#[source] serde_json::Error),
    #[error("a message is too long")]
    TooLong,
}

impl From<Errno> for ProtocolError {
    fn from(errno: Errno) -> ProtocolError {
        ProtocolError::Io(errno)
    }
}

/// Sends one message.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ProtocolError> {
    let text = serde_json::to_vec(message).map_err(ProtocolError::Malformed)?;
    if text.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(ProtocolError::TooLong);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(ProtocolError::TooLong);
    }
    let send = || sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL);
    rustix::io::retry_on_intr(send)?;
    Ok(())
}

/// The next message with its descriptors.
pub fn receive<T: for<'de> Deserialize<'de>>(socket: BorrowedFd<'_>) -> Result<(T, Vec<OwnedFd>), ProtocolError> {
    let mut peeked = [0_u8; 1];
    let peek = || rustix::net::recv(socket, &mut peeked[..], RecvFlags::PEEK | RecvFlags::TRUNC);
    let (_, length) = rustix::io::retry_on_intr(peek)?;
    if length == 0 {
        return Err(ProtocolError::Closed);
    }
    if length > MESSAGE_BYTES_MAX {
        return Err(ProtocolError::TooLong);
    }
    let mut bytes = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    let text = bytes.get(..received.bytes).unwrap_or_default();
    let message = serde_json::from_slice(text).map_err(ProtocolError::Malformed)?;
    Ok((message, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_request_arrives_whole_with_its_descriptors() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let ops = vec![Op::Begin, Op::Serve { view: View::default(), sockets: true }];
        let file = std::fs::File::open("/dev/null").unwrap();
        send(ours.as_fd(), &ops, &[file.as_fd(), file.as_fd(), file.as_fd()]).unwrap();
        let (read, descriptors) = receive::<Vec<Op>>(theirs.as_fd()).unwrap();
        assert_eq!((read, descriptors.len()), (ops, 3));
        drop(ours);
        assert!(matches!(receive::<Vec<Op>>(theirs.as_fd()), Err(ProtocolError::Closed)));
    }
}
