//! What an earlier engine left: containers that run on are adopted, those that ended are recorded, the rest is
//! swept.
//!
//! ```text
//!  container/<id>, run/<id>   every container; those with a shim's folder, or that ran, are looked for:
//!      shim answers Running   adopted: same process, network, streams
//!      shim answers Exited    recorded as if it had just been told
//!      exit.json, no shim     the same
//!      no shim, no exit.json  what is left of it is killed; "its shim was killed"
//!      a shim on its way      (Create and Start were sent, the engine died) waited for, a few seconds at most
//!  gone/<id>                  removals that were cut off: finished
//!  folders, snapshots         that no record names: a creation or removal that was cut off
//! ```
//!
//! All of it is looked at before the first request, so that nothing of a new container is taken for a
//! leftover; what takes long (removing files) goes on behind.

use super::exited::{Ended, was_running};
use super::record::{
    Cleaning, Container, Gone, Paths, Record, Run, TABLE_CONTAINER, TABLE_GONE, TABLE_RUN, shims_folder,
};
use super::{Containers, RemoveOptions, create, exited, remove, start};
use crate::networks::Attachment;
use crate::shim::{Incoming, Shim, Spawned};
use berth_shim_proto::{HealthStatus, MADE, ShimPhase};
use berth_types::spec::RestartPolicy;
use berth_types::{ContainerId, Error, ErrorKind, Phase, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A shim that does not answer by then hangs, and is killed.
const ANSWER_SECONDS_MAX: u64 = 5;
/// How often a shim that is on its way is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// The pause before a restart by policy after the engine's own.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What shims of version 1 called [`MADE`].
const MADE_BEFORE: &str = "create.json";

/// Whether a shim began to make the container of `folder`.
fn was_made(folder: &Path) -> bool {
    [MADE, MADE_BEFORE].into_iter().any(|name| folder.join(name).exists())
}

/// Takes back that a container was made, before anything else of the folder goes: what is left of it then says
/// nothing about an end that the record knows better.
pub(super) fn unmade(folder: &Path) {
    for name in [MADE, MADE_BEFORE] {
        // One that was never made has no such file; of any other failure the sweep tells.
        std::fs::remove_file(folder.join(name)).ok();
    }
}

/// What became of a container's shim.
enum Found {
    Running {
        shim: Arc<Shim>,
        incoming: Incoming,
        state: berth_shim_proto::State,
    },
    Exited {
        how: Ended,
        connection: Option<(Arc<Shim>, Incoming)>,
    },
    /// It was killed, or never came to make the container.
    Nothing {
        made: bool,
    },
}

impl Containers {
    /// Once, before the first request.
    pub(crate) async fn recover(&self) -> Result<()> {
        let found = self.read_records()?;
        let mut looking = tokio::task::JoinSet::new();
        for container in &found {
            let folder = Paths::new(self.engine.config(), &container.id).shim;
            // The folder says more than the record, which is written behind.
            if folder.is_dir() || was_running(container.phase()) {
                let (container, boot) = (container.clone(), self.engine.boot_id().clone());
                looking.spawn(async move { (container, find(&folder, &boot).await) });
            }
        }
        let (mut adopted, mut ended) = (Vec::new(), Vec::new());
        while let Some(looked) = looking.join_next().await {
            let (container, found) =
                looked.map_err(|error| Error::internal(format!("looking for a shim ended early: {error}")))?;
            match found {
                Found::Running { shim, incoming, state } => {
                    self.adopt(&container, shim.clone(), state);
                    adopted.push((container, shim, incoming));
                }
                Found::Exited { how, connection } => ended.push((container, how, connection)),
                Found::Nothing { made } if made || was_running(container.phase()) => {
                    ended.push((container, Ended::ShimGone, None));
                }
                // A start that was cut off before there was anything: nobody was told that it runs.
                Found::Nothing { .. } => self.sweep_start(&container),
            }
        }
        let attached =
            adopted.iter().map(|(container, ..)| (container.id.clone(), container.live().run.attachment.clone()));
        self.engine.networks().recover(attached.collect()).await?;
        let mut busy: BTreeSet<ContainerId> = BTreeSet::new();
        for (container, shim, incoming) in adopted {
            let (cleaning, cleaned) = tokio::sync::watch::channel(Cleaning::Due);
            container.live().cleaned = cleaned;
            busy.insert(container.id.clone());
            self.supervise(&container, shim, incoming, None, cleaning);
            let health = container.live().health.as_ref().map(|health| health.status);
            if health == Some(HealthStatus::Unhealthy) {
                // It may have become so while nobody listened.
                self.look_after_unhealthy(&container);
            }
        }
        for (container, how, connection) in ended {
            if self.recover_ended(&container, how, connection) {
                busy.insert(container.id.clone());
            }
        }
        self.sweep_strangers()?;
        self.engine.machines().collect_bases(true);
        self.engine.machines().go_on();
        self.engine.machines().remove_tools();
        crate::guests::collect(&self.engine);
        for container in found.iter().filter(|container| !busy.contains(&container.id)) {
            self.restart_or_remove(container);
        }
        Ok(())
    }

    fn read_records(&self) -> Result<Vec<Arc<Container>>> {
        let failed =
            |cause: berth_store::StoreError| Error::because(ErrorKind::DataLoss, "cannot read the containers", &cause);
        let store = self.engine.store();
        let mut runs: BTreeMap<String, _> = store.list::<Run>(TABLE_RUN).map_err(failed)?.into_iter().collect();
        let mut found = Vec::new();
        for (id, record) in store.list::<Record>(TABLE_CONTAINER).map_err(failed)? {
            let run = match runs.remove(&id) {
                Some(Ok(run)) => run,
                Some(Err(error)) => {
                    tracing::error!(container = id, %error, "where it was in its life is lost");
                    Run::default()
                }
                None => Run::default(),
            };
            match record {
                Ok(record) => {
                    let container = Container::new(record, run);
                    self.engine.table().insert(container.clone());
                    found.push(container);
                }
                Err(error) => tracing::error!(container = id, %error, "a container's record is damaged"),
            }
        }
        Ok(found)
    }

    fn adopt(&self, container: &Container, shim: Arc<Shim>, state: berth_shim_proto::State) {
        let ShimPhase::Running { pid, started_unix_nanos, paused } = state.phase else { return };
        let folder = Paths::new(self.engine.config(), &container.id).shim;
        let mut live = container.live();
        if !was_running(live.run.phase) {
            // Its start was not written any more; what it had of the networks is in its folder.
            match read_attachment(&folder) {
                Some(attachment) => live.run.attachment = attachment,
                None => tracing::warn!(container = container.id.short(), "what it has of the networks is lost"),
            }
            live.run.error.clear();
            (live.run.stopped_by_user, live.run.restart_due) = (false, false);
            live.run.started_unix_nanos = started_unix_nanos;
        }
        if !live.run.attachment.netns.as_os_str().is_empty() {
            // The path that the engine before had was its own descriptor's.
            live.run.attachment.netns = format!("/proc/{pid}/ns/net").into();
        }
        live.run.phase = if paused { Phase::Paused { pid } } else { Phase::Running { pid } };
        live.run.exit_code = 0;
        live.health = state.health;
        live.shim = Some(shim);
        for exec in state.execs {
            let Ok(spec) = serde_json::from_value(exec.memo) else { continue };
            self.engine.table().add_exec(&exec.id, &container.id);
            let known = super::record::Exec {
                id: exec.id.clone(),
                spec,
                pid: exec.pid,
                started: true,
                exit_code: exec.exit.map(|status| i64::from(status.shell_code())),
                ended: exec.exit.map(|_| Instant::now()),
            };
            live.execs.insert(exec.id, known);
        }
        drop(self.save(&live));
    }

    /// `false`: the engine before had recorded this end and told of it, and was killed before it had cleaned away. That
    /// is done now; a restart or removal that was due still is.
    fn recover_ended(
        &self,
        container: &Arc<Container>,
        how: Ended,
        connection: Option<(Arc<Shim>, crate::shim::Incoming)>,
    ) -> bool {
        let told = match &how {
            Ended::Told(exit) => {
                let live = container.live();
                !was_running(live.run.phase) && live.run.last_exit.as_ref() == Some(exit)
            }
            Ended::ShimGone => false,
        };
        if !told {
            // A start that the record did not hear of any more.
            let mut live = container.live();
            if !was_running(live.run.phase) {
                live.run.phase = Phase::Running { pid: 1 };
            }
        }
        let (cleaning, cleaned) = tokio::sync::watch::channel(Cleaning::Due);
        container.live().cleaned = cleaned;
        let (exit, why) = match how {
            Ended::Told(exit) => (exit, ""),
            Ended::ShimGone => (exited::unknown_exit(container), exited::SHIM_KILLED),
        };
        // At once: the first request must not find one running that was seen to have ended.
        let end = if told { None } else { self.end_run(container, exit, why) };
        let left = (!why.is_empty()).then(|| container.record());
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            if let Some(record) = left {
                exited::kill_left(&record).await;
            }
            let (shim, incoming) = connection.map_or((None, None), |(shim, incoming)| (Some(shim), Some(incoming)));
            // Somebody must read the shim's answers, and its end is not the end of this.
            let reading = async {
                if let Some(mut incoming) = incoming {
                    while incoming.next().await.is_some() {}
                }
                std::future::pending::<()>().await
            };
            let cleaned = async {
                match end {
                    Some(end) => containers.after_end(&container, end, shim, cleaning).await,
                    None => containers.clean_up(&container, None, shim, &cleaning).await,
                }
            };
            tokio::select! {
                () = cleaned => {}
                () = reading => {}
            }
        });
        !told
    }

    /// Behind: what a start that came to nothing left.
    fn sweep_start(&self, container: &Arc<Container>) {
        let (cleaning, cleaned) = tokio::sync::watch::channel(Cleaning::Due);
        container.live().cleaned = cleaned;
        let (engine, record) = (self.engine.clone(), container.record());
        tokio::spawn(async move {
            exited::kill_left(&record).await;
            exited::sweep_run(&engine, &record, None).await;
            cleaning.send_replace(Cleaning::Done);
        });
    }

    /// Removals that were cut off, and folders and snapshots that no container has.
    fn sweep_strangers(&self) -> Result<()> {
        let failed =
            |cause: berth_store::StoreError| Error::because(ErrorKind::DataLoss, "cannot read the removals", &cause);
        let engine = self.engine.clone();
        let config = engine.config();
        let known = |name: &str| engine.table().contains(name.get(..64).unwrap_or(name));
        let mut strangers: BTreeMap<ContainerId, Vec<String>> = BTreeMap::new();
        let machines = [config.data_root.join("machines"), config.exec_root.join("machines")];
        for folder in [shims_folder(config), config.data_root.join("containers")].into_iter().chain(machines) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if let Some(Ok(id)) = entry.file_name().to_str().filter(|name| !known(name)).map(str::parse) {
                    strangers.entry(id).or_default();
                }
            }
        }
        for key in engine.images().rootfs_keys()? {
            if let Some(Ok(id)) = key.get(..64).filter(|_| !known(&key)).map(str::parse) {
                strangers.entry(id).or_default().push(key);
            }
        }
        let gone = self.engine.store().list::<Gone>(TABLE_GONE).map_err(failed)?;
        let gone: Vec<(ContainerId, Gone)> =
            gone.into_iter().filter_map(|(id, gone)| Some((id.parse().ok()?, gone.unwrap_or_default()))).collect();
        if strangers.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let containers = self.clone();
        tokio::spawn(async move {
            for (id, gone) in gone {
                let snapshots = strangers.remove(&id).unwrap_or_default();
                containers.finish_removal(&id, &gone, snapshots).await;
            }
            for (id, keys) in strangers {
                containers.sweep_stranger(id, keys).await;
            }
        });
        Ok(())
    }

    /// Of a creation that was cut off, or of a removal by an engine that kept no note of it.
    async fn sweep_stranger(&self, id: ContainerId, keys: Vec<String>) {
        let paths = Paths::new(self.engine.config(), &id);
        if paths.folder.join(create::CREATING).exists() {
            self.engine.volumes().remove_made_for(&id).await;
        }
        if let Some(spawned) = crate::shim::spawned(&paths.shim, self.engine.boot_id()) {
            spawned.kill();
        }
        let engine = self.engine.clone();
        let sweep = move || {
            remove::sweep_folders(&engine, &id, &keys);
            Ok(())
        };
        super::archive::blocking(sweep).await.ok();
    }

    /// One that does not run: started by its policy, removed where it was to go with its end, or left alone.
    fn restart_or_remove(&self, container: &Arc<Container>) {
        let (restart, remove) = {
            let live = container.live();
            let exited = matches!(live.run.phase, Phase::Exited { .. });
            let policy = match live.record.spec.host.restart {
                RestartPolicy::Always => exited,
                RestartPolicy::UnlessStopped => exited && !live.run.stopped_by_user,
                RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
            };
            let template = live.record.template.is_some();
            ((policy || live.run.restart_due) && !template, live.record.spec.host.auto_remove && !template)
        };
        if remove {
            let (containers, container) = (self.clone(), container.clone());
            tokio::spawn(async move {
                let options = RemoveOptions { force: false, volumes: true };
                if let Err(error) = containers.remove_inner(&container, options).await {
                    tracing::warn!(container = container.id.short(), %error, "not removed after its end");
                }
            });
        } else if restart {
            container.live().run.restart_due = true;
            self.restart_later(container, RESTART_PAUSE);
        }
    }
}

