//! The words: what is asked of a guest, and what it answers. All of it is JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// The guest's first frame after a reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Of the reset that it answers, in hexadecimal digits.
    pub nonce: String,
    pub version: u32,
    /// `6.1.0-56-cloud-amd64`
    pub kernel: String,
    /// It is the guest's first process and runs one container; else a service of a whole system.
    pub init: bool,
    /// Since the guest's boot.
    pub uptime_millis: u64,
}

/// Those about files start a process of the agent's own, as [`Answer::Started`] says; one that fails says a [`Failure`]
/// on [`crate::STDERR`] and ends with another code than 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Ping,
    /// Addresses, names and files under /etc of a container; again for each change.
    Configure(Box<Configure>),
    /// Makes and starts the container; once. The stream is its first process.
    Run(Box<Run>),
    /// A process in the container, or in a whole system beside its own. The stream is that process.
    Exec(Box<Exec>),
    /// What is at a path: a [`Stat`] on [`crate::STDOUT`].
    Stat {
        path: String,
    },
    /// A file or folder as a tar archive on [`crate::STDOUT`].
    Get {
        path: String,
    },
    /// A tar archive from [`crate::STDIN`] into a folder.
    Put {
        path: String,
        /// Do not put a folder in a file's place, or the reverse.
        keep_kinds: bool,
        /// Entries belong to that user and group, whatever the archive says; empty: to whom it says.
        owner: String,
    },
    /// All of the container's files without what is mounted there, as a tar archive on [`crate::STDOUT`].
    Export,
    /// What the container changed against its image: [`changes`] on [`crate::STDOUT`].
    Changes,
    /// The same as a layer's archive.
    Layer {
        /// The container stands still until the stream is over.
        still: bool,
    },
    Processes,
    /// New limits: OCI `linux.resources`.
    Update {
        resources: Value,
    },
    /// All file systems that can be written are brought to the disk and stand still, until [`Request::Thaw`] or
    /// for `seconds_max`.
    Freeze {
        seconds_max: u32,
    },
    Thaw,
    /// The guest becomes another one: after a clone or a fork.
    Identify(Box<Identity>),
    /// So many processors take part, and all memory that is there.
    Online {
        cpus: u16,
    },
    /// The disk of that serial number has grown: its last partition and file system follow.
    Grow {
        disk: String,
    },
    /// Off, in order: where the agent is first, everything goes to the disk and the machine is off; a whole system is asked to
    /// end its services, and the answer says only that it was.
    PowerOff,
    /// How the guest is: a [`Statistics`].
    Statistics,
    /// The host's side answers this itself: waits until the container has started. The guest refuses it.
    AwaitStart,
    /// The host's side turns this into the signal and a question whether the guest is there: its container is killed, and ends
    /// once everything is on the disk. The guest refuses it.
    Kill,
    /// The host's side answers this itself: it serves other network cards from now on (DHCP). The guest refuses it.
    Cards,
}

impl Request {
    /// Whether the stream goes on behind a good answer.
    pub fn streams(&self) -> bool {
        use Request::{Changes, Exec, Export, Get, Layer, Put, Run, Stat};
        matches!(self, Run(_) | Exec(_) | Stat { .. } | Get { .. } | Put { .. } | Export | Changes | Layer { .. })
    }
}

/// [`Request::Changes`]' words: for each change a letter and the path, ended by a zero.
pub mod changes {
    pub const MODIFIED: u8 = b'M';
    pub const ADDED: u8 = b'A';
    pub const DELETED: u8 = b'D';
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configure {
    pub hostname: String,
    pub domainname: String,
    pub interfaces: Vec<Interface>,
    /// Texts of files under /etc.
    pub files: Vec<EtcFile>,
    /// Listen at 127.0.0.11 and send what is asked there to the host as [`crate::Kind::Query`].
    pub names: bool,
    /// Seconds and nanoseconds since 1970, 0: leave the clock.
    pub clock_unix_nanos: i64,
}

/// `hosts`, `resolv.conf`, `hostname`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcFile {
    pub name: String,
    pub text: String,
}

