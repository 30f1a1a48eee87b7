//! What can go wrong with a cgroup, and what helps.

use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    #[error("invalid cgroup path {0:?}: it must be absolute, without . and ..")]
    Path(String),
    #[error("cannot make cgroup {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("cannot open cgroup {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("cannot write {value:?} to {}", file.display())]
    Write {
        file: PathBuf,
        value: String,
        #[source]
        errno: Errno,
    },
    #[error("cannot read {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("cannot remove cgroup {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("cgroup {} did not freeze within {deadline:?}", path.display())]
    NotFrozen { path: PathBuf, deadline: Duration },
    #[error("this host's cgroups cannot freeze processes")]
    NoFreezer,
    #[error("{processes} processes of cgroup {} did not end", path.display())]
    NotKilled { path: PathBuf, processes: usize },
    #[error("memory and swap limit {memory_swap} is below the memory limit {memory}")]
    SwapBelowMemory { memory: i64, memory_swap: i64 },
    #[error("cannot {step} the device rules of {}", path.display())]
    DeviceProgram {
        step: &'static str,
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("invalid cgroup v2 file name {0:?}")]
    UnifiedName(String),
    #[error("cannot watch {} for memory shortage", path.display())]
    Watch {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("cannot signal process {pid}")]
    Signal {
        pid: i32,
        #[source]
        errno: Errno,
    },
}

impl CgroupError {
    /// The kernel's number behind it.
    pub fn errno(&self) -> Option<i32> {
        match self {
            CgroupError::Make { errno, .. }
            | CgroupError::Open { errno, .. }
            | CgroupError::Write { errno, .. }
            | CgroupError::Read { errno, .. }
            | CgroupError::Remove { errno, .. }
            | CgroupError::DeviceProgram { errno, .. }
            | CgroupError::Watch { errno, .. }
            | CgroupError::Signal { errno, .. } => Some(errno.raw_os_error()),
            _ => None,
        }
    }

    /// What to do about it, where that is sure.
    pub fn hint(&self) -> Option<&'static str> {
        let written_to = |file: &PathBuf, name: &str| file.file_name().is_some_and(|file| file == name);
        Some(match self {
            CgroupError::NotMounted => "mount cgroup2 on /sys/fs/cgroup; `berth doctor` shows how",
            CgroupError::Make { errno: Errno::ROFS, .. } => {
                "/sys/fs/cgroup is read-only: inside a container, run it privileged"
            }
            CgroupError::Make { errno: Errno::ACCESS | Errno::PERM, .. } => "the engine must run as root",
            CgroupError::Make { errno: Errno::NOSPC, .. } => "cpuset.cpus or cpuset.mems of the parent cgroup is empty",
            CgroupError::Write { file, errno: Errno::BUSY, .. } if written_to(file, "memory.limit_in_bytes") => {
                "the container uses more memory than that and the kernel could not take it back"
            }
            CgroupError::Write { file, errno: Errno::INVAL, .. } if written_to(file, "memory.memsw.limit_in_bytes") => {
                "the memory and swap limit must not be below the memory limit"
            }
            CgroupError::Write { file, errno: Errno::INVAL, .. }
                if written_to(file, "cpuset.cpus") || written_to(file, "cpuset.mems") =>
            {
                "not a list of processors or memory nodes, or outside the parent cgroup's"
            }
            CgroupError::Write { file, errno: Errno::INVAL, .. } if written_to(file, "cpu.rt_runtime_us") => {
                "the parent cgroup has no real-time budget: give it one in its cpu.rt_runtime_us"
            }
            CgroupError::Write { file, errno: Errno::BUSY, .. } if written_to(file, "cgroup.subtree_control") => {
                "the parent cgroup holds processes; move them into a cgroup of their own"
            }
            CgroupError::Write { file, errno: Errno::NODEV, .. }
                if file.to_string_lossy().contains("blkio.") || written_to(file, "io.max") =>
            {
                "limits belong to whole disks, not to partitions"
            }
            CgroupError::DeviceProgram { errno: Errno::PERM, .. } => {
                "loading the rules needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN"
            }
            CgroupError::SwapBelowMemory { .. } => "give a memory and swap limit at least as large as the memory limit",
            _ => return None,
        })
    }
}
