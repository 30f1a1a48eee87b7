//! Giving a machine more, or less: live where the guest can, at its next start where not, and the answer says which.

use super::create::{check_disk, check_size, limits_of_jail};
use super::record::Record;
use super::scale::{Wanted, memory_words};
use super::types::{Changed, CreateMachine, UpdateMachine};
use super::{Machines, limits, scale, start};
use crate::containers::Container;
use berth_types::spec::Resources;
use berth_types::{Error, Phase, Result};
use berth_vm::disk;
use berth_vm::spec::DiskKind;
use serde_json::json;
use std::sync::Arc;

const RESIZE_SECONDS_MAX: u64 = 30;

impl Machines {
    /// Changes what is not `None`; answers what is there at once and what comes with the next start.
    pub async fn update(&self, machine: &str, mut change: UpdateMachine) -> Result<Changed> {
        change.cpus = change.cpus.filter(|cpus| *cpus != 0);
        change.memory_bytes = change.memory_bytes.filter(|bytes| *bytes != 0);
        let found = self.get(machine)?;
        change.add_disks.iter().try_for_each(check_disk)?;
        // Before it is held: a large file takes its time.
        let mut wish = CreateMachine { disks: std::mem::take(&mut change.add_disks), ..CreateMachine::default() };
        let brought = self.bring(&mut wish).await?;
        let _ops = found.ops.lock().await;
        let running = matches!(found.phase(), Phase::Running { .. });
        if !running {
            self.must_be_stopped(&found, "be changed")?;
        }
        let before = self.machine_of(&found)?;
        if before.template {
            return Err(Error::conflict(format!("machine {} is a template: it does not change", found.name())));
        }
        check_size(change.cpus.unwrap_or(0), change.memory_bytes.unwrap_or(0))?;
        let mut wanted = before.clone();
        (wanted.cpus, wanted.memory_bytes) =
            (change.cpus.unwrap_or(before.cpus), change.memory_bytes.unwrap_or(before.memory_bytes));
        wanted.memory_max_bytes = change.memory_max_bytes.unwrap_or(before.memory_max_bytes);
        scale::check_room(wanted.memory_bytes, wanted.memory_max_bytes)?;
        wanted.bandwidth = change.bandwidth.unwrap_or(before.bandwidth);
        limits::check_bandwidth(wanted.bandwidth)?;
        limits::set_disks(&mut wanted, &change.disk_limits, &found)?;
        let mut grown = wanted.clone();
        let nodes = grow(&mut grown, &change, &found)?;
        let mut changed = Changed::default();
        if running && (change.cpus.is_some() || change.memory_bytes.is_some()) {
            let hardware = Wanted { cpus: change.cpus, memory_bytes: change.memory_bytes };
            self.scale(&found, hardware, &mut changed).await?;
        }
        if wanted.memory_max_bytes != before.memory_max_bytes {
            let room = memory_words(scale::memory_max(&wanted));
            changed.later.push(format!("room for {room}: from its next start on"));
        }
        self.store_changed(&found, wanted).await?;
        if running {
            self.limit_running(&found, change.bandwidth, change.disk_limits.clone(), &mut changed).await?;
        }
        changed.now.extend(grown_words(&before, &grown));
        if !nodes.is_empty() && running {
            self.ask(&found, RESIZE_SECONDS_MAX, move |monitor| {
                nodes.iter().try_for_each(|(node, size)| {
                    monitor.ask("block_resize", json!({"node-name": node, "size": size})).map(drop)
                })
            })
            .await
            .map_err(|error| error.context(format!("cannot grow a disk of machine {}", found.name())))?;
            self.store(&found, grown).await?;
        } else if !nodes.is_empty() {
            // A larger overlay over what was there.
            drop(self.freeze(&found, grown, None, |_| {}).await?);
        }
        self.remove_disks(&found, running, &change.remove_disks, &mut changed).await?;
        self.add_disks(&found, running, brought, &mut changed).await?;
        // What does not run has all of it when it does.
        Ok(if running { changed } else { Changed::default() })
    }

    /// Stores a changed machine with the limits of its jail.
    pub(super) async fn store_changed(&self, container: &Arc<Container>, machine: Record) -> Result<()> {
        let mut record = (*container.record()).clone();
        let resources = &mut record.spec.host.resources;
        let (memory, pids) = limits_of_jail(machine.cpus, machine.memory_bytes);
        (resources.memory_bytes, resources.pids_limit) = (memory, Some(pids));
        record.machine = Some(machine);
        self.containers().store_record(&record).await?;
        container.live().record = Arc::new(record);
        Ok(())
    }

    /// The limits of its jail as it runs.
    pub(super) async fn limit_jail(&self, container: &Arc<Container>, cpus: u16, memory_bytes: u64) -> Result<()> {
        let (memory_bytes, pids) = limits_of_jail(cpus, memory_bytes);
        let resources =
            Resources { memory_bytes, pids_limit: Some(pids), ..container.record().spec.host.resources.clone() };
        self.containers().limit(container, &resources).await
    }
}

fn grown_words<'a>(before: &'a Record, after: &'a Record) -> impl Iterator<Item = String> + 'a {
    let grown = move |disk: &&super::record::DiskRecord| {
        before.disks.iter().any(|old| old.name == disk.name && old.size_bytes < disk.size_bytes)
    };
    after.disks.iter().filter(grown).map(|disk| format!("{} with {} MiB: at once", disk.name, disk.size_bytes >> 20))
}

/// Sets the new sizes; the nodes that have to grow in a running QEMU.
fn grow(record: &mut Record, change: &UpdateMachine, of: &Container) -> Result<Vec<(String, u64)>> {
    let mut nodes = Vec::new();
    for (name, size) in &change.disks {
        let disk = record.disks.iter_mut().find(|disk| disk.name == *name && disk.kind == DiskKind::Disk);
        let Some(disk) = disk else {
            return Err(super::plug::no_disk(of, name));
        };
        disk::check_size(*size).map_err(|error| Error::invalid(error.to_string()))?;
        if *size % 512 != 0 {
            return Err(Error::invalid(format!("{size} bytes are no whole number of sectors (512 bytes)")));
        }
        if *size < disk.size_bytes {
            return Err(Error::invalid(format!(
                "{name} has {} bytes: a disk grows, and does not shrink",
                disk.size_bytes
            )));
        }
        if *size > disk.size_bytes {
            disk.size_bytes = *size;
            nodes.extend(disk.file.as_deref().map(|file| (start::node_of(file), *size)));
        }
    }
    Ok(nodes)
}
