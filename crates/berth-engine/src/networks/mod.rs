//! Networks as the engine's users see them.
//!
//! ```text
//!  Networks   the handle: attach, detach, recover, create, remove, connect, ...
//!  state      who has which address, slot and port; one lock, no await under it
//!  attach     a container joins: addresses, interfaces, published ports, or nothing
//!  connect    a running container joins and leaves more networks
//!  publish    host ports that lead to containers
//!  create     a network comes and goes
//!  shards     more bridges for a network that one bridge cannot hold
//!  configuration    settings with a name, from which networks are made
//!  macvlan    networks that are part of the host's own
//!  options    what --driver-opt says about one endpoint
//!  bridge_options   what --opt says about a bridge network
//!  names      what the containers' name server is told, and that it runs
//!  setup      bridges, table and leftovers when an engine starts
//!  behind     the two threads that work off the answer's path: slots refilled, addresses given back,
//!             and the firewall table put back when somebody flushes it
//!  records    <data-root>/networks.json
//! ```
//!
//! A slot is a namespace that is already on the default bridge with address, route and interface up; a
//! container that starts there without wishes of its own takes one without a word to the kernel.
//! Nothing of the host's network is touched before [`Networks::recover`] or the first attach.

mod attach;
mod behind;
mod bridge_options;
mod configuration;
mod connect;
mod create;
mod macvlan;
mod names;
mod options;
mod publish;
mod records;
mod refusal;
mod republish;
mod setup;
mod shards;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub use berth_net::addresses::Subnet;
pub use berth_net::files;
pub use types::*;

pub(crate) use attach::{link_local, name_endpoint};
pub(crate) use configuration::check_joinable;
pub(crate) use options::read as endpoint_options;
pub(crate) use state::Shared;

use crate::containers::ListOptions;
use crate::{Engine, Filters};
use berth_types::spec::{EndpointSpec, HostConfig, PortProto};
use berth_types::{ContainerId, Error, NetworkId, Result};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The engine's networks.
#[derive(Clone)]
pub struct Networks {
    engine: Engine,
}

/// Runs blocking work off the async threads: netlink answers in well under a millisecond, but the
/// kernel's lock behind it may be held by others for longer.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("network work ended early: {error}"))),
    }
}

impl Networks {
    pub(crate) fn new(engine: Engine) -> Networks {
        Networks { engine }
    }

    fn shared(&self) -> Arc<Shared> {
        self.engine.network_state().clone()
    }

    /// Namespace, addresses, routes, published ports: all of a container's network, or nothing.
    pub async fn attach(&self, request: AttachRequest<'_>) -> Result<Attachment> {
        let (shared, wanted) = (self.shared(), attach::Wanted::from(&request));
        blocking(move || shared.attach(wanted)).await.map_err(|error| self.with_names(error))
    }

    /// Publishes what `new` asks for beyond `old`, and withdraws what it does not ask for any more.
    pub(crate) async fn republish(
        &self,
        id: &ContainerId,
        old: (&HostConfig, &BTreeSet<PortProto>),
        new: (&HostConfig, &BTreeSet<PortProto>),
    ) -> Result<Attachment> {
        let (shared, id) = (self.shared(), id.clone());
        let (old, new) = (attach::wanted_ports(old.0, old.1), attach::wanted_ports(new.0, new.1));
        blocking(move || shared.republish(&id, &old, &new)).await.map_err(|error| self.with_names(error))
    }

    fn with_names(&self, error: Error) -> Error {
        let called = |id: &ContainerId| Some(self.engine.containers().called(id.as_str()).ok()?.0);
        refusal::with_names(error, called)
    }

    /// Gives all of it back; goes on after failures, and what is already gone is done.
    pub async fn detach(&self, id: &ContainerId, _attachment: &Attachment) -> Result<()> {
        let (shared, id) = (self.shared(), id.clone());
        blocking(move || shared.detach(&id)).await
    }

    /// After a restart of the engine: `attached` (id, what it has) are running and keep what they have;
    /// everything else of ours (namespaces, veths, firewall entries, addresses) is removed.
    pub async fn recover(&self, attached: Vec<(ContainerId, Attachment)>) -> Result<()> {
        let shared = self.shared();
        blocking(move || match shared.recover(attached) {
            // The engine has more to do than networks; who wants one is told why there is none.
            Err(error) if shared.lock().waiting.is_some() => {
                tracing::error!(%error, "no networks");
                Ok(())
            }
            other => other,
        })
        .await
    }

