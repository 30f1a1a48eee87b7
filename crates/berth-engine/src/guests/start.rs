//! What a start needs: disks, the machine's description, and what its guest is told.

use super::jail::{self, Share};
use super::{Agent, BOOT_SECONDS, is_guest, kernels, root, user};
use crate::Engine;
use crate::containers::Record;
use crate::networks::{Attachment, endpoint_options, link_local};
use berth_agent_proto::{Answer, Configure, EtcFile, Interface, Request, Run};
use berth_net::rate::Bandwidth;
use berth_types::spec::{ContainerSpec, Resources};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use berth_vm::spec::{
    self as words, Accelerator, CPUS_MAX, Disk, DiskFile, DiskKind, DiskLimits, Firmware, Format, Machine, Shares,
    Workload,
};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;
/// What kernel and agent need beside the container's memory.
const MEMORY_BESIDE_BYTES: u64 = 128 << 20;
/// Room for what the container writes; the file takes only what was written.
pub const DISK_BYTES: u64 = 16 << 30;
const SCRATCH: &str = "scratch.raw";
/// A guest starts within that, also where every instruction is emulated on a busy host.
const BOOT_SECONDS_KVM: u32 = 60;
const BOOT_SECONDS_TCG: u32 = 300;
const BOOT_SECONDS_MAX: u32 = 3600;
/// Beside the guest's own time, until its machine says that it is over.
const ANSWER_SECONDS: u64 = 60;
const ETC: &str = "/run/berth/etc";
const SHARES: &str = "/run/berth/shares";
/// Of volumes, as distributions install it.
const SERVERS: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"];
/// `ttyS0`: what the kernel says before the agent speaks. Without `quiet` an emulated line would slow it down.
/// `cryptomgr.notests`: nobody boots on ciphers that the kernel must prove first. `swiotlb=noforce`: all devices reach all
/// memory, and the kernel would set 64 MiB aside for others as soon as memory above 4 GiB is possible.
const ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 systemd.unified_cgroup_hierarchy=1 \
    cryptomgr.notests swiotlb=noforce";
/// An emulated processor does not speculate, and each system call would flush what it has not. On a busy host its timer
/// may not tick in the moment in which the kernel looks whether it does, and panics.
const ARGUMENTS_EMULATED: &str = "mitigations=off no_timer_check";

fn arguments(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => ARGUMENTS.to_owned(),
        Accelerator::Tcg => format!("{ARGUMENTS} {ARGUMENTS_EMULATED}"),
    }
}

