//! A network comes and goes.

use super::bridge_options;
use super::configuration;
use super::macvlan::{self, OPTION_PARENT};
use super::setup::{block_of, busy_subnets, choice_lock, host_has_ipv6};
use super::state::{Live, Shared, State, host_error, random_id};
use super::types::{AddressBlock, BlockSpec, Driver, Network, NetworkSpec, is_predefined};
use crate::events::now_unix_nanos;
use berth_net::addresses::{Subnet, free_subnet};
use berth_net::netlink::Batch;
use berth_net::route::{self, Route};
use berth_types::{Error, ErrorKind, NetworkId, Result};
use std::collections::{HashMap, HashSet};

/// Where user networks get their blocks: one pool, /26 each, a thousand and more of them.
const POOLS: [&str; 3] = ["172.31.0.0/16", "172.30.0.0/16", "192.168.0.0/16"];
const BLOCK_PREFIX: u8 = 26;
/// Docker's own limit for names of objects does not exist; ours keeps records and messages sane.
const NAME_BYTES_MAX: usize = 255;
/// As dockerd shortens ids.
const SHORT_ID_DIGITS: usize = 12;

impl Shared {
    pub(super) fn create(&self, mut spec: NetworkSpec) -> Result<Network> {
        check_name(&spec.name)?;
        if spec.config_only {
            let mut state = self.ready()?;
            check_free(&state, &spec.name)?;
            return self.create_configuration(&mut state, spec);
        }
        if !spec.config_from.is_empty() {
            configuration::apply(&*self.ready()?, &mut spec)?;
        }
        let driver = match spec.driver.as_str() {
            "" | "default" | "bridge" => Driver::Bridge,
            "macvlan" => Driver::Macvlan,
            "host" | "null" | "none" => {
                let driver = if spec.driver == "none" { "null" } else { &spec.driver };
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!("only one instance of \"{driver}\" network is allowed"),
                ));
            }
            other => return Err(Error::not_found(format!("plugin \"{other}\" not found"))),
        };
        match driver {
            Driver::Macvlan => macvlan::check_options(&spec.options)?,
            _ => bridge_options::check(&spec.options, spec.internal)?,
        }
        let mut state = self.ready()?;
        check_free(&state, &spec.name)?;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            host_error(format!("cannot create network {}", spec.name), error)
        };
        let mut route = Route::open().map_err(|error| failed(&error))?;
        let _choosing = choice_lock();
        let taken = taken(&state, &mut route, driver)?;
        let blocks = choose_blocks(&spec, &taken)?;

        let id = NetworkId::from_bytes(random_id()?);
        let option = if driver == Driver::Macvlan { OPTION_PARENT } else { bridge_options::BRIDGE_NAME };
        let named = spec.options.get(option).filter(|name| !name.is_empty());
        let bridge = named.cloned().unwrap_or_else(|| format!("br-{}", id.short()));
        if bridge.len() > 15 || bridge.contains(['/', ' ']) {
            return Err(Error::invalid(format!("invalid bridge name: {bridge}")));
        }
        let network = Network {
            id: id.clone(),
            name: spec.name.clone(),
            driver,
            created_unix_nanos: now_unix_nanos(),
            enable_ipv6: blocks_have_ipv6(&blocks),
            blocks,
            internal: spec.internal || driver == Driver::Macvlan && named.is_none(),
            attachable: spec.attachable,
            labels: spec.labels.clone(),
            options: spec.options.clone(),
            ipam_options: spec.ipam_options.clone(),
            settings: None,
            config_from: spec.config_from.clone(),
            bridge,
        };
        // The record first: a crash from here on leaves a network that the next start completes.
        state.networks.insert(id.clone(), Live::new(network.clone(), 0));
        let result = self.save(&state).and_then(|()| {
            if driver == Driver::Bridge && route.link(&network.bridge).map_err(|error| failed(&error))?.is_some() {
                return Err(Error::conflict(format!("interface {} already exists", network.bridge)));
            }
            let index = self.raise(&mut route, &network)?;
            let live = state.networks.get_mut(&id).expect("inserted above under the same lock");
            live.set_bridge_index(index);
            if driver != Driver::Bridge {
                return Ok(());
            }
            let zone = live.zone();
            let ready = state.ready.as_mut().expect("`ready` returned a state that is");
            ready.firewall.add_network(zone).map_err(|error| {
                let mut batch = Batch::default();
                route::delete_link(&mut batch, &network.bridge);
                // The reason worth telling is the first one.
                route.run(batch).ok();
                failed(&error)
            })
        });
        if let Err(error) = result {
            state.networks.remove(&id);
            self.save(&state)?;
            return Err(error);
        }
        drop(state);
        self.work.notify_all();
        Ok(network)
    }

    pub(super) fn remove(&self, reference: &str) -> Result<Network> {
        let mut state = self.ready()?;
        let network = state.find(reference)?.network.clone();
        if network.is_predefined() {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!("{} is a pre-defined network and cannot be removed", network.name),
            ));
        }
        configuration::check_unused(&state, &network)?;
        let on = |held: &super::state::Held| {
            let mut all = held.attachment.endpoints.values();
            let endpoint = all.find(|endpoint| endpoint.network_id.as_ref() == Some(&network.id))?;
            let id = endpoint.endpoint_id.get(..SHORT_ID_DIGITS).unwrap_or(&endpoint.endpoint_id);
            Some(format!("name:\"{}\" id:\"{id}\"", held.name))
        };
        if let Some(held) = state.held.values().find_map(on) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!("error while removing network: network {} has active endpoints ({held})", network.name),
            ));
        }
        let shards = state.networks.remove(&network.id).map_or(0, |live| live.shards.len());
        self.save(&state)?;
        if network.settings.is_some() {
            return Ok(network);
        }
        let ready = state.ready.as_mut().expect("`ready` returned a state that is");
        let (closed, deleted) = if network.driver == Driver::Macvlan {
            (Ok(()), self.remove_parent(&mut ready.route, &network))
        } else {
            let closed = ready.firewall.remove_network(&network.bridge);
            let deleted = self.remove_shards(&mut ready.route, &network, shards).and_then(|()| {
                let mut batch = Batch::default();
                route::delete_link(&mut batch, &network.bridge);
                match ready.route.run(batch) {
                    Err(error) if error.errno() != Some(berth_net::Errno::NODEV) => Err(error),
                    _ => Ok(()),
                }
            });
            (closed, deleted)
        };
        closed
            .and(deleted)
            .map(|()| network.clone())
            .map_err(|error| host_error(format!("network {} is removed but left something", network.name), &error))
    }
}

