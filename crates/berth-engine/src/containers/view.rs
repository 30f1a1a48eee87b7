//! Looking at containers: inspect and list.

use super::record::{Container, Paths, Record};
use super::{Containers, Inspect, Limited, ListOptions, Sizes, State, Summary};
use crate::events::EventKind;
use crate::networks::Attachment;
use berth_shim_proto::HealthStatus;
use berth_types::spec::NetworkMode;
use berth_types::{ContainerId, Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Containers {
    pub(crate) fn get(&self, container: &str) -> Result<Arc<Container>> {
        self.engine.table().get(container)
    }

    /// The id that a name, id or unique id prefix means, or Docker's `No such container: x`.
    pub async fn resolve(&self, container: &str) -> Result<ContainerId> {
        Ok(self.get(container)?.id.clone())
    }

    /// Its name and id, at no other cost.
    pub fn called(&self, container: &str) -> Result<(String, ContainerId)> {
        let found = self.get(container)?;
        Ok((found.record().name.clone(), found.id.clone()))
    }

    /// Publishes an event with Docker's attributes: image, name, labels.
    pub(super) fn tell(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let record = container.record();
        let mut attributes: BTreeMap<String, String> = record.spec.config.labels.clone();
        attributes.insert("image".to_owned(), record.spec.config.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.engine.events().publish(EventKind::Container, action, record.id.as_str(), attributes);
    }

    fn sizes(&self, container: &Container) -> Sizes {
        let record = container.record();
        let own = self.engine.images().rootfs_usage(record.id.as_str()).unwrap_or_default();
        let image = record.image.as_ref().map_or(0, |image| self.engine.images().size(image));
        Sizes { written_bytes: own.content_bytes, disk_bytes: own.disk_bytes, all_bytes: own.content_bytes + image }
    }

    /// Everything about it.
    pub async fn inspect(&self, container: &str, size: bool) -> Result<Inspect> {
        let container = self.get(container)?;
        let sizes = match size {
            true => {
                let (containers, of) = (self.clone(), container.clone());
                Some(super::archive::blocking(move || Ok(containers.sizes(&of))).await?)
            }
            false => None,
        };
        let paths = Paths::new(self.engine.config(), &container.id);
        let live = container.live();
        let record = live.record.clone();
        let mut command = record.command.iter().cloned();
        let networks = self.networks_of(&live);
        let mut spec = record.spec.clone();
        drop(live);
        // Of others: no lock of this one is held meanwhile.
        spec.host.links = self.shown_links(&record);
        let live = container.live();
        Ok(Inspect {
            id: record.id.clone(),
            name: record.name.clone(),
            created_unix_nanos: record.created_unix_nanos,
            spec,
            image_id: record.image,
            platform: record.platform.clone(),
            path: command.next().unwrap_or_default(),
            args: command.collect(),
            state: live.state(),
            restart_count: live.run.restart_count,
            resolv_conf_path: paths.resolv_conf,
            hostname_path: paths.hostname,
            hosts_path: paths.hosts,
            log_path: record.log.path.clone(),
            app_armor_profile: String::new(),
            exec_ids: live
                .execs
                .values()
                .filter(|exec| exec.started && exec.exit_code.is_none())
                .map(|exec| exec.id.clone())
                .collect(),
            // The root of a machine's jail is nothing that anybody put there.
            // Nor are the files of a container in a machine anywhere on this host.
            rootfs: (record.machine.is_none() && !crate::guests::is_guest(&record.spec)).then(|| record.rootfs.clone()),
            mounts: record.mounts.clone(),
            network: live.run.attachment.clone(),
            networks,
            sizes,
        })
    }

    /// The name that it was made by, as long as that still means the same image; else the image's id.
    fn shown_image(&self, record: &Record) -> String {
        let name = &record.spec.config.image;
        match record.image.filter(|own| self.engine.images().id_of(name).is_none_or(|now| now != *own)) {
            Some(own) => own.to_string(),
            None => name.clone(),
        }
    }

    fn summary(
        &self,
        container: &Container,
        record: &Record,
        state: State,
        network: Attachment,
        sizes: Option<Sizes>,
    ) -> Summary {
        Summary {
            id: record.id.clone(),
            name: record.name.clone(),
            image: self.shown_image(record),
            image_id: record.image,
            template: record.template,
            command: record.command.clone(),
            created_unix_nanos: record.created_unix_nanos,
            state,
            labels: record.spec.config.labels.clone(),
            network_mode: network_mode(&record.spec.host.network_mode),
            annotations: record.spec.host.annotations.clone(),
            network,
            networks: self.networks_of(&container.live()),
            exposed_ports: record.spec.config.exposed_ports.iter().copied().collect(),
            mounts: record.mounts.clone(),
            sizes,
        }
    }

    /// Those of `ids` that are there and no machines, whatever else there is.
    pub fn some<'a>(&self, ids: impl IntoIterator<Item = &'a String>) -> Vec<Summary> {
        let found = ids.into_iter().filter_map(|id| {
            let container = self.get(id).ok().filter(|found| found.id.as_str() == id)?;
            let (record, state, attachment) = {
                let live = container.live();
                (live.record.clone(), live.state(), live.run.attachment.clone())
            };
            record.machine.is_none().then(|| self.summary(&container, &record, state, attachment, None))
        });
        found.collect()
    }

    /// Those that `wanted` picks by state and labels, newest first, no machines; the others cost nothing.
    pub fn those(
        &self,
        mut wanted: impl FnMut(&ContainerId, &State, &BTreeMap<String, String>) -> bool,
    ) -> Vec<Summary> {
        let mut found = Vec::new();
        for container in self.engine.table().all() {
            let (record, state, attachment) = {
                let live = container.live();
                let state = live.state();
                if live.record.machine.is_some() || !wanted(&container.id, &state, &live.record.spec.config.labels) {
                    continue;
                }
                (live.record.clone(), state, live.run.attachment.clone())
            };
            found.push(self.summary(&container, &record, state, attachment, None));
        }
        found.sort_by_key(|one| std::cmp::Reverse(one.created_unix_nanos));
        found
    }

    /// Limits and labels of all that are no machines: for whoever adds them up, at no other cost.
    pub fn limits(&self) -> Vec<Limited> {
        let limited = |container: &Arc<Container>| {
            let (record, ended) = {
                let live = container.live();
                (live.record.clone(), live.state().has_ended())
            };
            let spec = &record.spec;
            record.machine.is_none().then(|| Limited {
                id: record.id.clone(),
                labels: spec.config.labels.clone(),
                resources: spec.host.resources.clone(),
                ended,
            })
        };
        self.engine.table().all().iter().filter_map(limited).collect()
    }

    /// Those that match, newest first.
    pub async fn list(&self, options: &ListOptions) -> Result<Vec<Summary>> {
        let filters = &options.filters;
        filters.only(&[
            "ancestor",
            "before",
            "expose",
            "exited",
            "health",
            "id",
            "is-task",
            "label",
            "label!",
            "name",
            "network",
            "publish",
            "since",
            "status",
            "volume",
            "isolation",
        ])?;
        for word in filters.get("status") {
            if !["created", "running", "paused", "restarting", "removing", "exited", "dead"].contains(&word.as_str()) {
                return Err(Error::invalid(format!(
                    "invalid filter 'status={word}': invalid value for state ({word}): must be one of created, \
                     running, paused, restarting, removing, exited, dead"
                )));
            }
        }
        for word in filters.get("health") {
            if !["none", "starting", "healthy", "unhealthy"].contains(&word.as_str()) {
                return Err(Error::invalid(format!(
                    "invalid filter 'health={word}': invalid value for health ({word}): must be one of none, \
                     starting, healthy, unhealthy"
                )));
            }
        }
        for code in filters.get("exited") {
            if code.parse::<i64>().is_err() {
                return Err(Error::invalid(format!(
                    "invalid filter 'exited={code}': strconv.Atoi: parsing {code:?}: invalid syntax"
                )));
            }
        }
        filters.boolean("is-task")?;
        let moment = |key: &str| -> Result<Option<i64>> {
            filters.get(key).first().map(|name| Ok(self.get(name)?.record().created_unix_nanos)).transpose()
        };
        let (before, since) = (moment("before")?, moment("since")?);
        let everything = options.all || options.limit > 0 || filters.contains("status") || filters.contains("exited");
        let ancestors: Vec<_> =
            filters.get("ancestor").iter().filter_map(|name| self.engine.images().resolve(name).ok()).collect();
        let mut all: Vec<Arc<Container>> = self.engine.table().all();
        all.sort_by_cached_key(|container| std::cmp::Reverse(container.record().created_unix_nanos));
        let mut found = Vec::new();
        for container in all {
            let (record, state, attachment) = {
                let live = container.live();
                (live.record.clone(), live.state(), live.run.attachment.clone())
            };
            if record.machine.is_some() {
                continue;
            }
            let running = state.phase.pid().is_some();
            let health = match state.health.as_ref().map(|health| health.status) {
                None => "none",
                Some(HealthStatus::Starting) => "starting",
                Some(HealthStatus::Healthy) => "healthy",
                Some(HealthStatus::Unhealthy) => "unhealthy",
            };
            let named =
                |key: &str, test: &dyn Fn(&String) -> bool| !filters.contains(key) || filters.get(key).iter().any(test);
            let ports = |wanted: &String, all: Vec<String>| {
                all.iter().any(|port| port == wanted || port.split('/').next() == Some(wanted))
            };
            let matches = (everything || running || state.restarting)
                && filters.exact("status", state.word().as_str())
                && filters.exact("health", health)
                && named("id", &|id| record.id.as_str().starts_with(id.as_str()))
                && named("name", &|name| {
                    record.name.contains(name.trim_start_matches(['/', '^']).trim_end_matches('$'))
                })
                && named("exited", &|code| {
                    matches!(state.phase, berth_types::Phase::Exited { .. }) && code.parse() == Ok(state.exit_code)
                })
                && named("volume", &|volume| {
                    record.mounts.iter().any(|point| point.name == *volume || point.target == *volume)
                })
                && named("network", &|name| {
                    self.networks_of(&container.live()).iter().any(|(key, endpoint)| {
                        key == name
                            || endpoint.network_id.as_ref().is_some_and(|id| id.as_str().starts_with(name.as_str()))
                    })
                })
                && named("ancestor", &|name| {
                    record.spec.config.image == *name
                        || ancestors.iter().any(|image| Some(&image.id) == record.image.as_ref())
                })
                && named("publish", &|port| ports(port, attachment.ports.keys().map(ToString::to_string).collect()))
                && named("expose", &|port| {
                    ports(port, record.spec.config.exposed_ports.iter().map(ToString::to_string).collect())
                })
                && before.is_none_or(|before| record.created_unix_nanos < before)
                && since.is_none_or(|since| record.created_unix_nanos > since)
                && filters.labels(&record.spec.config.labels);
            if !matches {
                continue;
            }
            let sizes = options.size.then(|| self.sizes(&container));
            found.push(self.summary(&container, &record, state, attachment, sizes));
            if options.limit > 0 && found.len() == options.limit {
                break;
            }
        }
        Ok(found)
    }
}

fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Named(name) => name.clone(),
    }
}
