//! What caller and child say to each other: short messages over a SEQPACKET pair that the execve closes.

use crate::error::{LaunchError, Step};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The child's half of the conversation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromChild {
    /// Namespaces exist: the caller is to run the hooks of the host, then to answer [`GO_ON`].
    Hooks,
    /// Everything but the execve is done. With the terminal's other end where there is one.
    Ready {
        warnings: Vec<String>,
    },
    Failed(LaunchError),
}

/// Id maps are written; hooks have run.
pub(crate) const GO_ON: u8 = b'g';
/// Execute the program.
pub(crate) const START: u8 = b's';

/// Longer than any error text that we make; a child's memory is ours, so this bounds mistakes, not attacks.
const MESSAGE_MAX: usize = 16 << 10;

pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .step(|| "make a socket pair".to_owned())
}

pub(crate) fn send(channel: impl AsFd, message: &FromChild, fd: Option<BorrowedFd<'_>>) -> Result<(), LaunchError> {
    let mut text = serde_json::to_vec(message).map_err(|error| LaunchError::host(error.to_string()))?;
    text.truncate(MESSAGE_MAX);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(LaunchError::host("no room for a descriptor"));
    }
    retry(|| rustix::net::sendmsg(&channel, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL))
        .step(|| "tell the caller".to_owned())
        .map(drop)
}

/// The next message; `None` once the child executed its program or ended.
pub(crate) fn receive(channel: impl AsFd) -> Result<Option<(FromChild, Option<OwnedFd>)>, LaunchError> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| {
        rustix::net::recvmsg(&channel, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        Ok(received) => received.bytes,
        Err(Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno).step(|| "hear from the child".to_owned()),
    };
    if length == 0 {
        return Ok(None);
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let message = serde_json::from_slice(bytes.get(..length).unwrap_or_default())
        .map_err(|error| LaunchError::host(format!("the child's message does not read: {error}")))?;
    Ok(Some((message, fd)))
}

pub(crate) fn say(channel: impl AsFd, word: u8) -> Result<(), Errno> {
    retry(|| rustix::net::send(&channel, &[word], SendFlags::NOSIGNAL)).map(drop)
}

/// Waits for `word`; false when the other side is gone.
pub(crate) fn await_word(channel: impl AsFd, word: u8) -> bool {
    let mut byte = [0; 1];
    matches!(retry(|| rustix::io::read(&channel, &mut byte)), Ok(1) if byte[0] == word)
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
