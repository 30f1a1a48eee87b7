//! Containers in machines of their own: `--isolation vm`.
//!
//! ```text
//!  the container's OCI configuration ── told to the guest's agent (`Run`)
//!  a jail's OCI configuration        ── what the shim makes: berth-vmm, QEMU, the volumes' server
//!
//!  <data-root>/guests/kernels/<version>/   vmlinux, modules/, initrd-...: shared, read-only in the jails
//!  <data-root>/guests/roots/<image>.erofs  an image's files as one read-only disk; as long as a container needs it
//!  <data-root>/machines/<id>/              machine.json, scratch.raw: what the container wrote
//!  <exec-root>/machines/<id>/              sockets
//! ```
//!
//! Everything else is a container's: the record, its networks and ports, log, attach, restart policy, recovery.
//! Streams, signals and the exit code pass through `berth-vmm`, so the shim sees an ordinary process; a process of
//! `exec` and a health probe are `berth-vmm exec` in the jail. What differs for users: `docs/machines.md`.

mod agent;
mod end;
mod files;
mod jail;
mod kernels;
mod limits;
mod network;
mod root;
mod start;
mod top;

pub use kernels::{InstallKernel, KernelView, Kernels};
pub use start::DISK_BYTES;

pub(crate) use agent::Agent;
pub(crate) use end::{WRITES, kill};
pub(crate) use files::{archive_get, archive_put, archive_stat, changes, export, layer};
pub(crate) use jail::wrapped;
pub(crate) use limits::update;
pub(crate) use network::{changed, joined, leaving};
pub(crate) use start::{await_start, before_start, interfaces, ran_out_of_memory};
pub(crate) use top::top;

use crate::Engine;
use berth_types::spec::{ContainerSpec, IpcMode, MountKind, MountSpec, NamespaceMode, NetworkMode};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// `HostConfig.Runtime` and `HostConfig.Isolation` that mean it.
const WORD: &str = "vm";
/// Annotations: the kernel's version, seconds for the guest's start.
const KERNEL: &str = "berth.vm.kernel";
const BOOT_SECONDS: &str = "berth.vm.boot-seconds";

/// Whether the container has a machine of its own.
pub(crate) fn is_guest(spec: &ContainerSpec) -> bool {
    spec.host.runtime == WORD || spec.host.isolation == WORD
}

fn folder(engine: &Engine) -> PathBuf {
    engine.config().data_root.join("guests")
}

/// Refuses what a machine cannot share with others, and a host where machines do not run.
pub(crate) fn check(engine: &Engine, spec: &ContainerSpec) -> Result<()> {
    if !is_guest(spec) {
        return Ok(());
    }
    let refused = |what: &str| {
        Err(Error::invalid(format!("--isolation vm: {what}"))
            .with_hint("leave it out, or run it without --isolation vm"))
    };
    let host = &spec.host;
    match &host.network_mode {
        NetworkMode::Host => return refused("a machine cannot use the host's network"),
        NetworkMode::Container(_) => return refused("a machine cannot use another container's network"),
        _ => {}
    }
    if matches!(host.ipc_mode, IpcMode::Host | IpcMode::Container(_)) {
        return refused("a machine's memory cannot be shared (--ipc)");
    }
    let namespaces = [&host.pid_mode, &host.uts_mode, &host.cgroupns_mode];
    if namespaces.iter().any(|mode| matches!(mode, NamespaceMode::Container(_)))
        || host.pid_mode == NamespaceMode::Host
        || host.uts_mode == NamespaceMode::Host
    {
        return refused("a machine has processes and a host name of its own (--pid, --uts)");
    }
    if !host.resources.devices.is_empty() || !host.resources.device_requests.is_empty() {
        return refused("devices of the host do not reach into a machine (--device, --gpus)");
    }
    let flows = |word: &str| matches!(word, "shared" | "rshared" | "slave" | "rslave");
    let of_mount = |mount: &MountSpec| mount.bind.as_ref().is_some_and(|bind| flows(&bind.propagation));
    let of_bind = |bind: &String| bind.rsplit(':').next().is_some_and(|mode| mode.split(',').any(flows));
    if host.mounts.iter().any(of_mount) || host.binds.iter().any(of_bind) {
        return refused("what is mounted later goes neither into a machine nor out of it (bind-propagation)");
    }
    if host.mounts.iter().any(|mount| mount.kind == MountKind::Image) {
        return refused("images are no mounts of a machine");
    }
    if !Path::new(berth_vm::command::PROGRAM).exists() {
        return Err(Error::new(ErrorKind::Unavailable, "--isolation vm: qemu-system-x86_64 is not installed")
            .with_hint("apt-get install qemu-system-x86 e2fsprogs"));
    }
    start::boot_seconds(spec)?;
    kernels::of(engine, spec).map(drop)
}

/// Removes images' disks that no container needs any more.
pub(crate) fn collect(engine: &Engine) {
    let records = engine.table().all();
    let needed: Vec<String> = records
        .iter()
        .map(|one| one.record())
        .filter(|record| is_guest(&record.spec))
        .filter_map(|record| record.image.as_ref().map(root::file_name))
        .collect();
    root::collect(&folder(engine), &needed);
}

/// The machine's own user, and its folders.
pub(crate) fn user(id: &ContainerId) -> u32 {
    crate::machines::user(id)
}
