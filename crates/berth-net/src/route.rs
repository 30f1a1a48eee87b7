//! Links, addresses and routes: what we ask of NETLINK_ROUTE.
//!
//! Functions that end in a [`Batch`] only write messages; [`Route`] sends them. Numbers are those of
//! `linux/if_link.h`, `linux/rtnetlink.h` and `linux/if_addr.h`.

use crate::netlink::{ACK, Attributes, Batch, CREATE, DUMP, EXCL, NetlinkError, REPLACE, Reply, Socket};
use crate::netlink::{attributes, text, u32_at, u64_at};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;

const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_F_NODAD: u8 = 0x02;

/// An interface as the kernel lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// The bridge it is a port of; 0: none.
    pub master: u32,
    pub up: bool,
    /// It carries packets (RFC 2863's `up`): an interface that is raised gets there a moment later.
    pub operational: bool,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    pub alias: String,
    pub counters: Counters,
}

/// An interface's counters, from its own point of view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Counters {
    /// The same traffic seen from the other end of a veth pair.
    #[must_use]
    pub fn from_other_end(self) -> Counters {
        Counters {
            rx_bytes: self.tx_bytes,
            rx_packets: self.tx_packets,
            rx_errors: self.tx_errors,
            rx_dropped: self.tx_dropped,
            tx_bytes: self.rx_bytes,
            tx_packets: self.rx_packets,
            tx_errors: self.rx_errors,
            tx_dropped: self.rx_dropped,
        }
    }
}

/// An address range that something on the host already uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub address: IpAddr,
    pub prefix_len: u8,
    /// The interface behind it; 0: none.
    pub index: u32,
}

/// A veth pair to be made: one end here on a bridge, the other in a container's namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    pub name: &'a str,
    pub master: u32,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: [u8; 6],
    pub peer_netns: BorrowedFd<'a>,
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn link_kind(a: &mut Attributes<'_>, kind: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    a.nest(IFLA_LINKINFO, |a| {
        a.bytes(IFLA_INFO_KIND, kind.as_bytes());
        a.nest(IFLA_INFO_DATA, data);
    });
}

/// Makes a bridge that forwards at once: no spanning tree, no delay. The fixed `mac` keeps the bridge
/// from taking that of its lowest port, which would change under the containers' feet.
pub fn add_bridge(batch: &mut Batch, name: &str, mac: [u8; 6], mtu: u32, alias: &str) {
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, IFF_UP, IFF_UP), |a| {
        a.text(IFLA_IFNAME, name);
        a.bytes(IFLA_ADDRESS, &mac);
        a.u32(IFLA_MTU, mtu);
        link_kind(a, "bridge", |a| {
            a.u32(IFLA_BR_FORWARD_DELAY, 0);
            a.u32(IFLA_BR_STP_STATE, 0);
            // A container that asks who listens would otherwise decide who is still reached by multicast, and so by
            // neighbour discovery.
            a.bytes(IFLA_BR_MCAST_SNOOPING, &[0]);
        });
    });
    // NEWLINK with CREATE ignores the alias, so it is a change of its own.
    batch.message(RTM_NEWLINK, ACK, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, name);
        a.text(IFLA_IFALIAS, alias);
    });
}

/// Makes a veth pair, our end a port of its bridge; both down yet.
pub fn add_veth(batch: &mut Batch, veth: Veth<'_>) {
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, veth.name);
        a.u32(IFLA_MTU, veth.mtu);
        a.u32(IFLA_MASTER, veth.master);
        one_queue(a);
        link_kind(a, "veth", |a| {
            a.nest(VETH_INFO_PEER, |a| {
                // Up would fail: the kernel opens the peer before the two know each other (ENOTCONN).
                a.raw(&ifinfo(0, 0, 0));
                a.text(IFLA_IFNAME, veth.peer_name);
                a.u32(IFLA_MTU, veth.mtu);
                one_queue(a);
                a.bytes(IFLA_ADDRESS, &veth.peer_mac);
                a.u32(IFLA_NET_NS_FD, veth.peer_netns.as_raw_fd() as u32);
            });
        });
    });
}

