//! Virtual machines: a description becomes a QEMU process, its disks and its conversation.
//!
//! ```text
//!  engine                              the machine's jail (a container's namespaces, cgroup, user)
//!  spec::Machine --machine.json-->     berth-vmm  --command-->  QEMU
//!  qmp::Client   --qmp.sock------------------------------------> its monitor
//!  disk          makes and checks the files that QEMU opens
//! ```
//!
//! [`spec`] are the words, [`command`] turns them into arguments, [`qmp`] speaks to a running machine,
//! [`disk`] knows which foreign disk images are safe to open, [`fat`] writes small file systems. `berth-vmm` (`supervise`) is the first process
//! of the jail (for a machine that runs one container: `container`, with `bridge` to its agent): it starts QEMU, turns the signal that asks for an end into the machine's power button, and
//! ends with QEMU's code. [`restore`] is how a machine begins with a saved state. This crate starts no container, has no network and no records: those are the
//! engine's.

mod bridge;
pub mod command;
mod container;
pub mod dhcp;
pub mod disk;
pub mod execute;
pub mod fat;
pub mod initramfs;
pub mod kernel;
mod names;
pub mod ova;
pub mod probe;
mod pulse;
pub mod qmp;
mod relay;
pub mod restore;
mod services;
pub mod spec;
pub mod supervise;
mod wire;

pub use bridge::OUT_OF_MEMORY;