pub(super) fn boot_seconds(spec: &ContainerSpec) -> Result<u32> {
    let default = match crate::machines::accelerator() {
        Accelerator::Kvm => BOOT_SECONDS_KVM,
        Accelerator::Tcg => BOOT_SECONDS_TCG,
    };
    let Some(text) = spec.host.annotations.get(BOOT_SECONDS) else { return Ok(default) };
    match text.parse() {
        Ok(seconds) if (1..=BOOT_SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(Error::invalid(format!("annotation {BOOT_SECONDS}={text}: a number from 1 to {BOOT_SECONDS_MAX}"))),
    }
}

/// Processors and memory of the guest.
pub(super) fn size(resources: &Resources) -> (u16, u64) {
    let memory = u64::try_from(resources.memory_bytes).ok().filter(|bytes| *bytes > 0);
    let bytes = memory.map_or(MEMORY_BYTES_DEFAULT, |limit| limit + MEMORY_BESIDE_BYTES).next_multiple_of(1 << 20);
    let quota = match (resources.nano_cpus, resources.cpu_quota_micros, resources.cpu_period_micros) {
        (nano, _, _) if nano > 0 => u64::try_from(nano).unwrap_or(0).div_ceil(1_000_000_000),
        (_, quota, period) if quota > 0 => {
            let period = if period > 0 { period } else { 100_000 };
            u64::try_from(quota).unwrap_or(0).div_ceil(u64::try_from(period).unwrap_or(100_000))
        }
        _ => 1,
    };
    (u16::try_from(quota).unwrap_or(CPUS_MAX).clamp(1, CPUS_MAX), bytes)
}

/// Makes the container's configuration `config` the guest's, and answers the jail's in its place. May block.
pub(crate) fn before_start(
    engine: &Engine,
    record: &Record,
    attachment: &Attachment,
    netns: Option<&Path>,
    mut config: Spec,
    texts: [(&str, PathBuf); 3],
) -> Result<Spec> {
    let id = &record.id;
    let kernel = kernels::of(engine, &record.spec)?;
    let kernel = kernels::ready(engine, kernel)?;
    let image = record.image.ok_or_else(|| Error::internal("a container in a machine has no image"))?;
    let image_disk = root::disk(engine, &image)?;
    crate::machines::make_jail(engine)?;
    let owner = user(id);
    let folder = crate::machines::folder(engine, id);
    std::fs::create_dir_all(&folder).map_err(|cause| unwritten(&folder, &cause))?;
    std::os::unix::fs::chown(&folder, Some(owner), Some(owner)).map_err(|cause| unwritten(&folder, &cause))?;
    crate::machines::empty_run_folder(engine, id)?;
    make_scratch(&folder, owner)?;
    let shares = adapt(&mut config, &texts)?;
    let server = match shares.is_empty() {
        true => None,
        false => Some(Shares { program: server()?, machine_user: owner }),
    };
    let size = size(&record.spec.host.resources);
    let accelerator = crate::machines::accelerator();
    let disk = |id: &str, path: PathBuf, kind| Disk {
        id: id.to_owned(),
        node: id.to_owned(),
        chain: vec![DiskFile { path, format: Format::Raw }],
        kind,
        port: None,
        limits: DiskLimits::default(),
    };
    let run = Run {
        id: id.as_str().to_owned(),
        config: serde_json::to_value(&config)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the configuration", &cause))?,
        image_disk: "image".to_owned(),
        scratch_disk: Some("scratch".to_owned()),
        shares: server.as_ref().map(|_| words::SHARES_TAG.to_owned()),
        tty: record.spec.config.tty,
        console_size: record.spec.host.console_size,
        stdin: record.spec.config.open_stdin,
        init: record.spec.host.init.unwrap_or(false),
    };
    let machine = Machine {
        name: record.name.clone(),
        uuid: crate::machines::uuid()?,
        accelerator,
        cpus: size.0,
        memory_bytes: size.1,
        cpus_max: crate::machines::cpus_max(size.0),
        memory_room_bytes: super::limits::room(size.1),
        firmware: Firmware::Bios,
        kernel: Some(words::Kernel {
            image: Path::new(words::KERNELS).join(kernels::IMAGE),
            initrd: Some(Path::new(words::KERNELS).join(&kernel.initrd)),
            arguments: arguments(accelerator),
        }),
        disks: vec![
            disk("image", Path::new(words::BASES).join(&image_disk), DiskKind::ReadOnly),
            disk("scratch", Path::new(words::MACHINE).join(SCRATCH), DiskKind::Disk),
        ],
        nics: crate::machines::cards(attachment, owner, Bandwidth::default())?,
        display: false,
        start: words::Start::Cold,
        agent: true,
        workload: Some(Workload {
            configure: configure(record, attachment, &texts)?,
            run,
            boot_seconds_max: boot_seconds(&record.spec)?,
            shares: server,
        }),
    };
    let text = serde_json::to_vec(&machine)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the machine's description", &cause))?;
    let path = folder.join("machine.json");
    crate::machines::replace(&path, &text).map_err(|cause| unwritten(&path, &cause))?;
    jail::specification(engine, record, netns, &kernel, &shares, size)
}

fn unwritten(path: &Path, cause: &std::io::Error) -> Error {
    let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
    Error::because(kind, format!("cannot write {}", path.display()), cause)
}

fn server() -> Result<PathBuf> {
    SERVERS.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "--isolation vm: volumes need virtiofsd, which is not installed")
            .with_hint("apt-get install virtiofsd (Debian 12: qemu-system-common has it)")
    })
}

