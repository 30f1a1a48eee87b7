//! Containers: from `create` to `remove`.

mod archive;
mod changes;
mod export;
mod logs;
pub mod mounts;
mod stats;
pub mod status;
mod top;
pub mod types;
mod why;

pub use types::*;

use crate::volumes::Pruned;
use crate::{Engine, Filters};
use berth_types::spec::ContainerSpec;
use berth_types::{ContainerId, Error, ExecId, Result};

/// The engine's containers. `container` is a name, an id or a unique prefix of an id everywhere.
#[derive(Clone)]
pub struct Containers {
    engine: Engine,
}

impl Containers {
    pub(crate) fn new(engine: Engine) -> Containers {
        Containers { engine }
    }

    /// Makes a container; it does not run yet. Without a name it gets one of its own.
    pub async fn create(&self, name: Option<&str>, spec: ContainerSpec) -> Result<Created> {
        let _ = (&self.engine, name, spec);
        Err(Error::not_implemented("create"))
    }

    /// Starts it. Fails with `CannotRun` or `NotFound` where its program cannot be run.
    pub async fn start(&self, container: &str) -> Result<Outcome> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("start"))
    }

    /// Asks it to stop, and kills it after the grace.
    pub async fn stop(&self, container: &str, options: StopOptions) -> Result<Outcome> {
        let _ = (&self.engine, container, options);
        Err(Error::not_implemented("stop"))
    }

    /// Sends a signal (`SIGTERM`, `TERM`, `15`; `None`: SIGKILL).
    pub async fn kill(&self, container: &str, signal: Option<&str>) -> Result<()> {
        let _ = (&self.engine, container, signal);
        Err(Error::not_implemented("kill"))
    }

    /// Stops and starts it.
    pub async fn restart(&self, container: &str, options: StopOptions) -> Result<()> {
        let _ = (&self.engine, container, options);
        Err(Error::not_implemented("restart"))
    }

    /// Freezes all its processes.
    pub async fn pause(&self, container: &str) -> Result<()> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("pause"))
    }

    /// Thaws them.
    pub async fn unpause(&self, container: &str) -> Result<()> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("unpause"))
    }

    /// Registers for `condition`; the answer resolves when it holds.
    pub async fn wait(&self, container: &str, condition: WaitCondition) -> Result<Waiter> {
        let _ = (&self.engine, container, condition);
        Err(Error::not_implemented("wait"))
    }

    /// Gives it another name.
    pub async fn rename(&self, container: &str, name: &str) -> Result<()> {
        let _ = (&self.engine, container, name);
        Err(Error::not_implemented("rename"))
    }

    /// Changes limits, live where it runs, and the restart policy. Answers warnings.
    pub async fn update(&self, container: &str, update: Update) -> Result<Vec<String>> {
        let _ = (&self.engine, container, update);
        Err(Error::not_implemented("update"))
    }

    /// Removes it with its writable layer, log and files.
    pub async fn remove(&self, container: &str, options: RemoveOptions) -> Result<()> {
        let _ = (&self.engine, container, options);
        Err(Error::not_implemented("remove"))
    }

    /// Everything about it.
    pub async fn inspect(&self, container: &str, size: bool) -> Result<Inspect> {
        let _ = (&self.engine, container, size);
        Err(Error::not_implemented("inspect"))
    }

    /// Those that match, newest first.
    pub async fn list(&self, options: &ListOptions) -> Result<Vec<Summary>> {
        let _ = (&self.engine, options);
        Err(Error::not_implemented("list"))
    }

    /// Connects to its standard streams; one that does not run yet is waited for.
    pub async fn attach(&self, container: &str, options: AttachOptions) -> Result<AttachStream> {
        let _ = (&self.engine, container, options);
        Err(Error::not_implemented("attach"))
    }

    /// Sets its terminal's size.
    pub async fn resize(&self, container: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (&self.engine, container, rows, columns);
        Err(Error::not_implemented("resize"))
    }

    /// Prepares a process inside a running container.
    pub async fn exec_create(&self, container: &str, spec: ExecSpec) -> Result<ExecId> {
        let _ = (&self.engine, container, spec);
        Err(Error::not_implemented("exec_create"))
    }

    /// Runs it; `None` where detached.
    pub async fn exec_start(&self, exec: &str, options: ExecStart) -> Result<Option<AttachStream>> {
        let _ = (&self.engine, exec, options);
        Err(Error::not_implemented("exec_start"))
    }

    /// What became of it; remembered while its container runs.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        let _ = (&self.engine, exec);
        Err(Error::not_implemented("exec_inspect"))
    }

    /// Sets its terminal's size.
    pub async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (&self.engine, exec, rows, columns);
        Err(Error::not_implemented("exec_resize"))
    }

    /// Removes those that do not run. Filters: label, label!, until (as `until` key: seconds since 1970 or a Go duration).
    pub async fn prune(&self, filters: &Filters) -> Result<Pruned> {
        let _ = (&self.engine, filters);
        Err(Error::not_implemented("prune"))
    }

    /// Holds it still (where `pause`) for reading its files.
    pub async fn commit_source(&self, container: &str, pause: bool) -> Result<CommitSource> {
        let _ = (&self.engine, container, pause);
        Err(Error::not_implemented("commit_source"))
    }

    /// The id that a name, id or unique id prefix means, or Docker's `No such container: x`.
    pub async fn resolve(&self, container: &str) -> Result<ContainerId> {
        let _ = (&self.engine, container);
        Err(Error::not_implemented("resolve"))
    }
}
