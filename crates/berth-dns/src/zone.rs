//! Who has which name on which network.
//!
//! ```text
//! network ─┬─ name ──── containers that answer to it, with their addresses
//!          └─ address ─ the container's first name
//! ```
//!
//! Names are kept in lower case. A name that several containers have is answered with all their addresses, beginning
//! with another one each time, or on networks that want it so with one of them at a time. Turns are counted for each kind of
//! question: who asks for IPv4 and IPv6 addresses in turns meets every container in both.

use crate::message::TYPE_AAAA;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// One network's names.
#[derive(Debug, Default)]
struct Zone {
    /// The network's own name: `web.<network>` means `web` there.
    label: String,
    /// One container of several at a time.
    one: bool,
    /// By container.
    endpoints: BTreeMap<String, Endpoint>,
    names: HashMap<String, Holders>,
    addresses: HashMap<IpAddr, String>,
}

#[derive(Debug)]
struct Endpoint {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    generation: u64,
}

/// The containers that have a name.
#[derive(Debug, Default)]
struct Holders {
    containers: Vec<String>,
    /// Answers given: to questions for IPv6 addresses, and to all others.
    turns: [usize; 2],
}

/// All networks.
#[derive(Debug, Default)]
pub struct Zones {
    networks: HashMap<String, Zone>,
}

/// A network as it is told of.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    pub id: &'a str,
    pub label: &'a str,
    pub one: bool,
}

impl Zones {
    /// `container` has these names and addresses on `network` from now on.
    pub fn put(
        &mut self,
        network: &Network<'_>,
        container: &str,
        names: &[String],
        addresses: &[IpAddr],
        generation: u64,
    ) {
        self.remove(network.id, container);
        let zone = self.networks.entry(network.id.to_owned()).or_default();
        zone.label = network.label.to_ascii_lowercase();
        zone.one = network.one;
        let names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        for name in &names {
            let holders = &mut zone.names.entry(name.clone()).or_default().containers;
            if !holders.iter().any(|holder| holder == container) {
                holders.push(container.to_owned());
            }
        }
        for address in addresses {
            zone.addresses.insert(*address, container.to_owned());
        }
        let endpoint = Endpoint { names, addresses: addresses.to_vec(), generation };
        zone.endpoints.insert(container.to_owned(), endpoint);
    }

    pub fn remove(&mut self, network: &str, container: &str) {
        let Some(zone) = self.networks.get_mut(network) else { return };
        let Some(old) = zone.endpoints.remove(container) else { return };
        for name in old.names {
            if let Some(holders) = zone.names.get_mut(&name) {
                holders.containers.retain(|holder| holder != container);
                if holders.containers.is_empty() {
                    zone.names.remove(&name);
                }
            }
        }
        for address in old.addresses {
            if zone.addresses.get(&address).is_some_and(|holder| holder == container) {
                zone.addresses.remove(&address);
            }
        }
        if zone.endpoints.is_empty() {
            self.networks.remove(network);
        }
    }

    /// Removes what was last said before `generation`.
    pub fn forget_before(&mut self, generation: u64) {
        let old: Vec<(String, String)> = self
            .networks
            .iter()
            .flat_map(|(network, zone)| zone.endpoints.iter().map(move |(container, one)| (network, container, one)))
            .filter(|(_, _, one)| one.generation < generation)
            .map(|(network, container, _)| (network.clone(), container.clone()))
            .collect();
        for (network, container) in old {
            self.remove(&network, &container);
        }
    }

    /// The addresses behind `name` for somebody on `networks` who asks for `kind`; the first network that knows it answers.
    pub fn addresses(&mut self, networks: &[String], name: &str, kind: u16) -> Option<Vec<IpAddr>> {
        for network in networks {
            let Some(zone) = self.networks.get_mut(network) else { continue };
            let bare = name.strip_suffix(zone.label.as_str()).and_then(|rest| rest.strip_suffix('.'));
            let known = [Some(name), bare].into_iter().flatten().find(|name| zone.names.contains_key(*name));
            let Some(holders) = known.and_then(|name| zone.names.get_mut(name)) else { continue };
            let turn = &mut holders.turns[usize::from(kind != TYPE_AAAA)];
            *turn = turn.wrapping_add(1);
            let count = holders.containers.len();
            let taken = if zone.one { 1 } else { count };
            let some = holders.containers.iter().cycle().skip(*turn % count.max(1)).take(taken);
            let addresses = some.filter_map(|holder| zone.endpoints.get(holder)).flat_map(|one| &one.addresses);
            return Some(addresses.copied().collect());
        }
        None
    }

