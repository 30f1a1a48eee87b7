//! What this host can keep of what a container may ask for.
//!
//! Controllers are looked for as the kernel announces them: in `/proc/cgroups` and the v1 mounts, or in
//! `cgroup.controllers` of a unified hierarchy. A v1 mount wins over an empty v2 tree beside it (hybrid).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Read once per engine: none of it changes while the kernel runs, but for processors put to sleep.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    pub cgroup_v2: bool,
    pub memory_limit: bool,
    pub swap_limit: bool,
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
}

impl HostFacts {
    /// The running host's.
    pub fn get() -> &'static HostFacts {
        static FACTS: OnceLock<HostFacts> = OnceLock::new();
        FACTS.get_or_init(HostFacts::detect)
    }

    fn detect() -> HostFacts {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let (v1, v2) = cgroup_mounts(&mounts);
        let mut facts = if v1.is_empty() { v2_facts(v2.as_deref()) } else { v1_facts(&v1) };
        facts.cpus_online = line("/sys/devices/system/cpu/online").unwrap_or_else(|| "0".to_owned());
        facts.memory_nodes_online = line("/sys/devices/system/node/online").unwrap_or_else(|| "0".to_owned());
        facts.cpus = count(&facts.cpus_online).max(1);
        facts.memory_bytes = memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
        facts.apparmor = line("/sys/module/apparmor/parameters/enabled").is_some_and(|text| text.starts_with('Y'));
        facts.selinux = mounts.lines().any(|line| line.split(' ').nth(2) == Some("selinuxfs"));
        facts.seccomp = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
        facts
    }
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Folder of each v1 controller, and of the unified hierarchy.
fn cgroup_mounts(mounts: &str) -> (BTreeMap<String, PathBuf>, Option<PathBuf>) {
    let (mut v1, mut v2) = (BTreeMap::new(), None);
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(target), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else { continue };
        match kind {
            "cgroup2" => v2 = v2.or(Some(PathBuf::from(target))),
            "cgroup" => {
                for option in options.split(',') {
                    if matches!(option, "memory" | "cpu" | "cpuset" | "pids" | "blkio" | "devices" | "freezer") {
                        v1.entry(option.to_owned()).or_insert_with(|| PathBuf::from(target));
                    }
                }
            }
            _ => {}
        }
    }
    (v1, v2)
}

fn v1_facts(mounts: &BTreeMap<String, PathBuf>) -> HostFacts {
    let has = |controller: &str, file: &str| mounts.get(controller).is_some_and(|dir| dir.join(file).exists());
    HostFacts {
        memory_limit: has("memory", "memory.limit_in_bytes"),
        swap_limit: has("memory", "memory.memsw.limit_in_bytes"),
        oom_kill_disable: has("memory", "memory.oom_control"),
        swappiness: has("memory", "memory.swappiness"),
        cpu_shares: has("cpu", "cpu.shares"),
        cpu_cfs: has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime: has("cpu", "cpu.rt_runtime_us"),
        cpuset: mounts.contains_key("cpuset"),
        pids_limit: mounts.contains_key("pids"),
        blkio_weight: has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.weight"),
        blkio_throttle: has("blkio", "blkio.throttle.read_bps_device"),
        ..HostFacts::default()
    }
}

fn v2_facts(root: Option<&Path>) -> HostFacts {
    let list = root.and_then(|root| fs::read_to_string(root.join("cgroup.controllers")).ok()).unwrap_or_default();
    let has = |controller: &str| list.split_whitespace().any(|word| word == controller);
    HostFacts {
        cgroup_v2: root.is_some(),
        memory_limit: has("memory"),
        // Swap accounting cannot be seen in the root group; /proc/swaps being there means it is compiled in.
        swap_limit: has("memory") && Path::new("/proc/swaps").exists(),
        oom_kill_disable: false,
        swappiness: false,
        cpu_shares: has("cpu"),
        cpu_cfs: has("cpu"),
        cpu_realtime: false,
        cpuset: has("cpuset"),
        pids_limit: has("pids"),
        blkio_weight: has("io"),
        blkio_throttle: has("io"),
        ..HostFacts::default()
    }
}

fn memory_bytes(meminfo: &str) -> u64 {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A list such as `0-3,8` is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid format: {0}")]
pub(super) struct MalformedList(pub String);

/// The numbers of a list such as `0-3,8`, bounded as the kernel's own processor numbers are.
pub(super) fn numbers(list: &str) -> Result<Vec<u32>, MalformedList> {
    const NUMBER_MAX: u32 = 8192;
    let malformed = || MalformedList(list.to_owned());
    let mut all = Vec::new();
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| malformed())?;
        let last: u32 = last.trim().parse().map_err(|_| malformed())?;
        if first > last || last > NUMBER_MAX {
            return Err(malformed());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

fn count(list: &str) -> u32 {
    numbers(list).map_or(0, |all| u32::try_from(all.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_numbers_and_ranges() {
        assert_eq!(numbers("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(numbers("").unwrap(), [] as [u32; 0]);
        for bad in ["a", "1-", "2-1", "0-99999", ",", "1,,2"] {
            assert!(numbers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hybrid_host_counts_as_v1() {
        let (v1, v2) = cgroup_mounts(
            "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
             cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        );
        assert_eq!(v1.keys().collect::<Vec<_>>(), ["memory"]);
        assert_eq!(v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn this_host_has_a_processor_and_memory() {
        let facts = HostFacts::get();
        assert!(facts.cpus > 0 && facts.memory_bytes > 0);
    }
}
