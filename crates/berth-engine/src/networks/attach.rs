//! A container joins and leaves.
//!
//! ```text
//!  plan      under the lock: networks found, addresses taken, a slot if one fits
//!  build     without it: namespace and interfaces, in one batch each
//!  publish   under the lock: ports kept, one firewall transaction
//! ```
//!
//! A step that fails gives back what the steps before it took; nothing half made is left.

use super::state::{Held, Live, Shared, State, host_error, host_name, random_id};
use super::types::{AttachRequest, Attachment, Driver, Endpoint};
use berth_net::addresses::{AddressError, mac_of, mac_text, parse_mac};
use berth_net::firewall::Publication;
use berth_net::ports::{self, PortError, Reservation};
use berth_net::route::Route;
use berth_net::slot::{Interface, Namespace};
use berth_types::spec::{EndpointSpec, PortBinding, PortProto, Protocol};
use berth_types::{ContainerId, Error, ErrorKind, NetworkId, Result};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// An [`AttachRequest`] that owns what it says, the primary network first.
pub(super) struct Wanted {
    id: ContainerId,
    name: String,
    endpoints: Vec<(String, EndpointSpec)>,
    ports: Vec<(PortProto, PortBinding)>,
}

impl From<&AttachRequest<'_>> for Wanted {
    fn from(request: &AttachRequest<'_>) -> Wanted {
        let mut endpoints: Vec<(String, EndpointSpec)> = Vec::new();
        if let Some(primary) = request.primary {
            endpoints.push((primary.to_owned(), request.endpoints.get(primary).cloned().unwrap_or_default()));
        }
        let others = request.endpoints.iter().filter(|(name, _)| Some(name.as_str()) != request.primary);
        endpoints.extend(others.map(|(name, spec)| (name.clone(), spec.clone())));

        let any = PortBinding { host_ip: None, host_port: (0, 0) };
        let mut ports = Vec::new();
        for (port, bindings) in &request.host.port_bindings {
            if bindings.is_empty() {
                ports.push((*port, any.clone()));
            }
            ports.extend(bindings.iter().map(|binding| (*port, binding.clone())));
        }
        if request.host.publish_all_ports {
            let rest = request.exposed_ports.iter().filter(|port| !request.host.port_bindings.contains_key(port));
            ports.extend(rest.map(|port| (*port, any.clone())));
        }
        Wanted { id: request.id.clone(), name: request.name.to_owned(), endpoints, ports }
    }
}

