//! Limits, in words of no particular cgroup version. Absent means untouched.

use crate::devices::DeviceRule;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory: MemoryLimits,
    pub cpu: CpuLimits,
    /// At most so many tasks; zero or less: any number.
    pub pids_max: Option<i64>,
    pub io: IoLimits,
    pub hugetlb: Vec<HugetlbLimit>,
    /// Who may use which device: rules apply in this order, on top of the ones before. `None`: untouched.
    pub devices: Option<Vec<DeviceRule>>,
    pub network: NetworkClass,
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// v2 only: file name to value, written last as they stand.
    pub unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// -1: none.
    pub limit_bytes: Option<i64>,
    /// What the container keeps under pressure (v1 soft limit, v2 `memory.low`).
    pub reservation_bytes: Option<i64>,
    /// Memory and swap together; -1: any amount of swap; 0: untouched.
    pub swap_bytes: Option<i64>,
    /// 0 to 100, v1 only.
    pub swappiness: Option<u64>,
    /// v1 only.
    pub oom_kill_disable: Option<bool>,
    /// Refuse a limit below what is in use instead of killing for it.
    pub check_before_update: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// 2 to 262,144 on v1's scale; 0: untouched.
    pub shares: Option<u64>,
    /// CPU time in each period; -1: any.
    pub quota_micros: Option<i64>,
    pub period_micros: Option<u64>,
    pub burst_micros: Option<u64>,
    pub realtime_runtime_micros: Option<i64>,
    pub realtime_period_micros: Option<u64>,
    /// 1: runs only when nothing else wants to.
    pub idle: Option<i64>,
    /// As the kernel writes it: `0-3,7`.
    pub cpus: Option<String>,
    pub mems: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// 10 to 1,000; 0: untouched.
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
    pub weight_devices: Vec<IoWeight>,
    /// Rates per second; 0: none.
    pub read_bytes: Vec<Throttle>,
    pub write_bytes: Vec<Throttle>,
    pub read_operations: Vec<Throttle>,
    pub write_operations: Vec<Throttle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoWeight {
    pub major: u64,
    pub minor: u64,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    pub major: u64,
    pub minor: u64,
    pub rate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugetlbLimit {
    /// As the kernel names it: `2MB`.
    pub page_size: String,
    pub limit_bytes: u64,
}

/// v1 only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkClass {
    pub class_id: Option<u32>,
    /// Interface name, priority.
    pub priorities: Vec<(String, u32)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RdmaLimit {
    pub handles: Option<u32>,
    pub objects: Option<u32>,
}
