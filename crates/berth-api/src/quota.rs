//! What a project uses, and whether more fits.
//!
//! Instances count whether they run or not, and with their limits, not with what they use at the moment: what is
//! there can always be started, and a project cannot grow into another's share. So where processors or memory are
//! limited each instance needs a limit of its own. A machine's disks count whole. What lies on the disk counts as it
//! lies there: what containers have written, volumes and their backups, snapshots, uploads; no more can be made once that
//! is over. What makes a project's use smaller is never refused, however far over it is.

use crate::Api;
use crate::error::ApiResult;
use crate::identity::projects::{Quota, of};
use crate::schema::answers;
use berth_engine::Engine;
use berth_engine::machines::MachineView;
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
    pub(crate) async fn of(&self, project: &str) -> OwnedMutexGuard<()> {
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

    /// Something that is no instance and takes room on the disk.
    pub(crate) fn disk(disk_bytes: u64) -> Need {
        Need { disk_bytes, ..Need::default() }
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
        all.entry(project).or_default().add(of_machine(&machine));
    }
    for one in engine.containers().limits() {
        let Some(project) = asked(&one.labels, one.id.as_str()) else { continue };
        all.entry(project).or_default().add(Need::of(&one.resources));
    }
    all
}

/// What a machine takes, running or not.
pub(crate) fn of_machine(machine: &MachineView) -> Need {
    let disk_bytes = machine.disks.iter().map(|disk| disk.size_bytes).sum();
    Need { instances: 1, cpus: f64::from(machine.cpus), memory_bytes: machine.memory_bytes, disk_bytes }
}

/// Bytes on the disk, by project.
async fn on_disk(api: &Api) -> Result<HashMap<String, u64>> {
    let engine = &api.engine;
    let usage = engine.system().disk_usage(DiskUsageParts { containers: true, volumes: true }).await?;
    let mut all: HashMap<String, u64> = HashMap::new();
    let mut add = |project: Option<&str>, bytes: u64| {
        if let Some(project) = project {
            *all.entry(project.to_owned()).or_default() += bytes;
        }
    };
    for one in &usage.containers {
        add(of(&one.labels), one.sizes.map_or(0, |sizes| sizes.disk_bytes));
    }
    for one in &usage.volumes {
        add(of(&one.labels), one.usage.map_or(0, |usage| usage.size_bytes));
    }
    for one in engine.volumes().backups().await? {
        add(of(&one.labels), one.bytes);
    }
    for (labels, bytes) in crate::doors::saved::sizes(engine).await? {
        add(of(&labels), bytes);
    }
    for (_, one) in api.uploads.list()? {
        add(one.project.as_deref(), one.size_bytes);
    }
    for (id, bytes) in engine.machines().kept_bytes().await? {
        if let Ok(machine) = engine.machines().inspect(id.as_str()) {
            add(of(&machine.labels), bytes);
        }
    }
    Ok(all)
}

/// What each of `projects` uses.
pub(crate) async fn usage(api: &Api, projects: &[(&str, Quota)]) -> Result<HashMap<String, Usage>> {
    let limits = limits(&api.engine, None, &[]);
    let measured = projects.iter().any(|(_, quota)| quota.disk_bytes > 0);
    let disk = if measured { on_disk(api).await? } else { HashMap::new() };
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

/// The project that labels say, where there is one of that name: root may have written anything there.
pub(crate) fn known<'a>(api: &Api, labels: &'a BTreeMap<String, String>) -> Option<&'a str> {
    of(labels).filter(|name| api.identity.project(name).is_ok())
}

/// Refuses what does not fit into `project`. What fits is only sure until the guard is dropped: make it first.
pub(crate) async fn room(
    api: &Api,
    project: Option<&str>,
    needs: &[Need],
    without: &[&str],
) -> ApiResult<Option<OwnedMutexGuard<()>>> {
    let Some(name) = project else { return Ok(None) };
    let turn = api.making.of(name).await;
    let quota = api.identity.project(name)?.quota;
    let mut now = limits(&api.engine, Some(name), &[]).remove(name).unwrap_or_default();
    let mut after = limits(&api.engine, Some(name), without).remove(name).unwrap_or_default();
    if quota.disk_bytes > 0 {
        let written = Need::disk(on_disk(api).await?.get(name).copied().unwrap_or(0));
        now.add(written);
        after.add(written);
    }
    for need in needs {
        after.add(*need);
    }
    fits(name, &quota, &now, &after, needs)?;
    Ok(Some(turn))
}

/// Refuses where a project has more than its quota, for whoever has just made something in it.
pub(crate) async fn still_fits(api: &Api, project: Option<&str>) -> Result<()> {
    let Some(name) = project else { return Ok(()) };
    let quota = api.identity.project(name)?.quota;
    let mut now = limits(&api.engine, Some(name), &[]).remove(name).unwrap_or_default();
    if quota.disk_bytes > 0 {
        now.add(Need::disk(on_disk(api).await?.get(name).copied().unwrap_or(0)));
    }
    fits(name, &quota, &Need::default(), &now, &[])
}

