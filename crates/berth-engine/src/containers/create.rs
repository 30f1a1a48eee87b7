//! Making a container.
//!
//! ```text
//!  name reserved - image - merge, validate - volumes - snapshot, folder - copy-up - RECORD - event, answer
//! ```
//!
//! Everything before the record is undone when a step fails, and swept by the next engine when this one is
//! killed: a snapshot, folder or volume that no record names belongs to nobody. The record is the one
//! durable write.

use super::record::{Container, Paths, Record, Run, TABLE_CONTAINER, TABLE_RUN, log_path, random_bytes};
use super::{Containers, Created, mounts, names, unhealthy};
use crate::images::platform;
use crate::oci;
use berth_shim_proto::{LogFormat, LogTarget};
use berth_types::mount::Rootfs;
use berth_types::spec::{ContainerSpec, ImageDefaults, IpcMode, NamespaceMode, NetworkMode};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use std::path::Path;

/// Of a log whose owner says nothing: bounded, unlike Docker's.
const LOG_BYTES_MAX: u64 = 20 << 20;
const LOG_FILES_MAX: u32 = 5;
/// In a container's folder until its record is stored, where volumes may be made for it.
pub(super) const CREATING: &str = "creating.json";

/// Furnishes a machine for an id and completes its specification; may block. What it leaves on the disk is removed
/// with the rest where a later step fails.
pub(crate) struct Wish(pub(crate) Box<Furnish>);
type Furnish = dyn FnOnce(&ContainerId, &mut ContainerSpec) -> Result<crate::machines::Furnished> + Send;

