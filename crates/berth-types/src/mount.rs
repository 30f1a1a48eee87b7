//! Mounts as data: what storage returns and the runtime applies.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How a container's root filesystem comes to be. Nothing is mounted on the host: the runtime applies
/// this inside the container's own mount namespace, so a crash leaves no mount behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Rootfs {
    /// An existing directory (an OCI bundle's `root.path`, or a host folder).
    Directory { path: PathBuf },
    /// An overlay of read-only layers and, unless read-only, an upper directory.
    Overlay(Overlay),
}

/// An overlayfs mount (kernel: Documentation/filesystems/overlayfs.rst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Read-only layers, **topmost first** as the kernel wants them. Never empty.
    pub lower: Vec<PathBuf>,
    /// `None` makes the mount read-only.
    pub upper: Option<Upper>,
    /// More mount options without a value, for example `volatile`, `userxattr`, `metacopy=on`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// The writable part. Both folders are on one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    pub upper: PathBuf,
    pub work: PathBuf,
}
