//! A container joins and leaves networks: while it runs, and while it does not.
//!
//! What it is to join stands in its record's endpoints; what it has while it runs, in its attachment. Its hosts file and
//! resolv.conf are bound into it, so they are changed in place.

use super::record::{Container, Live, Paths, Record};
use super::{Containers, start};
use crate::networks::{Attachment, Driver, Endpoint, Network};
use berth_types::spec::{ContainerSpec, EndpointSpec, NetworkMode};
use berth_types::{ContainerId, Error, ErrorKind, Phase, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

fn forbidden(words: impl Into<String>) -> Error {
    Error::new(ErrorKind::Forbidden, words)
}

impl Record {
    /// The network that it starts with; `None` where it shares another container's, or has left it.
    pub(super) fn primary(&self) -> Option<&str> {
        match &self.spec.host.network_mode {
            _ if self.parted => None,
            NetworkMode::Default => Some("bridge"),
            NetworkMode::Named(name) if name == "default" => Some("bridge"),
            NetworkMode::Named(name) => Some(name),
            NetworkMode::None => Some("none"),
            NetworkMode::Host => Some("host"),
            NetworkMode::Container(_) => None,
        }
    }

    fn starts_on(&self, network: &Network) -> bool {
        self.primary().is_some_and(|name| means(network, name))
    }
}

fn private() -> Error {
    Error::invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
}

/// Its interfaces are network cards.
fn has_guest(record: &Record) -> bool {
    crate::guests::is_guest(&record.spec) || record.machine.is_some()
}

/// Whose guest is paused gives no card back and takes none.
fn must_not_stand_still(container: &Container, record: &Record) -> Result<()> {
    match container.live().run.phase {
        Phase::Paused { .. } if has_guest(record) => Err(Error::conflict(format!("{} is paused", record.name))
            .with_hint("its network cards change while it runs, or is stopped")),
        _ => Ok(()),
    }
}

fn means(network: &Network, reference: &str) -> bool {
    reference == network.name || network.id.as_str() == reference || network.id.short() == reference
}

impl Containers {
    pub(crate) async fn join_network(&self, container: &str, network: &Network, spec: EndpointSpec) -> Result<()> {
        let found = self.get(container)?;
        let _ops = found.ops.lock().await;
        let record = found.record();
        crate::networks::check_joinable(network)?;
        match (&record.spec.host.network_mode, network.driver) {
            (NetworkMode::Host, Driver::Host) | (NetworkMode::None, Driver::Null) => {}
            (_, Driver::Host) => {
                return Err(Error::invalid(
                    "cannot connect container to host network - container must be created in host network mode",
                ));
            }
            (NetworkMode::Host | NetworkMode::Container(_), _) => {
                return Err(Error::invalid(
                    "container sharing network namespace with another container or host cannot be connected to any other network",
                ));
            }
            (_, Driver::Null) => return Err(private()),
            (NetworkMode::None, _) if !record.parted => return Err(private()),
            _ => {}
        }
        self.engine.networks().check_endpoint(network, &spec)?;
        let (pid, dead) = {
            let live = found.live();
            (live.run.phase.pid(), live.removing || live.dead || matches!(live.run.phase, Phase::Removing))
        };
        if dead {
            return Err(forbidden(format!(
                "Container {} is marked for removal and cannot be connected or disconnected to the network",
                found.id
            )));
        }
        must_not_stand_still(&found, &record)?;
        let planned = record.spec.endpoints.keys().any(|key| means(network, key));
        // One that does not run may be told once more how it is to join.
        if pid.is_some() && (planned || record.starts_on(network)) {
            return Err(forbidden(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        let mut changed = (*record).clone();
        changed.spec.endpoints.retain(|key, _| !means(network, key));
        if network.driver.has_addresses() {
            changed.spec.endpoints.insert(network.name.clone(), spec.clone());
        } else {
            changed.parted = false;
        }
        if pid.is_some() {
            let hostname = start::chosen_hostname(&record);
            let mut attachment = self.engine.networks().join(&found.id, network, spec, hostname).await?;
            attachment.neighbours.extend(self.still_linked(&record));
            self.attached(&found, &record, &attachment)?;
            if has_guest(&record)
                && let Some(endpoint) = attachment.endpoints.get(&network.name)
                && let Err(error) = crate::guests::joined(&self.engine, &record, &attachment, endpoint).await
            {
                let attachment = self.engine.networks().part(&found.id, network).await?;
                self.attached(&found, &record, &attachment)?;
                return Err(error.context(format!("cannot connect {} to network {}", record.name, network.name)));
            }
        }
        self.store_record(&changed).await?;
        found.live().record = Arc::new(changed);
        Ok(())
    }

    pub(crate) async fn leave_network(&self, container: &str, network: &Network, force: bool) -> Result<()> {
        let found = match self.get(container) {
            Ok(found) => found,
            // What it had went with it.
            Err(error) if force && error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let _ops = found.ops.lock().await;
        let record = found.record();
        must_not_stand_still(&found, &record)?;
        let pid = found.live().run.phase.pid();
        if pid.is_some() && record.spec.host.network_mode == NetworkMode::Host && network.driver == Driver::Host {
            return Err(Error::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        let mut changed = (*record).clone();
        let before = changed.spec.endpoints.len();
        changed.spec.endpoints.retain(|key, _| !means(network, key));
        let is_primary = record.starts_on(network);
        if pid.is_none() && before == changed.spec.endpoints.len() && !is_primary {
            return Err(forbidden(format!("container {} is not connected to network {}", found.id, network.name)));
        }
        changed.parted |= is_primary;
        if pid.is_some() {
            let guest = has_guest(&record);
            let before = found.live().run.attachment.clone();
            if let Some(endpoint) = before.endpoints.get(&network.name).filter(|_| guest) {
                crate::guests::leaving(&self.engine, &record, &before, endpoint).await.map_err(|error| {
                    error.context(format!("cannot disconnect {} from network {}", record.name, network.name))
                })?;
            }
            let mut attachment = self.engine.networks().part(&found.id, network).await?;
            attachment.neighbours.extend(self.still_linked(&record));
            self.attached(&found, &record, &attachment)?;
            if guest {
                crate::guests::changed(&self.engine, &record, &attachment).await?;
            }
        }
        self.store_record(&changed).await?;
        found.live().record = Arc::new(changed);
        Ok(())
    }

    /// It is made for other networks than that of its mode.
    pub(super) fn leaves_primary(&self, spec: &ContainerSpec) -> bool {
        let primary = match &spec.host.network_mode {
            NetworkMode::Default => "bridge",
            NetworkMode::Named(name) => name.as_str(),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => return false,
        };
        let id = |key: &str| self.engine.networks().resolve(key).ok().map(|(_, id)| id);
        let is_primary = |key: &String| key == primary || id(key).is_some_and(|found| Some(found) == id(primary));
        spec.endpoints_only && !spec.endpoints.keys().any(is_primary)
    }

    /// The networks that it has, by name; of one that does not run those that it is to have, without addresses.
    pub(super) fn networks_of(&self, live: &Live) -> BTreeMap<String, Box<Endpoint>> {
        if live.record.spec.config.network_disabled {
            return BTreeMap::new();
        }
        if live.is_running() || !live.run.attachment.endpoints.is_empty() {
            return live.run.attachment.endpoints.clone();
        }
        let (record, started) = (&live.record, live.run.started_unix_nanos != 0);
        let keys = record.primary().into_iter().chain(record.spec.endpoints.keys().map(String::as_str));
        let mut planned = BTreeMap::new();
        for key in keys {
            let key = if key == "default" { "bridge" } else { key };
            let (name, id) = match self.engine.networks().resolve(key) {
                Ok((name, id)) => (name, Some(id)),
                // It has gone since; a start will say so.
                Err(_) => (key.to_owned(), None),
            };
            let spec = record.spec.endpoints.get(key).or_else(|| record.spec.endpoints.get(&name));
            let mut endpoint = Box::new(Endpoint { spec: spec.cloned().unwrap_or_default(), ..Endpoint::default() });
            endpoint.mac_address.clone_from(&endpoint.spec.mac_address);
            endpoint.aliases.clone_from(&endpoint.spec.aliases);
            // As dockerd: the network that it is made for is looked up with the first start.
            if started {
                endpoint.network_id = id;
            }
            if started || record.primary() != Some(key) {
                crate::networks::name_endpoint(
                    &mut endpoint,
                    &record.id,
                    &record.name,
                    &start::chosen_hostname(record),
                );
            }
            planned.entry(name).or_insert(endpoint);
        }
        planned
    }

    /// Those that run on the host's own network; the networks' state knows nothing of them.
    pub(crate) fn on_host_network(&self) -> Vec<(ContainerId, String, Endpoint)> {
        let endpoint = |container: &Arc<Container>| {
            let live = container.live();
            if !live.is_running() || live.record.spec.host.network_mode != NetworkMode::Host {
                return None;
            }
            let endpoint = live.run.attachment.endpoints.values().next()?;
            Some((container.id.clone(), live.record.name.clone(), Endpoint::clone(endpoint)))
        };
        self.engine.table().all().iter().filter_map(endpoint).collect()
    }

    /// Its network is another one now: record, hosts file, resolv.conf.
    pub(super) fn attached(&self, container: &Arc<Container>, record: &Record, attachment: &Attachment) -> Result<()> {
        let before = {
            let mut live = container.live();
            let before = std::mem::replace(&mut live.run.attachment, attachment.clone());
            // What its processes were told stays so until it starts again.
            live.run.attachment.link_env.clone_from(&before.link_env);
            drop(self.save(&live));
            before
        };
        let paths = Paths::new(self.engine.config(), &container.id);
        start::rewrite_files(record, &before, attachment, &paths)
    }
}
