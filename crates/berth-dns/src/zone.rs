//! Who has which name on which network.
//!
//! ```text
//! network ─┬─ name ──── containers that answer to it, with their addresses
//!          └─ address ─ the container's first name
//! ```
//!
//! Names are kept in lower case. A name that several containers have is answered with all their addresses, beginning
//! with another one each time.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// One network's names.
#[derive(Debug, Default)]
struct Zone {
    /// The network's own name: `web.<network>` means `web` there.
    label: String,
    /// By container.
    endpoints: BTreeMap<String, Endpoint>,
    /// Name to containers.
    names: HashMap<String, Vec<String>>,
    addresses: HashMap<IpAddr, String>,
}

#[derive(Debug)]
struct Endpoint {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    generation: u64,
}

/// All networks.
#[derive(Debug, Default)]
pub struct Zones {
    networks: HashMap<String, Zone>,
    /// Turns round robins.
    turn: usize,
}

impl Zones {
    /// `container` has these names and addresses on `network` from now on.
    pub fn put(
        &mut self,
        (network, label): (&str, &str),
        container: &str,
        names: &[String],
        addresses: &[IpAddr],
        generation: u64,
    ) {
        self.remove(network, container);
        let zone = self.networks.entry(network.to_owned()).or_default();
        zone.label = label.to_ascii_lowercase();
        let names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        for name in &names {
            let holders = zone.names.entry(name.clone()).or_default();
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
                holders.retain(|holder| holder != container);
                if holders.is_empty() {
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

    /// The addresses behind `name` for somebody on `networks`; the first network that knows it answers.
    pub fn addresses(&mut self, networks: &[String], name: &str) -> Option<Vec<IpAddr>> {
        for network in networks {
            let Some(zone) = self.networks.get(network) else { continue };
            let bare = name.strip_suffix(zone.label.as_str()).and_then(|rest| rest.strip_suffix('.'));
            let holders = zone.names.get(name).or_else(|| bare.and_then(|bare| zone.names.get(bare)));
            let Some(holders) = holders else { continue };
            let of = |holder: &String| zone.endpoints.get(holder).map(|endpoint| endpoint.addresses.clone());
            let mut all: Vec<Vec<IpAddr>> = holders.iter().filter_map(of).collect();
            self.turn = self.turn.wrapping_add(1);
            let turn = self.turn % all.len().max(1);
            all.rotate_left(turn);
            return Some(all.into_iter().flatten().collect());
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

    fn zones() -> Zones {
        let mut zones = Zones::default();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let address = |text: &str| vec![text.parse().unwrap()];
        zones.put(("n1", "Front"), "c1", &names(&["web", "app"]), &address("10.0.0.2"), 1);
        zones.put(("n1", "Front"), "c2", &names(&["db", "App"]), &address("10.0.0.3"), 1);
        zones.put(("n2", "back"), "c3", &names(&["web"]), &address("10.1.0.2"), 2);
        zones
    }

    fn ask(zones: &mut Zones, networks: &[&str], name: &str) -> Vec<String> {
        let networks: Vec<String> = networks.iter().map(|&name| name.to_owned()).collect();
        let found = zones.addresses(&networks, name).unwrap_or_default();
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