impl Containers {
    /// `cloned`: its image was made for clones, and goes with the last of them.
    pub(super) async fn create_inner(
        &self,
        name: Option<String>,
        mut spec: ContainerSpec,
        machine: Option<Wish>,
        cloned: bool,
    ) -> Result<Created> {
        let engine = &self.engine;
        let id = ContainerId::from_bytes(random_bytes()?);
        let name = Name::reserve(self, name, &id)?;

        let mut undo = Undo { containers: self.clone(), id: id.clone(), done: false };
        let image = match &machine {
            None => {
                let image = engine.images().resolve(&spec.config.image)?;
                if let Some(wanted) = spec.platform.as_deref().filter(|text| !text.is_empty()) {
                    let of = &image.defaults;
                    platform::check(&spec.config.image, wanted, &of.architecture, &of.variant)?;
                }
                oci::merge(&mut spec, &image.defaults);
                Some(image)
            }
            Some(_) => None,
        };
        let mut furnished = None;
        if let Some(Wish(furnish)) = machine {
            let (of, mut unfinished) = (id.clone(), spec);
            let done = super::archive::blocking(move || Ok((furnish(&of, &mut unfinished)?, unfinished))).await?;
            furnished = Some(done.0);
            spec = done.1;
        }
        self.complete(&mut spec, &id)?;
        let command = oci::command(&spec)?;
        let warnings = oci::validate(&spec, oci::HostFacts::get())?;
        for (network, endpoint) in &spec.endpoints {
            // One that is not there may be by the start.
            if let Ok(network) = engine.networks().network(network)
                && network.driver.has_addresses()
            {
                engine
                    .networks()
                    .check_endpoint(&network, endpoint)
                    .map_err(|error| error.context(format!("invalid config for network {}", network.name)))?;
            }
        }
        crate::guests::check(engine, &spec)?;
        oci::health_process(&spec)?;
        unhealthy::check(&spec)?;
        // What the engine's own options say about the log is checked with the container's.
        let log = self.log_target(&spec, &id)?;

        let has_mounts = !(spec.config.volumes.is_empty() && spec.host.binds.is_empty() && spec.host.mounts.is_empty());
        if has_mounts {
            let folder = Paths::new(engine.config(), &id).folder;
            super::archive::blocking(move || {
                let write = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join(CREATING), b""));
                write.map_err(|cause| cannot_make(&folder, &cause))
            })
            .await?;
        }
        let planned = mounts::plan(engine, &id, &spec).await?;
        let (images, paths) = (engine.images(), Paths::new(engine.config(), &id));
        let image_id = image.as_ref().map(|image| image.id);
        let jail = crate::machines::jail(engine);
        let (key, log_folder) = (id.clone(), log.path.parent().map(Path::to_owned));
        let rootfs = super::archive::blocking(move || {
            std::fs::create_dir_all(&paths.folder).map_err(|cause| cannot_make(&paths.folder, &cause))?;
            if let Some(folder) = log_folder {
                std::fs::create_dir_all(&folder).map_err(|cause| cannot_make(&folder, &cause))?;
            }
            match image_id {
                Some(image) => images.prepare_rootfs(key.as_str(), &image),
                None => Ok(Rootfs::Directory { path: jail }),
            }
        })
        .await?;
        let mut points = planned.mounts;
        mounts::populate(engine, &rootfs, &points).await?;
        for point in &mut points {
            point.detail.copy_up = false;
        }

        let parted = self.leaves_primary(&spec);
        let record = Record {
            cgroup: oci::cgroup_path(&engine.config().cgroup_parent, &spec, &id),
            name: name.name.clone(),
            created_unix_nanos: crate::events::now_unix_nanos(),
            image: image_id,
            platform: image.map_or_else(|| platform(&ImageDefaults::default()), |image| platform(&image.defaults)),
            machine: furnished.as_ref().map(|furnished| furnished.record.clone()),
            command,
            mounts: points,
            rootfs,
            log,
            spec,
            parted,
            template: None,
            cloned,
            id: id.clone(),
        };
        let run = Run::default();
        let mut batch = berth_store::Batch::new();
        put(&mut batch, TABLE_CONTAINER, &id, &record)?;
        put(&mut batch, TABLE_RUN, &id, &run)?;
        engine.commit(batch).await?;
        let container = Container::new(record, run);
        engine.table().insert(container.clone());
        undo.done = true;
        // From here on the record keeps what the machine stands on.
        drop(furnished);
        name.keep();
        planned.pins.keep();
        if has_mounts {
            // Left behind it only says what the record denies.
            std::fs::remove_file(Paths::new(engine.config(), &id).folder.join(CREATING)).ok();
        }
        self.tell(&container, "create", &[]);
        Ok(Created { id, warnings })
    }

    /// Names of other containers become ids, and the host name is decided.
    fn complete(&self, spec: &mut ContainerSpec, id: &ContainerId) -> Result<()> {
        let resolve = |name: &mut String| -> Result<()> {
            // "Not found" would make clients look for the image.
            *name = self.get(name).map_err(|cause| Error::invalid(cause.message))?.id.to_string();
            Ok(())
        };
        self.check_links(spec)?;
        if let NetworkMode::Container(name) = &mut spec.host.network_mode {
            resolve(name)?;
        }
        if let IpcMode::Container(name) = &mut spec.host.ipc_mode {
            resolve(name)?;
            let other = self.get(name)?;
            if matches!(other.record().spec.host.ipc_mode, IpcMode::Default | IpcMode::Private | IpcMode::None) {
                return Err(Error::invalid(format!(
                    "cannot join IPC of container {}: non-shareable IPC",
                    other.name()
                ))
                .with_hint("start that one with --ipc shareable"));
            }
        }
        if let NamespaceMode::Container(name) = &mut spec.host.pid_mode {
            resolve(name)?;
        }
        if spec.config.hostname.is_empty() {
            let uname = rustix::system::uname();
            spec.config.hostname = match &spec.host.network_mode {
                NetworkMode::Host => uname.nodename().to_string_lossy().into_owned(),
                _ if spec.host.uts_mode == NamespaceMode::Host => uname.nodename().to_string_lossy().into_owned(),
                NetworkMode::Container(other) => self.get(other)?.record().spec.config.hostname.clone(),
                _ => id.short().to_owned(),
            };
        }
        if spec.host.runtime.is_empty() && spec.host.isolation.is_empty() && !spec.config.image.is_empty() {
            // What machines themselves are made of has no image.
            spec.host.runtime.clone_from(&self.engine.config().default_runtime);
        }
        if spec.host.log.driver.is_empty() {
            let config = self.engine.config();
            spec.host.log.driver.clone_from(&config.log_driver);
            for (key, value) in &config.log_options {
                spec.host.log.options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }

    pub(super) fn log_target(&self, spec: &ContainerSpec, id: &ContainerId) -> Result<LogTarget> {
        let log = &spec.host.log;
        let format = match log.driver.as_str() {
            "none" => LogFormat::None,
            "local" => LogFormat::Local,
            _ => LogFormat::JsonFile,
        };
        let option = |key: &str| log.options.get(key).map(String::as_str);
        let bytes_max = match option("max-size") {
            Some("-1") => 0,
            Some(text) => oci::size_bytes(text)
                .ok_or_else(|| Error::invalid(format!("invalid value for log opt 'max-size': {text:?}")))?,
            None => LOG_BYTES_MAX,
        };
        let files_max = match option("max-file") {
            Some(text) => {
                text.parse().map_err(|_| Error::invalid(format!("invalid value for log opt 'max-file': {text:?}")))?
            }
            // Docker keeps one file when only the size is given.
            None if option("max-size").is_some() && format == LogFormat::JsonFile => 1,
            None => LOG_FILES_MAX,
        };
        let compress = option("compress")
            .map_or(format == LogFormat::Local, |text| matches!(text, "true" | "1" | "t" | "T" | "True" | "TRUE"));
        let folder = Paths::new(self.engine.config(), id).folder;
        Ok(LogTarget {
            format,
            path: log_path(&folder, id, &log.driver),
            bytes_max,
            files_max,
            compress,
            attributes: log_attributes(spec),
        })
    }
}

fn cannot_make(folder: &Path, cause: &std::io::Error) -> Error {
    let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
    Error::because(kind, format!("cannot make {}", folder.display()), cause)
}

/// Labels and variables that `--log-opt labels=` and `env=` ask to be in every record.
fn log_attributes(spec: &ContainerSpec) -> Option<serde_json::Value> {
    let wanted = |key: &str| -> Vec<String> {
        let text = spec.host.log.options.get(key).map_or("", String::as_str);
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let mut attributes = serde_json::Map::new();
    for name in wanted("labels") {
        if let Some(value) = spec.config.labels.get(&name) {
            attributes.insert(name, value.clone().into());
        }
    }
    for name in wanted("env") {
        let value = spec.config.env.iter().find_map(|entry| entry.strip_prefix(&name)?.strip_prefix('='));
        if let Some(value) = value {
            attributes.insert(name, value.into());
        }
    }
    let matching = |key: &str| spec.host.log.options.get(key).and_then(|text| regex::Regex::new(text).ok());
    if let Some(regex) = matching("labels-regex") {
        let labels = spec.config.labels.iter().filter(|(name, _)| regex.is_match(name));
        attributes.extend(labels.map(|(name, value)| (name.clone(), value.clone().into())));
    }
    if let Some(regex) = matching("env-regex") {
        let variables = spec.config.env.iter().filter_map(|entry| entry.split_once('='));
        let variables = variables.filter(|(name, _)| regex.is_match(name));
        attributes.extend(variables.map(|(name, value)| (name.to_owned(), value.into())));
    }
    (!attributes.is_empty()).then_some(serde_json::Value::Object(attributes))
}

/// Adds a record to a batch.
pub(super) fn put<T: serde::Serialize>(
    batch: &mut berth_store::Batch,
    table: &str,
    id: &ContainerId,
    value: &T,
) -> Result<()> {
    batch
        .put(table, id.as_str(), value)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write a container's record", &cause))
}

fn platform(image: &berth_types::spec::ImageDefaults) -> String {
    let os = if image.os.is_empty() { "linux" } else { &image.os };
    match image.architecture.as_str() {
        "" => os.to_owned(),
        architecture => format!("{os}/{architecture}"),
    }
}

/// A name that is given back unless the container comes to be.
struct Name {
    containers: Containers,
    id: ContainerId,
    name: String,
    kept: bool,
}

impl Name {
    fn reserve(containers: &Containers, name: Option<String>, id: &ContainerId) -> Result<Name> {
        let table = containers.engine.table();
        let name = match name {
            Some(name) => {
                check_name(&name)?;
                table.reserve(&name, id)?;
                name
            }
            None => {
                let mut attempt = 0;
                loop {
                    let name = names::generate(random_bytes()?, attempt);
                    if table.reserve(&name, id).is_ok() {
                        break name;
                    }
                    attempt += 1;
                }
            }
        };
        Ok(Name { containers: containers.clone(), id: id.clone(), name, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !self.kept {
            self.containers.engine.table().release(&self.name, &self.id);
        }
    }
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, as Docker has it.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if first && rest && name.len() > 1 {
        return Ok(());
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// Removes what a failed creation left on the disk. Volumes go with their pins.
struct Undo {
    containers: Containers,
    id: ContainerId,
    done: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (engine, id) = (self.containers.engine.clone(), self.id.clone());
        let gone = super::remove::snapshots_of(&engine, &id);
        drop(tokio::task::spawn_blocking(move || super::remove::sweep_folders(&engine, &id, &gone)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_docker_allows() {
        for good in ["web", "a1", "0.b_c-d"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-web", "we b", "a/b", "ü1"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn log_options_name_labels_and_variables_for_every_record() {
        let mut spec = ContainerSpec::default();
        spec.config.labels.insert("tier".to_owned(), "web".to_owned());
        spec.config.env = vec!["A=1".to_owned(), "B=2".to_owned()];
        assert_eq!(log_attributes(&spec), None);
        spec.host.log.options.insert("labels".to_owned(), "tier,none".to_owned());
        spec.host.log.options.insert("env-regex".to_owned(), "^B".to_owned());
        assert_eq!(log_attributes(&spec), Some(serde_json::json!({"tier": "web", "B": "2"})));
    }
}
