//! What a start needs beside what a container's needs: the description, the network cards, the sockets' folder.

use super::acceleration::accelerator;
use super::create::{INITRD, KERNEL, VARIABLES};
use super::record::{DiskRecord, Record};
use crate::Engine;
use crate::networks::{Attachment, Endpoint};
use berth_net::machine::HandOver;
use berth_net::rate::Bandwidth;
use berth_net::slot::Namespace;
use berth_types::{ContainerId, Error, ErrorKind, Result};
use berth_vm::spec::{self as words, Accelerator, Disk, DiskFile, Firmware, Format, Kernel, Machine, Nic};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const TUN: &str = "/dev/net/tun";
const KVM: &str = "/dev/kvm";
/// First of 2^24 user ids, one a machine; behind those that systemd gives to containers.
const USERS_BEGIN: u32 = 0x7000_0000;
/// Firmware and the template of its variables, as Debian and others install them.
const OVMF: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

pub(super) fn cannot_write(path: &Path, cause: &std::io::Error) -> Error {
    let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
    Error::because(kind, format!("cannot write {}", path.display()), cause)
}

pub(crate) fn folder(engine: &Engine, id: &ContainerId) -> PathBuf {
    engine.machine_state().root().join(id.as_str())
}

pub(crate) fn run_folder(engine: &Engine, id: &ContainerId) -> PathBuf {
    engine.config().exec_root.join("machines").join(id.as_str())
}

/// The sockets' folder, empty and the machine's user's alone: whoever reaches the sockets commands the machine.
pub(crate) fn empty_run_folder(engine: &Engine, id: &ContainerId) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let (run, owner) = (run_folder(engine, id), user(id));
    let failed = |cause: std::io::Error| cannot_write(&run, &cause);
    match std::fs::remove_dir_all(&run) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(failed(cause)),
        _ => {}
    }
    if let Some(above) = run.parent() {
        std::fs::create_dir_all(above).map_err(failed)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(&run).map_err(failed)?;
    std::os::unix::fs::chown(&run, Some(owner), Some(owner)).map_err(failed)?;
    Ok(run)
}

/// The user that the machine's jail runs as: nobody else's.
pub(crate) fn user(id: &ContainerId) -> u32 {
    let digits = id.as_str().get(..6).and_then(|text| u32::from_str_radix(text, 16).ok());
    USERS_BEGIN + digits.unwrap_or(0)
}

/// A random (version 4) UUID.
pub(crate) fn uuid() -> Result<String> {
    let random = crate::containers::random_bytes()?;
    Ok(crate::system::uuid(std::array::from_fn(|at| random[at])))
}

pub(super) fn ovmf() -> Option<(PathBuf, PathBuf)> {
    let found = OVMF.iter().find(|(code, variables)| Path::new(code).exists() && Path::new(variables).exists());
    found.map(|(code, variables)| (PathBuf::from(code), PathBuf::from(variables)))
}

/// Device files that the jail has.
pub(super) fn devices() -> Vec<&'static str> {
    match accelerator() {
        Accelerator::Kvm => vec![TUN, KVM],
        Accelerator::Tcg => vec![TUN],
    }
}

/// Device files have the host's owner; in a jail with a user of its own they are for that user.
pub(crate) fn adjust(spec: &mut oci_spec::runtime::Spec) {
    let devices = spec.linux_mut().as_mut().and_then(|linux| linux.devices_mut().as_mut());
    for device in devices.into_iter().flatten() {
        device.set_file_mode(Some(0o666));
    }
}

