//! The loop: one thread, one epoll over everything that may happen.
//!
//! ```text
//!  listener     engines connect            control.rs
//!  engine       requests of an engine      control.rs
//!  udp, accept  a container's two sockets  answer.rs
//!  connection   a container's TCP          answer.rs
//!  upstream     a question we asked        forward.rs
//! ```
//!
//! Everything that containers can make it hold is bounded, each for itself and all together.

mod answer;
mod control;
mod forward;

use crate::cache::Cache;
use crate::tcp::Stream;
use crate::upstream::{Forward, Health};
use crate::zone::Zones;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A program that nobody connects to was started by an engine that died since.
const LONELY: Duration = Duration::from_secs(10);
/// A TCP connection with nothing to do is closed.
const IDLE: Duration = Duration::from_secs(10);
const EVENTS: usize = 64;

/// Something that epoll watches.
enum Source {
    Listener(OwnedFd),
    Engine(OwnedFd),
    Udp { client: String, socket: UdpSocket },
    Accept { client: String, listener: TcpListener },
    Connection { client: String, stream: Stream, last: Instant },
    UpstreamUdp { forward: u64, server: SocketAddr, socket: UdpSocket },
    UpstreamTcp { forward: u64, server: SocketAddr, stream: Stream },
}

impl Source {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Listener(fd) | Source::Engine(fd) => fd.as_fd(),
            Source::Udp { socket, .. } | Source::UpstreamUdp { socket, .. } => socket.as_fd(),
            Source::Accept { listener, .. } => listener.as_fd(),
            Source::Connection { stream, .. } | Source::UpstreamTcp { stream, .. } => stream.socket.as_fd(),
        }
    }
}

/// A container that may ask.
struct Client {
    view: crate::protocol::View,
    udp: u64,
    accept: u64,
    namespace: OwnedFd,
    /// Questions of its that are on their way.
    asking: usize,
    connections: usize,
    generation: u64,
}

pub struct Server {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next_token: u64,
    clients: HashMap<String, Client>,
    zones: Zones,
    cache: Cache,
    health: Health,
    forwards: BTreeMap<u64, Forward>,
    forward_of: HashMap<Vec<u8>, u64>,
    host: HostServers,
    /// Where we came from, to go back to.
    namespace: OwnedFd,
    engines: usize,
    generation: u64,
    started: Instant,
    quit: bool,
    buffer: Vec<u8>,
}

/// The host's name servers, read anew when the file changes.
struct HostServers {
    path: PathBuf,
    servers: Vec<SocketAddr>,
    seen: Option<(std::time::SystemTime, u64)>,
    looked: Option<Instant>,
}

impl HostServers {
    /// As of now; the file is looked at once a second at most.
    fn get(&mut self, now: Instant) -> Vec<SocketAddr> {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= Duration::from_secs(1)) {
            self.looked = Some(now);
            let seen = std::fs::metadata(&self.path)
                .ok()
                .and_then(|file| Some((file.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&file))));
            if seen != self.seen {
                self.seen = seen;
                let text = std::fs::read_to_string(&self.path).unwrap_or_default();
                self.servers = name_servers(&text);
            }
        }
        self.servers.clone()
    }
}

/// The name servers of a resolv.conf(5).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().take(1000).filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()).flatten()?.parse::<IpAddr>().ok()
    });
    servers.take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

impl Server {
    /// On a listening SOCK_SEQPACKET socket. `resolv_conf` names the servers for everything that is not ours.
    pub fn new(listener: OwnedFd, resolv_conf: PathBuf) -> Result<Server, Errno> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let namespace = rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut server = Server {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sources: HashMap::new(),
            next_token: 1,
            clients: HashMap::new(),
            zones: Zones::default(),
            cache: Cache::default(),
            health: Health::default(),
            forwards: BTreeMap::new(),
            forward_of: HashMap::new(),
            host: HostServers { path: resolv_conf, servers: Vec::new(), seen: None, looked: None },
            namespace,
            engines: 0,
            generation: 0,
            started: Instant::now(),
            quit: false,
            buffer: vec![0; 4096],
        };
        server.watch(Source::Listener(listener), EventFlags::IN)?;
        Ok(server)
    }

    /// Until nobody needs it.
    pub fn run(&mut self) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_over() {
            let timeout = self.timeout(Instant::now());
            events.clear();
            let limit = timeout.map(|time| rustix::time::Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: time.subsec_nanos().into(),
            });
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, space, limit.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let happened: Vec<(u64, EventFlags)> = events.iter().map(|event| (event.data.u64(), event.flags)).collect();
            for (token, flags) in happened {
                self.happened(token, flags);
            }
            self.look_at_the_clock(Instant::now());
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let lonely = self.generation == 0 && self.started.elapsed() < LONELY;
        self.quit || self.engines == 0 && self.clients.is_empty() && !lonely
    }

    fn watch(&mut self, source: Source, flags: EventFlags) -> Result<u64, Errno> {
        let token = self.next_token;
        self.next_token += 1;
        epoll::add(&self.epoll, source.fd(), EventData::new_u64(token), flags)?;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Also for writing, while there is something to write.
    fn rewatch(&self, token: u64, source: &Source, write: bool) {
        let flags = if write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        // It is watched: only a descriptor that is not could be refused.
        epoll::modify(&self.epoll, source.fd(), EventData::new_u64(token), flags).ok();
    }

    /// Closing takes it out of epoll: nobody else holds the descriptors.
    fn close(&mut self, token: u64) -> Option<Source> {
        let source = self.sources.remove(&token)?;
        // Sockets that the engine sent may be open there a moment longer.
        epoll::delete(&self.epoll, source.fd()).ok();
        Some(source)
    }

    fn happened(&mut self, token: u64, flags: EventFlags) {
        match self.sources.get(&token) {
            Some(Source::Listener(_)) => self.accept_engine(token),
            Some(Source::Engine(_)) => self.hear_engine(token),
            Some(Source::Udp { .. }) => self.hear_datagrams(token),
            Some(Source::Accept { .. }) => self.accept_client(token),
            Some(Source::Connection { .. }) => self.hear_connection(token),
            Some(Source::UpstreamUdp { .. }) => self.hear_upstream(token),
            Some(Source::UpstreamTcp { .. }) => self.hear_upstream_stream(token, flags),
            // Closed by what happened before it in the same round.
            None => {}
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let forwards = self.forwards.values().map(Forward::wake_at);
        let connections = self.sources.values().filter_map(|source| match source {
            Source::Connection { last, .. } => Some(*last + IDLE),
            _ => None,
        });
        let lonely = (self.generation == 0).then(|| self.started + LONELY);
        let first = forwards.chain(connections).chain(lonely).min()?;
        // A moment late rather than early: early ones would turn round and round.
        Some(first.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn look_at_the_clock(&mut self, now: Instant) {
        let due: Vec<u64> = self.forwards.iter().filter(|(_, one)| one.wake_at() <= now).map(|(id, _)| *id).collect();
        for forward in due {
            self.advance(forward, now);
        }
        let idle = |source: &Source| matches!(source, Source::Connection { last, .. } if *last + IDLE <= now);
        let idle: Vec<u64> = self.sources.iter().filter(|(_, source)| idle(source)).map(|(token, _)| *token).collect();
        for token in idle {
            self.end_connection(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_resolver_does() {
        let text = "# c\nnameserver 127.0.0.53\nsearch a\nnameserver fd00::1 # x\nnameserver x\n nameserver 1.1.1.1\nnameserver 2.2.2.2\n";
        let read: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(read, ["127.0.0.53:53", "[fd00::1]:53", "1.1.1.1:53"]);
    }
}
