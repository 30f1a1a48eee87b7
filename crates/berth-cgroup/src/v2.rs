//! v2: limits as files of one folder.

use crate::files::{read_number, try_read, try_write, write as write_file};
use crate::hierarchy::Unified;
use crate::v1::rdma_lines;
use crate::{CgroupError, Limits, Throttle, tree};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Controllers switched on for containers where the host has them.
const WANTED: [&str; 8] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];

/// Makes the folder below parents that pass every controller on. `false`: it was there.
pub(crate) fn make(unified: &Unified, dir: &Path, made: &mut Vec<PathBuf>) -> Result<bool, CgroupError> {
    let parent = dir.parent().unwrap_or(&unified.root);
    let wanted: Vec<&str> =
        WANTED.into_iter().filter(|name| unified.controllers.iter().any(|known| known == name)).collect();
    // The rule is that another container came before and all is set: one read tells.
    let ready = try_read(parent, "cgroup.subtree_control").is_ok_and(|on| {
        let on: Vec<&str> = on.split_whitespace().collect();
        wanted.iter().all(|name| on.contains(name))
    });
    if !ready {
        tree::make(parent, &mut |_| Ok(()))?;
        pass_on(&unified.root, parent, &wanted)?;
    }
    tree::make(dir, &mut |dir| {
        made.push(dir.to_owned());
        Ok(())
    })
}

/// Switches `wanted` on for the children of every folder from the root down to `parent`.
fn pass_on(root: &Path, parent: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let mut chain: Vec<&Path> = parent.ancestors().take_while(|dir| dir.starts_with(root)).collect();
    chain.reverse();
    for dir in chain {
        let all: Vec<String> = wanted.iter().map(|name| format!("+{name}")).collect();
        if try_write(dir, "cgroup.subtree_control", &all.join(" ")).is_ok() {
            continue;
        }
        // One that cannot be had must not take the others along.
        for one in &all {
            match try_write(dir, "cgroup.subtree_control", one) {
                // Not there, or in use by v1 or by real-time tasks: its limits will be warnings.
                Ok(()) | Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    let file = dir.join("cgroup.subtree_control");
                    return Err(CgroupError::Write { file, value: one.clone(), errno });
                }
            }
        }
    }
    Ok(())
}

fn set(dir: &Path, name: &str, value: &str, what: &str, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    match try_write(dir, name, value) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::OPNOTSUPP) => {
            warnings.push(format!("this host has no {name}: {what} is not limited"));
            Ok(())
        }
        Err(errno) => Err(CgroupError::Write { file: dir.join(name), value: value.to_owned(), errno }),
    }
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

pub(crate) fn write(
    unified: &Unified,
    dir: &Path,
    limits: &Limits,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let on = |name: &str| unified.controllers.iter().any(|known| known == name);
    if on("memory") {
        memory(dir, limits, warnings)?;
    }
    if on("cpu") {
        cpu(dir, limits, warnings)?;
    }
    if on("cpuset") {
        for (name, value) in [("cpuset.cpus", &limits.cpu.cpus), ("cpuset.mems", &limits.cpu.mems)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                write_file(dir, name, value)?;
            }
        }
    }
    if let Some(count) = limits.pids_max.filter(|_| on("pids")) {
        let value = if count > 0 { count.to_string() } else { "max".into() };
        set(dir, "pids.max", &value, "the number of processes", warnings)?;
    }
    if on("io") {
        io(dir, limits, warnings)?;
    }
    for limit in limits.hugetlb.iter().filter(|_| on("hugetlb")) {
        let (size, bytes) = (&limit.page_size, limit.limit_bytes.to_string());
        set(dir, &format!("hugetlb.{size}.max"), &bytes, "use of huge pages", warnings)?;
        match try_write(dir, &format!("hugetlb.{size}.rsvd.max"), &bytes) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let file = dir.join(format!("hugetlb.{size}.rsvd.max"));
                return Err(CgroupError::Write { file, value: bytes, errno });
            }
        }
    }
    if on("rdma") {
        for (device, value) in rdma_lines(limits) {
            set(dir, "rdma.max", &format!("{device} {value}"), "use of RDMA", warnings)?;
        }
    }
    for (name, value) in &limits.unified {
        if name.contains('/') || !name.contains('.') || name.starts_with("cgroup.procs") {
            return Err(CgroupError::UnifiedName(name.clone()));
        }
        write_file(dir, name, value)?;
    }
    Ok(())
}

/// v2 counts swap by itself, callers count it together with memory.
pub(crate) fn swap_alone(memory: Option<i64>, together: Option<i64>) -> Result<Option<i64>, CgroupError> {
    match (memory.unwrap_or(0), together.unwrap_or(0)) {
        (-1, 0) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some(-1)),
        (memory, together) if memory <= 0 || together < memory => {
            Err(CgroupError::SwapBelowMemory { memory, memory_swap: together })
        }
        (memory, together) => Ok(Some(together - memory)),
    }
}

