//! Giving a machine more, or less: live where the guest can, at its next start where not, and the answer says which.

use super::create::{check_size, limits};
use super::record::Record;
use super::types::UpdateMachine;
use super::{Machines, start};
use crate::containers::Container;
use berth_types::{Error, Phase, Result};
use berth_vm::disk;
use berth_vm::spec::DiskKind;
use serde_json::json;
use std::sync::Arc;

const RESIZE_SECONDS_MAX: u64 = 30;

impl Machines {
    /// Changes what is not `None`; answers what comes only with the next start.
    pub async fn update(&self, machine: &str, change: UpdateMachine) -> Result<Vec<String>> {
        let found = self.get(machine)?;
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
        let mut grown = before.clone();
        let nodes = grow(&mut grown, &change, &found)?;
        if !nodes.is_empty() && running {
            self.ask(&found, RESIZE_SECONDS_MAX, move |monitor| {
                nodes.iter().try_for_each(|(node, size)| {
                    monitor.ask("block_resize", json!({"node-name": node, "size": size})).map(drop)
                })
            })
            .await
            .map_err(|error| error.context(format!("cannot grow a disk of machine {}", found.name())))?;
        } else if !nodes.is_empty() {
            // A larger overlay over what was there.
            drop(self.freeze(&found, grown, None, |_| {}).await?);
            grown = self.machine_of(&found)?;
        }
        let mut later = Vec::new();
        if let Some(cpus) = change.cpus.filter(|cpus| *cpus != grown.cpus) {
            grown.cpus = cpus;
            later.push(format!("{cpus} processors"));
        }
        if let Some(memory) = change.memory_bytes.filter(|memory| *memory != grown.memory_bytes) {
            grown.memory_bytes = memory;
            later.push(format!("{} MiB of memory", memory >> 20));
        }
        self.store_changed(&found, grown).await?;
        let notes = later.into_iter().map(|what| format!("{what}: from its next start on"));
        Ok(if running { notes.collect() } else { Vec::new() })
    }

    /// Stores a changed machine with the limits of its jail.
    async fn store_changed(&self, container: &Arc<Container>, machine: Record) -> Result<()> {
        let mut record = (*container.record()).clone();
        let resources = &mut record.spec.host.resources;
        let (memory, pids) = limits(machine.cpus, machine.memory_bytes);
        (resources.memory_bytes, resources.pids_limit) = (memory, Some(pids));
        record.machine = Some(machine);
        self.containers().store_record(&record).await?;
        container.live().record = Arc::new(record);
        Ok(())
    }
}

/// Sets the new sizes; the nodes that have to grow in a running QEMU.
fn grow(record: &mut Record, change: &UpdateMachine, of: &Container) -> Result<Vec<(String, u64)>> {
    let mut nodes = Vec::new();
    for (name, size) in &change.disks {
        let disk = record.disks.iter_mut().find(|disk| disk.name == *name && disk.kind == DiskKind::Disk);
        let Some(disk) = disk else {
            return Err(Error::not_found(format!("machine {} has no disk {name}", of.name()))
                .with_hint(format!("berth vm inspect {} lists them", of.name())));
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
