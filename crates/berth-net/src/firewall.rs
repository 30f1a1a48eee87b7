//! Our one table: what it holds, and how it changes.
//!
//! ```text
//! table inet berth_<instance>
//!   any4, any6    protocol . port           -> address . port     published on every address
//!   at4, at6      address . protocol . port -> address . port     published on one address
//!   any4_runs ... at6_runs    the same for many ports in a row -> address     the port stays
//!   raw_in        interface -> raw_<bridge>                       what a container may not pretend
//!   fwd_to        interface -> to_<bridge>                        who may reach a network
//!   fwd_from      interface -> from_<bridge>                      what a network may not send out
//!   in_from       interface -> in_<bridge>                        what it may not reach of the host
//!   nat_to        interface -> nat_<bridge>                       loopback clients and hairpins
//!   open4, open6  address . protocol . port                       published under the container's own address
//!   masq4, masq6  subnets that go out under the host's address
//!   source4, source6  subnet -> address                           those that go out under one of their own choice
//!   doors         TCP ports of the engine's own that ask for no proof of who calls
//!
//!   raw      prerouting -300   loopback addresses from a wire or a container are dropped
//!   pre      prerouting -100   local destinations: at*, then any*, then those of runs
//!   out      output     -100   the same for the host's own clients
//!   input    input         0   in_from
//!   forward  forward       0   established; fwd_to; fwd_from
//!   post     postrouting 100   nat_to; source*; masq*
//!
//! table bridge berth_<instance>    what containers may not pretend (guard)
//! ```
//!
//! Every change is one transaction on elements of maps: the 10,000th port costs what the first did, and no
//! packet sees half a change. [`Firewall`] remembers what it put there, so that it can be put back
//! whole when somebody flushes the host's rules ([`Firewall::restore`]); for the moments in which a starting engine replaces
//! its table, one with the same contents and a name that ends in `.next` stands beside it. Outside our table nothing is
//! touched but forward chains whose policy is to drop (see `foreign`).
//!
//! **Loopback.** `127.0.0.1:8080` on the host reaches a container without a proxy: the bridge gets
//! `route_localnet`, and packets that leave through a bridge with a loopback source are
//! masqueraded. What `route_localnet` would open is closed again in `raw`, before any translation:
//! nothing that comes in on a bridge may carry a loopback address, and nothing from any other wire may
//! reach a port that is published on loopback only.

use crate::loopback::Loopback;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::expr::{self, Base, ConntrackKey, Expression, MetaKey, REG, Verdict};
use crate::nft::{self, DataType, Element, Hook, SetShape, Transaction, look};
pub use crate::publication::{Opening, Others, Publication};
use crate::publication::{by_map, openings_by_set};
pub use crate::watch::{Ear, Notice, Watch};
pub use crate::zone::{Access, Zone};
use crate::{conntrack, foreign, guard, zone};
use berth_types::spec::Protocol;
use rustix::fd::AsFd as _;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

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
    pub openings: Vec<Opening>,
    pub guards: Vec<PortGuard>,
    /// TCP ports of the host that no container may reach, whatever address it asks.
    pub doors: Vec<u16>,
    pub loopback_ipv6: LoopbackIpv6,
}

/// How published ports answer on ::1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LoopbackIpv6 {
    /// Refused at once, so that clients go on to 127.0.0.1.
    #[default]
    No,
    /// As on any other address.
    Translated,
    /// By a program on the root of the v2 cgroups, which is there: bridged packets are filtered (see `loopback`).
    Led(PathBuf),
}

/// One engine's table.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    table: String,
    zones: BTreeMap<String, Zone>,
    publications: BTreeMap<(Protocol, IpAddr, u16), Publication>,
    openings: BTreeSet<Opening>,
    guards: BTreeMap<String, PortGuard>,
    doors: Vec<u16>,
    loopback_ipv6: LoopbackIpv6,
    led: Option<Loopback>,
    /// Why ports are not led on ::1, until somebody asked.
    not_led: Option<Errno>,
    /// Whether the kernel filters on bridges at all.
    guarding: bool,
    ear: Option<Ear>,
}