fn memory(dir: &Path, limits: &Limits, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let memory = &limits.memory;
    // A new limit of both together without one of memory goes with the memory limit in force.
    let current = || read_number(dir, "memory.max").map(|limit| limit as i64);
    let limit = memory.limit_bytes.filter(|&limit| limit != 0);
    let base = match memory.swap_bytes {
        Some(together) if together > 0 && limit.is_none() => current(),
        _ => limit,
    };
    if memory.check_before_update && limit.is_some_and(|limit| limit > 0) {
        let used = read_number(dir, "memory.current").unwrap_or(0);
        if limit.is_some_and(|limit| (limit as u64) < used) {
            let value = limit.unwrap_or_default().to_string();
            return Err(CgroupError::Write { file: dir.join("memory.max"), value, errno: Errno::BUSY });
        }
    }
    if let Some(swap) = swap_alone(base, memory.swap_bytes)? {
        match try_write(dir, "memory.swap.max", &or_max(swap)) {
            Ok(()) => {}
            // No swap accounting, and nothing that needs it.
            Err(Errno::NOENT) if swap < 0 => {}
            Err(Errno::NOENT) => {
                warnings.push("this host has no memory.swap.max: swap is not limited".to_owned());
            }
            Err(errno) => {
                return Err(CgroupError::Write { file: dir.join("memory.swap.max"), value: or_max(swap), errno });
            }
        }
    }
    if let Some(limit) = limit {
        set(dir, "memory.max", &or_max(limit), "memory", warnings)?;
    }
    if let Some(bytes) = memory.reservation_bytes.filter(|&bytes| bytes != 0) {
        set(dir, "memory.low", &or_max(bytes), "the memory reservation", warnings)?;
    }
    if memory.swappiness.is_some() {
        warnings.push("cgroup v2 has no swappiness for one container: it is ignored".to_owned());
    }
    if memory.oom_kill_disable == Some(true) {
        warnings
            .push("cgroup v2 cannot switch off the kernel's killing when memory runs out: it is ignored".to_owned());
    }
    Ok(())
}

/// v1's 2..262144 to v2's 1..10000 so that 1024 becomes 100, as runc does since 1.3.2: a parabola between
/// the logarithms.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// 10..1000 to 1..10000.
pub(crate) fn io_weight(weight: u16) -> u64 {
    match weight {
        0 => 0,
        weight => 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990,
    }
}

fn cpu(dir: &Path, limits: &Limits, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let cpu = &limits.cpu;
    if let Some(idle) = cpu.idle {
        set(dir, "cpu.idle", &idle.to_string(), "running only when idle", warnings)?;
    }
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0 && cpu.idle != Some(1)) {
        set(dir, "cpu.weight", &weight_of_shares(shares).to_string(), "the share of processors", warnings)?;
    }
    let quota = cpu.quota_micros.filter(|&quota| quota != 0);
    let period = cpu.period_micros.filter(|&period| period != 0);
    let burst = cpu.burst_micros.map(|burst| burst.to_string());
    // More than the quota in force is refused: then the quota goes first.
    let burst_first = match &burst {
        Some(burst) => try_write(dir, "cpu.max.burst", burst).is_ok(),
        None => true,
    };
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) => or_max(quota),
            // A period alone goes with the quota in force.
            None => {
                let now = try_read(dir, "cpu.max").unwrap_or_default();
                now.split_whitespace().next().unwrap_or("max").to_owned()
            }
        };
        let value = match period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        set(dir, "cpu.max", &value, "CPU time", warnings)?;
    }
    if let Some(burst) = burst.filter(|_| !burst_first) {
        set(dir, "cpu.max.burst", &burst, "bursts of CPU time", warnings)?;
    }
    if cpu.realtime_runtime_micros.is_some_and(|runtime| runtime > 0) {
        warnings.push("cgroup v2 has no real-time CPU time: it is ignored".to_owned());
    }
    Ok(())
}

fn io(dir: &Path, limits: &Limits, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let io = &limits.io;
    let what = "the share of disk time";
    let bfq = || dir.join("io.bfq.weight").exists();
    if let Some(weight) = io.weight.filter(|&weight| weight != 0) {
        if bfq() {
            set(dir, "io.bfq.weight", &weight.to_string(), what, warnings)?;
        } else {
            set(dir, "io.weight", &format!("default {}", io_weight(weight)), what, warnings)?;
        }
    }
    for device in &io.weight_devices {
        if let Some(weight) = device.weight {
            let (name, value) = match bfq() {
                true => ("io.bfq.weight", u64::from(weight)),
                false => ("io.weight", io_weight(weight)),
            };
            let value = if weight == 0 { "default".to_owned() } else { value.to_string() };
            set(dir, name, &format!("{}:{} {value}", device.major, device.minor), what, warnings)?;
        }
    }
    let rates: [(&str, &[Throttle]); 4] = [
        ("rbps", &io.read_bytes),
        ("wbps", &io.write_bytes),
        ("riops", &io.read_operations),
        ("wiops", &io.write_operations),
    ];
    // One line for each disk.
    let mut lines: BTreeMap<(u64, u64), String> = BTreeMap::new();
    for (key, throttles) in rates {
        for Throttle { major, minor, rate } in throttles {
            let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
            let line = lines.entry((*major, *minor)).or_insert_with(|| format!("{major}:{minor}"));
            line.push_str(&format!(" {key}={rate}"));
        }
    }
    for line in lines.values() {
        set(dir, "io.max", line, "the rate of disk access", warnings)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_share_is_the_default_weight() {
        assert_eq!(weight_of_shares(1024), 100);
        assert_eq!((weight_of_shares(2), weight_of_shares(262_144), weight_of_shares(0)), (1, 10_000, 0));
        assert!((2..262_144).step_by(97).all(|shares| weight_of_shares(shares) <= weight_of_shares(shares + 97)));
    }

    #[test]
    fn disk_weights_keep_their_ends() {
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn swap_is_what_is_over_memory() {
        assert_eq!(swap_alone(Some(100), Some(300)).unwrap(), Some(200));
        assert_eq!(swap_alone(Some(100), Some(100)).unwrap(), Some(0));
        assert_eq!(swap_alone(Some(100), Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap_alone(Some(-1), None).unwrap(), Some(-1));
        assert_eq!(swap_alone(Some(100), None).unwrap(), None);
        assert!(swap_alone(Some(100), Some(50)).is_err() && swap_alone(None, Some(50)).is_err());
    }
}
