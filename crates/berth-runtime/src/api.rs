//! What callers hand in and get back.

use berth_types::mount::Rootfs;
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A container to be made.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub spec: &'a Spec,
    pub bundle: &'a Path,
    pub rootfs: &'a Rootfs,
    pub stdio: Stdio,
    pub cgroup: CgroupEntry<'a>,
    /// Run the program under our own init, which reaps zombies and passes signals on.
    pub init: bool,
    /// Where compiled seccomp filters are kept.
    pub seccomp_cache: Option<&'a Path>,
    /// How many descriptors from 3 on the program gets besides the standard three.
    pub preserve_fds: u32,
    /// A listening `SOCK_SEQPACKET` socket: the child takes its start from whoever connects
    /// ([`crate::start_detached`]), so it can outlive its creator. `None`: [`Created::start`].
    pub start_socket: Option<BorrowedFd<'a>>,
    /// Give the container a session keyring of its own.
    pub keyring: bool,
}

/// Standard input, output and error of a container's process.
#[derive(Debug)]
pub enum Stdio {
    Files {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A new terminal of this size ((0, 0): unknown); its master comes back in [`Created::terminal`].
    Terminal {
        rows: u16,
        columns: u16,
    },
    /// The caller's own.
    Inherit,
}

/// How the child gets into its cgroups: as descriptors, this crate knows no cgroup paths.
#[derive(Debug, Default)]
pub struct CgroupEntry<'a> {
    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub v2: Option<BorrowedFd<'a>>,
    /// Files into which the child writes "0" (`tasks` or `cgroup.procs` of v1).
    pub join_files: Vec<BorrowedFd<'a>>,
    /// What a mount of type `cgroup` shows inside.
    pub mounts: Vec<CgroupMount>,
}

/// One folder of a container's `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Below `/sys/fs/cgroup` of the container; empty for a host with v2 only, where it is that folder itself.
    pub name: String,
    /// The container's own cgroup on the host.
    pub directory: PathBuf,
}

/// A process that waits for its start. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Created {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// The listener of seccomp notifications, if the profile has notify actions.
    pub seccomp_listener: Option<OwnedFd>,
    pub(crate) gate: Option<OwnedFd>,
    /// What did not apply but does not matter (a limit that the host does not allow to raise).
    pub warnings: Vec<String>,
}

/// A process whose program runs.
#[derive(Debug)]
pub struct Running {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
    pub seccomp_listener: Option<OwnedFd>,
    pub warnings: Vec<String>,
}

/// One more process in a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The container's first process, by which its namespaces are found.
    pub pidfd: BorrowedFd<'a>,
    pub pid: i32,
    /// The container's configuration: its namespaces, seccomp profile.
    pub spec: &'a Spec,
    pub process: &'a Process,
    pub stdio: Stdio,
    pub cgroup: CgroupEntry<'a>,
    pub seccomp_cache: Option<&'a Path>,
    pub preserve_fds: u32,
}

/// What sort of failure a caller must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchErrorKind {
    /// The configuration cannot be applied as it is.
    Invalid,
    /// The program is not there (Docker's exit code 127).
    NotFound,
    /// The program is there and cannot be executed (126).
    CannotRun,
    /// The host lacks something.
    Unsupported,
    /// A step failed.
    Failed,
}

/// A step that failed, in the parent or in the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct LaunchError {
    pub kind: LaunchErrorKind,
    /// The step, its object and the kernel's answer in one line.
    pub message: String,
    pub errno: Option<i32>,
}
