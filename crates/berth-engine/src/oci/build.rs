//! The OCI configuration as a whole.

use super::security::{Seccomp, Security};
use super::{HostFacts, caps, devices, limits, process, profile, security, sysctls};
use crate::containers::MountPoint;
use crate::containers::mounts;
use berth_files::clean;
use berth_types::spec::{ContainerSpec, IpcMode, NamespaceMode, NetworkMode};
use berth_types::{ContainerId, Result};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Mount, Root, Spec};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Docker's size of /dev/shm.
pub(super) const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// Groups of `--group-add` that are names; the runtime looks them up inside.
const GROUP_ADD_ANNOTATION: &str = "org.berth.group-add";

/// Everything that a configuration is made of.
#[derive(Debug)]
pub struct OciInput<'a> {
    pub id: &'a ContainerId,
    /// Merged with the image's defaults.
    pub spec: &'a ContainerSpec,
    /// Program and arguments ([`super::command`]).
    pub command: &'a [String],
    /// From `containers::mounts::plan`.
    pub mounts: &'a [MountPoint],
    /// Bound into the container; `None` for those that it shares with another container's or leaves alone.
    pub files: ContainerFiles<'a>,
    /// The network namespace's file; `None`: the host's.
    pub netns: Option<&'a Path>,
    /// [`cgroup_path`].
    pub cgroup: &'a str,
    /// Containers whose namespaces it joins: their init's pid.
    pub joins: Joins,
}

/// Files of the engine that a container sees under /etc.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContainerFiles<'a> {
    pub resolv_conf: Option<&'a Path>,
    pub hostname: Option<&'a Path>,
    pub hosts: Option<&'a Path>,
}

/// Host pids of the containers that `--ipc container:x` and `--pid container:x` name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Joins {
    pub ipc: Option<i32>,
    pub pid: Option<i32>,
}

/// What a shim needs to make the container.
#[derive(Debug)]
pub struct Built {
    pub spec: Spec,
}

/// The container's cgroup relative to each controller's mount, `<parent>/<id>`.
pub fn cgroup_path(engine_parent: &str, spec: &ContainerSpec, id: &ContainerId) -> String {
    let asked = spec.host.resources.cgroup_parent.as_str();
    let parent = if asked.is_empty() { engine_parent } else { asked };
    clean(&Path::new("/").join(parent)).join(id.as_str()).to_string_lossy().into_owned()
}

/// Paths that tell too much about the host, or reach it.
pub(super) fn masked_paths() -> &'static [String] {
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS.get_or_init(|| {
        // In dockerd's order: `inspect` shows them, and people compare.
        let fixed = [
            "/proc/asound",
            "/proc/acpi",
            // What the processors did is a side channel (GHSA-6fw5-f8r9-fgfm).
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            // Power meters tell what others compute (GHSA-jq35-85cj-fj4p).
            "/sys/devices/virtual/powercap",
        ];
        let mut paths = fixed.map(str::to_owned).to_vec();
        let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
        for cpu in super::facts::numbers(possible.trim()).unwrap_or_default() {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
            if Path::new(&path).exists() {
                paths.push(path);
            }
        }
        paths
    })
}

pub(super) fn readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}

/// Docker's configuration for this container. Makes missing sources of `-v` binds, as Docker does at start.
pub fn build(input: OciInput<'_>) -> Result<Built> {
    let (spec, facts) = (input.spec, HostFacts::get());
    let host = &spec.host;
    let security = security::parse(host)?;
    let labels = security::labels(&security, input.id, facts);
    let hostname = match spec.config.hostname.as_str() {
        "" => input.id.short(),
        name => name,
    };
    let process_label = labels.as_ref().map(|(process, _)| process.as_str());
    let process = process::main_process(spec, hostname, input.command, &security, process_label)?;

    let user_mounts = mounts::oci_mounts(input.mounts, spec, labels.as_ref().map(|(_, file)| file))?;

    let mut linux = Linux::default();
    let (nodes, rules) = devices::of(&host.resources, host.privileged)?;
    let mut resources = limits::resources(&host.resources)?;
    resources.set_devices(Some(rules));
    linux
        .set_resources(Some(resources))
        .set_devices((!nodes.is_empty()).then_some(nodes))
        .set_cgroups_path(Some(PathBuf::from(input.cgroup)))
        .set_namespaces(Some(namespaces(&input)))
        .set_sysctl(sysctl(&input))
        .set_seccomp(seccomp(spec, &security)?)
        .set_rootfs_propagation(user_mounts.root_propagation.map(str::to_owned))
        .set_mount_label(labels.map(|(_, file)| file));
    let unconfined = host.privileged || security.unconfined_paths;
    let paths = |asked: &Option<Vec<String>>, default: &dyn Fn() -> Vec<String>| match asked {
        Some(list) => list.clone(),
        None if unconfined => Vec::new(),
        None => default(),
    };
    linux
        .set_masked_paths(Some(paths(&host.masked_paths, &|| masked_paths().to_vec())))
        .set_readonly_paths(Some(paths(&host.readonly_paths, &readonly_paths)));

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(host.readonly_rootfs));
    let own_uts = host.uts_mode != NamespaceMode::Host;
    let mut annotations: HashMap<String, String> =
        host.annotations.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(names) = process::named_groups(spec) {
        annotations.insert(GROUP_ADD_ANNOTATION.to_owned(), names);
    }
    let mut config = Spec::default();
    config
        .set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(process))
        .set_hostname(own_uts.then(|| hostname.to_owned()))
        .set_domainname(Some(spec.config.domainname.clone()).filter(|name| own_uts && !name.is_empty()))
        .set_mounts(Some(all_mounts(&input, user_mounts.mounts, &security)))
        .set_annotations((!annotations.is_empty()).then_some(annotations))
        .set_linux(Some(linux));
    Ok(Built { spec: config })
}

