//! `--link`: other containers by names of one's own.
//!
//! On a user network the name server knows them. On the default bridge, which has no names, they stand in the hosts
//! file, and their ports and environment in the environment: whoever is linked must run first, and when it comes back
//! with another address the file follows.

use super::Containers;
use super::record::{Container, Record};
use crate::networks::Attachment;
use berth_types::spec::{ContainerSpec, EndpointSpec, NetworkMode, PortProto, Protocol};
use berth_types::{Error, ErrorKind, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// `name:alias`, or a name that is its own alias. dockerd's own `/name:/container/alias` is read as well.
fn parts(link: &str) -> Result<(&str, &str)> {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    let alias = alias.rsplit('/').next().unwrap_or_default();
    let name = name.trim_start_matches('/');
    if link.is_empty() {
        return Err(Error::invalid("empty string specified for links"));
    }
    if name.is_empty() || alias.is_empty() || alias.contains([':', ' ', '\t', '\n']) {
        return Err(Error::invalid(format!("bad format for links: {link}")));
    }
    Ok((name, alias))
}

fn on_default_bridge(mode: &NetworkMode) -> bool {
    match mode {
        NetworkMode::Default => true,
        NetworkMode::Named(name) => matches!(name.as_str(), "default" | "bridge"),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => false,
    }
}

/// On a user network the links belong to the endpoint there.
pub(super) fn of_endpoints(spec: &ContainerSpec, endpoints: &mut BTreeMap<String, EndpointSpec>) {
    if let NetworkMode::Named(name) = &spec.host.network_mode
        && !on_default_bridge(&spec.host.network_mode)
        && !spec.host.links.is_empty()
    {
        let links = &mut endpoints.entry(name.clone()).or_default().links;
        let more: Vec<String> = spec.host.links.iter().filter(|link| !links.contains(link)).cloned().collect();
        links.extend(more);
    }
}

impl Containers {
    /// Refuses links that cannot be understood or that name nobody.
    pub(super) fn check_links(&self, spec: &ContainerSpec) -> Result<()> {
        for link in &spec.host.links {
            let (name, _) = parts(link)?;
            // "Not found" would make clients look for the image.
            let other = self.get(name).map_err(|cause| {
                Error::invalid(cause.message).context(format!("could not get container for {name}"))
            })?;
            if other.record().spec.host.network_mode == NetworkMode::Host {
                return Err(Error::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
                ));
            }
        }
        Ok(())
    }

    /// Addresses and names for the hosts file of a container that starts: all of them must be there.
    pub(super) fn linked(&self, record: &Record) -> Result<Vec<(IpAddr, String)>> {
        let links = self.each_linked(record).collect::<Result<Vec<_>>>()?;
        Ok(links.into_iter().flatten().collect())
    }

    /// The same of one that runs: those that are there.
    pub(super) fn still_linked(&self, record: &Record) -> Vec<(IpAddr, String)> {
        self.each_linked(record).filter_map(Result::ok).flatten().collect()
    }

    fn each_linked<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = Result<Vec<(IpAddr, String)>>> + 'a {
        let links = if on_default_bridge(&record.spec.host.network_mode) { &record.spec.host.links[..] } else { &[] };
        links.iter().map(|link| {
            let (name, alias) = parts(link)?;
            let other = self.get(name)?;
            let addresses = addresses(&other);
            if addresses.is_empty() {
                let words =
                    format!("Cannot link to a non running container: /{} AS /{}/{alias}", other.name(), record.name);
                return Err(Error::new(ErrorKind::Conflict, words).with_hint(format!("berth start {name}")));
            }
            let names = names(&other, alias);
            Ok(addresses.into_iter().map(|address| (address, names.clone())).collect())
        })
    }

    /// What the processes of a container that starts are told of those that it links to.
    pub(super) fn link_env(&self, record: &Record) -> Vec<String> {
        if !on_default_bridge(&record.spec.host.network_mode) {
            return Vec::new();
        }
        let told = |link: &String| {
            let (name, alias) = parts(link).ok()?;
            let other = self.get(name).ok()?;
            let address = addresses(&other).into_iter().next()?;
            Some(environment(alias, &format!("/{}/{alias}", record.name), address, &other.record()))
        };
        record.spec.host.links.iter().filter_map(told).flatten().collect()
    }

    /// The links as `inspect` shows them: `/other:/container/alias`.
    pub(super) fn shown_links(&self, record: &Record) -> Vec<String> {
        if !on_default_bridge(&record.spec.host.network_mode) {
            return record.spec.host.links.clone();
        }
        let shown = |link: &String| {
            let (name, alias) = parts(link).ok()?;
            Some(format!("/{}:/{}/{alias}", self.get(name).ok()?.name(), record.name))
        };
        record.spec.host.links.iter().filter_map(shown).collect()
    }

    /// Takes one link away; `false`: there is none of that name.
    pub async fn unlink(&self, container: &str, alias: &str) -> Result<bool> {
        let Ok(found) = self.get(container) else { return Ok(false) };
        let _ops = found.ops.lock().await;
        let mut changed = (*found.record()).clone();
        let before = changed.spec.host.links.len();
        changed.spec.host.links.retain(|link| parts(link).map_or(true, |(_, known)| known != alias));
        if changed.spec.host.links.len() == before {
            return Ok(false);
        }
        self.store_record(&changed).await?;
        found.live().record = Arc::new(changed);
        Ok(true)
    }

    /// `started` may have another address now: whoever is linked to it learns it.
    pub(super) fn relink(&self, started: &Arc<Container>) {
        for container in self.engine.table().linking() {
            let record = container.record();
            if !on_default_bridge(&record.spec.host.network_mode) || record.spec.host.links.is_empty() {
                continue;
            }
            let mut attachment: Attachment = {
                let live = container.live();
                match live.run.phase.pid() {
                    Some(_) => live.run.attachment.clone(),
                    None => continue,
                }
            };
            let before = attachment.neighbours.clone();
            let aliases = record.spec.host.links.iter().filter_map(|link| {
                let (name, alias) = parts(link).ok()?;
                let means = self.get(name).is_ok_and(|other| other.id == started.id);
                means.then(|| names(started, alias))
            });
            let aliases: Vec<String> = aliases.collect();
            let id = started.id.short();
            attachment.neighbours.retain(|(_, names)| !names.split(' ').any(|word| word == id));
            for address in addresses(started) {
                attachment.neighbours.extend(aliases.iter().map(|names| (address, names.clone())));
            }
            if !aliases.is_empty()
                && attachment.neighbours != before
                && let Err(error) = self.attached(&container, &record, &attachment)
            {
                tracing::warn!(container = container.id.short(), %error, "its hosts file does not know a link's address");
            }
        }
    }
}