/// An endpoint on its way.
struct Planned {
    network: String,
    network_id: NetworkId,
    endpoint: Endpoint,
    bridge: u32,
    mtu: u32,
    mac: [u8; 6],
    internal: bool,
    /// Where ports are published that name no address.
    host_binding: Option<IpAddr>,
    /// Made ahead of time.
    done: bool,
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
        result
    }

    fn plan(&self, wanted: &Wanted) -> Result<(Vec<Planned>, Option<Namespace>)> {
        let mut state = self.ready()?;
        let (mut planned, mut namespace): (Vec<Planned>, _) = (Vec::new(), None);
        for (reference, spec) in &wanted.endpoints {
            let id = state.find(reference)?.network.id.clone();
            if planned.iter().any(|plan: &Planned| plan.network_id == id) {
                continue;
            }
            let plain = spec.ipv4_address.is_none() && spec.ipv6_address.is_none() && spec.mac_address.is_empty();
            let slot = match state.networks.get(&id) {
                Some(live) if planned.is_empty() && plain && live.network.name == "bridge" => state.slots.pop(),
                _ => None,
            };
            let plan = match slot {
                Some(slot) => {
                    let mut plan = plan_of(state.find(reference)?, slot.endpoint);
                    plan.endpoint.spec = spec.clone();
                    plan.done = true;
                    namespace = Some(slot.namespace);
                    Ok(plan)
                }
                None => plan_endpoint(&mut state, &id, spec, &format!("eth{}", planned.len())),
            };
            match plan {
                Ok(mut plan) => {
                    name_endpoint(&mut plan.endpoint, &wanted.id, &wanted.name);
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
        Ok((planned, namespace))
    }

    fn build_and_publish(
        &self,
        wanted: &Wanted,
        planned: &mut [Planned],
        namespace: Option<Namespace>,
    ) -> Result<Attachment> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            host_error(format!("failed to set up container networking for {}", wanted.name), error)
        };
        let namespace = match namespace {
            Some(namespace) => namespace,
            None => Namespace::create().map_err(|error| failed(&error))?,
        };
        if planned.iter().any(|plan| !plan.done) {
            let mut route = Route::open().map_err(|error| failed(&error))?;
            for plan in planned.iter().filter(|plan| !plan.done && !plan.endpoint.interface.is_empty()) {
                build(&namespace, &mut route, plan).map_err(|error| failed(&error))?;
            }
        }

        let mut state = self.lock();
        let (publications, reservations, ports) = publish(&mut state, wanted, planned)?;
        state.claim(&wanted.id, &publications);
        let attachment = Attachment {
            netns: namespace.path(),
            endpoints: planned.iter().map(|plan| (plan.network.clone(), plan.endpoint.clone())).collect(),
            ports,
            dns_servers: Vec::new(),
            host_gateway: default_gateway(&state),
            neighbours: neighbours(&state, planned),
        };
        let held = Held {
            name: wanted.name.clone(),
            attachment: attachment.clone(),
            namespace: Some(namespace),
            publications,
            reservations,
        };
        state.held.insert(wanted.id.clone(), held);
        Ok(attachment)
    }

    pub(super) fn detach(&self, id: &ContainerId) -> Result<()> {
        let mut state = self.lock();
        let Some(held) = state.held.remove(id) else { return Ok(()) };
        state.unclaim(id, &held.publications);
        for endpoint in held.attachment.endpoints.values() {
            state.leave(endpoint);
        }
        let withdrawn = match &mut state.ready {
            Some(ready) if !held.publications.is_empty() => ready.firewall.withdraw(&held.publications),
            _ => Ok(()),
        };
        drop(state);
        // The kernel takes the namespace apart once nobody has it; its addresses come back after that.
        drop(held.namespace);
        self.work.notify_all();
        withdrawn.map_err(|error| host_error(format!("cannot withdraw the ports of container {}", held.name), &error))
    }

    pub(super) fn connect(
        &self,
        id: &ContainerId,
        reference: &str,
        spec: EndpointSpec,
        netns: &Path,
    ) -> Result<Attachment> {
        let mut state = self.ready()?;
        let network = state.find(reference)?.network.clone();
        let Some(held) = state.held.get(id) else {
            return Err(Error::conflict(format!("container {} is not on any network that can be joined", id.short())));
        };
        if held.attachment.endpoints.contains_key(&network.name) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!("endpoint with name {} already exists in network {}", held.name, network.name),
            ));
        }
        let name = held.name.clone();
        let used = |interface: &str| held.attachment.endpoints.values().any(|e| e.interface == interface);
        let interface = (0..).map(|n| format!("eth{n}")).find(|name| !used(name)).unwrap_or_default();
        let has_gateway = held.attachment.endpoints.values().any(|e| e.gateway.is_some());
        let own = match &held.namespace {
            Some(namespace) => namespace.path(),
            None => netns.to_owned(),
        };
        let mut plan = plan_endpoint(&mut state, &network.id, &spec, &interface)?;
        name_endpoint(&mut plan.endpoint, id, &name);
        if has_gateway || plan.internal {
            (plan.endpoint.gateway, plan.endpoint.ipv6_gateway) = (None, None);
        }
        drop(state);
        let built = Namespace::open(&own).and_then(|namespace| {
            let mut route = Route::open()
                .map_err(|source| berth_net::slot::SlotError::Interface { name: interface.clone(), source })?;
            build(&namespace, &mut route, &plan)
        });
        let mut state = self.lock();
        let result = match (built, state.held.get_mut(id)) {
            (Ok(()), Some(held)) => {
                held.attachment.endpoints.insert(plan.network.clone(), plan.endpoint.clone());
                Ok(held.attachment.clone())
            }
            (Ok(()), None) => Err(Error::conflict(format!("container {name} is not running"))),
            (Err(error), _) => {
                Err(host_error(format!("cannot connect container {name} to network {}", network.name), &error))
            }
        };
        if result.is_err() {
            state.leave(&plan.endpoint);
        }
        drop(state);
        self.work.notify_all();
        result
    }

    pub(super) fn disconnect(&self, id: &ContainerId, reference: &str) -> Result<Attachment> {
        let mut state = self.ready()?;
        let name = state.find(reference)?.network.name.clone();
        let missing =
            || Error::new(ErrorKind::Forbidden, format!("container {} is not connected to network {name}", id.short()));
        let held = state.held.get_mut(id).ok_or_else(missing)?;
        let endpoint = held.attachment.endpoints.remove(&name).ok_or_else(missing)?;
        let addresses = endpoint.addresses();
        let (gone, kept) = held.publications.iter().partition(|p| addresses.contains(&p.container));
        let gone: Vec<Publication> = gone;
        held.publications = kept;
        if !gone.is_empty() {
            held.attachment.ports.clear();
            held.reservations.clear();
        }
        let attachment = held.attachment.clone();
        state.unclaim(id, &gone);
        state.leave(&endpoint);
        let withdrawn = match &mut state.ready {
            Some(ready) => {
                let mut batch = berth_net::netlink::Batch::default();
                berth_net::route::delete_link(&mut batch, &host_name(&endpoint.endpoint_id));
                // Gone already means done; anything else is seen to behind.
                ready.route.run(batch).ok();
                ready.firewall.withdraw(&gone)
            }
            None => Ok(()),
        };
        drop(state);
        self.work.notify_all();
        withdrawn
            .map(|()| attachment)
            .map_err(|error| host_error(format!("cannot disconnect a container from network {name}"), &error))
    }
}

