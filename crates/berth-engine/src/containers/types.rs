//! What the containers' operations take and answer.

use crate::Filters;
use crate::networks::{Attachment, Endpoint};
pub use berth_files::{Change, ChangeKind, Look as PathStat};
use berth_shim_proto::HealthState;
use berth_types::mount::Rootfs;
use berth_types::spec::{
    ContainerSpec, FileOptions, Healthcheck, LogConfig, MountKind, PortBinding, PortProto, Resources, RestartPolicy,
    ThrottleDevice, WeightDevice,
};
use berth_types::{ContainerId, Digest, Error, ExecId, Phase, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use tokio::sync::mpsc;

/// A container that now exists.
#[derive(Debug, Clone)]
pub struct Created {
    pub id: ContainerId,
    /// What the caller should know: a limit that this host cannot keep, for example.
    pub warnings: Vec<String>,
}

/// Whether something had to be done. "Already so" is an outcome, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Already,
}

#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    /// Grace before SIGKILL; `None`: the container's own, else 10; negative: wait without end.
    pub timeout_seconds: Option<i64>,
    /// Instead of the container's stop signal.
    pub signal: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// Answers at once for a container that does not run.
    #[default]
    NotRunning,
    NextExit,
    /// It does not run and no policy starts it again.
    LastExit,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitOutcome {
    pub exit_code: i64,
    /// Why a start or the wait itself failed, where it did.
    pub error: Option<String>,
}

/// Resolves when the condition holds. Registered once `wait` has answered, polled or not.
pub type Waiter = Pin<Box<dyn Future<Output = Result<WaitOutcome>> + Send>>;

/// What changes on a container: zero, empty and `None` leave a value as it is, as in Docker's API.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Without its lists of block devices, which are in `disks`.
    pub resources: Resources,
    pub disks: DiskLimits,
    pub restart: Option<RestartPolicy>,
    /// Not in Docker's API. All bindings, instead of those that are.
    pub ports: Option<BTreeMap<PortProto, Vec<PortBinding>>>,
    /// Not in Docker's API. `["NONE"]` ends the probes.
    pub healthcheck: Option<Healthcheck>,
    /// Not in Docker's API. Options for the driver that it has.
    pub log: Option<LogConfig>,
}

/// Limits of single disks: a list that is given replaces the one that was, an empty one ends its limits.
#[derive(Debug, Clone, Default)]
pub struct DiskLimits {
    pub weight: Option<Vec<WeightDevice>>,
    pub read_bps: Option<Vec<ThrottleDevice>>,
    pub write_bps: Option<Vec<ThrottleDevice>>,
    pub read_iops: Option<Vec<ThrottleDevice>>,
    pub write_iops: Option<Vec<ThrottleDevice>>,
}

#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that do not run too.
    pub all: bool,
    /// The newest so many, whatever their state; 0: no limit.
    pub limit: usize,
    /// Compute `size_rw` and `size_root`.
    pub size: bool,
    /// Keys: ancestor, before, expose, exited, health, id, is-task, label, name, network, publish, since,
    /// status, volume, isolation.
    pub filters: Filters,
}

/// How much a container has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Lengths of the files in its own layer.
    pub written_bytes: u64,
    /// What that layer takes on the disk: what its removal frees.
    pub disk_bytes: u64,
    /// With those of its image.
    pub all_bytes: u64,
}

/// A container in a list.
#[derive(Debug, Clone)]
pub struct Summary {
    pub id: ContainerId,
    /// Without the leading slash.
    pub name: String,
    /// As the caller wrote it, or the id once that name means another image.
    pub image: String,
    pub image_id: Option<Digest>,
    /// Of a template: the image that its clones stand on.
    pub template: Option<Digest>,
    /// Program and arguments.
    pub command: Vec<String>,
    pub created_unix_nanos: i64,
    pub state: State,
    pub labels: BTreeMap<String, String>,
    pub network_mode: String,
    pub annotations: BTreeMap<String, String>,
    pub network: Attachment,
    /// By name, those that it is to join included.
    pub networks: BTreeMap<String, Box<Endpoint>>,
    /// Declared but not published ports, for the list's port column.
    pub exposed_ports: Vec<PortProto>,
    pub mounts: Vec<MountPoint>,
    /// Where they were asked for.
    pub sizes: Option<Sizes>,
}

