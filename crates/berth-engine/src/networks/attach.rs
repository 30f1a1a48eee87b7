//! A container joins and leaves.
//!
//! ```text
//!  plan      under the lock: networks found, addresses taken, a slot if one fits
//!  build     without it: namespace and interfaces, in one batch each
//!  publish   under the lock: ports kept, one firewall transaction
//! ```
//!
//! A step that fails gives back what the steps before it took; nothing half made is left.

use super::options;
use super::publish::{Openness, Place, Published, publish};
use super::state::{Held, Live, Shared, State, host_error, host_name, random_id, random_mac};
use super::types::{AttachRequest, Attachment, Driver, Endpoint};
use berth_net::addresses::{AddressError, mac_of, mac_text, parse_mac};
use berth_net::firewall::PortGuard;
use berth_net::names::NameSockets;
use berth_net::route::Route;
use berth_net::slot::{self, Interface, Namespace, SlotError, Uplink};
use berth_types::spec::{EndpointSpec, HostConfig, PortBinding, PortProto};
use berth_types::{ContainerId, Error, ErrorKind, NetworkId, Result};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An [`AttachRequest`] that owns what it says, the primary network first.
pub(super) struct Wanted {
    pub(super) id: ContainerId,
    pub(super) name: String,
    endpoints: Vec<(String, EndpointSpec)>,
    pub(super) ports: Vec<(PortProto, PortBinding)>,
    /// Name servers of its own.
    servers: Vec<IpAddr>,
    hostname: String,
}

impl From<&AttachRequest<'_>> for Wanted {
    fn from(request: &AttachRequest<'_>) -> Wanted {
        let mut endpoints: Vec<(String, EndpointSpec)> = Vec::new();
        if let Some(primary) = request.primary {
            endpoints.push((primary.to_owned(), request.endpoints.get(primary).cloned().unwrap_or_default()));
        }
        let others = request.endpoints.iter().filter(|(name, _)| Some(name.as_str()) != request.primary);
        endpoints.extend(others.map(|(name, spec)| (name.clone(), spec.clone())));

        Wanted {
            id: request.id.clone(),
            name: request.name.to_owned(),
            endpoints,
            ports: wanted_ports(request.host, request.exposed_ports),
            // What is no address was refused when the container was made, or stands in resolv.conf only.
            servers: request.host.dns.iter().filter_map(|server| server.parse().ok()).collect(),
            hostname: request.hostname.to_owned(),
        }
    }
}

/// Every binding that a specification asks for.
pub(super) fn wanted_ports(host: &HostConfig, exposed: &BTreeSet<PortProto>) -> Vec<(PortProto, PortBinding)> {
    let any = PortBinding { host_ip: None, host_port: (0, 0) };
    let mut ports = Vec::new();
    for (port, bindings) in &host.port_bindings {
        if bindings.is_empty() {
            ports.push((*port, any.clone()));
        }
        ports.extend(bindings.iter().map(|binding| (*port, binding.clone())));
    }
    if host.publish_all_ports {
        let rest = exposed.iter().filter(|port| !host.port_bindings.contains_key(port));
        ports.extend(rest.map(|port| (*port, any.clone())));
    }
    ports
}

/// An endpoint on its way.
pub(super) struct Planned {
    pub(super) network: String,
    network_id: NetworkId,
    pub(super) endpoint: Endpoint,
    pub(super) driver: Driver,
    pub(super) site: Site,
    internal: bool,
    has_names: bool,
    /// Where ports are published that name no address.
    pub(super) host_binding: Option<IpAddr>,
    /// Ports are reached under the container's own address: alone, by IPv4 and by IPv6, and besides.
    pub(super) openness: Openness,
    /// Made ahead of time.
    done: bool,
}

/// Where and how an endpoint's interface is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) uplink: Uplink,
    pub(super) mtu: u32,
    /// Containers there do not talk to each other.
    pub(super) isolated: bool,
}

impl Shared {
    pub(super) fn attach(&self, wanted: Wanted) -> Result<Attachment> {
        // A start that failed half-way in an earlier try may have left something held.
        self.detach(&wanted.id)?;
        let (mut planned, namespace) = self.plan(&wanted)?;
        let result = self.build_and_publish(&wanted, &mut planned, namespace);
        if result.is_err() {
            let mut state = self.lock();
            for plan in &planned {
                state.leave(&plan.endpoint);
            }
        }
        self.work.notify_all();
        let (attachment, sockets) = result?;
        // Last, for by now the kernel is ready almost always.
        let told = self.tell_names(&wanted.id, &[], sockets).and_then(|()| await_links(&planned));
        if let Err(error) = told {
            // The reason worth telling is the first one.
            self.detach(&wanted.id).ok();
            return Err(error.context(format!("failed to set up container networking for {}", wanted.name)));
        }
        Ok(attachment)
    }

