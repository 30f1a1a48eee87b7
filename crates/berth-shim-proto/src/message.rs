//! The words: requests, replies, notices and what they carry.

use berth_types::mount::Rootfs;
use berth_types::{ContainerId, Error, ExecId, ExitStatus};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub sequence: u64,
    pub body: Body,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    Hello {
        version: u32,
    },
    /// Once per shim. Called otherwise than in version 1: a shim of that would not know of a profile that is apart, and
    /// make a container without a filter. An engine of that one is understood: programs are exchanged before it is.
    #[serde(rename = "make", alias = "create")]
    Create(Box<Create>),
    Start,
    State,
    /// To the container's init, or to an exec's process.
    Signal {
        target: Target,
        signal: i32,
    },
    /// To every process of the container's cgroup.
    SignalAll {
        signal: i32,
    },
    Resize {
        target: Target,
        rows: u16,
        columns: u16,
    },
    CloseStdin {
        target: Target,
    },
    /// On a connection that has not subscribed it lasts only as long as that connection.
    Pause,
    Resume,
    /// New limits: OCI `linux.resources` as JSON, applied as a whole.
    Update {
        resources: serde_json::Value,
    },
    /// Makes and starts a process inside the running container.
    Exec(Box<Exec>),
    /// Pids of the container's processes in the host's numbering.
    Processes,
    /// Turns this connection into a byte stream (see [`crate::stream`]).
    Attach(Attach),
    Subscribe,
    /// Changes how the log is kept from now on.
    UpdateLog {
        log: LogTarget,
    },
    /// Starts, changes or stops (`None`) the health probe.
    UpdateHealth {
        health: Option<HealthProbe>,
    },
    /// The exit has been recorded elsewhere; the shim may go. Refused while the container runs.
    Forget,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Init,
    Exec(ExecId),
}

/// Everything the shim needs to make the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    pub id: ContainerId,
    /// The shim's folder; holds `config.json` already.
    pub dir: PathBuf,
    pub rootfs: Rootfs,
    /// Relative to each controller's mount, for example `/berth/<id>`.
    pub cgroup: String,
    pub tty: bool,
    /// Rows, columns; (0, 0) unknown.
    pub console_size: (u16, u16),
    /// Keep standard input open for attached clients; otherwise it is /dev/null.
    pub stdin: bool,
    /// Close standard input once the first client that attached to it goes.
    pub stdin_once: bool,
    pub log: LogTarget,
    /// Run the program under our own init (reaps zombies, forwards signals).
    pub init: bool,
    pub health: Option<HealthProbe>,
    /// Compiled seccomp filters are kept here under the digest of their profile.
    pub seccomp_cache: Option<PathBuf>,
    /// The profile's JSON, where the configuration names none.
    #[serde(default)]
    pub seccomp_profile: Option<PathBuf>,
}

/// Where output goes. Bounded by `bytes_max` × `files_max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    pub format: LogFormat,
    /// Full path of the newest file; older ones get `.1`, `.2`, ...
    pub path: PathBuf,
    /// A file is rotated when the next record would pass this. 0: never.
    pub bytes_max: u64,
    pub files_max: u32,
    /// Gzip rotated files (Docker's `compress` option). The shim is single-threaded: it leaves this to the engine.
    pub compress: bool,
    /// Extra attributes for json-file records (labels and env asked for), in their final JSON form.
    pub attributes: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    JsonFile,
    Local,
    None,
}

/// A probe with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthProbe {
    /// The OCI process to run for each probe, as JSON.
    pub process: serde_json::Value,
    pub interval_nanos: u64,
    pub timeout_nanos: u64,
    pub start_period_nanos: u64,
    pub start_interval_nanos: u64,
    pub retries: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    pub id: ExecId,
    /// OCI `process` as JSON.
    pub process: serde_json::Value,
    /// What the next engine wants to know about it; the shim only keeps it.
    pub memo: serde_json::Value,
    pub tty: bool,
    pub console_size: (u16, u16),
    pub stdin: bool,
    /// Output is kept for an attach that follows; `false` throws it away (detached exec).
    pub output: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attach {
    pub target: Target,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimMessage {
    Reply { sequence: u64, result: Result<Answer, Error> },
    Notice(Notice),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    Hello {
        version: u32,
    },
    /// Create, Start and Exec: the process in the host's numbering.
    Started {
        pid: i32,
    },
    State(State),
    Processes {
        pids: Vec<i32>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub id: ContainerId,
    pub phase: ShimPhase,
    pub health: Option<HealthState>,
    pub execs: Vec<ExecState>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimPhase {
    /// No Create yet.
    Empty,
    Created {
        pid: i32,
    },
    /// Wall-clock nanoseconds since 1970.
    Running {
        pid: i32,
        started_unix_nanos: i64,
        paused: bool,
    },
    Exited(ExitRecord),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecState {
    pub id: ExecId,
    pub pid: i32,
    pub exit: Option<ExitStatus>,
    pub memo: serde_json::Value,
}

/// How a container ended; the content of `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub status: ExitStatus,
    pub oom_killed: bool,
    pub started_unix_nanos: i64,
    pub finished_unix_nanos: i64,
    /// For `why`: memory limit and peak at the end, where the cgroup told.
    pub memory_limit_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    /// The signal that *we* sent last and when, to tell ours from strangers'.
    pub last_signal_sent: Option<(i32, i64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    Exited(ExitRecord),
    ExecExited {
        id: ExecId,
        pid: i32,
        status: ExitStatus,
    },
    OutOfMemory,
    Health(HealthState),
    /// One probe started (its process) or ended; Docker shows them as exec events.
    Probe(ProbeResult),
    /// A log file was rotated; the engine may compress it.
    LogRotated {
        path: PathBuf,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// The newest five.
    pub log: Vec<ProbeResult>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    pub started_unix_nanos: i64,
    pub finished_unix_nanos: i64,
    /// -1: timed out or could not run.
    pub exit_code: i32,
    /// At most 4,096 bytes, invalid UTF-8 replaced.
    pub output: String,
}