/// What one may use, as far as it is limited.
#[derive(Debug, Clone)]
pub struct Limited {
    pub id: ContainerId,
    pub labels: BTreeMap<String, String>,
    pub resources: Resources,
    /// It does not run and is not about to.
    pub ended: bool,
}

/// Docker's state word, computed from phase and restart state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateWord {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl StateWord {
    pub fn as_str(self) -> &'static str {
        match self {
            StateWord::Created => "created",
            StateWord::Running => "running",
            StateWord::Paused => "paused",
            StateWord::Restarting => "restarting",
            StateWord::Removing => "removing",
            StateWord::Exited => "exited",
            StateWord::Dead => "dead",
        }
    }
}

/// A container's state with everything that a door renders from it.
#[derive(Debug, Clone)]
pub struct State {
    pub phase: Phase,
    /// It has exited and its restart policy will start it again.
    pub restarting: bool,
    /// 0 where it never ran.
    pub started_unix_nanos: i64,
    /// 0 where it never ended.
    pub finished_unix_nanos: i64,
    /// Why the last start failed; empty otherwise.
    pub error: String,
    /// Of the last run; 0 before it.
    pub exit_code: i64,
    pub oom_killed: bool,
    /// Removal failed half way; remove it again.
    pub dead: bool,
    pub health: Option<HealthState>,
    /// Only there to be cloned.
    pub template: bool,
}

impl State {
    /// Its probe says so.
    pub fn is_unhealthy(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.status == berth_shim_proto::HealthStatus::Unhealthy)
    }

    pub fn word(&self) -> StateWord {
        if self.dead {
            return StateWord::Dead;
        }
        match self.phase {
            Phase::Paused { .. } => StateWord::Paused,
            _ if self.restarting => StateWord::Restarting,
            Phase::Running { .. } => StateWord::Running,
            Phase::Created => StateWord::Created,
            Phase::Exited { .. } => StateWord::Exited,
            Phase::Removing => StateWord::Removing,
        }
    }

    pub fn pid(&self) -> i32 {
        self.phase.pid().unwrap_or(0)
    }

    /// It does not run and is not about to.
    pub fn has_ended(&self) -> bool {
        matches!(self.word(), StateWord::Exited | StateWord::Dead | StateWord::Removing)
    }

    /// "Up 5 minutes (healthy)" as `ps` shows it.
    pub fn status_text(&self, now_unix_nanos: i64) -> String {
        super::status::text(self, now_unix_nanos)
    }
}

/// One mount of a container, as `inspect` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub kind: MountKind,
    /// The volume's name, or the secret's; empty for others.
    pub name: String,
    /// On the host: a folder, or the volume's `_data`.
    pub source: PathBuf,
    pub target: String,
    /// `local` for volumes, a secret's id.
    pub driver: String,
    /// Options as written (`z`, `ro`, ...).
    pub mode: String,
    pub read_write: bool,
    pub propagation: String,
    /// An anonymous volume made with the container: goes with `rm -v`.
    #[serde(default)]
    pub anonymous: bool,
    /// What the configuration needs beyond that.
    #[serde(default)]
    pub detail: MountDetail,
}

/// How a mount is made; decided once by `mounts::plan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountDetail {
    /// A bind without the mounts below its source.
    pub non_recursive: bool,
    /// Read-only at the top only: mounts below the source stay as they are.
    pub read_only_non_recursive: bool,
    /// Make a missing source on the host (`-v`); otherwise a missing source is an error (`--mount`).
    pub create_source: bool,
    /// Options of a tmpfs, comma separated.
    pub tmpfs_options: String,
    /// A folder within the volume or image, resolved inside of it at each start.
    pub subpath: String,
    /// Fill the empty volume with the image's content before the first start.
    pub copy_up: bool,
    /// Relabel for SELinux: `z` shared, `Z` private.
    pub relabel: Option<char>,
    /// Owners on the disk are seen as others.
    pub owners: Option<super::mounts::Owners>,
    /// What a volume with driver options stands for, instead of its folder.
    pub file_system: Option<FileSystem>,
    /// Whose a secret's or configuration's file is.
    pub file: Option<FileOptions>,
    /// Layers of an image mount, topmost first.
    pub layers: Vec<berth_types::mount::Lower>,
}