    fn plan(&self, wanted: &Wanted) -> Result<(Vec<Planned>, Option<Blank>)> {
        let mut state = match self.ready() {
            Ok(state) => state,
            // What a host cannot have is not needed by everybody.
            Err(error) => {
                let state = self.lock();
                let needs =
                    |reference: &str| state.find(reference).is_ok_and(|live| live.network.driver.has_addresses());
                if wanted.endpoints.is_empty() || wanted.endpoints.iter().any(|(reference, _)| needs(reference)) {
                    return Err(error);
                }
                state
            }
        };
        let (mut planned, mut namespace): (Vec<Planned>, _) = (Vec::new(), None);
        for (reference, spec) in &wanted.endpoints {
            let found = &state.find(reference)?.network;
            super::configuration::check_joinable(found)?;
            let id = found.id.clone();
            if planned.iter().any(|plan: &Planned| plan.network_id == id) {
                continue;
            }
            let plain = spec.ipv4_address.is_none()
                && spec.ipv6_address.is_none()
                && spec.link_local_ips.is_empty()
                && spec.driver_options.is_empty()
                && spec.mac_address.is_empty();
            let slot = match state.networks.get(&id) {
                Some(live) if planned.is_empty() && plain && live.network.name == "bridge" => state.slots.pop(),
                _ => None,
            };
            let plan = match slot {
                Some(slot) => {
                    state.slot_taken.get_or_insert_with(std::time::Instant::now);
                    let mut plan = plan_of(state.find(reference)?, slot.endpoint);
                    plan.endpoint.spec = spec.clone();
                    plan.done = true;
                    namespace = Some(Blank { namespace: slot.namespace, names: None });
                    Ok(plan)
                }
                None => {
                    let used = |name: &str| planned.iter().any(|plan| plan.endpoint.interface == name);
                    let prefix = state.networks.get(&id).map_or(DEFAULT_PREFIX, Live::interface_prefix).to_owned();
                    interface_of(spec, &prefix, used).and_then(|name| self.plan_endpoint(&mut state, &id, spec, &name))
                }
            };
            match plan {
                Ok(mut plan) => {
                    name_endpoint(&mut plan.endpoint, &wanted.id, &wanted.name, &wanted.hostname);
                    planned.push(plan);
                }
                Err(error) => {
                    for plan in &planned {
                        state.leave(&plan.endpoint);
                    }
                    return Err(error);
                }
            }
        }
        choose_gateway(&mut planned);
        if namespace.is_none() && planned.iter().any(|plan| plan.has_names) {
            namespace = state.blanks.pop();
        }
        Ok((planned, namespace))
    }