/// What a new network may not overlap: our own, and what the host uses. A macvlan is part of the host's.
fn taken(state: &State, route: &mut Route, driver: Driver) -> Result<Vec<(Subnet, String)>> {
    let mut taken = Vec::new();
    for live in state.networks.values().filter(|live| live.network.driver.has_addresses()) {
        let whose = format!("network {}", live.network.name);
        taken.extend(live.network.blocks.iter().map(|block| (block.subnet, whose.clone())));
    }
    if driver == Driver::Bridge {
        let own: HashSet<Subnet> = taken.iter().map(|(subnet, _)| *subnet).collect();
        // Asked one by one: a list of all interfaces is long where there are a thousand networks of ours.
        let mut names = HashMap::new();
        for (subnet, index) in busy_subnets(route, "")?.into_iter().filter(|(subnet, _)| !own.contains(subnet)) {
            let whose = names.entry(index).or_insert_with(|| match route.link_at(index) {
                Ok(Some(link)) => format!("the host's interface {}", link.name),
                // It serves the hint of an error alone.
                _ => "the host".to_owned(),
            });
            taken.push((subnet, format!("{whose} (see `ip route`)")));
        }
    }
    Ok(taken)
}

fn check_free(state: &State, name: &str) -> Result<()> {
    if is_predefined(name) {
        let words = format!("operation is not permitted on predefined {name} network");
        return Err(Error::new(ErrorKind::Forbidden, words));
    }
    match state.networks.values().any(|live| live.network.name == name) {
        true => Err(Error::conflict(format!("network with name {name} already exists"))),
        false => Ok(()),
    }
}

/// As dockerd: whatever is not blank. Nothing of the host carries this name.
fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid name: name is empty"));
    }
    if name.chars().any(char::is_control) || name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "invalid network name: {name:?}: at most {NAME_BYTES_MAX} bytes, and no control characters"
        )));
    }
    Ok(())
}

