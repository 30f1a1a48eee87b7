//! One network's part of the table: its own chains, and the elements that lead to them.

use crate::addresses::Subnet;
use crate::firewall::{DESTINATION_TRANSLATED, destination, loopback, octets, source};
use crate::nft::expr::{self, Base, ConntrackKey, Expression, MetaKey, REG, Verdict};
use crate::nft::{Element, Extent, Transaction, Value};
use crate::publication::protocol_number;
use berth_types::spec::Protocol;
use std::net::IpAddr;

/// What the firewall knows of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The bridge's interface name.
    pub bridge: String,
    /// Further bridges of a large network, joined to the first.
    pub more_bridges: Vec<String>,
    pub subnets: Vec<Subnet>,
    /// Addresses there that no container may pretend to have.
    pub gateways: Vec<IpAddr>,
    /// No way out and in but for its own containers.
    pub internal: bool,
    pub masquerade: bool,
    /// Containers on it may talk to each other.
    pub inter_container: bool,
    /// Who reaches it from outside: by IPv4, by IPv6.
    pub access: [Access; 2],
    /// What goes out is seen under this address, not under that of the interface it leaves by.
    pub sources: [Option<IpAddr>; 2],
    /// Interfaces of the host from which published ports are reached under the container's own address as well.
    pub trusted: Vec<String>,
}

/// Who reaches a network from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Published ports, under the host's addresses.
    #[default]
    Published,
    /// The same, and all ports for whoever routes packets there.
    Anyone,
    /// No translation, neither in nor out: published ports under the container's own address, and ICMP.
    Routed,
    /// Nobody; the network does not reach the host either.
    Isolated,
}

/// The maps that lead to a network's own chains.
fn chains(bridge: &str) -> [(&'static str, String); 5] {
    [
        ("raw_in", format!("raw_{bridge}")),
        ("fwd_to", format!("to_{bridge}")),
        ("fwd_from", format!("from_{bridge}")),
        ("in_from", format!("in_{bridge}")),
        ("nat_to", format!("nat_{bridge}")),
    ]
}

/// Source address in `subnet`.
fn source_in(subnet: Subnet) -> Vec<Expression> {
    let ipv6 = subnet.address.is_ipv6();
    let mut steps = expr::family_is(ipv6).to_vec();
    steps.push(source(ipv6));
    steps.push(Expression::Mask { register: REG, mask: octets(subnet.mask()) });
    steps.push(Expression::Compare { register: REG, equal: true, value: octets(subnet.address) });
    steps
}

fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

fn drop() -> Expression {
    Expression::Verdict(Verdict::Drop)
}

pub(crate) fn add(change: &mut Transaction, zone: &Zone) {
    let chains = chains(&zone.bridge);
    for (_, chain) in &chains {
        change.chain(chain, None);
    }
    let [raw, to, from, input, nat] = chains.each_ref().map(|(_, chain)| chain.as_str());

    for offset in [12, 16] {
        let mut rule = expr::family_is(false).to_vec();
        rule.extend(loopback(offset));
        rule.push(drop());
        change.rule(raw, &rule);
    }

    way_in(change, to, zone);

    if zone.internal {
        change.rule(from, &[drop()]);
    }
    // Nobody sends to the world or to the host under addresses that are not of the network.
    own_sources(change, from, zone);
    for (ipv6, access) in families(zone) {
        if access == Access::Isolated {
            let mut rule = expr::family_is(ipv6).to_vec();
            rule.push(drop());
            change.rule(input, &rule);
        }
    }
    let mut door = expr::protocol_is(protocol_number(Protocol::Tcp)).to_vec();
    door.push(Expression::Payload { base: Base::Transport, offset: 2, bytes: 2, register: REG });
    door.push(Expression::InSet { set: "doors".to_owned(), register: REG, negate: false });
    door.push(drop());
    change.rule(input, &door);
    own_sources(change, input, zone);

    // A container that reaches another (or itself) through a published port would get the answer from an
    // address it never asked; the host's address in between keeps both directions on one path.
    for subnet in &zone.subnets {
        let mut hairpin = source_in(*subnet);
        hairpin.extend(expr::conntrack(ConntrackKey::Status, DESTINATION_TRANSLATED));
        hairpin.push(Expression::Masquerade);
        change.rule(nat, &hairpin);
    }
    let mut from_loopback = expr::family_is(false).to_vec();
    from_loopback.extend(loopback(12));
    from_loopback.push(Expression::Masquerade);
    change.rule(nat, &from_loopback);
    let mut from_loopback = expr::family_is(true).to_vec();
    from_loopback.extend(expr::payload_is(Base::Network, 8, &std::net::Ipv6Addr::LOCALHOST.octets()));
    from_loopback.push(Expression::Masquerade);
    change.rule(nat, &from_loopback);
    // Between containers of one network nothing else is changed, also where bridged packets pass here.
    change.rule(nat, &[accept()]);

    for (map, elements) in elements(zone) {
        change.add_elements(map, &elements);
    }
}

fn families(zone: &Zone) -> impl Iterator<Item = (bool, Access)> {
    [false, true].into_iter().zip(zone.access)
}

/// What is forwarded to the network.
fn way_in(change: &mut Transaction, to: &str, zone: &Zone) {
    if zone.inter_container {
        let mut own = expr::interface_is(MetaKey::InputInterface, &zone.bridge).to_vec();
        own.push(accept());
        change.rule(to, &own);
    }
    if !zone.internal {
        let mut translated = expr::conntrack(ConntrackKey::Status, DESTINATION_TRANSLATED).to_vec();
        translated.push(accept());
        change.rule(to, &translated);
        for (ipv6, access) in families(zone) {
            let mut start = expr::family_is(ipv6).to_vec();
            match access {
                Access::Published | Access::Isolated => {
                    for interface in &zone.trusted {
                        let mut rule = expr::interface_is(MetaKey::InputInterface, interface).to_vec();
                        rule.extend(start.clone());
                        rule.extend(opened(ipv6));
                        change.rule(to, &rule);
                    }
                }
                Access::Anyone => {
                    start.push(accept());
                    change.rule(to, &start);
                }
                Access::Routed => {
                    let mut icmp = start.clone();
                    icmp.extend(expr::protocol_is(if ipv6 { 58 } else { 1 }));
                    icmp.push(accept());
                    change.rule(to, &icmp);
                    start.extend(opened(ipv6));
                    change.rule(to, &start);
                }
            }
        }
    }
    change.rule(to, &[drop()]);
}

/// Lets pass what goes to a port that is published under the container's own address.
fn opened(ipv6: bool) -> Vec<Expression> {
    let mut steps = destination(ipv6);
    let set = if ipv6 { "open6" } else { "open4" };
    steps.push(Expression::InSet { set: set.to_owned(), register: REG, negate: false });
    steps.push(accept());
    steps
}

/// Lets pass what comes from the network's subnets, or from nowhere yet; drops the rest.
fn own_sources(change: &mut Transaction, chain: &str, zone: &Zone) {
    let link_local = Subnet { address: std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), prefix_len: 10 };
    let nowhere = [
        Subnet { address: std::net::Ipv4Addr::UNSPECIFIED.into(), prefix_len: 32 },
        Subnet { address: std::net::Ipv6Addr::UNSPECIFIED.into(), prefix_len: 128 },
    ];
    for subnet in zone.subnets.iter().chain([&link_local]).chain(&nowhere) {
        let mut rule = source_in(*subnet);
        rule.push(Expression::Verdict(Verdict::Return));
        change.rule(chain, &rule);
    }
    change.rule(chain, &[drop()]);
}

