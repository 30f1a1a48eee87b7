//! A running container joins and leaves networks.
//!
//! The default route belongs to one endpoint: the one with the highest gateway priority, among equals the oldest
//! interface. When that changes, the route inside moves, and published ports lead to the new endpoint.

use super::attach::{DEFAULT_PREFIX, build, interface_of, name_endpoint};
use super::publish::Openness;
use super::state::{Held, Live, Shared, State, host_error, host_name};
use super::types::{Attachment, Endpoint};
use berth_net::firewall::{Opening, Publication};
use berth_net::netlink::Batch;
use berth_net::route::{self, Route};
use berth_net::slot::{self, Namespace, SlotError};
use berth_types::spec::EndpointSpec;
use berth_types::{ContainerId, Error, ErrorKind, NetworkId, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Shared {
    pub(super) fn connect(
        &self,
        id: &ContainerId,
        reference: &str,
        spec: EndpointSpec,
        hostname: &str,
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
        let had_names = held.attachment.names;
        let used = |interface: &str| held.attachment.endpoints.values().any(|e| e.interface == interface);
        let prefix = state.networks.get(&network.id).map_or(DEFAULT_PREFIX, Live::interface_prefix);
        let interface = interface_of(&spec, prefix, used)?;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            host_error(format!("cannot connect container {name} to network {}", network.name), error)
        };
        let own = held.own_namespace().ok_or_else(|| Error::conflict(format!("container {name} is not running")))?;
        let mut plan = self.plan_endpoint(&mut state, &network.id, &spec, &interface)?;
        name_endpoint(&mut plan.endpoint, id, &name, hostname);
        let needs_names = self.names.are_there() && state.networks.get(&network.id).is_some_and(|n| n.has_names());
        drop(state);

        let mut sockets = None;
        let built = Route::open()
            .map_err(|source| SlotError::Interface { name: interface.clone(), source })
            .and_then(|mut route| {
                build(&own, &mut route, &plan)?;
                slot::wait_operational(&mut route, &host_name(&plan.endpoint.endpoint_id), plan.site.uplink)
            })
            .and_then(|()| {
                if needs_names && !had_names {
                    sockets = Some(own.open_name_sockets()?);
                }
                Ok(())
            });
        let mut state = self.lock();
        let result = built.map_err(|error| failed(&error)).and_then(|()| {
            let guard = state.guard_of(&plan.endpoint);
            if let (Some(guard), Some(ready)) = (guard, &mut state.ready) {
                ready.firewall.guard(vec![guard]).map_err(|error| failed(&error))?;
            }
            let held =
                state.held.get_mut(id).ok_or_else(|| Error::conflict(format!("container {name} is not running")))?;
            held.attachment.endpoints.insert(plan.network.clone(), Box::new(plan.endpoint.clone()));
            held.attachment.names |= needs_names;
            held.names_on_the_way = sockets.is_some();
            settle_default_route(&mut state, id, &own)
        });
        if let Err(error) = result {
            if let Some(held) = state.held.get_mut(id) {
                held.attachment.endpoints.remove(&plan.network);
            }
            self.remove_interface(&mut state, &own, &plan.endpoint);
            state.leave(&plan.endpoint);
            drop(state);
            self.work.notify_all();
            return Err(error);
        }
        let attachment = state.held.get(id).map(|held| held.attachment.clone()).unwrap_or_default();
        drop(state);
        self.work.notify_all();
        self.tell_names(id, &[], sockets)?;
        Ok(attachment)
    }

    pub(super) fn disconnect(&self, id: &ContainerId, reference: &str) -> Result<Attachment> {
        let mut state = self.ready()?;
        let network = state.find(reference)?.network.clone();
        let missing =
            || Error::new(ErrorKind::Forbidden, format!("container {id} is not connected to network {}", network.name));
        let held = state.held.get_mut(id).ok_or_else(missing)?;
        let endpoint = held.attachment.endpoints.remove(&network.name).ok_or_else(missing)?;
        let own = held.own_namespace();
        if let Some(own) = &own {
            self.remove_interface(&mut state, own, &endpoint);
        }
        let settled = match &own {
            Some(own) if endpoint.default_route => settle_default_route(&mut state, id, own),
            _ => Ok(()),
        };
        state.leave(&endpoint);
        let attachment = state.held.get(id).map(|held| held.attachment.clone()).unwrap_or_default();
        drop(state);
        self.work.notify_all();
        self.tell_names(id, &[network.id.to_string()], None)?;
        settled.map(|()| attachment)
    }

    /// What is gone already is done; anything else is seen to behind.
    fn remove_interface(&self, state: &mut State, own: &Namespace, endpoint: &Endpoint) {
        let live = endpoint.network_id.as_ref().and_then(|id| state.networks.get(id));
        let on_bridge = live.is_some_and(|live| live.network.driver.has_bridge());
        let mut batch = Batch::default();
        match (&mut state.ready, on_bridge) {
            (Some(ready), true) => {
                route::delete_link(&mut batch, &host_name(&endpoint.endpoint_id));
                ready.route.run(batch).ok();
            }
            _ => {
                route::delete_link(&mut batch, &endpoint.interface);
                own.enter(|| {
                    let run = Route::open().and_then(|mut route| route.run(batch));
                    run.map_err(|source| SlotError::Interface { name: endpoint.interface.clone(), source })
                })
                .ok();
            }
        }
    }
}

