//! `Config` and `HostConfig` as `inspect` shows them.

use berth_types::spec::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// dockerd sends `null` for an empty list of most fields.
fn list_or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

fn map_or_null(map: &BTreeMap<String, String>) -> Value {
    if map.is_empty() { Value::Null } else { json!(map) }
}

/// `{"a": {}}`, Go's `map[string]struct{}`.
fn set(keys: impl Iterator<Item = String>) -> Value {
    by_text(keys.map(|key| (key, json!({}))))
}

/// In the order of the keys' text, as Go writes maps: port 443 comes before 80.
fn by_text(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let mut map: Map<String, Value> = entries.collect();
    map.sort_keys();
    Value::Object(map)
}

pub(crate) fn config(config: &Config) -> Value {
    let mut value = json!({
        "Hostname": config.hostname, "Domainname": config.domainname, "User": config.user,
        "AttachStdin": config.attach_stdin, "AttachStdout": config.attach_stdout, "AttachStderr": config.attach_stderr,
        "Tty": config.tty, "OpenStdin": config.open_stdin, "StdinOnce": config.stdin_once,
        "Env": list_or_null(&config.env), "Cmd": config.cmd, "Image": config.image,
        "Volumes": if config.volumes.is_empty() { Value::Null } else { set(config.volumes.iter().cloned()) },
        "WorkingDir": config.working_dir, "Entrypoint": config.entrypoint, "OnBuild": config.on_build,
        "Labels": config.labels,
    });
    if !config.exposed_ports.is_empty() {
        value["ExposedPorts"] = set(config.exposed_ports.iter().map(PortProto::to_string));
    }
    if let Some(check) = &config.healthcheck {
        value["Healthcheck"] = healthcheck(check);
    }
    if config.args_escaped {
        value["ArgsEscaped"] = json!(true);
    }
    if config.network_disabled {
        value["NetworkDisabled"] = json!(true);
    }
    if let Some(signal) = &config.stop_signal {
        value["StopSignal"] = json!(signal);
    }
    if let Some(seconds) = config.stop_timeout_seconds {
        value["StopTimeout"] = json!(seconds);
    }
    if let Some(shell) = &config.shell {
        value["Shell"] = json!(shell);
    }
    ordered(value, CONFIG)
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut map = Map::new();
    let numbers = [
        ("Interval", check.interval_nanos),
        ("Timeout", check.timeout_nanos),
        ("StartPeriod", check.start_period_nanos),
        ("StartInterval", check.start_interval_nanos),
        ("Retries", i64::from(check.retries)),
    ];
    if !check.test.is_empty() {
        map.insert("Test".to_owned(), json!(check.test));
    }
    map.extend(numbers.into_iter().filter(|(_, n)| *n != 0).map(|(key, n)| (key.to_owned(), json!(n))));
    Value::Object(map)
}

fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

fn namespace(mode: &NamespaceMode) -> String {
    match mode {
        NamespaceMode::Default => String::new(),
        NamespaceMode::Private => "private".to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(name) => format!("container:{name}"),
    }
}

fn ipc_mode(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Default | IpcMode::Private => "private".to_owned(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(name) => format!("container:{name}"),
    }
}

fn restart(policy: &RestartPolicy) -> Value {
    let (name, retries) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { maximum_retries } => ("on-failure", *maximum_retries),
    };
    json!({"Name": name, "MaximumRetryCount": retries})
}

fn binding(binding: &PortBinding) -> Value {
    let port = match binding.host_port {
        (0, 0) => String::new(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    json!({"HostIp": binding.host_ip.map_or(String::new(), |address| address.to_string()), "HostPort": port})
}

/// Without what is zero or empty, as Go leaves it out.
fn filled(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.retain(|_, value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::Number(number) => number.as_i64() != Some(0),
            Value::Bool(true) => true,
        });
    }
    value
}

