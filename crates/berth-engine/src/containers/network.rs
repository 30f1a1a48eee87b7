//! A container joins and leaves networks: while it runs, and while it does not.
//!
//! What it is to join stands in its record's endpoints; what it has while it runs, in its attachment. Its hosts file and
//! resolv.conf are bound into it, so they are changed in place.

use super::record::{Container, Paths, Record};
use super::{Containers, start};
use crate::networks::{Attachment, Driver, Network};
use berth_types::spec::{EndpointSpec, NetworkMode};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::sync::Arc;

fn forbidden(words: impl Into<String>) -> Error {
    Error::new(ErrorKind::Forbidden, words)
}

/// The network that it starts with.
fn primary(mode: &NetworkMode) -> Option<&str> {
    match mode {
        NetworkMode::Default => Some("bridge"),
        NetworkMode::Named(name) if name == "default" => Some("bridge"),
        NetworkMode::Named(name) => Some(name),
        NetworkMode::None => Some("none"),
        NetworkMode::Host | NetworkMode::Container(_) => None,
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
        match (&record.spec.host.network_mode, network.driver) {
            (NetworkMode::Host, _) => {
                return Err(forbidden(
                    "container sharing network namespace with host cannot be connected to any other network",
                ));
            }
            (NetworkMode::Container(_), _) => {
                return Err(forbidden(
                    "container sharing network namespace with another container or host cannot be connected to any other network",
                ));
            }
            (_, Driver::Host) => {
                return Err(forbidden(
                    "cannot connect container to host network - container must be created in host network mode",
                ));
            }
            (NetworkMode::None, _) | (_, Driver::Null) => {
                return Err(forbidden(
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode",
                ));
            }
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
        let planned = record.spec.endpoints.keys().any(|key| means(network, key))
            || primary(&record.spec.host.network_mode).is_some_and(|name| means(network, name));
        if planned {
            return Err(forbidden(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        let mut changed = (*record).clone();
        changed.spec.endpoints.insert(network.name.clone(), spec.clone());
        if pid.is_some() {
            let hostname = start::chosen_hostname(&record);
            let mut attachment = self.engine.networks().join(&found.id, network, spec, hostname).await?;
            attachment.neighbours.extend(self.still_linked(&record));
            self.attached(&found, &record, &attachment)?;
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
        if matches!(record.spec.host.network_mode, NetworkMode::Host) {
            return Err(forbidden("container cannot be disconnected from host network or connected to host network"));
        }
        let pid = found.live().run.phase.pid();
        let mut changed = (*record).clone();
        let before = changed.spec.endpoints.len();
        changed.spec.endpoints.retain(|key, _| !means(network, key));
        let is_primary = primary(&record.spec.host.network_mode).is_some_and(|name| means(network, name));
        if pid.is_none() && before == changed.spec.endpoints.len() && !is_primary {
            return Err(forbidden(format!("container {} is not connected to network {}", found.id, network.name)));
        }
        if is_primary {
            // The next one is what it starts with from now on; without any it has only loopback.
            let next = changed.spec.endpoints.keys().next().cloned();
            changed.spec.host.network_mode = next.map_or(NetworkMode::None, NetworkMode::Named);
        }
        if pid.is_some() {
            let mut attachment = self.engine.networks().part(&found.id, network).await?;
            attachment.neighbours.extend(self.still_linked(&record));
            self.attached(&found, &record, &attachment)?;
        }
        self.store_record(&changed).await?;
        found.live().record = Arc::new(changed);
        Ok(())
    }

    /// Its network is another one now: record, hosts file, resolv.conf.
    pub(super) fn attached(&self, container: &Arc<Container>, record: &Record, attachment: &Attachment) -> Result<()> {
        let before = {
            let mut live = container.live();
            let before = std::mem::replace(&mut live.run.attachment, attachment.clone());
            drop(self.save(&live));
            before
        };
        let paths = Paths::new(self.engine.config(), &container.id);
        start::rewrite_files(record, &before, attachment, &paths)
    }
}