/// An empty root with places to mount on, the same for all machines.
pub(crate) fn make_jail(engine: &Engine) -> Result<()> {
    let jail = jail(engine);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause: std::io::Error| cannot_write(&path, &cause)
    };
    for name in
        ["usr", "etc", "tmp", "proc", "dev", "sys", "machine", "bases", "kernels", "shares", "var/run", "run/machine"]
    {
        let path = jail.join(name);
        std::fs::create_dir_all(&path).map_err(failed(&path))?;
    }
    let program = jail.join("berth-vmm");
    std::fs::File::options().create(true).append(true).open(&program).map_err(failed(&program))?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        let path = jail.join(name);
        match std::os::unix::fs::symlink(format!("usr/{name}"), &path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(&path)(cause)),
            _ => {}
        }
    }
    for file in ["etc/resolv.conf", "etc/hostname", "etc/hosts"] {
        let path = jail.join(file);
        std::fs::File::options().create(true).append(true).open(&path).map_err(failed(&path))?;
    }
    // The bases' folder lies beside; nobody but root lists either.
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&jail, mode).map_err(failed(&jail))
}

pub(crate) fn jail(engine: &Engine) -> PathBuf {
    engine.machine_state().root().join("jail")
}

/// Writes the description, empties the sockets' folder, and turns the interfaces into taps. On a thread where it
/// may block; done anew for every start.
pub(crate) fn before_start(
    engine: &Engine,
    id: &ContainerId,
    name: &str,
    record: &Record,
    attachment: &Attachment,
) -> Result<()> {
    if record.template {
        return Err(Error::conflict(format!("machine {name} is a template: it does not run")).with_hint(match record
            .moment
        {
            Some(_) => format!("berth vm fork {name}"),
            None => format!("berth vm clone {name} NEW"),
        }));
    }
    if record.resume.is_some() {
        // Whoever starts it so would use the moment twice.
        return Err(Error::conflict(format!(
            "machine {name} goes on from a saved moment, which this start does not know of"
        ))
        .with_hint(format!("berth vm start {name}")));
    }
    // An engine that was killed while it froze a disk may have left one that its user cannot write.
    for file in record.disks.iter().filter_map(|disk| disk.file.as_deref()) {
        seal(&folder(engine, id).join(file), Some(user(id)))?;
    }
    for base in record.disks.iter().flat_map(|disk| &disk.bases) {
        // Those that this machine froze while it ran; another's may still be open.
        let path = engine.machine_state().path(base);
        if std::fs::metadata(&path).is_ok_and(|meta| meta.uid() == user(id)) {
            seal(&path, None)?;
        }
    }
    sweep_disks(&folder(engine, id), record);
    let (run, owner) = (empty_run_folder(engine, id)?, user(id));
    let nics = cards(attachment, owner, record.bandwidth)?;
    let begin = super::moments::before_start(engine, id, &run)?;
    if let Some(seed) = &record.seed {
        super::seed::write(&folder(engine, id), seed, &record.uuid, name, &nics, attachment)?;
    }
    let mut machine = describe(name, record, nics)?;
    if let Some((start, moment)) = begin {
        // The hardware that the state was written with.
        machine.start = start;
        (machine.cpus, machine.cpus_max) = (moment.cpus, moment.cpus_max);
        (machine.memory_bytes, machine.memory_room_bytes) = (moment.memory_bytes, moment.memory_room_bytes);
    }
    let text = serde_json::to_vec_pretty(&machine)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the machine's description", &cause))?;
    let path = folder(engine, id).join("machine.json");
    replace(&path, &text).map_err(|cause| cannot_write(&path, &cause))
}

/// Removes disks that the record does not have any more: names that a running QEMU still needed.
fn sweep_disks(folder: &Path, record: &Record) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("disk") && name.ends_with(".qcow2")) else {
            continue;
        };
        let known = record.disks.iter().any(|disk| disk.file.as_deref() == Some(name));
        if !known && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a frozen disk keeps its old name");
        }
    }
}

/// The name of a disk's block node in QEMU: its file's, without the ending.
pub(super) fn node_of(file: &str) -> String {
    file.strip_suffix(".qcow2").unwrap_or(file).to_owned()
}

