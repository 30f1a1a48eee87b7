//! Our one table: what it holds, and how it changes.
//!
//! ```text
//! table inet berth_<instance>
//!   any4, any6    protocol . port           -> address . port     published on every address
//!   at4, at6      address . protocol . port -> address . port     published on one address
//!   raw_in        interface -> raw_<bridge>                       what a container may not pretend
//!   fwd_to        interface -> to_<bridge>                        who may reach a network
//!   fwd_from      interface -> from_<bridge>                      what a network may not send out
//!   in_from       interface -> in_<bridge>                        what it may not reach of the host
//!   nat_to        interface -> nat_<bridge>                       loopback clients and hairpins
//!   masq4, masq6  subnets that go out under the host's address
//!   doors         TCP ports of the engine's own that ask for no proof of who calls
//!
//!   raw      prerouting -300   loopback addresses from a wire or a container are dropped
//!   pre      prerouting -100   local destinations: at*, then any*
//!   out      output     -100   the same for the host's own clients
//!   input    input         0   in_from
//!   forward  forward       0   established; fwd_to; fwd_from
//!   post     postrouting 100   nat_to; masq4; masq6
//!
//! table bridge berth_<instance>    what containers may not pretend (guard)
//! ```
//!
//! Every change is one transaction on elements of maps: the 10,000th port costs what the first did, and no
//! packet sees half a change. [`Firewall`] remembers what it put there, so that it can be put back
//! whole when somebody flushes the host's rules ([`Firewall::restore`]). Outside our table nothing is
//! touched but forward chains whose policy is to drop (see `foreign`).
//!
//! **Loopback.** `127.0.0.1:8080` on the host reaches a container without a proxy: the bridge gets
//! `route_localnet`, and packets that leave through a bridge with a loopback source are
//! masqueraded. What `route_localnet` would open is closed again in `raw`, before any translation:
//! nothing that comes in on a bridge may carry a loopback address, and nothing from any other wire may
//! reach a port that is published on loopback only.

use crate::addresses::Subnet;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::expr::{self, Base, ConntrackKey, Expression, MetaKey, REG, Verdict};
use crate::nft::{self, DataType, Element, Hook, SetShape, Transaction, Value};
use crate::{conntrack, foreign, guard};
use berth_types::spec::Protocol;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A port of the host that leads to a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Publication {
    pub protocol: Protocol,
    /// Unspecified (`0.0.0.0`, `::`): every address of that family.
    pub host: IpAddr,
    pub host_port: u16,
    /// Of the same family as `host`.
    pub container: IpAddr,
    pub container_port: u16,
}

/// What the firewall knows of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The bridge's interface name.
    pub bridge: String,
    /// Further bridges of a large network, joined to the first.
    pub more_bridges: Vec<String>,
    pub subnets: Vec<Subnet>,
    /// The host's addresses there.
    pub gateways: Vec<IpAddr>,
    /// No way out and in but for its own containers.
    pub internal: bool,
    pub masquerade: bool,
    /// Containers on it may talk to each other.
    pub inter_container: bool,
}

/// A container's port of a bridge, and what it may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortGuard {
    /// The host's end of its veth pair.
    pub port: String,
    pub mac: [u8; 6],
    pub addresses: Vec<IpAddr>,
}

/// What a table is opened with.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    pub zones: Vec<Zone>,
    pub publications: Vec<Publication>,
    pub guards: Vec<PortGuard>,
    /// TCP ports of the host that no container may reach, whatever address it asks.
    pub doors: Vec<u16>,
    /// Published ports answer on ::1 as well.
    pub loopback_ipv6: bool,
}

/// One engine's table.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    table: String,
    zones: BTreeMap<String, Zone>,
    publications: BTreeMap<(Protocol, IpAddr, u16), Publication>,
    guards: BTreeMap<String, PortGuard>,
    doors: Vec<u16>,
    loopback_ipv6: bool,
    /// Whether the kernel filters on bridges at all.
    guarding: bool,
}

