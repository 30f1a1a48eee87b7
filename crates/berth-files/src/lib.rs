//! A container's files, seen from outside: by the engine, and in a machine of its own by the agent.
//!
//! ```text
//!  Root::running(pid)          /proc/<pid>/root, with all mounts of the container
//!  Root::stopped(rootfs, ..)   a detached overlay mount (never attached anywhere), and its volumes
//!        |
//!        '-- find(path) --> Found: an O_PATH descriptor and the path inside that it stands for
//! ```
//!
//! Paths are walked one name at a time from an open folder, links are read and walked too, `..` goes back
//! to the folder that we came from: nothing that a process in the container renames or links meanwhile leads
//! outside (CVE-2018-15664). Nothing is executed and no name service is asked (CVE-2019-14271).
//!
//! [`pack`] and [`unpack`] are archives out and in, [`changes`] is what differs from the image, [`look`] what `stat` says.

mod changes;
mod copy;
mod look;
mod pack;
mod root;
mod unpack;
mod users;

pub use changes::{Change, ChangeKind, changes, made_for_mounting};
pub use copy::{copy_folder, list_attributes};
pub use look::{Look, last_name, look};
pub use pack::{PackError, pack, pack_content, reopen};
pub use root::{Cover, Found, Root, clean};
pub use unpack::{UnpackError, UnpackOptions, remove, unpack};
pub use users::{OwnerError, owner};

use rustix::io::Errno;
use std::path::PathBuf;

/// A step of reading or writing a container's files that failed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot {action} {}", path.display())]
    Step {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}: too many levels of symbolic links", .0.display())]
    Links(PathBuf),
    #[error("{}: folders are nested too deep", .0.display())]
    Depth(PathBuf),
    #[error("cannot mount the container's files")]
    Mount(#[source] std::io::Error),
}

impl FilesError {
    pub fn step(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> FilesError {
        FilesError::Step { action, path: path.into(), cause: errno.into() }
    }

    /// The kernel's word for it.
    pub fn errno(&self) -> Option<i32> {
        match self {
            FilesError::Step { cause, .. } | FilesError::Mount(cause) => cause.raw_os_error(),
            FilesError::Links(_) => Some(Errno::LOOP.raw_os_error()),
            FilesError::Depth(_) => Some(Errno::NAMETOOLONG.raw_os_error()),
        }
    }

    /// There is nothing at that path.
    pub fn is_absent(&self) -> bool {
        self.errno() == Some(Errno::NOENT.raw_os_error())
    }

    /// The file system or mount is read-only.
    pub fn is_read_only(&self) -> bool {
        self.errno() == Some(Errno::ROFS.raw_os_error())
    }

    /// No space, or no quota, is left.
    pub fn is_full(&self) -> bool {
        matches!(self.errno().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT))
    }

    /// Something is mounted there, or it is not empty.
    pub fn is_busy(&self) -> bool {
        matches!(self.errno().map(Errno::from_raw_os_error), Some(Errno::BUSY | Errno::NOTEMPTY))
    }

    /// There is something of that name already.
    pub fn is_there(&self) -> bool {
        self.errno() == Some(Errno::EXIST.raw_os_error())
    }

    /// A name in the middle of the path is no folder.
    pub fn is_not_folder(&self) -> bool {
        self.errno() == Some(Errno::NOTDIR.raw_os_error())
    }
}
