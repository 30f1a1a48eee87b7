//! The words: what a machine is made of, as its jail sees it.
//!
//! Written by the engine as `machine.json` before each start, read by `berth-vmm` in the jail. Paths are those
//! inside the jail:
//!
//! ```text
//! /machine/    the machine's own files: disks, variables of the firmware, seed; writable
//! /bases/      disks that others share; read-only
//! /kernels/    kernels to boot directly; read-only
//! /run/machine sockets
//! ```

use berth_agent_proto::{Configure, Run};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the jail has the machine's own files, shared disks, kernels and sockets.
pub const MACHINE: &str = "/machine";
pub const BASES: &str = "/bases";
pub const KERNELS: &str = "/kernels";
pub const RUN: &str = "/run/machine";

/// The engine's way to QEMU's monitor, and `berth-vmm`'s own.
pub const QMP_SOCKET: &str = "qmp.sock";
pub const EVENTS_SOCKET: &str = "events.sock";
pub const VNC_SOCKET: &str = "vnc.sock";
/// Where the engine gives `berth-vmm` the state that a machine begins with.
pub const START_SOCKET: &str = "start.sock";
/// QEMU's end of the guest's agent, and where `berth-vmm` lets others talk to it.
pub const AGENT_SOCKET: &str = "agent.sock";
pub const CONTROL_SOCKET: &str = "control.sock";
/// The network cards, where they are others than the machine began with.
pub const CARDS: &str = "cards.json";
/// Of the volumes' file system, for QEMU; and its tag in the guest.
pub const SHARES_SOCKET: &str = "shares.sock";
pub const SHARES: &str = "/shares";
pub const SHARES_TAG: &str = "berth";

/// More disks or network cards than this have no slot.
pub const DISKS_MAX: usize = 16;
pub const NICS_MAX: usize = 8;
pub const CPUS_MAX: u16 = 64;
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
pub const MEMORY_BYTES_MAX: u64 = 4 << 40;
/// Memory is added and taken by whole ones of these (virtio-mem).
pub const MEMORY_BLOCK_BYTES: u64 = 2 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    /// What the firmware shows to the guest; stays the same over a machine's life.
    pub uuid: String,
    pub accelerator: Accelerator,
    pub cpus: u16,
    pub memory_bytes: u64,
    /// Processors that can be there while it runs; not more than `cpus`: none can be added.
    #[serde(default)]
    pub cpus_max: u16,
    /// Memory that can be added while it runs, in whole [`MEMORY_BLOCK_BYTES`]; 0: none.
    #[serde(default)]
    pub memory_room_bytes: u64,
    pub firmware: Firmware,
    pub kernel: Option<Kernel>,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    /// A graphics card, keyboard and mouse, shown on [`VNC_SOCKET`].
    pub display: bool,
    pub start: Start,
    /// It has a port for an agent.
    #[serde(default)]
    pub agent: bool,
    /// The container that it is there for.
    #[serde(default)]
    pub workload: Option<Workload>,
}

/// How a machine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With its firmware or kernel.
    #[default]
    Cold,
    /// With a state that the engine gives (`restore`).
    Restored {
        /// Whether memory is given too, and then whether others map the same: copy-on-write.
        memory: Option<Mapped>,
        /// Another machine's state: the network cards are exchanged for its own.
        fork: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mapped {
    Shared,
    Private,
}

/// A container in a machine of its own: what its agent is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    pub configure: Configure,
    pub run: Run,
    /// A guest that has not started the container by then is ended.
    pub boot_seconds_max: u32,
    /// Binds and volumes lie in [`SHARES`] of the jail; their server and QEMU run as these.
    pub shares: Option<Shares>,
}

/// Who serves the volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The program, as the jail sees it.
    pub program: PathBuf,
    /// QEMU gives up root for that user: the server needs it, to keep owners as they are.
    pub machine_user: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    /// Pure emulation.
    Tcg,
}

impl Accelerator {
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    #[default]
    Bios,
    /// OVMF: its code, and the machine's own copy of the variables.
    Uefi { code: PathBuf, variables: PathBuf },
}

/// Booted without firmware or boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub image: PathBuf,
    pub initrd: Option<PathBuf>,
    pub arguments: String,
}

/// A disk: its writable file first, then what that one stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `disk0`, `seed`, ...: also the disk's serial number in the guest.
    pub id: String,
    /// The block node's name; another one after each snapshot. QEMU allows 31 bytes.
    pub node: String,
    pub chain: Vec<DiskFile>,
    pub kind: DiskKind,
    /// The spare slot that it is in; `None`: a built-in one.
    #[serde(default)]
    pub port: Option<u8>,
    #[serde(default)]
    pub limits: DiskLimits,
}

/// How much a disk reads and writes at most, a second; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskLimits {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub read_operations: u64,
    pub write_operations: u64,
}

/// What QEMU takes (`THROTTLE_VALUE_MAX`).
pub const DISK_LIMIT_MAX: u64 = 1_000_000_000_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFile {
    pub path: PathBuf,
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskKind {
    Disk,
    /// As a disk that cannot be written.
    ReadOnly,
    Cdrom,
}

/// Formats that QEMU opens directly. Everything else is converted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Raw,
    Qcow2,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// A network card on a tap interface that the engine has made for the jail's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub tap: String,
    /// `02:42:...`
    pub mac: String,
    /// What `berth-vmm` tells a guest that asks by DHCP; none: nobody answers.
    pub lease: Option<Lease>,
}

/// A network card's address, which it has whether it asks or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The interface beside the tap, in the jail.
    pub bridge: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    /// The way out, where this card has it.
    pub gateway: Option<Ipv4Addr>,
    /// 0: not said.
    pub mtu: u16,
}

/// Where `berth-vmm` answers the guest, on the first card's link: DHCP, and names.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 53);