    /// The name of `address`, with its network behind.
    pub fn name(&self, networks: &[String], address: IpAddr) -> Option<String> {
        networks.iter().find_map(|network| {
            let zone = self.networks.get(network)?;
            let endpoint = zone.endpoints.get(zone.addresses.get(&address)?)?;
            Some(format!("{}.{}", endpoint.names.first()?, zone.label))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::TYPE_A;

    fn zones() -> Zones {
        let mut zones = Zones::default();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let address = |text: &str| vec![text.parse().unwrap()];
        let front = Network { id: "n1", label: "Front", one: false };
        let back = Network { id: "n2", label: "back", one: true };
        zones.put(&front, "c1", &names(&["web", "app"]), &address("10.0.0.2"), 1);
        zones.put(&front, "c2", &names(&["db", "App"]), &address("10.0.0.3"), 1);
        zones.put(&back, "c3", &names(&["web"]), &address("10.1.0.2"), 2);
        zones
    }

    fn ask(zones: &mut Zones, networks: &[&str], name: &str) -> Vec<String> {
        let networks: Vec<String> = networks.iter().map(|&name| name.to_owned()).collect();
        let found = zones.addresses(&networks, name, TYPE_A).unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_seen_from_their_networks_only() {
        let mut zones = zones();
        assert_eq!(ask(&mut zones, &["n1"], "web"), ["10.0.0.2"]);
        assert_eq!(ask(&mut zones, &["n2"], "web"), ["10.1.0.2"]);
        assert_eq!(ask(&mut zones, &["n2", "n1"], "web"), ["10.1.0.2"]);
        assert!(ask(&mut zones, &["n2"], "db").is_empty());
        assert_eq!(ask(&mut zones, &["n2", "n1"], "web.front"), ["10.0.0.2"]);
        assert!(ask(&mut zones, &["n1"], "web.back").is_empty());
    }

    #[test]
    fn a_shared_name_begins_with_another_container_each_time() {
        let mut zones = zones();
        let (first, second) = (ask(&mut zones, &["n1"], "app"), ask(&mut zones, &["n1"], "app"));
        assert_eq!((first.len(), second.len()), (2, 2));
        assert_ne!(first[0], second[0]);
    }

    #[test]
    fn who_asks_for_both_kinds_in_turns_meets_every_container_in_both() {
        let mut zones = Zones::default();
        let front = Network { id: "n1", label: "front", one: false };
        for n in [2, 3] {
            let addresses = [format!("10.0.0.{n}").parse().unwrap(), format!("fd00::{n}").parse().unwrap()];
            zones.put(&front, &format!("c{n}"), &["app".to_owned()], &addresses, 1);
        }
        let networks = ["n1".to_owned()];
        let mut first = |kind, ipv4: bool| {
            let all = zones.addresses(&networks, "app", kind).unwrap();
            all.into_iter().find(|address| address.is_ipv4() == ipv4).unwrap()
        };
        let lookups: Vec<_> = (0..2).map(|_| (first(TYPE_A, true), first(TYPE_AAAA, false))).collect();
        assert_ne!(lookups[0].0, lookups[1].0);
        assert_ne!(lookups[0].1, lookups[1].1);
    }

    #[test]
    fn a_network_may_want_one_container_at_a_time() {
        let mut zones = zones();
        let back = Network { id: "n2", label: "back", one: true };
        zones.put(&back, "c4", &["web".to_owned()], &["10.1.0.3".parse().unwrap()], 2);
        let all: Vec<Vec<String>> = (0..2).map(|_| ask(&mut zones, &["n2"], "web")).collect();
        assert!(all.iter().all(|answer| answer.len() == 1), "{all:?}");
        assert_ne!(all[0], all[1]);
    }

    #[test]
    fn addresses_have_their_containers_first_name() {
        let mut zones = zones();
        let networks = ["n1".to_owned()];
        assert_eq!(zones.name(&networks, "10.0.0.3".parse().unwrap()), Some("db.front".to_owned()));
        zones.remove("n1", "c2");
        assert_eq!(zones.name(&networks, "10.0.0.3".parse().unwrap()), None);
        assert_eq!(ask(&mut zones, &["n1"], "app"), ["10.0.0.2"]);
    }

    #[test]
    fn what_was_not_said_again_is_forgotten() {
        let mut zones = zones();
        zones.forget_before(2);
        assert!(ask(&mut zones, &["n1"], "web").is_empty());
        assert_eq!(ask(&mut zones, &["n2"], "web"), ["10.1.0.2"]);
    }
}