/// One queue each way, which is what a veth uses. Where nobody says so the kernel makes one for each processor and
/// takes all but one away again, waiting for an RCU grace period at each end while it holds the lock of all networks
/// (`veth_init_queues`): then sixteen starts at once wait for each other.
fn one_queue(attributes: &mut Attributes<'_>) {
    attributes.u32(IFLA_NUM_TX_QUEUES, 1);
    attributes.u32(IFLA_NUM_RX_QUEUES, 1);
}

/// Joins two bridges by a veth pair. `isolated`: what hangs on the second one reaches no isolated port of the first.
pub fn add_trunk(batch: &mut Batch, names: [&str; 2], bridges: [u32; 2], mtu: u32, isolated: bool) {
    const IFLA_BRPORT_ISOLATED: u16 = 33;
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, names[0]);
        a.u32(IFLA_MTU, mtu);
        a.u32(IFLA_MASTER, bridges[0]);
        one_queue(a);
        link_kind(a, "veth", |a| {
            a.nest(VETH_INFO_PEER, |a| {
                a.raw(&ifinfo(0, 0, 0));
                one_queue(a);
                a.text(IFLA_IFNAME, names[1]);
                a.u32(IFLA_MTU, mtu);
            });
        });
    });
    batch.message(RTM_NEWLINK, ACK, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, names[1]);
        a.u32(IFLA_MASTER, bridges[1]);
    });
    if isolated {
        batch.message(RTM_NEWLINK, ACK, &ifinfo(0, 0, 0), |a| {
            a.text(IFLA_IFNAME, names[0]);
            a.nest(IFLA_LINKINFO, |a| {
                a.bytes(4, b"bridge"); // IFLA_INFO_SLAVE_KIND
                a.nest(5, |a| a.bytes(IFLA_BRPORT_ISOLATED, &[1])); // IFLA_INFO_SLAVE_DATA
            });
        });
    }
    for name in names {
        batch.message(RTM_NEWLINK, ACK, &ifinfo(0, IFF_UP, IFF_UP), |a| a.text(IFLA_IFNAME, name));
    }
}

/// Makes a macvlan of `parent` in another namespace, down yet.
pub fn add_macvlan(
    batch: &mut Batch,
    name: &str,
    parent: u32,
    mode: u32,
    mac: [u8; 6],
    mtu: u32,
    netns: BorrowedFd<'_>,
) {
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, name);
        a.bytes(IFLA_ADDRESS, &mac);
        if mtu != 0 {
            a.u32(IFLA_MTU, mtu);
        }
        a.u32(IFLA_LINK, parent);
        a.u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        link_kind(a, "macvlan", |a| a.u32(1, mode)); // IFLA_MACVLAN_MODE
    });
}

/// Makes a VLAN of `parent`, up, marked with `alias`.
pub fn add_vlan(batch: &mut Batch, name: &str, parent: u32, number: u16, alias: &str) {
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, IFF_UP, IFF_UP), |a| {
        a.text(IFLA_IFNAME, name);
        a.u32(IFLA_LINK, parent);
        link_kind(a, "vlan", |a| a.bytes(1, &number.to_ne_bytes())); // IFLA_VLAN_ID
    });
    batch.message(RTM_NEWLINK, ACK, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, name);
        a.text(IFLA_IFALIAS, alias);
    });
}

/// Readies our end of a veth pair as a bridge's port, and takes it up.
///
/// Hairpin: where bridged packets pass the host's packet filter (`bridge-nf-call-iptables`), a container that
/// asks for its own published port is translated inside the bridge and has to come back by its own
/// port. With `ipv6`, no link-local address: a port is nobody's address, and each would announce itself
/// to all containers of the network. Isolated ports reach the bridge, and no other isolated port.
pub fn raise_port(batch: &mut Batch, name: &str, ipv6: bool, isolated: bool) {
    const IFLA_BRPORT_ISOLATED: u16 = 33;
    const IFLA_BRPORT_MODE: u16 = 4;
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    batch.message(RTM_NEWLINK, ACK, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, name);
        a.nest(IFLA_LINKINFO, |a| {
            a.bytes(IFLA_INFO_SLAVE_KIND, b"bridge");
            a.nest(IFLA_INFO_SLAVE_DATA, |a| {
                a.bytes(IFLA_BRPORT_MODE, &[1]);
                if isolated {
                    a.bytes(IFLA_BRPORT_ISOLATED, &[1]);
                }
            });
        });
        if ipv6 {
            a.nest(IFLA_AF_SPEC, |a| {
                a.nest(u16::from(AF_INET6), |a| a.bytes(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]));
            });
        }
    });
    batch.message(RTM_NEWLINK, ACK, &ifinfo(0, IFF_UP, IFF_UP), |a| a.text(IFLA_IFNAME, name));
}