/// On the default bridge; empty where it does not run or is not there.
fn addresses(container: &Container) -> Vec<IpAddr> {
    let live = container.live();
    match (live.run.phase.pid(), live.run.attachment.endpoints.get("bridge")) {
        (Some(_), Some(endpoint)) => endpoint.addresses(),
        _ => Vec::new(),
    }
}

/// What the hosts file calls it: the alias, its short id, its name.
fn names(container: &Container, alias: &str) -> String {
    let name = container.name();
    let own = if name == alias { String::new() } else { format!(" {name}") };
    format!("{alias} {}{own}", container.id.short())
}

impl Record {
    /// Its specification, with what its processes are told of linked containers before their own environment.
    pub(super) fn told(&self, attachment: &Attachment) -> Cow<'_, ContainerSpec> {
        if attachment.link_env.is_empty() {
            return Cow::Borrowed(&self.spec);
        }
        let mut spec = self.spec.clone();
        spec.config.env.splice(0..0, attachment.link_env.iter().cloned());
        Cow::Owned(spec)
    }
}

/// What dockerd tells of a linked container: its first port, every port, ranges of ports, its name, its environment.
fn environment(alias: &str, name: &str, address: IpAddr, theirs: &Record) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut ports: Vec<PortProto> = theirs.spec.config.exposed_ports.iter().copied().collect();
    ports.sort_by_key(|port| (port.protocol != Protocol::Tcp, port.protocol.as_str(), port.port));
    let url = |port: &PortProto| format!("{}://{address}:{}", port.protocol.as_str(), port.port);
    let key = |port: &PortProto| format!("{prefix}_PORT_{}_{}", port.port, port.protocol.as_str().to_uppercase());
    let mut env: Vec<String> = ports.first().map(|port| format!("{prefix}_PORT={}", url(port))).into_iter().collect();
    for port in &ports {
        let key = key(port);
        env.push(format!("{key}={}", url(port)));
        env.push(format!("{key}_ADDR={address}"));
        env.push(format!("{key}_PORT={}", port.port));
        env.push(format!("{key}_PROTO={}", port.protocol.as_str()));
    }
    let follows = |a: &PortProto, b: &PortProto| a.protocol == b.protocol && a.port.checked_add(1) == Some(b.port);
    for range in ports.chunk_by(follows) {
        let [first, .., last] = range else { continue };
        let key = key(first);
        env.push(format!("{key}_START={}", url(first)));
        env.push(format!("{key}_PORT_START={}", first.port));
        env.push(format!("{key}_END={}", url(last)));
        env.push(format!("{key}_PORT_END={}", last.port));
    }
    env.push(format!("{prefix}_NAME={name}"));
    let theirs = theirs.spec.config.env.iter().filter_map(|entry| entry.split_once('='));
    let told = theirs.filter(|(key, _)| !matches!(*key, "HOME" | "PATH"));
    env.extend(told.map(|(key, value)| format!("{prefix}_ENV_{key}={value}")));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_name_and_an_alias() {
        assert_eq!(parts("db").unwrap(), ("db", "db"));
        assert_eq!(parts("db:store").unwrap(), ("db", "store"));
        assert_eq!(parts("/db:/web/store").unwrap(), ("db", "store"));
        for bad in ["", ":", "db:", ":store", "db:store:x", "db:a b"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
