//! What an earlier engine left: containers that run on are adopted, those that ended are recorded, the rest is
//! swept.

use super::exited::{Ended, was_running};
use super::record::{Container, Paths, Record, Run, TABLE_CONTAINER, TABLE_RUN, shims_folder};
use super::{Containers, remove};
use crate::shim::Shim;
use berth_shim_proto::ShimPhase;
use berth_types::spec::RestartPolicy;
use berth_types::{Error, ErrorKind, Phase, Result};
use std::sync::Arc;
use std::time::Duration;

/// A shim that does not answer by then is counted as gone.
const DIAL_SECONDS_MAX: u64 = 5;

impl Containers {
    /// Once, before the first request.
    pub(crate) async fn recover(&self) -> Result<()> {
        let failed =
            |cause: berth_store::StoreError| Error::because(ErrorKind::DataLoss, "cannot read the containers", &cause);
        let runs = self.engine.store().list::<Run>(TABLE_RUN).map_err(failed)?;
        let mut runs: std::collections::BTreeMap<String, Run> =
            runs.into_iter().filter_map(|(id, run)| Some((id, run.ok()?))).collect();
        let mut found = Vec::new();
        for (id, record) in self.engine.store().list::<Record>(TABLE_CONTAINER).map_err(failed)? {
            match record {
                Ok(record) => {
                    let container = Container::new(record, runs.remove(&id).unwrap_or_default());
                    self.engine.table().insert(container.clone());
                    found.push(container);
                }
                Err(error) => tracing::error!(container = id, %error, "a container's record is damaged"),
            }
        }
        let mut adopted = Vec::new();
        let mut ended = Vec::new();
        for container in &found {
            let paths = Paths::new(self.engine.config(), &container.id);
            // The folder says more than the record, which is written behind.
            if !paths.shim.join("create.json").exists() && !was_running(container.phase()) {
                continue;
            }
            match Shim::dial(&paths.shim, Duration::from_secs(DIAL_SECONDS_MAX)).await {
                Ok((shim, incoming, state)) => match state.phase {
                    ShimPhase::Running { pid, started_unix_nanos, paused } => {
                        let mut live = container.live();
                        live.run.phase = if paused { Phase::Paused { pid } } else { Phase::Running { pid } };
                        live.run.started_unix_nanos = started_unix_nanos;
                        if !live.run.attachment.netns.as_os_str().is_empty() {
                            // The path that the engine before had was its own descriptor's.
                            live.run.attachment.netns = format!("/proc/{pid}/ns/net").into();
                        }
                        live.health = state.health;
                        live.shim = Some(shim.clone());
                        if live.run.attachment.endpoints.is_empty() && !live.run.attachment.netns.as_os_str().is_empty()
                        {
                            tracing::warn!(container = container.id.short(), "its network's record is lost");
                        }
                        adopted.push((container.clone(), shim, incoming));
                    }
                    ShimPhase::Exited(exit) => {
                        ended.push((container.clone(), Ended::Told(exit), Some((shim, incoming))))
                    }
                    // Never started: it goes with the connection.
                    ShimPhase::Created { .. } | ShimPhase::Empty => {
                        ended.push((container.clone(), Ended::ShimGone, None));
                    }
                },
                Err(_) => ended.push((container.clone(), Ended::ShimGone, None)),
            }
        }
        let attached =
            adopted.iter().map(|(container, ..)| (container.id.clone(), container.live().run.attachment.clone()));
        self.engine.networks().recover(attached.collect()).await?;
        for (container, shim, incoming) in adopted {
            let (cleaning, cleaned) = tokio::sync::watch::channel(false);
            container.live().cleaned = cleaned;
            self.supervise(&container, shim, incoming, None, cleaning);
        }
        for (container, how, connection) in ended {
            self.recover_ended(&container, how, connection);
        }
        self.sweep_strangers();
        for container in found.iter().filter(|container| {
            container.record().spec.host.auto_remove
                && matches!(container.phase(), Phase::Created | Phase::Exited { .. })
        }) {
            // Its end was the earlier engine's last deed.
            self.remove_behind(container);
        }
        self.restart_by_policy(&found);
        Ok(())
    }

    fn recover_ended(
        &self,
        container: &Arc<Container>,
        how: Ended,
        connection: Option<(Arc<Shim>, crate::shim::Incoming)>,
    ) {
        {
            // A start that the record did not hear of any more.
            let mut live = container.live();
            if !was_running(live.run.phase) && matches!(how, Ended::Told(_)) {
                live.run.phase = Phase::Running { pid: 1 };
            }
        }
        let (cleaning, cleaned) = tokio::sync::watch::channel(false);
        container.live().cleaned = cleaned;
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let (shim, incoming) = connection.map_or((None, None), |(shim, incoming)| (Some(shim), Some(incoming)));
            let reading = async {
                match incoming {
                    Some(mut incoming) => while incoming.next().await.is_some() {},
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = containers.exited(&container, how, shim, cleaning) => {}
                () = reading => {}
            }
        });
    }

    /// Shim folders and snapshots that no container has.
    fn sweep_strangers(&self) {
        let engine = self.engine.clone();
        drop(tokio::task::spawn_blocking(move || {
            let known = |name: &str| engine.table().contains(name.get(..64).unwrap_or(name));
            for entry in std::fs::read_dir(shims_folder(engine.config())).into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(|name| !known(name))
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(path = %entry.path().display(), %error, "not swept");
                }
            }
            for key in engine.images().rootfs_keys().unwrap_or_default() {
                if !known(&key)
                    && let Ok(id) = key.get(..64).unwrap_or(&key).parse()
                {
                    remove::sweep_folders(&engine, &id, &[key]);
                }
            }
        }));
    }

    /// After a reboot: those that ran and are to run always.
    fn restart_by_policy(&self, found: &[Arc<Container>]) {
        let boot = self.engine.boot_id();
        for container in found {
            let due = {
                let live = container.live();
                let policy = &live.record.spec.host.restart;
                let always = matches!(policy, RestartPolicy::Always)
                    || matches!(policy, RestartPolicy::UnlessStopped) && !live.run.stopped_by_user;
                let exited = matches!(live.run.phase, Phase::Exited { .. });
                always && exited && !live.run.boot_id.is_empty() && live.run.boot_id != *boot
            };
            if due {
                self.restart_later(container, Duration::from_millis(100));
            }
        }
    }
}