/// The container's own disk: an empty file system, made at its first start and kept until it is removed.
fn make_scratch(folder: &Path, owner: u32) -> Result<()> {
    let path = folder.join(SCRATCH);
    // The folder is the machine's user's; a link there leads nowhere.
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() => return Ok(()),
        Ok(_) => return Err(Error::new(ErrorKind::DataLoss, format!("{} is no file any more", path.display()))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(unwritten(&path, &cause)),
    }
    let temporary = folder.join("scratch.new");
    let file = std::fs::File::create(&temporary).map_err(|cause| unwritten(&temporary, &cause))?;
    file.set_len(DISK_BYTES).map_err(|cause| unwritten(&temporary, &cause))?;
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16"])
        .arg(&temporary)
        .output()
        .map_err(|cause| {
            Error::because(ErrorKind::Unavailable, "cannot start mkfs.ext4", &cause)
                .with_hint("apt-get install e2fsprogs")
        })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::internal(format!("mkfs.ext4 failed for {}: {words}", temporary.display())));
    }
    std::os::unix::fs::fchown(&file, Some(owner), Some(owner)).map_err(|cause| unwritten(&temporary, &cause))?;
    std::fs::rename(&temporary, &path).map_err(|cause| unwritten(&path, &cause))
}

/// The container's configuration as its guest has it: no namespace and no file of the host's. What it binds becomes
/// a share.
fn adapt(config: &mut Spec, texts: &[(&str, PathBuf); 3]) -> Result<Vec<Share>> {
    if let Some(linux) = config.linux_mut() {
        if let Some(namespaces) = linux.namespaces_mut() {
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
            for namespace in namespaces {
                namespace.set_path(None);
            }
        }
        linux.set_cgroups_path(None).set_mount_label(None);
    }
    if let Some(process) = config.process_mut() {
        process.set_apparmor_profile(None).set_selinux_label(None);
    }
    let mut shares = Vec::new();
    for mount in config.mounts_mut().iter_mut().flatten() {
        let options = mount.options().clone().unwrap_or_default();
        let bound =
            mount.typ().as_deref() == Some("bind") || options.iter().any(|word| word == "bind" || word == "rbind");
        let Some(source) = mount.source().clone().filter(|_| bound) else {
            if mount.typ().as_deref() == Some("overlay") {
                return Err(Error::invalid("--isolation vm: images as mounts are not possible"));
            }
            continue;
        };
        if let Some((name, _)) = texts.iter().find(|(_, path)| *path == source) {
            mount.set_source(Some(Path::new(ETC).join(name)));
            continue;
        }
        let kind = std::fs::metadata(&source).map_err(|cause| {
            Error::because(ErrorKind::InvalidArgument, format!("cannot bind {}", source.display()), &cause)
        })?;
        if !kind.is_dir() && !kind.is_file() {
            return Err(Error::invalid(format!(
                "--isolation vm: {} is neither a file nor a folder: sockets and devices do not reach into a machine",
                source.display()
            )));
        }
        mount.set_source(Some(Path::new(SHARES).join(shares.len().to_string())));
        let kept = options.iter().filter(|option| Share::keeps(option)).cloned().collect();
        let of_guest = options.into_iter().filter(|option| !Share::is_of_host(option)).collect();
        let (uids, gids) = (mount.uid_mappings().clone(), mount.gid_mappings().clone());
        mount.set_options(Some(of_guest)).set_uid_mappings(None).set_gid_mappings(None);
        shares.push(Share { source, options: kept, uids, gids });
    }
    Ok(shares)
}

/// The network cards as the guest should have them.
pub(crate) fn interfaces(attachment: &Attachment) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for endpoint in attachment.endpoints.values().filter(|one| !one.interface.is_empty()) {
        let ipv4 = endpoint.ipv4.map(|(address, prefix)| (IpAddr::from(address), prefix));
        let ipv6 = endpoint.ipv6.map(|(address, prefix)| (IpAddr::from(address), prefix));
        let gateways = [endpoint.gateway.map(IpAddr::from), endpoint.ipv6_gateway.map(IpAddr::from)];
        interfaces.push(Interface {
            mac: endpoint.mac_address.clone(),
            name: endpoint.interface.clone(),
            addresses: ipv4.into_iter().chain(ipv6).chain(link_local(&endpoint.spec)).collect(),
            gateways: gateways.into_iter().flatten().filter(|_| endpoint.default_route).collect(),
            mtu: endpoint.mtu,
            // What is wrong with them was said when the endpoint was planned.
            sysctls: endpoint_options(&endpoint.spec.driver_options).unwrap_or_default().sysctls,
        });
    }
    interfaces
}

