//! Limits and the restart policy, shared by create and update.

use super::refuse_if;
use crate::json::Fields;
use crate::version::ApiVersion;
use berth_engine::containers::DiskLimits;
use berth_types::Error;
use berth_types::spec::{DeviceMapping, DeviceRequest, Resources, RestartPolicy, ThrottleDevice, Ulimit, WeightDevice};

type Result<T> = std::result::Result<T, Error>;

/// The limits of a `HostConfig` or an update's body.
pub(crate) fn resources(host: &Fields<'_>) -> Result<Resources> {
    for (key, what) in [("IOMaximumIOps", "IOPs"), ("IOMaximumBandwidth", "bandwidth")] {
        if host.int(key)? != 0 {
            let words = format!("invalid option: QoS maximum {what} configuration is not supported on linux");
            return Err(Error::invalid(words));
        }
    }
    for key in ["CpuCount", "CpuPercent", "KernelMemoryTCP"] {
        refuse_if(host.int(key)? != 0, key)?;
    }
    Ok(Resources {
        memory_bytes: host.int("Memory")?,
        memory_reservation_bytes: host.int("MemoryReservation")?,
        memory_swap_bytes: host.int("MemorySwap")?,
        memory_swappiness: host.int_or_none("MemorySwappiness", "int64")?,
        kernel_memory_bytes: host.int("KernelMemory")?,
        oom_kill_disable: host.flag_or_none("OomKillDisable")?,
        oom_score_adj: host.int_or_none("OomScoreAdj", "int")?.unwrap_or(0),
        cpu_shares: host.int("CpuShares")?,
        nano_cpus: host.int("NanoCpus")?,
        cpu_period_micros: host.int("CpuPeriod")?,
        cpu_quota_micros: host.int("CpuQuota")?,
        cpu_rt_period_micros: host.int("CpuRealtimePeriod")?,
        cpu_rt_runtime_micros: host.int("CpuRealtimeRuntime")?,
        cpuset_cpus: host.text("CpusetCpus")?,
        cpuset_mems: host.text("CpusetMems")?,
        pids_limit: host.int_or_none("PidsLimit", "int64")?,
        blkio_weight: host.int_or_none("BlkioWeight", "uint16")?.unwrap_or(0),
        blkio_weight_device: weights(host)?,
        blkio_read_bps: throttles(host, "BlkioDeviceReadBps")?,
        blkio_write_bps: throttles(host, "BlkioDeviceWriteBps")?,
        blkio_read_iops: throttles(host, "BlkioDeviceReadIOps")?,
        blkio_write_iops: throttles(host, "BlkioDeviceWriteIOps")?,
        devices: host
            .objects("Devices", "DeviceMapping")?
            .iter()
            .map(|f| {
                Ok(DeviceMapping {
                    path_on_host: f.text("PathOnHost")?,
                    path_in_container: f.text("PathInContainer")?,
                    cgroup_permissions: f.text("CgroupPermissions")?,
                })
            })
            .collect::<Result<_>>()?,
        device_cgroup_rules: host.texts("DeviceCgroupRules")?,
        device_requests: host
            .objects("DeviceRequests", "DeviceRequest")?
            .iter()
            .map(device_request)
            .collect::<Result<_>>()?,
        ulimits: host
            .objects("Ulimits", "Ulimit")?
            .iter()
            .map(|f| Ok(Ulimit { name: f.text("Name")?, soft: f.int("Soft")?, hard: f.int("Hard")? }))
            .collect::<Result<_>>()?,
        cgroup_parent: host.text("CgroupParent")?,
    })
}

/// The lists of block devices of an update: absent and `null` leave what is, empty ends it. Before 1.55 they were
/// not looked at.
pub(crate) fn disk_limits(update: &Fields<'_>, version: ApiVersion) -> Result<DiskLimits> {
    if version.before(55) {
        return Ok(DiskLimits::default());
    }
    let given = |key| update.raw(key).map(|_| throttles(update, key)).transpose();
    Ok(DiskLimits {
        weight: update.raw("BlkioWeightDevice").map(|_| weights(update)).transpose()?,
        read_bps: given("BlkioDeviceReadBps")?,
        write_bps: given("BlkioDeviceWriteBps")?,
        read_iops: given("BlkioDeviceReadIOps")?,
        write_iops: given("BlkioDeviceWriteIOps")?,
    })
}

fn weights(host: &Fields<'_>) -> Result<Vec<WeightDevice>> {
    host.objects("BlkioWeightDevice", "WeightDevice")?
        .iter()
        .map(|f| Ok(WeightDevice { path: f.text("Path")?, weight: f.int_or_none("Weight", "uint16")?.unwrap_or(0) }))
        .collect()
}

fn throttles(host: &Fields<'_>, key: &str) -> Result<Vec<ThrottleDevice>> {
    host.objects(key, "ThrottleDevice")?
        .iter()
        .map(|f| Ok(ThrottleDevice { path: f.text("Path")?, rate: f.int_or_none("Rate", "uint64")?.unwrap_or(0) }))
        .collect()
}

fn device_request(f: &Fields<'_>) -> Result<DeviceRequest> {
    let mut capabilities = Vec::new();
    if let Some(value) = f.raw("Capabilities") {
        let list: Option<Vec<Vec<String>>> = serde_json::from_value(value.clone()).ok();
        capabilities =
            list.ok_or_else(|| Error::invalid("invalid JSON: DeviceRequest.Capabilities is not a list of lists"))?;
    }
    Ok(DeviceRequest {
        driver: f.text("Driver")?,
        count: f.int("Count")?,
        device_ids: f.texts("DeviceIDs")?,
        capabilities,
        options: f.text_map("Options")?,
    })
}

/// `RestartPolicy`; `None` where it is absent or has no name.
pub(crate) fn restart_policy(host: &Fields<'_>) -> Result<Option<RestartPolicy>> {
    let policy = host.object("RestartPolicy", "RestartPolicy")?;
    let retries = policy.int("MaximumRetryCount")?;
    let name = policy.text("Name")?;
    if retries < 0 {
        return Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative",
        ));
    }
    if retries > 0 && matches!(name.as_str(), "always" | "no" | "unless-stopped") {
        return Err(Error::invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"));
    }
    match name.as_str() {
        "" if retries > 0 => {
            Err(Error::invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"))
        }
        "" => Ok(None),
        "no" => Ok(Some(RestartPolicy::No)),
        "always" => Ok(Some(RestartPolicy::Always)),
        "unless-stopped" => Ok(Some(RestartPolicy::UnlessStopped)),
        "on-failure" => {
            Ok(Some(RestartPolicy::OnFailure { maximum_retries: u32::try_from(retries).unwrap_or(u32::MAX) }))
        }
        other => Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}
