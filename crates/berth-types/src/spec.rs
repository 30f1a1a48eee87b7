//! What a container is asked to be: Docker's `Config`, `HostConfig` and endpoint settings in our words.
//!
//! Doors build a [`ContainerSpec`] and render it back in `inspect`; the engine stores it whole and turns it
//! into an OCI configuration. Every field is honoured or refused by the engine's `validate`, never
//! silently ignored. Units are in the names; absent means "the engine's default".

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Everything a caller can say about a container before it exists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub config: Config,
    pub host: HostConfig,
    /// Network name or id → how to join it. Keys beyond the primary network are joined too.
    pub endpoints: BTreeMap<String, EndpointSpec>,
    /// It starts with these networks and no other: the primary one only where it is among them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub endpoints_only: bool,
    /// `os/arch[/variant]` asked for, `None` for the image's own.
    pub platform: Option<String>,
}

/// What travels with the program, and what `commit` puts into an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The image as the caller wrote it.
    pub image: String,
    pub hostname: String,
    pub domainname: String,
    /// `user[:group]`, names or numbers, resolved inside the root filesystem.
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    /// `port/proto` as declared by the image or `--expose`.
    #[serde(with = "crate::port_runs::set")]
    pub exposed_ports: BTreeSet<PortProto>,
    pub tty: bool,
    pub open_stdin: bool,
    /// Close standard input when the first attached client goes.
    pub stdin_once: bool,
    pub env: Vec<String>,
    /// `None`: the image's. `Some(vec![])`: explicitly none.
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub healthcheck: Option<Healthcheck>,
    /// Paths that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    pub working_dir: String,
    pub network_disabled: bool,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub stop_timeout_seconds: Option<i64>,
    pub shell: Option<Vec<String>>,
    pub on_build: Option<Vec<String>>,
    /// Of command lines of Windows; images carry it through.
    pub args_escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A container's port, written `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortProto {
    pub port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid port specification: {0:?}")]
pub struct InvalidPort(pub String);

impl std::str::FromStr for PortProto {
    type Err = InvalidPort;
    fn from_str(text: &str) -> Result<PortProto, InvalidPort> {
        let invalid = || InvalidPort(text.to_owned());
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(invalid()),
        };
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
        Ok(PortProto { port, protocol })
    }
}

impl TryFrom<String> for PortProto {
    type Error = InvalidPort;
    fn try_from(text: String) -> Result<PortProto, InvalidPort> {
        text.parse()
    }
}

impl From<PortProto> for String {
    fn from(port: PortProto) -> String {
        port.to_string()
    }
}

impl std::fmt::Display for PortProto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// A health probe. Times in nanoseconds, as Docker's API has them; 0 means the default
/// (interval 30 s, timeout 30 s, start period 0, start interval 5 s, 3 retries).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `[]` inherit, `["NONE"]` off, `["CMD", ...]`, `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    pub interval_nanos: i64,
    pub timeout_nanos: i64,
    pub start_period_nanos: i64,
    pub start_interval_nanos: i64,
    pub retries: u32,
}