    fn build_and_publish(
        &self,
        wanted: &Wanted,
        planned: &mut [Planned],
        namespace: Option<Blank>,
    ) -> Result<(Attachment, Option<NameSockets>)> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            host_error(format!("failed to set up container networking for {}", wanted.name), error)
        };
        let Blank { namespace, mut names } = match namespace {
            Some(blank) => blank,
            None => Blank { namespace: Namespace::create().map_err(|error| failed(&error))?, names: None },
        };
        let has_names = self.names.are_there() && planned.iter().any(|plan| plan.has_names);
        if has_names && names.is_none() {
            names = Some(namespace.open_name_sockets().map_err(|error| failed(&error))?);
        }
        if planned.iter().any(|plan| !plan.done) {
            let mut route = Route::open().map_err(|error| failed(&error))?;
            for plan in planned.iter().filter(|plan| !plan.done && !plan.endpoint.interface.is_empty()) {
                build(&namespace, &mut route, plan).map_err(|error| failed(&error))?;
            }
        }

        let mut state = self.lock();
        let guards: Vec<PortGuard> =
            planned.iter().filter(|plan| !plan.done).filter_map(|plan| state.guard_of(&plan.endpoint)).collect();
        if let (false, Some(ready)) = (guards.is_empty(), &mut state.ready) {
            ready.firewall.guard(guards).map_err(|error| failed(&error))?;
        }
        let Published { publications, openings, reservations, ports } =
            publish(&mut state, &wanted.name, &wanted.ports, Place::of(planned))?;
        state.claim(&wanted.id, &publications);
        let attachment = Attachment {
            netns: namespace.path(),
            endpoints: planned.iter().map(|plan| (plan.network.clone(), Box::new(plan.endpoint.clone()))).collect(),
            ports,
            names: has_names,
            dns_servers: wanted.servers.clone(),
            host_gateway: default_gateway(&state),
            link_env: Vec::new(),
            neighbours: if has_names { Vec::new() } else { neighbours(&state, planned) },
        };
        let held = Held {
            name: wanted.name.clone(),
            attachment: attachment.clone(),
            namespace: Some(namespace),
            publications,
            openings,
            reservations,
            names_on_the_way: has_names,
        };
        state.held.insert(wanted.id.clone(), held);
        Ok((attachment, names.filter(|_| has_names)))
    }

    pub(super) fn detach(&self, id: &ContainerId) -> Result<()> {
        let mut state = self.lock();
        let Some(held) = state.held.remove(id) else { return Ok(()) };
        state.unclaim(id, &held.publications);
        for endpoint in held.attachment.endpoints.values() {
            state.leave(endpoint);
        }
        let withdrawn = match &mut state.ready {
            Some(ready) if !held.publications.is_empty() || !held.openings.is_empty() => {
                ready.firewall.withdraw(&held.publications, &held.openings)
            }
            _ => Ok(()),
        };
        drop(state);
        // Their owners are told first: sockets inside keep the namespace alive.
        let gone: Vec<String> =
            held.attachment.endpoints.values().filter_map(|e| Some(e.network_id.as_ref()?.to_string())).collect();
        if held.attachment.names
            && let Err(error) = self.tell_names(id, &gone, None)
        {
            tracing::warn!(container = id.short(), %error, "names not given back");
        }
        // The kernel takes the namespace apart once nobody has it; its addresses come back after that.
        drop(held.namespace);
        self.work.notify_all();
        withdrawn.map_err(|error| host_error(format!("cannot withdraw the ports of container {}", held.name), &error))
    }
}

/// A namespace without a network yet; with the sockets of its name server.
pub(super) struct Blank {
    pub(super) namespace: Namespace,
    pub(super) names: Option<NameSockets>,
}

fn plan_of(live: &Live, endpoint: Endpoint) -> Planned {
    Planned {
        network: live.network.name.clone(),
        network_id: live.network.id.clone(),
        driver: live.network.driver,
        site: live.site(&endpoint),
        internal: live.network.internal,
        has_names: live.has_names(),
        host_binding: live.host_binding(),
        openness: Openness::of(&live.network),
        endpoint,
        done: false,
    }
}

impl Shared {
    /// For a container to come: an endpoint of the default bridge with the way out.
    pub(super) fn plan_slot(&self, state: &mut State, id: &NetworkId) -> Result<(Endpoint, Site)> {
        let mut plan = self.plan_endpoint(state, id, &EndpointSpec::default(), "eth0")?;
        plan.endpoint.default_route = plan.leads_out();
        Ok((plan.endpoint, plan.site))
    }

    /// Takes addresses on network `id`, and a port of one of its bridges.
    pub(super) fn plan_endpoint(
        &self,
        state: &mut State,
        id: &NetworkId,
        spec: &EndpointSpec,
        interface: &str,
    ) -> Result<Planned> {
        let missing = || Error::not_found(format!("network {id} not found"));
        let shard = self.take_port(state, id)?;
        let live = state.networks.get_mut(id).ok_or_else(missing)?;
        match live.take_endpoint(spec, interface) {
            Ok(mut endpoint) => {
                endpoint.shard = shard;
                Ok(plan_of(live, endpoint))
            }
            Err(error) => {
                live.give_back_port(shard);
                Err(error)
            }
        }
    }
}

/// What can be told about an endpoint before it is made.
pub(super) fn check_endpoint(network: &super::types::Network, spec: &EndpointSpec) -> Result<()> {
    let fixed = spec.ipv4_address.map(IpAddr::from).into_iter().chain(spec.ipv6_address.map(IpAddr::from));
    let fixed: Vec<IpAddr> = fixed.collect();
    let invalid = |words: &str| Error::invalid(format!("invalid endpoint settings:\n{words}"));
    if network.is_predefined() && !fixed.is_empty() {
        // dockerd's two reasons in its form.
        return Err(invalid(
            "* user specified IP address is supported on user defined networks only\n* user specified IP address is \
             supported only when connecting to networks with user configured subnets",
        ));
    }
    if network.is_predefined() && !spec.aliases.is_empty() {
        return Err(invalid("network-scoped aliases are only supported for user-defined networks"));
    }
    for address in fixed {
        if !network.blocks.iter().any(|block| block.subnet.contains(address)) {
            return Err(invalid(&format!("no configured subnet or ip-range contain the IP address {address}")));
        }
    }
    if let Some(bad) = spec.link_local_ips.iter().find(|text| text.parse::<IpAddr>().is_err()) {
        return Err(invalid(&format!("invalid link-local IP address: {bad}")));
    }
    options::read(&spec.driver_options)?;
    if !spec.mac_address.is_empty() && parse_mac(&spec.mac_address).is_none() {
        return Err(Error::invalid(format!("invalid MAC address: {}", spec.mac_address)));
    }
    Ok(())
}