pub fn set_up(batch: &mut Batch, index: u32) {
    batch.message(RTM_NEWLINK, ACK, &ifinfo(index, IFF_UP, IFF_UP), |_| ());
}

/// Changes name or hardware address of a link; it must be down for the name on kernels before 6.2.
pub fn set_mac(batch: &mut Batch, index: u32, mac: [u8; 6]) {
    batch.message(RTM_NEWLINK, ACK, &ifinfo(index, 0, 0), |a| a.bytes(IFLA_ADDRESS, &mac));
}

/// A link that is down gets another name.
pub fn set_name(batch: &mut Batch, index: u32, name: &str) {
    batch.message(RTM_NEWLINK, ACK, &ifinfo(index, 0, 0), |a| a.text(IFLA_IFNAME, name));
}

pub fn set_mtu(batch: &mut Batch, index: u32, mtu: u32) {
    batch.message(RTM_NEWLINK, ACK, &ifinfo(index, 0, 0), |a| a.u32(IFLA_MTU, mtu));
}

/// Makes a link a port of a bridge.
pub fn set_master(batch: &mut Batch, index: u32, bridge: u32) {
    batch.message(RTM_NEWLINK, ACK, &ifinfo(index, 0, 0), |a| a.u32(IFLA_MASTER, bridge));
}

/// Where a port's neighbours are is not to be learned from what comes in at it: it may be an echo of what went out.
pub fn stop_learning(batch: &mut Batch, port: u32) {
    const IFLA_BRPORT_LEARNING: u16 = 8;
    batch.message(RTM_NEWLINK, ACK, &ifinfo(port, 0, 0), |a| {
        a.nest(IFLA_LINKINFO, |a| {
            a.bytes(IFLA_INFO_SLAVE_KIND, b"bridge");
            a.nest(IFLA_INFO_SLAVE_DATA, |a| a.bytes(IFLA_BRPORT_LEARNING, &[0]));
        });
    });
}

