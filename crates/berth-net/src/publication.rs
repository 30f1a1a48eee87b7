//! Ports of the host that lead to containers: how they stand in the kernel's maps, and what other engines' tables hold.

use crate::firewall::{NEXT, octets};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::{Element, Extent, FAMILY_INET, Value, look};
use berth_types::spec::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports of the host, one or several in a row, that lead to as many of a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Publication {
    pub protocol: Protocol,
    /// Unspecified (`0.0.0.0`, `::`): every address of that family.
    pub host: IpAddr,
    pub host_port: u16,
    /// Of the same family as `host`.
    pub container: IpAddr,
    pub container_port: u16,
    /// At least 1.
    pub count: u16,
}

/// Runs of fewer ports are elements for each port: those are found by hash, and one more costs the same however many there are,
/// while a change of the maps of runs is copied with all that is in them (nft_set_pipapo).
const RUN_MIN: u16 = 64;

pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

impl Publication {
    /// The host's ports.
    pub fn host_ports(&self) -> impl Iterator<Item = u16> + use<> {
        let first = self.host_port;
        (0..self.count).map(move |n| first + n)
    }

    /// Takes in the port that follows, if `next` is that.
    pub fn extend(&mut self, next: &Publication) -> bool {
        let key = |p: &Publication| (p.protocol, p.host, p.container);
        let follows = key(self) == key(next)
            && self.host_port.checked_add(self.count) == Some(next.host_port)
            && self.container_port.checked_add(self.count) == Some(next.container_port);
        if follows {
            self.count += next.count;
        }
        follows
    }

    /// One element for all of it: the kernel keeps the port where it changes the address alone.
    pub fn is_run(&self) -> bool {
        self.count >= RUN_MIN && self.host_port == self.container_port
    }

    fn map(&self) -> &'static str {
        match (self.host.is_unspecified(), self.host.is_ipv4(), self.is_run()) {
            (true, true, false) => "any4",
            (true, false, false) => "any6",
            (false, true, false) => "at4",
            (false, false, false) => "at6",
            (true, true, true) => "any4_runs",
            (true, false, true) => "any6_runs",
            (false, true, true) => "at4_runs",
            (false, false, true) => "at6_runs",
        }
    }

    fn key(&self, port: u16) -> Vec<u8> {
        let mut key = if self.host.is_unspecified() { Vec::new() } else { octets(self.host) };
        key.extend_from_slice(&protocol_and_port(self.protocol, port));
        key
    }

    fn elements(&self) -> Vec<Element> {
        let mut address = octets(self.container);
        if self.is_run() {
            let last = self.key(self.host_port + (self.count - 1));
            let element = Element::mapped(self.key(self.host_port), Value::Data(address));
            return vec![Element { extent: Extent::To(last), ..element }];
        }
        let ports = self.host_ports().zip(self.container_port..=u16::MAX);
        address.extend_from_slice(&[0; 4]);
        let at = address.len() - 4;
        let element = |(host, container): (u16, u16)| {
            address[at..at + 2].copy_from_slice(&container.to_be_bytes());
            Element::mapped(self.key(host), Value::Data(address.clone()))
        };
        ports.map(element).collect()
    }
}

/// A container's port that is reached under the container's own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Elements by the set they belong to.
pub(crate) fn openings_by_set<'a>(
    openings: impl IntoIterator<Item = &'a Opening>,
) -> BTreeMap<&'static str, Vec<Element>> {
    let mut sets: BTreeMap<_, Vec<Element>> = BTreeMap::new();
    for one in openings {
        let mut key = octets(one.address);
        key.extend_from_slice(&protocol_and_port(one.protocol, one.port));
        sets.entry(if one.address.is_ipv4() { "open4" } else { "open6" }).or_default().push(Element::key(key));
    }
    sets
}

/// As keys have them, each in a register of its own.
fn protocol_and_port(protocol: Protocol, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol_number(protocol), 0, 0, 0, high, low, 0, 0]
}

/// Elements by the map they belong to.
pub(crate) fn by_map(publications: &[Publication]) -> BTreeMap<&'static str, Vec<Element>> {
    let mut maps: BTreeMap<_, Vec<Element>> = BTreeMap::new();
    for publication in publications {
        maps.entry(publication.map()).or_default().extend(publication.elements());
    }
    maps
}

/// The maps, and whether their keys begin with an address of that many bytes.
const MAPS: [(&str, usize); 8] = [
    ("any4", 0),
    ("any6", 0),
    ("at4", 4),
    ("at6", 16),
    ("any4_runs", 0),
    ("any6_runs", 0),
    ("at4_runs", 4),
    ("at6_runs", 16),
];