impl Live {
    /// An endpoint with addresses of this network, fixed ones where `spec` has them.
    pub(super) fn take_endpoint(&mut self, spec: &EndpointSpec, interface: &str) -> Result<Endpoint> {
        let mut endpoint = Endpoint {
            network_id: Some(self.network.id.clone()),
            endpoint_id: berth_types::digest::hex(&random_id()?),
            spec: spec.clone(),
            mtu: self.mtu(),
            ..Endpoint::default()
        };
        if !self.network.driver.has_addresses() {
            return Ok(endpoint);
        }
        check_endpoint(&self.network, spec)
            .map_err(|error| error.context(format!("invalid config for network {}", self.network.name)))?;
        endpoint.interface = interface.to_owned();
        let mut wanted_v4 = spec.ipv4_address.map(IpAddr::from);
        let mut wanted_v6 = spec.ipv6_address.map(IpAddr::from);
        let mut taken = Vec::new();
        // Nothing leads out of an internal network, though its bridge has an address.
        let leads_out = !self.network.internal;
        let mut take = || -> Result<(), AddressError> {
            // The block that a fixed address is in goes first; then each family's first block.
            for (pool, block) in self.pools.iter_mut().zip(&self.network.blocks) {
                let wanted = if block.subnet.address.is_ipv4() { &mut wanted_v4 } else { &mut wanted_v6 };
                let have =
                    if block.subnet.address.is_ipv4() { endpoint.ipv4.is_some() } else { endpoint.ipv6.is_some() };
                let address = match *wanted {
                    Some(address) if block.subnet.contains(address) => {
                        *wanted = None;
                        pool.take(address).map(|()| address)?
                    }
                    Some(_) => continue,
                    None if have => continue,
                    None => pool.take_any()?,
                };
                taken.push(address);
                match (address, block.gateway.filter(|_| leads_out)) {
                    (IpAddr::V4(address), gateway) => {
                        endpoint.ipv4 = Some((address, block.subnet.prefix_len));
                        endpoint.gateway = gateway.and_then(v4_of);
                    }
                    (IpAddr::V6(address), gateway) => {
                        endpoint.ipv6 = Some((address, block.subnet.prefix_len));
                        endpoint.ipv6_gateway = gateway.and_then(v6_of);
                    }
                }
            }
            match wanted_v4.or(wanted_v6) {
                Some(address) => Err(AddressError::Outside(address)),
                None => Ok(()),
            }
        };
        let mut result = take().map_err(|error| {
            let kind = match error {
                AddressError::Taken(_) | AddressError::Exhausted(_) => ErrorKind::Forbidden,
                AddressError::Outside(_) => ErrorKind::InvalidArgument,
            };
            Error::new(kind, error.to_string())
        });
        if !spec.mac_address.is_empty() {
            match parse_mac(&spec.mac_address) {
                Some(mac) => endpoint.mac_address = mac_text(mac),
                None => result = Err(Error::invalid(format!("invalid MAC address: {}", spec.mac_address))),
            }
        } else {
            let mac = match endpoint.ipv4 {
                Some((address, _)) => mac_of(address),
                None => random_mac()?,
            };
            endpoint.mac_address = mac_text(mac);
        }
        match result {
            Ok(()) => Ok(endpoint),
            Err(error) => {
                for address in taken {
                    self.give_back(address);
                }
                Err(error)
            }
        }
    }
}

/// The names that are answered for it, in the order in which `inspect` shows them.
pub(crate) fn name_endpoint(endpoint: &mut Endpoint, id: &ContainerId, name: &str, hostname: &str) {
    endpoint.aliases = endpoint.spec.aliases.clone();
    let mut names: Vec<String> = Vec::new();
    let all = [name].into_iter().chain(endpoint.spec.aliases.iter().map(String::as_str)).chain([id.short(), hostname]);
    for name in all.filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    endpoint.dns_names = names;
}

