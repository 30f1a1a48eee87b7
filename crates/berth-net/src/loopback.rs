//! Ports that this host reaches on `[::1]`, where its packet filter sees bridged packets.
//!
//! ```text
//!  connect(2) to [::1]:8080 ──program on the root of the v2 cgroups──> map: TCP 8080 ──> connects to the container
//! ```
//!
//! An answer to ::1 that was translated back while it was still on the bridge (`br_netfilter`) is dropped by the kernel as
//! a loopback address from a wire (ip6_rcv_core). So nothing is translated here: the socket is told where the port leads
//! before there is a packet. Clients of datagrams that do not connect their sockets are not led, and neither is a socket
//! that was bound to ::1 before.
//!
//! One program and one map serve all engines of the host (a cgroup takes 64 programs at most). They stay when an engine
//! ends, as its table does: an element says whose it is, and the next engine with that table takes over. They are there
//! only while an element is. A key begins with the network namespace: ::1 of containers and of others is theirs.

use crate::publication::{Publication, protocol_number};
use berth_sys::bpf::{self, Map, Question, insn};
use berth_types::spec::Protocol;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// What the program and its map are called; another layout has another name.
const NAME: &str = "berth6_1";
/// Network namespace, protocol and port, the latter as the program finds them in `struct bpf_sock_addr`.
type Key = [u8; 16];
/// Address, port, and whose it is.
type Target = [u8; 24];
type Ports = Map<16, 24>;
/// An instruction that still wants its distance.
type Jump = Box<dyn Fn(i16) -> u64>;
/// Of all engines; the kernel takes 16 bytes for each place.
const ELEMENTS_MAX: u32 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Loopback {
    cgroup: OwnedFd,
    namespace: u64,
    owner: u32,
}

/// Held until dropped: no other engine attaches or detaches meanwhile.
struct Locked<'a>(BorrowedFd<'a>);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // A descriptor that is locked can be unlocked.
        rustix::fs::flock(self.0, FlockOperation::Unlock).ok();
    }
}

