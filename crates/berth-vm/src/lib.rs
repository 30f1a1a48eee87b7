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
//! [`disk`] knows which foreign disk images are safe to open. `berth-vmm` (`supervise`) is the first process
//! of the jail: it starts QEMU, turns the signal that asks for an end into the machine's power button, and
//! ends with QEMU's code. This crate starts no container, has no network and no records: those are the
//! engine's.

pub mod command;
pub mod disk;
pub mod qmp;
pub mod spec;
pub mod supervise;
