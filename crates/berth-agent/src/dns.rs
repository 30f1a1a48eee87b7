//! The guest's name server: at 127.0.0.11 as in every container, answered by the host over the port.

use crate::port::Port;
use berth_agent_proto::{Kind, QUERIES_BEGIN, QUERIES_MAX};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

const ADDRESS: (&str, u16) = ("127.0.0.11", 53);
const MESSAGE_BYTES_MAX: usize = 65_535;
const CONNECTIONS_MAX: usize = 32;
/// First byte of a query.
const BY_UDP: u8 = 0;
const BY_TCP: u8 = 1;

pub(crate) struct Dns {
    udp: UdpSocket,
    tcp: TcpListener,
    connections: Vec<Connection>,
    /// Oldest first; one that is pushed out was never answered, which a client expects of UDP.
    asked: VecDeque<(u32, From)>,
    next: u32,
}

struct Connection {
    number: u64,
    stream: TcpStream,
    incoming: Vec<u8>,
    open: bool,
}

enum From {
    Udp(SocketAddr),
    Tcp(u64),
}

impl Dns {
    pub(crate) fn listen() -> std::io::Result<Dns> {
        let (udp, tcp) = (UdpSocket::bind(ADDRESS)?, TcpListener::bind(ADDRESS)?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Dns { udp, tcp, connections: Vec::new(), asked: VecDeque::new(), next: 0 })
    }

    pub(crate) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.udp.as_fd(), self.tcp.as_fd()].into_iter().chain(self.connections.iter().map(|one| one.stream.as_fd()))
    }

    pub(crate) fn pump(&mut self, port: &mut Port) {
        let mut message = vec![0_u8; MESSAGE_BYTES_MAX];
        while port.has_room()
            && let Ok((count, from)) = self.udp.recv_from(&mut message)
        {
            self.ask(From::Udp(from), BY_UDP, &message[..count], port);
        }
        while let Ok((stream, _)) = self.tcp.accept() {
            if self.connections.len() < CONNECTIONS_MAX && stream.set_nonblocking(true).is_ok() {
                let number = self.connections.last().map_or(0, |last| last.number + 1);
                self.connections.push(Connection { number, stream, incoming: Vec::new(), open: true });
            }
        }
        let mut connections = std::mem::take(&mut self.connections);
        for connection in &mut connections {
            connection.read();
            while let Some(message) = connection.message() {
                self.ask(From::Tcp(connection.number), BY_TCP, &message, port);
            }
        }
        connections.retain(|connection| connection.open);
        self.connections = connections;
    }

    fn ask(&mut self, from: From, how: u8, message: &[u8], port: &mut Port) {
        if self.asked.len() >= QUERIES_MAX {
            self.asked.pop_front();
        }
        let stream = QUERIES_BEGIN | self.next;
        self.next = (self.next + 1) & !QUERIES_BEGIN;
        self.asked.push_back((stream, from));
        port.send(Kind::Query, stream, &[&[how], message].concat());
    }

    pub(crate) fn reply(&mut self, stream: u32, message: &[u8]) {
        let Some(at) = self.asked.iter().position(|(asked, _)| *asked == stream) else { return };
        let Some((_, from)) = self.asked.remove(at) else { return };
        if message.is_empty() {
            return;
        }
        match from {
            // Who asked may be gone.
            From::Udp(address) => drop(self.udp.send_to(message, address)),
            From::Tcp(number) => {
                if let Some(connection) = self.connections.iter_mut().find(|one| one.number == number) {
                    let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
                    connection.open &= connection.stream.write_all(&[&length, message].concat()).is_ok();
                }
            }
        }
    }
}

impl Connection {
    fn read(&mut self) {
        let mut bytes = [0_u8; 4096];
        while self.incoming.len() <= MESSAGE_BYTES_MAX {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.open = false;
                    return;
                }
                Ok(count) => self.incoming.extend_from_slice(&bytes[..count]),
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.open = false;
                    return;
                }
            }
        }
    }

    fn message(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(self.incoming.get(..2)?.try_into().ok()?));
        let message = self.incoming.get(2..2 + length)?.to_vec();
        self.incoming.drain(..2 + length);
        Some(message)
    }
}
