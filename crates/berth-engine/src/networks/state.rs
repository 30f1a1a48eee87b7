//! Who has which address, slot and port.
//!
//! One lock guards [`State`]; kernel calls that may take long (namespaces, interfaces) happen outside it,
//! changes of the firewall inside, so that table and memory never differ.

use super::attach::{Blank, Site};
use super::bridge_options;
use super::names::Names;
use super::types::{AddressBlock, Attachment, Driver, Endpoint, InterfaceCounters, Network, NetworkView};
use crate::EngineConfig;
use berth_net::addresses::Addresses;
use berth_net::firewall::{Firewall, Opening, PortGuard, Publication, Zone};
use berth_net::ports::Reservation;
use berth_net::route::{Counters, Route};
use berth_net::slot::{Namespace, Uplink};
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
    /// TCP ports that no container may reach on the host.
    pub(super) doors: Vec<u16>,
    pub(super) names: Names,
    pub(super) state: Mutex<State>,
    /// Rung when there is work behind: slots to fill, addresses to give back.
    pub(super) work: Condvar,
    /// For threads that must not keep the engine alive.
    pub(super) me: std::sync::Weak<Shared>,
}

#[derive(Default)]
pub(super) struct State {
    /// Running containers whose networks cannot be taken over yet: the host has no nf_tables.
    pub(super) waiting: Option<Vec<(ContainerId, Attachment)>>,
    /// Set by recovery; before it nothing of the host is touched.
    pub(super) ready: Option<Ready>,
    pub(super) networks: BTreeMap<NetworkId, Live>,
    pub(super) held: HashMap<ContainerId, Held>,
    pub(super) slots: Vec<Slot>,
    /// Namespaces for containers of user networks.
    pub(super) blanks: Vec<Blank>,
    /// When the first of the slots that are missing was taken.
    pub(super) slot_taken: Option<std::time::Instant>,
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
    /// Its bridges, or the one parent of a macvlan. The first is the network's own.
    pub(super) shards: Vec<Shard>,
    pub(super) pools: Vec<Addresses>,
}

/// One bridge of a network.
#[derive(Debug, Clone, Default)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) index: u32,
    /// Containers on it.
    pub(super) ports: usize,
}

/// What a running container has.
pub(super) struct Held {
    pub(super) name: String,
    pub(super) attachment: Attachment,
    pub(super) namespace: Option<Namespace>,
    pub(super) publications: Vec<Publication>,
    /// Ports that are reached under its own addresses.
    pub(super) openings: Vec<Opening>,
    pub(super) reservations: Vec<Reservation>,
    /// Its name sockets are open and whoever opened them is about to hand them over: nobody else opens others, which
    /// would take the questions away from these.
    pub(super) names_on_the_way: bool,
}

/// A namespace on the default bridge that waits for its container.
pub(super) struct Slot {
    pub(super) namespace: Namespace,
    pub(super) endpoint: Endpoint,
}

pub(super) struct Leaving {
    pub(super) host_name: String,
    pub(super) network: NetworkId,
    pub(super) shard: usize,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) since: Instant,
}

/// Off: containers of the network may send under each other's addresses.
pub(super) const OPTION_ANTISPOOF: &str = "berth.network.antispoof";

/// `all` or `one`: with how many of several containers a shared name is answered.
pub(super) const OPTION_NAMES: &str = "berth.network.names";

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

/// Locally administered, of one.
pub(super) fn random_mac() -> Result<[u8; 6]> {
    let id = random_id()?;
    Ok([id[0] & 0xfc | 2, id[1], id[2], id[3], id[4], id[5]])
}

impl Endpoint {
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let v4 = self.ipv4.map(|(address, _)| IpAddr::V4(address));
        v4.into_iter().chain(self.ipv6.map(|(address, _)| IpAddr::V6(address))).collect()
    }

    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        let v4 = self.gateway.map(IpAddr::V4);
        v4.into_iter().chain(self.ipv6_gateway.map(IpAddr::V6)).collect()
    }
}

impl Live {
    pub(super) fn new(network: Network, bridge_index: u32) -> Live {
        let pool = |block: &AddressBlock| {
            let mut reserved: Vec<IpAddr> = block.auxiliary.values().copied().collect();
            reserved.extend(block.gateway);
            Addresses::new(block.subnet, block.range, &reserved)
        };
        let pools = network.blocks.iter().map(pool).collect();
        let shards = vec![Shard { name: network.bridge.clone(), index: bridge_index, ports: 0 }];
        Live { network, shards, pools }
    }

    pub(super) fn bridge_index(&self) -> u32 {
        self.shards.first().map_or(0, |shard| shard.index)
    }

    pub(super) fn set_bridge_index(&mut self, index: u32) {
        if let Some(first) = self.shards.first_mut() {
            first.index = index;
        }
    }

    /// Whether the name server answers for containers on it: on all but the predefined ones, as in Docker.
    pub(super) fn has_names(&self) -> bool {
        self.network.driver.has_addresses() && !self.network.is_predefined()
    }