fn namespaces(input: &OciInput<'_>) -> Vec<LinuxNamespace> {
    let host = &input.spec.host;
    let mut list = Vec::new();
    let mut add = |typ: LinuxNamespaceType, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path);
        list.push(namespace);
    };
    let of = |pid: Option<i32>, name: &str| pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/{name}")));
    add(LinuxNamespaceType::Mount, None);
    if let Some(path) = input.netns {
        add(LinuxNamespaceType::Network, Some(path.to_owned()));
    }
    if host.uts_mode != NamespaceMode::Host {
        add(LinuxNamespaceType::Uts, None);
    }
    if host.pid_mode != NamespaceMode::Host {
        add(LinuxNamespaceType::Pid, of(input.joins.pid, "pid"));
    }
    if host.ipc_mode != IpcMode::Host {
        add(LinuxNamespaceType::Ipc, of(input.joins.ipc, "ipc"));
    }
    if host.cgroupns_mode != NamespaceMode::Host {
        add(LinuxNamespaceType::Cgroup, None);
    }
    list
}

/// Docker lets everybody ping and bind low ports in a network namespace of the container's own.
fn sysctl(input: &OciInput<'_>) -> Option<HashMap<String, String>> {
    let host = &input.spec.host;
    let mut all = HashMap::new();
    let private = !matches!(host.network_mode, NetworkMode::Host | NetworkMode::Container(_));
    if private && input.netns.is_some() {
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    }
    all.extend(host.sysctls.iter().map(|(name, value)| (sysctls::dotted(name), value.clone())));
    (!all.is_empty()).then_some(all)
}

fn seccomp(spec: &ContainerSpec, security: &Security) -> Result<Option<LinuxSeccomp>> {
    if spec.host.privileged || !HostFacts::get().seccomp {
        return Ok(None);
    }
    let caps = caps::of(&spec.host)?;
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Profile(text) => profile::convert(text, &caps).map(Some),
        Seccomp::Builtin => Ok(Some(super::seccomp::builtin(&caps))),
    }
}

fn mount(target: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

/// Docker's own mounts that the caller's leave room for, the caller's, and the files under /etc.
fn all_mounts(input: &OciInput<'_>, user: Vec<Mount>, security: &Security) -> Vec<Mount> {
    let host = &input.spec.host;
    let covered = |target: &str| user.iter().any(|mount| mount.destination() == Path::new(target));
    let sys_rights: &[&str] = if host.privileged { &[] } else { &["ro"] };
    let cgroup_writable = security.writable_cgroups.unwrap_or(host.privileged);
    let with = |first: &[&str], more: &[&str]| [first, more].concat().iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
    let strict = ["nosuid", "noexec", "nodev"];
    let shm_size = format!("size={}", if host.shm_size_bytes == 0 { SHM_BYTES_DEFAULT } else { host.shm_size_bytes });

    let mut all = vec![
        mount("/proc", "proc", "proc", &strict),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &[]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[]),
        mount("/dev/mqueue", "mqueue", "mqueue", &strict),
    ];
    all[3].set_options(Some(with(&strict, sys_rights)));
    all[4].set_options(Some(with(if cgroup_writable { &[] } else { &["ro"] }, &strict)));
    match &host.ipc_mode {
        IpcMode::None => {}
        IpcMode::Host => all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"])),
        IpcMode::Container(_) => {
            // The memory that the joined container's processes share is its own tmpfs.
            let process = format!("berth.process={}", input.joins.ipc.unwrap_or(0));
            all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate", &process]));
        }
        IpcMode::Default | IpcMode::Private | IpcMode::Shareable => {
            all.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]));
        }
    }
    let own_dev = covered("/dev");
    all.retain(|mount| {
        let target = mount.destination();
        !(user.iter().any(|user| user.destination() == target) || own_dev && target.starts_with("/dev"))
    });
    let rights: &[&str] = if host.readonly_rootfs { &["rbind", "ro", "rprivate"] } else { &["rbind", "rprivate"] };
    let files = [
        ("/etc/resolv.conf", input.files.resolv_conf),
        ("/etc/hostname", input.files.hostname),
        ("/etc/hosts", input.files.hosts),
    ];
    let mut later = user;
    for (target, source) in files {
        let Some(source) = source.and_then(Path::to_str) else { continue };
        if !later.iter().any(|mount| mount.destination() == Path::new(target)) {
            later.push(mount(target, "bind", source, rights));
        }
    }
    // A folder before what is inside of it; the sort is stable.
    later.sort_by_key(|mount| mount.destination().components().count());
    all.extend(later);
    all
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod golden;
