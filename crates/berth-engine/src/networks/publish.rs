//! Host ports that lead to containers.

use super::attach::{Planned, Wanted};
use super::state::{State, host_error};
use super::types::Driver;
use berth_net::firewall::Publication;
use berth_net::ports::{self, PortError, Reservation};
use berth_types::spec::{PortProto, Protocol};
use berth_types::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the same container publishes already.
type Own = HashSet<(Protocol, IpAddr, u16)>;

pub(super) type Published = (Vec<Publication>, Vec<Reservation>, BTreeMap<PortProto, Vec<(IpAddr, u16)>>);

/// Keeps the host's ports and opens them in one transaction.
pub(super) fn publish(state: &mut State, wanted: &Wanted, planned: &[Planned]) -> Result<Published> {
    let mut all: Published = Default::default();
    let Some(target) = planned.iter().find(|plan| plan.endpoint.default_route && plan.driver == Driver::Bridge) else {
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
    // Every address of both families: one socket keeps them all.
    let everywhere = hosts.len() == 2 && hosts.iter().all(IpAddr::is_unspecified);
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
        let reserved = match everywhere {
            true if host.is_ipv4() => continue,
            true => ports::reserve_everywhere(protocol, port),
            false => ports::reserve(protocol, host, port),
        };
        match reserved {
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