/// What other engines of this host publish. One that is down keeps no port by a socket, and its table still leads packets to its
/// containers, which run on.
#[derive(Debug, Clone, Default)]
pub struct Others {
    held: Vec<Other>,
}

#[derive(Debug, Clone)]
struct Other {
    table: String,
    protocol: u8,
    host: IpAddr,
    first: u16,
    last: u16,
}

impl Others {
    pub(crate) fn look(socket: &mut Socket, own_table: &str) -> Result<Others, NetlinkError> {
        let mut held = Vec::new();
        let tables = look::all_tables(socket)?;
        for (family, table) in &tables {
            // One that stands in for an engine's table says nothing that that does not say.
            let owner = table.strip_suffix(NEXT).filter(|owner| tables.iter().any(|(_, table)| table == owner));
            if *family != FAMILY_INET || owner.is_some() || table == own_table || !table.starts_with(look::ENGINES) {
                continue;
            }
            for (map, address_bytes) in MAPS {
                let any =
                    if map.starts_with("any4") { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let other = |(key, last): look::KeyExtent| {
                    let (address, port) = key.split_at_checked(address_bytes)?;
                    let port_of = |bytes: &[u8]| Some(u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]));
                    let host = match address_bytes {
                        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
                        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
                        _ => any,
                    };
                    let last = port_of(last.get(address_bytes..)?)?;
                    Some(Other { table: table.clone(), protocol: *port.first()?, host, first: port_of(port)?, last })
                };
                held.extend(look::extents(socket, table, map)?.into_iter().filter_map(other));
            }
        }
        Ok(Others { held })
    }

    /// The table of whoever publishes `port` on an address that meets `host`.
    pub fn holder(&self, protocol: Protocol, host: IpAddr, port: u16) -> Option<&str> {
        let meets = |other: &&Other| {
            other.protocol == protocol_number(protocol)
                && (other.first..=other.last).contains(&port)
                && other.host.is_ipv4() == host.is_ipv4()
                && (other.host == host || other.host.is_unspecified() || host.is_unspecified())
        };
        self.held.iter().find(meets).map(|other| other.table.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(host_port: u16, container_port: u16) -> Publication {
        let (host, container) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(10, 0, 0, 2).into());
        Publication { protocol: Protocol::Tcp, host, host_port, container, container_port, count: 1 }
    }

    fn run(ports: impl Iterator<Item = (u16, u16)>) -> Vec<Publication> {
        let mut runs: Vec<Publication> = Vec::new();
        for (host, container) in ports {
            let next = one(host, container);
            if !runs.last_mut().is_some_and(|last| last.extend(&next)) {
                runs.push(next);
            }
        }
        runs
    }

    #[test]
    fn ports_in_a_row_are_one_run_and_one_element_where_the_number_stays() {
        let same = run((1000..=1999).map(|port| (port, port)));
        assert_eq!((same.len(), same[0].count), (1, 1000));
        let maps = by_map(&same);
        assert_eq!(maps.keys().collect::<Vec<_>>(), [&"any4_runs"]);
        assert_eq!(maps["any4_runs"].len(), 1);
        assert_eq!(maps["any4_runs"][0].extent, Extent::To(vec![6, 0, 0, 0, 0x07, 0xcf, 0, 0]));

        let moved = run((1000..=1999).map(|port| (port, port - 920)));
        assert_eq!(moved.len(), 1);
        let elements = &by_map(&moved)["any4"];
        assert_eq!(elements.len(), 1000);
        assert_eq!(elements[999].key, [6, 0, 0, 0, 0x07, 0xcf, 0, 0]);
        assert_eq!(elements[999].value, Value::Data(vec![10, 0, 0, 2, 0x04, 0x37, 0, 0]));
    }

    #[test]
    fn a_gap_another_target_and_the_last_port_end_a_run() {
        assert_eq!(run([(10, 10), (11, 11), (13, 13)].into_iter()).len(), 2);
        assert_eq!(run([(10, 10), (11, 12)].into_iter()).len(), 2);
        let all = run((1..=u16::MAX).map(|port| (port, port)));
        assert_eq!((all.len(), all[0].count), (1, u16::MAX));
        assert_eq!(all[0].host_ports().last(), Some(u16::MAX));
        assert!(!one(u16::MAX, 1).extend(&one(0, 2)));
    }
}
