//! v1: limits as files of one folder for each hierarchy.

use crate::cgroup::V1Folder;
use crate::devices::Policy;
use crate::files::{read, read_number, try_read, try_write, write as write_file};
use crate::{CgroupError, Controller, Hierarchy, Limits, Throttle, tree};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Whether `limits` need a folder of a controller that is not made for everybody.
pub(crate) fn needs(limits: &Limits, controller: Controller) -> bool {
    match controller {
        Controller::Cpuset => limits.cpu.cpus.is_some() || limits.cpu.mems.is_some(),
        Controller::Hugetlb => !limits.hugetlb.is_empty(),
        Controller::NetCls => limits.network.class_id.is_some(),
        Controller::NetPrio => !limits.network.priorities.is_empty(),
        Controller::Rdma => !limits.rdma.is_empty(),
        _ => false,
    }
}

pub(crate) fn make(mount: &Path, dir: &Path, on: &[Controller], made: &mut Vec<PathBuf>) -> Result<bool, CgroupError> {
    let cpuset = on.contains(&Controller::Cpuset);
    let leaf = dir;
    tree::make(dir, &mut |dir| {
        if dir == leaf {
            made.push(dir.to_owned());
        }
        if cpuset && dir != mount { inherit_cpuset(dir) } else { Ok(()) }
    })
}

/// A new cpuset is empty and takes no process until it has processors and memory nodes.
fn inherit_cpuset(dir: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let parent = read(dir.parent().unwrap_or(dir), name)?;
        write_file(dir, name, parent.trim())?;
    }
    Ok(())
}

/// Writes a value; a file that this kernel does not have is a warning.
fn set(dir: &Path, name: &str, value: &str, what: &str, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    match try_write(dir, name, value) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::OPNOTSUPP) => {
            warnings.push(format!("this kernel has no {name}: {what} is not limited"));
            Ok(())
        }
        Err(errno) => Err(CgroupError::Write { file: dir.join(name), value: value.to_owned(), errno }),
    }
}

