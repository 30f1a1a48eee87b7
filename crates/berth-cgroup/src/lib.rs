//! Cgroups: limits, meters and the means to stop everything inside, on v1, v2 and mixed hosts alike.
//!
//! ```text
//!  Hierarchy::detect()          which controller is mounted where
//!       |
//!  Cgroup::create(path, limits) one folder per v1 hierarchy, or one on v2; limits written before anybody is in
//!       |-- entry()             v1: `tasks` files in which the child writes "0"; v2: a folder for CLONE_INTO_CGROUP
//!       |-- update, stats, freeze, thaw, kill_all, pids, oom_events
//!       '-- remove()            deepest first, waiting for processes that are still exiting
//! ```
//!
//! - A limit that this host cannot keep is a warning, not a failure; one that it refuses is an error that
//!   names file and value.
//! - Folders are made only where something is limited, metered or steered: `cpuset`, `hugetlb`, `net_cls`,
//!   `net_prio` and `rdma` appear when a limit needs them, also while the container runs.
//! - What `create` made is taken back when it fails half-way.
//!
//! Paths are relative to each hierarchy's mount (`/berth/<id>`). The tree is the engine's own: nobody else
//! makes folders in it but the containers themselves, below their own.
//!
//! Sources: cgroups(7), the kernel's Documentation/admin-guide/{cgroup-v1,cgroup-v2.rst}.

mod cgroup;
mod devices;
mod error;
mod files;
mod freezer;
mod gauge;
mod hierarchy;
mod kill;
mod limits;
mod oom;
mod stats;
mod tree;
mod v1;
mod v2;

pub use cgroup::{Cgroup, Entry};
pub use devices::{Access, DeviceKind, DeviceRule, default_rules};
pub use error::CgroupError;
pub use gauge::{Gauge, GaugeReader};
pub use hierarchy::{Controller, Hierarchy, Version, v2_mount};
pub use limits::{
    CpuLimits, HugetlbLimit, IoLimits, IoWeight, Limits, MemoryLimits, NetworkClass, RdmaLimit, Throttle,
};
pub use oom::{ExitFacts, OomEvents};
pub use stats::Stats;
