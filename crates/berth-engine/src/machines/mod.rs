//! Virtual machines: containers whose first process is QEMU.
//!
//! ```text
//!  container record + [`Record`]      name, networks, ports, limits, restart policy, log, phase: the container's
//!  shim -> jail -> berth-vmm -> QEMU  own namespaces, cgroup, user, no capabilities, seccomp
//!
//!  <data-root>/machines/jail/         an empty root: folders to mount on
//!  <data-root>/machines/bases/        disks that were brought in, read-only, by the digest of their bytes
//!  <data-root>/machines/moments/      saved memories and states; nobody but the engine reads them
//!  <data-root>/machines/<id>/         machine.json, disk0.qcow2 (an overlay over a base), ...; the machine's user's
//!  <exec-root>/machines/<id>/         sockets of the monitor and the display
//! ```
//!
//! So a machine outlives the engine as a container does, is found again by the same code, and is stopped,
//! logged, attached to, restarted by policy and explained by it. What differs stands here: how its disks come to
//! be ([`create`], [`bases`]), what is written before a start ([`start`]), and what is asked of QEMU while it runs
//! ([`monitor`]), and what its disks were and others make of them ([`history`]), and how it grows ([`update`]). Docker's lists do not show machines and its prune does not touch them.
//!
//! A base lives while a machine's record names it; who makes a machine pins its bases until that record is
//! stored. Nothing here opens a disk image but through `berth_vm::disk`'s checks.

mod acceleration;
mod bases;
mod convert;
mod create;
mod export;
mod fork;
mod guest;
mod history;
mod image;
mod limits;
mod look;
mod moments;
mod monitor;
mod plug;
mod record;
mod scale;
mod seed;
mod start;
mod statistics;
mod tool;
mod types;
mod update;
mod usage;

pub use types::{
    Changed, CreateMachine, DirectKernel, Display, FirmwareKind, MachineDisk, MachineView, NewDisk, SnapshotView,
    UpdateMachine,
};

pub use berth_net::rate::Bandwidth;
pub use berth_vm::spec::DiskLimits;
pub use export::{Export, ExportFormat, Part};
pub use seed::Seed;
pub use statistics::{GuestFilesystem, GuestStatistics};

pub(crate) use acceleration::{accelerator, known};
pub(crate) use bases::Shared;
pub(crate) use create::Furnished;
pub(crate) use create::{device_mappings, limits_of_jail};
pub(crate) use guest::cards_changed;
pub(crate) use monitor::told;
pub(crate) use plug::devices;
pub(crate) use record::Record;
pub(crate) use scale::{Guest, Outcome as Scaled, Shape, cpus_max, cpus_words, processors, shape, take_of_room};
pub(crate) use start::{
    adjust, before_start, beside, cards, empty_run_folder, folder, hand_over, jail, make_jail, nics, remove_files,
    replace, run_folder, user, uuid,
};

use crate::Engine;
use crate::containers::{Containers, Outcome, RemoveOptions, StopOptions};
use berth_types::{Error, Result};
use std::sync::Arc;

/// The engine's machines. `machine` is a name, an id or a unique prefix of an id everywhere.
#[derive(Clone)]
pub struct Machines {
    engine: Engine,
}

impl Machines {
    pub(crate) fn new(engine: Engine) -> Machines {
        Machines { engine }
    }

    fn containers(&self) -> Containers {
        self.engine.containers()
    }

    fn get(&self, machine: &str) -> Result<Arc<crate::containers::Container>> {
        let missing = || Error::not_found(format!("No such machine: {machine}"));
        let found = self.engine.table().get(machine).map_err(|_| missing())?;
        match &found.record().machine {
            Some(machine) if machine.tool => Err(missing()),
            Some(_) => Ok(found.clone()),
            None => Err(missing().with_hint(format!("{machine} is a container: berth container inspect {machine}"))),
        }
    }

    /// From its firmware on, or from the moment that it was put back to.
    pub async fn start(&self, machine: &str) -> Result<Outcome> {
        let found = self.get(machine)?;
        let resume = found.record().machine.as_ref().and_then(|machine| machine.resume.clone());
        match resume {
            None => self.containers().start(found.id.as_str()).await,
            Some(resume) => self.begin_with(&found, resume).await,
        }
    }

    /// Presses the power button; the machine is killed after the grace.
    pub async fn stop(&self, machine: &str, options: StopOptions) -> Result<Outcome> {
        self.containers().stop(self.get(machine)?.id.as_str(), options).await
    }

    /// Pulls the plug.
    pub async fn kill(&self, machine: &str) -> Result<()> {
        self.containers().kill(self.get(machine)?.id.as_str(), None).await
    }

    pub async fn restart(&self, machine: &str, options: StopOptions) -> Result<()> {
        self.containers().restart(self.get(machine)?.id.as_str(), options).await
    }

    pub async fn pause(&self, machine: &str) -> Result<()> {
        self.containers().pause(self.get(machine)?.id.as_str()).await
    }

    pub async fn resume(&self, machine: &str) -> Result<()> {
        self.containers().unpause(self.get(machine)?.id.as_str()).await
    }

    pub async fn rename(&self, machine: &str, name: &str) -> Result<()> {
        self.containers().rename(self.get(machine)?.id.as_str(), name).await
    }

    /// Removes it with its disks; a base that no other machine has goes too.
    pub async fn remove(&self, machine: &str, force: bool) -> Result<()> {
        let found = self.get(machine)?;
        self.containers().remove(found.id.as_str(), RemoveOptions { force, volumes: true }).await
    }

    /// Removes disks that no machine stands on any more. `all`: also what an earlier engine left half done.
    pub(crate) fn collect_bases(&self, all: bool) {
        let records = self.engine.table().all();
        let machines: Vec<Record> = records.iter().filter_map(|one| one.record().machine.clone()).collect();
        let kept = machines.iter().flat_map(|machine| machine.bases().cloned()).collect();
        if all {
            image::sweep(self.engine.machine_state().root());
        }
        self.engine.machine_state().collect(&kept, all);
        let kept = machines.iter().flat_map(|machine| machine.moments().map(|moment| moment.name.clone())).collect();
        self.engine.machine_state().collect_moments(&kept, all);
    }

    /// All, newest first.
    pub fn list(&self) -> Vec<MachineView> {
        let all = self.engine.table().all();
        let mut views: Vec<MachineView> = all.iter().filter_map(|one| types::view(one)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created_unix_nanos));
        views
    }

    pub fn inspect(&self, machine: &str) -> Result<MachineView> {
        let found = self.get(machine)?;
        types::view(&found).ok_or_else(|| Error::not_found(format!("No such machine: {machine}")))
    }
}
