//! A bundle becomes a process: namespaces, mounts, capabilities, seccomp.
//!
//! ```text
//! create ── plan (parse everything, open every source) ── clone3(namespaces) ─▶ child
//!    │  id maps, hooks                                  ◀── "namespaces" ──────── joins cgroups
//!    │                                                  ─── "go on" ───────────▶ mounts, pivot_root, /dev, masks
//!    │                                                  ◀── "ready" + terminal ─ user, limits, capabilities
//! start ───────────────────────────────────────────────"start"───────────────▶ seccomp, execve
//!    │                                                  ◀── closed (or why not)
//! exec ── setns by pidfd, the same child without mounts
//! ```
//!
//! - Nothing is mounted on the host: all mounts are made in the child's own mount namespace, from sources
//!   that the parent opened, at targets that are resolved inside the root filesystem and held by descriptor
//!   while the mount is moved there. No name is looked up twice.
//! - The caller must have one thread: the child goes on running Rust after the clone.
//! - Errors carry the step that failed, also from the child; what was made before is undone by dropping it.
//!
//! This crate knows no cgroup paths, no images, no logs: it gets descriptors and data.

pub mod seccomp;

mod api;

pub use api::{
    CgroupEntry, CgroupMount, CreateRequest, Created, ExecRequest, LaunchError, LaunchErrorKind, Running, Stdio,
};

use std::os::fd::OwnedFd;

/// Makes the process; it waits before executing its program.
pub fn create(request: CreateRequest<'_>) -> Result<Created, LaunchError> {
    drop(request);
    Err(LaunchError::not_yet())
}

/// Runs one more process in a running container. Returns once its program runs.
pub fn exec(request: ExecRequest<'_>) -> Result<Running, LaunchError> {
    drop(request);
    Err(LaunchError::not_yet())
}

/// Starts a process made with [`CreateRequest::start_socket`] over a connection to that socket.
pub fn start_detached(connection: OwnedFd) -> Result<(), LaunchError> {
    drop(connection);
    Err(LaunchError::not_yet())
}

impl Created {
    /// Executes the program. Returns once it runs, or why it could not.
    pub fn start(self) -> Result<Running, LaunchError> {
        drop(self);
        Err(LaunchError::not_yet())
    }

    /// Leaves the process waiting for [`start_detached`] after this program ends.
    pub fn detach(self) {}
}

impl LaunchError {
    fn not_yet() -> LaunchError {
        LaunchError { kind: LaunchErrorKind::Unsupported, message: "the launch is not there yet".into(), errno: None }
    }
}