/// A file system to mount: the `local` driver's `type`, `device` and `o`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    pub kind: String,
    pub device: String,
    pub options: Vec<String>,
}

/// Everything about one container.
#[derive(Debug, Clone)]
pub struct Inspect {
    pub id: ContainerId,
    pub name: String,
    pub created_unix_nanos: i64,
    /// The spec with the image's defaults merged in, as Docker shows `Config`.
    pub spec: ContainerSpec,
    pub image_id: Option<Digest>,
    pub platform: String,
    /// Program and arguments as run.
    pub path: String,
    pub args: Vec<String>,
    pub state: State,
    pub restart_count: u64,
    pub resolv_conf_path: PathBuf,
    pub hostname_path: PathBuf,
    pub hosts_path: PathBuf,
    pub log_path: PathBuf,
    pub app_armor_profile: String,
    pub exec_ids: Vec<ExecId>,
    /// For `GraphDriver`.
    pub rootfs: Option<Rootfs>,
    pub mounts: Vec<MountPoint>,
    pub network: Attachment,
    /// By name, those that it is to join included.
    pub networks: BTreeMap<String, Box<Endpoint>>,
    /// Where they were asked for.
    pub sizes: Option<Sizes>,
}

/// `top`: a table of the container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    pub titles: Vec<String>,
    pub processes: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub since_unix_nanos: Option<i64>,
    pub until_unix_nanos: Option<i64>,
    /// The last so many records; `None`: all.
    pub tail: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub stream: OutputStream,
    pub time_unix_nanos: i64,
    /// With its newline, unless it is a part of a longer line.
    pub line: Bytes,
    /// For `--details`: labels and environment asked for by the log options.
    pub attributes: Option<serde_json::Value>,
}

/// Records one by one; ends when there are no more, or with the container when following.
pub struct LogStream {
    /// The container has a terminal: a door sends raw bytes, no stream headers.
    pub tty: bool,
    pub records: mpsc::Receiver<Result<LogRecord>>,
}

impl LogStream {
    pub async fn next(&mut self) -> Option<Result<LogRecord>> {
        self.records.recv().await
    }
}

#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Earlier output from the log first.
    pub logs: bool,
    /// Stay for what follows; without it the stream ends after the logs.
    pub stream: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// `ctrl-p,ctrl-q` style; empty: that default; only meaningful with a terminal's standard input.
    pub detach_keys: String,
}

/// Both directions of an attached client. Dropping it detaches.
pub struct AttachStream {
    pub tty: bool,
    pub output: AttachOutput,
    /// `None` where standard input was not asked for or is not open.
    pub input: Option<AttachInput>,
}

pub struct AttachOutput {
    pub chunks: mpsc::Receiver<(OutputStream, Bytes)>,
}

impl AttachOutput {
    /// `None` after the last byte, or once the client typed the detach keys.
    pub async fn next(&mut self) -> Option<(OutputStream, Bytes)> {
        self.chunks.recv().await
    }
}

/// Standard input of the container. Dropping it closes the client's end (and the container's, with `stdin_once`).
pub struct AttachInput {
    pub chunks: mpsc::Sender<Bytes>,
}

impl AttachInput {
    /// False once nobody reads any more.
    pub async fn write(&self, bytes: Bytes) -> bool {
        self.chunks.send(bytes).await.is_ok()
    }
}

/// A process to run inside a running container.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    /// Empty: the container's.
    pub user: String,
    pub working_dir: String,
    pub tty: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub privileged: bool,
    pub detach_keys: String,
    pub console_size: (u16, u16),
}