pub(crate) fn write(
    folder: &V1Folder,
    limits: &Limits,
    fresh: bool,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    for controller in &folder.on {
        match controller {
            Controller::Memory => memory(&folder.dir, limits, fresh, warnings)?,
            Controller::Cpu => cpu(&folder.dir, limits, fresh, warnings)?,
            Controller::Cpuset => cpuset(&folder.dir, limits)?,
            Controller::Io => io(&folder.dir, limits, warnings)?,
            Controller::Pids => {
                if let Some(count) = limits.pids_max.filter(|&count| !fresh || count > 0) {
                    let value = if count > 0 { count.to_string() } else { "max".into() };
                    set(&folder.dir, "pids.max", &value, "the number of processes", warnings)?;
                }
            }
            Controller::Devices => {
                if let Some(rules) = &limits.devices {
                    let policy = Policy::new(rules);
                    if fresh { policy.write_v1(&folder.dir)? } else { policy.update_v1(&folder.dir)? }
                }
            }
            Controller::Hugetlb => {
                for limit in &limits.hugetlb {
                    let (size, bytes) = (&limit.page_size, limit.limit_bytes.to_string());
                    let name = format!("hugetlb.{size}.limit_in_bytes");
                    set(&folder.dir, &name, &bytes, "use of huge pages", warnings)?;
                    // Newer kernels count reservations too; older ones do not have the file.
                    let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
                    match try_write(&folder.dir, &reserved, &bytes) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => {
                            return Err(CgroupError::Write { file: folder.dir.join(reserved), value: bytes, errno });
                        }
                    }
                }
            }
            Controller::NetCls => {
                if let Some(class) = limits.network.class_id {
                    set(&folder.dir, "net_cls.classid", &class.to_string(), "the class of packets", warnings)?;
                }
            }
            Controller::NetPrio => {
                for (interface, priority) in &limits.network.priorities {
                    let value = format!("{interface} {priority}");
                    set(&folder.dir, "net_prio.ifpriomap", &value, "the priority of packets", warnings)?;
                }
            }
            Controller::Rdma => {
                for (device, value) in rdma_lines(limits) {
                    set(&folder.dir, "rdma.max", &format!("{device} {value}"), "use of RDMA", warnings)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn rdma_lines(limits: &Limits) -> impl Iterator<Item = (&str, String)> {
    let word = |count: Option<u32>| count.map_or("max".to_owned(), |count| count.to_string());
    limits.rdma.iter().map(move |(device, limit)| {
        let value = format!("hca_handle={} hca_object={}", word(limit.handles), word(limit.objects));
        (device.as_str(), value)
    })
}

const LIMIT: &str = "memory.limit_in_bytes";
const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

fn memory(dir: &Path, limits: &Limits, fresh: bool, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let memory = &limits.memory;
    let limit = memory.limit_bytes.filter(|&limit| limit != 0 && !(fresh && limit < 0));
    let with_swap = match (limit, memory.swap_bytes.filter(|&limit| limit != 0)) {
        // No limit of memory leaves none of both together.
        (Some(-1), None) => Some(-1),
        (_, given) => given.filter(|&given| !(fresh && given < 0)),
    };
    if let (Some(limit), Some(with_swap)) = (limit, with_swap)
        && with_swap > 0
        && with_swap < limit
    {
        return Err(CgroupError::SwapBelowMemory { memory: limit, memory_swap: with_swap });
    }
    let write_swap = |warnings: &mut Vec<String>| match with_swap {
        Some(bytes) => set(dir, WITH_SWAP, &bytes.to_string(), "swap", warnings),
        None => Ok(()),
    };
    let write_limit = || match limit {
        Some(bytes) => write_file(dir, LIMIT, &bytes.to_string()),
        None => Ok(()),
    };
    // The kernel keeps memory <= memory and swap at every step: the one that grows goes first.
    let grows = !fresh
        && match (limit, with_swap) {
            (Some(limit), Some(_)) => limit < 0 || read_number(dir, WITH_SWAP).is_some_and(|now| limit as u64 > now),
            _ => false,
        };
    if memory.check_before_update && !fresh && limit.is_some_and(|limit| limit > 0) {
        let used = read_number(dir, "memory.usage_in_bytes").unwrap_or(0);
        if limit.is_some_and(|limit| (limit as u64) < used) {
            let value = limit.unwrap_or_default().to_string();
            return Err(CgroupError::Write { file: dir.join(LIMIT), value, errno: Errno::BUSY });
        }
    }
    if grows {
        write_swap(warnings)?;
        write_limit()?;
    } else {
        write_limit()?;
        write_swap(warnings)?;
    }
    if let Some(bytes) = memory.reservation_bytes.filter(|&bytes| bytes != 0 && !(fresh && bytes < 0)) {
        set(dir, "memory.soft_limit_in_bytes", &bytes.to_string(), "the memory reservation", warnings)?;
    }
    if let Some(percent) = memory.swappiness {
        set(dir, "memory.swappiness", &percent.to_string(), "swappiness", warnings)?;
    }
    if let Some(disable) = memory.oom_kill_disable.filter(|&disable| disable || !fresh) {
        let value = if disable { "1" } else { "0" };
        set(dir, "memory.oom_control", value, "what happens when memory runs out", warnings)?;
    }
    Ok(())
}

fn cpu(dir: &Path, limits: &Limits, fresh: bool, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let cpu = &limits.cpu;
    let given = |value: Option<u64>| value.filter(|&value| value != 0).map(|value| value.to_string());
    // As runc orders them: idle and weight, burst and period before the quota that they bound.
    if let Some(idle) = cpu.idle.filter(|&idle| idle != 0 || !fresh) {
        set(dir, "cpu.idle", &idle.to_string(), "running only when idle", warnings)?;
    }
    if let Some(shares) = given(cpu.shares).filter(|_| cpu.idle != Some(1)) {
        set(dir, "cpu.shares", &shares, "the share of processors", warnings)?;
    }
    let period = given(cpu.period_micros);
    let quota = cpu.quota_micros.filter(|&quota| quota != 0 && !(fresh && quota < 0));
    if let Some(period) = &period {
        // EINVAL: the new period with the old quota passes the parent's; after the new quota it may fit.
        match try_write(dir, "cpu.cfs_period_us", period) {
            Err(Errno::INVAL) if quota.is_some() => {}
            Err(Errno::NOENT) => warnings.push("this kernel limits no CPU time".to_owned()),
            Err(errno) => {
                return Err(CgroupError::Write { file: dir.join("cpu.cfs_period_us"), value: period.clone(), errno });
            }
            Ok(()) => {}
        }
    }
    let burst = cpu.burst_micros.filter(|&burst| burst != 0 || !fresh).map(|burst| burst.to_string());
    let burst_first = match &burst {
        // More than the quota in force is refused: then the quota goes first.
        Some(burst) => matches!(try_write(dir, "cpu.cfs_burst_us", burst), Ok(())),
        None => true,
    };
    if let Some(quota) = quota {
        set(dir, "cpu.cfs_quota_us", &quota.to_string(), "CPU time", warnings)?;
        if let Some(period) = &period {
            set(dir, "cpu.cfs_period_us", period, "CPU time", warnings)?;
        }
    }
    if let Some(burst) = burst.filter(|_| !burst_first) {
        set(dir, "cpu.cfs_burst_us", &burst, "bursts of CPU time", warnings)?;
    }
    if let Some(period) = given(cpu.realtime_period_micros) {
        set(dir, "cpu.rt_period_us", &period, "real-time CPU time", warnings)?;
    }
    if let Some(runtime) = cpu.realtime_runtime_micros.filter(|&runtime| runtime != 0) {
        set(dir, "cpu.rt_runtime_us", &runtime.to_string(), "real-time CPU time", warnings)?;
    }
    Ok(())
}

fn cpuset(dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    for (name, value) in [("cpuset.cpus", &limits.cpu.cpus), ("cpuset.mems", &limits.cpu.mems)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            write_file(dir, name, value)?;
        }
    }
    Ok(())
}

fn io(dir: &Path, limits: &Limits, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let io = &limits.io;
    let what = "the share of disk time";
    // CFQ's file went with CFQ; BFQ's comes with its module.
    let weight = |suffix: &str| {
        let bfq = format!("blkio.bfq.weight{suffix}");
        if dir.join(&bfq).exists() { bfq } else { format!("blkio.weight{suffix}") }
    };
    if let Some(value) = io.weight.filter(|&weight| weight != 0) {
        set(dir, &weight(""), &value.to_string(), what, warnings)?;
    }
    if let Some(value) = io.leaf_weight.filter(|&weight| weight != 0) {
        set(dir, "blkio.leaf_weight", &value.to_string(), what, warnings)?;
    }
    for device in &io.weight_devices {
        let line = |value: u16| format!("{}:{} {value}", device.major, device.minor);
        if let Some(value) = device.weight {
            set(dir, &weight("_device"), &line(value), what, warnings)?;
        }
        if let Some(value) = device.leaf_weight {
            set(dir, "blkio.leaf_weight_device", &line(value), what, warnings)?;
        }
    }
    let rates: [(&str, &[Throttle]); 4] = [
        ("blkio.throttle.read_bps_device", &io.read_bytes),
        ("blkio.throttle.write_bps_device", &io.write_bytes),
        ("blkio.throttle.read_iops_device", &io.read_operations),
        ("blkio.throttle.write_iops_device", &io.write_operations),
    ];
    for (name, throttles) in rates {
        for Throttle { major, minor, rate } in throttles {
            set(dir, name, &format!("{major}:{minor} {rate}"), "the rate of disk access", warnings)?;
        }
    }
    Ok(())
}

/// One warning for each limit whose controller this host does not have at all.
pub(crate) fn warn_missing(hierarchy: &Hierarchy, limits: &Limits, warnings: &mut Vec<String>) {
    let positive = |value: Option<i64>| value.is_some_and(|value| value > 0);
    let (memory, cpu, io) = (&limits.memory, &limits.cpu, &limits.io);
    let wanted = [
        (Controller::Memory, "memory", positive(memory.limit_bytes) || positive(memory.reservation_bytes)),
        (
            Controller::Cpu,
            "CPU time",
            positive(cpu.quota_micros) || cpu.shares.is_some_and(|shares| shares > 0) || positive(cpu.idle),
        ),
        (Controller::Cpuset, "the choice of processors", needs(limits, Controller::Cpuset)),
        (Controller::Pids, "the number of processes", positive(limits.pids_max)),
        (
            Controller::Io,
            "disk access",
            io.weight.is_some_and(|weight| weight > 0)
                || [&io.read_bytes, &io.write_bytes, &io.read_operations, &io.write_operations]
                    .iter()
                    .any(|throttles| !throttles.is_empty()),
        ),
        (Controller::Hugetlb, "use of huge pages", needs(limits, Controller::Hugetlb)),
        (Controller::Rdma, "use of RDMA", needs(limits, Controller::Rdma)),
    ];
    for (controller, what, wanted) in wanted {
        if wanted && !hierarchy.has(controller) {
            warnings.push(format!("this host has no cgroup controller for it: {what} is not limited"));
        }
    }
    let network = needs(limits, Controller::NetCls) || needs(limits, Controller::NetPrio);
    if network && hierarchy.v1_mount(Controller::NetCls).or(hierarchy.v1_mount(Controller::NetPrio)).is_none() {
        warnings.push("this host has no net_cls and net_prio cgroups: packets are not marked".to_owned());
    }
    if !limits.unified.is_empty() && hierarchy.v2.is_none() {
        warnings.push("this host has no cgroup v2: its files are not written".to_owned());
    }
}

/// A v1 value as a number; `None` is no limit.
pub(crate) fn limit_of(dir: &Path, name: &str) -> Option<u64> {
    try_read(dir, name).ok()?.trim().parse().ok().filter(is_limit)
}

/// Not the kernel's "no limit", the largest page-aligned i64.
pub(crate) fn is_limit(limit: &u64) -> bool {
    *limit < i64::MAX as u64 - (1 << 20)
}