const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const DESTINATION_TRANSLATED: u32 = 0x20;

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Publication {
    fn map(&self) -> &'static str {
        match (self.host.is_unspecified(), self.host.is_ipv4()) {
            (true, true) => "any4",
            (true, false) => "any6",
            (false, true) => "at4",
            (false, false) => "at6",
        }
    }

    fn element(&self) -> Element {
        let mut key = if self.host.is_unspecified() { Vec::new() } else { octets(self.host) };
        key.extend_from_slice(&[protocol_number(self.protocol), 0, 0, 0]);
        key.extend_from_slice(&self.host_port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        let mut value = octets(self.container);
        value.extend_from_slice(&self.container_port.to_be_bytes());
        value.extend_from_slice(&[0, 0]);
        Element { key, value: Value::Data(value), interval_end: false }
    }
}

/// Elements by the map they belong to.
fn by_map(publications: &[Publication]) -> BTreeMap<&'static str, Vec<Element>> {
    let mut maps: BTreeMap<_, Vec<Element>> = BTreeMap::new();
    for publication in publications {
        maps.entry(publication.map()).or_default().push(publication.element());
    }
    maps
}

impl Firewall {
    /// A table of this name, empty: whatever an earlier engine left in it is gone.
    pub fn open(table: &str) -> Result<Firewall, NetlinkError> {
        Firewall::open_with(table, Contents::default())
    }