fn read_attachment(folder: &Path) -> Option<Attachment> {
    serde_json::from_slice(&std::fs::read(folder.join(start::ATTACHMENT)).ok()?).ok()
}

/// Looks for the shim of `folder` until it says what it has, has gone, or has had its time.
async fn find(folder: &Path, boot: &str) -> Found {
    let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS_MAX);
    let spawned: Option<Spawned> = crate::shim::spawned(folder, boot);
    loop {
        // Asked before the rest: whatever it did before it went can then be seen.
        let lives = spawned.is_some_and(Spawned::lives);
        let left = deadline.saturating_duration_since(Instant::now()).max(LOOK_AGAIN);
        if let Ok((shim, incoming, state)) = Shim::dial(folder, left).await {
            match state.phase.clone() {
                ShimPhase::Running { .. } => return Found::Running { shim, incoming, state },
                ShimPhase::Exited(exit) => {
                    return Found::Exited { how: Ended::Told(exit), connection: Some((shim, incoming)) };
                }
                // The engine died between Create and Start: it goes once nobody is connected.
                ShimPhase::Created { .. } | ShimPhase::Empty => {}
            }
        } else if let Some(exit) = exited::read_exit(folder) {
            return Found::Exited { how: Ended::Told(exit), connection: None };
        }
        if !lives {
            return Found::Nothing { made: was_made(folder) };
        }
        if Instant::now() >= deadline {
            tracing::warn!(folder = %folder.display(), "a shim does not answer: killed");
            if let Some(spawned) = spawned {
                spawned.kill();
            }
            return Found::Nothing { made: true };
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