/// The keys in the order of `names`; what is not among them comes last.
fn ordered(value: Value, names: &[&str]) -> Value {
    let Value::Object(mut map) = value else { return value };
    let mut sorted = Map::new();
    for name in names {
        if let Some((name, value)) = map.shift_remove_entry(*name) {
            sorted.insert(name, value);
        }
    }
    sorted.extend(map);
    Value::Object(sorted)
}

/// dockerd's order, which `docker inspect` prints.
const CONFIG: &[&str] = &[
    "Hostname",
    "Domainname",
    "User",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "ExposedPorts",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Env",
    "Cmd",
    "Healthcheck",
    "ArgsEscaped",
    "Image",
    "Volumes",
    "WorkingDir",
    "Entrypoint",
    "NetworkDisabled",
    "OnBuild",
    "Labels",
    "StopSignal",
    "StopTimeout",
    "Shell",
];
const HOST_CONFIG_FIRST: &[&str] = &[
    "Binds",
    "ContainerIDFile",
    "LogConfig",
    "NetworkMode",
    "PortBindings",
    "RestartPolicy",
    "AutoRemove",
    "VolumeDriver",
    "VolumesFrom",
    "ConsoleSize",
    "Annotations",
    "CapAdd",
    "CapDrop",
    "CgroupnsMode",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "IpcMode",
    "Cgroup",
    "Links",
    "OomScoreAdj",
    "PidMode",
    "Privileged",
    "PublishAllPorts",
    "ReadonlyRootfs",
    "SecurityOpt",
    "StorageOpt",
    "Tmpfs",
    "UTSMode",
    "UsernsMode",
    "ShmSize",
    "Sysctls",
    "Runtime",
    "Isolation",
];
/// Lists and maps that are shown as the client gave them: absent, or empty.
pub(super) const HOST_FIELDS: &[(&str, HostField)] = &[
    ("Binds", HostField::Binds),
    ("PortBindings", HostField::PortBindings),
    ("VolumesFrom", HostField::VolumesFrom),
    ("CapAdd", HostField::CapAdd),
    ("CapDrop", HostField::CapDrop),
    ("Dns", HostField::Dns),
    ("DnsOptions", HostField::DnsOptions),
    ("DnsSearch", HostField::DnsSearch),
    ("ExtraHosts", HostField::ExtraHosts),
    ("GroupAdd", HostField::GroupAdd),
    ("SecurityOpt", HostField::SecurityOpt),
    ("BlkioWeightDevice", HostField::BlkioWeightDevice),
    ("BlkioDeviceReadBps", HostField::BlkioDeviceReadBps),
    ("BlkioDeviceWriteBps", HostField::BlkioDeviceWriteBps),
    ("BlkioDeviceReadIOps", HostField::BlkioDeviceReadIOps),
    ("BlkioDeviceWriteIOps", HostField::BlkioDeviceWriteIOps),
    ("Devices", HostField::Devices),
    ("DeviceCgroupRules", HostField::DeviceCgroupRules),
    ("DeviceRequests", HostField::DeviceRequests),
    ("Ulimits", HostField::Ulimits),
];
const HOST_CONFIG_LAST: &[&str] = &["Mounts", "MaskedPaths", "ReadonlyPaths", "Init"];

