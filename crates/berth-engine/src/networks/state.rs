//! Who has which address, slot and port.
//!
//! One lock guards [`State`]; kernel calls that may take long (namespaces, interfaces) happen outside it,
//! changes of the firewall inside, so that table and memory never differ.

use super::types::{AddressBlock, Attachment, Driver, Endpoint, InterfaceCounters, Network, NetworkView};
use crate::EngineConfig;
use berth_net::addresses::Addresses;
use berth_net::firewall::{Firewall, Publication, Zone};
use berth_net::ports::Reservation;
use berth_net::route::Route;
use berth_net::slot::Namespace;
use berth_types::spec::Protocol;
use berth_types::{ContainerId, Error, ErrorKind, NetworkId, Result};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Everything that the handle and the threads behind it share.
pub(crate) struct Shared {
    pub(super) bridge_name: String,
    pub(super) bridge_subnet: Option<String>,
    pub(super) records: PathBuf,
    pub(super) state: Mutex<State>,
    /// Rung when there is work behind: slots to fill, addresses to give back.
    pub(super) work: Condvar,
    /// For threads that must not keep the engine alive.
    pub(super) me: std::sync::Weak<Shared>,
}

#[derive(Default)]
pub(super) struct State {
    /// Set by recovery; before it nothing of the host is touched.
    pub(super) ready: Option<Ready>,
    pub(super) networks: BTreeMap<NetworkId, Live>,
    pub(super) held: HashMap<ContainerId, Held>,
    pub(super) slots: Vec<Slot>,
    /// Published host ports: the addresses they are published on, and by whom.
    pub(super) claims: HashMap<(Protocol, u16), Vec<(IpAddr, ContainerId)>>,
    /// Addresses whose interfaces are on their way out.
    pub(super) leaving: Vec<Leaving>,
    /// Where the search for the next port of our choice begins.
    pub(super) next_port: u16,
    /// The engine is closing: the threads behind end.
    pub(super) closing: bool,
}

pub(super) struct Ready {
    pub(super) route: Route,
    pub(super) firewall: Firewall,
}

/// A network with its addresses; `pools` go with `network.blocks`.
pub(super) struct Live {
    pub(super) network: Network,
    pub(super) bridge_index: u32,
    pub(super) pools: Vec<Addresses>,
}

/// What a running container has.
pub(super) struct Held {
    pub(super) name: String,
    pub(super) attachment: Attachment,
    pub(super) namespace: Option<Namespace>,
    pub(super) publications: Vec<Publication>,
    pub(super) reservations: Vec<Reservation>,
}

/// A namespace on the default bridge that waits for its container.
pub(super) struct Slot {
    pub(super) namespace: Namespace,
    pub(super) endpoint: Endpoint,
}

pub(super) struct Leaving {
    pub(super) host_name: String,
    pub(super) network: NetworkId,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) since: Instant,
}

/// The host's end of an endpoint's veth pair.
pub(super) fn host_name(endpoint_id: &str) -> String {
    format!("bv{}", endpoint_id.get(..11).unwrap_or(endpoint_id))
}

pub(super) fn random_id() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::because(ErrorKind::Internal, "cannot get random bytes", &errno))?;
    Ok(bytes)
}

impl Endpoint {
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let v4 = self.ipv4.map(|(address, _)| IpAddr::V4(address));
        v4.into_iter().chain(self.ipv6.map(|(address, _)| IpAddr::V6(address))).collect()
    }
}

impl Live {
    pub(super) fn new(network: Network, bridge_index: u32) -> Live {
        let pool = |block: &AddressBlock| {
            let mut reserved: Vec<IpAddr> = block.auxiliary.values().copied().collect();
            reserved.push(block.gateway);
            Addresses::new(block.subnet, block.range, &reserved)
        };
        let pools = network.blocks.iter().map(pool).collect();
        Live { network, bridge_index, pools }
    }

    pub(super) fn zone(&self) -> Zone {
        let option = |name: &str, default: bool| match self.network.options.get(name).map(String::as_str) {
            Some("false" | "0" | "False" | "FALSE" | "f" | "F") => false,
            Some(_) => true,
            None => default,
        };
        Zone {
            bridge: self.network.bridge.clone(),
            subnets: self.network.blocks.iter().map(|block| block.subnet).collect(),
            internal: self.network.internal,
            masquerade: option("com.docker.network.bridge.enable_ip_masquerade", true),
            inter_container: option("com.docker.network.bridge.enable_icc", true),
        }
    }

    /// `None`: every address.
    pub(super) fn host_binding(&self) -> Option<IpAddr> {
        let option = self.network.options.get("com.docker.network.bridge.host_binding_ipv4")?;
        option.parse().ok().filter(|address: &IpAddr| !address.is_unspecified())
    }

    pub(super) fn mtu(&self) -> u32 {
        let wanted = self.network.options.get("com.docker.network.driver.mtu");
        wanted.and_then(|text| text.parse().ok()).filter(|mtu| (68..=65535).contains(mtu)).unwrap_or(1500)
    }

    pub(super) fn give_back(&mut self, address: IpAddr) {
        for pool in &mut self.pools {
            if pool.subnet().contains(address) {
                pool.give_back(address);
            }
        }
    }
}

