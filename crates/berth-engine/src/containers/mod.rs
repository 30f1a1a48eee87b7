//! Containers: from `create` to `remove`.

mod archive;
mod attach;
mod changes;
mod create;
mod exited;
mod export;
mod lifecycle;
mod links;
mod logs;
pub mod mounts;
mod names;
mod network;
mod record;
mod recover;
mod remove;
mod start;
mod stats;
pub mod status;
mod top;
pub mod types;
mod view;
mod why;

pub use types::*;

pub(crate) use changes::MOUNT_TARGETS;
pub(crate) use record::{Table, random_bytes, shims_folder};
pub(crate) use stats::hierarchy;

use crate::Engine;
use berth_types::spec::ContainerSpec;
use berth_types::{ErrorKind, Result};

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
        let name = name.map(|name| name.strip_prefix('/').unwrap_or(name).to_owned());
        // Carried through where the caller hangs up: half a container is nobody's wish.
        let containers = self.clone();
        let making = tokio::spawn(async move { containers.create_inner(name, spec).await });
        making.await.unwrap_or_else(|error| Err(ended_early("create", &error)))
    }

    /// Starts it. Fails with `CannotRun` or `NotFound` where its program cannot be run.
    pub async fn start(&self, container: &str) -> Result<Outcome> {
        let (containers, container) = (self.clone(), self.get(container)?);
        let starting = tokio::spawn(async move { containers.start_inner(&container).await });
        starting.await.unwrap_or_else(|error| Err(ended_early("start", &error)))
    }

    /// Holds it still (where `pause`) for reading its files.
    pub async fn commit_source(&self, container: &str, pause: bool) -> Result<CommitSource> {
        let found = self.get(container)?;
        let record = found.record();
        let running = matches!(found.phase(), berth_types::Phase::Running { .. });
        let paused: Option<Box<dyn Send + Sync>> = match pause && running {
            true => match self.pause(record.id.as_str()).await {
                Ok(()) => Some(Box::new(Thaw { containers: self.clone(), id: record.id.to_string() })),
                // It ended meanwhile, and stands still.
                Err(error) if error.kind == ErrorKind::Conflict && found.phase().pid().is_none() => None,
                Err(error) => return Err(error),
            },
            false => None,
        };
        Ok(CommitSource {
            id: record.id.clone(),
            name: record.name.clone(),
            spec: record.spec.clone(),
            image_id: record.image,
            rootfs_key: record.id.to_string(),
            _paused: paused,
        })
    }
}

fn ended_early(what: &str, error: &tokio::task::JoinError) -> berth_types::Error {
    berth_types::Error::new(ErrorKind::Internal, format!("{what} ended early: {error}"))
}

/// Lets a container go on that was held still.
struct Thaw {
    containers: Containers,
    id: String,
}

impl Drop for Thaw {
    fn drop(&mut self) {
        let (containers, id) = (self.containers.clone(), self.id.clone());
        tokio::spawn(async move {
            if let Err(error) = containers.unpause(&id).await {
                tracing::warn!(container = id, %error, "not thawed");
            }
        });
    }
}