/// FNV-1a: the same for every build of ours, so that a later engine knows its own.
fn owner(table: &str) -> u32 {
    table.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Over `struct bpf_sock_addr`, <linux/bpf.h>: 8 to 20 are the address, 24 the port, 36 the protocol.
fn program(map: i32) -> Vec<u64> {
    const CONTEXT: u8 = 6;
    const FRAME: u8 = 10;
    let mut code = vec![insn::copy(CONTEXT, 1)];
    // Jumps over all of it find their distance when it is known.
    let mut leave: Vec<(usize, Jump)> = Vec::new();
    for (offset, word) in [(8, 0), (12, 0), (16, 0), (20, 1_u32.to_be() as i32)] {
        code.push(insn::load_word(2, CONTEXT, offset));
        leave.push((code.len(), Box::new(move |far| insn::jump_unless_equal(2, word, far))));
        code.push(0);
    }
    code.extend([insn::copy(1, CONTEXT), insn::call(insn::Function::NetnsCookie), insn::store_double(FRAME, 0, -16)]);
    for (from, to) in [(36, -8), (24, -4)] {
        code.extend([insn::load_word(2, CONTEXT, from), insn::store_word(FRAME, 2, to)]);
    }
    code.extend(insn::map(1, map));
    code.extend([insn::copy(2, FRAME), insn::add(2, -16), insn::call(insn::Function::MapLookup)]);
    leave.push((code.len(), Box::new(|far| insn::jump_if_null(0, far))));
    code.push(0);
    for (from, to) in [(0, 8), (4, 12), (8, 16), (12, 20), (16, 24)] {
        code.extend([insn::load_word(2, 0, from), insn::store_word(CONTEXT, 2, to)]);
    }
    let end = code.len();
    for (at, jump) in leave {
        code[at] = jump((end - at - 1) as i16);
    }
    code.extend([insn::move_value(0, 1), insn::exit()]);
    code
}

impl Loopback {
    /// With exactly these ports, whatever an earlier engine with that table left. `cgroups` is the root of the v2 tree,
    /// `socket` one of the network namespace whose ports these are.
    pub(crate) fn open(
        cgroups: &Path,
        table: &str,
        socket: BorrowedFd<'_>,
        publications: &[Publication],
    ) -> Result<Loopback, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup = rustix::fs::open(cgroups, flags, Mode::empty())?;
        let namespace = berth_sys::netns::cookie(socket)?;
        let opened = Loopback { cgroup, namespace, owner: owner(table) };
        opened.add(publications)?;
        let wanted: BTreeSet<Key> = publications.iter().flat_map(|p| opened.elements(p)).map(|(key, _)| key).collect();
        opened.remove_if(|key| !wanted.contains(key))?;
        Ok(opened)
    }

    /// What of it is reached on ::1, by key; the kernel asks programs about no other protocols.
    fn elements(&self, publication: &Publication) -> impl Iterator<Item = (Key, Target)> + use<> {
        let Publication { protocol, host, container, container_port: first, .. } = *publication;
        let led = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&host)
            && matches!(protocol, Protocol::Tcp | Protocol::Udp);
        let to = match container {
            IpAddr::V6(address) if led => Some(address.octets()),
            _ => None,
        };
        let (namespace, owner) = (self.namespace.to_ne_bytes(), self.owner.to_ne_bytes());
        publication.host_ports().zip(first..=u16::MAX).filter_map(move |(port, at)| {
            let word = |port: u16| u32::from(port.to_be()).to_ne_bytes();
            let protocol = u32::from(protocol_number(protocol)).to_ne_bytes();
            let (mut key, mut target) = ([0; 16], [0; 24]);
            key[..8].copy_from_slice(&namespace);
            key[8..12].copy_from_slice(&protocol);
            key[12..].copy_from_slice(&word(port));
            target[..16].copy_from_slice(&to?);
            target[16..20].copy_from_slice(&word(at));
            target[20..].copy_from_slice(&owner);
            Some((key, target))
        })
    }

    fn lock(&self) -> Result<Locked<'_>, Errno> {
        let cgroup = self.cgroup.as_fd();
        rustix::io::retry_on_intr(|| rustix::fs::flock(cgroup, FlockOperation::LockExclusive))?;
        Ok(Locked(cgroup))
    }

    /// The program that is attached, and its map.
    fn find(&self, locked: &Locked<'_>) -> Result<Option<(OwnedFd, Ports)>, Errno> {
        for program in bpf::attached(locked.0, Question::ConnectIpv6)? {
            if let (name, Some(map)) = bpf::describe(program.as_fd())?
                && name == NAME
            {
                return Ok(Some((program, Ports::by_number(map)?)));
            }
        }
        Ok(None)
    }

    pub(crate) fn add(&self, publications: &[Publication]) -> Result<(), Errno> {
        let mut elements = publications.iter().flat_map(|publication| self.elements(publication)).peekable();
        if elements.peek().is_none() {
            return Ok(());
        }
        let locked = self.lock()?;
        let (map, fresh) = match self.find(&locked)? {
            Some((_, map)) => (map, None),
            None => {
                let map = Ports::new(NAME, ELEMENTS_MAX)?;
                let program = bpf::load(Question::ConnectIpv6, NAME, &program(map.number()))?;
                (map, Some(program))
            }
        };
        for (key, target) in elements {
            map.set(&key, &target)?;
        }
        fresh.map_or(Ok(()), |program| bpf::attach(locked.0, Question::ConnectIpv6, program.as_fd(), None))
    }

    pub(crate) fn remove(&self, publications: &[Publication]) -> Result<(), Errno> {
        let keys: Vec<Key> = publications.iter().flat_map(|p| self.elements(p)).map(|(key, _)| key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let locked = self.lock()?;
        let Some((program, map)) = self.find(&locked)? else { return Ok(()) };
        for key in &keys {
            map.remove(key)?;
        }
        detach_if_idle(&locked, &program, &map)
    }

    /// Nothing of this engine is led any more.
    pub(crate) fn close(&self) -> Result<(), Errno> {
        self.remove_if(|_| true)
    }

    fn remove_if(&self, unwanted: impl Fn(&Key) -> bool) -> Result<(), Errno> {
        let locked = self.lock()?;
        let Some((program, map)) = self.find(&locked)? else { return Ok(()) };
        let mut gone = Vec::new();
        let mut at = map.next(None)?;
        while let Some(key) = at {
            if key[..8] == self.namespace.to_ne_bytes()
                && unwanted(&key)
                && map.get(&key)?.is_some_and(|target| target[20..] == self.owner.to_ne_bytes())
            {
                gone.push(key);
            }
            at = map.next(Some(&key))?;
        }
        for key in &gone {
            map.remove(key)?;
        }
        detach_if_idle(&locked, &program, &map)
    }
}

