//! OCI `linux.resources` as limits of `berth-cgroup`, which knows nothing of OCI.
//!
//! Absent stays absent, so the same function serves an update. What has no meaning to a cgroup (a negative
//! weight, a device number beyond 32 bits) is an error and not a limit that is silently missing.

use berth_cgroup::{
    Access, CpuLimits, DeviceKind, DeviceRule, HugetlbLimit, IoLimits, IoWeight, Limits, MemoryLimits, NetworkClass,
    RdmaLimit, Throttle, default_rules,
};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

/// A value that no cgroup can keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    #[error("linux.resources: device number {0} is out of range")]
    DeviceNumber(i64),
    #[error("linux.resources: a device rule of type \"{0}\" is not possible")]
    DeviceType(&'static str),
    #[error("linux.resources: hugepage limit {0} is negative")]
    Hugepages(i64),
}

/// Limits of a new container: those of `resources`, and only the devices that it or every container may use.
pub fn for_create(resources: Option<&LinuxResources>) -> Result<Limits, LimitsError> {
    let mut limits = resources.map(for_update).transpose()?.unwrap_or_default();
    let asked = limits.devices.take().unwrap_or_default();
    let usual = default_rules();
    // What every container may use comes last, as in runc: a rule that denies everything does not take away
    // /dev/null. Without any rule nothing else is allowed.
    limits.devices = Some(if asked.is_empty() {
        usual
    } else {
        asked.into_iter().chain(usual.into_iter().filter(|rule| rule.allow)).collect()
    });
    Ok(limits)
}

/// Limits as they are written, for an update: what is absent is untouched.
pub fn for_update(resources: &LinuxResources) -> Result<Limits, LimitsError> {
    let devices = resources.devices().as_ref().map(|rules| rules.iter().map(device).collect::<Result<_, _>>());
    Ok(Limits {
        memory: resources.memory().as_ref().map(memory).unwrap_or_default(),
        cpu: resources.cpu().as_ref().map(cpu).unwrap_or_default(),
        pids_max: resources.pids().map(|pids| pids.limit()),
        io: resources.block_io().as_ref().map(io).unwrap_or_default(),
        hugetlb: resources.hugepage_limits().iter().flatten().map(hugetlb).collect::<Result<_, _>>()?,
        devices: devices.transpose()?,
        network: resources.network().as_ref().map(network).unwrap_or_default(),
        rdma: resources
            .rdma()
            .iter()
            .flatten()
            .map(|(name, limit)| {
                (name.clone(), RdmaLimit { handles: limit.hca_handles(), objects: limit.hca_objects() })
            })
            .collect(),
        unified: resources.unified().iter().flatten().map(|(file, value)| (file.clone(), value.clone())).collect(),
    })
}

fn memory(memory: &LinuxMemory) -> MemoryLimits {
    MemoryLimits {
        limit_bytes: memory.limit(),
        reservation_bytes: memory.reservation(),
        swap_bytes: memory.swap(),
        swappiness: memory.swappiness(),
        oom_kill_disable: memory.disable_oom_killer(),
        check_before_update: memory.check_before_update().unwrap_or(false),
    }
}

fn cpu(cpu: &oci_spec::runtime::LinuxCpu) -> CpuLimits {
    let list = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    CpuLimits {
        shares: cpu.shares(),
        quota_micros: cpu.quota(),
        period_micros: cpu.period(),
        burst_micros: cpu.burst(),
        realtime_runtime_micros: cpu.realtime_runtime(),
        realtime_period_micros: cpu.realtime_period(),
        idle: cpu.idle(),
        cpus: list(cpu.cpus()),
        mems: list(cpu.mems()),
    }
}

fn io(io: &LinuxBlockIo) -> IoLimits {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let throttles = |list: &Option<Vec<LinuxThrottleDevice>>| {
        let one = |device: &LinuxThrottleDevice| Throttle {
            major: number(device.major()),
            minor: number(device.minor()),
            rate: device.rate(),
        };
        list.iter().flatten().map(one).collect()
    };
    IoLimits {
        weight: io.weight(),
        leaf_weight: io.leaf_weight(),
        weight_devices: io
            .weight_device()
            .iter()
            .flatten()
            .map(|device| IoWeight {
                major: number(device.major()),
                minor: number(device.minor()),
                weight: device.weight(),
                leaf_weight: device.leaf_weight(),
            })
            .collect(),
        read_bytes: throttles(io.throttle_read_bps_device()),
        write_bytes: throttles(io.throttle_write_bps_device()),
        read_operations: throttles(io.throttle_read_iops_device()),
        write_operations: throttles(io.throttle_write_iops_device()),
    }
}

