//! A running container's published ports change: what is asked for before and after is not touched, so that its
//! connections go on.

use super::publish::{Openness, Place, Published, Runs, publish};
use super::state::{Shared, State, host_error};
use super::types::{Attachment, Driver, Endpoint};
use berth_net::firewall::Publication;
use berth_types::spec::{PortBinding, PortProto};
use berth_types::{ContainerId, Error, Result};
use std::net::IpAddr;

/// Bindings in the order in which they are asked for.
pub(super) type Bindings = Vec<(PortProto, PortBinding)>;
/// A container's port and where the host listens for it.
type Listener = (PortProto, IpAddr, u16);

impl Shared {
    /// From the bindings `old` to `new`; where that fails, all is as it was.
    pub(super) fn republish(&self, id: &ContainerId, old: &Bindings, new: &Bindings) -> Result<Attachment> {
        let mut state = self.ready()?;
        let not_running = || Error::conflict(format!("container {} is not running", id.short()));
        let held = state.held.get(id).ok_or_else(not_running)?;
        let name = held.name.clone();
        let endpoint = held.attachment.endpoints.values().find(|endpoint| endpoint.default_route).cloned();
        let live = endpoint.as_ref().and_then(|endpoint| state.networks.get(endpoint.network_id.as_ref()?));
        let (Some(endpoint), Some(live)) = (endpoint, live.filter(|live| live.network.driver == Driver::Bridge)) else {
            return Err(Error::conflict(format!("container {name} has no network whose ports could be published"))
                .with_hint("connect it to a bridge network first"));
        };
        let host_binding = live.host_binding();
        let openness = Openness::of(&live.network);
        if endpoint.addresses().into_iter().any(|own| openness.opens(own)) {
            return Err(Error::conflict(format!(
                "ports of {name} on the network {}, whose containers are reached under their own addresses, change at its \
                 next start only",
                live.network.name
            ))
            .with_hint("stop it, update it, and start it again"));
        }
        let place = || Some(Place { endpoint: &endpoint, host_binding, openness });
        let gone = listeners(&held.attachment, &difference(old, new), host_binding);
        let come = difference(new, old);
        withdraw(&mut state, id, &endpoint, &gone)
            .map_err(|error| error.context(format!("cannot withdraw the ports of container {name}")))?;
        if let Err(error) = add(&mut state, id, &come, place()) {
            let again = gone
                .iter()
                .map(|&(port, host, number)| (port, PortBinding { host_ip: Some(host), host_port: (number, number) }));
            if let Err(lost) = add(&mut state, id, &again.collect(), place()) {
                tracing::warn!(container = id.short(), error = %lost, "ports not published again");
            }
            return Err(error);
        }
        state.held.get(id).map(|held| held.attachment.clone()).ok_or_else(not_running)
    }
}

/// What is in `all` more often than in `other`.
fn difference(all: &Bindings, other: &Bindings) -> Bindings {
    let mut rest = other.clone();
    let mut extra = Vec::new();
    for binding in all {
        match rest.iter().position(|same| same == binding) {
            Some(at) => drop(rest.swap_remove(at)),
            None => extra.push(binding.clone()),
        }
    }
    extra
}

/// Where the host listens for `bindings`.
fn listeners(attachment: &Attachment, bindings: &Bindings, default: Option<IpAddr>) -> Vec<Listener> {
    let mut found: Vec<Listener> = Vec::new();
    for (port, binding) in bindings {
        let (first, last) = match binding.host_port {
            (0, _) => (1, u16::MAX),
            (first, last) => (first, last.max(first)),
        };
        let on = |host: &IpAddr| match binding.host_ip.or(default) {
            Some(wanted) => *host == wanted,
            None => host.is_unspecified(),
        };
        let mut chosen = None;
        for &(host, number) in attachment.ports.get(port).into_iter().flatten() {
            let listener = (*port, host, number);
            // One number for all addresses of a binding.
            let fits = on(&host) && (first..=last).contains(&number) && chosen.is_none_or(|chosen| chosen == number);
            if fits && !found.contains(&listener) {
                chosen = Some(number);
                found.push(listener);
            }
        }
    }
    found
}