/// One endpoint has the default route: the highest priority, else the first that leads out.
fn choose_gateway(planned: &mut [Planned]) {
    let candidates = planned.iter().enumerate().filter(|(_, plan)| plan.leads_out());
    let best = candidates.max_by_key(|(index, plan)| (plan.endpoint.spec.gateway_priority, -(*index as i64)));
    let best = best.map(|(index, _)| index);
    for (index, plan) in planned.iter_mut().enumerate() {
        plan.endpoint.default_route = Some(index) == best;
    }
}

impl Planned {
    pub(super) fn leads_out(&self) -> bool {
        !self.internal && (self.endpoint.gateway.is_some() || self.endpoint.ipv6_gateway.is_some())
    }
}

/// What the container sends first is not to be lost.
fn await_links(planned: &[Planned]) -> Result<()> {
    let mut route: Option<Route> = None;
    for plan in planned.iter().filter(|plan| !plan.done && !plan.endpoint.interface.is_empty()) {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            host_error(format!("cannot wait for the interface on network {}", plan.network), error)
        };
        let route = match &mut route {
            Some(route) => route,
            none => none.insert(Route::open().map_err(|error| failed(&error))?),
        };
        let waited = slot::wait_operational(route, &host_name(&plan.endpoint.endpoint_id), plan.site.uplink);
        waited.map_err(|error| failed(&error))?;
    }
    Ok(())
}

pub(super) fn build(namespace: &Namespace, route: &mut Route, plan: &Planned) -> Result<(), SlotError> {
    build_endpoint(namespace, route, &plan.endpoint, plan.site)
}

pub(super) fn build_endpoint(
    namespace: &Namespace,
    route: &mut Route,
    endpoint: &Endpoint,
    site: Site,
) -> Result<(), SlotError> {
    let v4 = endpoint.ipv4.map(|(address, prefix_len)| (IpAddr::V4(address), prefix_len));
    let v6 = endpoint.ipv6.map(|(address, prefix_len)| (IpAddr::V6(address), prefix_len));
    let addresses: Vec<_> = v4.into_iter().chain(v6).collect();
    let local_addresses = link_local(&endpoint.spec);
    // What is wrong with them was said when the endpoint was planned.
    let options = options::read(&endpoint.spec.driver_options).unwrap_or_default();
    let gateways = if endpoint.default_route { endpoint.gateways() } else { Vec::new() };
    namespace.add_interface(
        route,
        &Interface {
            host_name: &host_name(&endpoint.endpoint_id),
            uplink: site.uplink,
            mtu: site.mtu,
            isolated: site.isolated,
            name: &endpoint.interface,
            mac: parse_mac(&endpoint.mac_address).unwrap_or_default(),
            addresses: &addresses,
            local_addresses: &local_addresses,
            sysctls: &options.sysctls,
            gateways: &gateways,
        },
    )
}

/// What interfaces are called, with a number behind, where the network says nothing else.
pub(super) const DEFAULT_PREFIX: &str = "eth";

/// The interface's name: the one asked for, or the first of the network's that is free.
pub(super) fn interface_of(spec: &EndpointSpec, prefix: &str, used: impl Fn(&str) -> bool) -> Result<String> {
    match options::read(&spec.driver_options)?.interface {
        Some(name) if used(&name) => Err(Error::conflict(format!("the container has an interface {name} already"))),
        Some(name) => Ok(name),
        None => Ok((0..).map(|n| format!("{prefix}{n}")).find(|name| !used(name)).unwrap_or_default()),
    }
}

fn v4_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6_of(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

/// Link-local addresses with the length of their networks (RFC 3927, RFC 4291).
pub(crate) fn link_local(spec: &EndpointSpec) -> Vec<(IpAddr, u8)> {
    let addresses = spec.link_local_ips.iter().filter_map(|text| text.parse().ok());
    addresses.map(|address: IpAddr| (address, if address.is_ipv4() { 16 } else { 64 })).collect()
}

pub(super) fn default_gateway(state: &State) -> Option<IpAddr> {
    let bridge = state.networks.values().find(|live| live.network.name == "bridge")?;
    bridge.network.blocks.first()?.gateway
}

/// Names on the user networks that this container joins; the default bridge has none, as in Docker.
fn neighbours(state: &State, planned: &[Planned]) -> Vec<(IpAddr, String)> {
    let joined = |id: &NetworkId| planned.iter().any(|plan| plan.network_id == *id && plan.network != "bridge");
    let mut all = Vec::new();
    for held in state.held.values() {
        for endpoint in held.attachment.endpoints.values() {
            if endpoint.network_id.as_ref().is_some_and(joined) {
                all.extend(endpoint.addresses().into_iter().map(|address| (address, endpoint.dns_names.join(" "))));
            }
        }
    }
    all.sort();
    all
}
