//! Mounts as data: what storage returns and the runtime applies.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    pub lower: Vec<Lower>,
    /// `None` makes the mount read-only.
    pub upper: Option<Upper>,
    /// More mount options without a value, for example `volatile`, `userxattr`, `metacopy=on`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A read-only layer of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Lower {
    /// A folder of files, as overlayfs takes it.
    Folder(PathBuf),
    /// An EROFS image, which has to be mounted itself.
    Image {
        erofs: PathBuf,
        /// Where it is mounted already, for who can get at it: all who use one mount share its memory. Whoever
        /// cannot, or finds something else there, mounts the image anew.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held: Option<HeldMount>,
    },
}

/// A mount that is nowhere in a tree: a process holds it by a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldMount {
    pub pid: u32,
    pub fd: i32,
}

impl Lower {
    /// The folder, or the image's file.
    pub fn path(&self) -> &Path {
        match self {
            Lower::Folder(path) | Lower::Image { erofs: path, .. } => path,
        }
    }
}

/// The writable part. Both folders are on one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    pub upper: PathBuf,
    pub work: PathBuf,
}
