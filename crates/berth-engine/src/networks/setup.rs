//! What happens when an engine starts: bridges, table, leftovers.
//!
//! Containers of the engine before keep running, and so do their interfaces and open ports: bridges that are
//! there stay, and the table is replaced by its equal in one transaction. What nobody owns goes: ports of
//! our bridges without a container, bridges without a record.

use super::bridge_options;
use super::publish::{Openness, Runs};
use super::records;
use super::state::{Held, Live, Ready, Shared, State, host_error, host_name, random_id, random_mac};
use super::types::{AddressBlock, Attachment, Driver, Network};
use crate::events::now_unix_nanos;
use berth_net::addresses::{Subnet, free_subnet, mac_of};
use berth_net::firewall::{Contents, Firewall, LoopbackIpv6, Opening, Publication};
use berth_net::netlink::{Batch, NetlinkError};
use berth_net::ports;
use berth_net::route::{self, Link, Range, Route};
use berth_net::slot::Namespace;
use berth_types::{ContainerId, Error, NetworkId, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Where the default bridge's /16 is looked for.
const DEFAULT_BRIDGE_POOL: &str = "172.16.0.0/12";
const DEFAULT_BRIDGE_PREFIX: u8 = 16;

const NEEDS_NF_TABLES: &str = "the kernel needs nf_tables with NAT: load the modules nf_tables, nft_chain_nat, nft_masq, \
     nft_fib_inet; until then containers run with --network none and --network host";

/// A lock among engines of one host while they choose subnets; without it two could choose the same.
const CHOICE_LOCK: &str = "/run/berth-subnets.lock";

/// Written into a bridge's alias: whose it is.
pub(super) fn mark(bridge_name: &str) -> String {
    format!("berth {bridge_name}")
}

fn pool(text: &str) -> Vec<Subnet> {
    text.parse().into_iter().collect()
}

impl Shared {
    /// The table's name: the bridge's interface name is one engine's only.
    pub(super) fn table(&self) -> String {
        format!("berth_{}", self.bridge_name)
    }

    pub(super) fn recover(&self, attached: Vec<(ContainerId, Attachment)>) -> Result<()> {
        let mut state = self.lock();
        if state.ready.is_some() {
            return Ok(());
        }
        let failed = |error: NetlinkError| host_error("cannot reach the host's network", &error);
        let mut route = Route::open().map_err(failed)?;
        make_room_for_descriptors();
        let _choosing = choice_lock();
        self.add_predefined(&mut state, &mut route)?;
        // Before anything of the host is touched.
        if let Err(error) = Firewall::check() {
            state.waiting.get_or_insert(attached);
            return Err(host_error("this host cannot have container networks", &error).with_hint(NEEDS_NF_TABLES));
        }
        let attached = state.waiting.take().unwrap_or(attached);
        forward_packets()?;

        let links = route.links().map_err(failed)?;
        for live in state.networks.values_mut().filter(|live| live.network.driver.has_addresses()) {
            match self.raise(&mut route, &live.network) {
                Ok(index) => live.set_bridge_index(index),
                // One network that cannot be had must not cost the others.
                Err(error) if !live.network.is_predefined() => {
                    tracing::error!(network = live.network.name, %error, "network is not usable");
                }
                Err(error) => return Err(error),
            }
            live.shards.truncate(1);
            live.shards.extend(self.find_shards(&links, &live.network));
        }
        self.adopt(&mut state, attached);
        self.clear_leftovers(&state, &mut route, &links).map_err(failed)?;

        let endpoints = state.held.values().flat_map(|held| held.attachment.endpoints.values());
        let contents = Contents {
            zones: state.networks.values().filter(|live| live.network.driver.has_bridge()).map(Live::zone).collect(),
            publications: state.held.values().flat_map(|held| held.publications.iter().copied()).collect(),
            openings: state.held.values().flat_map(|held| held.openings.iter().copied()).collect(),
            guards: endpoints.filter_map(|endpoint| state.guard_of(endpoint)).collect(),
            doors: self.doors.clone(),
            loopback_ipv6: loopback_ipv6(),
        };
        let mut firewall = Firewall::open_with(&self.table(), contents)
            .map_err(|error| host_error("cannot set up the firewall table", &error).with_hint(NEEDS_NF_TABLES))?;
        if !firewall.is_guarding() {
            tracing::warn!(
                "this kernel does not filter on bridges (NF_TABLES_BRIDGE): containers of one network can pretend to be each other"
            );
        }
        tell_not_led(&mut firewall);
        state.ready = Some(Ready { route, firewall });
        drop(state);
        if let Err(error) = self.restore_names() {
            tracing::error!(%error, "containers cannot look up names");
        }
        self.start_behind()
    }

    /// `bridge`, `host` and `none`, made once and remembered.
    fn add_predefined(&self, state: &mut State, route: &mut Route) -> Result<()> {
        let mut changed = false;
        for (name, driver) in [("host", Driver::Host), ("none", Driver::Null)] {
            if state.find(name).is_err() {
                let network = predefined(name, driver)?;
                state.networks.insert(network.id.clone(), Live::new(network, 0));
                changed = true;
            }
        }
        let configured = self.bridge_subnet.as_deref().map(configured_block).transpose()?;
        let old = state.find("bridge").ok().map(|live| live.network.clone());
        let busy: Vec<Subnet> = busy_subnets(route, &self.bridge_name)?.into_iter().map(|(subnet, _)| subnet).collect();
        let has_ipv6 = host_has_ipv6();
        if !has_ipv6 {
            tracing::info!("this host has no IPv6: networks are IPv4 only");
        }
        let keep = old.as_ref().and_then(|network| network.blocks.first()).is_some_and(|block| match &configured {
            Some(wanted) => wanted == block,
            None => !busy.iter().any(|taken| taken.overlaps(block.subnet)),
        }) && old.as_ref().is_some_and(|network| network.enable_ipv6 == has_ipv6);
        if !keep || old.as_ref().is_some_and(|network| network.bridge != self.bridge_name) {
            let block = match configured {
                Some(block) => block,
                None => self.choose_default(&busy, state)?,
            };
            let id = match &old {
                Some(network) => network.id.clone(),
                None => NetworkId::from_bytes(random_id()?),
            };
            let mut blocks = vec![block];
            if has_ipv6 {
                let before = old.iter().flat_map(|network| &network.blocks).find(|b| b.subnet.address.is_ipv6());
                blocks.push(match before {
                    Some(block) => block.clone(),
                    None => block_of(super::create::unique_local_subnet()?)?,
                });
            }
            let network = Network {
                id,
                bridge: self.bridge_name.clone(),
                blocks,
                enable_ipv6: has_ipv6,
                ..predefined("bridge", Driver::Bridge)?
            };
            state.networks.insert(network.id.clone(), Live::new(network, 0));
            changed = true;
        }
        if changed {
            let all: Vec<&Network> = state.networks.values().map(|live| &live.network).collect();
            records::save(&self.records, &all)?;
        }
        Ok(())
    }

    fn choose_default(&self, busy: &[Subnet], state: &State) -> Result<AddressBlock> {
        let mut taken = busy.to_vec();
        taken.extend(state.networks.values().flat_map(|live| live.network.blocks.iter().map(|block| block.subnet)));
        // 172.16 stays free for people who number by hand; Docker begins at 172.17 too.
        taken.extend(pool("172.16.0.0/16"));
        let subnet = free_subnet(&pool(DEFAULT_BRIDGE_POOL), DEFAULT_BRIDGE_PREFIX, &taken)
            .or_else(|| free_subnet(&pool("10.0.0.0/8"), DEFAULT_BRIDGE_PREFIX, &taken))
            .ok_or_else(|| {
                Error::internal("could not find an available, non-overlapping IPv4 address pool for the default bridge")
                    .with_hint("give one with --bridge-subnet")
            })?;
        block_of(subnet)
    }

    /// Running containers keep what they have.
    fn adopt(&self, state: &mut State, attached: Vec<(ContainerId, Attachment)>) {
        for (id, attachment) in attached {
            for endpoint in attachment.endpoints.values() {
                if let Some(live) = endpoint.network_id.as_ref().and_then(|id| state.networks.get_mut(id)) {
                    if let Some(shard) = live.shards.get_mut(endpoint.shard) {
                        shard.ports += 1;
                    }
                    for address in endpoint.addresses() {
                        for pool in live.pools.iter_mut().filter(|pool| pool.subnet().contains(address)) {
                            // Two containers with one address cannot be; if records say so, both run on.
                            pool.take(address).ok();
                        }
                    }
                }
            }
            let target = attachment.endpoints.values().find(|endpoint| endpoint.default_route);
            let (v4, v6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED));
            let (mut publications, mut reservations) = (Runs::default(), Vec::new());
            let network = target.and_then(|endpoint| state.networks.get(endpoint.network_id.as_ref()?));
            let openness = network.map_or_else(Openness::default, |live| Openness::of(&live.network));
            let mut openings = BTreeSet::new();
            for (port, listeners) in &attachment.ports {
                for &(host, host_port) in listeners {
                    let own = target.and_then(|endpoint| match host {
                        IpAddr::V4(_) => endpoint.ipv4.map(|(address, _)| IpAddr::V4(address)),
                        IpAddr::V6(_) => endpoint.ipv6.map(|(address, _)| IpAddr::V6(address)),
                    });
                    let Some(container) = own else { continue };
                    let (protocol, container_port) = (port.protocol, port.port);
                    if openness.opens(container) {
                        openings.insert(Opening { address: container, protocol, port: container_port });
                    }
                    // Of a routed network: no port of the host leads there.
                    if host_port == 0 {
                        continue;
                    }
                    publications.push(Publication { protocol, host, host_port, container, container_port, count: 1 });
                    let everywhere = [v4, v6].iter().all(|any| listeners.contains(&(*any, host_port)));
                    // A port that somebody took while no engine held it stays the container's: packets reach it first.
                    reservations.extend(match everywhere && host.is_unspecified() {
                        true if host == v4 => None,
                        true => ports::reserve_everywhere(protocol, host_port).ok(),
                        false => ports::reserve(protocol, host, host_port).ok(),
                    });
                }
            }
            let publications = publications.all;
            let name = attachment.endpoints.values().find_map(|endpoint| endpoint.dns_names.first().cloned());
            let held = Held {
                name: name.unwrap_or_else(|| id.short().to_owned()),
                // Kept open from now on; whoever is in it keeps it anyway.
                namespace: Namespace::open(&attachment.netns).ok(),
                attachment,
                publications,
                openings: openings.into_iter().collect(),
                reservations,
                names_on_the_way: false,
            };
            state.claim(&id, &held.publications);
            state.held.insert(id, held);
        }
    }

    /// The bridge of `network`, made or found; answers its interface index.
    pub(super) fn raise(&self, route: &mut Route, network: &Network) -> Result<u32> {
        if network.driver == Driver::Macvlan {
            return self.raise_parent(route, network);
        }
        let name = network.bridge.as_str();
        let failed = |error: NetlinkError| host_error(format!("cannot set up bridge {name}"), &error);
        let found = route.link(name).map_err(failed)?;
        if let Some(link) = &found
            && (link.kind != "bridge" || !(link.alias.is_empty() || link.alias == mark(&self.bridge_name)))
        {
            return Err(Error::conflict(format!("interface {name} belongs to somebody else"))
                .with_hint("choose another name for the engine's bridge"));
        }
        if found.is_none() {
            let v4 = network.blocks.iter().find_map(|block| match block.gateway {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            });
            // Not that of an address which a container may get.
            let mac = v4.map_or_else(random_mac, |address| Ok(mac_of(address)))?;
            let mtu = network.options.get(bridge_options::MTU).and_then(|text| text.parse().ok());
            let mut batch = Batch::default();
            route::add_bridge(&mut batch, name, mac, mtu.unwrap_or(1500), &mark(&self.bridge_name));
            route.run(batch).map_err(failed)?;
        }
        let link = route.link(name).map_err(failed)?;
        let index = link.ok_or_else(|| Error::internal(format!("bridge {name} vanished")))?.index;
        // Published loopback ports need it; the firewall closes what it opens (berth_net::firewall).
        write_sysctl(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")?;
        // Containers do not advertise routes to the host. Absent on hosts without IPv6.
        write_sysctl(&format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0").ok();
        // Nor do they send the host's packets elsewhere.
        write_sysctl(&format!("/proc/sys/net/ipv4/conf/{name}/accept_redirects"), "0")?;
        write_sysctl(&format!("/proc/sys/net/ipv6/conf/{name}/accept_redirects"), "0").ok();

        if network.enable_ipv6 {
            forward_ipv6()?;
            write_sysctl(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        } else {
            write_sysctl(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
        }

        let mut batch = Batch::default();
        let wanted = network.host_addresses();
        // A fresh bridge has no addresses; looking at a thousand others' would be all that its making costs.
        let ranges = if found.is_some() { route.ranges().map_err(failed)? } else { Vec::new() };
        for range in ranges.iter().filter(|range| range.index == index) {
            let stale = is_interface_address(range) && !wanted.contains(&(range.address, range.prefix_len));
            if stale {
                route::delete_address(&mut batch, index, range.address, range.prefix_len);
            }
        }
        // Routes of the bridge are in the list too and are no addresses: their refusal means nothing.
        route.run(batch).ok();
        let mut batch = Batch::default();
        for (address, prefix_len) in wanted {
            route::add_address(&mut batch, index, address, prefix_len);
        }
        route::set_up(&mut batch, index);
        route.run(batch).map_err(failed)?;
        if network.enable_ipv6 {
            let mut batch = Batch::default();
            route::accept_ipv6_loopback(&mut batch, index);
            route.run(batch).map_err(failed)?;
        }
        Ok(index)
    }

    fn clear_leftovers(&self, state: &State, route: &mut Route, links: &[Link]) -> Result<(), NetlinkError> {
        let shards = state.networks.values().flat_map(|live| &live.shards);
        let bridges: BTreeSet<u32> = shards.map(|shard| shard.index).filter(|&index| index != 0).collect();
        let held = state.held.values().flat_map(|held| held.attachment.endpoints.values());
        let ours: BTreeSet<String> = held.map(|endpoint| host_name(&endpoint.endpoint_id)).collect();
        for link in links {
            let orphan_port =
                bridges.contains(&link.master) && link.name.starts_with("bv") && !ours.contains(&link.name);
            let mark = mark(&self.bridge_name);
            let ours_by_mark = link.alias == mark || link.alias.starts_with(&format!("{mark} "));
            let orphan_bridge =
                matches!(link.kind.as_str(), "bridge" | "vlan") && ours_by_mark && !bridges.contains(&link.index);
            if orphan_port || orphan_bridge {
                if let Some(trunk) = link.name.strip_prefix("bs").filter(|_| orphan_bridge) {
                    let mut batch = Batch::default();
                    route::delete_link(&mut batch, &format!("bt{trunk}"));
                    // Its bridge may have gone with its network's first one, and its trunk with that.
                    route.run(batch).ok();
                }
                let mut batch = Batch::default();
                route::delete_link(&mut batch, &link.name);
                match route.run(batch) {
                    Ok(()) => tracing::info!(interface = link.name, "removed what an earlier engine left"),
                    // The kernel was taking it apart already.
                    Err(error) if error.errno() == Some(berth_net::Errno::NODEV) => (),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn is_interface_address(range: &Range) -> bool {
    match range.address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_multicast(),
    }
}

fn predefined(name: &str, driver: Driver) -> Result<Network> {
    let mut options = BTreeMap::new();
    if driver == Driver::Bridge {
        for (key, value) in [
            ("com.docker.network.bridge.default_bridge", "true"),
            ("com.docker.network.bridge.enable_icc", "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
            ("com.docker.network.driver.mtu", "1500"),
        ] {
            options.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(Network {
        ipam_options: None,
        settings: None,
        config_from: String::new(),
        id: NetworkId::from_bytes(random_id()?),
        name: name.to_owned(),
        driver,
        created_unix_nanos: now_unix_nanos(),
        blocks: Vec::new(),
        internal: false,
        attachable: false,
        enable_ipv6: false,
        labels: BTreeMap::new(),
        options,
        bridge: String::new(),
    })
}

/// `172.20.0.1/16`: subnet and gateway; `172.20.0.0/16`: the first address is the gateway.
fn configured_block(text: &str) -> Result<AddressBlock> {
    let subnet: Subnet = text.parse().map_err(|error| Error::invalid(format!("bad bridge subnet: {error}")))?;
    let mut block = block_of(subnet)?;
    if let Some(address) = text.split('/').next().and_then(|address| address.parse().ok())
        && address != subnet.address
    {
        block.gateway = Some(address);
    }
    Ok(block)
}

/// The whole of `subnet` with its first address as gateway.
pub(super) fn block_of(subnet: Subnet) -> Result<AddressBlock> {
    let gateway = subnet.nth(1).ok_or_else(|| Error::invalid(format!("subnet {subnet} is too small")))?;
    Ok(AddressBlock { subnet, range: None, gateway: Some(gateway), gateway_chosen: false, auxiliary: BTreeMap::new() })
}

/// What the host uses, apart from the bridge `own`, and the interface behind each; 0: none.
pub(super) fn busy_subnets(route: &mut Route, own: &str) -> Result<Vec<(Subnet, u32)>> {
    let failed = |error: NetlinkError| host_error("cannot list the host's addresses and routes", &error);
    let own = route.link(own).map_err(failed)?.map(|link| link.index);
    let ranges = route.ranges().map_err(failed)?;
    let others = ranges.iter().filter(|range| own.is_none_or(|own| range.index != own));
    Ok(others.filter_map(|range| Some((Subnet::around(range.address, range.prefix_len)?, range.index))).collect())
}

/// Held until dropped. Engines without /run choose unguarded.
pub(super) fn choice_lock() -> Option<std::fs::File> {
    let file = std::fs::File::create(CHOICE_LOCK).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Grows the table of descriptors once. It doubles as needed, and in a process with threads each doubling
/// waits for the whole machine to pass a quiet moment (expand_fdtable in the kernel's fs/file.c),
/// about 8 ms; namespaces and kept ports would make starts meet that again and again.
fn make_room_for_descriptors() {
    /// 32 KB in the kernel.
    const DESCRIPTORS: i32 = 4096;
    if let Ok(file) = std::fs::File::open("/dev/null") {
        // A lower limit of the process refuses it, and then there is nothing to grow to.
        rustix::io::fcntl_dupfd_cloexec(&file, DESCRIPTORS - 1).ok();
    }
}

/// Where bridged packets pass the host's packet filter, answers to ::1 are translated back while they are still on
/// the bridge, and then dropped by the kernel as loopback addresses from a wire (ip6_rcv_core).
fn bridged_ipv6_is_filtered() -> bool {
    std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-ip6tables").is_ok_and(|text| text.trim_end() == "1")
}

fn loopback_ipv6() -> LoopbackIpv6 {
    match berth_cgroup::v2_mount() {
        _ if !bridged_ipv6_is_filtered() => LoopbackIpv6::Translated,
        Some(root) => LoopbackIpv6::Led(root),
        None => LoopbackIpv6::No,
    }
}

/// Says why ports are refused on ::1 that were to be led; clients go on to 127.0.0.1.
pub(super) fn tell_not_led(firewall: &mut Firewall) {
    if let Some(error) = firewall.not_led() {
        tracing::warn!(%error, "published ports do not answer on ::1");
    }
}

/// Whether interfaces of this host may have IPv6 addresses.
pub(super) fn host_has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim_end() == "0")
}

fn forward_packets() -> Result<()> {
    write_sysctl("/proc/sys/net/ipv4/ip_forward", "1")
}

/// Lets IPv6 packets through without costing the host its own routes: an interface that forwards ignores
/// router advertisements unless `accept_ra` is 2 (kernel's ip-sysctl, `accept_ra`), and the default route
/// learnt from them would run out.
fn forward_ipv6() -> Result<()> {
    const ALL: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv6/conf")
        .map_err(|error| host_error("this host has no IPv6", &error).with_hint("make the network without --ipv6"))?;
    if std::fs::read_to_string(ALL).is_ok_and(|text| text.trim_end() == "1") {
        return Ok(());
    }
    for interface in interfaces.flatten() {
        let accept = interface.path().join("accept_ra");
        if interface.file_name() != "all" && std::fs::read_to_string(&accept).is_ok_and(|text| text.trim_end() == "1") {
            write_sysctl(&accept.to_string_lossy(), "2")?;
        }
    }
    write_sysctl(ALL, "1")
}

pub(super) fn write_sysctl(path: &str, value: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old.trim_end() == value) {
        return Ok(());
    }
    std::fs::write(path, value)
        .map_err(|error| host_error(format!("cannot set {path}"), &error).with_hint(format!("echo {value} > {path}")))
}
