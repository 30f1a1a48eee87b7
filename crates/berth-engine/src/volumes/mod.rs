//! Volumes: folders that outlive containers.
//!
//! ```text
//! <data-root>/volumes/<name>/_data         what containers see
//! <data-root>/volumes/<name>/volume.json   driver options, labels, time; beside the folder, so that
//!                                          they cannot disagree
//! <data-root>/volumes/.new-*, .gone-*      half made or half removed: removed by the next engine
//! ```
//!
//! A volume appears and disappears by a rename. One that a container names, or that a container which is
//! just being made has pinned, is not removed. The only driver is `local`; with `type`, `device` and `o` a
//! volume stands for a file system that is mounted in each container that uses it, never on the host.

mod backups;
mod local;
mod shared;

pub use backups::{Backup, BackupWish};
pub(crate) use shared::{Pin, Shared};

use crate::containers::{FileSystem, ListOptions};
use crate::events::{EventKind, now_unix_nanos};
use crate::{Engine, Filters};
use berth_types::spec::MountKind;
use berth_types::{ContainerId, Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Marks volumes that nobody named, as Docker does it; `prune` removes only those unless told otherwise.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// The engine's volumes.
#[derive(Clone)]
pub struct Volumes {
    engine: Engine,
}

/// What to make. An empty name asks for a random one (an anonymous volume).
#[derive(Debug, Clone, Default)]
pub struct VolumeCreate {
    pub name: String,
    /// `""` or `local`.
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// The container that it is made with: an anonymous volume goes with a creation that was cut off.
    pub made_for: Option<ContainerId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub driver_options: BTreeMap<String, String>,
    pub created_unix_nanos: i64,
    /// Bytes and number of containers that use it; only where asked for (`df`).
    pub usage: Option<VolumeUsage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeUsage {
    pub size_bytes: u64,
    pub references: u64,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub deleted: Vec<String>,
    pub space_reclaimed_bytes: u64,
}

impl Volume {
    /// What it stands for where driver options say so.
    pub(crate) fn file_system(&self) -> Option<FileSystem> {
        local::file_system(&self.driver_options)
    }
}

/// Runs disk work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("volume work ended early: {error}"))),
    }
}

