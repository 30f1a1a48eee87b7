//! Templates and clones: containers that begin with another one's files.
//!
//! ```text
//!  berth template golden       what golden wrote becomes a layer, once; golden is only there to be cloned
//!  berth clone golden web1     a container on that layer: nothing is copied, however many there are
//!  berth clone web web2        of any other container: its files as they are now, copied once for all that are asked for
//! ```
//!
//! The layer lies in an image without a name, which is used by all that stand on it and goes with the last of them: a template
//! can be removed before its clones, and nothing of them is hurt. A clone has the settings of its origin; what two
//! cannot both have (name, addresses, host name, ports of the host) is its own, and what belongs to nobody alone (named volumes,
//! folders of the host) is the same for both.

use super::record::{Container, Record};
use super::{Containers, Created, Inspect};
use crate::images::{CommitOptions, RemoveOptions};
use berth_types::spec::{ContainerSpec, EndpointSpec, ImageDefaults, NetworkMode};
use berth_types::{Digest, Error, Phase, Result};
use std::sync::Arc;

/// One operation makes at most so many.
const CLONES_MAX: usize = 256;

impl Containers {
    /// Makes a stopped container a template: it does not start any more, its files stay as they are, and clones of it
    /// begin with them.
    pub async fn template(&self, container: &str) -> Result<()> {
        let found = self.get(container)?;
        let _ops = found.ops.lock().await;
        let record = found.record();
        super::not_a_machine(&record, "make a container template of")?;
        let name = &record.name;
        if record.template.is_some() {
            return Err(Error::conflict(format!("container {name} is a template already")));
        }
        let stopped = {
            let live = found.live();
            matches!(live.run.phase, Phase::Created | Phase::Exited { .. }) && !live.is_restarting() && !live.removing
        };
        if !stopped {
            return Err(Error::conflict(format!("container {name} runs: a template stands still"))
                .with_hint(format!("berth stop {name}; berth clone {name} NEW needs no template")));
        }
        let image = self
            .image_of(&found, false)
            .await
            .map_err(|error| error.context(format!("cannot make container {name} a template")))?;
        let mut changed = (*record).clone();
        changed.template = Some(image);
        self.store_record(&changed).await?;
        {
            let mut live = found.live();
            live.record = Arc::new(changed);
            live.run.restart_due = false;
        }
        self.tell(&found, "template", &[]);
        Ok(())
    }

    /// Containers that begin with what another one's files are now, held still for a moment where it runs. `names`: as
    /// many as there are; an empty one is made up. Those that were made before one failed stay.
    pub async fn clone_container(&self, container: &str, names: &[String]) -> Result<Vec<Created>> {
        if names.is_empty() || names.len() > CLONES_MAX {
            return Err(Error::invalid(format!("{} clones: 1 to {CLONES_MAX} can be made at once", names.len())));
        }
        let found = self.get(container)?;
        let record = found.record();
        super::not_a_machine(&record, "clone")?;
        let failed = |error: Error| error.context(format!("cannot clone container {}", record.name));
        let (image, _ops) = match record.template {
            // Whoever removes the template meanwhile waits: its image is not swept before the first clone has it.
            Some(image) => {
                let ops = found.ops.lock().await;
                if found.live().removing {
                    return Err(failed(Error::conflict("it is being removed")));
                }
                (image, Some(ops))
            }
            None => (self.image_of(&found, true).await.map_err(failed)?, None),
        };
        let spec = self.spec_like(&record, &image);
        let mut made = Vec::new();
        let mut outcome = Ok(());
        for name in names {
            let name = Some(name.clone()).filter(|name| !name.is_empty());
            match self.create_inner(name, spec.clone(), None, true).await {
                Ok(one) => made.push(one),
                Err(error) => {
                    outcome = Err(failed(error));
                    break;
                }
            }
        }
        if made.is_empty() {
            self.sweep_origin(&image).await;
        }
        outcome.map(|()| made)
    }

    /// An image without a name of what its files are; the same operation makes only one.
    async fn image_of(&self, found: &Container, running_too: bool) -> Result<Digest> {
        let options = CommitOptions {
            container: found.id.to_string(),
            message: format!("{} of {}", if running_too { "clone" } else { "template" }, found.name()),
            pause: running_too,
            ..CommitOptions::default()
        };
        self.engine.images().commit(options).await
    }

    /// What somebody would ask for to get another one like it, on `image`.
    fn spec_like(&self, record: &Record, image: &Digest) -> ContainerSpec {
        let defaults = record.image.and_then(|id| self.engine.images().resolve(&id.to_string()).ok());
        let mut spec =
            asked_for(record.spec.clone(), record.id.short(), defaults.as_ref().map(|image| &*image.defaults));
        spec.config.image = image.to_string();
        spec.platform = None;
        alone(&mut spec);
        spec
    }