    /// The name and id of the network that `reference` means, or `network x not found`.
    pub fn resolve(&self, reference: &str) -> Result<(String, NetworkId)> {
        self.shared().resolve(reference).map(|network| (network.name, network.id))
    }

    /// The default bridge's own address: `host-gateway` of `--add-host`.
    pub fn default_gateway(&self) -> Option<std::net::IpAddr> {
        self.shared().resolve("bridge").ok()?.blocks.first()?.gateway
    }

    /// Keys: dangling, driver, id, label, name, scope, type.
    pub fn list(&self, filters: &Filters) -> Result<Vec<NetworkView>> {
        filters.only(&["dangling", "driver", "id", "label", "label!", "name", "scope", "type"])?;
        let dangling = filters.boolean("dangling").map_err(|error| {
            let words = "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")";
            Error::new(error.kind, words)
        })?;
        // A fresh engine has its predefined networks from the first question on.
        self.shared().resolve("bridge")?;
        for kind in filters.get("type") {
            if !matches!(kind.as_str(), "custom" | "builtin") {
                return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let matches = |view: &NetworkView| {
            let network = &view.network;
            filters.exact("driver", network.driver.as_str())
                && filters.fuzzy("id", network.id.as_str())
                && filters.fuzzy("name", &network.name)
                && filters.labels(&network.labels)
                && filters.exact("scope", "local")
                && filters.exact("type", if network.is_predefined() { "builtin" } else { "custom" })
                && dangling.is_none_or(|wanted| wanted == (!network.is_predefined() && view.containers.is_empty()))
        };
        Ok(self.views().into_iter().filter(matches).collect())
    }

    pub fn inspect(&self, reference: &str) -> Result<NetworkView> {
        let network = self.shared().resolve(reference)?;
        let view = self.views().into_iter().find(|view| view.network.id == network.id);
        view.ok_or_else(|| Error::not_found(format!("network {reference} not found")))
    }

    /// What `inspect` shows of a container on the host's own network, and under which name.
    pub(crate) fn host_endpoint(&self) -> Result<(String, Endpoint)> {
        let (name, id) = self.resolve("host")?;
        let endpoint_id = berth_types::digest::hex(&state::random_id()?);
        Ok((name, Endpoint { network_id: Some(id), endpoint_id, ..Endpoint::default() }))
    }

    fn views(&self) -> Vec<NetworkView> {
        let mut views = self.shared().views();
        for view in views.iter_mut().filter(|view| view.network.driver == Driver::Host) {
            view.containers = self.engine.containers().on_host_network();
        }
        views
    }

    pub async fn create(&self, spec: NetworkSpec) -> Result<NetworkId> {
        let shared = self.shared();
        let network = blocking(move || shared.create(spec)).await?;
        self.tell("create", &network, None);
        Ok(network.id)
    }

    pub async fn remove(&self, reference: &str) -> Result<()> {
        let (shared, reference) = (self.shared(), reference.to_owned());
        let network = blocking(move || shared.remove(&reference)).await?;
        self.tell("destroy", &network, None);
        Ok(())
    }

    /// Removes the networks that nobody runs on or is set to join; answers their names. Keys: label, until.
    pub async fn prune(&self, filters: &Filters) -> Result<Vec<String>> {
        filters.only(&["label", "label!", "until"])?;
        let until = match filters.get("until").first() {
            Some(text) => Some(until_nanos(text)?),
            None => None,
        };
        let all = ListOptions { all: true, ..ListOptions::default() };
        let containers = self.engine.containers().list(&all).await?;
        let mut pruned = Vec::new();
        for view in self.shared().views() {
            let network = view.network;
            let set_to_join = |name: &str| name == network.name || name == network.id.as_str();
            let used = containers.iter().any(|container| {
                set_to_join(&container.network_mode) || container.network.endpoints.contains_key(&network.name)
            });
            let young = until.is_some_and(|until| network.created_unix_nanos > until);
            if network.is_predefined()
                || used
                || young
                || !view.containers.is_empty()
                || !filters.labels(&network.labels)
            {
                continue;
            }
            match self.remove(network.id.as_str()).await {
                Ok(()) => pruned.push(network.name),
                // Somebody joined or removed it meanwhile.
                Err(error) => tracing::info!(network = network.name, %error, "network not pruned"),
            }
        }
        // As the others' prunes; a network takes no room.
        let attributes = std::collections::BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
        self.engine.events().publish(crate::events::EventKind::Network, "prune", "", attributes);
        Ok(pruned)
    }

    /// A container joins one more network: at once where it runs, else with its next start.
    pub async fn connect(&self, container: &str, network: &str, spec: EndpointSpec) -> Result<()> {
        // As dockerd: where neither is there, the container is what is named.
        self.engine.containers().called(container)?;
        let found = self.shared().resolve(network)?;
        self.engine.containers().join_network(container, &found, spec).await
    }

    /// A container leaves a network. With `force` also a container that is not known any more.
    pub async fn disconnect(&self, container: &str, network: &str, force: bool) -> Result<()> {
        if !force {
            self.engine.containers().called(container)?;
        }
        let found = self.shared().resolve(network)?;
        self.engine.containers().leave_network(container, &found, force).await
    }

    /// The part of it that is done to a running container's network.
    pub(crate) async fn join(
        &self,
        id: &ContainerId,
        network: &Network,
        spec: EndpointSpec,
        hostname: String,
    ) -> Result<Attachment> {
        let (shared, own, to) = (self.shared(), id.clone(), network.id.to_string());
        let attachment = blocking(move || shared.connect(&own, &to, spec, &hostname)).await?;
        self.tell("connect", network, Some(id));
        Ok(attachment)
    }

    pub(crate) async fn part(&self, id: &ContainerId, network: &Network) -> Result<Attachment> {
        let (shared, own, from) = (self.shared(), id.clone(), network.id.to_string());
        let attachment = blocking(move || shared.disconnect(&own, &from)).await?;
        self.tell("disconnect", network, Some(id));
        Ok(attachment)
    }

    /// Whether an endpoint like this can be made on the network, as far as that can be told before.
    pub(crate) fn check_endpoint(&self, network: &Network, spec: &EndpointSpec) -> Result<()> {
        attach::check_endpoint(network, spec)
    }

    pub(crate) fn network(&self, reference: &str) -> Result<Network> {
        self.shared().resolve(reference)
    }

    /// A running container got another name.
    pub async fn renamed(&self, id: &ContainerId, name: &str) -> Result<()> {
        let (shared, id, name) = (self.shared(), id.clone(), name.to_owned());
        blocking(move || shared.renamed(&id, &name)).await
    }

    /// The counters of a running container's interfaces.
    pub async fn counters(&self, id: &ContainerId) -> Result<Vec<InterfaceCounters>> {
        let (shared, id) = (self.shared(), id.clone());
        blocking(move || shared.counters(&id)).await
    }

    /// Bytes that each of `ids` received and sent; one question to the kernel for all of them. For a thread that may wait.
    pub(crate) fn traffic(&self, ids: &[ContainerId]) -> HashMap<ContainerId, (u64, u64)> {
        self.shared().traffic(ids)
    }

    fn tell(&self, action: &str, network: &Network, container: Option<&ContainerId>) {
        let mut attributes = std::collections::BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.as_str().to_owned()),
        ]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_string());
        }
        let kind = crate::events::EventKind::Network;
        self.engine.events().publish(kind, action, network.id.as_str(), attributes);
    }
}

/// A moment as `until` filters write it: a Unix time, an RFC 3339 time, or so long ago (`10m`, `1h30m`).
pub(crate) fn until_nanos(text: &str) -> Result<i64> {
    let invalid = || Error::invalid(format!("invalid filter 'until={text}'"));
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1e9) as i64);
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return i64::try_from(moment.as_nanosecond()).map_err(|_| invalid());
    }
    let ago: jiff::SignedDuration = text.parse().map_err(|_| invalid())?;
    let ago = i64::try_from(ago.as_nanos()).map_err(|_| invalid())?;
    Ok(crate::events::now_unix_nanos().saturating_sub(ago))
}
