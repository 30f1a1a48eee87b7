//! A bundle becomes a process: namespaces, mounts, capabilities, seccomp
//!
//! ```text
//!  caller (one thread)                          child
//!  prepare: configuration -> plan
//!  clone3, all namespaces at once ───────────►  non-dumpable, cgroups ("0" into each), id maps awaited
//!  id maps, hooks of the host                   root file system, mounts, devices, masks, pivot_root
//!  terminal, warnings          ◄── ready ─────  identity, capabilities, program found
//!  Created::start              ─── start ────►  filter, last capabilities, execve
//!  end of file: it runs        ◄── or failed ─
//! ```
//!
//! - **One process is cloned for one container** (two with its own init): joining the pid namespace is done by
//!   the caller around the clone, everything else by the child.
//! - **Nothing is mounted on the host.** Every mount is made detached and attached to a descriptor that was
//!   resolved inside the container's root; no path of the image is ever followed outside it.
//! - **No descriptor leaks**: all from 3 on are closed by the execve itself.
//! - What a container can look at before the execve is non-dumpable, and the caller's program should be one
//!   that cannot be written: CVE-2019-5736 (the shim and the runtime run from a read-only mount of themselves).
//!
//! The caller must be single-threaded; [`create`] and [`exec`] refuse otherwise.

mod capabilities;
mod channel;
mod child;
mod devices;
mod error;
mod exec;
pub mod hooks;
mod identity;
mod init;
mod launch;
mod mounts;
mod namespaces;
mod notify;
mod procfs;
mod program;
mod rlimits;
pub mod seccomp;
mod terminal;

pub use error::{LaunchError, LaunchKind};
pub use exec::{ExecRequest, exec};
pub use launch::{CreateRequest, Created, Running, create, start_detached};

use rustix::fd::{BorrowedFd, OwnedFd};

/// What becomes descriptors 0, 1 and 2 of the program.
#[derive(Debug)]
pub enum Stdio {
    Files {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts; its other end comes back to the caller. (0, 0): size unknown.
    Terminal {
        rows: u16,
        columns: u16,
    },
    /// The caller's own.
    Inherit,
}

/// Where the process belongs, as descriptors: the runtime knows no cgroup paths.
#[derive(Debug, Default)]
pub struct CgroupEntry<'a> {
    /// Folder on v2: the process is born in it.
    pub v2: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` (or `tasks`) of each v1 hierarchy: the child writes "0" to them.
    pub join_files: Vec<BorrowedFd<'a>>,
    /// That of memory's, where it is alone in its hierarchy. It may be joined late: see [`create`].
    pub join_memory: Option<BorrowedFd<'a>>,
}