impl Held {
    fn own_namespace(&self) -> Option<Namespace> {
        let own = self.namespace.as_ref()?;
        Namespace::open(&own.path()).ok()
    }

    fn default_endpoint(&self, leads_out: impl Fn(&NetworkId) -> bool) -> Option<String> {
        let candidates = self.attachment.endpoints.iter().filter(|(_, endpoint)| {
            !endpoint.gateways().is_empty() && endpoint.network_id.as_ref().is_some_and(&leads_out)
        });
        let best = candidates.max_by_key(|(_, endpoint)| {
            let number = endpoint.interface.trim_start_matches("eth").parse().unwrap_or(i64::MAX);
            (endpoint.spec.gateway_priority, endpoint.default_route, -number)
        });
        best.map(|(name, _)| name.clone())
    }
}

/// Moves the default route and the published ports to the endpoint that should have them.
fn settle_default_route(state: &mut State, id: &ContainerId, own: &Namespace) -> Result<()> {
    let State { networks, held, ready, claims, .. } = state;
    let Some(held) = held.get_mut(id) else { return Ok(()) };
    let best = held.default_endpoint(|id| networks.get(id).is_some_and(|live| !live.network.internal));
    for (name, endpoint) in &mut held.attachment.endpoints {
        endpoint.default_route = Some(name) == best.as_ref();
    }
    let new = best.and_then(|name| held.attachment.endpoints.get(&name)).cloned();
    if let Some(endpoint) = &new {
        own.set_default_routes(&endpoint.interface, &endpoint.gateways())
            .map_err(|error| host_error(format!("cannot move the default route of container {}", held.name), &error))?;
    }
    let Some(ready) = ready else { return Ok(()) };
    let old = std::mem::take(&mut held.publications);
    let published = |p: &Publication| {
        let endpoint = new.as_ref()?;
        let container = match p.host {
            IpAddr::V4(_) => endpoint.ipv4.map(|(address, _)| IpAddr::V4(address)),
            IpAddr::V6(_) => endpoint.ipv6.map(|(address, _)| IpAddr::V6(address)),
        };
        Some(Publication { container: container?, ..*p })
    };
    let moved: Vec<Publication> = old.iter().filter_map(published).collect();
    let closed = std::mem::take(&mut held.openings);
    let open = reopened(networks, new.as_deref(), &closed, &old);
    if moved != old || open != closed {
        let words = || format!("cannot move the ports of container {}", held.name);
        ready.firewall.withdraw(&old, &closed).map_err(|error| host_error(words(), &error))?;
        ready.firewall.publish(&moved, &open).map_err(|error| host_error(words(), &error))?;
        // Ports that lead nowhere now are free for others.
        let kept = |host: &IpAddr, port: u16| {
            moved.iter().any(|p| p.host == *host && (p.host_port..=p.host_port + (p.count - 1)).contains(&port))
        };
        for ((_, port), holders) in claims.iter_mut() {
            holders.retain(|(host, holder)| holder != id || kept(host, *port));
        }
        claims.retain(|_, holders| !holders.is_empty());
        for (inside, listeners) in &mut held.attachment.ports {
            let still_open = |host: &IpAddr| {
                open.iter().any(|one| {
                    (one.protocol, one.port, one.address.is_ipv4()) == (inside.protocol, inside.port, host.is_ipv4())
                })
            };
            listeners.retain(|(host, port)| if *port == 0 { still_open(host) } else { kept(host, *port) });
        }
        held.attachment.ports.retain(|_, listeners| !listeners.is_empty());
        if moved.is_empty() {
            held.reservations.clear();
        }
    }
    held.publications = moved;
    held.openings = open;
    Ok(())
}

/// The ports that are open at the container's own addresses once `endpoint` is its way out: those that were, and those of
/// published ports. (A container that leaves a routed network for a translated one gets ports of the host with its
/// next start.)
fn reopened(
    networks: &BTreeMap<NetworkId, Live>,
    endpoint: Option<&Endpoint>,
    closed: &[Opening],
    published: &[Publication],
) -> Vec<Opening> {
    let Some(endpoint) = endpoint else { return Vec::new() };
    let network = endpoint.network_id.as_ref().and_then(|id| networks.get(id));
    let openness = network.map_or_else(Openness::default, |live| Openness::of(&live.network));
    let addresses: Vec<IpAddr> = endpoint.addresses().into_iter().filter(|own| openness.opens(*own)).collect();
    let ports = closed.iter().map(|one| (one.address.is_ipv4(), one.protocol, one.port));
    let published = published.iter().flat_map(|p| {
        (p.container_port..=p.container_port + (p.count - 1)).map(|port| (p.container.is_ipv4(), p.protocol, port))
    });
    let open = ports.chain(published).filter_map(|(v4, protocol, port)| {
        let address = *addresses.iter().find(|own| own.is_ipv4() == v4)?;
        Some(Opening { address, protocol, port })
    });
    open.collect::<BTreeSet<Opening>>().into_iter().collect()
}