/// The blocks asked for, checked against each other and what is `taken`; one of our choice where none is.
fn choose_blocks(spec: &NetworkSpec, taken: &[(Subnet, String)]) -> Result<Vec<AddressBlock>> {
    let mut blocks: Vec<AddressBlock> = Vec::new();
    // Who writes the blocks gets these and no others.
    let written = |block: &BlockSpec| block.subnet.is_some_and(|subnet| subnet.address.is_ipv6());
    let option = |family: usize| {
        let text = spec.options.get(bridge_options::FAMILIES[family]);
        text.and_then(|text| bridge_options::boolean(text))
    };
    let enable_ipv4 = spec.enable_ipv4.or(option(0)).unwrap_or(true);
    let enable_ipv6 = spec.enable_ipv6.or(option(1)).unwrap_or_else(|| {
        match spec.blocks.iter().any(|block| block.subnet.is_some()) {
            true => spec.blocks.iter().any(written),
            false => host_has_ipv6() || !enable_ipv4,
        }
    });
    if !enable_ipv4 && !enable_ipv6 {
        return Err(Error::invalid("invalid network config:\nIPv4 or IPv6 must be enabled"));
    }
    let has_gateway =
        |subnet: Subnet| bridge_options::has_gateway(&spec.options, spec.internal, subnet.address.is_ipv6());
    let chosen = |subnet: Subnet| {
        let block = block_of(subnet)?;
        Ok::<_, Error>(AddressBlock { gateway: block.gateway.filter(|_| has_gateway(subnet)), ..block })
    };
    for wanted in &spec.blocks {
        let Some(subnet) = wanted.subnet else {
            if wanted.range.is_some() || wanted.gateway.is_some() || !wanted.auxiliary.is_empty() {
                return Err(Error::invalid(
                    "invalid network config:\ninvalid subnet : a gateway, range or auxiliary address needs a subnet",
                ));
            }
            continue;
        };
        if subnet.address.is_ipv6() && !enable_ipv6 {
            return Err(Error::invalid(format!(
                "invalid network config:\nsubnet {subnet} needs IPv6 enabled (--ipv6)"
            )));
        }
        if subnet.address.is_ipv4() && !enable_ipv4 {
            return Err(Error::invalid(format!(
                "invalid network config:\nsubnet {subnet} needs IPv4 enabled (--ipv4)"
            )));
        }
        if subnet.prefix_len > if subnet.address.is_ipv4() { 30 } else { 126 } {
            return Err(Error::invalid(format!("invalid subnet {subnet}: it has no room for containers")));
        }
        let own = blocks.iter().map(|block| (block.subnet, "this network itself".to_owned()));
        if let Some((other, whose)) = taken.iter().cloned().chain(own).find(|(other, _)| other.overlaps(subnet)) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                "invalid pool request: Pool overlaps with other one on this address space",
            )
            .with_hint(format!("{subnet} overlaps {other} of {whose}; choose another with --subnet")));
        }
        let mut block = block_of(subnet)?;
        block.gateway = wanted.gateway.or(block.gateway.filter(|_| has_gateway(subnet)));
        block.gateway_chosen = wanted.gateway.is_none();
        for (what, address) in [("gateway", block.gateway), ("ip-range", wanted.range.map(|range| range.address))]
            .into_iter()
            .chain(wanted.auxiliary.values().map(|address| ("auxiliary address", Some(*address))))
        {
            if let Some(address) = address.filter(|address| !subnet.contains(*address)) {
                return Err(Error::invalid(format!(
                    "invalid network config:\ninvalid {what} {address}: parent subnet {subnet} doesn't contain this address"
                )));
            }
        }
        if wanted.range.is_some_and(|range| range.prefix_len < subnet.prefix_len) {
            return Err(Error::invalid(format!("invalid network config:\nrange is larger than subnet {subnet}")));
        }
        block.range = wanted.range;
        block.auxiliary = wanted.auxiliary.clone();
        blocks.push(block);
    }
    if enable_ipv4 && !blocks.iter().any(|block| block.subnet.address.is_ipv4()) {
        let pools: Vec<Subnet> = POOLS.iter().filter_map(|pool| pool.parse().ok()).collect();
        let busy: Vec<Subnet> = taken.iter().map(|(subnet, _)| *subnet).collect();
        let subnet = free_subnet(&pools, BLOCK_PREFIX, &busy).ok_or_else(|| {
            Error::internal("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network")
                .with_hint("give one with --subnet, or remove networks that nobody uses")
        })?;
        blocks.push(chosen(subnet)?);
    }
    if enable_ipv6 && !blocks_have_ipv6(&blocks) {
        blocks.push(chosen(unique_local_subnet()?)?);
    }
    Ok(blocks)
}

fn blocks_have_ipv6(blocks: &[AddressBlock]) -> bool {
    blocks.iter().any(|block| block.subnet.address.is_ipv6())
}

/// A /64 of addresses that nobody else has: fd, then random digits (RFC 4193, 3.2.2).
pub(super) fn unique_local_subnet() -> Result<Subnet> {
    let random = random_id()?;
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random[..7]);
    Subnet::around(std::net::Ipv6Addr::from(octets).into(), 64).ok_or_else(|| Error::internal("no subnet of 64 bits"))
}