/// Opens a file of a machine's folder, whose user may have put a link or a pipe there.
pub(super) fn open_own(path: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed =
        |cause: &std::io::Error| Error::because(ErrorKind::Internal, format!("cannot open {}", path.display()), cause);
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let file = std::fs::File::options().read(true).custom_flags(flags).open(path).map_err(|cause| failed(&cause))?;
    match file.metadata().map_err(|cause| failed(&cause))?.is_file() {
        true => Ok(file),
        false => Err(Error::new(ErrorKind::DataLoss, format!("{} is no file any more", path.display()))),
    }
}

/// Gives a file to the machine's user alone, or makes it one that everybody reads and nobody writes.
pub(super) fn seal(path: &Path, owner: Option<u32>) -> Result<()> {
    let (user, mode) = owner.map_or((0, 0o444), |owner| (owner, 0o600));
    give(path, user, mode)
}

/// Lets everybody read what its owner still has open.
pub(super) fn share(path: &Path, owner: u32) -> Result<()> {
    give(path, owner, 0o644)
}

fn give(path: &Path, user: u32, mode: u32) -> Result<()> {
    let file = open_own(path)?;
    std::os::unix::fs::fchown(&file, Some(user), Some(user))
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(mode)))
        .map_err(|cause| cannot_write(path, &cause))
}

/// Its folder is the machine's user's: a link in the file's place is replaced, never followed.
pub(crate) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o444).open(path)?;
    file.write_all(text)
}

pub(crate) fn cards(attachment: &Attachment, owner: u32, bandwidth: Bandwidth) -> Result<Vec<Nic>> {
    let endpoints = in_order(attachment);
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    if endpoints.len() > words::NICS_MAX {
        return Err(Error::invalid(format!("a machine has at most {} network cards", words::NICS_MAX)));
    }
    let failed = |cause: berth_net::slot::SlotError| {
        Error::because(ErrorKind::Internal, "cannot give the machine its network card", &cause)
    };
    let namespace = Namespace::open(&attachment.netns).map_err(failed)?;
    let mut nics = Vec::new();
    for endpoint in endpoints {
        nics.push(hand_over(&namespace, endpoint, owner, nics.is_empty(), bandwidth).map_err(failed)?);
    }
    Ok(nics)
}

/// The names beside an interface that was handed over: its tap's and its bridge's.
pub(crate) fn beside(interface: &str) -> (String, String) {
    let number = interface.trim_start_matches(|c: char| !c.is_ascii_digit());
    (format!("tap{number}"), format!("br{number}"))
}

/// Turns one interface into a tap; `service`: questions for names are answered there.
pub(crate) fn hand_over(
    namespace: &Namespace,
    endpoint: &Endpoint,
    owner: u32,
    service: bool,
    bandwidth: Bandwidth,
) -> std::result::Result<Nic, berth_net::slot::SlotError> {
    let nic = nic_of(endpoint);
    let (tap, bridge) = beside(&endpoint.interface);
    let ipv4 = endpoint.ipv4.map(|(address, prefix)| (IpAddr::from(address), prefix));
    let ipv6 = endpoint.ipv6.map(|(address, prefix)| (IpAddr::from(address), prefix));
    let addresses: Vec<_> = ipv4.into_iter().chain(ipv6).collect();
    let hand = HandOver {
        interface: &endpoint.interface,
        tap: &tap,
        bridge: &bridge,
        addresses: &addresses,
        owner,
        service: nic.lease.as_ref().filter(|_| service).map(|lease| (words::SERVICE, lease.address)),
        bandwidth,
    };
    namespace.hand_over(&hand)?;
    Ok(nic)
}

/// The card of an interface that is handed over.
fn nic_of(endpoint: &Endpoint) -> Nic {
    let (tap, bridge) = beside(&endpoint.interface);
    let lease = endpoint.ipv4.map(|(address, prefix_len)| words::Lease {
        bridge,
        address,
        prefix_len,
        gateway: endpoint.gateway.filter(|_| endpoint.default_route),
        mtu: u16::try_from(endpoint.mtu).unwrap_or(0),
    });
    Nic { tap, mac: endpoint.mac_address.clone(), lease }
}