/// How the host is to run it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `source:target[:options]` as written; the engine parses them, `inspect` shows them.
    pub binds: Vec<String>,
    pub mounts: Vec<MountSpec>,
    pub volumes_from: Vec<String>,
    pub volume_driver: String,
    /// Target → mount options, as `--tmpfs` gives them.
    pub tmpfs: BTreeMap<String, String>,
    pub container_id_file: String,

    pub log: LogConfig,
    pub restart: RestartPolicy,
    pub auto_remove: bool,
    /// Rows and columns for the first terminal size; (0, 0) unknown.
    pub console_size: (u16, u16),
    pub annotations: BTreeMap<String, String>,

    pub network_mode: NetworkMode,
    #[serde(with = "crate::port_runs")]
    pub port_bindings: BTreeMap<PortProto, Vec<PortBinding>>,
    pub publish_all_ports: bool,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    /// `name:address`, `host-gateway` allowed as address.
    pub extra_hosts: Vec<String>,
    pub links: Vec<String>,

    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    /// `seccomp=...`, `apparmor=...`, `label=...`, `no-new-privileges`, `systempaths=unconfined`.
    pub security_opt: Vec<String>,
    /// `None`: the engine's defaults; `Some(vec![])`: none at all.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub group_add: Vec<String>,

    pub cgroupns_mode: NamespaceMode,
    pub ipc_mode: IpcMode,
    pub pid_mode: NamespaceMode,
    pub uts_mode: NamespaceMode,
    pub userns_mode: NamespaceMode,
    /// Bytes of /dev/shm; 0 means 64 MiB.
    pub shm_size_bytes: u64,
    pub sysctls: BTreeMap<String, String>,
    pub storage_opt: BTreeMap<String, String>,
    /// `""` or `runc` mean ours, `vm` a machine around the container; anything else is refused.
    pub runtime: String,
    /// `""`, `default`, or `vm`: a machine around the container; Windows' kinds are refused.
    pub isolation: String,
    pub init: Option<bool>,
    pub resources: Resources,
    /// Lists that the client gave although nothing is in them: shown as empty, not as absent.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub given_empty: BTreeSet<HostField>,
}

/// Limits. 0 or empty means no limit unless a field says otherwise. Those that `update` can change live
/// are all but devices, ulimits and cgroup parent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub memory_bytes: i64,
    pub memory_reservation_bytes: i64,
    /// Memory plus swap; -1 unlimited swap, 0 twice the memory limit.
    pub memory_swap_bytes: i64,
    /// 0-100; `None` or -1 the host's.
    pub memory_swappiness: Option<i64>,
    pub kernel_memory_bytes: i64,
    pub oom_kill_disable: Option<bool>,
    pub oom_score_adj: i32,

    /// Relative weight, 2-262144; 0 default (1024).
    pub cpu_shares: i64,
    /// Billionths of a CPU; conflicts with quota and period.
    pub nano_cpus: i64,
    pub cpu_period_micros: i64,
    pub cpu_quota_micros: i64,
    pub cpu_rt_period_micros: i64,
    pub cpu_rt_runtime_micros: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,

    pub pids_limit: Option<i64>,

    /// 10-1000; 0 off.
    pub blkio_weight: u16,
    pub blkio_weight_device: Vec<WeightDevice>,
    pub blkio_read_bps: Vec<ThrottleDevice>,
    pub blkio_write_bps: Vec<ThrottleDevice>,
    pub blkio_read_iops: Vec<ThrottleDevice>,
    pub blkio_write_iops: Vec<ThrottleDevice>,

    pub devices: Vec<DeviceMapping>,
    /// Rules as in cgroup v1's devices.allow: `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    pub device_requests: Vec<DeviceRequest>,
    pub ulimits: Vec<Ulimit>,
    pub cgroup_parent: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    pub path: String,
    pub rate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    /// Some of `r`, `w`, `m`.
    pub cgroup_permissions: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    pub driver: String,
    pub count: i64,
    pub device_ids: Vec<String>,
    pub capabilities: Vec<Vec<String>>,
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Lower-case name without `RLIMIT_`: `nofile`.
    pub name: String,
    /// -1 unlimited.
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Default,
    None,
    Host,
    /// Shares another container's (id or name).
    Container(String),
    /// A network by name or id; `bridge` is the default one.
    Named(String),
}