fn mount(mount: &MountSpec) -> Value {
    let mut value = json!({"Type": mount.kind.as_str(), "Target": mount.target});
    if !mount.source.is_empty() {
        value["Source"] = json!(mount.source);
    }
    if mount.read_only {
        value["ReadOnly"] = json!(true);
    }
    if !mount.consistency.is_empty() {
        value["Consistency"] = json!(mount.consistency);
    }
    if let Some(bind) = &mount.bind {
        value["BindOptions"] = filled(json!({
            "Propagation": bind.propagation, "NonRecursive": bind.non_recursive,
            "CreateMountpoint": bind.create_mountpoint, "ReadOnlyNonRecursive": bind.read_only_non_recursive,
            "ReadOnlyForceRecursive": bind.read_only_force_recursive,
        }));
    }
    if let Some(volume) = &mount.volume {
        value["VolumeOptions"] =
            filled(json!({"NoCopy": volume.no_copy, "Labels": volume.labels, "Subpath": volume.subpath}));
        if !volume.driver.is_empty() || !volume.driver_options.is_empty() {
            value["VolumeOptions"]["DriverConfig"] =
                filled(json!({"Name": volume.driver, "Options": volume.driver_options}));
        }
    }
    if let Some(tmpfs) = &mount.tmpfs {
        value["TmpfsOptions"] =
            filled(json!({"SizeBytes": tmpfs.size_bytes, "Mode": tmpfs.mode, "Options": tmpfs.options}));
    }
    if let Some(file) = &mount.file {
        value["FileOptions"] = json!({"UID": file.uid, "GID": file.gid, "Mode": file.mode});
    }
    if !mount.image_subpath.is_empty() {
        value["ImageOptions"] = json!({"Subpath": mount.image_subpath});
    }
    value
}

pub(crate) fn host_config(host: &HostConfig) -> Value {
    let bindings = by_text(
        host.port_bindings
            .iter()
            .map(|(port, list)| (port.to_string(), Value::Array(list.iter().map(binding).collect()))),
    );
    let mut value = json!({
        "Binds": list_or_null(&host.binds), "ContainerIDFile": host.container_id_file,
        "LogConfig": {"Type": host.log.driver, "Config": host.log.options},
        "NetworkMode": network_mode(&host.network_mode), "PortBindings": bindings,
        "RestartPolicy": restart(&host.restart), "AutoRemove": host.auto_remove, "VolumeDriver": host.volume_driver,
        "VolumesFrom": list_or_null(&host.volumes_from), "ConsoleSize": [host.console_size.0, host.console_size.1],
        "CapAdd": list_or_null(&host.cap_add), "CapDrop": list_or_null(&host.cap_drop),
        "CgroupnsMode": match host.cgroupns_mode { NamespaceMode::Default => "private".to_owned(), _ => namespace(&host.cgroupns_mode) },
        "Dns": host.dns, "DnsOptions": host.dns_options, "DnsSearch": host.dns_search,
        "ExtraHosts": list_or_null(&host.extra_hosts), "GroupAdd": list_or_null(&host.group_add),
        "IpcMode": ipc_mode(&host.ipc_mode), "Cgroup": "", "Links": list_or_null(&host.links),
        "OomScoreAdj": host.resources.oom_score_adj, "PidMode": namespace(&host.pid_mode),
        "Privileged": host.privileged, "PublishAllPorts": host.publish_all_ports,
        "ReadonlyRootfs": host.readonly_rootfs, "SecurityOpt": list_or_null(&host.security_opt),
        "UTSMode": namespace(&host.uts_mode), "UsernsMode": namespace(&host.userns_mode),
        "ShmSize": if host.shm_size_bytes == 0 { 64 << 20 } else { host.shm_size_bytes },
        "Runtime": if host.runtime.is_empty() { "runc" } else { &host.runtime }, "Isolation": host.isolation,
        "MaskedPaths": host.masked_paths, "ReadonlyPaths": host.readonly_paths,
    });
    if let (Value::Object(value), Value::Object(limits)) = (&mut value, limits(&host.resources)) {
        value.extend(limits);
    }
    if !host.mounts.is_empty() {
        value["Mounts"] = host.mounts.iter().map(mount).collect();
    }
    for (key, map) in [
        ("Tmpfs", &host.tmpfs),
        ("Sysctls", &host.sysctls),
        ("StorageOpt", &host.storage_opt),
        ("Annotations", &host.annotations),
    ] {
        if !map.is_empty() {
            value[key] = map_or_null(map);
        }
    }
    if let Some(init) = host.init {
        value["Init"] = json!(init);
    }
    for (name, field) in HOST_FIELDS {
        let empty = match (&value[name], *field) {
            (Value::Null, HostField::PortBindings) => json!({}),
            (Value::Null, _) => json!([]),
            (Value::Array(list), _) if list.is_empty() => json!([]),
            (Value::Object(map), _) if map.is_empty() => json!({}),
            _ => continue,
        };
        value[name] = if host.given_empty.contains(field) { empty } else { Value::Null };
    }
    let mut value = ordered(value, HOST_CONFIG_FIRST);
    if let Value::Object(map) = &mut value {
        for name in HOST_CONFIG_LAST {
            if let Some((name, value)) = map.shift_remove_entry(*name) {
                map.insert(name, value);
            }
        }
    }
    value
}

