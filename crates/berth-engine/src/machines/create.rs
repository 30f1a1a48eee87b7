//! Making a machine: its disks brought in, and the jail's specification.

use super::bases::{Pin, open_source, refused};
use super::convert::NewlyBrought;
use super::record::{Base, BaseFormat, DiskRecord, KernelFiles, Record};
use super::types::{CreateMachine, Display, FirmwareKind, NewDisk};
use super::{Machines, limits, scale, start};
use crate::Engine;
use crate::containers::{Created, Wish};
use berth_types::spec::{ContainerSpec, DeviceMapping, MountKind, MountSpec, NamespaceMode, Resources};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use berth_vm::command::SPARE_PORTS;
use berth_vm::spec::{CPUS_MAX, DISKS_MAX, DiskKind, DiskLimits, Format, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN};
use berth_vm::{disk, spec as words};
use std::io::Read;
use std::path::{Path, PathBuf};

const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;
/// Time for a guest to shut down.
const GRACE_SECONDS: i64 = 30;
/// Threads of QEMU: one a processor, and those of disks and the display.
const PIDS_BESIDE_CPUS: i64 = 128;
/// What QEMU itself takes beside the guest's memory: translated code, device state, disk caches.
const MEMORY_BESIDE_GUEST_BYTES: u64 = 512 << 20;
/// Kernels and initial ramdisks are copied into the machine's folder.
const KERNEL_BYTES_MAX: u64 = 512 << 20;
const ARGUMENTS_BYTES_MAX: usize = 2048;
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRD: &str = "initrd";
pub(super) const VARIABLES: &str = "variables.qcow2";

fn check(wish: &CreateMachine) -> Result<()> {
    if !Path::new(berth_vm::command::PROGRAM).exists() {
        return Err(Error::new(ErrorKind::Unavailable, "cannot make a machine: qemu-system-x86_64 is not installed")
            .with_hint("apt-get install qemu-system-x86"));
    }
    check_size(wish.cpus, wish.memory_bytes)?;
    scale::check_room(memory_bytes(wish), wish.memory_max_bytes)?;
    limits::check_bandwidth(wish.bandwidth)?;
    wish.seed.as_ref().map_or(Ok(()), super::Seed::check)?;
    if wish.disks.is_empty() && wish.cdroms.is_empty() && wish.kernel.is_none() {
        return Err(Error::invalid("a machine needs something to boot from")
            .with_hint("give --disk FILE, --cdrom FILE, --kernel FILE, or --from-image IMAGE"));
    }
    if wish.disks.len() + wish.cdroms.len() + usize::from(wish.seed.is_some()) > DISKS_MAX {
        return Err(Error::invalid(format!("more than {DISKS_MAX} disks")));
    }
    wish.disks.iter().try_for_each(check_disk)?;
    if wish.kernel.is_some() && wish.firmware == FirmwareKind::Uefi {
        return Err(Error::invalid("a kernel that is booted directly needs no firmware: leave out --uefi"));
    }
    if wish.kernel.as_ref().is_some_and(|kernel| kernel.arguments.len() > ARGUMENTS_BYTES_MAX) {
        return Err(Error::invalid(format!("kernel arguments longer than {ARGUMENTS_BYTES_MAX} bytes")));
    }
    if wish.firmware == FirmwareKind::Uefi && start::ovmf().is_none() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "cannot make a machine with UEFI: its firmware is not installed",
        )
        .with_hint("apt-get install ovmf"));
    }
    Ok(())
}

pub(super) fn check_disk(disk: &NewDisk) -> Result<()> {
    if disk.source.is_none() && disk.size_bytes == 0 {
        return Err(Error::invalid("an empty disk needs a size").with_hint("--disk size=10G"));
    }
    limits::check_disk(disk.limits)?;
    match disk.size_bytes {
        0 => Ok(()),
        bytes => disk::check_size(bytes).map_err(|error| Error::invalid(error.to_string())),
    }
}

fn memory_bytes(wish: &CreateMachine) -> u64 {
    if wish.memory_bytes == 0 { MEMORY_BYTES_DEFAULT } else { wish.memory_bytes }
}

/// Zeros are what was not asked for.
pub(super) fn check_size(cpus: u16, memory_bytes: u64) -> Result<()> {
    if cpus > CPUS_MAX {
        return Err(Error::invalid(format!("{cpus} processors: at most {CPUS_MAX} are possible")));
    }
    if memory_bytes != 0 && !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory_bytes) {
        return Err(Error::invalid(format!("{memory_bytes} bytes of memory: at least 16 MiB, at most 4 TiB")));
    }
    Ok(())
}

/// The jail's limits of memory and of processes.
pub(crate) fn limits_of_jail(cpus: u16, memory_bytes: u64) -> (i64, i64) {
    let memory = i64::try_from(memory_bytes + MEMORY_BESIDE_GUEST_BYTES).unwrap_or(i64::MAX);
    (memory, i64::from(cpus) + PIDS_BESIDE_CPUS)
}