    /// A table with exactly these networks and ports, replacing an older one in one transaction: a
    /// connection through a port that stays never meets a moment without it.
    pub fn open_with(table: &str, contents: Contents) -> Result<Firewall, NetlinkError> {
        let mut firewall = Firewall {
            socket: Socket::netfilter()?,
            table: table.to_owned(),
            zones: contents.zones.into_iter().map(|zone| (zone.bridge.clone(), zone)).collect(),
            publications: contents.publications.iter().map(|p| ((p.protocol, p.host, p.host_port), *p)).collect(),
            guards: contents.guards.into_iter().map(|guard| (guard.port.clone(), guard)).collect(),
            doors: contents.doors,
            loopback_ipv6: contents.loopback_ipv6,
            guarding: true,
        };
        match firewall.restore() {
            // Kernels without filters on bridges (NF_TABLES_BRIDGE): all the rest works.
            Err(error) if matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT)) => {
                firewall.guarding = false;
                firewall.restore()?;
            }
            other => other?,
        }
        firewall.pass_foreign_chains()?;
        Ok(firewall)
    }

    /// False: this kernel cannot keep containers of one network from pretending to be each other.
    pub fn is_guarding(&self) -> bool {
        self.guarding
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    /// Puts the whole table back as it should be.
    pub fn restore(&mut self) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(&self.table);
        // Making it first lets the deletion succeed where there was none.
        change.table();
        change.delete_table();
        change.table();
        skeleton(&mut change, &self.doors, self.loopback_ipv6);
        if self.guarding {
            guard::skeleton(&mut change);
            let guards: Vec<PortGuard> = self.guards.values().cloned().collect();
            guard::add(&mut change, &guards);
        }
        for zone in self.zones.values() {
            add_zone(&mut change, zone);
            self.add_gateways(&mut change, zone);
        }
        let all: Vec<Publication> = self.publications.values().copied().collect();
        for (map, elements) in by_map(&all) {
            change.add_elements(map, &elements);
        }
        change.commit(&mut self.socket)
    }

    fn add_gateways(&self, change: &mut Transaction, zone: &Zone) {
        if self.guarding {
            guard::add_gateways(change, &zone.gateways);
        }
    }

    /// Lets our bridges pass other people's forward chains that drop by policy; answers whether
    /// something had to be done.
    pub fn pass_foreign_chains(&mut self) -> Result<bool, NetlinkError> {
        let all = self.zones.values().flat_map(|zone| std::iter::once(&zone.bridge).chain(&zone.more_bridges));
        let bridges = all.cloned().collect();
        foreign::open(&mut self.socket, &self.table, &bridges)
    }

    /// Puts the table back if it is gone, and says whether it was.
    pub fn heal(&mut self) -> Result<bool, NetlinkError> {
        let inet = nft::table_exists(&mut self.socket, nft::FAMILY_INET, &self.table)?;
        if inet && (!self.guarding || nft::table_exists(&mut self.socket, nft::FAMILY_BRIDGE, &self.table)?) {
            return Ok(false);
        }
        self.restore()?;
        Ok(true)
    }

    pub fn add_network(&mut self, zone: Zone) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(&self.table);
        add_zone(&mut change, &zone);
        self.add_gateways(&mut change, &zone);
        change.commit(&mut self.socket)?;
        self.zones.insert(zone.bridge.clone(), zone);
        self.pass_foreign_chains().map(drop)
    }

    pub fn remove_network(&mut self, bridge: &str) -> Result<(), NetlinkError> {
        let Some(zone) = self.zones.remove(bridge) else { return Ok(()) };
        let mut change = Transaction::new(&self.table);
        remove_zone(&mut change, &zone);
        if self.guarding {
            guard::remove_gateways(&mut change, &zone.gateways);
        }
        change.commit(&mut self.socket)?;
        self.pass_foreign_chains().map(drop)
    }

    /// A network got one more bridge.
    pub fn add_bridge(&mut self, first: &str, more: &str) -> Result<(), NetlinkError> {
        if let Some(zone) = self.zones.get_mut(first) {
            let mut change = Transaction::new(&self.table);
            change.add_elements("nat_to", &[bridged(more, first)]);
            change.commit(&mut self.socket)?;
            zone.more_bridges.push(more.to_owned());
        }
        self.pass_foreign_chains().map(drop)
    }

    /// Ports that are watched from now on.
    pub fn guard(&mut self, guards: Vec<PortGuard>) -> Result<(), NetlinkError> {
        if self.guarding {
            let mut change = Transaction::new(&self.table);
            guard::add(&mut change, &guards);
            change.commit(&mut self.socket)?;
        }
        self.guards.extend(guards.into_iter().map(|guard| (guard.port.clone(), guard)));
        Ok(())
    }

    /// Ports that are gone; their addresses are free for others. Unknown ones are done.
    pub fn unguard(&mut self, ports: &[String]) -> Result<(), NetlinkError> {
        let gone: Vec<PortGuard> = ports.iter().filter_map(|port| self.guards.remove(port)).collect();
        if gone.is_empty() || !self.guarding {
            return Ok(());
        }
        let mut change = Transaction::new(&self.table);
        guard::remove(&mut change, &gone);
        change.commit(&mut self.socket)
    }

    /// All of them or none.
    pub fn publish(&mut self, publications: &[Publication]) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(&self.table);
        for (map, elements) in by_map(publications) {
            change.add_elements(map, &elements);
        }
        change.commit(&mut self.socket)?;
        self.publications.extend(publications.iter().map(|p| ((p.protocol, p.host, p.host_port), *p)));
        conntrack::forget(&mut self.socket, &conntrack::ports(publications))
    }

    /// Those that are not published any more are none of our business.
    pub fn withdraw(&mut self, publications: &[Publication]) -> Result<(), NetlinkError> {
        let there: Vec<Publication> = publications
            .iter()
            .filter(|p| self.publications.get(&(p.protocol, p.host, p.host_port)) == Some(p))
            .copied()
            .collect();
        let mut change = Transaction::new(&self.table);
        for (map, elements) in by_map(&there) {
            change.delete_elements(map, &elements);
        }
        change.commit(&mut self.socket)?;
        for p in &there {
            self.publications.remove(&(p.protocol, p.host, p.host_port));
        }
        conntrack::forget(&mut self.socket, &conntrack::ports(&there))
    }

    /// Removes the table; for engines that end for good, and tests.
    pub fn remove(mut self) -> Result<(), NetlinkError> {
        self.zones.clear();
        self.pass_foreign_chains()?;
        let mut change = Transaction::new(&self.table);
        change.table();
        change.delete_table();
        if self.guarding {
            change.turn_to(nft::FAMILY_BRIDGE);
            change.table();
            change.delete_table();
        }
        change.commit(&mut self.socket)
    }
}