    pub(super) fn interface_prefix(&self) -> &str {
        self.network.options.get(bridge_options::PREFIX).map_or(super::attach::DEFAULT_PREFIX, String::as_str)
    }

    pub(super) fn answers_one(&self) -> bool {
        self.network.options.get(OPTION_NAMES).is_some_and(|text| text == "one")
    }

    /// Where an endpoint's interface hangs.
    pub(super) fn site(&self, endpoint: &Endpoint) -> Site {
        let index = self.shards.get(endpoint.shard).map_or(0, |shard| shard.index);
        let uplink = match self.network.driver {
            Driver::Macvlan => Uplink::Macvlan { parent: index, mode: super::macvlan::mode(&self.network) },
            Driver::Bridge | Driver::Host | Driver::Null => Uplink::Bridge { index, gateway: self.bridge_index() },
        };
        Site { uplink, mtu: self.mtu(), isolated: !self.network.flag(bridge_options::ICC, true) }
    }

    pub(super) fn give_back_port(&mut self, shard: usize) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.ports = shard.ports.saturating_sub(1);
        }
    }

    pub(super) fn zone(&self) -> Zone {
        Zone {
            bridge: self.network.bridge.clone(),
            more_bridges: self.shards.iter().skip(1).map(|shard| shard.name.clone()).collect(),
            gateways: self.network.blocks.iter().filter_map(|block| block.gateway).collect(),
            subnets: self.network.blocks.iter().map(|block| block.subnet).collect(),
            internal: self.network.internal,
            masquerade: self.network.flag(bridge_options::MASQUERADE, true),
            inter_container: self.network.flag(bridge_options::ICC, true),
            access: self.network.access(),
            sources: self.network.sources(),
            trusted: self.network.trusted(),
        }
    }

    /// `None`: every address.
    pub(super) fn host_binding(&self) -> Option<IpAddr> {
        let option = self.network.options.get(bridge_options::HOST_BINDING)?;
        option.parse().ok().filter(|address: &IpAddr| !address.is_unspecified())
    }

    pub(super) fn mtu(&self) -> u32 {
        let wanted = self.network.options.get(bridge_options::MTU);
        let default = if self.network.driver == Driver::Macvlan { 0 } else { 1500 };
        wanted.and_then(|text| text.parse().ok()).filter(|mtu| (68..=65535).contains(mtu)).unwrap_or(default)
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
            for port in p.host_ports() {
                self.claims.entry((p.protocol, port)).or_default().push((p.host, id.clone()));
            }
        }
    }

    pub(super) fn unclaim(&mut self, id: &ContainerId, publications: &[Publication]) {
        for key in publications.iter().flat_map(|p| p.host_ports().map(|port| (p.protocol, port))) {
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|(_, holder)| holder != id);
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
        }
    }

    /// What an endpoint's port may send as; `None`: it has no port, or anything.
    pub(super) fn guard_of(&self, endpoint: &Endpoint) -> Option<PortGuard> {
        let live = self.networks.get(endpoint.network_id.as_ref()?)?;
        (live.network.driver.has_bridge() && live.network.flag(OPTION_ANTISPOOF, true)).then(|| PortGuard {
            port: host_name(&endpoint.endpoint_id),
            mac: berth_net::addresses::parse_mac(&endpoint.mac_address).unwrap_or_default(),
            addresses: endpoint.addresses(),
        })
    }

    /// Takes back what an endpoint has; its addresses follow once the interface is gone.
    pub(super) fn leave(&mut self, endpoint: &Endpoint) {
        let Some(network) = endpoint.network_id.as_ref().filter(|_| !endpoint.addresses().is_empty()) else { return };
        let host_name = host_name(&endpoint.endpoint_id);
        if let Some(ready) = &mut self.ready
            && let Err(error) = ready.firewall.unguard(std::slice::from_ref(&host_name))
        {
            tracing::warn!(%error, interface = host_name, "its addresses stay guarded");
        }
        self.leaving.push(Leaving {
            host_name,
            network: network.clone(),
            shard: endpoint.shard,
            addresses: endpoint.addresses(),
            since: Instant::now(),
        });
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
            doors: config.closed_ports.clone(),
            names: Names::new(config.dns_program.as_deref(), &config.exec_root),
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
                    containers.push((container.clone(), held.name.clone(), Endpoint::clone(endpoint)));
                }
            }
            containers
        };
        let usage = |pool: &Addresses| {
            let (taken, free) = pool.usage();
            (pool.subnet(), taken, free)
        };
        let view = |live: &Live| NetworkView {
            network: live.network.clone(),
            containers: on(&live.network.id),
            usage: live.pools.iter().map(usage).collect(),
        };
        state.networks.values().map(view).collect()
    }

    pub(super) fn renamed(&self, id: &ContainerId, name: &str) -> Result<()> {
        if let Some(held) = self.lock().held.get_mut(id) {
            let old = std::mem::replace(&mut held.name, name.to_owned());
            for endpoint in held.attachment.endpoints.values_mut() {
                for known in endpoint.dns_names.iter_mut().filter(|known| **known == old) {
                    name.clone_into(known);
                }
            }
        }
        self.tell_names(id, &[], None)
    }

    pub(super) fn counters(&self, id: &ContainerId) -> Result<Vec<InterfaceCounters>> {
        let mut state = self.lock();
        let State { ready: Some(ready), held, networks, .. } = &mut *state else { return Ok(Vec::new()) };
        let Some(held) = held.get(id) else { return Ok(Vec::new()) };
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Error::because(ErrorKind::Internal, format!("cannot read counters of container {}", held.name), error)
        };
        let mut all = Vec::new();
        let mut inside = None;
        for endpoint in held.attachment.endpoints.values().filter(|endpoint| !endpoint.interface.is_empty()) {
            let live = endpoint.network_id.as_ref().and_then(|id| networks.get(id));
            if live.is_some_and(|live| !live.network.driver.has_bridge()) {
                // No end of it on the host: read inside.
                if inside.is_none() {
                    let links = held.namespace.as_ref().map(|own| own.links().map_err(|error| failed(&error)));
                    inside = Some(links.transpose()?.unwrap_or_default());
                }
                let link = inside.iter().flatten().find(|link| link.name == endpoint.interface);
                all.extend(link.map(|link| (endpoint.interface.clone(), link.counters)));
                continue;
            }
            let link = ready.route.link(&host_name(&endpoint.endpoint_id)).map_err(|error| failed(&error))?;
            all.extend(link.map(|link| (endpoint.interface.clone(), link.counters.from_other_end())));
        }
        Ok(all)
    }

    /// Bytes received and sent, as far as they can be read: the host's ends of all interfaces in one answer.
    pub(super) fn traffic(&self, ids: &[ContainerId]) -> HashMap<ContainerId, (u64, u64)> {
        // Asked with a socket of its own: a thousand links take the kernel some milliseconds, in which nobody waits.
        let outside: HashMap<String, Counters> = match ids {
            [] | [_] => HashMap::new(),
            _ => Route::open()
                .and_then(|mut route| route.links())
                .map(|links| links.into_iter().map(|link| (link.name, link.counters.from_other_end())).collect())
                .unwrap_or_default(),
        };
        let known = |id: &ContainerId| -> Option<(u64, u64)> {
            let state = self.lock();
            let endpoints = state.held.get(id)?.attachment.endpoints.values();
            endpoints.filter(|endpoint| !endpoint.interface.is_empty()).try_fold(
                (0, 0),
                |(received, sent), endpoint| {
                    let own = outside.get(&host_name(&endpoint.endpoint_id))?;
                    Some((received + own.rx_bytes, sent + own.tx_bytes))
                },
            )
        };
        // What has no end on the host (macvlan) is looked for inside, one by one.
        let read = |id: &ContainerId| {
            let all = self.counters(id).ok()?;
            Some(all.iter().fold((0, 0), |(received, sent), (_, c)| (received + c.rx_bytes, sent + c.tx_bytes)))
        };
        ids.iter().filter_map(|id| Some((id.clone(), known(id).or_else(|| read(id))?))).collect()
    }

    /// Ends the threads behind and lets unused slots go; containers keep what they have. Where nobody runs, nothing is
    /// left on the host: bridges and tables are made anew by the next start.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.slots.clear();
        state.blanks.clear();
        if state.held.is_empty()
            && let Some(ready) = state.ready.take()
        {
            self.clear_host(&state, ready);
        }
        drop(state);
        self.names.hang_up();
        self.work.notify_all();
    }

    fn clear_host(&self, state: &State, ready: Ready) {
        let Ready { mut route, firewall } = ready;
        let with_interface = state.networks.values().filter(|live| live.network.driver.has_addresses());
        for Live { network, shards, .. } in with_interface {
            let removed = match network.driver {
                Driver::Macvlan => self.remove_parent(&mut route, network),
                _ => self.remove_shards(&mut route, network, shards.len()).and_then(|()| {
                    let mut batch = berth_net::netlink::Batch::default();
                    berth_net::route::delete_link(&mut batch, &network.bridge);
                    route.run(batch)
                }),
            };
            if let Err(error) = removed {
                tracing::warn!(network = network.name, %error, "its bridge is left");
            }
        }
        if let Err(error) = firewall.remove() {
            tracing::warn!(%error, "the firewall table is left");
        }
    }
}

/// Docker's name for the kind of a failed bridge, table or interface.
pub(super) fn host_error(action: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, action, error)
}

impl Driver {
    pub(super) fn has_bridge(self) -> bool {
        self == Driver::Bridge
    }

    pub fn has_addresses(self) -> bool {
        matches!(self, Driver::Bridge | Driver::Macvlan)
    }
}