fn withdraw(state: &mut State, id: &ContainerId, endpoint: &Endpoint, gone: &[Listener]) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let State { held, ready, claims, .. } = state;
    let (Some(held), Some(ready)) = (held.get_mut(id), ready) else { return Ok(()) };
    let is_gone = |p: &Publication| gone.contains(&listener_of(p));
    let (mut kept, mut out, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for publication in &held.publications {
        let (left, stays): (Vec<Publication>, Vec<Publication>) = singles(publication).partition(is_gone);
        if left.is_empty() {
            kept.push(*publication);
            continue;
        }
        let mut rest = Runs::default();
        stays.into_iter().for_each(|single| rest.push(single));
        match publication.is_run() {
            // It is one element of the kernel's map.
            true => {
                out.push(*publication);
                again.extend(rest.all.iter().copied());
            }
            false => out.extend(left),
        }
        kept.extend(rest.all);
    }
    let failed = |error: &(dyn std::error::Error + 'static)| {
        host_error(format!("firewall of endpoint {}", endpoint.endpoint_id), error)
    };
    ready.firewall.withdraw(&out, &[]).map_err(|error| failed(&error))?;
    if !again.is_empty() {
        ready.firewall.publish(&again, &[]).map_err(|error| failed(&error))?;
    }
    held.publications = kept;
    held.reservations.retain(|kept| !gone.iter().any(|(port, host, number)| kept.keeps(port.protocol, *host, *number)));
    for (port, host, number) in gone {
        if let Some(holders) = claims.get_mut(&(port.protocol, *number)) {
            holders.retain(|(address, holder)| holder != id || address != host);
        }
        if let Some(all) = held.attachment.ports.get_mut(port) {
            all.retain(|listener| *listener != (*host, *number));
        }
    }
    claims.retain(|_, holders| !holders.is_empty());
    held.attachment.ports.retain(|_, all| !all.is_empty());
    Ok(())
}

fn add(state: &mut State, id: &ContainerId, come: &Bindings, place: Option<Place<'_>>) -> Result<()> {
    if come.is_empty() {
        return Ok(());
    }
    let name = state.held.get(id).map(|held| held.name.clone()).unwrap_or_default();
    let Published { publications, reservations, ports, .. } = publish(state, &name, come, place)?;
    state.claim(id, &publications);
    if let Some(held) = state.held.get_mut(id) {
        held.publications.extend(publications);
        held.reservations.extend(reservations);
        for (port, more) in ports {
            held.attachment.ports.entry(port).or_default().extend(more);
        }
    }
    Ok(())
}

fn singles(publication: &Publication) -> impl Iterator<Item = Publication> + use<> {
    let all = *publication;
    (0..all.count).map(move |n| Publication {
        host_port: all.host_port + n,
        container_port: all.container_port + n,
        count: 1,
        ..all
    })
}

fn listener_of(single: &Publication) -> Listener {
    (PortProto { port: single.container_port, protocol: single.protocol }, single.host, single.host_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn binding(port: &str, host: Option<&str>, host_port: (u16, u16)) -> (PortProto, PortBinding) {
        (port.parse().unwrap(), PortBinding { host_ip: host.map(|host| host.parse().unwrap()), host_port })
    }

    #[test]
    fn only_what_differs_is_touched() {
        let a = binding("80/tcp", None, (8080, 8080));
        let b = binding("80/tcp", None, (0, 0));
        let c = binding("53/udp", Some("127.0.0.1"), (53, 53));
        assert_eq!(difference(&vec![a.clone(), b.clone(), b.clone()], &vec![b.clone(), c.clone()]), [a, b.clone()]);
        assert_eq!(difference(&vec![c.clone()], &vec![c]), []);
    }

    #[test]
    fn a_binding_is_found_again_where_it_listens() {
        let any = |text: &str| text.parse::<IpAddr>().unwrap();
        let web: PortProto = "80/tcp".parse().unwrap();
        let all =
            vec![(any("0.0.0.0"), 40_001), (any("::"), 40_001), (any("127.0.0.1"), 8080), (any("0.0.0.0"), 40_002)];
        let attachment = Attachment { ports: BTreeMap::from([(web, all)]), ..Attachment::default() };
        let found = |binding| listeners(&attachment, &vec![binding], None);
        assert_eq!(found(binding("80/tcp", None, (0, 0))), [(web, any("0.0.0.0"), 40_001), (web, any("::"), 40_001)]);
        assert_eq!(found(binding("80/tcp", Some("127.0.0.1"), (8080, 8080))), [(web, any("127.0.0.1"), 8080)]);
        assert_eq!(found(binding("80/tcp", None, (8080, 8080))), []);
        assert_eq!(found(binding("81/tcp", None, (0, 0))), []);
    }
}