impl State {
    pub(super) fn find(&self, reference: &str) -> Result<&Live> {
        let all = || self.networks.values();
        if let Some(live) = all().find(|live| live.network.id.as_str() == reference) {
            return Ok(live);
        }
        let name = if reference == "default" { "bridge" } else { reference };
        if let Some(live) = all().find(|live| live.network.name == name) {
            return Ok(live);
        }
        let mut some = all().filter(|live| !reference.is_empty() && live.network.id.as_str().starts_with(reference));
        match (some.next(), some.next()) {
            (Some(live), None) => Ok(live),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("network {reference} is ambiguous (2 matches found based on ID prefix)")))
            }
            (None, _) => Err(Error::not_found(format!("network {reference} not found"))),
        }
    }

    /// Who publishes `port` on an address that meets `host`.
    pub(super) fn claimant(&self, protocol: Protocol, host: IpAddr, port: u16) -> Option<&ContainerId> {
        let claims = self.claims.get(&(protocol, port))?;
        let meets = |other: &IpAddr| {
            let same = *other == host || other.is_unspecified() || host.is_unspecified();
            same && other.is_ipv4() == host.is_ipv4()
        };
        claims.iter().find(|(other, _)| meets(other)).map(|(_, id)| id)
    }

    pub(super) fn claim(&mut self, id: &ContainerId, publications: &[Publication]) {
        for p in publications {
            self.claims.entry((p.protocol, p.host_port)).or_default().push((p.host, id.clone()));
        }
    }

    pub(super) fn unclaim(&mut self, id: &ContainerId, publications: &[Publication]) {
        for p in publications {
            let key = (p.protocol, p.host_port);
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|(_, holder)| holder != id);
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
        }
    }

    /// Takes back what an endpoint has; its addresses follow once the interface is gone.
    pub(super) fn leave(&mut self, endpoint: &Endpoint) {
        if let Some(network) = &endpoint.network_id
            && !endpoint.addresses().is_empty()
        {
            self.leaving.push(Leaving {
                host_name: host_name(&endpoint.endpoint_id),
                network: network.clone(),
                addresses: endpoint.addresses(),
                since: Instant::now(),
            });
        }
    }
}

impl Shared {
    /// Reads the records; an unreadable file is an error rather than an empty list, which would lose networks.
    pub(crate) fn open(config: &EngineConfig) -> Result<Arc<Shared>> {
        let records = config.data_root.join("networks.json");
        let mut state = State::default();
        for network in super::records::load(&records)? {
            state.networks.insert(network.id.clone(), Live::new(network, 0));
        }
        Ok(Arc::new_cyclic(|me| Shared {
            bridge_name: config.bridge_name.clone(),
            bridge_subnet: config.bridge_subnet.clone(),
            records,
            state: Mutex::new(state),
            work: Condvar::new(),
            me: me.clone(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// The state after recovery; an engine that has nothing to recover gets here with the first attach.
    pub(super) fn ready(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.ready.is_some() {
            return Ok(state);
        }
        drop(state);
        self.recover(Vec::new())?;
        Ok(self.lock())
    }

    pub(super) fn save(&self, state: &State) -> Result<()> {
        let all: Vec<&Network> = state.networks.values().map(|live| &live.network).collect();
        super::records::save(&self.records, &all)
    }

    pub(super) fn resolve(&self, reference: &str) -> Result<Network> {
        // The predefined ones come into being with recovery.
        let state = if self.lock().networks.is_empty() { self.ready()? } else { self.lock() };
        state.find(reference).map(|live| live.network.clone())
    }

    pub(super) fn views(&self) -> Vec<NetworkView> {
        let state = self.lock();
        let on = |id: &NetworkId| {
            let mut containers = Vec::new();
            for (container, held) in &state.held {
                for endpoint in held.attachment.endpoints.values().filter(|e| e.network_id.as_ref() == Some(id)) {
                    containers.push((container.clone(), held.name.clone(), endpoint.clone()));
                }
            }
            containers
        };
        let view = |live: &Live| NetworkView { network: live.network.clone(), containers: on(&live.network.id) };
        state.networks.values().map(view).collect()
    }

    pub(super) fn renamed(&self, id: &ContainerId, name: &str) {
        if let Some(held) = self.lock().held.get_mut(id) {
            held.name = name.to_owned();
        }
    }

    pub(super) fn counters(&self, id: &ContainerId) -> Result<Vec<InterfaceCounters>> {
        let mut state = self.lock();
        let State { ready: Some(ready), held, .. } = &mut *state else { return Ok(Vec::new()) };
        let Some(held) = held.get(id) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for endpoint in held.attachment.endpoints.values().filter(|endpoint| !endpoint.interface.is_empty()) {
            let link = ready.route.link(&host_name(&endpoint.endpoint_id)).map_err(|error| {
                Error::because(ErrorKind::Internal, format!("cannot read counters of container {}", held.name), &error)
            })?;
            all.extend(link.map(|link| (endpoint.interface.clone(), link.counters.from_other_end())));
        }
        Ok(all)
    }

    /// Ends the threads behind and lets unused slots go; containers keep what they have.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.slots.clear();
        self.work.notify_all();
    }
}

/// Docker's name for the kind of a failed bridge, table or interface.
pub(super) fn host_error(action: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, action, error)
}

impl Driver {
    pub(super) fn has_interface(self) -> bool {
        self == Driver::Bridge
    }
}
