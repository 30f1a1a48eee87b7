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
//! The program stays when the engine ends, as the table does, and the next one replaces it. It is there only while a port
//! is, and asks for the network namespace first: ::1 of containers and of others is theirs.

use crate::publication::{Publication, protocol_number};
use berth_sys::bpf::{self, Map, Question, insn};
use berth_types::spec::Protocol;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Protocol and port, each as the program finds them in `struct bpf_sock_addr`.
type Key = [u8; 8];
/// Address and port.
type Target = [u8; 20];
/// An instruction that still wants its distance.
type Jump = Box<dyn Fn(i16) -> u64>;
/// TCP and UDP, each port.
const ELEMENTS_MAX: u32 = 2 << 16;

#[derive(Debug)]
pub(crate) struct Loopback {
    cgroup: OwnedFd,
    map: Map<8, 20>,
    program: OwnedFd,
    ports: BTreeSet<Key>,
    attached: bool,
}

fn key(protocol: Protocol, port: u16) -> Key {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&u32::from(protocol_number(protocol)).to_ne_bytes());
    key[4..].copy_from_slice(&u32::from(port.to_be()).to_ne_bytes());
    key
}

fn target(address: Ipv6Addr, port: u16) -> Target {
    let mut target = [0; 20];
    target[..16].copy_from_slice(&address.octets());
    target[16..].copy_from_slice(&u32::from(port.to_be()).to_ne_bytes());
    target
}

/// What of it is reached on ::1, by key; the kernel asks programs about no other protocols.
fn elements(publication: &Publication) -> impl Iterator<Item = (Key, Target)> + use<> {
    let Publication { protocol, host, container, container_port: first, .. } = *publication;
    let led = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&host)
        && matches!(protocol, Protocol::Tcp | Protocol::Udp);
    let to = match container {
        IpAddr::V6(address) if led => Some(address),
        _ => None,
    };
    let ports = publication.host_ports().zip(first..=u16::MAX);
    ports.filter_map(move |(host, at)| Some((key(protocol, host), target(to?, at))))
}

/// FNV-1a: the same for every build of ours, so that a later engine knows its own.
fn name(table: &str, namespace: u64) -> String {
    let bytes = table.bytes().chain(namespace.to_ne_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("berth6_{hash:08x}")
}

/// Over `struct bpf_sock_addr`, <linux/bpf.h>: 8 to 20 are the address, 24 the port, 36 the protocol.
fn program(namespace: u64, map: i32) -> Vec<u64> {
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
    code.extend([insn::copy(1, CONTEXT), insn::call(insn::Function::NetnsCookie)]);
    code.extend(insn::constant(2, namespace));
    leave.push((code.len(), Box::new(|far| insn::jump_unless_same(0, 2, far))));
    code.push(0);
    for (from, to) in [(36, -8), (24, -4)] {
        code.extend([insn::load_word(2, CONTEXT, from), insn::store_word(FRAME, 2, to)]);
    }
    code.extend(insn::map(1, map));
    code.extend([insn::copy(2, FRAME), insn::add(2, -8), insn::call(insn::Function::MapLookup)]);
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
    /// In place of what an earlier engine with that table left: a port that stays is led at every moment. `cgroups` is the
    /// root of the v2 tree, `socket` one of the network namespace whose ports these are.
    pub(crate) fn open(
        cgroups: &Path,
        table: &str,
        socket: BorrowedFd<'_>,
        publications: &[Publication],
    ) -> Result<Loopback, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup = rustix::fs::open(cgroups, flags, Mode::empty())?;
        let namespace = berth_sys::netns::cookie(socket)?;
        let name = name(table, namespace);
        let map = Map::new(&name, ELEMENTS_MAX)?;
        let program = bpf::load(Question::ConnectIpv6, &name, &program(namespace, map.number()))?;
        let mut opened = Loopback { cgroup, map, program, ports: BTreeSet::new(), attached: false };
        opened.fill(publications)?;
        let mut old = Vec::new();
        for there in bpf::attached(opened.cgroup.as_fd(), Question::ConnectIpv6)? {
            if bpf::name_of(there.as_fd())? == name {
                old.push(there);
            }
        }
        if !opened.ports.is_empty() {
            opened.attach(old.pop())?;
        }
        for left in old {
            bpf::detach(opened.cgroup.as_fd(), Question::ConnectIpv6, left.as_fd())?;
        }
        Ok(opened)
    }

    fn attach(&mut self, replaced: Option<OwnedFd>) -> Result<(), Errno> {
        let replaced = replaced.as_ref().map(OwnedFd::as_fd);
        bpf::attach(self.cgroup.as_fd(), Question::ConnectIpv6, self.program.as_fd(), replaced)?;
        self.attached = true;
        Ok(())
    }

    fn fill(&mut self, publications: &[Publication]) -> Result<(), Errno> {
        for (key, target) in publications.iter().flat_map(elements) {
            self.map.set(&key, &target)?;
            self.ports.insert(key);
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, publications: &[Publication]) -> Result<(), Errno> {
        self.fill(publications)?;
        if self.ports.is_empty() || self.attached {
            return Ok(());
        }
        self.attach(None)
    }

    pub(crate) fn remove(&mut self, publications: &[Publication]) -> Result<(), Errno> {
        for (key, _) in publications.iter().flat_map(elements) {
            self.map.remove(&key)?;
            self.ports.remove(&key);
        }
        if self.ports.is_empty() { self.detach() } else { Ok(()) }
    }

    /// Nothing is led any more.
    pub(crate) fn detach(&mut self) -> Result<(), Errno> {
        if self.attached {
            bpf::detach(self.cgroup.as_fd(), Question::ConnectIpv6, self.program.as_fd())?;
            self.attached = false;
        }
        Ok(())
    }
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
            let ours = || {
                let cgroup = rustix::fs::open(cgroups, OFlags::RDONLY, Mode::empty()).unwrap();
                let all = bpf::attached(cgroup.as_fd(), Question::ConnectIpv6).unwrap();
                let name = name("berth_led", berth_sys::netns::cookie(socket.as_fd()).unwrap());
                all.iter().filter(|one| bpf::name_of(one.as_fd()).is_ok_and(|found| found == name)).count()
            };

            let mut first = open(&[]);
            assert!(!reached(80) && ours() == 0);
            first.add(&[web, names, other]).unwrap();
            assert!(reached(80) && !reached(81) && !reached(8000) && ours() == 1);
            assert_eq!(server.accept().unwrap().0.local_addr().unwrap().to_string(), "[fd00::5]:8000");
            let client = UdpSocket::bind("[::]:0").unwrap();
            client.connect("[::1]:53").unwrap();
            client.send(b"name?").unwrap();
            assert_eq!(datagrams.recv(&mut [0; 8]).unwrap(), 5);
            // Somebody else's ::1.
            alone(|| assert!(!reached(80)));

            drop(first);
            assert!(reached(80), "without the engine");
            let mut second = open(&[web]);
            assert!(reached(80) && ours() == 1);
            second.remove(&[web, names]).unwrap();
            assert!(!reached(80) && ours() == 0);
            second.add(&[web]).unwrap();
            assert!(reached(80));
            drop(second);
            drop(open(&[]));
            assert!(!reached(80) && ours() == 0, "what a crash left is gone");
        });
    }
}