fn no_such(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

impl Volumes {
    pub(crate) fn new(engine: Engine) -> Volumes {
        Volumes { engine }
    }

    fn shared(&self) -> std::sync::Arc<Shared> {
        self.engine.volume_state().clone()
    }

    /// Makes a volume; one of that name with the same driver and options is answered as it is.
    pub async fn create(&self, request: VolumeCreate) -> Result<Volume> {
        let (volume, mut pin) = self.create_pinned(request).await?;
        pin.keep();
        Ok(volume)
    }

    /// The same, for a container that is being made: pinned until its record is stored. Dropping the pin
    /// removes an anonymous volume again.
    pub(crate) async fn create_pinned(&self, request: VolumeCreate) -> Result<(Volume, Pin)> {
        let shared = self.shared();
        let (volume, pin, made) = blocking(move || shared.create(request)).await?;
        if made {
            self.tell("create", &volume.name);
        }
        Ok((volume, pin))
    }

    /// Keeps an existing volume from being removed.
    pub(crate) fn pin(&self, name: &str) -> Pin {
        self.shared().pin(name, false)
    }

    pub async fn inspect(&self, name: &str) -> Result<Volume> {
        self.shared().get(name)?.ok_or_else(|| no_such(name))
    }

    /// Filters: dangling, driver, label, name.
    pub async fn list(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters.only(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.boolean("dangling")?;
        let used = if dangling.is_some() { self.users().await? } else { BTreeMap::new() };
        let shared = self.shared();
        let all = blocking(move || shared.list()).await?;
        let matches = |volume: &Volume| {
            dangling.is_none_or(|wanted| wanted != used.contains_key(&volume.name))
                && filters.exact("driver", &volume.driver)
                && filters.fuzzy("name", &volume.name)
                && filters.labels(&volume.labels)
        };
        Ok(all.into_iter().filter(matches).collect())
    }

    /// All volumes with bytes on disk and number of users.
    pub(crate) async fn usage(&self) -> Result<Vec<Volume>> {
        let used = self.users().await?;
        let shared = self.shared();
        blocking(move || {
            let mut all = shared.list()?;
            for volume in &mut all {
                let references = used.get(&volume.name).map_or(0, |ids| ids.len() as u64);
                volume.usage = Some(VolumeUsage { size_bytes: shared.size_bytes(&volume.name), references });
            }
            Ok(all)
        })
        .await
    }

    /// Volume → ids of the containers that name it.
    async fn users(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let all = ListOptions { all: true, ..ListOptions::default() };
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.engine.containers().list(&all).await? {
            for point in &container.mounts {
                if point.kind == MountKind::Volume {
                    let ids = used.entry(point.name.clone()).or_default();
                    if ids.last().map(String::as_str) != Some(container.id.as_str()) {
                        ids.push(container.id.to_string());
                    }
                }
            }
        }
        Ok(used)
    }

    /// Removes the anonymous volumes of a container that never came to be.
    pub(crate) async fn remove_made_for(&self, id: &ContainerId) {
        let (shared, of) = (self.shared(), id.clone());
        let names = match blocking(move || shared.made_for(&of)).await {
            Ok(names) => names,
            Err(error) => return tracing::warn!(container = id.short(), %error, "its volumes are not known"),
        };
        for name in names {
            if let Err(error) = self.remove(&name, true).await {
                // Another container has taken it over.
                tracing::debug!(volume = name, %error, "volume stays");
            }
        }
    }

    /// Refused with a conflict while a container uses it. `force`: an absent volume is no error.
    pub async fn remove(&self, name: &str, force: bool) -> Result<()> {
        let shared = self.shared();
        if shared.get(name)?.is_none() {
            return if force { Ok(()) } else { Err(no_such(name)) };
        }
        if let Some(ids) = self.users().await?.get(name) {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", ids.join(", "))));
        }
        let owned = name.to_owned();
        if blocking(move || shared.remove(&owned)).await? {
            self.tell("destroy", name);
        }
        Ok(())
    }

    /// Removes unused anonymous volumes; with filter `all=true` unused named ones too.
    pub async fn prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(false);
        let used = self.users().await?;
        let shared = self.shared();
        let mut pruned = Pruned::default();
        let listed = self.shared();
        for volume in blocking(move || listed.list()).await? {
            let anonymous = volume.labels.contains_key(ANONYMOUS_LABEL);
            // One with options may keep its data elsewhere: never by a prune, as dockerd.
            let elsewhere = !volume.driver_options.is_empty();
            let spared = used.contains_key(&volume.name) || elsewhere || !(all || anonymous);
            if spared || !filters.labels(&volume.labels) {
                continue;
            }
            let (shared, name) = (shared.clone(), volume.name.clone());
            let removed = blocking(move || {
                let bytes = shared.size_bytes(&name);
                Ok(shared.remove(&name)?.then_some(bytes))
            });
            match removed.await {
                Ok(Some(bytes)) => {
                    self.tell("destroy", &volume.name);
                    pruned.space_reclaimed_bytes += bytes;
                    pruned.deleted.push(volume.name);
                }
                Ok(None) => {}
                // A container that is being made has taken it meanwhile.
                Err(error) => tracing::info!(volume = volume.name, %error, "volume not pruned"),
            }
        }
        let attributes = BTreeMap::from([("reclaimed".to_owned(), pruned.space_reclaimed_bytes.to_string())]);
        self.engine.events().publish(EventKind::Volume, "prune", "", attributes);
        Ok(pruned)
    }

    fn tell(&self, action: &str, name: &str) {
        let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
        self.engine.events().publish(EventKind::Volume, action, name, attributes);
    }
}

/// When a volume was made, for those that do not say so.
fn now() -> i64 {
    now_unix_nanos()
}