pub(super) fn configure(record: &Record, attachment: &Attachment, texts: &[(&str, PathBuf); 3]) -> Result<Configure> {
    let mut files = Vec::new();
    for (name, path) in texts {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| Error::because(ErrorKind::Internal, format!("cannot read {}", path.display()), &cause))?;
        files.push(EtcFile { name: (*name).to_owned(), text });
    }
    Ok(Configure {
        hostname: record.spec.config.hostname.clone(),
        domainname: record.spec.config.domainname.clone(),
        interfaces: interfaces(attachment),
        files,
        names: attachment.names,
        clock_unix_nanos: 0,
    })
}

/// Waits until the guest has started the container, or until it is known why it has not.
///
/// `exit` is the file that tells of the machine's end.
pub(crate) async fn await_start(engine: &Engine, id: &ContainerId, spec: &ContainerSpec, exit: PathBuf) -> Result<()> {
    let folder = crate::machines::run_folder(engine, id);
    let time = Duration::from_secs(u64::from(boot_seconds(spec)?) + ANSWER_SECONDS);
    crate::containers::blocking(move || {
        // Its first process makes the socket when it begins.
        let begun = std::time::Instant::now();
        let mut agent = loop {
            match Agent::connect(&folder, time) {
                Ok(agent) => break agent,
                Err(_) if exit.exists() => {
                    return Err(Error::internal("the machine ended before anybody could ask for its guest")
                        .with_hint("what it said last is in the container's log"));
                }
                Err(error) if begun.elapsed() > time => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        match agent.ask(&Request::AwaitStart)? {
            Answer::Started { .. } => Ok(()),
            _ => Err(Error::internal("the machine did not say whether its guest has started")),
        }
    })
    .await
}

/// Whether the guest's kernel ended a process of the container for want of memory.
pub(crate) fn ran_out_of_memory(engine: &Engine, record: &Record) -> bool {
    let mark = crate::machines::run_folder(engine, &record.id).join(berth_vm::OUT_OF_MEMORY);
    is_guest(&record.spec) && std::fs::symlink_metadata(mark).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_room_for_itself_beside_the_containers_limit() {
        let of = |memory_bytes, nano_cpus| size(&Resources { memory_bytes, nano_cpus, ..Resources::default() });
        assert_eq!(of(0, 0), (1, MEMORY_BYTES_DEFAULT));
        assert_eq!(of(64 << 20, 1_500_000_000), (2, (64 << 20) + MEMORY_BESIDE_BYTES));
        assert_eq!(of((64 << 20) + 1, 1).1 % (1 << 20), 0);
    }

    /// A guest's kernel is its own: what is only read is kept so by the host.
    #[test]
    fn what_the_host_shares_keeps_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        let beneath = format!("berth.beneath={}", folder.path().display());
        let words = ["rbind", "rro", "rprivate", "idmap", "nosuid", &beneath];
        let mut mount = oci_spec::runtime::Mount::default();
        mount
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(folder.path().to_owned()))
            .set_options(Some(words.map(str::to_owned).to_vec()));
        let mut config = Spec::default();
        config.set_mounts(Some(vec![mount]));
        let texts = ["hosts", "hostname", "resolv.conf"].map(|name| (name, PathBuf::from(name)));
        let shares = adapt(&mut config, &texts).unwrap();
        assert_eq!(shares[0].options, ["rbind", "rro", "idmap", &beneath]);
        let mounts = config.mounts().as_ref().unwrap();
        assert_eq!(mounts[0].options().as_ref().unwrap(), &["rbind", "rro", "rprivate", "nosuid"]);
    }

    #[test]
    fn the_guests_start_has_a_limit_that_can_be_chosen() {
        let mut spec = ContainerSpec::default();
        assert!(boot_seconds(&spec).unwrap() >= BOOT_SECONDS_KVM);
        spec.host.annotations.insert(BOOT_SECONDS.to_owned(), "7".to_owned());
        assert_eq!(boot_seconds(&spec).unwrap(), 7);
        spec.host.annotations.insert(BOOT_SECONDS.to_owned(), "0".to_owned());
        assert!(boot_seconds(&spec).is_err());
    }
}