/// A namespace that may be private, the host's, or another container's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// What the engine does by default for this namespace.
    #[default]
    Default,
    Private,
    Host,
    Container(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    #[default]
    Default,
    /// Own namespace, no /dev/shm.
    None,
    Private,
    /// Private, but others may join it.
    Shareable,
    Host,
    Container(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// 0 means without end.
    OnFailure {
        maximum_retries: u32,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `""` the engine's default, `json-file`, `local`, `none`; others are refused.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

/// Where a published port listens. Port 0 lets the engine choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// `None`: every address.
    pub host_ip: Option<IpAddr>,
    /// First and last of the range to choose from; equal for a fixed port; (0, 0) any.
    pub host_port: (u16, u16),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    pub kind: MountKind,
    /// Host path or volume name; empty for tmpfs and anonymous volumes.
    pub source: String,
    pub target: String,
    pub read_only: bool,
    pub consistency: String,
    pub bind: Option<BindOptions>,
    pub volume: Option<VolumeOptions>,
    pub tmpfs: Option<TmpfsOptions>,
    /// For `MountKind::Image`: a folder within the image.
    pub image_subpath: String,
    /// For `MountKind::Secret` and `MountKind::Config`.
    #[serde(default)]
    pub file: Option<FileOptions>,
}

impl MountSpec {
    /// A secret or configuration with nothing said beyond where it is seen.
    pub fn file(kind: MountKind, source: &str, target: &str) -> MountSpec {
        MountSpec {
            kind,
            source: source.to_owned(),
            target: target.to_owned(),
            read_only: true,
            consistency: String::new(),
            bind: None,
            volume: None,
            tmpfs: None,
            image_subpath: String::new(),
            file: None,
        }
    }
}

/// Whose a secret's file is inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOptions {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Default for FileOptions {
    /// As Swarm has it: everybody inside may read.
    fn default() -> FileOptions {
        FileOptions { uid: 0, gid: 0, mode: 0o444 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    Image,
    /// A named secret's content, as a file in memory.
    Secret,
    /// A named configuration's content, the same way.
    Config,
}

impl MountKind {
    pub fn as_str(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Image => "image",
            MountKind::Secret => "secret",
            MountKind::Config => "config",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; empty: rprivate.
    pub propagation: String,
    pub non_recursive: bool,
    pub create_mountpoint: bool,
    pub read_only_non_recursive: bool,
    pub read_only_force_recursive: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    pub no_copy: bool,
    pub labels: BTreeMap<String, String>,
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
    pub subpath: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    pub size_bytes: i64,
    /// File mode bits; 0 means 01777.
    pub mode: u32,
    pub options: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    pub ipv4_address: Option<std::net::Ipv4Addr>,
    pub ipv6_address: Option<std::net::Ipv6Addr>,
    pub link_local_ips: Vec<String>,
    pub mac_address: String,
    pub aliases: Vec<String>,
    pub links: Vec<String>,
    pub driver_options: BTreeMap<String, String>,
    pub gateway_priority: i64,
    /// Fields that the client gave although nothing is in them: shown as empty, not as absent.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub given_empty: BTreeSet<EndpointField>,
}

/// A list or map of a host configuration that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostField {
    Binds,
    PortBindings,
    VolumesFrom,
    CapAdd,
    CapDrop,
    Dns,
    DnsOptions,
    DnsSearch,
    ExtraHosts,
    GroupAdd,
    SecurityOpt,
    BlkioWeightDevice,
    BlkioDeviceReadBps,
    BlkioDeviceWriteBps,
    BlkioDeviceReadIOps,
    BlkioDeviceWriteIOps,
    Devices,
    DeviceCgroupRules,
    DeviceRequests,
    Ulimits,
}

/// A field of an endpoint that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointField {
    Addresses,
    Links,
    Aliases,
    DriverOptions,
}

/// What an image says about running it (OCI image configuration, `config`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageDefaults {
    pub image_id: Option<Digest>,
    pub config: Config,
    pub architecture: String,
    pub os: String,
    pub variant: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_defaults_to_tcp_and_is_written_with_its_protocol() {
        assert_eq!("80".parse::<PortProto>().unwrap().to_string(), "80/tcp");
        assert_eq!("53/UDP".parse::<PortProto>().unwrap().to_string(), "53/udp");
        for bad in ["", "0", "65536", "80/icmp", "a/tcp", "-1"] {
            assert!(bad.parse::<PortProto>().is_err(), "{bad}");
        }
    }
}
