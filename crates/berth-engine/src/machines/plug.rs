//! Disks that come and go, also while the machine runs.
//!
//! ```text
//!  add     the overlay is made   RECORD   blockdev-add, device_add: a spare slot
//!  remove  device_del, once the guest has given it back blockdev-del   RECORD   the overlay goes
//! ```
//!
//! A disk keeps its slot for good, so that a guest finds it where it was and a saved state fits. Those in built-in slots,
//! as the first one, and those that a guest does not give back, go with the next start. Where the engine is killed in
//! between, the record knows a disk that comes with the next start, or QEMU one whose file the next start sweeps.

use super::bases::Pin;
use super::convert::NewlyBrought;
use super::record::{DiskRecord, Record};
use super::scale::watch;
use super::types::Changed;
use super::{Machines, create, history, start};
use crate::containers::{Container, blocking};
use berth_types::{Error, Result};
use berth_vm::command::{self, SPARE_PORTS, disk_device, spare_bus};
use berth_vm::qmp::{Client, QmpError};
use berth_vm::spec::{DISKS_MAX, Disk, DiskKind};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

const PERIPHERAL: &str = "/machine/peripheral";
const SECONDS_MAX: u64 = 120;

/// Devices of a running machine that have a name.
pub(crate) fn devices(monitor: &mut Client) -> std::result::Result<BTreeSet<String>, QmpError> {
    let list = monitor.ask("qom-list", json!({"path": PERIPHERAL}))?;
    let names = list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// `disk7` is the seventh: disks before everything else, each at its number.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix("disk")?.parse().ok()
}

/// The order in which a guest finds them.
pub(super) fn in_order(disks: &mut [DiskRecord]) {
    disks.sort_by_key(|disk| (disk.kind != DiskKind::Disk, number(&disk.name)));
}

/// No name and no slot comes twice, also not after a revert.
fn next_name(record: &Record) -> String {
    let saved = record.snapshots.iter().flat_map(|one| &one.disks).map(|disk| &disk.name);
    let numbers = record.disks.iter().map(|disk| &disk.name).chain(saved).filter_map(|name| number(name));
    format!("disk{}", numbers.max().map_or(0, |most| most + 1))
}

pub(super) fn free_port(record: &Record) -> Option<u8> {
    let saved = record.snapshots.iter().flat_map(|one| &one.disks).filter_map(|disk| disk.port);
    let taken: BTreeSet<u8> = record.disks.iter().filter_map(|disk| disk.port).chain(saved).collect();
    (0..SPARE_PORTS).find(|port| !taken.contains(port))
}

/// Into the slot that it has, or that is free; the slot.
fn plug(monitor: &mut Client, disk: &Disk) -> std::result::Result<(), QmpError> {
    monitor.ask("blockdev-add", command::node(disk))?;
    let bus = disk.port.map(spare_bus);
    let added = monitor
        .ask("device_add", command::device(disk, None, bus.as_deref()))
        .and_then(|_| command::throttles([disk]).try_for_each(|limit| monitor.ask(command::THROTTLE, limit).map(drop)));
    if added.is_err() {
        monitor.ask("blockdev-del", json!({"node-name": disk.node})).ok();
    }
    added
}