fn plan_of(live: &Live, endpoint: Endpoint) -> Planned {
    Planned {
        network: live.network.name.clone(),
        network_id: live.network.id.clone(),
        bridge: live.bridge_index,
        mtu: live.mtu(),
        mac: parse_mac(&endpoint.mac_address).unwrap_or_default(),
        internal: live.network.internal,
        host_binding: live.host_binding(),
        endpoint,
        done: false,
    }
}

/// Takes addresses on network `id`.
fn plan_endpoint(state: &mut State, id: &NetworkId, spec: &EndpointSpec, interface: &str) -> Result<Planned> {
    let live = state.networks.get_mut(id).ok_or_else(|| Error::not_found(format!("network {id} not found")))?;
    let endpoint = live.take_endpoint(spec, interface)?;
    Ok(plan_of(live, endpoint))
}

impl Live {
    /// An endpoint with addresses of this network, fixed ones where `spec` has them.
    pub(super) fn take_endpoint(&mut self, spec: &EndpointSpec, interface: &str) -> Result<Endpoint> {
        let mut endpoint = Endpoint {
            network_id: Some(self.network.id.clone()),
            endpoint_id: berth_types::digest::hex(&random_id()?),
            spec: spec.clone(),
            ..Endpoint::default()
        };
        if self.network.driver != Driver::Bridge {
            return Ok(endpoint);
        }
        if self.network.is_predefined() && (spec.ipv4_address.is_some() || spec.ipv6_address.is_some()) {
            return Err(Error::invalid(
                "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported \
                 on user defined networks only",
            ));
        }
        endpoint.interface = interface.to_owned();
        let mut wanted_v4 = spec.ipv4_address.map(IpAddr::from);
        let mut wanted_v6 = spec.ipv6_address.map(IpAddr::from);
        let mut taken = Vec::new();
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
                match (address, block.gateway) {
                    (IpAddr::V4(address), IpAddr::V4(gateway)) => {
                        endpoint.ipv4 = Some((address, block.subnet.prefix_len));
                        endpoint.gateway = Some(gateway);
                    }
                    (IpAddr::V6(address), IpAddr::V6(gateway)) => {
                        endpoint.ipv6 = Some((address, block.subnet.prefix_len));
                        endpoint.ipv6_gateway = Some(gateway);
                    }
                    _ => (),
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
            let v4 = endpoint.ipv4.map_or(Ipv4Addr::UNSPECIFIED, |(address, _)| address);
            endpoint.mac_address = mac_text(mac_of(v4));
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

fn name_endpoint(endpoint: &mut Endpoint, id: &ContainerId, name: &str) {
    endpoint.aliases = endpoint.spec.aliases.clone();
    let mut names = vec![name.to_owned(), id.short().to_owned()];
    for alias in &endpoint.spec.aliases {
        if !names.contains(alias) {
            names.push(alias.clone());
        }
    }
    endpoint.dns_names = names;
}

/// One endpoint has the default route: the highest priority, else the first that leads out.
fn choose_gateway(planned: &mut [Planned]) {
    let candidates = planned.iter().enumerate().filter(|(_, plan)| !plan.internal && plan.endpoint.gateway.is_some());
    let best = candidates.max_by_key(|(index, plan)| (plan.endpoint.spec.gateway_priority, -(*index as i64)));
    let best = best.map(|(index, _)| index);
    for (index, plan) in planned.iter_mut().enumerate() {
        if Some(index) != best && !plan.done {
            (plan.endpoint.gateway, plan.endpoint.ipv6_gateway) = (None, None);
        }
    }
}

fn build(namespace: &Namespace, route: &mut Route, plan: &Planned) -> Result<(), berth_net::slot::SlotError> {
    build_endpoint(namespace, route, &plan.endpoint, plan.bridge, plan.mtu, plan.mac)
}

pub(super) fn build_endpoint(
    namespace: &Namespace,
    route: &mut Route,
    endpoint: &Endpoint,
    bridge: u32,
    mtu: u32,
    mac: [u8; 6],
) -> Result<(), berth_net::slot::SlotError> {
    let v4 = endpoint.ipv4.map(|(address, prefix_len)| (IpAddr::V4(address), prefix_len));
    let v6 = endpoint.ipv6.map(|(address, prefix_len)| (IpAddr::V6(address), prefix_len));
    let addresses: Vec<_> = v4.into_iter().chain(v6).collect();
    let gateways: Vec<_> =
        endpoint.gateway.map(IpAddr::V4).into_iter().chain(endpoint.ipv6_gateway.map(IpAddr::V6)).collect();
    namespace.add_interface(
        route,
        &Interface {
            host_name: &host_name(&endpoint.endpoint_id),
            bridge,
            mtu,
            name: &endpoint.interface,
            mac,
            addresses: &addresses,
            gateways: &gateways,
        },
    )
}

pub(super) fn default_gateway(state: &State) -> Option<IpAddr> {
    let bridge = state.networks.values().find(|live| live.network.name == "bridge")?;
    bridge.network.blocks.first().map(|block| block.gateway)
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

/// What the same container publishes already.
type Own = HashSet<(Protocol, IpAddr, u16)>;

type Published = (Vec<Publication>, Vec<Reservation>, BTreeMap<PortProto, Vec<(IpAddr, u16)>>);

/// Keeps the host's ports and opens them in one transaction.
fn publish(state: &mut State, wanted: &Wanted, planned: &[Planned]) -> Result<Published> {
    let mut all: Published = Default::default();
    let Some(target) = planned.iter().find(|plan| !plan.internal && plan.endpoint.gateway.is_some()) else {
        return Ok(all);
    };
    let endpoint = &target.endpoint;
    let prefix = format!(
        "driver failed programming external connectivity on endpoint {} ({})",
        wanted.name, endpoint.endpoint_id
    );
    let mut own = Own::new();
    for (port, binding) in &wanted.ports {
        let mut pairs: Vec<(IpAddr, IpAddr)> = Vec::new();
        let (v4, v6) = (endpoint.ipv4.map(|a| a.0), endpoint.ipv6.map(|a| a.0));
        match (binding.host_ip.or(target.host_binding), v4, v6) {
            (None, v4, v6) => {
                pairs.extend(v4.map(|own| (Ipv4Addr::UNSPECIFIED.into(), own.into())));
                pairs.extend(v6.map(|own| (Ipv6Addr::UNSPECIFIED.into(), own.into())));
            }
            (Some(host @ IpAddr::V4(_)), Some(own), _) => pairs.push((host, own.into())),
            (Some(host @ IpAddr::V6(_)), _, Some(own)) => pairs.push((host, own.into())),
            (Some(host), _, _) => {
                return Err(Error::invalid(format!("{prefix}: cannot publish on {host}"))
                    .with_hint("the container has no address of that family on its network"));
            }
        }
        let hosts: Vec<IpAddr> = pairs.iter().map(|pair| pair.0).collect();
        let (host_port, kept) = choose_port(state, &own, port.protocol, &hosts, binding.host_port)
            .map_err(|e| e.context(prefix.clone()))?;
        all.1.extend(kept);
        for (host, container) in pairs {
            own.insert((port.protocol, host, host_port));
            all.0.push(Publication { protocol: port.protocol, host, host_port, container, container_port: port.port });
            all.2.entry(*port).or_default().push((host, host_port));
        }
    }
    if let (false, Some(ready)) = (all.0.is_empty(), &mut state.ready) {
        ready.firewall.publish(&all.0).map_err(|error| host_error(prefix, &error))?;
    }
    Ok(all)
}

fn choose_port(
    state: &mut State,
    own: &Own,
    protocol: Protocol,
    hosts: &[IpAddr],
    range: (u16, u16),
) -> Result<(u16, Vec<Reservation>)> {
    let ours = range.0 == 0;
    let (first, last) = if ours { ports::ephemeral_range() } else { (range.0, range.1.max(range.0)) };
    let count = u32::from(last - first) + 1;
    // Ports of our choice go round, so that a freed one is not met again at once.
    let start = if ours { u32::from(state.next_port.clamp(first, last) - first) } else { 0 };
    let mut refused = None;
    for step in 0..count {
        let port = first + ((start + step) % count) as u16;
        match keep(state, own, protocol, hosts, port) {
            Ok(kept) => {
                if ours {
                    state.next_port = if port == last { first } else { port + 1 };
                }
                return Ok((port, kept));
            }
            // The last refusal is told: for a single port it is the only one.
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.unwrap_or_else(|| Error::internal("no port to choose from"));
    if count == 1 { Err(error) } else { Err(Error::internal(format!("all ports of {first}-{last} are allocated"))) }
}

/// `port` on all of `hosts`, or on none.
fn keep(state: &State, own: &Own, protocol: Protocol, hosts: &[IpAddr], port: u16) -> Result<Vec<Reservation>> {
    let mut kept = Vec::new();
    for &host in hosts {
        let bind = format!("Bind for {} failed", std::net::SocketAddr::new(host, port));
        let allocated = || Error::internal(format!("{bind}: port is already allocated"));
        if let Some(holder) = state.claimant(protocol, host, port) {
            let holder = state.held.get(holder).map_or(holder.short(), |held| held.name.as_str());
            return Err(
                allocated().with_hint(format!("container {holder} holds it; stop {holder}, or publish another port"))
            );
        }
        let any: IpAddr = if host.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        if own.contains(&(protocol, host, port)) || own.contains(&(protocol, any, port)) {
            return Err(allocated().with_hint("this container publishes it twice"));
        }
        match ports::reserve(protocol, host, port) {
            Ok(reservation) => kept.push(reservation),
            Err(PortError::InUse { holder }) => {
                return Err(match holder {
                    Some(holder) => allocated().with_hint(format!("process {holder} of the host has it")),
                    None => allocated(),
                });
            }
            Err(error) => return Err(host_error(bind, &error)),
        }
    }
    Ok(kept)
}