fn skeleton(change: &mut Transaction, doors: &[u16], loopback_ipv6: bool) {
    use DataType::{Interface, Ipv4, Ipv6, Protocol, Service};
    let mut set = 0;
    let mut add = |change: &mut Transaction, name, key: &[DataType], value: &[DataType], interval| {
        set += 1;
        change.set(set, SetShape { name, key, value, interval });
    };
    add(change, "any4", &[Protocol, Service], &[Ipv4, Service], false);
    add(change, "any6", &[Protocol, Service], &[Ipv6, Service], false);
    add(change, "at4", &[Ipv4, Protocol, Service], &[Ipv4, Service], false);
    add(change, "at6", &[Ipv6, Protocol, Service], &[Ipv6, Service], false);
    for name in ["raw_in", "fwd_to", "fwd_from", "in_from", "nat_to"] {
        add(change, name, &[Interface], &[DataType::Verdict], false);
    }
    add(change, "masq4", &[Ipv4], &[], true);
    add(change, "masq6", &[Ipv6], &[], true);
    add(change, "doors", &[Service], &[], false);
    let doors: Vec<Element> = doors.iter().map(|port| Element::key(port.to_be_bytes().to_vec())).collect();
    change.add_elements("doors", &doors);

    let base = |kind, number, priority| Some(Hook { kind, number, priority });
    change.chain("published", None);
    change.chain("raw", base("filter", 0, -300));
    change.chain("pre", base("nat", 0, -100));
    change.chain("out", base("nat", 3, -100));
    change.chain("input", base("filter", 1, 0));
    change.chain("forward", base("filter", 2, 0));
    change.chain("post", base("nat", 4, 100));

    let by_interface = |key, map: &str| {
        [Expression::Meta { key, register: REG }, Expression::VerdictMap { map: map.to_owned(), register: REG }]
    };

    change.rule("raw", &by_interface(MetaKey::InputInterface, "raw_in"));
    // From a wire to a port published on loopback: never, whatever the host's route_localnet says.
    let mut wire_to_loopback = vec![
        Expression::Meta { key: MetaKey::InputInterface, register: REG },
        Expression::Compare { register: REG, equal: false, value: expr::interface_key("lo") },
    ];
    wire_to_loopback.extend(expr::family_is(false));
    wire_to_loopback.extend(loopback(16));
    wire_to_loopback.extend(published_at(false, 16));
    wire_to_loopback.push(Expression::Verdict(Verdict::Drop));
    change.rule("raw", &wire_to_loopback);

    if !loopback_ipv6 {
        // Refused at once by whoever keeps the port, so that clients go on to 127.0.0.1.
        let mut rule = expr::family_is(true).to_vec();
        rule.extend(expr::payload_is(Base::Network, 24, &std::net::Ipv6Addr::LOCALHOST.octets()));
        rule.push(Expression::Verdict(Verdict::Accept));
        change.rule("out", &rule);
    }
    for chain in ["pre", "out"] {
        let mut rule = expr::local_destination().to_vec();
        rule.push(Expression::Verdict(Verdict::Jump("published".to_owned())));
        change.rule(chain, &rule);
    }
    for (ipv6, destination_at) in [(false, 16), (true, 24)] {
        let address_registers = if ipv6 { 4 } else { 1 };
        let nat = Expression::DestinationNat { ipv6, address: REG, port: REG + address_registers };
        let mut at = expr::family_is(ipv6).to_vec();
        at.extend(published_at(ipv6, destination_at));
        at.push(nat.clone());
        change.rule("published", &at);
        let mut any = expr::family_is(ipv6).to_vec();
        any.extend(protocol_and_port(REG));
        let map = if ipv6 { "any6" } else { "any4" };
        any.push(Expression::InMap { map: map.to_owned(), register: REG, target: REG });
        any.push(nat);
        change.rule("published", &any);
    }

    change.rule("input", &by_interface(MetaKey::InputInterface, "in_from"));

    let mut established = expr::conntrack(ConntrackKey::State, ESTABLISHED_OR_RELATED).to_vec();
    established.push(Expression::Verdict(Verdict::Accept));
    change.rule("forward", &established);
    change.rule("forward", &by_interface(MetaKey::OutputInterface, "fwd_to"));
    change.rule("forward", &by_interface(MetaKey::InputInterface, "fwd_from"));

    change.rule("post", &by_interface(MetaKey::OutputInterface, "nat_to"));
    for (ipv6, set) in [(false, "masq4"), (true, "masq6")] {
        let mut rule = expr::family_is(ipv6).to_vec();
        rule.push(source(ipv6));
        rule.push(Expression::InSet { set: set.to_owned(), register: REG, negate: false });
        rule.push(Expression::Masquerade);
        change.rule("post", &rule);
    }
}