fn elements(zone: &Zone) -> Vec<(&'static str, Vec<Element>)> {
    let mut all: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for (map, chain) in chains(&zone.bridge) {
        let verdict = if matches!(map, "raw_in" | "in_from") { Verdict::Jump(chain) } else { Verdict::Goto(chain) };
        let key = expr::interface_key(&zone.bridge);
        all.push((map, vec![Element::mapped(key, Value::Verdict(verdict))]));
    }
    all.extend(zone.more_bridges.iter().map(|bridge| ("nat_to", vec![bridged(bridge, &zone.bridge)])));
    if zone.masquerade && !zone.internal {
        for subnet in &zone.subnets {
            let family = usize::from(subnet.address.is_ipv6());
            if zone.access[family] == Access::Routed {
                continue;
            }
            let source = zone.sources[family];
            let value = source.map_or(Value::None, |address| Value::Data(octets(address)));
            let mut elements = vec![Element::mapped(octets(subnet.address), value)];
            if let Some(after) = subnet.after() {
                elements.push(Element { extent: Extent::End, ..Element::key(octets(after)) });
            }
            let set = match (source, family) {
                (None, 0) => "masq4",
                (None, _) => "masq6",
                (Some(_), 0) => "source4",
                (Some(_), _) => "source6",
            };
            all.push((set, elements));
        }
    }
    all
}

/// Packets within a further bridge are changed as little as those within the first, also where they pass here.
pub(crate) fn bridged(bridge: &str, first: &str) -> Element {
    Element::mapped(expr::interface_key(bridge), Value::Verdict(Verdict::Goto(format!("nat_{first}"))))
}

pub(crate) fn remove(change: &mut Transaction, zone: &Zone) {
    for (map, elements) in elements(zone) {
        change.delete_elements(map, &elements);
    }
    for (_, chain) in chains(&zone.bridge) {
        change.flush_chain(&chain);
        change.delete_chain(&chain);
    }
}