    /// Removes an image that was made for clones where nobody stands on it any more.
    pub(super) async fn sweep_origin(&self, image: &Digest) {
        let (images, id) = (self.engine.images(), image.to_string());
        // One that the user gave a name is the user's.
        let nameless = images.is_nameless(image);
        let all = self.engine.table().all();
        let used = all.iter().any(|one| {
            let record = one.record();
            record.image == Some(*image) || record.template == Some(*image)
        });
        if !nameless || used {
            return;
        }
        if let Err(error) = images.remove(&id, RemoveOptions { force: false, no_prune: true }).await {
            // Somebody made something from it a moment ago; `image prune` takes what nobody has.
            tracing::debug!(image = id, %error, "an origin of clones stays");
        }
    }
}

/// Refuses what a template does not do.
pub(super) fn not_a_template(record: &Record, what: &str) -> Result<()> {
    match record.template {
        None => Ok(()),
        Some(_) => Err(Error::conflict(format!("container {} is a template: it {what}", record.name))
            .with_hint(format!("berth clone {} NEW", record.name))),
    }
}

/// Takes out of a container's specification what its image says anyway, and what the engine chose from its id.
pub fn asked(found: &Inspect, image: Option<&ImageDefaults>) -> ContainerSpec {
    asked_for(found.spec.clone(), found.id.short(), image)
}

fn asked_for(mut spec: ContainerSpec, short_id: &str, image: Option<&ImageDefaults>) -> ContainerSpec {
    if let Some(image) = image {
        spec = without_defaults(spec, image);
    }
    if spec.config.hostname == short_id || spec.host.network_mode == NetworkMode::Host {
        spec.config.hostname.clear();
    }
    for endpoint in spec.endpoints.values_mut() {
        endpoint.aliases.retain(|alias| alias != short_id);
    }
    spec
}

/// What two of one kind cannot both have: ports of the host, addresses, a host name that somebody chose.
fn alone(spec: &mut ContainerSpec) {
    spec.config.hostname.clear();
    for binding in spec.host.port_bindings.values_mut().flatten() {
        binding.host_port = (0, 0);
    }
    for endpoint in spec.endpoints.values_mut() {
        let EndpointSpec { ipv4_address, ipv6_address, mac_address, .. } = endpoint;
        (*ipv4_address, *ipv6_address) = (None, None);
        mac_address.clear();
    }
}

fn without_defaults(mut spec: ContainerSpec, image: &ImageDefaults) -> ContainerSpec {
    let (own, defaults) = (&mut spec.config, &image.config);
    own.env.retain(|entry| !defaults.env.contains(entry));
    own.labels.retain(|name, value| defaults.labels.get(name) != Some(value));
    own.exposed_ports.retain(|port| !defaults.exposed_ports.contains(port));
    own.volumes.retain(|path| !defaults.volumes.contains(path));
    if own.cmd == defaults.cmd && own.entrypoint == defaults.entrypoint {
        own.cmd = None;
    }
    if own.entrypoint == defaults.entrypoint {
        own.entrypoint = None;
    }
    if own.user == defaults.user {
        own.user.clear();
    }
    if own.working_dir == defaults.working_dir || own.working_dir == "/" && defaults.working_dir.is_empty() {
        own.working_dir.clear();
    }
    if own.healthcheck == defaults.healthcheck {
        own.healthcheck = None;
    }
    if own.stop_signal == defaults.stop_signal {
        own.stop_signal = None;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::spec::PortBinding;

    #[test]
    fn what_the_image_says_is_not_kept_as_ones_own() {
        let mut image = ImageDefaults::default();
        image.config.env = vec!["PATH=/bin".to_owned()];
        image.config.cmd = Some(vec!["serve".to_owned()]);
        image.config.labels.insert("vendor".to_owned(), "x".to_owned());
        let mut spec = ContainerSpec { config: image.config.clone(), ..ContainerSpec::default() };
        spec.config.env.push("A=1".to_owned());
        spec.host.cap_add = vec!["NET_ADMIN".to_owned()];
        let own = without_defaults(spec, &image);
        assert_eq!(own.config.env, ["A=1"]);
        assert!(own.config.cmd.is_none() && own.config.labels.is_empty());
        assert_eq!(own.host.cap_add, ["NET_ADMIN"], "what no form shows is kept");
    }

    #[test]
    fn two_of_one_kind_do_not_want_the_same() {
        let mut spec = ContainerSpec::default();
        spec.config.hostname = "web".to_owned();
        let port = "80/tcp".parse().unwrap();
        let binding = PortBinding { host_ip: None, host_port: (8080, 8081) };
        spec.host.port_bindings.insert(port, vec![binding]);
        let address = Some("10.0.0.2".parse().unwrap());
        let aliases = vec!["db".to_owned()];
        let fixed = EndpointSpec {
            ipv4_address: address,
            mac_address: "02:00:00:00:00:01".to_owned(),
            aliases,
            ..Default::default()
        };
        spec.endpoints.insert("lan".to_owned(), fixed);
        alone(&mut spec);
        assert_eq!((spec.config.hostname.as_str(), spec.host.port_bindings[&port][0].host_port), ("", (0, 0)));
        let lan = &spec.endpoints["lan"];
        assert!(lan.ipv4_address.is_none() && lan.mac_address.is_empty());
        assert_eq!(lan.aliases, ["db"], "an alias may have several that answer");
    }
}
