//! What a container may not pretend towards its neighbours: checked on the bridge, before anybody is reached.
//!
//! ```text
//! table bridge berth_<instance>
//!   ports             interfaces of containers
//!   own_mac           interface . hardware address     the only one it may send from
//!   taken4, taken6    addresses that somebody has: containers, gateways
//!   own4, own6        interface . address              who has them
//!
//!   guard  prerouting -300   not one of ours: pass
//!                            foreign hardware address, in the frame or in ARP: drop
//!                            an address that is another's, as sender, in ARP or in a neighbour advertisement: drop
//!                            router advertisements and redirects: drop
//!                            reports of multicast groups of the link alone: drop
//! ```
//!
//! An address that nobody has may be used: load balancers and nested clusters bring addresses of their own.

use crate::firewall::PortGuard;
use crate::nft::expr::{
    Base, Expression, MetaKey, REG, Verdict, interface_key, link_protocol_is, payload_is, protocol_is,
};
use crate::nft::{DataType, Element, FAMILY_BRIDGE, FAMILY_INET, Hook, SetShape, Transaction};
use std::collections::BTreeMap;
use std::net::IpAddr;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// RFC 3810, section 5.2.
const MULTICAST_REPORT: u8 = 143;
/// Where a report's first group begins.
const REPORT_GROUP: u32 = 12;
/// Behind an interface's name.
const REG_SECOND: u32 = REG + 4;

/// The table's sets and its chain.
pub(crate) fn skeleton(change: &mut Transaction) {
    use DataType::{Ether, Interface, Ipv4, Ipv6};
    change.turn_to(FAMILY_BRIDGE);
    change.table();
    change.delete_table();
    change.table();
    let sets: [(&str, &[DataType]); 6] = [
        ("ports", &[Interface]),
        ("own_mac", &[Interface, Ether]),
        ("taken4", &[Ipv4]),
        ("taken6", &[Ipv6]),
        ("own4", &[Interface, Ipv4]),
        ("own6", &[Interface, Ipv6]),
    ];
    for (id, (name, key)) in sets.into_iter().enumerate() {
        change.set(100 + id as u32, SetShape { name, key, value: &[], interval: false });
    }
    change.chain("guard", Some(Hook { kind: "filter", number: 0, priority: -300 }));
    let interface = || Expression::Meta { key: MetaKey::InputInterface, register: REG };
    let is_not_in = |set: &str, register| Expression::InSet { set: set.to_owned(), register, negate: true };
    let is_in = |set: &str, register| Expression::InSet { set: set.to_owned(), register, negate: false };
    let drop = || Expression::Verdict(Verdict::Drop);

    change.rule("guard", &[interface(), is_not_in("ports", REG), Expression::Verdict(Verdict::Accept)]);
    let foreign_mac = |base, offset| {
        let mac = Expression::Payload { base, offset, bytes: 6, register: REG_SECOND };
        [interface(), mac, is_not_in("own_mac", REG), drop()]
    };
    change.rule("guard", &foreign_mac(Base::Link, 6));
    let mut arp = link_protocol_is(ARP).to_vec();
    arp.extend(foreign_mac(Base::Network, 8));
    change.rule("guard", &arp);

    let mut foreign_address = |start: Vec<Expression>, base, offset, ipv6: bool| {
        let (bytes, taken, own) = if ipv6 { (16, "taken6", "own6") } else { (4, "taken4", "own4") };
        let mut rule = start;
        rule.push(Expression::Payload { base, offset, bytes, register: REG_SECOND });
        rule.push(is_in(taken, REG_SECOND));
        rule.extend([interface(), is_not_in(own, REG), drop()]);
        change.rule("guard", &rule);
    };
    foreign_address(link_protocol_is(ARP).to_vec(), Base::Network, 14, false);
    foreign_address(link_protocol_is(IPV4).to_vec(), Base::Network, 12, false);
    foreign_address(link_protocol_is(IPV6).to_vec(), Base::Network, 8, true);
    let icmpv6 = |kind: u8| {
        let mut steps = link_protocol_is(IPV6).to_vec();
        steps.extend(protocol_is(ICMPV6));
        steps.extend(payload_is(Base::Transport, 0, &[kind]));
        steps
    };
    foreign_address(icmpv6(NEIGHBOUR_ADVERTISEMENT), Base::Transport, 8, true);
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        let mut rule = icmpv6(kind);
        rule.push(drop());
        change.rule("guard", &rule);
    }
    // Every container tells its neighbour discovery groups as it starts, several times; each report would wake all
    // others on the network, which makes a start dearer the more there are. Groups of the link (RFC 4291, section 2.7)
    // interest no router, and the bridge floods them anyway. Wider groups are told first in a report that has them.
    let mut rule = icmpv6(MULTICAST_REPORT);
    rule.extend(payload_is(Base::Transport, REPORT_GROUP, &[0xff, 0x02]));
    rule.push(drop());
    change.rule("guard", &rule);
    change.turn_to(FAMILY_INET);
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The set of taken addresses that `address` belongs to, with its element.
fn taken(address: &IpAddr) -> (&'static str, Element) {
    (if address.is_ipv4() { "taken4" } else { "taken6" }, Element::key(octets(address)))
}

fn elements(guards: &[PortGuard]) -> BTreeMap<&'static str, Vec<Element>> {
    let mut all: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for guard in guards {
        let interface = interface_key(&guard.port);
        let with = |bytes: &[u8]| {
            let mut key = interface.clone();
            key.extend_from_slice(bytes);
            key.resize(key.len().next_multiple_of(4), 0);
            Element::key(key)
        };
        all.entry("ports").or_default().push(Element::key(interface.clone()));
        all.entry("own_mac").or_default().push(with(&guard.mac));
        for address in &guard.addresses {
            let own = if address.is_ipv4() { "own4" } else { "own6" };
            all.entry(own).or_default().push(with(&octets(address)));
            let (set, element) = taken(address);
            all.entry(set).or_default().push(element);
        }
    }
    all
}

pub(crate) fn add(change: &mut Transaction, guards: &[PortGuard]) {
    change.turn_to(FAMILY_BRIDGE);
    for (set, some) in elements(guards) {
        change.add_elements(set, &some);
    }
    change.turn_to(FAMILY_INET);
}

pub(crate) fn remove(change: &mut Transaction, guards: &[PortGuard]) {
    change.turn_to(FAMILY_BRIDGE);
    for (set, some) in elements(guards) {
        change.delete_elements(set, &some);
    }
    change.turn_to(FAMILY_INET);
}

/// Gateways are the host's own: nobody on a bridge may be one.
pub(crate) fn add_gateways(change: &mut Transaction, gateways: &[IpAddr]) {
    change.turn_to(FAMILY_BRIDGE);
    for (set, element) in gateways.iter().map(taken) {
        change.add_elements(set, &[element]);
    }
    change.turn_to(FAMILY_INET);
}

pub(crate) fn remove_gateways(change: &mut Transaction, gateways: &[IpAddr]) {
    change.turn_to(FAMILY_BRIDGE);
    for (set, element) in gateways.iter().map(taken) {
        change.delete_elements(set, &[element]);
    }
    change.turn_to(FAMILY_INET);
}
