//! What a project uses, and whether more fits.
//!
//! Instances count whether they run or not, and with their limits, not with what they use at the moment: what is
//! there can always be started, and a project cannot grow into another's share. So where processors or memory are
//! limited each instance needs a limit of its own. A machine's disks count whole; what containers have written and
//! what is in volumes counts as it lies on the disk, and no more can be made once that is over.

use crate::Api;
use crate::error::ApiResult;
use crate::identity::projects::{Quota, of};
use crate::schema::answers;
use berth_engine::Engine;
use berth_engine::system::DiskUsageParts;
use berth_types::spec::Resources;
use berth_types::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

answers! {
    /// What a project uses.
    Usage {
        instances: u64,
        /// Limits of all its instances together; 0 of one without a limit.
        cpus: f64,
        memory_bytes: u64,
        /// Absent where no disk limit asks for it: it takes a walk over the disk.
        disk_bytes: Option<u64>,
    }
}

/// Whoever makes something in a project waits for who was there before, project by project.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn of(&self, project: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().expect("no holder of this lock panics");
            // Those that nobody holds or waits for are dropped: removed projects leave nothing.
            turns.retain(|name, turn| name == project || Arc::strong_count(turn) > 1);
            turns.entry(project.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// What something new or changed takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Need {
    pub(crate) instances: u64,
    pub(crate) cpus: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Need {
    pub(crate) fn of(resources: &Resources) -> Need {
        Need {
            instances: 1,
            cpus: crate::doors::instances::cpus(resources),
            memory_bytes: resources.memory_bytes.max(0).unsigned_abs(),
            disk_bytes: 0,
        }
    }

    fn add(&mut self, other: Need) {
        self.instances += other.instances;
        self.cpus += other.cpus;
        self.memory_bytes += other.memory_bytes;
        self.disk_bytes += other.disk_bytes;
    }
}

/// Limits of all instances of every project, by project; those in `without` are left out.
fn limits(engine: &Engine, only: Option<&str>, without: &[&str]) -> HashMap<String, Need> {
    let mut all: HashMap<String, Need> = HashMap::new();
    let asked = |labels: &BTreeMap<String, String>, id: &str| {
        let project = of(labels).filter(|project| only.is_none_or(|only| only == *project));
        project.filter(|_| !without.contains(&id)).map(str::to_owned)
    };
    for machine in engine.machines().list() {
        let Some(project) = asked(&machine.labels, machine.id.as_str()) else { continue };
        let disk_bytes = machine.disks.iter().map(|disk| disk.size_bytes).sum();
        let (cpus, memory_bytes) = (f64::from(machine.cpus), machine.memory_bytes);
        all.entry(project).or_default().add(Need { instances: 1, cpus, memory_bytes, disk_bytes });
    }
    for one in engine.containers().limits() {
        let Some(project) = asked(&one.labels, one.id.as_str()) else { continue };
        all.entry(project).or_default().add(Need::of(&one.resources));
    }
    all
}

/// Bytes on the disk, by project.
async fn on_disk(engine: &Engine) -> Result<HashMap<String, u64>> {
    let usage = engine.system().disk_usage(DiskUsageParts { containers: true, volumes: true }).await?;
    let mut all: HashMap<String, u64> = HashMap::new();
    let written = usage.containers.iter().map(|one| (&one.labels, one.size_rw_bytes.unwrap_or(0)));
    let kept = usage.volumes.iter().map(|one| (&one.labels, one.usage.map_or(0, |usage| usage.size_bytes)));
    for (labels, bytes) in written.chain(kept) {
        if let Some(project) = of(labels) {
            *all.entry(project.to_owned()).or_default() += bytes;
        }
    }
    Ok(all)
}

/// What each of `projects` uses.
pub(crate) async fn usage(engine: &Engine, projects: &[(&str, Quota)]) -> Result<HashMap<String, Usage>> {
    let limits = limits(engine, None, &[]);
    let measured = projects.iter().any(|(_, quota)| quota.disk_bytes > 0);
    let disk = if measured { on_disk(engine).await? } else { HashMap::new() };
    let view = |(name, quota): &(&str, Quota)| {
        let used = limits.get(*name).copied().unwrap_or_default();
        let written = disk.get(*name).copied().unwrap_or(0);
        let usage = Usage {
            instances: used.instances,
            cpus: used.cpus,
            memory_bytes: used.memory_bytes,
            disk_bytes: (quota.disk_bytes > 0).then_some(used.disk_bytes + written),
        };
        ((*name).to_owned(), usage)
    };
    Ok(projects.iter().map(view).collect())
}

/// Refuses what does not fit into `project`. What fits is only sure until the guard is dropped: make it first.
pub(crate) async fn room(
    api: &Api,
    project: Option<&str>,
    needs: &[Need],
    without: &[&str],
) -> ApiResult<Option<OwnedMutexGuard<()>>> {
    let Some(name) = project else { return Ok(None) };
    let quota = api.identity.project(name)?.quota;
    let turn = api.making.of(name).await;
    let mut after = limits(&api.engine, Some(name), without).remove(name).unwrap_or_default();
    if quota.disk_bytes > 0 {
        after.disk_bytes += on_disk(&api.engine).await?.get(name).copied().unwrap_or(0);
    }
    let before = after;
    for need in needs {
        after.add(*need);
    }
    fits(name, &quota, &before, &after, needs)?;
    Ok(Some(turn))
}

fn fits(name: &str, quota: &Quota, before: &Need, after: &Need, needs: &[Need]) -> Result<()> {
    const MIB: f64 = 1_048_576.0;
    let full = |what: &str, of: f64, now: f64, then: f64| {
        let message = format!("project {name} has no room: {now} of {of} {what} are taken, and this would make {then}");
        Err(Error::new(ErrorKind::Conflict, message)
            .with_hint("remove something or ask for less, or ask an administrator for a larger quota"))
    };
    let unlimited = |what: &str| {
        let message = format!("project {name} limits {what}, so each of its instances needs a limit");
        Err(Error::invalid(message).with_hint(format!("say how much {what} it may use")))
    };
    if quota.instances > 0 && after.instances > quota.instances {
        return full("instances", quota.instances as f64, before.instances as f64, after.instances as f64);
    }
    if quota.cpus > 0.0 {
        if needs.iter().any(|need| need.instances > 0 && need.cpus <= 0.0) {
            return unlimited("processors");
        }
        // Sums of decimal fractions.
        if after.cpus > quota.cpus + 1e-6 {
            return full("processors", quota.cpus, before.cpus, after.cpus);
        }
    }
    if quota.memory_bytes > 0 {
        if needs.iter().any(|need| need.instances > 0 && need.memory_bytes == 0) {
            return unlimited("memory");
        }
        if after.memory_bytes > quota.memory_bytes {
            let mib = |bytes: u64| (bytes as f64 / MIB).round();
            return full("MiB of memory", mib(quota.memory_bytes), mib(before.memory_bytes), mib(after.memory_bytes));
        }
    }
    if quota.disk_bytes > 0 && after.disk_bytes >= quota.disk_bytes {
        let mib = |bytes: u64| (bytes as f64 / MIB).round();
        return full("MiB of disk", mib(quota.disk_bytes), mib(before.disk_bytes), mib(after.disk_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(cpus: f64, memory_bytes: u64) -> Need {
        Need { instances: 1, cpus, memory_bytes, disk_bytes: 0 }
    }

    fn try_on(quota: Quota, before: Need, more: Need) -> Result<()> {
        let mut after = before;
        after.add(more);
        fits("shop", &quota, &before, &after, &[more])
    }

    #[test]
    fn each_limit_is_kept_to_the_last_unit() {
        let none = Need::default();
        let two = Need { instances: 2, ..none };
        assert!(try_on(Quota { instances: 3, ..Quota::default() }, two, need(0.0, 0)).is_ok());
        assert!(try_on(Quota { instances: 2, ..Quota::default() }, two, need(0.0, 0)).is_err());
        let tenths = Need { instances: 2, cpus: 0.1 + 0.2, ..none };
        assert!(try_on(Quota { cpus: 0.4, ..Quota::default() }, tenths, need(0.1, 0)).is_ok());
        assert!(try_on(Quota { cpus: 0.4, ..Quota::default() }, tenths, need(0.2, 0)).is_err());
        assert!(try_on(Quota { memory_bytes: 100, ..Quota::default() }, none, need(0.0, 100)).is_ok());
        assert!(try_on(Quota { memory_bytes: 100, ..Quota::default() }, none, need(0.0, 101)).is_err());
        let full = Need { disk_bytes: 10, ..none };
        assert!(try_on(Quota { disk_bytes: 10, ..Quota::default() }, full, need(0.0, 0)).is_err());
        assert!(try_on(Quota::default(), full, need(1e9, 1 << 60)).is_ok(), "no quota, no limit");
    }

    #[test]
    fn where_something_is_limited_everything_needs_a_limit() {
        let refused = try_on(Quota { memory_bytes: 100, ..Quota::default() }, Need::default(), need(1.0, 0));
        assert!(refused.unwrap_err().message.contains("needs a limit"));
        assert!(try_on(Quota { cpus: 1.0, ..Quota::default() }, Need::default(), need(0.0, 1)).is_err());
    }
}
