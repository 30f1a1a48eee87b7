//! Host ports that lead to containers.

use super::attach::Planned;
use super::refusal::{REFUSALS_TOLD, Refusal, Why};
use super::setup::tell_not_led;
use super::state::{State, host_error};
use super::types::{Driver, Endpoint, Network};
use berth_net::firewall::{Opening, Others, Publication};
use berth_net::ports::{self, PortError, Reservation};
use berth_types::spec::{PortBinding, PortProto, Protocol};
use berth_types::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the same container publishes already.
type Own = HashSet<(Protocol, IpAddr, u16)>;

/// Publications, ports in a row as one.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) all: Vec<Publication>,
    /// Which of them a port would follow.
    last: HashMap<(Protocol, IpAddr), usize>,
}

impl Runs {
    pub(super) fn push(&mut self, next: Publication) {
        let key = (next.protocol, next.host);
        let last = self.last.get(&key).and_then(|&at| self.all.get_mut(at));
        if !last.is_some_and(|last| last.extend(&next)) {
            self.last.insert(key, self.all.len());
            self.all.push(next);
        }
    }
}

/// Ports that cannot be had although no container of this engine has them.
struct Taken {
    own: Own,
    others: Others,
}

/// What of a network is reached under its containers' own addresses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Openness {
    /// By IPv4, by IPv6: published ports, and the host's lead nowhere.
    routed: [bool; 2],
    /// Some interfaces reach published ports so, too.
    trusts: bool,
}

impl Openness {
    pub(super) fn of(network: &Network) -> Openness {
        let has = |address| network.is_routed(address);
        Openness {
            routed: [has(Ipv4Addr::UNSPECIFIED.into()), has(Ipv6Addr::UNSPECIFIED.into())],
            trusts: !network.trusted().is_empty(),
        }
    }

    pub(super) fn is_routed(self, address: IpAddr) -> bool {
        self.routed[usize::from(address.is_ipv6())]
    }

    /// Whether a published port is open at a container's own `address`.
    pub(super) fn opens(self, address: IpAddr) -> bool {
        self.is_routed(address) || self.trusts
    }
}

/// What a container has for its published ports.
#[derive(Default)]
pub(super) struct Published {
    pub(super) publications: Vec<Publication>,
    pub(super) openings: Vec<Opening>,
    pub(super) reservations: Vec<Reservation>,
    /// Where each listens on the host; port 0: nowhere, it is open at the container's own address.
    pub(super) ports: BTreeMap<PortProto, Vec<(IpAddr, u16)>>,
}

/// Where a container's ports lead: the endpoint with its default route.
pub(super) struct Place<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// Where ports are published that name no address.
    pub(super) host_binding: Option<IpAddr>,
    pub(super) openness: Openness,
}