fn detach_if_idle(locked: &Locked<'_>, program: &OwnedFd, map: &Ports) -> Result<(), Errno> {
    if map.next(None)?.is_some() {
        return Ok(());
    }
    bpf::detach(locked.0, Question::ConnectIpv6, program.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Batch, Socket};
    use crate::route::{self, Route};
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    fn publication(protocol: Protocol, host: &str, host_port: u16, container_port: u16) -> Publication {
        let (host, container) = (host.parse().unwrap(), "fd00::5".parse().unwrap());
        Publication { protocol, host, host_port, container, container_port, count: 1 }
    }

    /// The v2 tree of this machine, by itself or beside v1.
    fn cgroups() -> Option<&'static Path> {
        [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/unified")]
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists())
    }

    fn alone(inside: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let inside = || {
                berth_sys::netns::unshare_network().unwrap();
                let mut batch = Batch::default();
                route::set_up(&mut batch, 1);
                route::add_address(&mut batch, 1, "fd00::5".parse().unwrap(), 128);
                Route::open().unwrap().run(batch).unwrap();
                // An address is there by and by, its routes too.
                let deadline = Instant::now() + Duration::from_secs(20);
                while TcpStream::connect("[fd00::5]:9").unwrap_err().kind() != ErrorKind::ConnectionRefused {
                    assert!(Instant::now() < deadline, "no route");
                    std::thread::sleep(Duration::from_millis(5));
                }
                inside();
            };
            scope.spawn(inside).join().unwrap();
        });
    }

    #[test]
    fn ports_on_ipv6_loopback_are_led_in_their_own_namespace_and_outlive_who_opened_them() {
        let Some(cgroups) = cgroups().filter(|_| rustix::process::geteuid().is_root()) else {
            return eprintln!("skipped: needs root and a v2 tree of cgroups");
        };
        alone(|| {
            let server = TcpListener::bind("[fd00::5]:8000").unwrap();
            let datagrams = UdpSocket::bind("[fd00::5]:8000").unwrap();
            let web = publication(Protocol::Tcp, "::", 80, 8000);
            let names = publication(Protocol::Udp, "::1", 53, 8000);
            let other = publication(Protocol::Tcp, "fd00::5", 81, 8000);
            let socket = Socket::netfilter().unwrap();
            let open = |all: &[Publication]| Loopback::open(cgroups, "berth_led", socket.as_fd(), all).unwrap();
            let reached = |port: u16| TcpStream::connect(("::1", port)).is_ok();
            let ours = |of: &Loopback| {
                let locked = of.lock().unwrap();
                let Some((_, map)) = of.find(&locked).unwrap() else { return 0 };
                let mut keys = std::iter::successors(map.next(None).unwrap(), |key| map.next(Some(key)).unwrap());
                keys.by_ref().filter(|key| key[..8] == of.namespace.to_ne_bytes()).count()
            };

            let first = open(&[]);
            assert!(!reached(80) && ours(&first) == 0);
            first.add(&[web, names, other]).unwrap();
            assert!(reached(80) && !reached(81) && !reached(8000) && ours(&first) == 2);
            assert_eq!(server.accept().unwrap().0.local_addr().unwrap().to_string(), "[fd00::5]:8000");
            let client = UdpSocket::bind("[::]:0").unwrap();
            client.connect("[::1]:53").unwrap();
            client.send(b"name?").unwrap();
            assert_eq!(datagrams.recv(&mut [0; 8]).unwrap(), 5);
            // Somebody else's ::1.
            alone(|| assert!(!reached(80)));

            drop(first);
            assert!(reached(80), "without the engine");
            let second = open(&[web]);
            assert!(reached(80) && ours(&second) == 1);
            second.remove(&[web, names]).unwrap();
            assert!(!reached(80) && ours(&second) == 0);
            second.add(&[web]).unwrap();
            assert!(reached(80));
            let other = Loopback::open(cgroups, "berth_other", socket.as_fd(), &[]).unwrap();
            assert!(reached(80), "another engine's is left alone");
            drop(second);
            let third = open(&[]);
            assert!(!reached(80) && ours(&third) == 0, "what a crash left is gone");
            other.add(&[web]).unwrap();
            assert!(reached(80));
            other.close().unwrap();
            assert!(!reached(80) && ours(&other) == 0);
        });
    }
}