fn hugetlb(limit: &oci_spec::runtime::LinuxHugepageLimit) -> Result<HugetlbLimit, LimitsError> {
    let limit_bytes = u64::try_from(limit.limit()).map_err(|_| LimitsError::Hugepages(limit.limit()))?;
    Ok(HugetlbLimit { page_size: limit.page_size().clone(), limit_bytes })
}

fn network(network: &oci_spec::runtime::LinuxNetwork) -> NetworkClass {
    NetworkClass {
        class_id: network.class_id(),
        priorities: network
            .priorities()
            .iter()
            .flatten()
            .map(|priority| (priority.name().clone(), priority.priority()))
            .collect(),
    }
}

fn device(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, LimitsError> {
    let number = |number: Option<i64>| match number {
        // -1 is "any" to those who cannot leave it out.
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| LimitsError::DeviceNumber(number)),
    };
    Ok(DeviceRule {
        allow: rule.allow(),
        kind: match rule.typ() {
            None | Some(LinuxDeviceType::A) => DeviceKind::All,
            Some(LinuxDeviceType::B) => DeviceKind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
            Some(LinuxDeviceType::P) => return Err(LimitsError::DeviceType("p")),
        },
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access: Access::parse(rule.access().as_deref().unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_absent_stays_untouched() {
        assert_eq!(for_update(&resources(serde_json::json!({}))).unwrap(), Limits::default());
    }

    #[test]
    fn every_limit_of_docker_arrives() {
        let limits = for_update(&resources(serde_json::json!({
            "memory": { "limit": 268_435_456, "swap": 536_870_912, "reservation": 1 << 20, "swappiness": 0, "disableOOMKiller": true },
            "cpu": { "quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0-1", "mems": "" },
            "pids": { "limit": 100 },
            "blockIO": { "weight": 300, "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1_000_000 }] },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }],
            "unified": { "memory.high": "1000000" },
        })))
        .unwrap();
        assert_eq!((limits.memory.limit_bytes, limits.memory.swap_bytes), (Some(256 << 20), Some(512 << 20)));
        assert_eq!((limits.memory.swappiness, limits.memory.oom_kill_disable), (Some(0), Some(true)));
        assert_eq!(
            (limits.cpu.quota_micros, limits.cpu.cpus.as_deref(), limits.cpu.mems),
            (Some(150_000), Some("0-1"), None)
        );
        assert_eq!(limits.pids_max, Some(100));
        assert_eq!(limits.io.read_bytes, [Throttle { major: 8, minor: 0, rate: 1_000_000 }]);
        assert_eq!(limits.hugetlb[0].page_size, "2MB");
        assert_eq!(limits.unified["memory.high"], "1000000");
        assert_eq!(limits.devices, None);
    }

    #[test]
    fn a_new_container_has_only_the_usual_devices() {
        assert_eq!(for_create(None).unwrap().devices, Some(default_rules()));
        let none: Vec<serde_json::Value> = Vec::new();
        let limits = for_create(Some(&resources(serde_json::json!({ "devices": none })))).unwrap();
        assert_eq!(limits.devices, Some(default_rules()));
    }

    #[test]
    fn device_rules_keep_their_order_before_the_usual_ones() {
        let limits = for_create(Some(&resources(serde_json::json!({ "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        ] }))))
        .unwrap();
        let rules = limits.devices.unwrap();
        assert_eq!((rules[0].allow, rules[0].kind), (false, DeviceKind::All));
        assert_eq!((rules[1].major, rules[1].minor, rules[1].access), (Some(10), Some(229), Access::parse("rw")));
        assert!(rules[2..].iter().all(|rule| rule.allow));
        assert!(rules[2..].iter().any(|rule| (rule.major, rule.minor) == (Some(1), Some(3))));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let rule = |major: i64| serde_json::json!({ "devices": [{ "allow": true, "type": "c", "major": major }] });
        assert_eq!(for_update(&resources(rule(1 << 40))), Err(LimitsError::DeviceNumber(1 << 40)));
        assert_eq!(for_update(&resources(rule(-1))).unwrap().devices.unwrap()[0].major, None);
        let pages = serde_json::json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": -1 }] });
        assert_eq!(for_update(&resources(pages)), Err(LimitsError::Hugepages(-1)));
    }
}