pub fn delete_link(batch: &mut Batch, name: &str) {
    batch.message(RTM_DELLINK, ACK, &ifinfo(0, 0, 0), |a| a.text(IFLA_IFNAME, name));
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Gives an interface an address; having it already is fine.
pub fn add_address(batch: &mut Batch, index: u32, address: IpAddr, prefix_len: u8) {
    change_address(batch, RTM_NEWADDR, ACK | CREATE | REPLACE, index, address, prefix_len);
}

/// Gives an interface an address whose only neighbour on the link is `peer`; having it already is fine.
pub fn add_peer(batch: &mut Batch, index: u32, address: Ipv4Addr, peer: Ipv4Addr) {
    let mut fixed = [AF_INET, 32, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(RTM_NEWADDR, ACK | CREATE | REPLACE, &fixed, |a| {
        a.bytes(2, &address.octets()); // IFA_LOCAL
        a.bytes(1, &peer.octets()); // IFA_ADDRESS
    });
}

pub fn delete_address(batch: &mut Batch, index: u32, address: IpAddr, prefix_len: u8) {
    change_address(batch, RTM_DELADDR, ACK, index, address, prefix_len);
}

fn change_address(batch: &mut Batch, kind: u16, flags: u16, index: u32, address: IpAddr, prefix_len: u8) {
    // Duplicate detection would keep an IPv6 address unusable for a second; we hand them out once.
    let own_flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut fixed = [family(address), prefix_len, own_flags, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(kind, flags, &fixed, |a| {
        let bytes = octets(address);
        a.bytes(2, &bytes); // IFA_LOCAL
        a.bytes(1, &bytes); // IFA_ADDRESS
        if let IpAddr::V4(v4) = address
            && prefix_len < 31
        {
            let broadcast = u32::from(v4) | (u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0));
            a.bytes(4, &broadcast.to_be_bytes()); // IFA_BROADCAST
        }
    });
}

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

/// The host need not ask who has `address` on link `index`: `mac`, for good. Replaces what it knew.
pub fn set_neighbour(batch: &mut Batch, index: u32, address: IpAddr, mac: [u8; 6]) {
    batch.message(RTM_NEWNEIGH, ACK | CREATE | REPLACE, &ndmsg(index, address), |a| {
        a.bytes(1, &octets(address)); // NDA_DST
        a.bytes(2, &mac); // NDA_LLADDR
    });
}

pub fn delete_neighbour(batch: &mut Batch, index: u32, address: IpAddr) {
    batch.message(RTM_DELNEIGH, ACK, &ndmsg(index, address), |a| a.bytes(1, &octets(address)));
}

fn ndmsg(index: u32, address: IpAddr) -> [u8; 12] {
    const NUD_PERMANENT: u16 = 0x80;
    let mut fixed = [family(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    fixed
}

/// The default route through `gateway`; replaces one that is there.
pub fn set_default_route(batch: &mut Batch, gateway: IpAddr, index: u32) {
    // rtmsg: family, dst_len, src_len, tos, table main, protocol boot, scope universe, type unicast, flags
    let fixed = [family(gateway), 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    batch.message(RTM_NEWROUTE, ACK | CREATE | REPLACE, &fixed, |a| {
        a.bytes(5, &octets(gateway)); // RTA_GATEWAY
        a.u32(4, index); // RTA_OIF
    });
}

/// Lets answers to ::1 come in on link `index`, as `route_localnet` does for 127.0.0.1: without such a route the kernel
/// looks for ::1 behind that link only and finds nothing. Nobody can send to ::1 over it: the kernel drops
/// loopback addresses from a wire before it looks for routes. Being there already is fine.
pub fn accept_ipv6_loopback(batch: &mut Batch, index: u32) {
    const METRIC_BEHIND_LO: u32 = 4096;
    // rtmsg: family, dst_len, src_len, tos, table local, protocol static, scope universe, type local, flags
    let fixed = [AF_INET6, 128, 0, 0, 255, 4, 0, 2, 0, 0, 0, 0];
    batch.message(RTM_NEWROUTE, ACK | CREATE | REPLACE, &fixed, |a| {
        a.bytes(1, &std::net::Ipv6Addr::LOCALHOST.octets()); // RTA_DST
        a.u32(4, index); // RTA_OIF
        // Another one for each link: the kernel would take two of the same for one.
        a.u32(6, METRIC_BEHIND_LO + index); // RTA_PRIORITY
    });
}

/// Some default route of the main table.
pub fn delete_default_route(batch: &mut Batch, ipv6: bool) {
    // rtmsg as in `set_default_route`, with nothing in it that would have to match: scope nowhere matches any.
    let family = if ipv6 { AF_INET6 } else { AF_INET };
    batch.message(RTM_DELROUTE, ACK, &[family, 0, 0, 0, 254, 0, 255, 1, 0, 0, 0, 0], |_| ());
}

/// A route socket with the questions we ask.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// In the calling thread's network namespace.
    pub fn open() -> Result<Route, NetlinkError> {
        Ok(Route { socket: Socket::route()? })
    }

    pub fn run(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        self.socket.run(batch)
    }

    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(RTM_GETLINK, DUMP, &ifinfo(0, 0, 0), |_| ());
        Ok(self.socket.query(batch)?.iter().filter_map(parse_link).collect())
    }

    /// The interface called `name`, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.ask_link(0, Some(name))
    }

    /// The interface with that number, if there is one.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.ask_link(index, None)
    }

    fn ask_link(&mut self, index: u32, name: Option<&str>) -> Result<Option<Link>, NetlinkError> {
        let mut batch = Batch::default();
        // The acknowledgement marks the end: a single answer has no DONE after it.
        batch.message(RTM_GETLINK, ACK, &ifinfo(index, 0, 0), |a| {
            if let Some(name) = name {
                a.text(IFLA_IFNAME, name);
            }
        });
        match self.socket.query(batch) {
            Ok(replies) => Ok(replies.iter().find_map(parse_link)),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until a port of a bridge and the bridge carry packets; what is sent before is lost, and asked again a
    /// second later. After `limit` it is left to the kernel, which is late then, not wrong.
    pub fn wait_operational(&mut self, port: &str, bridge: u32, limit: Duration) -> Result<(), NetlinkError> {
        let since = Instant::now();
        let mut pause = Duration::from_micros(50);
        // The bridge follows its first port.
        for (index, name) in [(0, Some(port)), (bridge, None)] {
            while self.ask_link(index, name)?.is_some_and(|link| !link.operational) && since.elapsed() < limit {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// The addresses of all interfaces.
    pub fn addresses(&mut self) -> Result<Vec<Range>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(RTM_GETADDR, DUMP, &[0; 8], |_| ());
        let address = |reply: &Reply| {
            let (&prefix_len, index) = (reply.payload.get(1)?, u32_at(&reply.payload, 4)?);
            let (_, value) = attributes(reply.payload.get(8..)?).find(|a| a.0 == 1)?;
            Some(Range { address: parse_address(value)?, prefix_len, index })
        };
        Ok(self.socket.query(batch)?.iter().filter_map(address).collect())
    }

    /// Address ranges in use: every interface's subnet and every route but the default ones.
    pub fn ranges(&mut self) -> Result<Vec<Range>, NetlinkError> {
        let mut ranges = self.addresses()?;
        let mut batch = Batch::default();
        batch.message(RTM_GETROUTE, DUMP, &[0; 12], |_| ());
        for reply in self.socket.query(batch)? {
            let (Some(&prefix_len), Some(&kind)) = (reply.payload.get(1), reply.payload.get(7)) else { continue };
            let tail = reply.payload.get(12..).unwrap_or_default();
            let find = |wanted| attributes(tail).find(|a| a.0 == wanted).map(|a| a.1);
            let index = find(4).and_then(|value| u32_at(value, 0)).unwrap_or(0);
            // Multicast, link-local and the kernel's own local entries take no room from us.
            if prefix_len > 0
                && matches!(kind, 1 | 6..=8)
                && let Some(address) = find(1).and_then(parse_address)
            {
                ranges.push(Range { address, prefix_len, index });
            }
        }
        Ok(ranges)
    }
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn parse_link(reply: &Reply) -> Option<Link> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let mut link =
        Link { index: u32_at(&reply.payload, 4)?, up: u32_at(&reply.payload, 8)? & IFF_UP != 0, ..Link::default() };
    for (kind, value) in attributes(reply.payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_OPERSTATE => link.operational = value.first() == Some(&IF_OPER_UP),
            IFLA_MASTER => link.master = u32_at(value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|a| a.0 == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_STATS64 => {
                // rtnl_link_stats64: rx packets, tx packets, rx bytes, tx bytes, rx errors, tx errors, rx
                // dropped, tx dropped, ...
                let at = |position: usize| u64_at(value, position * 8).unwrap_or(0);
                link.counters = Counters {
                    rx_packets: at(0),
                    tx_packets: at(1),
                    rx_bytes: at(2),
                    tx_bytes: at(3),
                    rx_errors: at(4),
                    tx_errors: at(5),
                    rx_dropped: at(6),
                    tx_dropped: at(7),
                };
            }
            _ => (),
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_carries_its_broadcast_address() {
        let mut batch = Batch::default();
        add_address(&mut batch, 3, "10.1.2.3".parse().unwrap(), 26);
        let tail = &batch.bytes()[24..];
        let all: Vec<_> = attributes(tail).collect();
        assert_eq!(all, [(2, &[10, 1, 2, 3][..]), (1, &[10, 1, 2, 3][..]), (4, &[10, 1, 2, 63][..])]);
    }

    #[test]
    fn loopback_is_there_and_a_missing_link_is_none() {
        let mut route = Route::open().unwrap();
        assert_eq!(route.link("lo").unwrap().unwrap().index, 1);
        assert!(route.links().unwrap().iter().any(|link| link.name == "lo"));
        assert_eq!(route.link("no-such-link").unwrap(), None);
        route.ranges().unwrap();
    }
}
