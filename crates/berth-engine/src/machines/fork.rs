//! Forks: machines that go on from where another one stands.
//!
//! ```text
//!  berth vm fork web -n 3         a moment of web is saved; web runs on; three machines go on from there
//!  berth vm template --running    the moment is kept, the machine ends: every fork goes on from the same moment
//! ```
//!
//! A fork maps the moment's memory copy-on-write and has overlays of its own over the disks of that moment. It has a
//! hardware address, addresses, a name and a UUID of its own: the card that it was forked with is taken out before it
//! says a word on the wire, and its own is plugged in. The generation id that firmware shows is another one, on which a
//! Linux guest takes fresh entropy. A guest with an agent is another one when the fork is answered: host name, machine-id,
//! clock, random numbers, addresses, SSH keys.

use super::history::{furnish, like};
use super::moments::{Moment, Resume, Unfinished, check_saved, new_moment};
use super::monitor::ANSWER_SECONDS_MAX;
use super::scale::shape;
use super::{Machines, create};
use crate::containers::{Container, Created, Wish, blocking};
use berth_types::spec::ContainerSpec;
use berth_types::{ContainerId, Error, ErrorKind, Phase, Result};
use berth_vm::spec::{MEMORY_BYTES_MAX, MEMORY_BYTES_MIN};
use std::sync::Arc;

/// One operation makes at most so many.
const FORKS_MAX: usize = 256;

impl Machines {
    /// The caller holds the machine's lock.
    pub(super) async fn begin_moment(&self, container: &Arc<Container>) -> Result<Unfinished> {
        if !matches!(container.phase(), Phase::Running { .. }) {
            return Err(Error::conflict(format!("machine {} does not run: it has no memory", container.name()))
                .with_hint(format!("berth vm start {}, or leave the memory out", container.name())));
        }
        // The record may know already what comes with the next start.
        self.must_have_its_devices(container).await?;
        let shape = self.ask(container, ANSWER_SECONDS_MAX, shape).await?;
        let memory = shape.memory_bytes;
        if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory) {
            return Err(Error::new(
                ErrorKind::DataLoss,
                format!("QEMU says that the machine has {memory} bytes of memory"),
            ));
        }
        let shared = self.engine.machine_state().clone();
        // Those that it was told to give back are still plugged in.
        let cpus_used = self.machine_of(container)?.cpus.min(shape.cpus);
        let moment = new_moment(&shape, cpus_used)?;
        blocking(move || Unfinished::begin(&shared, moment)).await
    }

    /// Makes a running machine a template whose forks go on from where it stands now; it ends.
    pub async fn template_running(&self, machine: &str) -> Result<()> {
        let found = self.get(machine)?;
        {
            let _ops = found.ops.lock().await;
            let record = self.machine_of(&found)?;
            let agent = super::guest::answers(&self.engine, &found).await;
            let unfinished = self.begin_moment(&found).await?;
            let moment = Moment { agent, ..unfinished.moment.clone() };
            let change = move |record: &mut super::Record| {
                record.template = true;
                record.moment = Some(moment);
            };
            drop(self.freeze(&found, record, Some(unfinished), change).await?);
        }
        // By its user and not by a policy: it is not started again.
        let options = crate::containers::StopOptions { timeout_seconds: Some(0), signal: None };
        self.containers().stop(found.id.as_str(), options).await.map(drop)
    }

    /// Machines that go on from where a running one, or a template that ran, stands. `names`: as many as there are;
    /// an empty one is made up. Those that were made before one failed stay.
    pub async fn fork(&self, machine: &str, names: &[String]) -> Result<Vec<Created>> {
        if names.is_empty() || names.len() > FORKS_MAX {
            return Err(Error::invalid(format!("{} forks: 1 to {FORKS_MAX} can be made at once", names.len())));
        }
        let found = self.get(machine)?;
        // Of a template that ran the moment itself knows.
        let mut has_agent = found
            .record()
            .machine
            .as_ref()
            .is_some_and(|machine| machine.moment.as_ref().is_some_and(|moment| moment.agent));
        if found.phase().pid().is_some() {
            has_agent = super::guest::answers(&self.engine, &found).await;
        }
        let (source, spec, moment, kept) = {
            let _ops = found.ops.lock().await;
            let record = self.machine_of(&found)?;
            let (moment, kept) = match &record.moment {
                Some(moment) => (moment.clone(), (self.pin_all(&found)?, None)),
                None if record.template => {
                    return Err(Error::conflict(format!(
                        "template {} was not running: it has no memory",
                        found.name()
                    ))
                    .with_hint(format!("berth vm clone {} NEW", found.name())));
                }
                None => {
                    let unfinished = self.begin_moment(&found).await?;
                    let moment = unfinished.moment.clone();
                    let kept = self.freeze(&found, record, Some(unfinished), |_| {}).await?;
                    (moment, (kept._bases, kept._moment))
                }
            };
            (self.machine_of(&found)?, found.record().spec.clone(), moment, kept)
        };
        let shared = self.engine.machine_state();
        let pinned = shared.pin_moment(&moment.name);
        check_saved(shared, &moment).await?;
        let mut made = Vec::new();
        for name in names {
            let one = self.one_fork(&found, &source, &spec, &moment, name).await;
            made.push(one.map_err(|error| error.context(format!("cannot fork machine {}", found.name())))?);
        }
        drop((kept, pinned));
        let mut starts = tokio::task::JoinSet::new();
        for one in &made {
            let (machines, id) = (self.clone(), one.id.clone());
            starts.spawn(async move { machines.start(id.as_str()).await });
        }
        let mut outcome = Ok(());
        while let Some(started) = starts.join_next().await {
            let started = started.unwrap_or_else(|error| Err(Error::internal(format!("a start ended early: {error}"))));
            outcome = outcome.and(started.map(drop));
        }
        outcome.map_err(|error: Error| error.context("cannot start a fork"))?;
        if has_agent {
            let mut changes = tokio::task::JoinSet::new();
            for one in &made {
                let (engine, fork) = (self.engine.clone(), self.get(one.id.as_str())?);
                changes.spawn(async move { super::guest::become_another(&engine, &fork).await });
            }
            while let Some(changed) = changes.join_next().await {
                changed
                    .unwrap_or_else(|error| Err(Error::internal(format!("a fork's change ended early: {error}"))))?;
            }
        }
        Ok(made)
    }

    async fn one_fork(
        &self,
        found: &Arc<Container>,
        source: &super::Record,
        spec: &ContainerSpec,
        moment: &Moment,
        name: &str,
    ) -> Result<Created> {
        let (machines, from, mut source) = (self.clone(), found.id.clone(), source.clone());
        // The hardware that the state was written with, whatever the next start would have.
        (source.cpus, source.memory_bytes) = (moment.cpus(), moment.total_bytes());
        source.resume = Some(Resume { moment: moment.clone(), fork: true });
        let furnish = move |id: &ContainerId, spec: &mut ContainerSpec| -> Result<create::Furnished> {
            furnish(&machines, &from, source, id, spec)
        };
        let name = Some(name.to_owned()).filter(|name| !name.is_empty());
        let mut spec = like(spec.clone());
        moment.limit(&mut spec.host.resources);
        self.containers().create_machine(name, spec, Wish(Box::new(furnish))).await
    }
}
