//! Questions that others answer.

use super::answer::limit;
use super::{Server, Source};
use crate::message::{self, RCODE_FAILURE, RCODE_NO_NAME, RCODE_OK};
use crate::tcp::Stream;
use crate::upstream::{Asked, Asker, Due, Forward, SERVERS_MAX, Waiter};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

/// Questions on their way of one container, and of all; past it they are refused at once.
const ASKING_MAX: usize = 128;
const ASKING_MAX_TOTAL: usize = 1024;
/// Askers of one question.
const WAITERS_MAX: usize = 256;

impl Server {
    /// Answers from memory, joins a question that is being asked, or asks.
    pub(super) fn forward(&mut self, client: &str, bytes: &[u8], waiter: Waiter, tcp: bool) {
        let now = Instant::now();
        let Some(served) = self.clients.get(client) else { return };
        let own = &served.view.servers;
        let (servers, own_namespace) = match own.is_empty() {
            true => (self.host.get(now), false),
            false => (own.iter().take(SERVERS_MAX).map(|address| SocketAddr::new(*address, 53)).collect(), true),
        };
        let mut key = waiter.query.key();
        if own_namespace {
            key.extend_from_slice(client.as_bytes());
        }
        if let Some((answer, age)) = self.cache.get(&key, now) {
            let answer = waiter.query.adapt(answer, age, limit(&waiter.query, tcp));
            return self.reply(&waiter.to, &answer);
        }
        let mut asking_key = key.clone();
        asking_key.push(u8::from(tcp));
        if let Some(forward) = self.forward_of.get(&asking_key).and_then(|id| self.forwards.get_mut(id)) {
            if forward.waiters.len() < WAITERS_MAX {
                forward.waiters.push(waiter);
            }
            return;
        }
        let asking = self.clients.get(client).map_or(0, |client| client.asking);
        if servers.is_empty() || asking >= ASKING_MAX || self.forwards.len() >= ASKING_MAX_TOTAL {
            let answer = waiter.query.failure(RCODE_FAILURE);
            return self.reply(&waiter.to, &answer);
        }
        let Some(id) = random_id() else { return };
        let asked = message::with_id(bytes, id);
        let query = waiter.query.clone();
        let mut forward = Forward::new(key, client, own_namespace, asked, id, query, tcp, servers, now);
        forward.waiters.push(waiter);
        let number = self.next_token;
        self.next_token += 1;
        self.forwards.insert(number, forward);
        self.forward_of.insert(asking_key, number);
        if let Some(client) = self.clients.get_mut(client) {
            client.asking += 1;
        }
        self.advance(number, now);
    }

    /// Does what is due for a question.
    pub(super) fn advance(&mut self, number: u64, now: Instant) {
        loop {
            let Some(forward) = self.forwards.get_mut(&number) else { return };
            match forward.due(&self.health, now) {
                Due::Nothing => return,
                Due::GiveUp => return self.give_up(number, now),
                Due::Repeat => {
                    for asked in forward.asked.iter().filter(|asked| !asked.over) {
                        if let Some(Source::UpstreamUdp { socket, .. }) = self.sources.get(&asked.token) {
                            // The socket tells later if it failed.
                            socket.send(&forward.bytes).ok();
                        }
                    }
                }
                Due::Ask(servers) => {
                    for server in servers {
                        if self.ask(number, server, now).is_err() {
                            self.health.failed(server, now);
                            if let Some(forward) = self.forwards.get_mut(&number)
                                && forward.failed(0, now)
                            {
                                return self.give_up(number, now);
                            }
                        }
                    }
                }
            }
        }
    }