impl Machines {
    /// Makes a machine; it does not run yet.
    pub async fn create(&self, wish: CreateMachine) -> Result<Created> {
        let mut wish = wish;
        let prepared = self.prepare(&mut wish).await?;
        check(&wish)?;
        let brought = self.bring(&mut wish).await?;
        let (engine, name) = (self.engine.clone(), wish.name.clone());
        let spec = specification(&wish);
        let furnish = move |id: &ContainerId, spec: &mut ContainerSpec| furnish(&engine, id, &wish, brought, spec);
        let made = self.containers().create_machine(name, spec, Wish(Box::new(furnish))).await;
        drop(prepared);
        made
    }
}

/// What does not depend on the machine's id.
pub(super) fn specification(wish: &CreateMachine) -> ContainerSpec {
    let mut spec = ContainerSpec { endpoints: wish.endpoints.clone(), ..ContainerSpec::default() };
    let config = &mut spec.config;
    config.labels.clone_from(&wish.labels);
    config.entrypoint = Some(vec!["/berth-vmm".to_owned(), format!("{}/machine.json", words::MACHINE)]);
    // The serial line: bytes both ways, whoever is attached; detach keys need a terminal.
    (config.tty, config.open_stdin) = (true, true);
    config.stop_timeout_seconds = Some(GRACE_SECONDS);
    config.exposed_ports = wish.ports.keys().copied().collect();
    let (memory_bytes, pids) = limits_of_jail(wish.cpus.max(1), memory_bytes(wish));
    let host = &mut spec.host;
    host.network_mode = wish.network.clone();
    host.port_bindings.clone_from(&wish.ports);
    host.restart = wish.restart.clone();
    host.cap_drop = vec!["ALL".to_owned()];
    host.security_opt = vec!["no-new-privileges".to_owned()];
    host.readonly_rootfs = true;
    host.pid_mode = NamespaceMode::Default;
    host.resources =
        Resources { memory_bytes, pids_limit: Some(pids), devices: device_mappings(), ..Resources::default() };
    spec
}

/// Device files that a jail has.
pub(crate) fn device_mappings() -> Vec<DeviceMapping> {
    start::devices().into_iter().map(device).collect()
}

fn device(path: &str) -> DeviceMapping {
    let path = path.to_owned();
    DeviceMapping { path_on_host: path.clone(), path_in_container: path, cgroup_permissions: "rw".to_owned() }
}

/// Brings the disks in, makes the machine's folder, and completes the specification. Undone by its caller.
fn furnish(
    engine: &Engine,
    id: &ContainerId,
    wish: &CreateMachine,
    brought: Vec<NewlyBrought>,
    spec: &mut ContainerSpec,
) -> Result<Furnished> {
    let shared = engine.machine_state();
    let folder = start::folder(engine, id);
    let owner = start::user(id);
    let failed = |path: &Path, cause: std::io::Error| start::cannot_write(path, &cause);
    std::fs::create_dir_all(&folder).map_err(|cause| failed(&folder, cause))?;
    let own = |path: &Path| -> Result<()> {
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).map_err(|cause| failed(path, cause))
    };
    own(&folder)?;
    let mut pins = Vec::new();
    let mut disks = Vec::new();
    for (index, wanted) in brought.into_iter().enumerate() {
        let name = format!("disk{index}");
        let (disk, pin) = make_disk(&folder, owner, &name, format!("{name}.qcow2"), wanted)?;
        pins.extend(pin);
        // Those beside the first can be taken away while it runs.
        let port =
            u8::try_from(index).ok().and_then(|index| index.checked_sub(1)).filter(|port| *port < SPARE_PORTS / 2);
        disks.push(DiskRecord { port, ..disk });
    }
    for (index, source) in wish.cdroms.iter().enumerate() {
        // An ISO image is raw, whatever it begins with.
        let brought = shared.bring(source, Some("raw"))?;
        let bases = vec![brought.pin.base.clone()];
        pins.push(brought.pin);
        let name = format!("cdrom{index}");
        disks.push(DiskRecord {
            name,
            file: None,
            bases,
            size_bytes: brought.size_bytes,
            kind: DiskKind::Cdrom,
            port: None,
            limits: DiskLimits::default(),
        });
    }
    let mut kernel = None;
    if let Some(files) = &wish.kernel {
        copy_in(&files.image, &folder.join(KERNEL))?;
        if let Some(initrd) = &files.initrd {
            copy_in(initrd, &folder.join(INITRD))?;
        }
        kernel = Some(KernelFiles { initrd: files.initrd.is_some(), arguments: files.arguments.clone() });
    }
    if wish.firmware == FirmwareKind::Uefi {
        let (_, template) =
            start::ovmf().ok_or_else(|| Error::new(ErrorKind::Unavailable, "the firmware was removed meanwhile"))?;
        copy_variables(&template, &folder.join(VARIABLES))?;
        own(&folder.join(VARIABLES))?;
    }
    finish_specification(engine, id, spec)?;
    let record = Record {
        uuid: start::uuid()?,
        cpus: wish.cpus.max(1),
        memory_bytes: memory_bytes(wish),
        memory_max_bytes: wish.memory_max_bytes,
        bandwidth: wish.bandwidth,
        uefi: wish.firmware == FirmwareKind::Uefi,
        kernel,
        disks,
        display: wish.display == Display::Vnc,
        template: false,
        snapshots: Vec::new(),
        at: None,
        files: 0,
        moment: None,
        resume: None,
        seed: wish.seed.clone(),
        agent: true,
        tool: false,
    };
    Ok(Furnished { record, _pins: pins })
}

