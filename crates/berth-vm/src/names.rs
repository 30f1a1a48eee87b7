//! A guest's questions for names, asked in its jail's network where a container's name server listens.

use rustix::fd::{AsFd, BorrowedFd};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const SERVER: ([u8; 4], u16) = ([127, 0, 0, 11], 53);
const OPEN_MAX: usize = berth_agent_proto::QUERIES_MAX;
/// A resolver has asked again by then.
const ANSWER_SECONDS_MAX: u64 = 15;
const MESSAGE_BYTES_MAX: usize = 65_535;
/// On the loopback a connection is there at once, or refused.
const CONNECT: Duration = Duration::from_millis(200);

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

struct Asked {
    stream: u32,
    socket: Socket,
    until: Instant,
}

/// Questions that are open; each has a socket of its own, so that no answer can be taken for another's.
#[derive(Default)]
pub(crate) struct Names {
    open: VecDeque<Asked>,
}

impl Names {
    /// The first byte says how the guest was asked. What cannot be asked has no answer.
    pub(crate) fn ask(&mut self, stream: u32, query: &[u8]) {
        let Some((&how, message)) = query.split_first() else { return };
        let socket = if how == 0 { by_udp(message) } else { by_tcp(message) };
        let Ok(socket) = socket else { return };
        if self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back(Asked { stream, socket, until: Instant::now() + Duration::from_secs(ANSWER_SECONDS_MAX) });
    }

    pub(crate) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|asked| match &asked.socket {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Tcp(socket, _) => socket.as_fd(),
        })
    }

    /// Answers that have come: the question's stream, and the message.
    pub(crate) fn answers(&mut self) -> Vec<(u32, Vec<u8>)> {
        let (now, mut answers) = (Instant::now(), Vec::new());
        self.open.retain_mut(|asked| match read(&mut asked.socket) {
            Ok(Some(message)) => {
                answers.push((asked.stream, message));
                false
            }
            Ok(None) => now < asked.until,
            Err(_) => false,
        });
        answers
    }
}

fn by_udp(message: &[u8]) -> std::io::Result<Socket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(SocketAddr::from(SERVER))?;
    socket.set_nonblocking(true)?;
    socket.send(message)?;
    Ok(Socket::Udp(socket))
}

fn by_tcp(message: &[u8]) -> std::io::Result<Socket> {
    let mut socket = TcpStream::connect_timeout(&SocketAddr::from(SERVER), CONNECT)?;
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    socket.write_all(&[&length.to_be_bytes(), message].concat())?;
    socket.set_nonblocking(true)?;
    Ok(Socket::Tcp(socket, Vec::new()))
}

fn read(socket: &mut Socket) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0_u8; MESSAGE_BYTES_MAX];
    let received = match socket {
        Socket::Udp(socket) => socket.recv(&mut bytes),
        Socket::Tcp(stream, _) => stream.read(&mut bytes),
    };
    let count = match received {
        Ok(count) => count,
        Err(cause) if matches!(cause.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
            return Ok(None);
        }
        Err(cause) => return Err(cause),
    };
    bytes.truncate(count);
    match socket {
        Socket::Udp(_) => Ok(Some(bytes)),
        Socket::Tcp(..) if count == 0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        Socket::Tcp(_, held) => {
            held.extend(bytes);
            let length = held.get(..2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
            Ok(length.and_then(|length| held.get(2..2 + length)).map(<[u8]>::to_vec))
        }
    }
}