    fn ask(&mut self, number: u64, server: SocketAddr, now: Instant) -> Result<(), Errno> {
        let Some(forward) = self.forwards.get(&number) else { return Ok(()) };
        let inside = match forward.own_namespace {
            true => Some(&self.clients.get(&forward.client).ok_or(Errno::NOENT)?.namespace),
            false => None,
        };
        let tcp = forward.tcp;
        let socket = within(inside.map(|fd| fd.as_fd()), self.namespace.as_fd(), || open(server, tcp))?;
        let (source, flags) = match tcp {
            false => {
                let socket = UdpSocket::from(socket);
                socket.send(&forward.bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                (Source::UpstreamUdp { forward: number, server, socket }, EventFlags::IN)
            }
            true => {
                let mut stream = Stream::new(TcpStream::from(socket));
                stream.push(&forward.bytes).map_err(|_| Errno::MSGSIZE)?;
                (Source::UpstreamTcp { forward: number, server, stream }, EventFlags::IN | EventFlags::OUT)
            }
        };
        let token = self.watch(source, flags)?;
        if let Some(forward) = self.forwards.get_mut(&number) {
            forward.asked.push(Asked { server, token, since: now, over: false });
        }
        Ok(())
    }

    pub(super) fn hear_upstream(&mut self, token: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let Some(Source::UpstreamUdp { forward, server, socket }) = self.sources.get(&token) else { return };
        let (number, server, received) = (*forward, *server, socket.recv(&mut buffer));
        match received {
            Ok(length) => self.heard(number, token, server, buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.refused(number, token, server, None),
        }
        self.buffer = buffer;
    }

    pub(super) fn hear_upstream_stream(&mut self, token: u64, flags: EventFlags) {
        let Some(Source::UpstreamTcp { forward, server, stream }) = self.sources.get_mut(&token) else { return };
        let (number, server) = (*forward, *server);
        let mut messages = Vec::new();
        let failed = flags.contains(EventFlags::ERR)
            || stream.flush().is_err()
            || flags.contains(EventFlags::IN)
                && stream.read(usize::from(u16::MAX)).map(|read| messages = read).is_err();
        if let Some(answer) = messages.first() {
            self.heard(number, token, server, answer);
        } else if failed {
            self.refused(number, token, server, None);
        } else if let Some(source @ Source::UpstreamTcp { stream, .. }) = self.sources.get(&token) {
            self.rewatch(token, source, stream.wants_to_write());
        }
    }

    /// `server` sent something; what is no answer to this question is not looked at further.
    fn heard(&mut self, number: u64, token: u64, server: SocketAddr, bytes: &[u8]) {
        let now = Instant::now();
        let Some(forward) = self.forwards.get(&number) else { return };
        let Some(answer) = message::read_answer(&forward.query, forward.id, bytes) else { return };
        self.health.answered(server);
        if !matches!(answer.code, RCODE_OK | RCODE_NO_NAME) {
            return self.refused(number, token, server, Some(bytes.to_vec()));
        }
        let silent: Vec<SocketAddr> = forward.silent(now).filter(|other| *other != server).collect();
        for other in silent {
            self.health.failed(other, now);
        }
        let Some(forward) = self.end(number) else { return };
        for waiter in &forward.waiters {
            let answer = waiter.query.adapt(bytes, 0, limit(&waiter.query, forward.tcp));
            self.reply(&waiter.to, &answer);
        }
        self.cache.put(forward.key, bytes.to_vec(), answer.ttl_seconds, now);
    }

    fn refused(&mut self, number: u64, token: u64, server: SocketAddr, answer: Option<Vec<u8>>) {
        let now = Instant::now();
        self.close(token);
        let Some(forward) = self.forwards.get_mut(&number) else { return };
        if answer.is_none() {
            self.health.failed(server, now);
        }
        forward.failure = forward.failure.take().or(answer);
        if forward.failed(token, now) { self.give_up(number, now) } else { self.advance(number, now) }
    }

    /// Nobody answers: what was kept, else the refusal, else a failure.
    fn give_up(&mut self, number: u64, now: Instant) {
        let Some(forward) = self.end(number) else { return };
        let silent: Vec<SocketAddr> = forward.silent(now).collect();
        for server in silent {
            self.health.failed(server, now);
        }
        for waiter in &forward.waiters {
            let limit = limit(&waiter.query, forward.tcp);
            let answer = match (self.cache.stale(&forward.key, now), &forward.failure) {
                (Some((answer, age)), _) => waiter.query.adapt(answer, age, limit),
                (None, Some(refusal)) => waiter.query.adapt(refusal, 0, limit),
                (None, None) => waiter.query.failure(RCODE_FAILURE),
            };
            self.reply(&waiter.to, &answer);
        }
    }

    /// Takes a question off the table.
    fn end(&mut self, number: u64) -> Option<Forward> {
        let forward = self.forwards.remove(&number)?;
        let mut key = forward.key.clone();
        key.push(u8::from(forward.tcp));
        self.forward_of.remove(&key);
        for asked in &forward.asked {
            self.close(asked.token);
        }
        if let Some(client) = self.clients.get_mut(&forward.client) {
            client.asking = client.asking.saturating_sub(1);
        }
        Some(forward)
    }

    fn reply(&mut self, to: &Asker, answer: &[u8]) {
        match to {
            Asker::Udp { client, peer } => self.send_datagram(client, *peer, answer),
            Asker::Tcp { token } => self.send_over_connection(*token, answer),
        }
    }
}

/// Runs `work` in another network namespace and comes back. The process has one thread.
fn within<T>(
    namespace: Option<BorrowedFd<'_>>,
    home: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let Some(namespace) = namespace else { return work() };
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace, network)?;
    let done = work();
    // Our own namespace cannot be refused: we came from it with the same rights.
    move_into_link_name_space(home, network).expect("the way back is open");
    done
}

/// A socket of our own for each question: its port is as random as its id.
fn open(server: SocketAddr, tcp: bool) -> Result<rustix::fd::OwnedFd, Errno> {
    let (family, any): (_, IpAddr) = match server {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (kind, protocol) = if tcp { (SocketType::STREAM, ipproto::TCP) } else { (SocketType::DGRAM, ipproto::UDP) };
    let socket = socket_with(family, kind, flags, Some(protocol))?;
    if !tcp {
        bind(&socket, &SocketAddr::new(any, 0))?;
    }
    match connect(&socket, &server) {
        Err(Errno::INPROGRESS) => Ok(socket),
        other => other.map(|()| socket),
    }
}

fn random_id() -> Option<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
    Some(u16::from_ne_bytes(bytes))
}