/// A disk of a machine: an overlay in its folder, under that name.
pub(super) fn make_disk(
    folder: &Path,
    owner: u32,
    name: &str,
    file: String,
    wanted: NewlyBrought,
) -> Result<(DiskRecord, Option<Pin>)> {
    let (pin, base_size) = wanted.source.map_or((None, 0), |brought| (Some(brought.pin), brought.size_bytes));
    if wanted.size_bytes != 0 && wanted.size_bytes < base_size {
        return Err(Error::invalid(format!(
            "{name} is to have {} bytes, but its source has {base_size} already",
            wanted.size_bytes
        )));
    }
    let size_bytes = if wanted.size_bytes == 0 { base_size } else { wanted.size_bytes };
    let base = pin.as_ref().map(|pin| pin.base.clone());
    let path = folder.join(&file);
    make_overlay(&path, size_bytes, base.as_ref())?;
    start::seal(&path, Some(owner))?;
    let bases = base.into_iter().collect();
    let disk = DiskRecord {
        name: name.to_owned(),
        file: Some(file),
        bases,
        size_bytes,
        kind: DiskKind::Disk,
        port: None,
        limits: wanted.limits,
    };
    Ok((disk, pin))
}

/// The part of a specification that depends on the id.
pub(super) fn finish_specification(engine: &Engine, id: &ContainerId, spec: &mut ContainerSpec) -> Result<()> {
    start::make_jail(engine)?;
    let owner = start::user(id);
    spec.config.user = format!("{owner}:{owner}");
    spec.host.mounts = mounts(engine, id)?;
    Ok(())
}

/// A machine's own part of the record, and what must stay until that is stored.
pub(crate) struct Furnished {
    pub record: Record,
    /// Dropped with it.
    pub _pins: Vec<Pin>,
}

/// An empty disk over a base, which the header names as the jail sees it.
pub(super) fn make_overlay(path: &Path, size_bytes: u64, base: Option<&Base>) -> Result<()> {
    let backing = base.map(|base| {
        let format = if base.format == BaseFormat::Raw { Format::Raw } else { Format::Qcow2 };
        (format!("{}/{}", words::BASES, base.file_name()), format)
    });
    let backing = backing.as_ref().map(|(name, format)| (name.as_str(), *format));
    disk::create_qcow2(path, size_bytes, backing).map(drop).map_err(|error| refused(path, &error))
}

/// Copies a kernel or ramdisk; readable for the machine's user.
fn copy_in(source: &Path, target: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let from = open_source(source)?;
    let mut to = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o444)
        .open(target)
        .map_err(|cause| start::cannot_write(target, &cause))?;
    let copied = std::io::copy(&mut from.take(KERNEL_BYTES_MAX + 1), &mut to)
        .map_err(|cause| start::cannot_write(target, &cause))?;
    match copied > KERNEL_BYTES_MAX {
        true => Err(Error::invalid(format!("{} is larger than {KERNEL_BYTES_MAX} bytes", source.display()))),
        false => Ok(()),
    }
}

/// The firmware's variables, as a qcow2 so that snapshots can hold them.
fn copy_variables(template: &Path, target: &Path) -> Result<()> {
    let output = std::process::Command::new("qemu-img")
        .args(["convert", "-q", "-f", "raw", "-O", "qcow2"])
        .args([template, target])
        .output()
        .map_err(|cause| {
            Error::because(ErrorKind::Unavailable, "cannot start qemu-img", &cause)
                .with_hint("apt-get install qemu-utils")
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::internal(format!(
            "cannot copy the firmware's variables: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// What the jail sees of the host: programs to read, its own folder and sockets to write.
fn mounts(engine: &Engine, id: &ContainerId) -> Result<Vec<MountSpec>> {
    let program = engine.config().shim_program.with_file_name("berth-vmm");
    if !program.exists() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("cannot make a machine: {} is missing", program.display()),
        ));
    }
    let run = start::run_folder(engine, id);
    std::fs::create_dir_all(&run).map_err(|cause| start::cannot_write(&run, &cause))?;
    let bases = engine.machine_state().folder();
    std::fs::create_dir_all(&bases).map_err(|cause| start::cannot_write(&bases, &cause))?;
    let bind = |source: PathBuf, target: &str, read_only: bool| MountSpec {
        kind: MountKind::Bind,
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only,
        consistency: String::new(),
        bind: None,
        volume: None,
        tmpfs: None,
        image_subpath: String::new(),
        file: None,
    };
    Ok(vec![
        bind("/usr".into(), "/usr", true),
        bind(program, "/berth-vmm", true),
        bind(bases, words::BASES, true),
        bind(start::folder(engine, id), words::MACHINE, false),
        bind(run, words::RUN, false),
    ])
}
