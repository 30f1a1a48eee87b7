//! Removing a container: its record first, durably; then everything of it on the disk.

use super::record::{Cleaning, Container, Gone, Paths, TABLE_CONTAINER, TABLE_GONE, TABLE_RUN};
use super::{Containers, RemoveOptions, StopOptions, WaitCondition, WaitOutcome};
use crate::volumes::Pruned;
use crate::{Engine, Filters};
use berth_types::phase::Event;
use berth_types::{ContainerId, Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Containers {
    /// Removes it with its writable layer, log and files.
    pub async fn remove(&self, container: &str, options: RemoveOptions) -> Result<()> {
        let container = self.get(container)?;
        self.remove_inner(&container, options).await
    }

    pub(super) async fn remove_inner(&self, container: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        let _ops = container.ops.lock().await;
        let record = container.record();
        {
            let mut live = container.live();
            if live.removing {
                return Err(Error::conflict(format!("removal of container {} is already in progress", record.id)));
            }
            if live.is_restarting() && !options.force {
                return Err(Error::conflict(format!(
                    "cannot remove container \"/{}\": container is restarting: stop the container before removing or \
                     force remove",
                    record.name
                )));
            }
            if let Err(refusal) = live.run.phase.after(Event::RemoveAsked { force: options.force }) {
                return Err(Error::conflict(format!("cannot remove container \"{}\": {refusal}", record.name)));
            }
            live.removing = true;
            live.run.restart_due = false;
            if let Some(pending) = live.restarting.take() {
                pending.abort();
            }
        }
        if container.live().is_running() {
            let now = StopOptions { timeout_seconds: Some(0), signal: Some("KILL".to_owned()) };
            if let Err(error) = self.stop_inner(container, &now).await {
                container.live().removing = false;
                return Err(error);
            }
        }
        // One whose end cannot be written needs no record of it any more.
        let mut cleaned = container.live().cleaned.clone();
        cleaned.wait_for(|state| *state == Cleaning::Done).await.ok();
        let images = record.mounts.iter().filter(|point| !point.detail.layers.is_empty());
        let snapshots: Vec<String> = images.map(|point| point.driver.clone()).collect();
        let anonymous = record.mounts.iter().filter(|point| options.volumes && point.anonymous);
        let gone = Gone { volumes: anonymous.map(|point| point.name.clone()).collect() };
        let mut batch = berth_store::Batch::new();
        batch.delete(TABLE_CONTAINER, record.id.as_str());
        batch.delete(TABLE_RUN, record.id.as_str());
        if !gone.volumes.is_empty() {
            super::create::put(&mut batch, TABLE_GONE, &record.id, &gone)?;
        }
        if let Err(error) = self.engine.commit(batch).await {
            let mut live = container.live();
            (live.removing, live.dead) = (false, true);
            return Err(error);
        }
        self.engine.table().remove(container);
        self.finish_removal(&record.id, &gone, snapshots).await;
        for origin in record.template.iter().chain(record.image.iter().filter(|_| record.cloned)) {
            self.sweep_origin(origin).await;
        }
        if record.machine.is_some() {
            self.engine.machines().collect_bases(false);
        }
        if crate::guests::is_guest(&record.spec) {
            let engine = self.engine.clone();
            super::archive::blocking(move || {
                crate::guests::collect(&engine);
                Ok(())
            })
            .await
            .ok();
        }
        self.tell(container, "destroy", &[]);
        let outcome = {
            let mut live = container.live();
            live.attaches.clear();
            let outcome = WaitOutcome { exit_code: live.run.exit_code, error: None };
            std::mem::take(&mut live.waiters).into_iter().map(|waiter| (waiter, outcome.clone())).collect::<Vec<_>>()
        };
        for ((condition, waiter), outcome) in outcome {
            if condition != WaitCondition::NextExit {
                // Whoever waited may have gone.
                waiter.send(outcome).ok();
            }
        }
        Ok(())
    }

    /// Takes away what a removed container leaves on the disk, and then the note that there is something.
    pub(super) async fn finish_removal(&self, id: &ContainerId, gone: &Gone, snapshots: Vec<String>) {
        let (engine, of) = (self.engine.clone(), id.clone());
        let sweep = move || {
            sweep_folders(&engine, &of, &snapshots);
            Ok(())
        };
        if let Err(error) = super::archive::blocking(sweep).await {
            tracing::warn!(container = id.short(), %error, "not swept: the next engine does it");
            return;
        }
        for volume in &gone.volumes {
            if let Err(error) = self.engine.volumes().remove(volume, true).await {
                // Another container has taken it over.
                tracing::debug!(volume, %error, "volume stays");
            }
        }
        if !gone.volumes.is_empty() {
            let mut batch = berth_store::Batch::new();
            batch.delete(TABLE_GONE, id.as_str());
            // Nobody waits for it: kept, it only makes the next engine look for what is not there.
            self.engine.store().submit(batch, |result| {
                if let Err(error) = result {
                    tracing::warn!(%error, "a removal's note stays");
                }
            });
        }
    }

    /// Removes those that do not run. Filters: label, label!, until (as `until` key: seconds since 1970 or a Go duration).
    pub async fn prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.only(&["label", "label!", "until"])?;
        let until = filters.get("until").first().map(|text| crate::networks::until_nanos(text)).transpose()?;
        let mut pruned = Pruned::default();
        for container in self.engine.table().all() {
            let record = container.record();
            // A template stands still because it is one.
            if record.machine.is_some() || record.template.is_some() {
                continue;
            }
            let young = until.is_some_and(|until| record.created_unix_nanos > until);
            if container.live().is_running()
                || container.live().is_restarting()
                || young
                || !filters.labels(&record.spec.config.labels)
            {
                continue;
            }
            let bytes = self.engine.images().rootfs_usage(record.id.as_str()).unwrap_or_default().disk_bytes;
            match self.remove_inner(&container, RemoveOptions::default()).await {
                Ok(()) => {
                    pruned.deleted.push(record.id.to_string());
                    pruned.space_reclaimed_bytes += bytes;
                }
                Err(error) => tracing::info!(container = record.id.short(), %error, "not pruned"),
            }
        }
        let attributes = BTreeMap::from([("reclaimed".to_owned(), pruned.space_reclaimed_bytes.to_string())]);
        self.engine.events().publish(crate::events::EventKind::Container, "prune", "", attributes);
        Ok(pruned)
    }
}

/// Keys of all snapshots that are a container's: its own, and those of its image mounts.
pub(super) fn snapshots_of(engine: &Engine, id: &ContainerId) -> Vec<String> {
    let keys = engine.images().rootfs_keys().unwrap_or_default();
    keys.into_iter().filter(|key| key.starts_with(id.as_str()) && key != id.as_str()).collect()
}

/// Snapshots, folder, log, shim's folder, a machine's disks.
pub(super) fn sweep_folders(engine: &Engine, id: &ContainerId, snapshots: &[String]) {
    for key in snapshots.iter().map(String::as_str).chain([id.as_str()]) {
        if let Err(error) = engine.images().remove_rootfs(key) {
            tracing::warn!(key, %error, "snapshot not removed");
        }
    }
    crate::machines::remove_files(engine, id);
    let paths = Paths::new(engine.config(), id);
    for folder in [&paths.folder, &paths.shim] {
        if let Err(error) = std::fs::remove_dir_all(folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "folder not removed");
        }
    }
}
