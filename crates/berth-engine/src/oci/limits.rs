//! Limits in OCI's words.

use super::HostFacts;
use berth_types::spec::{Resources, ThrottleDevice};
use berth_types::{Error, ErrorKind, Result};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDeviceBuilder,
};

/// One CPU for so long, when only a number of CPUs is given.
const PERIOD_MICROS: u64 = 100_000;

/// The limits without device rules, for live updates and as part of a configuration. Absent means
/// untouched; what this host cannot keep is left out, as `validate` has warned.
pub fn resources(limits: &Resources) -> Result<LinuxResources> {
    let facts = HostFacts::get();
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources.set_memory(memory(limits, facts));
    resources.set_cpu(cpu(limits, facts)?);
    resources.set_pids(limits.pids_limit.filter(|_| facts.pids_limit).map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit <= 0 { -1 } else { limit });
        pids
    }));
    resources.set_block_io(block_io(limits, facts)?);
    Ok(resources)
}

fn memory(limits: &Resources, facts: &HostFacts) -> Option<LinuxMemory> {
    if !facts.memory_limit {
        return None;
    }
    let mut memory = LinuxMemory::default();
    if limits.memory_bytes > 0 {
        memory.set_limit(Some(limits.memory_bytes));
        if facts.swap_limit {
            memory.set_swap(Some(match limits.memory_swap_bytes {
                0 => limits.memory_bytes.saturating_mul(2),
                swap if swap < 0 => -1,
                swap => swap,
            }));
        }
    }
    if limits.memory_reservation_bytes > 0 {
        memory.set_reservation(Some(limits.memory_reservation_bytes));
    }
    if facts.swappiness {
        memory.set_swappiness(limits.memory_swappiness.and_then(|value| u64::try_from(value).ok()));
    }
    if facts.oom_kill_disable && limits.oom_kill_disable == Some(true) {
        memory.set_disable_oom_killer(Some(true));
    }
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(limits: &Resources, facts: &HostFacts) -> Result<Option<LinuxCpu>> {
    let mut cpu = LinuxCpu::default();
    if facts.cpu_shares && limits.cpu_shares > 0 {
        cpu.set_shares(Some(limits.cpu_shares.unsigned_abs()));
    }
    if facts.cpu_cfs {
        if limits.nano_cpus > 0 {
            cpu.set_period(Some(PERIOD_MICROS));
            // Quota = CPUs x period; 10^9 / 10^5 nano-CPUs are one microsecond of quota.
            cpu.set_quota(Some(limits.nano_cpus / 10_000));
        }
        if limits.cpu_period_micros > 0 {
            cpu.set_period(Some(limits.cpu_period_micros.unsigned_abs()));
        }
        if limits.cpu_quota_micros != 0 {
            cpu.set_quota(Some(limits.cpu_quota_micros));
        }
    }
    if limits.cpu_rt_period_micros > 0 {
        cpu.set_realtime_period(Some(limits.cpu_rt_period_micros.unsigned_abs()));
    }
    if limits.cpu_rt_runtime_micros != 0 {
        cpu.set_realtime_runtime(Some(limits.cpu_rt_runtime_micros));
    }
    if facts.cpuset {
        let text = |list: &String| (!list.is_empty()).then(|| list.clone());
        cpu.set_cpus(text(&limits.cpuset_cpus));
        cpu.set_mems(text(&limits.cpuset_mems));
    }
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn block_io(limits: &Resources, facts: &HostFacts) -> Result<Option<LinuxBlockIo>> {
    let mut block = LinuxBlockIo::default();
    if facts.blkio_weight {
        if limits.blkio_weight > 0 {
            block.set_weight(Some(limits.blkio_weight));
        }
        if !limits.blkio_weight_device.is_empty() {
            let device = |of: &berth_types::spec::WeightDevice| {
                let (major, minor) = numbers(&of.path)?;
                let built = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(of.weight).build();
                built.map_err(|cause| Error::because(ErrorKind::Internal, "weight device", &cause))
            };
            let devices = limits.blkio_weight_device.iter().map(device).collect::<Result<_>>()?;
            block.set_weight_device(Some(devices));
        }
    }
    if facts.blkio_throttle {
        block.set_throttle_read_bps_device(throttles(&limits.blkio_read_bps)?);
        block.set_throttle_write_bps_device(throttles(&limits.blkio_write_bps)?);
        block.set_throttle_read_iops_device(throttles(&limits.blkio_read_iops)?);
        block.set_throttle_write_iops_device(throttles(&limits.blkio_write_iops)?);
    }
    Ok((block != LinuxBlockIo::default()).then_some(block))
}

fn throttles(list: &[ThrottleDevice]) -> Result<Option<Vec<LinuxThrottleDevice>>> {
    let one = |of: &ThrottleDevice| {
        let (major, minor) = numbers(&of.path)?;
        let built = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(of.rate).build();
        built.map_err(|cause| Error::because(ErrorKind::Internal, "throttled device", &cause))
    };
    let devices = list.iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok((!devices.is_empty()).then_some(devices))
}

/// Major and minor number of the device at `path`.
fn numbers(path: &str) -> Result<(i64, i64)> {
    let stat = rustix::fs::stat(path).map_err(|errno| {
        let words = std::io::Error::from(errno);
        let kind = if errno == rustix::io::Errno::NOENT { ErrorKind::InvalidArgument } else { ErrorKind::Internal };
        Error::because(kind, format!("stat {path}"), &words)
    })?;
    Ok((rustix::fs::major(stat.st_rdev).into(), rustix::fs::minor(stat.st_rdev).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_a_half_processors_are_a_quota() {
        let facts = HostFacts { cpu_cfs: true, ..HostFacts::default() };
        let cpu = cpu(&Resources { nano_cpus: 1_500_000_000, ..Resources::default() }, &facts).unwrap().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    }

    #[test]
    fn swap_is_twice_the_memory_unlimited_or_as_asked() {
        let facts = HostFacts { memory_limit: true, swap_limit: true, ..HostFacts::default() };
        let swap = |swap| {
            let limits = Resources { memory_bytes: 10, memory_swap_bytes: swap, ..Resources::default() };
            memory(&limits, &facts).unwrap().swap()
        };
        assert_eq!((swap(0), swap(-1), swap(15)), (Some(20), Some(-1), Some(15)));
        assert_eq!(memory(&Resources::default(), &facts), None);
    }

    #[test]
    fn a_limit_that_the_host_cannot_keep_is_left_out() {
        let limits = Resources { memory_bytes: 1 << 30, cpu_shares: 5, ..Resources::default() };
        assert_eq!(memory(&limits, &HostFacts::default()), None);
        assert_eq!(cpu(&limits, &HostFacts::default()).unwrap(), None);
    }

    #[test]
    fn throttles_name_devices_by_number() {
        let list = [ThrottleDevice { path: "/dev/null".to_owned(), rate: 7 }];
        let devices = throttles(&list).unwrap().unwrap();
        assert_eq!((devices[0].major(), devices[0].minor(), devices[0].rate()), (1, 3, 7));
        assert!(throttles(&[ThrottleDevice { path: "/dev/nope".to_owned(), rate: 7 }]).is_err());
    }
}