fn limits(limits: &Resources) -> Value {
    let throttles = |list: &[ThrottleDevice]| -> Value {
        list.iter().map(|device| json!({"Path": device.path, "Rate": device.rate})).collect()
    };
    let weights: Value =
        limits.blkio_weight_device.iter().map(|device| json!({"Path": device.path, "Weight": device.weight})).collect();
    let devices: Value = limits
        .devices
        .iter()
        .map(|device| {
            json!({
                "PathOnHost": device.path_on_host, "PathInContainer": device.path_in_container,
                "CgroupPermissions": device.cgroup_permissions,
            })
        })
        .collect();
    let requests: Vec<Value> = limits
        .device_requests
        .iter()
        .map(|request| {
            json!({
                "Driver": request.driver, "Count": request.count, "DeviceIDs": list_or_null(&request.device_ids),
                "Capabilities": list_or_null(&request.capabilities), "Options": request.options,
            })
        })
        .collect();
    let ulimits: Vec<Value> =
        limits.ulimits.iter().map(|u| json!({"Name": u.name, "Hard": u.hard, "Soft": u.soft})).collect();
    json!({
        "CpuShares": limits.cpu_shares, "Memory": limits.memory_bytes, "NanoCpus": limits.nano_cpus,
        "CgroupParent": limits.cgroup_parent, "BlkioWeight": limits.blkio_weight, "BlkioWeightDevice": weights,
        "BlkioDeviceReadBps": throttles(&limits.blkio_read_bps),
        "BlkioDeviceWriteBps": throttles(&limits.blkio_write_bps),
        "BlkioDeviceReadIOps": throttles(&limits.blkio_read_iops),
        "BlkioDeviceWriteIOps": throttles(&limits.blkio_write_iops),
        "CpuPeriod": limits.cpu_period_micros, "CpuQuota": limits.cpu_quota_micros,
        "CpuRealtimePeriod": limits.cpu_rt_period_micros, "CpuRealtimeRuntime": limits.cpu_rt_runtime_micros,
        "CpusetCpus": limits.cpuset_cpus, "CpusetMems": limits.cpuset_mems, "Devices": devices,
        "DeviceCgroupRules": list_or_null(&limits.device_cgroup_rules), "DeviceRequests": list_or_null(&requests),
        "MemoryReservation": limits.memory_reservation_bytes, "MemorySwap": limits.memory_swap_bytes,
        "MemorySwappiness": limits.memory_swappiness, "OomKillDisable": limits.oom_kill_disable,
        "PidsLimit": limits.pids_limit, "Ulimits": ulimits,
        "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stand_in_the_order_of_their_text() {
        let ports = ["80/tcp", "443/tcp", "53/udp", "100/tcp"].map(|port| port.parse::<PortProto>().unwrap());
        let container = Config { exposed_ports: ports.into_iter().collect(), ..Config::default() };
        let bindings = ports.map(|port| (port, vec![PortBinding { host_ip: None, host_port: (0, 0) }]));
        let host = HostConfig { port_bindings: bindings.into_iter().collect(), ..HostConfig::default() };
        let sorted = ["100/tcp", "443/tcp", "53/udp", "80/tcp"];
        for shown in [&config(&container)["ExposedPorts"], &host_config(&host)["PortBindings"]] {
            assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), sorted);
        }
    }
}
