//! A container's files, seen from the engine.
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

mod copy;
mod pack;
mod root;
mod size;
mod unpack;

pub(crate) use copy::{copy_folder, list_attributes};
pub(crate) use pack::{PackError, pack, pack_content, reopen};
pub(crate) use root::{Found, Root};
pub(crate) use size::disk_bytes;
pub(crate) use unpack::{UnpackError, UnpackOptions, remove, unpack};

use rustix::io::Errno;
use std::path::PathBuf;

/// A step of reading or writing a container's files that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
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
    pub(crate) fn step(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> FilesError {
        FilesError::Step { action, path: path.into(), cause: errno.into() }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            FilesError::Step { cause, .. } | FilesError::Mount(cause) => cause.raw_os_error(),
            FilesError::Links(_) => Some(Errno::LOOP.raw_os_error()),
            FilesError::Depth(_) => Some(Errno::NAMETOOLONG.raw_os_error()),
        }
    }

    /// There is nothing at that path.
    pub(crate) fn is_absent(&self) -> bool {
        self.errno() == Some(Errno::NOENT.raw_os_error())
    }

    /// The file system or mount is read-only.
    pub(crate) fn is_read_only(&self) -> bool {
        self.errno() == Some(Errno::ROFS.raw_os_error())
    }

    /// No space, or no quota, is left.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.errno().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT))
    }

    /// Something is mounted there, or it is not empty.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.errno().map(Errno::from_raw_os_error), Some(Errno::BUSY | Errno::NOTEMPTY))
    }

    /// There is something of that name already.
    pub(crate) fn is_there(&self) -> bool {
        self.errno() == Some(Errno::EXIST.raw_os_error())
    }

    /// A name in the middle of the path is no folder.
    pub(crate) fn is_not_folder(&self) -> bool {
        self.errno() == Some(Errno::NOTDIR.raw_os_error())
    }
}
