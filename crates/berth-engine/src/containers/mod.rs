//! Containers: from `create` to `remove`.

mod archive;
mod attach;
mod browse;
mod changes;
mod clones;
mod create;
mod exited;
mod export;
mod lifecycle;
mod links;
mod logs;
pub mod mounts;
mod names;
mod network;
mod order;
mod record;
mod recover;
mod remove;
mod start;
mod stats;
pub mod status;
pub(crate) mod top;
pub mod types;
mod unhealthy;
mod update;
mod view;
mod why;

pub use browse::{FileContent, FileEntry, Folder};
pub use clones::asked;
pub use stats::Gauge;
pub use types::*;

pub(crate) use archive::{Sink, Source, blocking, bytes_of, decompressed, read_only};
pub(crate) use create::{Wish, check_name};
pub(crate) use record::{Container, Paths, Record, Table, random_bytes, shims_folder};
pub(crate) use stats::hierarchy;

use crate::Engine;
use berth_types::spec::ContainerSpec;
use berth_types::{ErrorKind, Phase, Result};

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
        let making = tokio::spawn(async move { containers.create_inner(name, spec, None, false).await });
        making.await.unwrap_or_else(|error| Err(ended_early("create", &error)))
    }

    /// Makes a container whose first process is a virtual machine.
    pub(crate) async fn create_machine(
        &self,
        name: Option<String>,
        spec: ContainerSpec,
        wish: Wish,
    ) -> Result<Created> {
        let containers = self.clone();
        let making = tokio::spawn(async move { containers.create_inner(name, spec, Some(wish), false).await });
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
        not_a_machine(&record, "commit")?;
        // One in a machine of its own is held still by its guest, which reads its files.
        let guest = match crate::guests::is_guest(&record.spec) {
            true => {
                let inspect = self.inspect(container, false).await?;
                Some(crate::guests::layer(&self.engine, inspect, pause).await?)
            }
            false => None,
        };
        let paused = if pause && guest.is_none() { self.held_still(&found).await? } else { None };
        Ok(CommitSource {
            id: record.id.clone(),
            name: record.name.clone(),
            spec: record.spec.clone(),
            image_id: record.image,
            rootfs_key: record.id.to_string(),
            guest,
            _paused: paused.map(|thaw| Box::new(thaw) as Box<dyn Send + Sync>),
        })
    }

    /// Holds it still until the answer is dropped.
    pub(crate) async fn hold_still(&self, container: &str) -> Result<impl Send + Sync + use<>> {
        self.held_still(&*self.get(container)?).await
    }

    /// `None`: nothing moves in it as it is, or it ended meanwhile.
    async fn held_still(&self, container: &record::Container) -> Result<Option<Thaw>> {
        let mut exits = {
            let live = container.live();
            if !matches!(live.run.phase, Phase::Running { .. }) {
                return Ok(None);
            }
            live.exits.subscribe()
        };
        match self.hold(container.id.as_str()).await {
            Ok(hold) => Ok(Some(Thaw { containers: self.clone(), id: container.id.to_string(), _hold: hold })),
            Err(_) if matches!(container.phase(), Phase::Paused { .. }) => Ok(None),
            // The shim knows of its end a moment earlier than we.
            Err(error) => match tokio::time::timeout(attach::EXIT_SECONDS_MAX, exits.changed()).await {
                Ok(Ok(())) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// Refuses what has no meaning for a virtual machine: its files and processes are the guest's.
fn not_a_machine(record: &record::Record, what: &str) -> Result<()> {
    match &record.machine {
        None => Ok(()),
        Some(_) => Err(berth_types::Error::conflict(format!("cannot {what} {}: it is a virtual machine", record.name))
            .with_hint("berth vm --help lists what can be done with it")),
    }
}

/// Of a container in a machine of its own they are on a disk that only its own kernel reads.
pub(crate) fn no_files(name: &str) -> berth_types::Error {
    berth_types::Error::conflict(format!("the files of {name} cannot be reached: they are on the disk of its machine"))
        .with_hint(format!("a program inside reaches them: berth exec {name} ..."))
}

fn ended_early(what: &str, error: &tokio::task::JoinError) -> berth_types::Error {
    berth_types::Error::new(ErrorKind::Internal, format!("{what} ended early: {error}"))
}

/// Lets a container go on that was held still.
struct Thaw {
    containers: Containers,
    id: String,
    /// Until it goes on: a killed engine leaves nothing standing still.
    _hold: crate::shim::Hold,
}

impl Drop for Thaw {
    fn drop(&mut self) {
        let (containers, id) = (self.containers.clone(), self.id.clone());
        tokio::spawn(async move {
            let stands = |id| containers.get(id).is_ok_and(|found| matches!(found.phase(), Phase::Paused { .. }));
            // One that was killed meanwhile needs no thaw.
            if let Err(error) = containers.unpause(&id).await
                && stands(&id)
            {
                tracing::warn!(container = id, %error, "not thawed");
            }
        });
    }
}
