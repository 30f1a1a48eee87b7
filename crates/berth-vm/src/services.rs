//! What a guest finds on its wire: DHCP on every card, and names on the first.
//!
//! ```text
//!  guest ── tap0 ── br0   0.0.0.0:67         dhcp      the card's address and the way out
//!                         169.254.0.53:53    relay --> 127.0.0.11:53, where the containers' names are
//! ```
//!
//! The jail's network is the machine's own, so whoever asks is the guest: it gets answers and can at most forget
//! its own questions. A card without an address of the old kind is not served. Names go by UDP; an answer that does not
//! fit says so, and there is no TCP.

use crate::dhcp::{self, Around, PACKET_BYTES_MAX};
use crate::spec::{Lease, Machine, SERVICE};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DNS: u16 = 53;
const ENGINE_NAMES: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), DNS);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NAME_SERVERS_MAX: usize = 3;
/// Names that are being asked for; the oldest is forgotten.
const QUESTIONS_MAX: usize = 256;
const DNS_BYTES_MAX: usize = 4096;
/// Datagrams that are taken in one go, so that signals are heard.
const ROUND_MAX: usize = 64;

struct Card {
    socket: UdpSocket,
    mac: [u8; 6],
    lease: Lease,
}

struct Relay {
    guest: UdpSocket,
    engine: UdpSocket,
    /// By the number that we ask under: who asked, and under which.
    questions: Vec<(u16, SocketAddr, [u8; 2])>,
    next: u16,
}

/// What there is to serve; nothing where there is no card.
pub(crate) struct Services {
    cards: Vec<Card>,
    relay: Option<Relay>,
    name_servers: Vec<Ipv4Addr>,
    host_name: String,
}

fn on_device(device: &str, address: SocketAddrV4) -> std::io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    berth_sys::device::bind_to_device(&socket, device)?;
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut out = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut out {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// Name servers of `resolv.conf` that a guest can reach.
fn name_servers(text: &str) -> (Vec<Ipv4Addr>, bool) {
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let all: Vec<Ipv4Addr> = words.filter_map(|word| word.trim().parse().ok()).collect();
    let own = all.contains(ENGINE_NAMES.ip());
    let reachable = all.into_iter().filter(|address| !address.is_loopback()).take(NAME_SERVERS_MAX).collect();
    (reachable, own)
}

impl Services {
    /// What cannot be opened is said and left out: the guest may have its address from elsewhere.
    pub(crate) fn open(machine: &Machine, mut say: impl FnMut(&str)) -> Services {
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let (mut name_servers, engines) = name_servers(&text);
        let mut cards = Vec::new();
        let mut relay = None;
        for nic in &machine.nics {
            let (Some(lease), Some(mac)) = (&nic.lease, mac(&nic.mac)) else { continue };
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, DHCP_SERVER);
            match on_device(&lease.bridge, any).and_then(|socket| socket.set_broadcast(true).map(|()| socket)) {
                Ok(socket) => cards.push(Card { socket, mac, lease: lease.clone() }),
                Err(cause) => say(&format!("no DHCP for the guest's card {}: {cause}", nic.mac)),
            }
            if engines && relay.is_none() {
                match Relay::open(&lease.bridge) {
                    Ok(open) => {
                        relay = Some(open);
                        name_servers = vec![SERVICE];
                    }
                    Err(cause) => say(&format!("no names for the guest: {cause}")),
                }
            }
        }
        Services { cards, relay, name_servers, host_name: machine.name.clone() }
    }

    /// What to watch for reading.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let relay = self.relay.iter().flat_map(|relay| [relay.guest.as_fd(), relay.engine.as_fd()]);
        self.cards.iter().map(|card| card.socket.as_fd()).chain(relay)
    }

    /// Answers what has come.
    pub(crate) fn serve(&mut self) {
        let mut packet = [0_u8; DNS_BYTES_MAX];
        for card in &self.cards {
            for _ in 0..ROUND_MAX {
                let Ok((count, _)) = card.socket.recv_from(&mut packet[..PACKET_BYTES_MAX]) else { break };
                let around = Around { server: SERVICE, name_servers: &self.name_servers, host_name: &self.host_name };
                if let Some(answer) = dhcp::answer(&packet[..count], card.mac, &card.lease, &around) {
                    // Lost, it is asked for again.
                    card.socket.send_to(&answer, (Ipv4Addr::BROADCAST, DHCP_CLIENT)).ok();
                }
            }
        }
        if let Some(relay) = &mut self.relay {
            relay.serve(&mut packet);
        }
    }
}

impl Relay {
    fn open(bridge: &str) -> std::io::Result<Relay> {
        let guest = on_device(bridge, SocketAddrV4::new(SERVICE, DNS))?;
        let engine = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        engine.connect(ENGINE_NAMES)?;
        engine.set_nonblocking(true)?;
        Ok(Relay { guest, engine, questions: Vec::new(), next: 1 })
    }

    fn serve(&mut self, packet: &mut [u8]) {
        for _ in 0..ROUND_MAX {
            let Ok((count, from)) = self.guest.recv_from(packet) else { break };
            if count < 2 {
                continue;
            }
            if self.questions.len() >= QUESTIONS_MAX {
                self.questions.remove(0);
            }
            self.next = self.next.wrapping_add(1);
            self.questions.push((self.next, from, [packet[0], packet[1]]));
            packet[..2].copy_from_slice(&self.next.to_be_bytes());
            // Lost, it is asked again.
            self.engine.send(&packet[..count]).ok();
        }
        for _ in 0..ROUND_MAX {
            let Ok(count) = self.engine.recv(packet) else { break };
            if count < 2 {
                continue;
            }
            let number = u16::from_be_bytes([packet[0], packet[1]]);
            let Some(at) = self.questions.iter().position(|(own, ..)| *own == number) else { continue };
            let (_, to, theirs) = self.questions.remove(at);
            packet[..2].copy_from_slice(&theirs);
            self.guest.send_to(&packet[..count], to).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_of_servers_that_it_can_reach() {
        let text = "search x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\n nameserver  10.0.0.2\nnameserver ::1\n";
        assert_eq!(name_servers(text), (vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)], false));
        assert_eq!(name_servers("nameserver 127.0.0.11\n"), (Vec::new(), true));
    }

    #[test]
    fn a_hardware_address_is_six_bytes() {
        assert_eq!(mac("02:42:ac:11:00:05"), Some([2, 0x42, 0xac, 0x11, 0, 5]));
        assert_eq!(mac("02:42"), None);
        assert_eq!(mac("02:42:ac:11:00:05:06"), None);
    }
}