/// All of a machine's cards, in the order of their interfaces.
pub(crate) fn nics(attachment: &Attachment) -> Vec<Nic> {
    in_order(attachment).into_iter().map(nic_of).collect()
}

/// The guest's kernel numbers its cards in this order.
fn in_order(attachment: &Attachment) -> Vec<&Endpoint> {
    let endpoints = attachment.endpoints.values().map(|one| &**one).filter(|one| !one.interface.is_empty());
    let mut endpoints: Vec<&Endpoint> = endpoints.collect();
    endpoints.sort_by(|a, b| a.interface.cmp(&b.interface));
    endpoints
}

/// In a machine's folder, as its jail sees that.
fn own(file: &str) -> PathBuf {
    Path::new(words::MACHINE).join(file)
}

/// A disk with all that it stands on.
pub(super) fn words_of(disk: &DiskRecord) -> Disk {
    let file = disk.file.as_deref().map(|file| DiskFile { path: own(file), format: Format::Qcow2 });
    let bases = disk
        .bases
        .iter()
        .map(|base| DiskFile { path: Path::new(words::BASES).join(base.file_name()), format: base.format.into() });
    let node = disk.file.as_deref().map_or_else(|| disk.name.clone(), node_of);
    let chain = file.into_iter().chain(bases).collect();
    Disk { id: disk.name.clone(), node, chain, kind: disk.kind, port: disk.port, limits: disk.limits }
}

/// The machine as its jail sees it.
fn describe(name: &str, record: &Record, nics: Vec<Nic>) -> Result<Machine> {
    let firmware = match record.uefi {
        false => Firmware::Bios,
        true => {
            let (code, _) = ovmf().ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "the machine's firmware is not installed any more")
                    .with_hint("apt-get install ovmf")
            })?;
            Firmware::Uefi { code, variables: own(VARIABLES) }
        }
    };
    let disks = record.disks.iter().map(words_of);
    let seed = record.seed.as_ref().map(|_| Disk {
        id: "seed".to_owned(),
        node: "seed".to_owned(),
        chain: vec![DiskFile { path: own(super::seed::SEED), format: Format::Raw }],
        kind: words::DiskKind::ReadOnly,
        port: None,
        limits: words::DiskLimits::default(),
    });
    Ok(Machine {
        name: name.to_owned(),
        uuid: record.uuid.clone(),
        accelerator: accelerator(),
        cpus: record.cpus,
        memory_bytes: record.memory_bytes,
        cpus_max: super::scale::cpus_max(record.cpus),
        memory_room_bytes: super::scale::room(record.memory_bytes, record.memory_max_bytes),
        firmware,
        kernel: record.kernel.as_ref().map(|kernel| Kernel {
            image: own(KERNEL),
            initrd: kernel.initrd.then(|| own(INITRD)),
            arguments: kernel.arguments.clone(),
        }),
        disks: disks.chain(seed).collect(),
        nics,
        display: record.display,
        start: words::Start::Cold,
        agent: record.agent,
        workload: None,
    })
}

/// What a machine leaves on the disk.
pub(crate) fn remove_files(engine: &Engine, id: &ContainerId) {
    for folder in [folder(engine, id), run_folder(engine, id)] {
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "folder not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_user_that_no_other_service_has() {
        let id: ContainerId = "ff".repeat(32).parse().unwrap();
        assert_eq!(user(&id), 0x70ff_ffff);
        let id: ContainerId = "00".repeat(32).parse().unwrap();
        assert_eq!(user(&id), USERS_BEGIN);
    }

    #[test]
    fn a_uuid_is_of_the_random_kind() {
        let text = uuid().unwrap();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(text, uuid().unwrap());
    }
}