impl<'a> Place<'a> {
    pub(super) fn of(planned: &'a [Planned]) -> Option<Place<'a>> {
        let plan = planned.iter().find(|plan| plan.endpoint.default_route && plan.driver == Driver::Bridge)?;
        Some(Place { endpoint: &plan.endpoint, host_binding: plan.host_binding, openness: plan.openness })
    }
}

/// Keeps the host's ports and opens them in one transaction.
pub(super) fn publish(
    state: &mut State,
    name: &str,
    ports: &[(PortProto, PortBinding)],
    place: Option<Place<'_>>,
) -> Result<Published> {
    let mut all = Published::default();
    let Some(place) = place else { return Ok(all) };
    let endpoint = place.endpoint;
    let prefix =
        format!("driver failed programming external connectivity on endpoint {name} ({})", endpoint.endpoint_id);
    let others = match &mut state.ready {
        Some(ready) if !ports.is_empty() => ready.firewall.others(),
        _ => Ok(Others::default()),
    };
    let others = others.map_err(|error| host_error(prefix.clone(), &error))?;
    let mut taken = Taken { own: Own::new(), others };
    let mut runs = Runs::default();
    let mut openings = BTreeSet::new();
    for (port, binding) in ports {
        let (protocol, container_port) = (port.protocol, port.port);
        let mut pairs: Vec<(IpAddr, IpAddr)> = Vec::new();
        let (v4, v6) = (endpoint.ipv4.map(|a| a.0), endpoint.ipv6.map(|a| a.0));
        match (binding.host_ip.or(place.host_binding), v4, v6) {
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
        // A routed network has no addresses of the host to choose from: what is asked for is the family.
        if let (None, Some(own)) = (binding.host_ip, v6.map(IpAddr::from).filter(|own| place.openness.is_routed(*own)))
            && !pairs.iter().any(|(_, container)| *container == own)
        {
            pairs.push((Ipv6Addr::UNSPECIFIED.into(), own));
        }
        for &(_, own) in pairs.iter().filter(|(_, own)| place.openness.opens(*own)) {
            openings.insert(Opening { address: own, protocol, port: container_port });
        }
        pairs.retain(|&(_, own)| {
            let routed = place.openness.is_routed(own);
            if routed {
                let any = if own.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                all.ports.entry(*port).or_default().push((any, 0));
            }
            !routed
        });
        if pairs.is_empty() {
            continue;
        }
        let hosts: Vec<IpAddr> = pairs.iter().map(|pair| pair.0).collect();
        let (host_port, kept) = choose_port(state, &taken, port.protocol, &hosts, binding.host_port)
            .map_err(|e| e.context(prefix.clone()))?;
        all.reservations.extend(kept);
        for (host, container) in pairs {
            taken.own.insert((port.protocol, host, host_port));
            let next = Publication { protocol, host, host_port, container, container_port, count: 1 };
            runs.push(next);
            all.ports.entry(*port).or_default().push((host, host_port));
        }
    }
    all.publications = runs.all;
    all.openings = openings.into_iter().collect();
    if let (false, Some(ready)) = (all.publications.is_empty() && all.openings.is_empty(), &mut state.ready) {
        ready.firewall.publish(&all.publications, &all.openings).map_err(|error| host_error(prefix, &error))?;
        tell_not_led(&mut ready.firewall);
    }
    Ok(all)
}

fn choose_port(
    state: &mut State,
    taken: &Taken,
    protocol: Protocol,
    hosts: &[IpAddr],
    range: (u16, u16),
) -> Result<(u16, Vec<Reservation>)> {
    let ours = range.0 == 0;
    let (first, last) = if ours { ports::ephemeral_range() } else { (range.0, range.1.max(range.0)) };
    let count = u32::from(last - first) + 1;
    // Ports of our choice go round, so that a freed one is not met again at once.
    let start = if ours { u32::from(state.next_port.clamp(first, last) - first) } else { 0 };
    let mut refused = Vec::new();
    for step in 0..count {
        let port = first + ((start + step) % count) as u16;
        match keep(state, taken, protocol, hosts, port) {
            Ok(kept) => {
                if ours {
                    state.next_port = if port == last { first } else { port + 1 };
                }
                return Ok((port, kept));
            }
            Err(refusal) if refused.len() < REFUSALS_TOLD => refused.push(refusal),
            Err(_) => {}
        }
    }
    if count == 1 {
        return Err(refused.pop().map_or_else(|| Error::internal("no port to choose from"), Refusal::into_error));
    }
    let who: Vec<String> = refused.iter().filter_map(Refusal::told_in_a_list).collect();
    let more = if count as usize > who.len() { ", ..." } else { "" };
    let error = Error::conflict(format!("all ports of {first}-{last} are allocated"));
    Err(if who.is_empty() { error } else { error.with_hint(format!("{}{more}; publish other ports", who.join(", "))) })
}

/// `port` on all of `hosts`, or on none.
fn keep(
    state: &State,
    taken: &Taken,
    protocol: Protocol,
    hosts: &[IpAddr],
    port: u16,
) -> std::result::Result<Vec<Reservation>, Refusal> {
    let mut kept = Vec::new();
    // Every address of both families: one socket keeps them all.
    let everywhere = hosts.len() == 2 && hosts.iter().all(IpAddr::is_unspecified);
    for &host in hosts {
        let refused = |why| Refusal {
            protocol,
            told: SocketAddr::new(if everywhere { hosts[0] } else { host }, port),
            everywhere,
            why,
        };
        if let Some(holder) = state.claimant(protocol, host, port) {
            let holder = state.held.get(holder).map_or(holder.short(), |held| held.name.as_str());
            return Err(refused(Why::Container(holder.to_owned())));
        }
        let any: IpAddr = if host.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        if taken.own.contains(&(protocol, host, port)) || taken.own.contains(&(protocol, any, port)) {
            return Err(refused(Why::Itself));
        }
        if let Some(table) = taken.others.holder(protocol, host, port) {
            let runs = matches!(ports::reserve(protocol, host, port), Err(PortError::InUse));
            return Err(refused(Why::Engine { table: table.to_owned(), runs }));
        }
        let reserved = match everywhere {
            true if host.is_ipv4() => continue,
            true => ports::reserve_everywhere(protocol, port),
            false => ports::reserve(protocol, host, port),
        };
        match reserved {
            Ok(reservation) => kept.push(reservation),
            Err(error) => return Err(refused(Why::Kernel(error))),
        }
    }
    Ok(kept)
}
