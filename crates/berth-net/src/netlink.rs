//! Netlink: requests in one buffer, one `send`, all acknowledgements collected.
//!
//! ```text
//! Batch:  [nlmsghdr | payload | attributes]  [nlmsghdr | ...]  ...      one sendmsg(2)
//! answer: [nlmsgerr 0] [nlmsgerr -17 "..."] ...                         one per message that asked
//! ```
//!
//! The kernel works through a batch before `send` returns, so answers are there when we read. A batch
//! is not a transaction for routes and links: messages after a failed one are still done, and the first
//! failure is reported. (nf_tables has transactions; see [`crate::nft`].) A [`Socket`] belongs to the
//! network namespace it was opened in for ever, which is how one thread serves many namespaces.
//!
//! Formats: netlink(7), rtnetlink(7). What the kernel sends is parsed with bounds checks all the same.

use berth_sys::netns::{NetlinkOption, set_netlink_option};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

pub(crate) const REQUEST: u16 = 0x01;
pub(crate) const ACK: u16 = 0x04;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// In the flags of an error message: attributes with words follow.
const ACK_TLVS: u16 = 0x200;
const CAPPED: u16 = 0x100;
const HEADER_BYTES: usize = 16;
/// The kernel never sends a larger datagram to us: dumps use 32 KiB at most.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for a transaction with tens of thousands of elements.
const SEND_BUFFER_BYTES: usize = 16 << 20;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Open(#[source] Errno),
    #[error("cannot send to the kernel")]
    Send(#[source] Errno),
    #[error("cannot receive from the kernel")]
    Receive(#[source] Errno),
    #[error("{}", if words.is_empty() { "the kernel refused the request" } else { words })]
    Refused {
        #[source]
        errno: Errno,
        /// The kernel's own words, often empty.
        words: String,
        /// Which message of the batch.
        index: usize,
    },
    #[error("the kernel sent a message that cannot be read")]
    Malformed,
    #[error("cannot change where ports on ::1 lead")]
    Led(#[source] Errno),
}

impl NetlinkError {
    /// The kernel's answer, if it was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Open(errno) | NetlinkError::Send(errno) | NetlinkError::Receive(errno) => Some(*errno),
            NetlinkError::Refused { errno, .. } | NetlinkError::Led(errno) => Some(*errno),
            NetlinkError::Malformed => None,
        }
    }
}

/// Messages on their way to the kernel.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message's header starts.
    starts: Vec<usize>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a message: `fixed` is the family's fixed header, `fill` writes the attributes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).expect("a batch is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Numbers the messages from `first` on, so that answers can be told apart.
    fn number(&mut self, first: u32) {
        for (index, &start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    /// Sets flags of the last message.
    pub(crate) fn acknowledge_last(&mut self, flags: u16) {
        if let Some(&start) = self.starts.last() {
            self.bytes[start + 6] |= flags as u8;
        }
    }

    fn wants_ack(&self, index: usize) -> bool {
        let start = self.starts[index];
        u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]) & ACK != 0
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Attributes of a message being written.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes hold less than 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A text with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An attribute that holds attributes, marked as such (NLA_F_NESTED).
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | 0x8000).to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).expect("attributes hold less than 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// A family's fixed header inside a nest, as `VETH_INFO_PEER` has it.
    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// The attributes in `bytes`, without the flag bits of their kinds. Stops at the first damaged one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (u16_at(bytes, 0)? as usize, u16_at(bytes, 2)? & 0x3fff);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// A netlink socket. One caller at a time.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// For links, addresses and routes, in the calling thread's network namespace.
    pub fn route() -> Result<Socket, NetlinkError> {
        // NETLINK_ROUTE is protocol 0, which is what `None` says.
        Socket::open(None, 0)
    }

    /// For nf_tables, in the calling thread's network namespace.
    pub fn netfilter() -> Result<Socket, NetlinkError> {
        let socket = Socket::open(Some(netlink::NETFILTER), 0)?;
        // Both are bounded by sysctl for those without CAP_NET_ADMIN; then large transactions fail with
        // ENOBUFS, which is an answer.
        net::sockopt::set_socket_send_buffer_size_force(&socket.fd, SEND_BUFFER_BYTES).ok();
        net::sockopt::set_socket_recv_buffer_size_force(&socket.fd, RECEIVE_BUFFER_BYTES).ok();
        Ok(socket)
    }

    pub(crate) fn open(protocol: Option<net::Protocol>, groups: u32) -> Result<Socket, NetlinkError> {
        let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(NetlinkError::Open)?;
        net::bind(&fd, &netlink::SocketAddrNetlink::new(0, groups)).map_err(NetlinkError::Open)?;
        // Comfort only: words with errors, and no echo of large requests.
        set_netlink_option(fd.as_fd(), NetlinkOption::ExtAck, 1).ok();
        set_netlink_option(fd.as_fd(), NetlinkOption::CapAck, 1).ok();
        Ok(Socket { fd, sequence: 1, buffer: Vec::new() })
    }

    /// Sends all of `batch` and waits for the acknowledgements it asks for; the first refusal is the error.
    pub fn run(&mut self, mut batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.send(&mut batch)?;
        let mut waiting = (0..batch.len()).filter(|&index| batch.wants_ack(index)).count();
        let mut refused: Option<NetlinkError> = None;
        while waiting > 0 {
            for (header, payload) in self.receive()? {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind != NLMSG_ERROR || index >= batch.len() {
                    continue;
                }
                if let Err(error) = outcome(&header, &payload, index) {
                    // nfnetlink reports a refusal for a message that asked for nothing too.
                    refused.get_or_insert(error);
                }
                waiting -= usize::from(batch.wants_ack(index));
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends a transaction whose last inner message asks for the one acknowledgement. When anything was
    /// refused nothing of it was done, and the kernel tells about the refused messages only.
    pub(crate) fn run_transaction(&mut self, mut batch: Batch) -> Result<(), NetlinkError> {
        let first = self.send(&mut batch)?;
        let last = batch.len().saturating_sub(2);
        let mut refused: Option<NetlinkError> = None;
        loop {
            let flags = if refused.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
            let replies = match self.receive_with(flags) {
                Err(NetlinkError::Receive(Errno::AGAIN)) => break,
                other => other?,
            };
            let mut finished = false;
            for (header, payload) in replies {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind != NLMSG_ERROR || index >= batch.len() {
                    continue;
                }
                if let Err(error) = outcome(&header, &payload, index) {
                    refused.get_or_insert(error);
                }
                finished |= index == last;
            }
            if finished {
                break;
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends one request and gathers what it answers with, to the end of the dump.
    pub(crate) fn query(&mut self, mut batch: Batch) -> Result<Vec<Reply>, NetlinkError> {
        let first = self.send(&mut batch)?;
        let mut replies = Vec::new();
        loop {
            for (header, payload) in self.receive()? {
                if header.sequence != first {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => return outcome(&header, &payload, 0).map(|()| replies),
                    kind => replies.push(Reply { kind, payload }),
                }
            }
        }
    }

    /// Messages that nobody asked for, from the groups this socket listens to.
    pub(crate) fn notices(&mut self) -> Result<Vec<Reply>, NetlinkError> {
        Ok(self.receive()?.into_iter().map(|(header, payload)| Reply { kind: header.kind, payload }).collect())
    }

    fn send(&mut self, batch: &mut Batch) -> Result<u32, NetlinkError> {
        let first = self.sequence;
        batch.number(first);
        self.sequence = self.sequence.wrapping_add(batch.len() as u32).max(1);
        let sent = rustix::io::retry_on_intr(|| net::send(&self.fd, &batch.bytes, SendFlags::empty()));
        sent.map_err(NetlinkError::Send)?;
        Ok(first)
    }

    fn receive(&mut self) -> Result<Vec<(Header, Vec<u8>)>, NetlinkError> {
        self.receive_with(RecvFlags::empty())
    }

    fn receive_with(&mut self, flags: RecvFlags) -> Result<Vec<(Header, Vec<u8>)>, NetlinkError> {
        self.buffer.resize(RECEIVE_BYTES, 0);
        let fd = &self.fd;
        let buffer = &mut self.buffer;
        let (length, full) =
            rustix::io::retry_on_intr(|| net::recv(fd, &mut buffer[..], flags)).map_err(NetlinkError::Receive)?;
        if full > length {
            return Err(NetlinkError::Malformed);
        }
        let messages = split(&self.buffer[..length]);
        // An idle socket keeps no buffer: engines keep several sockets.
        self.buffer = Vec::new();
        messages
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn split(mut bytes: &[u8]) -> Result<Vec<(Header, Vec<u8>)>, NetlinkError> {
    let mut messages = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let malformed = NetlinkError::Malformed;
        let length = u32_at(bytes, 0).ok_or(malformed)? as usize;
        let payload = bytes.get(HEADER_BYTES..length).ok_or(NetlinkError::Malformed)?;
        let header = Header {
            kind: u16_at(bytes, 4).unwrap_or_default(),
            flags: u16_at(bytes, 6).unwrap_or_default(),
            sequence: u32_at(bytes, 8).unwrap_or_default(),
        };
        messages.push((header, payload.to_vec()));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn outcome(header: &Header, payload: &[u8], index: usize) -> Result<(), NetlinkError> {
    let code = u32_at(payload, 0).ok_or(NetlinkError::Malformed)? as i32;
    if code == 0 {
        return Ok(());
    }
    let mut words = String::new();
    if header.flags & ACK_TLVS != 0 {
        // After the errno comes the request: its header alone when capped, whole otherwise.
        let request = if header.flags & CAPPED != 0 { HEADER_BYTES } else { u32_at(payload, 4).unwrap_or(0) as usize };
        let tail = payload.get(4 + request.next_multiple_of(4)..).unwrap_or_default();
        words = attributes(tail).find(|&(kind, _)| kind == 1).map(|(_, value)| text(value)).unwrap_or_default();
    }
    Err(NetlinkError::Refused { errno: Errno::from_raw_os_error(-code), words, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_padded_to_four_bytes_and_carry_true_lengths() {
        let mut batch = Batch::default();
        batch.message(16, ACK, &[1, 2, 3, 4], |a| {
            a.text(3, "ab");
            a.nest(18, |a| a.bytes(1, &[7]));
        });
        batch.message(17, 0, &[], |_| ());
        batch.number(9);
        let expected: &[u8] = &[
            40, 0, 0, 0, 16, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, // header and fixed part
            7, 0, 3, 0, b'a', b'b', 0, 0, // text
            12, 0, 18, 0x80, 5, 0, 1, 0, 7, 0, 0, 0, // nest
            16, 0, 0, 0, 17, 0, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(batch.bytes(), expected);
    }

    #[test]
    fn damaged_answers_are_errors_or_ends_never_panics() {
        assert!(split(&[255; 16]).is_err());
        assert!(split(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0x80, 1]).collect::<Vec<_>>(), [(1, &[1_u8][..])]);
    }
}