/// A change of so many elements is made while nobody listens: composing a notice of each takes the kernel as long as the
/// element itself (`nf_tables_setelem_notify`). It asks for listeners of all network namespaces: another engine's watch, in
/// its own, costs the same.
const MANY_ELEMENTS: usize = 512;
/// Whoever deletes it again and again is told apart from a table that is back by the next notice.
const HEALS_MAX: usize = 3;

/// Ends the name of the table that stands in while an engine's own is replaced.
pub(crate) const NEXT: &str = ".next";

const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
pub(crate) const DESTINATION_TRANSLATED: u32 = 0x20;

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Firewall {
    /// A table of this name, empty: whatever an earlier engine left in it is gone.
    pub fn open(table: &str) -> Result<Firewall, NetlinkError> {
        Firewall::open_with(table, Contents::default())
    }

    /// A table with exactly these networks and ports, in place of an older one: a connection through a port that
    /// stays never meets a moment without it.
    pub fn open_with(table: &str, contents: Contents) -> Result<Firewall, NetlinkError> {
        let mut firewall = Firewall {
            socket: Socket::netfilter()?,
            table: table.to_owned(),
            zones: contents.zones.into_iter().map(|zone| (zone.bridge.clone(), zone)).collect(),
            publications: contents.publications.iter().map(|p| ((p.protocol, p.host, p.host_port), *p)).collect(),
            openings: contents.openings.into_iter().collect(),
            guards: contents.guards.into_iter().map(|guard| (guard.port.clone(), guard)).collect(),
            doors: contents.doors,
            loopback_ipv6: contents.loopback_ipv6,
            led: None,
            not_led: None,
            guarding: true,
            ear: None,
        };
        match firewall.replace() {
            // Kernels without filters on bridges (NF_TABLES_BRIDGE): all the rest works.
            Err(error) if matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT)) => {
                firewall.guarding = false;
                firewall.replace()?;
            }
            other => other?,
        }
        firewall.pass_foreign_chains()?;
        firewall.lead();
        Ok(firewall)
    }

    fn lead(&mut self) {
        let LoopbackIpv6::Led(cgroups) = &self.loopback_ipv6 else { return };
        match Loopback::open(cgroups, &self.table, self.socket.as_fd(), &self.all()) {
            Ok(led) => self.led = Some(led),
            Err(errno) => self.not_led = Some(errno),
        }
    }

    fn all(&self) -> Vec<Publication> {
        self.publications.values().copied().collect()
    }

    /// Why the newest ports are refused on ::1 although they were to be led; told once.
    pub fn not_led(&mut self) -> Option<Errno> {
        self.not_led.take()
    }

    /// Whether this kernel has nf_tables, without touching anything.
    pub fn check() -> Result<(), NetlinkError> {
        nft::look::all_tables(&mut Socket::netfilter()?).map(drop)
    }

    /// False: this kernel cannot keep containers of one network from pretending to be each other.
    pub fn is_guarding(&self) -> bool {
        self.guarding
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    /// A hook runs the old table's chain and the new one's one after the other, and each looks for itself which
    /// transaction was the last (`nft_do_chain`): a packet between the two may find neither's rules. So while one table
    /// replaces another, a third with the same contents stands beside them: before it is needed and until it is not for
    /// every packet that is on its way through the hooks, also one whose processor stood still.
    fn replace(&mut self) -> Result<(), NetlinkError> {
        let next = format!("{}{NEXT}", self.table);
        let there = look::all_tables(&mut self.socket)?;
        if !there.iter().any(|(_, table)| *table == self.table || *table == next) {
            return self.restore();
        }
        self.write(&next)?;
        wait_for_packets();
        self.restore()?;
        wait_for_packets();
        self.delete(&next)
    }

    /// Puts the whole table back as it should be.
    pub fn restore(&mut self) -> Result<(), NetlinkError> {
        self.write(&self.table.clone())
    }

    fn write(&mut self, table: &str) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(table);
        // Making it first lets the deletion succeed where there was none.
        change.table();
        change.delete_table();
        change.table();
        skeleton(&mut change, &self.doors, self.loopback_ipv6 == LoopbackIpv6::Translated);
        if self.guarding {
            guard::skeleton(&mut change);
            let guards: Vec<PortGuard> = self.guards.values().cloned().collect();
            guard::add(&mut change, &guards);
        }
        for zone in self.zones.values() {
            zone::add(&mut change, zone);
            self.add_gateways(&mut change, zone);
        }
        for (map, elements) in by_map(&self.all()) {
            change.add_elements(map, &elements);
        }
        for (set, elements) in openings_by_set(&self.openings) {
            change.add_elements(set, &elements);
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

    /// Whoever watches over the table: not told of large changes of ours.
    pub fn heard_by(&mut self, ear: Ear) {
        self.ear = Some(ear);
    }

    /// Puts the table back if it is gone, and says whether it was.
    pub fn heal(&mut self) -> Result<bool, NetlinkError> {
        let mut healed = false;
        for _ in 0..HEALS_MAX {
            if self.is_there()? {
                return Ok(healed);
            }
            // And look again: nobody listens meanwhile.
            let ear = self.ear.clone();
            let covered = ear.as_ref().map(Ear::cover).transpose()?;
            self.restore()?;
            drop(covered);
            healed = true;
        }
        Ok(healed)
    }

    fn is_there(&mut self) -> Result<bool, NetlinkError> {
        let inet = nft::table_exists(&mut self.socket, nft::FAMILY_INET, &self.table)?;
        Ok(inet && (!self.guarding || nft::table_exists(&mut self.socket, nft::FAMILY_BRIDGE, &self.table)?))
    }

    /// Commits a change of so many elements; answers whether it was made while nobody listened.
    fn commit(&mut self, change: Transaction, elements: usize) -> Result<bool, NetlinkError> {
        let ear = self.ear.clone().filter(|_| elements >= MANY_ELEMENTS);
        let covered = ear.as_ref().map(Ear::cover).transpose()?;
        let outcome = change.commit(&mut self.socket);
        drop(covered);
        if outcome.is_err() {
            self.catch_up(ear.is_some())?;
        }
        outcome.map(|()| ear.is_some())
    }

    /// What others did while nobody listened.
    fn catch_up(&mut self, unheard: bool) -> Result<(), NetlinkError> {
        if unheard {
            self.heal()?;
            self.pass_foreign_chains()?;
        }
        Ok(())
    }

    pub fn add_network(&mut self, zone: Zone) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(&self.table);
        zone::add(&mut change, &zone);
        self.add_gateways(&mut change, &zone);
        change.commit(&mut self.socket)?;
        self.zones.insert(zone.bridge.clone(), zone);
        self.pass_foreign_chains().map(drop)
    }

    pub fn remove_network(&mut self, bridge: &str) -> Result<(), NetlinkError> {
        let Some(zone) = self.zones.remove(bridge) else { return Ok(()) };
        let mut change = Transaction::new(&self.table);
        zone::remove(&mut change, &zone);
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
            change.add_elements("nat_to", &[zone::bridged(more, first)]);
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

    /// What other engines of this host publish, whether they run or not.
    pub fn others(&mut self) -> Result<Others, NetlinkError> {
        Others::look(&mut self.socket, &self.table)
    }

    /// All of them or none.
    pub fn publish(&mut self, publications: &[Publication], openings: &[Opening]) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(&self.table);
        let mut count = 0;
        for (map, elements) in by_map(publications) {
            change.add_elements(map, &elements);
            count += elements.len();
        }
        for (set, elements) in openings_by_set(openings) {
            change.add_elements(set, &elements);
            count += elements.len();
        }
        let unheard = self.commit(change, count)?;
        self.openings.extend(openings);
        self.publications.extend(publications.iter().map(|p| ((p.protocol, p.host, p.host_port), *p)));
        self.catch_up(unheard)?;
        if let Some(Err(errno)) = self.led.as_ref().map(|led| led.add(publications)) {
            self.not_led = Some(errno);
        }
        conntrack::forget(&mut self.socket, &conntrack::ports(publications))
    }

    /// Those that are not published any more are none of our business.
    pub fn withdraw(&mut self, publications: &[Publication], openings: &[Opening]) -> Result<(), NetlinkError> {
        let there: Vec<Publication> = publications
            .iter()
            .filter(|p| self.publications.get(&(p.protocol, p.host, p.host_port)) == Some(p))
            .copied()
            .collect();
        let mut change = Transaction::new(&self.table);
        let mut count = 0;
        for (map, elements) in by_map(&there) {
            change.delete_elements(map, &elements);
            count += elements.len();
        }
        let open: Vec<Opening> = openings.iter().filter(|one| self.openings.contains(one)).copied().collect();
        for (set, elements) in openings_by_set(&open) {
            change.delete_elements(set, &elements);
            count += elements.len();
        }
        let unheard = self.commit(change, count)?;
        for one in &open {
            self.openings.remove(one);
        }
        for p in &there {
            self.publications.remove(&(p.protocol, p.host, p.host_port));
        }
        self.catch_up(unheard)?;
        if let Some(led) = &self.led {
            led.remove(&there).map_err(NetlinkError::Led)?;
        }
        conntrack::forget(&mut self.socket, &conntrack::ports(&there))
    }

    /// Removes the table; for engines that end for good, and tests.
    pub fn remove(mut self) -> Result<(), NetlinkError> {
        self.zones.clear();
        self.pass_foreign_chains()?;
        if let Some(led) = &self.led {
            led.close().map_err(NetlinkError::Led)?;
        }
        self.delete(&self.table.clone())
    }

    fn delete(&mut self, table: &str) -> Result<(), NetlinkError> {
        let mut change = Transaction::new(table);
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

/// Waits until every packet that was in the hooks has left them. They are walked under RCU, and membarrier(2)'s first
/// command is `synchronize_rcu` (kernel/sched/membarrier.c); some ten milliseconds. Kernels that refuse it (without
/// CONFIG_MEMBARRIER, with nohz_full) keep that small gap.
fn wait_for_packets() {
    rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).ok();
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
    add(change, "any4_runs", &[Protocol, Service], &[Ipv4], true);
    add(change, "any6_runs", &[Protocol, Service], &[Ipv6], true);
    add(change, "at4_runs", &[Ipv4, Protocol, Service], &[Ipv4], true);
    add(change, "at6_runs", &[Ipv6, Protocol, Service], &[Ipv6], true);
    for name in ["raw_in", "fwd_to", "fwd_from", "in_from", "nat_to"] {
        add(change, name, &[Interface], &[DataType::Verdict], false);
    }
    add(change, "open4", &[Ipv4, Protocol, Service], &[], false);
    add(change, "open6", &[Ipv6, Protocol, Service], &[], false);
    add(change, "source4", &[Ipv4], &[Ipv4], true);
    add(change, "source6", &[Ipv6], &[Ipv6], true);
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
    for map in ["at4", "at4_runs"] {
        let mut wire_to_loopback = vec![
            Expression::Meta { key: MetaKey::InputInterface, register: REG },
            Expression::Compare { register: REG, equal: false, value: expr::interface_key("lo") },
        ];
        wire_to_loopback.extend(expr::family_is(false));
        wire_to_loopback.extend(loopback(16));
        wire_to_loopback.extend(published_at(map, false));
        wire_to_loopback.push(Expression::Verdict(Verdict::Drop));
        change.rule("raw", &wire_to_loopback);
    }

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
    for ipv6 in [false, true] {
        let version = if ipv6 { 6 } else { 4 };
        let port = REG + if ipv6 { 4 } else { 1 };
        for (runs, port) in [("", Some(port)), ("_runs", None)] {
            let nat = Expression::DestinationNat { ipv6, address: REG, port };
            let mut at = expr::family_is(ipv6).to_vec();
            at.extend(published_at(&format!("at{version}{runs}"), ipv6));
            at.push(nat.clone());
            change.rule("published", &at);
            let mut any = expr::family_is(ipv6).to_vec();
            any.extend(protocol_and_port(REG));
            any.push(Expression::InMap { map: format!("any{version}{runs}"), register: REG, target: REG });
            any.push(nat);
            change.rule("published", &any);
        }
    }

    change.rule("input", &by_interface(MetaKey::InputInterface, "in_from"));

    let mut established = expr::conntrack(ConntrackKey::State, ESTABLISHED_OR_RELATED).to_vec();
    established.push(Expression::Verdict(Verdict::Accept));
    change.rule("forward", &established);
    change.rule("forward", &by_interface(MetaKey::OutputInterface, "fwd_to"));
    change.rule("forward", &by_interface(MetaKey::InputInterface, "fwd_from"));

    change.rule("post", &by_interface(MetaKey::OutputInterface, "nat_to"));
    for (ipv6, map) in [(false, "source4"), (true, "source6")] {
        let mut rule = expr::family_is(ipv6).to_vec();
        rule.push(source(ipv6));
        rule.push(Expression::InMap { map: map.to_owned(), register: REG, target: REG });
        rule.push(Expression::SourceNat { ipv6, address: REG });
        change.rule("post", &rule);
    }
    for (ipv6, set) in [(false, "masq4"), (true, "masq6")] {
        let mut rule = expr::family_is(ipv6).to_vec();
        rule.push(source(ipv6));
        rule.push(Expression::InSet { set: set.to_owned(), register: REG, negate: false });
        rule.push(Expression::Masquerade);
        change.rule("post", &rule);
    }
}

pub(crate) fn source(ipv6: bool) -> Expression {
    let (offset, bytes) = if ipv6 { (8, 16) } else { (12, 4) };
    Expression::Payload { base: Base::Network, offset, bytes, register: REG }
}

/// IPv4 address at `offset` is in 127.0.0.0/8.
pub(crate) fn loopback(offset: u32) -> [Expression; 2] {
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

/// Destination address, protocol and port are in `map`; leaves the value in the registers from REG.
fn published_at(map: &str, ipv6: bool) -> Vec<Expression> {
    let mut steps = destination(ipv6);
    steps.push(Expression::InMap { map: map.to_owned(), register: REG, target: REG });
    steps
}

/// Destination address, protocol and port into the registers from REG.
pub(crate) fn destination(ipv6: bool) -> Vec<Expression> {
    let (offset, bytes, registers) = if ipv6 { (24, 16, 4) } else { (16, 4, 1) };
    let mut steps = vec![Expression::Payload { base: Base::Network, offset, bytes, register: REG }];
    steps.extend(protocol_and_port(REG + registers));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{self, Route};
    use std::net::UdpSocket;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// New flows through a port, as fast as they go, until `over`; answers how many were not translated.
    fn flows(port: u16, over: &AtomicBool) -> (u64, u64) {
        let (mut sent, mut refused) = (0, 0);
        while !over.load(Ordering::Relaxed) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", port)).unwrap();
            socket.send(b"x").unwrap();
            sent += 1;
            // On loopback the refusal is there before the call that sent returns.
            refused += u64::from(socket.take_error().unwrap().is_some());
        }
        (sent, refused)
    }

    #[test]
    fn no_new_flow_misses_its_port_while_a_table_replaces_another() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let inside = || {
            berth_sys::netns::unshare_network().unwrap();
            let mut batch = crate::netlink::Batch::default();
            route::set_up(&mut batch, 1);
            Route::open().unwrap().run(batch).unwrap();
            let target = UdpSocket::bind("127.0.0.2:0").unwrap();
            let publication = Publication {
                protocol: Protocol::Udp,
                host: "127.0.0.1".parse().unwrap(),
                host_port: 9999,
                container: "127.0.0.2".parse().unwrap(),
                container_port: target.local_addr().unwrap().port(),
                count: 1,
            };
            let open = || {
                let contents = Contents { publications: vec![publication], ..Contents::default() };
                Firewall::open_with("berth_replaced", contents).unwrap()
            };
            let (mut first, over) = (open(), AtomicBool::new(false));
            let (sent, refused) = std::thread::scope(|scope| {
                let clients = [(); 2].map(|()| scope.spawn(|| flows(publication.host_port, &over)));
                for _ in 0..300 {
                    open();
                }
                over.store(true, Ordering::Relaxed);
                let counts = clients.map(|client| client.join().unwrap());
                (counts[0].0 + counts[1].0, counts[0].1 + counts[1].1)
            });
            assert!(sent > 1000 && refused == 0, "{refused} of {sent}");
            let left = look::all_tables(&mut first.socket).unwrap();
            assert!(left.iter().all(|(_, table)| table == "berth_replaced"), "{left:?}");
        };
        std::thread::spawn(inside).join().unwrap();
    }
}