fn source(ipv6: bool) -> Expression {
    let (offset, bytes) = if ipv6 { (8, 16) } else { (12, 4) };
    Expression::Payload { base: Base::Network, offset, bytes, register: REG }
}

/// IPv4 address at `offset` is in 127.0.0.0/8.
fn loopback(offset: u32) -> [Expression; 2] {
    [
        Expression::Payload { base: Base::Network, offset, bytes: 1, register: REG },
        Expression::Compare { register: REG, equal: true, value: vec![127] },
    ]
}

fn protocol_and_port(register: u32) -> [Expression; 2] {
    [
        Expression::Meta { key: MetaKey::Protocol, register },
        Expression::Payload { base: Base::Transport, offset: 2, bytes: 2, register: register + 1 },
    ]
}

/// Destination address, protocol and port are in `at4`/`at6`; leaves the value in the registers from REG.
fn published_at(ipv6: bool, offset: u32) -> Vec<Expression> {
    let (bytes, registers, map) = if ipv6 { (16, 4, "at6") } else { (4, 1, "at4") };
    let mut steps = vec![Expression::Payload { base: Base::Network, offset, bytes, register: REG }];
    steps.extend(protocol_and_port(REG + registers));
    steps.push(Expression::InMap { map: map.to_owned(), register: REG, target: REG });
    steps
}

