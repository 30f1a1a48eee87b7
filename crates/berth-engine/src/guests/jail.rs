//! What a container's machine runs in: a jail's configuration in place of the container's.

use super::kernels::Kernel;
use super::{folder, user};
use crate::Engine;
use crate::containers::Record;
use crate::oci::{self, ContainerFiles, Joins, OciInput};
use berth_agent_proto::{Exec, Say};
use berth_types::spec::ContainerSpec;
use berth_types::{Error, ErrorKind, Result};
use berth_vm::spec as words;
use oci_spec::runtime::{LinuxIdMapping, Mount, Process, Spec};
use std::path::{Path, PathBuf};

pub(super) const PROGRAM: &str = "/berth-vmm";
/// What the volumes' server may do beyond its user: keep owners, rights and devices as they are written.
/// `SETPCAP`: to give up all others for good, without which it does not go on.
const SERVER_RIGHTS: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "MKNOD",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A bind or volume of the container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Share {
    pub(super) source: PathBuf,
    /// What the host keeps, whatever the guest does: whether it may be written, where it must lie, whom its owners are seen as.
    pub(super) options: Vec<String>,
    pub(super) uids: Option<Vec<LinuxIdMapping>>,
    pub(super) gids: Option<Vec<LinuxIdMapping>>,
}

impl Share {
    pub(super) fn keeps(option: &str) -> bool {
        matches!(option, "bind" | "rbind" | "ro" | "rro") || Share::is_of_host(option)
    }

    /// Options that mean nothing in the guest.
    pub(super) fn is_of_host(option: &str) -> bool {
        matches!(option, "idmap" | "ridmap") || option.starts_with("berth.beneath=")
    }
}

fn mount(typ: &str, source: &str, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_destination(PathBuf::from(target))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

/// The jail of a machine with `memory_bytes` for its guest.
pub(super) fn specification(
    engine: &Engine,
    record: &Record,
    netns: Option<&Path>,
    kernel: &Kernel,
    shares: &[Share],
    (cpus, memory_bytes): (u16, u64),
) -> Result<Spec> {
    let mut spec = ContainerSpec::default();
    let config = &mut spec.config;
    config.hostname.clone_from(&record.spec.config.hostname);
    (config.tty, config.open_stdin) = (record.spec.config.tty, record.spec.config.open_stdin);
    let host = &mut spec.host;
    let of = &record.spec.host;
    host.network_mode.clone_from(&of.network_mode);
    host.readonly_rootfs = true;
    host.cap_drop = vec!["ALL".to_owned()];
    host.security_opt = vec!["no-new-privileges".to_owned()];
    if shares.is_empty() {
        let owner = user(&record.id);
        spec.config.user = format!("{owner}:{owner}");
    } else {
        host.cap_add = SERVER_RIGHTS.map(str::to_owned).to_vec();
        // The server gives each of its threads a working folder of its own (unshare), which our filter keeps for
        // those that may do everything. It has a filter itself, as QEMU has.
        host.security_opt.push("seccomp=unconfined".to_owned());
    }
    let (memory, pids) = crate::machines::limits_of_jail(cpus, memory_bytes);
    host.resources = of.resources.clone();
    host.resources.ulimits.clear();
    (host.resources.memory_bytes, host.resources.memory_swap_bytes) = (memory, 0);
    (host.resources.memory_reservation_bytes, host.resources.pids_limit) = (0, Some(pids));
    host.resources.devices = crate::machines::device_mappings();
    let command = [PROGRAM.to_owned(), format!("{}/machine.json", words::MACHINE)];
    let built = oci::build(OciInput {
        id: &record.id,
        spec: &spec,
        command: &command,
        mounts: &[],
        files: ContainerFiles::default(),
        netns,
        cgroup: &record.cgroup,
        joins: Joins::default(),
    })?;
    let mut config = built.spec;
    crate::machines::adjust(&mut config);
    let mounts = config.mounts_mut().get_or_insert_default();
    let program = engine.config().shim_program.with_file_name("berth-vmm");
    let bind = |source: &Path, target: &str, rights: &str| {
        mount("bind", &source.to_string_lossy(), target, &["rbind", "rprivate", rights])
    };
    mounts.push(bind(Path::new("/usr"), "/usr", "ro"));
    mounts.push(bind(&program, PROGRAM, "ro"));
    mounts.push(bind(&super::root::folder(&folder(engine)), words::BASES, "ro"));
    mounts.push(bind(&kernel.folder, words::KERNELS, "ro"));
    mounts.push(bind(&crate::machines::folder(engine, &record.id), words::MACHINE, "rw"));
    mounts.push(bind(&crate::machines::run_folder(engine, &record.id), words::RUN, "rw"));
    if !shares.is_empty() {
        mounts.push(mount("tmpfs", "tmpfs", words::SHARES, &["nosuid", "nodev", "mode=755", "size=1m"]));
        // QEMU's own server keeps a lock there.
        mounts.push(mount("tmpfs", "tmpfs", "/var/run", &["nosuid", "nodev", "noexec", "mode=755", "size=1m"]));
    }
    for (number, share) in shares.iter().enumerate() {
        let options: Vec<&str> = share.options.iter().map(String::as_str).chain(["rprivate"]).collect();
        let target = format!("{}/{number}", words::SHARES);
        let mut shared = mount("bind", &share.source.to_string_lossy(), &target, &options);
        shared.set_uid_mappings(share.uids.clone()).set_gid_mappings(share.gids.clone());
        mounts.push(shared);
    }
    Ok(config)
}

/// A process of the container as what runs in the jail: `berth-vmm exec`, with its streams.
pub(crate) fn wrapped(record: &Record, process: Process, tty: bool, size: (u16, u16), stdin: bool) -> Result<Process> {
    let inner = serde_json::to_value(&process)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the process", &cause))?;
    let exec = Exec { process: inner, tty, console_size: size, stdin };
    let wish = String::from_utf8(exec.to_json())
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the process", &cause))?;
    let mut outer = Process::default();
    let owner = user(&record.id);
    let mut who = oci_spec::runtime::User::default();
    who.set_uid(owner).set_gid(owner);
    outer
        .set_args(Some(vec![PROGRAM.to_owned(), "exec".to_owned(), wish]))
        .set_env(Some(vec!["PATH=/usr/bin:/bin".to_owned()]))
        .set_cwd(PathBuf::from("/"))
        .set_terminal(Some(tty))
        .set_console_size(process.console_size())
        .set_no_new_privileges(Some(true))
        .set_capabilities(None)
        .set_rlimits(None)
        .set_user(who);
    Ok(outer)
}
