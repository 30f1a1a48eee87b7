//! What the machines' operations take and answer.

use super::record::DiskRecord;
use crate::containers::{Container, State};
use crate::networks::Attachment;
use berth_net::rate::Bandwidth;
use berth_types::ContainerId;
use berth_types::spec::{EndpointSpec, NetworkMode, PortBinding, PortProto, RestartPolicy};
use berth_vm::spec::DiskLimits;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A machine that is to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateMachine {
    /// `None`: one is made up.
    pub name: Option<String>,
    /// 0: one.
    pub cpus: u16,
    /// 0: 512 MiB.
    pub memory_bytes: u64,
    /// It can be given so much while it runs; 0: as much as the host has, where it has a GiB to begin with.
    pub memory_max_bytes: u64,
    /// Of each network card.
    pub bandwidth: Bandwidth,
    pub firmware: FirmwareKind,
    /// An image with a kernel and a first process: its files are the first disk.
    pub image: Option<String>,
    /// Of that disk; 0: 10 GiB, of which it takes what is written.
    pub image_bytes: u64,
    /// Boots this instead of what is on the disks.
    pub kernel: Option<DirectKernel>,
    pub disks: Vec<NewDisk>,
    /// Images of CDs, read-only.
    pub cdroms: Vec<PathBuf>,
    pub display: Display,
    /// For an image with cloud-init.
    pub seed: Option<super::Seed>,
    pub network: NetworkMode,
    pub endpoints: BTreeMap<String, EndpointSpec>,
    pub ports: BTreeMap<PortProto, Vec<PortBinding>>,
    pub restart: RestartPolicy,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FirmwareKind {
    #[default]
    Bios,
    Uefi,
}

/// Files of the host, copied when the machine is made.
#[derive(Debug, Clone, Default)]
pub struct DirectKernel {
    pub image: PathBuf,
    pub initrd: Option<PathBuf>,
    pub arguments: String,
}

/// A disk that is to be made: a file's content, or empty.
#[derive(Debug, Clone, Default)]
pub struct NewDisk {
    /// A file of the host, brought in once however many machines come from it.
    pub source: Option<PathBuf>,
    /// What the file is; `None`: by its first bytes.
    pub format: Option<String>,
    /// 0: the source's own; never smaller than it.
    pub size_bytes: u64,
    pub limits: DiskLimits,
}

/// Whether there is a graphics card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Display {
    /// A serial line only.
    #[default]
    None,
    Vnc,
}

/// A machine as lists and `inspect` show it.
#[derive(Debug, Clone)]
pub struct MachineView {
    pub id: ContainerId,
    pub name: String,
    pub created_unix_nanos: i64,
    pub state: State,
    pub restart_count: u64,
    pub cpus: u16,
    pub memory_bytes: u64,
    pub memory_max_bytes: u64,
    pub bandwidth: Bandwidth,
    pub firmware: &'static str,
    pub direct_kernel: bool,
    /// `kvm`, or `tcg`: every instruction is emulated.
    pub accelerator: &'static str,
    pub display: bool,
    /// Only there to be cloned.
    pub template: bool,
    /// Its next start goes on from a saved moment; of a template: its forks do.
    pub resumes: bool,
    pub snapshots: usize,
    pub disks: Vec<MachineDisk>,
    pub network: Attachment,
    pub labels: BTreeMap<String, String>,
}

/// What of a machine is to change.
#[derive(Debug, Clone, Default)]
pub struct UpdateMachine {
    pub cpus: Option<u16>,
    pub memory_bytes: Option<u64>,
    /// How much it can be given while it runs, from its next start on; 0: see [`CreateMachine`].
    pub memory_max_bytes: Option<u64>,
    /// Disk and its new size, which is not smaller.
    pub disks: Vec<(String, u64)>,
    /// Of each network card, at once.
    pub bandwidth: Option<Bandwidth>,
    /// All limits of a disk, at once.
    pub disk_limits: Vec<(String, DiskLimits)>,
    pub add_disks: Vec<NewDisk>,
    /// With what is on them.
    pub remove_disks: Vec<String>,
}

/// What became of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// What the machine has at once, in words.
    pub now: Vec<String>,
    /// What it has from its next start on, and why.
    pub later: Vec<String>,
}

/// One of a machine's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    pub name: String,
    pub parent: Option<String>,
    pub created_unix_nanos: i64,
    /// What the disks hold now came after this one.
    pub current: bool,
    /// State and memory are part of it.
    pub memory: bool,
}

#[derive(Debug, Clone)]
pub struct MachineDisk {
    pub name: String,
    /// `disk`, `readonly` or `cdrom`.
    pub kind: &'static str,
    pub size_bytes: u64,
    /// Digest of what it started from.
    pub base: Option<String>,
    pub limits: DiskLimits,
}

fn disk(disk: &DiskRecord) -> MachineDisk {
    MachineDisk {
        name: disk.name.clone(),
        kind: match disk.kind {
            berth_vm::spec::DiskKind::Disk => "disk",
            berth_vm::spec::DiskKind::ReadOnly => "readonly",
            berth_vm::spec::DiskKind::Cdrom => "cdrom",
        },
        size_bytes: disk.size_bytes,
        base: disk.bases.last().map(|base| base.digest.clone()),
        limits: disk.limits,
    }
}

/// `None` for what is no machine.
pub(super) fn view(container: &Container) -> Option<MachineView> {
    let live = container.live();
    let record = live.record.clone();
    let machine = record.machine.as_ref().filter(|machine| !machine.tool)?;
    Some(MachineView {
        id: record.id.clone(),
        name: record.name.clone(),
        created_unix_nanos: record.created_unix_nanos,
        state: live.state(),
        restart_count: live.run.restart_count,
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        memory_max_bytes: super::scale::memory_max(machine),
        bandwidth: machine.bandwidth,
        firmware: if machine.uefi { "uefi" } else { "bios" },
        direct_kernel: machine.kernel.is_some(),
        accelerator: super::accelerator().as_str(),
        display: machine.display,
        template: machine.template,
        resumes: machine.resume.is_some() || machine.moment.is_some(),
        snapshots: machine.snapshots.len(),
        disks: machine.disks.iter().map(disk).collect(),
        network: live.run.attachment.clone(),
        labels: record.spec.config.labels.clone(),
    })
}
