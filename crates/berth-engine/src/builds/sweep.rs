//! The end of a build step: whatever happened, nothing of it stays but its snapshot.
//!
//! ```text
//!  ended by itself:  Forget ----------------------------.
//!  cancelled:        dial - kill all - hear the end - Forget - shim goes - network given back - cgroup, folders gone
//!  no answer:        the shim is waited for, then killed -'                                     then what the step held
//! ```
//!
//! Done in a task of its own, so that a build which is cancelled here as well loses nothing of it; the engine's end
//! waits for it. The shim's folder goes last: by the file [`MARK`] in it the next engine finds what this one did not
//! get to.

use crate::Engine;
use crate::networks::Attachment;
use crate::oci;
use crate::shim::{Incoming, Shim};
use berth_shim_proto::ShimPhase;
use berth_types::{ContainerId, Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Says that a shim's folder is a build step's.
pub(super) const MARK: &str = "build";
/// A step that was killed has ended by then.
const END_SECONDS_MAX: u64 = 10;

/// What there is of a step besides its snapshot.
pub(super) struct Step {
    pub(super) engine: Engine,
    pub(super) id: ContainerId,
    pub(super) cgroup: String,
    pub(super) attached: Option<Attachment>,
    /// Both go on when nobody waits for them any more.
    pub(super) attaching: Option<JoinHandle<Result<Option<Attachment>>>>,
    pub(super) writing: Option<JoinHandle<Result<()>>>,
    /// The shim's pid.
    pub(super) shim: Option<i32>,
    pub(super) folder: PathBuf,
    /// Files that the step sees.
    pub(super) seen: PathBuf,
}

/// Ends and removes a step when it is dropped, then drops what the step held.
pub(super) struct Sweep<H: Send + 'static>(Option<(Step, H)>);

impl<H: Send + 'static> Sweep<H> {
    pub(super) fn new(step: Step, holds: H) -> Sweep<H> {
        Sweep(Some((step, holds)))
    }

    pub(super) fn step(&mut self) -> &mut Step {
        let (step, _) = self.0.as_mut().expect("taken only when it finishes");
        step
    }

    /// Joins its networks; what comes of that is given back with the step.
    pub(super) async fn attach(
        &mut self,
        work: impl Future<Output = Result<Option<Attachment>>> + Send + 'static,
    ) -> Result<Option<Attachment>> {
        let attachment = ended_early(self.step().attaching.insert(tokio::spawn(work)).await)?;
        (self.step().attaching, self.step().attached) = (None, attachment.clone());
        Ok(attachment)
    }

    /// Writes its files.
    pub(super) async fn write(&mut self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let written = ended_early(self.step().writing.insert(tokio::task::spawn_blocking(work)).await);
        self.step().writing = None;
        written
    }

    /// Of a step that has ended: its shim is let go and all is removed.
    pub(super) async fn finish(mut self, shim: Arc<Shim>, mut incoming: Incoming) -> Result<H> {
        let (step, holds) = self.0.take().expect("taken only when it finishes");
        let sweeping = step.removed(holds, async move { crate::shim::forget(&shim, &mut incoming).await });
        sweeping.await.map_err(|cause| Error::internal(format!("removing a step ended early: {cause}")))
    }
}

impl<H: Send + 'static> Drop for Sweep<H> {
    fn drop(&mut self) {
        // Cancelled, or failed on the way: the step ends now.
        if let Some((step, holds)) = self.0.take() {
            let (folder, started) = (step.folder.clone(), step.shim.is_some());
            drop(step.removed(holds, async move { !started || kill(&folder).await }));
        }
    }
}

fn ended_early<T>(work: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    work.unwrap_or_else(|cause| Err(Error::internal(format!("preparing a step ended early: {cause}"))))
}

impl Step {
    /// Removes all of it, behind. `going`: whether its shim goes by itself.
    fn removed<H: Send + 'static>(self, holds: H, going: impl Future<Output = bool> + Send + 'static) -> JoinHandle<H> {
        let underway = self.engine.build_state().underway();
        tokio::spawn(async move {
            let goes = going.await;
            self.clean(goes).await;
            drop(underway);
            holds
        })
    }

    async fn clean(mut self, goes: bool) {
        if let Some(writing) = self.writing.take()
            && let Err(error) = ended_early(writing.await)
        {
            tracing::debug!(%error, "a build step was not prepared");
        }
        match self.shim {
            Some(pid) if goes => crate::shim::forget_process(pid),
            // Its folder must not go before it: nobody would find it again.
            Some(pid) => crate::shim::ended(pid).await,
            None => {}
        }
        let attached = match self.attaching.take() {
            Some(attaching) => ended_early(attaching.await).ok().flatten(),
            None => self.attached.take(),
        };
        if let Some(attached) = &attached
            && let Err(error) = self.engine.networks().detach(&self.id, attached).await
        {
            tracing::warn!(step = self.id.short(), %error, "network not given back");
        }
        let swept = tokio::task::spawn_blocking(move || sweep_files(&self.cgroup, &[&self.seen, &self.folder])).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "a build step's folders are still there");
        }
    }
}

fn sweep_files(cgroup: &str, folders: &[&Path]) {
    if let Ok(hierarchy) = crate::containers::hierarchy()
        && let Ok(opened) = berth_cgroup::Cgroup::open(hierarchy, cgroup)
    {
        // A shim that was killed leaves its container's processes behind.
        let left = opened.pids().is_ok_and(|pids| !pids.is_empty());
        let killed = if left { opened.kill_all(9) } else { Ok(()) };
        if let Err(error) = killed.and_then(|()| opened.remove()) {
            tracing::warn!(cgroup, %error, "cgroup not removed");
        }
    }
    for folder in folders {
        if let Err(error) = std::fs::remove_dir_all(folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %folder.display(), %error, "not removed");
        }
    }
}

/// Kills everything in the step whose shim has this folder, and lets the shim go. False: it did not answer.
async fn kill(folder: &Path) -> bool {
    let deadline = Duration::from_secs(END_SECONDS_MAX);
    let Ok((shim, mut incoming, state)) = Shim::dial(folder, deadline).await else { return false };
    let running = matches!(state.phase, ShimPhase::Running { .. });
    tokio::time::timeout(deadline, crate::shim::end(&shim, &mut incoming, running)).await.unwrap_or(false)
}

/// Steps of an engine that was killed: ended and swept, before anything else is looked at.
pub(super) async fn recover(engine: &Engine) {
    let seen = engine.config().exec_root.join("builds");
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(seen)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "files of build steps are still there");
    }
    let root = crate::containers::shims_folder(engine.config());
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let folder = entry.path();
        if !folder.join(MARK).exists() {
            continue;
        }
        let goes = kill(&folder).await;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(spawned) = crate::shim::spawned(&folder, engine.boot_id()).filter(|_| !goes) {
            spawned.kill();
        }
        let parent = engine.config().cgroup_parent.clone();
        let cgroup = oci::clean(&Path::new("/").join(parent)).join(&name).to_string_lossy().into_owned();
        if let Err(error) = tokio::task::spawn_blocking(move || sweep_files(&cgroup, &[&folder])).await {
            tracing::warn!(step = name, %error, "a build step's folders are still there");
        }
        if let Err(error) = engine.images().remove_rootfs(&name) {
            tracing::warn!(step = name, %error, "a build step's snapshot is still there");
        }
    }
}