/// How large a backup in `project` may get, whose size nobody knows before. Where that is limited its backups are made
/// one after the other, until the guard is dropped.
pub(crate) async fn backup_room(api: &Api, project: Option<&str>) -> Result<(Option<OwnedMutexGuard<()>>, u64)> {
    let Some(name) = project else { return Ok((None, u64::MAX)) };
    let limit = api.identity.project(name).map_or(0, |project| project.quota.disk_bytes);
    if limit == 0 {
        return Ok((None, u64::MAX));
    }
    // No project has such a name: what makes instances there does not wait for backups.
    let turn = api.making.of(&format!("backups of {name}")).await;
    drop(room(api, project, &[Need::disk(1)], &[]).await.map_err(|error| error.error)?);
    let all = limits(&api.engine, Some(name), &[]).remove(name).unwrap_or_default().disk_bytes;
    let written = on_disk(api).await?.get(name).copied().unwrap_or(0);
    Ok((Some(turn), limit.saturating_sub(all + written)))
}

fn fits(name: &str, quota: &Quota, now: &Need, after: &Need, needs: &[Need]) -> Result<()> {
    let full = |what: &str, of: f64, now: f64, then: f64| {
        let message = format!("project {name} has no room: {now} of {of} {what} are taken, and this would make {then}");
        Err(Error::new(ErrorKind::Conflict, message)
            .with_hint("remove something or ask for less, or ask an administrator for a larger quota"))
    };
    let unlimited = |what: &str| {
        let message = format!("project {name} limits {what}, so each of its instances needs a limit");
        Err(Error::invalid(message).with_hint(format!("say how much {what} it may use")))
    };
    let mib = |bytes: u64| (bytes as f64 / 1_048_576.0).round();
    let more = after.instances > now.instances;
    if quota.instances > 0 && after.instances > quota.instances && more {
        return full("instances", quota.instances as f64, now.instances as f64, after.instances as f64);
    }
    if quota.cpus > 0.0 {
        if needs.iter().any(|need| need.instances > 0 && need.cpus <= 0.0) {
            return unlimited("processors");
        }
        // Sums of decimal fractions.
        if after.cpus > quota.cpus + 1e-6 && after.cpus > now.cpus + 1e-6 {
            return full("processors", quota.cpus, now.cpus, after.cpus);
        }
    }
    if quota.memory_bytes > 0 {
        if needs.iter().any(|need| need.instances > 0 && need.memory_bytes == 0) {
            return unlimited("memory");
        }
        if after.memory_bytes > quota.memory_bytes && after.memory_bytes > now.memory_bytes {
            return full("MiB of memory", mib(quota.memory_bytes), mib(now.memory_bytes), mib(after.memory_bytes));
        }
    }
    let grows = after.disk_bytes > quota.disk_bytes && after.disk_bytes > now.disk_bytes;
    // What is made writes.
    if quota.disk_bytes > 0 && (grows || more && now.disk_bytes >= quota.disk_bytes) {
        return full("MiB of disk", mib(quota.disk_bytes), mib(now.disk_bytes), mib(after.disk_bytes));
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
        assert!(try_on(Quota { disk_bytes: 11, ..Quota::default() }, full, Need::disk(1)).is_ok());
        assert!(try_on(Quota { disk_bytes: 11, ..Quota::default() }, full, Need::disk(2)).is_err());
        assert!(try_on(Quota::default(), full, need(1e9, 1 << 60)).is_ok(), "no quota, no limit");
    }

    #[test]
    fn whoever_is_over_may_use_less_and_not_more() {
        let quota = Quota { instances: 1, cpus: 1.0, memory_bytes: 100, disk_bytes: 100 };
        let now = Need { instances: 3, cpus: 4.0, memory_bytes: 400, disk_bytes: 400 };
        let less = Need { cpus: 3.0, memory_bytes: 300, ..now };
        assert!(fits("shop", &quota, &now, &less, &[need(1.0, 100)]).is_ok());
        assert!(fits("shop", &quota, &now, &now, &[need(1.0, 100)]).is_ok());
        for more in [
            Need { cpus: 4.5, ..less },
            Need { memory_bytes: 401, ..less },
            Need { disk_bytes: 401, ..less },
            Need { instances: 4, ..less },
        ] {
            assert!(fits("shop", &quota, &now, &more, &[need(1.0, 100)]).is_err(), "{more:?}");
        }
    }

    #[test]
    fn where_something_is_limited_everything_needs_a_limit() {
        let refused = try_on(Quota { memory_bytes: 100, ..Quota::default() }, Need::default(), need(1.0, 0));
        assert!(refused.unwrap_err().message.contains("needs a limit"));
        assert!(try_on(Quota { cpus: 1.0, ..Quota::default() }, Need::default(), need(0.0, 1)).is_err());
    }
}