/// A network card as it should be. One that is not named loses its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// By which the guest finds it, `02:42:...`.
    pub mac: String,
    /// `eth0`: how it is called from then on; empty: as the guest calls it.
    pub name: String,
    /// With the prefix's length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Of the default routes.
    pub gateways: Vec<IpAddr>,
    /// 0: as the guest has it.
    pub mtu: u32,
    /// Kernel parameters below `/proc/sys`, with `IFNAME` for its name, and values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: String,
    /// OCI configuration. Its binds start from what [`Run::shares`] brings, or from /run/berth/etc.
    pub config: Value,
    /// Serial numbers of the image's disk (EROFS) and of the writable one (ext4); without the latter the root is
    /// read-only.
    pub image_disk: String,
    pub scratch_disk: Option<String>,
    /// Tag of the virtiofs that has the volumes, mounted at /run/berth/shares.
    pub shares: Option<String>,
    pub tty: bool,
    /// Rows, columns; (0, 0) unknown.
    pub console_size: (u16, u16),
    pub stdin: bool,
    /// Below our own small init.
    pub init: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// OCI `process`.
    pub process: Value,
    pub tty: bool,
    pub console_size: (u16, u16),
    pub stdin: bool,
}

/// Who the guest is from now on; what is absent or empty stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    pub hostname: Option<String>,
    /// 32 hexadecimal digits, for /etc/machine-id.
    pub machine_id: Option<String>,
    /// 0: leave the clock.
    pub clock_unix_nanos: i64,
    /// Hexadecimal digits that are mixed into the kernel's random numbers, which are then drawn anew.
    pub entropy: String,
    /// The cards that it has from now on; those of before are gone, or about to go.
    pub interfaces: Vec<Interface>,
    /// SSH keys of the host are made anew.
    pub new_host_keys: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    /// A process runs; pids are the guest's.
    Started {
        pid: i32,
    },
    Processes {
        list: Vec<Process>,
    },
    Frozen {
        filesystems: u32,
    },
    /// What could be done only in part, in words.
    Changed {
        notes: Vec<String>,
    },
    Statistics(Box<Statistics>),
}

/// What only the guest knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    pub memory_total_bytes: u64,
    /// What could be had without swapping: free memory and what the kernel would give back.
    pub memory_available_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
    pub uptime_millis: u64,
    /// Processors that take part; 0: an agent that does not say it.
    pub cpus_online: u16,
    /// At most [`crate::FILESYSTEMS_MAX`], those on disks of their own.
    pub filesystems: Vec<Filesystem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Where it is mounted.
    pub path: String,
    pub total_bytes: u64,
    pub used_bytes: u64,
}

/// What is at a path of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub name: String,
    pub size: u64,
    /// As stat(2) has it.
    pub mode: u32,
    pub mtime_unix_nanos: i64,
    pub link_target: String,
}

/// A line of `top`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    /// As the container's /etc/passwd calls it.
    pub user: String,
    pub terminal: String,
    pub started_unix_seconds: i64,
    pub cpu_millis: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// As `ps` writes it: `Ss+`.
    pub state: String,
    pub command: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NotFound,
    /// The program is there and cannot be executed.
    CannotRun,
    /// The program is not there.
    NoProgram,
    Invalid,
    ReadOnly,
    Full,
    Conflict,
    Unsupported,
    Internal,
}

/// How a stream came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Code(u8),
    Signal(u8),
    /// Of an archive.
    Failed(Failure),
}

/// Nobody asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The kernel ended a process of the container for want of memory.
    OutOfMemory,
}

impl Failure {
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure { kind, text: text.into() }
    }
}

/// What is said as JSON. None of our words can fail to be.
pub trait Say {
    fn to_json(&self) -> Vec<u8>;
}

impl<T: Serialize> Say for T {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings as keys, and nothing that refuses")
    }
}