/// The maps that lead to a network's own chains.
fn zone_chains(bridge: &str) -> [(&'static str, String); 5] {
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

fn add_zone(change: &mut Transaction, zone: &Zone) {
    let chains = zone_chains(&zone.bridge);
    for (_, chain) in &chains {
        change.chain(chain, None);
    }
    let [raw, to, from, input, nat] = chains.each_ref().map(|(_, chain)| chain.as_str());
    let verdict = |verdict| Expression::Verdict(verdict);

    for offset in [12, 16] {
        let mut rule = expr::family_is(false).to_vec();
        rule.extend(loopback(offset));
        rule.push(verdict(Verdict::Drop));
        change.rule(raw, &rule);
    }

    let mut own = expr::interface_is(MetaKey::InputInterface, &zone.bridge).to_vec();
    let mut translated = expr::conntrack(ConntrackKey::Status, DESTINATION_TRANSLATED).to_vec();
    translated.push(verdict(Verdict::Accept));
    if zone.inter_container {
        own.push(verdict(Verdict::Accept));
        change.rule(to, &own);
    }
    if !zone.internal {
        change.rule(to, &translated);
    }
    change.rule(to, &[verdict(Verdict::Drop)]);

    if zone.internal {
        change.rule(from, &[verdict(Verdict::Drop)]);
    }
    // Nobody sends to the world or to the host under addresses that are not of the network.
    own_sources(change, from, zone);
    let mut door = expr::protocol_is(protocol_number(Protocol::Tcp)).to_vec();
    door.push(Expression::Payload { base: Base::Transport, offset: 2, bytes: 2, register: REG });
    door.push(Expression::InSet { set: "doors".to_owned(), register: REG, negate: false });
    door.push(verdict(Verdict::Drop));
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
    change.rule(nat, &[verdict(Verdict::Accept)]);

    for (map, elements) in zone_elements(zone) {
        change.add_elements(map, &elements);
    }
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
    change.rule(chain, &[Expression::Verdict(Verdict::Drop)]);
}

fn zone_elements(zone: &Zone) -> Vec<(&'static str, Vec<Element>)> {
    let mut all: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for (map, chain) in zone_chains(&zone.bridge) {
        let verdict = if matches!(map, "raw_in" | "in_from") { Verdict::Jump(chain) } else { Verdict::Goto(chain) };
        let key = expr::interface_key(&zone.bridge);
        all.push((map, vec![Element { key, value: Value::Verdict(verdict), interval_end: false }]));
    }
    all.extend(zone.more_bridges.iter().map(|bridge| ("nat_to", vec![bridged(bridge, &zone.bridge)])));
    if zone.masquerade && !zone.internal {
        for subnet in &zone.subnets {
            let mut elements = vec![Element::key(octets(subnet.address))];
            if let Some(after) = subnet.after() {
                elements.push(Element { interval_end: true, ..Element::key(octets(after)) });
            }
            all.push((if subnet.address.is_ipv4() { "masq4" } else { "masq6" }, elements));
        }
    }
    all
}

/// Packets within a further bridge are changed as little as those within the first, also where they pass here.
fn bridged(bridge: &str, first: &str) -> Element {
    let value = Value::Verdict(Verdict::Goto(format!("nat_{first}")));
    Element { key: expr::interface_key(bridge), value, interval_end: false }
}

fn remove_zone(change: &mut Transaction, zone: &Zone) {
    for (map, elements) in zone_elements(zone) {
        change.delete_elements(map, &elements);
    }
    for (_, chain) in zone_chains(&zone.bridge) {
        change.flush_chain(&chain);
        change.delete_chain(&chain);
    }
}

/// Hears of changes to the host's rules by others: `nft flush ruleset`, a firewall service that restarts,
/// another engine that comes up.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    table: String,
}

/// What others did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Our table is gone, or we may have missed that.
    TableDeleted,
    /// A chain came or changed, or a rule went.
    Changed,
    Nothing,
}

impl Watch {
    pub fn open(table: &str) -> Result<Watch, NetlinkError> {
        const NFNLGRP_NFTABLES: u32 = 7;
        let socket = Socket::open(Some(rustix::net::netlink::NETFILTER), 1 << (NFNLGRP_NFTABLES - 1))?;
        Ok(Watch { socket, table: table.to_owned() })
    }

    /// Blocks until notices came.
    pub fn wait(&mut self) -> Result<Notice, NetlinkError> {
        match self.socket.notices() {
            Ok(notices) if notices.iter().any(|notice| nft::tells_deletion(notice, &self.table)) => {
                Ok(Notice::TableDeleted)
            }
            Ok(notices) if notices.iter().any(nft::tells_foreign_change) => Ok(Notice::Changed),
            Ok(_) => Ok(Notice::Nothing),
            // The kernel had more to say than we read: look for ourselves.
            Err(NetlinkError::Receive(rustix::io::Errno::NOBUFS)) => Ok(Notice::TableDeleted),
            Err(error) => Err(error),
        }
    }
}