#[derive(Debug, Clone, Default)]
pub struct ExecStart {
    pub detach: bool,
    pub tty: Option<bool>,
    pub console_size: Option<(u16, u16)>,
}

#[derive(Debug, Clone)]
pub struct ExecInspect {
    pub id: ExecId,
    pub container_id: ContainerId,
    pub spec: ExecSpec,
    pub running: bool,
    pub exit_code: Option<i64>,
    /// 0 while it has not been started.
    pub pid: i32,
    /// Output or input may still come.
    pub can_remove: bool,
}

/// One reading of a container's meters.
#[derive(Debug, Clone, Default)]
pub struct StatsSample {
    pub read_unix_nanos: i64,
    pub cpu_total_nanos: u64,
    pub cpu_user_nanos: u64,
    pub cpu_kernel_nanos: u64,
    pub per_cpu_nanos: Vec<u64>,
    /// All CPUs of the host together, busy and idle.
    pub system_nanos: u64,
    pub online_cpus: u32,
    pub throttling_periods: u64,
    pub throttled_periods: u64,
    pub throttled_nanos: u64,
    pub memory_usage_bytes: u64,
    pub memory_max_usage_bytes: u64,
    pub memory_limit_bytes: u64,
    pub memory_fail_count: u64,
    /// `memory.stat`, as the kernel names it.
    pub memory_stat: BTreeMap<String, u64>,
    pub pids_current: u64,
    /// 0: none.
    pub pids_limit: u64,
    /// major, minor, operation (`read`, `write`, ...), value
    pub io_service_bytes: Vec<(u64, u64, String, u64)>,
    pub io_serviced: Vec<(u64, u64, String, u64)>,
    /// By interface name inside the container.
    pub networks: BTreeMap<String, InterfaceStats>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// A reading and the one before it (Docker's clients compute rates from the pair).
#[derive(Debug, Clone)]
pub struct Stats {
    pub id: ContainerId,
    pub name: String,
    pub now: StatsSample,
    /// All zero in a `one_shot` answer and for a container that does not run.
    pub before: StatsSample,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct StatsOptions {
    /// One every second until the client goes; otherwise one.
    pub stream: bool,
    /// Do not take a second reading to compare with.
    pub one_shot: bool,
}

pub struct StatsStream {
    pub samples: mpsc::Receiver<Result<Stats>>,
}

impl StatsStream {
    pub async fn next(&mut self) -> Option<Result<Stats>> {
        self.samples.recv().await
    }
}

/// Bytes of a tar archive; an error ends it.
pub struct ByteStream {
    pub chunks: mpsc::Receiver<Result<Bytes>>,
}

impl ByteStream {
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.chunks.recv().await
    }
}

pub struct Archive {
    pub stat: PathStat,
    pub body: ByteStream,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct ArchivePut {
    /// Refuse to replace a folder by a file and the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Give all entries to the container's user, where it has one; otherwise they keep the archive's owners.
    pub copy_uid_gid: bool,
}

/// A container's filesystem and configuration for `commit`; the container is paused until it is dropped.
pub struct CommitSource {
    pub id: ContainerId,
    pub name: String,
    pub spec: ContainerSpec,
    pub image_id: Option<Digest>,
    /// The snapshot's key.
    pub rootfs_key: String,
    /// Its changes as a layer's archive, where its guest tells them.
    pub(crate) guest: Option<Box<dyn std::io::Read + Send>>,
    pub(crate) _paused: Option<Box<dyn Send + Sync>>,
}

/// Why a container is in the state that it is in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Why {
    pub name: String,
    pub id: ContainerId,
    /// One sentence: "exited by itself with code 1", "killed by the kernel: out of memory".
    pub summary: String,
    /// Facts that support it, in the order to read them.
    pub details: Vec<String>,
    /// What to do, where that is sure.
    pub hint: Option<String>,
}

/// Where a published port listens, for `port`.
pub type Published = BTreeMap<PortProto, Vec<(IpAddr, u16)>>;

/// The receiving end of a request's body, for [`super::Containers::archive_put`].
pub type ByteSource = mpsc::Receiver<Result<Bytes, Error>>;
