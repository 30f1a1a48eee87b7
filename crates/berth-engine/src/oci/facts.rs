//! What this host can keep of what a container may ask for.

use std::sync::OnceLock;

/// Read once per engine: none of it changes while the kernel runs, but for processors put to sleep.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    pub cgroup_v2: bool,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub kernel_memory: bool,
    pub oom_kill_disable: bool,
    pub swappiness: bool,
    pub cpu_shares: bool,
    pub cpu_cfs: bool,
    pub cpu_realtime: bool,
    pub cpuset: bool,
    pub pids_limit: bool,
    pub blkio_weight: bool,
    pub blkio_throttle: bool,
    pub apparmor: bool,
    pub selinux: bool,
    pub seccomp: bool,
    /// Processors online.
    pub cpus: u32,
    /// `0-1` as the kernel writes it.
    pub cpus_online: String,
    pub memory_nodes_online: String,
    pub memory_bytes: u64,
    pub userns: bool,
}

impl HostFacts {
    /// The running host's.
    pub fn get() -> &'static HostFacts {
        static FACTS: OnceLock<HostFacts> = OnceLock::new();
        FACTS.get_or_init(HostFacts::default)
    }
}