/// `false`: the guest keeps it.
fn unplug(monitor: &mut Client, disk: &str, node: &str) -> std::result::Result<bool, QmpError> {
    let device = disk_device(disk);
    match monitor.ask("device_del", json!({"id": device})) {
        // Asked for already, or never there.
        Ok(_) | Err(QmpError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    if watch(|| Ok(devices(monitor)?.contains(&device)), |there| !there)? {
        return Ok(false);
    }
    match monitor.ask("blockdev-del", json!({"node-name": node})) {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Machines {
    /// The caller holds the machine's lock. The record is stored.
    pub(super) async fn add_disks(
        &self,
        container: &Arc<Container>,
        running: bool,
        brought: Vec<NewlyBrought>,
        changed: &mut Changed,
    ) -> Result<()> {
        for wanted in brought {
            let mut record = self.machine_of(container)?;
            if record.disks.len() + usize::from(record.seed.is_some()) >= DISKS_MAX {
                return Err(Error::conflict(format!("machine {} has {DISKS_MAX} disks", container.name())));
            }
            let (name, port) = (next_name(&record), free_port(&record));
            let file = history::next_file(&mut record, &name);
            let (engine, id, of) = (self.engine.clone(), container.id.clone(), name.clone());
            let folder = start::folder(&engine, &id);
            let path = folder.join(&file);
            let make = move || create::make_disk(&folder, start::user(&id), &of, file, wanted);
            let (disk, pin): (DiskRecord, Option<Pin>) = blocking(make).await?;
            let disk = DiskRecord { port, ..disk };
            let (words, before) = (start::words_of(&disk), record.clone());
            let what = format!("{name} with {} MiB", disk.size_bytes >> 20);
            record.disks.push(disk);
            in_order(&mut record.disks);
            let stored = self.store(container, record).await;
            let plugged = match (&stored, running && port.is_some()) {
                (Ok(()), true) => self.ask(container, SECONDS_MAX, move |monitor| plug(monitor, &words)).await,
                (Ok(()), false) => Ok(()),
                (Err(error), _) => Err(error.clone()),
            };
            if let Err(error) = plugged {
                if stored.is_ok() {
                    self.store(container, before).await?;
                }
                std::fs::remove_file(&path).ok();
                return Err(error.context(format!("cannot add a disk to machine {}", container.name())));
            }
            drop(pin);
            match port {
                Some(_) => changed.now.push(format!("{what}: at once")),
                None => changed
                    .later
                    .push(format!("{what}: from its next start on, as its {SPARE_PORTS} spare slots are taken")),
            }
        }
        Ok(())
    }

    /// The same for those that go, with what is on them.
    pub(super) async fn remove_disks(
        &self,
        container: &Arc<Container>,
        running: bool,
        names: &[String],
        changed: &mut Changed,
    ) -> Result<()> {
        for name in names {
            let mut record = self.machine_of(container)?;
            let disk = record.disks.iter().find(|disk| disk.name == *name && disk.kind == DiskKind::Disk).cloned();
            let disk = disk.ok_or_else(|| no_disk(container, name))?;
            record.disks.retain(|one| one.name != *name);
            if record.disks.is_empty() && record.kernel.is_none() {
                return Err(Error::conflict(format!("machine {} has nothing else to boot from", container.name())));
            }
            let file = disk.file.clone().unwrap_or_default();
            let node = start::node_of(&file);
            let gone = match (running, disk.port) {
                (false, _) => true,
                (true, None) => false,
                (true, Some(_)) => {
                    let name = name.clone();
                    self.ask(container, SECONDS_MAX, move |monitor| unplug(monitor, &name, &node)).await.map_err(
                        |error| error.context(format!("cannot take {} from machine {}", disk.name, container.name())),
                    )?
                }
            };
            self.store(container, record).await?;
            if gone {
                let path = start::folder(&self.engine, &container.id).join(&file);
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "a disk that nobody has stays");
                }
                changed.now.push(format!("without {name}: at once"));
            } else {
                let why = match disk.port {
                    Some(_) => "its guest does not give it back while it runs",
                    None => "its slot is a built-in one",
                };
                changed.later.push(format!("without {name}: from its next start on, as {why}"));
            }
        }
        self.collect_bases(false);
        Ok(())
    }

    /// A state fits those disks and network cards that it was written with, each in the slot that a start gives it.
    pub(super) async fn must_have_its_devices(&self, container: &Arc<Container>) -> Result<()> {
        let cards = container.live().run.attachment.endpoints.values().filter(|one| !one.interface.is_empty()).count();
        let look = move |monitor: &mut Client| {
            let there = devices(monitor)?;
            let mut moved = there.iter().filter(|name| name.starts_with("nic")).count() != cards;
            for index in 0..if moved { 0 } else { cards } {
                let path = format!("{PERIPHERAL}/nic{index}");
                let bus = match monitor.ask("qom-get", json!({"path": path, "property": "parent_bus"})) {
                    Err(QmpError::Refused { .. }) => json!(null),
                    other => other?,
                };
                moved |= !bus.as_str().is_some_and(|bus| bus.contains(&format!("/{}/", command::card_bus(index))));
            }
            Ok((there, moved))
        };
        let (there, moved) = self.ask(container, super::monitor::ANSWER_SECONDS_MAX, look).await?;
        let record = self.machine_of(container)?;
        let known = record.disks.iter().map(|disk| disk_device(&disk.name)).collect::<BTreeSet<_>>();
        let of_disks = there.into_iter().filter(|name| {
            name.strip_suffix("-device").is_some_and(|name| number(name).is_some() || name.starts_with("cdrom"))
        });
        let what = match of_disks.collect::<BTreeSet<_>>() == known {
            true if !moved => return Ok(()),
            true => "network cards that came or went while it ran",
            false => "other disks from its next start on",
        };
        Err(Error::conflict(format!("machine {} has {what}: its memory would not fit", container.name()))
            .with_hint(format!("berth vm restart {}, or leave the memory out", container.name())))
    }
}

pub(super) fn no_disk(container: &Container, name: &str) -> Error {
    Error::not_found(format!("machine {} has no disk {name}", container.name()))
        .with_hint(format!("berth vm inspect {} lists them", container.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_vm::spec::DiskLimits;

    fn disk(name: &str, kind: DiskKind, port: Option<u8>) -> DiskRecord {
        DiskRecord {
            name: name.to_owned(),
            file: None,
            bases: Vec::new(),
            size_bytes: 0,
            kind,
            port,
            limits: DiskLimits::default(),
        }
    }

    #[test]
    fn no_name_and_no_slot_comes_twice() {
        let mut record = Record::of_a_tool();
        assert_eq!((next_name(&record).as_str(), free_port(&record)), ("disk0", Some(0)));
        record.disks = vec![disk("cdrom0", DiskKind::Cdrom, None), disk("disk10", DiskKind::Disk, Some(0))];
        record.disks.push(disk("disk2", DiskKind::Disk, None));
        assert_eq!((next_name(&record).as_str(), free_port(&record)), ("disk11", Some(1)));
        in_order(&mut record.disks);
        let names: Vec<&str> = record.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["disk2", "disk10", "cdrom0"]);
        for port in 1..SPARE_PORTS {
            record.disks.push(disk(&next_name(&record), DiskKind::Disk, Some(port)));
        }
        assert_eq!(free_port(&record), None);
    }
}
