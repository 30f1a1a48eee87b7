//! The body of `POST /containers/create`.

use super::render::HOST_FIELDS;
use super::{refuse_if, resources, restart_policy, versions};
use crate::json::Fields;
use crate::version::ApiVersion;
use berth_types::Error;
use berth_types::spec::*;
use serde_json::Value;
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Error>;

/// Reads the whole body as `version` means it. Answers warnings beside it.
pub(crate) fn create_body(body: &Value, version: ApiVersion) -> Result<(ContainerSpec, Vec<String>)> {
    let fields = Fields::new(body, "CreateRequest")?;
    let config = config(&Fields::new(body, "Config")?)?;
    let host = host_config(&fields.object("HostConfig", "HostConfig")?)?;
    let mut endpoints = BTreeMap::new();
    let networking = fields.object("NetworkingConfig", "NetworkingConfig")?;
    for (name, value) in networking.entries("EndpointsConfig")? {
        // docker's client says "default" for the default bridge.
        let name = if name == "default" { "bridge" } else { name };
        endpoints.insert(name.to_owned(), endpoint(&Fields::new(value, "EndpointSettings")?)?);
    }
    let mut spec = ContainerSpec { config, host, endpoints, endpoints_only: false, platform: None };
    let warnings = versions::adapt(&mut spec, fields.text("MacAddress")?, version)?;
    spec.endpoints_only = !spec.endpoints.is_empty();
    for (name, endpoint) in &spec.endpoints {
        let mac = &endpoint.mac_address;
        let parts: Vec<&str> = mac.split([':', '-']).collect();
        let valid =
            parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
        if !mac.is_empty() && !valid {
            return Err(Error::invalid(format!("invalid config for network {name}: invalid MAC address {mac}")));
        }
    }
    let config = &spec.config;
    if config.image.is_empty() && config.cmd.is_none() && config.entrypoint.is_none() {
        return Err(Error::invalid("no command specified"));
    }
    Ok((spec, warnings))
}

pub(crate) fn config(f: &Fields<'_>) -> Result<Config> {
    let exposed_ports = f
        .entries("ExposedPorts")?
        .map(|(port, _)| ports(port))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    Ok(Config {
        image: f.text("Image")?,
        hostname: f.text("Hostname")?,
        domainname: f.text("Domainname")?,
        user: f.text("User")?,
        attach_stdin: f.flag("AttachStdin")?,
        attach_stdout: f.flag("AttachStdout")?,
        attach_stderr: f.flag("AttachStderr")?,
        exposed_ports,
        tty: f.flag("Tty")?,
        open_stdin: f.flag("OpenStdin")?,
        stdin_once: f.flag("StdinOnce")?,
        env: f.texts("Env")?,
        cmd: f.text_or_texts("Cmd")?,
        entrypoint: f.text_or_texts("Entrypoint")?,
        healthcheck: healthcheck(f)?,
        volumes: f
            .entries("Volumes")?
            .map(|(path, value)| Fields::new(value, "Config.Volumes").map(|_| path.clone()))
            .collect::<Result<_>>()?,
        working_dir: f.text("WorkingDir")?,
        network_disabled: f.flag("NetworkDisabled")?,
        labels: f.text_map("Labels")?,
        stop_signal: f.text_or_none("StopSignal")?.filter(|signal| !signal.is_empty()),
        stop_timeout_seconds: f.int_or_none("StopTimeout", "int")?,
        shell: f.text_or_texts("Shell")?.filter(|shell| !shell.is_empty()),
        on_build: f.texts_or_none("OnBuild")?,
        args_escaped: f.flag("ArgsEscaped")?,
    })
}

/// `80/tcp`, or a range `8000-8002/tcp`.
fn ports(text: &str) -> Result<Vec<PortProto>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let invalid = || Error::invalid(format!("invalid port specification: {text:?}"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let first: PortProto = format!("{first}/{protocol}").parse().map_err(|_| invalid())?;
    let last: PortProto = format!("{last}/{protocol}").parse().map_err(|_| invalid())?;
    if last.port < first.port {
        return Err(invalid());
    }
    Ok((first.port..=last.port).map(|port| PortProto { port, protocol: first.protocol }).collect())
}

pub(crate) fn healthcheck(f: &Fields<'_>) -> Result<Option<Healthcheck>> {
    let Some(f) = f.object_or_none("Healthcheck", "HealthcheckConfig")? else { return Ok(None) };
    Ok(Some(Healthcheck {
        test: f.texts("Test")?,
        interval_nanos: f.int("Interval")?,
        timeout_nanos: f.int("Timeout")?,
        start_period_nanos: f.int("StartPeriod")?,
        start_interval_nanos: f.int("StartInterval")?,
        retries: match f.int("Retries")? {
            retries if retries < 0 => return Err(Error::invalid("Retries in Healthcheck cannot be negative")),
            retries => u32::try_from(retries).unwrap_or(u32::MAX),
        },
    }))
}

pub(crate) fn log_config(f: &Fields<'_>) -> Result<Option<LogConfig>> {
    let Some(log) = f.object_or_none("LogConfig", "LogConfig")? else { return Ok(None) };
    Ok(Some(LogConfig { driver: log.text("Type")?, options: log.text_map("Config")? }))
}

fn host_config(f: &Fields<'_>) -> Result<HostConfig> {
    refuse_if(!f.text("Cgroup")?.is_empty(), "HostConfig.Cgroup")?;
    // Of older versions of the API.
    refuse_if(f.raw("Capabilities").is_some(), "HostConfig.Capabilities")?;
    refuse_if(f.int("DiskQuota")? != 0, "HostConfig.DiskQuota")?;
    let isolation = f.text("Isolation")?;
    if !matches!(isolation.as_str(), "" | "default" | "vm") {
        return Err(Error::invalid(format!("invalid isolation ({isolation}): linux only supports 'default' and 'vm'")));
    }
    Ok(HostConfig {
        binds: f.texts("Binds")?,
        mounts: f.objects("Mounts", "Mount")?.iter().map(mount).collect::<Result<_>>()?,
        volumes_from: f.texts("VolumesFrom")?,
        volume_driver: f.text("VolumeDriver")?,
        tmpfs: f.text_map("Tmpfs")?,
        container_id_file: f.text("ContainerIDFile")?,
        log: log_config(f)?.unwrap_or_default(),
        restart: restart_policy(f)?.unwrap_or_default(),
        auto_remove: f.flag("AutoRemove")?,
        console_size: console_size(f, "ConsoleSize")?.unwrap_or((0, 0)),
        annotations: f.text_map("Annotations")?,
        network_mode: match f.text("NetworkMode")?.as_str() {
            "" | "default" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => match other.strip_prefix("container:") {
                Some("") => {
                    return Err(Error::invalid("invalid network mode: invalid container format container:<name|id>"));
                }
                Some(name) => NetworkMode::Container(name.to_owned()),
                None => NetworkMode::Named(other.to_owned()),
            },
        },
        port_bindings: port_bindings(f)?,
        publish_all_ports: f.flag("PublishAllPorts")?,
        dns: f.texts("Dns")?,
        dns_options: f.texts("DnsOptions")?,
        dns_search: f.texts("DnsSearch")?,
        extra_hosts: f.texts("ExtraHosts")?,
        links: f.texts("Links")?,
        cap_add: f.text_or_texts("CapAdd")?.unwrap_or_default(),
        cap_drop: f.text_or_texts("CapDrop")?.unwrap_or_default(),
        privileged: f.flag("Privileged")?,
        readonly_rootfs: f.flag("ReadonlyRootfs")?,
        security_opt: security_opt(f)?,
        masked_paths: f.texts_or_none("MaskedPaths")?,
        readonly_paths: f.texts_or_none("ReadonlyPaths")?,
        group_add: f.texts("GroupAdd")?,
        cgroupns_mode: namespace("cgroup namespace", &f.text("CgroupnsMode")?, false)?,
        ipc_mode: ipc_mode(&f.text("IpcMode")?)?,
        pid_mode: namespace("PID", &f.text("PidMode")?, true)?,
        uts_mode: namespace("UTS", &f.text("UTSMode")?, false)?,
        userns_mode: namespace("user", &f.text("UsernsMode")?, false)?,
        shm_size_bytes: match f.int("ShmSize")? {
            bytes if bytes < 0 => return Err(Error::invalid("SHM size can not be less than 0")),
            bytes => bytes.unsigned_abs(),
        },
        sysctls: f.text_map("Sysctls")?,
        storage_opt: f.text_map("StorageOpt")?,
        runtime: f.text("Runtime")?,
        isolation,
        init: f.flag_or_none("Init")?,
        resources: resources(f)?,
        given_empty: HOST_FIELDS
            .iter()
            .filter(|(name, _)| f.raw(name).is_some_and(is_empty))
            .map(|(_, field)| *field)
            .collect(),
    })
}

/// As dockerd: what sees the host's processes, or may do everything, has no SELinux label, unless the client says which.
fn security_opt(f: &Fields<'_>) -> Result<Vec<String>> {
    let mut all = f.texts("SecurityOpt")?;
    let open = f.flag("Privileged")? || f.text("PidMode")? == "host" || f.text("IpcMode")? == "host";
    if open && !all.iter().any(|option| option.starts_with("label=") || option.starts_with("label:")) {
        all.push("label=disable".to_owned());
    }
    Ok(all)
}

/// Rows and columns.
pub(crate) fn console_size(f: &Fields<'_>, key: &str) -> Result<Option<(u16, u16)>> {
    let Some(value) = f.raw(key) else { return Ok(None) };
    let invalid = || Error::invalid(format!("invalid JSON: {key} must be two numbers, rows and columns"));
    let list: Vec<u64> = serde_json::from_value(value.clone()).map_err(|_| invalid())?;
    let side = |index: usize| u16::try_from(list.get(index).copied().unwrap_or(0)).map_err(|_| invalid());
    Ok(Some((side(0)?, side(1)?)))
}

fn namespace(what: &str, text: &str, may_join: bool) -> Result<NamespaceMode> {
    match text {
        "" => Ok(NamespaceMode::Default),
        "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        _ => match text.strip_prefix("container:") {
            Some(name) if may_join && !name.is_empty() => Ok(NamespaceMode::Container(name.to_owned())),
            _ => Err(Error::invalid(format!("invalid {what} mode: {text}"))),
        },
    }
}

fn ipc_mode(text: &str) -> Result<IpcMode> {
    Ok(match text {
        "" => IpcMode::Default,
        "none" => IpcMode::None,
        "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "host" => IpcMode::Host,
        _ => match text.strip_prefix("container:").filter(|name| !name.is_empty()) {
            Some(name) => IpcMode::Container(name.to_owned()),
            None => return Err(Error::invalid(format!("invalid IPC mode: {text}"))),
        },
    })
}

pub(crate) fn port_bindings(f: &Fields<'_>) -> Result<BTreeMap<PortProto, Vec<PortBinding>>> {
    let mut all = BTreeMap::new();
    for (port, value) in f.entries("PortBindings")? {
        let port: PortProto = port.parse().map_err(|cause| Error::invalid(format!("{cause}")))?;
        let list = match value {
            Value::Null => &[][..],
            Value::Array(list) => list,
            _ => return Err(Error::invalid("invalid JSON: HostConfig.PortBindings must hold lists of bindings")),
        };
        let bindings = list.iter().map(|value| binding(&Fields::new(value, "PortBinding")?)).collect::<Result<_>>()?;
        all.insert(port, bindings);
    }
    Ok(all)
}

fn binding(f: &Fields<'_>) -> Result<PortBinding> {
    let address = f.text("HostIp")?;
    let host_ip = match address.trim_matches(['[', ']']) {
        "" => None,
        text => Some(text.parse().map_err(|_| Error::invalid(format!("invalid host IP address: {address}")))?),
    };
    let text = f.text("HostPort")?;
    let number = text.split('/').next().unwrap_or_default();
    let invalid = || Error::invalid(format!("invalid port specification: \"{number}\""));
    let host_port = match text.split_once('-') {
        _ if text.is_empty() => (0, 0),
        Some((first, last)) => (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?),
        None => {
            let port = text.parse().map_err(|_| invalid())?;
            (port, port)
        }
    };
    if host_port.0 > host_port.1 {
        return Err(invalid());
    }
    Ok(PortBinding { host_ip, host_port })
}

fn mount(f: &Fields<'_>) -> Result<MountSpec> {
    let kind = match f.text("Type")?.as_str() {
        "bind" => MountKind::Bind,
        "volume" => MountKind::Volume,
        "tmpfs" => MountKind::Tmpfs,
        "image" => MountKind::Image,
        "secret" => MountKind::Secret,
        "config" => MountKind::Config,
        other => return Err(Error::invalid(format!("invalid mount config for type {other:?}: mount type unknown"))),
    };
    let bind = f.object_or_none("BindOptions", "BindOptions")?;
    let volume = f.object_or_none("VolumeOptions", "VolumeOptions")?;
    let tmpfs = f.object_or_none("TmpfsOptions", "TmpfsOptions")?;
    refuse_if(f.raw("ClusterOptions").is_some(), "Mount.ClusterOptions")?;
    Ok(MountSpec {
        kind,
        source: f.text("Source")?,
        target: f.text("Target")?,
        read_only: f.flag("ReadOnly")?,
        consistency: f.text("Consistency")?,
        bind: bind
            .map(|f| {
                Ok::<_, Error>(BindOptions {
                    propagation: f.text("Propagation")?,
                    non_recursive: f.flag("NonRecursive")?,
                    create_mountpoint: f.flag("CreateMountpoint")?,
                    read_only_non_recursive: f.flag("ReadOnlyNonRecursive")?,
                    read_only_force_recursive: f.flag("ReadOnlyForceRecursive")?,
                })
            })
            .transpose()?,
        volume: volume
            .map(|f| {
                let driver = f.object("DriverConfig", "Driver")?;
                Ok::<_, Error>(VolumeOptions {
                    no_copy: f.flag("NoCopy")?,
                    labels: f.text_map("Labels")?,
                    driver: driver.text("Name")?,
                    driver_options: driver.text_map("Options")?,
                    subpath: f.text("Subpath")?,
                })
            })
            .transpose()?,
        tmpfs: tmpfs
            .map(|f| {
                let options = match f.raw("Options") {
                    None => Vec::new(),
                    Some(value) => serde_json::from_value(value.clone())
                        .map_err(|_| Error::invalid("invalid JSON: TmpfsOptions.Options is not a list of lists"))?,
                };
                Ok::<_, Error>(TmpfsOptions {
                    size_bytes: f.int("SizeBytes")?,
                    mode: f.int_or_none("Mode", "uint32")?.unwrap_or(0),
                    options,
                })
            })
            .transpose()?,
        image_subpath: f.object("ImageOptions", "ImageOptions")?.text("Subpath")?,
        file: f
            .object_or_none("FileOptions", "FileOptions")?
            .map(|f| {
                let default = FileOptions::default();
                Ok::<_, Error>(FileOptions {
                    uid: f.int_or_none("UID", "uint32")?.unwrap_or(default.uid),
                    gid: f.int_or_none("GID", "uint32")?.unwrap_or(default.gid),
                    mode: f.int_or_none("Mode", "uint32")?.unwrap_or(default.mode),
                })
            })
            .transpose()?,
    })
}

/// `EndpointSettings`, as creations and `connect` have it.
pub(crate) fn endpoint(f: &Fields<'_>) -> Result<EndpointSpec> {
    let ipam = f.object("IPAMConfig", "EndpointIPAMConfig")?;
    let (ipv4, ipv6) = (ipam.text("IPv4Address")?, ipam.text("IPv6Address")?);
    let parse = |family: &str, text: &str| {
        Error::invalid(format!(
            "invalid endpoint settings:\n* invalid {family} address: {text}\n* no configured subnet or ip-range contain \
             the IP address {text}"
        ))
    };
    // What `inspect` says of an endpoint may come back; what of it is no wish only has to be of its type.
    for name in ["NetworkID", "EndpointID", "Gateway", "IPAddress", "IPv6Gateway", "GlobalIPv6Address"] {
        f.text(name)?;
    }
    for name in ["IPPrefixLen", "GlobalIPv6PrefixLen"] {
        f.int(name)?;
    }
    f.texts("DNSNames")?;
    Ok(EndpointSpec {
        ipv4_address: (!ipv4.is_empty()).then(|| ipv4.parse().map_err(|_| parse("IPv4", &ipv4))).transpose()?,
        ipv6_address: (!ipv6.is_empty()).then(|| ipv6.parse().map_err(|_| parse("IPv6", &ipv6))).transpose()?,
        link_local_ips: ipam.texts("LinkLocalIPs")?,
        mac_address: f.text("MacAddress")?,
        aliases: f.texts("Aliases")?,
        links: f.texts("Links")?,
        driver_options: f.text_map("DriverOpts")?,
        gateway_priority: f.int("GwPriority")?,
        given_empty: [
            ("IPAMConfig", EndpointField::Addresses),
            ("Links", EndpointField::Links),
            ("Aliases", EndpointField::Aliases),
            ("DriverOpts", EndpointField::DriverOptions),
        ]
        .into_iter()
        .filter_map(|(name, field)| f.raw(name).filter(|value| is_empty(value)).map(|_| field))
        .collect(),
    })
}

/// An object counts as empty where all that is in it is.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::CURRENT;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_is_read_is_rendered_back() {
        let body = json!({
            "Image": "debian", "Cmd": "ls", "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {
                "Memory": 1048576, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
                "NetworkMode": "container:db", "PidMode": "host", "CapAdd": ["NET_ADMIN"],
            },
        });
        let spec = create_body(&body, CURRENT).unwrap().0;
        assert_eq!(spec.config.cmd.as_deref(), Some(&["ls".to_owned()][..]));
        let host = super::super::host_config(&spec.host);
        for key in ["Memory", "RestartPolicy", "PortBindings", "NetworkMode", "PidMode", "CapAdd"] {
            assert_eq!(host[key], body["HostConfig"][key], "{key}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for host in [
            json!({"CpuCount": 1}),
            json!({"Isolation": "hyperv"}),
            json!({"RestartPolicy": {"Name": "sometimes"}}),
            json!({"PidMode": "container:"}),
            json!({"Mounts": [{"Type": "npipe"}]}),
            json!({"Memory": 1.5}),
            json!({"Memory": 1e300}),
            json!({"Binds": "a"}),
        ] {
            assert!(create_body(&json!({"Image": "a", "HostConfig": host}), CURRENT).is_err(), "{host}");
        }
    }

    #[test]
    fn every_key_of_host_config_is_mapped_or_refused() {
        let throttle = json!([{"Path": "/dev/sda", "Rate": 5}]);
        let keys = json!({
            "Binds": ["/a:/b"], "ContainerIDFile": "f", "LogConfig": {"Type": "local", "Config": {"max-size": "1m"}},
            "NetworkMode": "host", "PortBindings": {"1/udp": [{"HostIp": "::1", "HostPort": "5-7"}]},
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}, "AutoRemove": true, "VolumeDriver": "local",
            "VolumesFrom": ["c"], "ConsoleSize": [3, 4], "Annotations": {"a": "b"}, "CapAdd": ["A"], "CapDrop": ["B"],
            "CgroupnsMode": "host", "Dns": ["1.1.1.1"], "DnsOptions": ["o"], "DnsSearch": ["s"], "ExtraHosts": ["h:1"],
            "GroupAdd": ["g"], "IpcMode": "shareable", "Cgroup": "x", "Links": ["l"], "OomScoreAdj": 7,
            "PidMode": "container:c", "Privileged": true, "PublishAllPorts": true, "ReadonlyRootfs": true,
            "SecurityOpt": ["no-new-privileges"], "StorageOpt": {"size": "1g"}, "Tmpfs": {"/t": "size=1m"},
            "UTSMode": "host", "UsernsMode": "host", "ShmSize": 1024, "Sysctls": {"a.b": "1"}, "Runtime": "runc",
            "Isolation": "default", "Init": false, "MaskedPaths": ["/m"], "ReadonlyPaths": ["/r"],
            "Mounts": [{"Type": "bind", "Source": "/s", "Target": "/t", "ReadOnly": true, "Consistency": "cached"}],
            "CpuShares": 1, "Memory": 2, "NanoCpus": 3, "CgroupParent": "/p", "BlkioWeight": 10,
            "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 9}], "BlkioDeviceReadBps": throttle,
            "BlkioDeviceWriteBps": throttle, "BlkioDeviceReadIOps": throttle, "BlkioDeviceWriteIOps": throttle,
            "CpuPeriod": 4, "CpuQuota": 5, "CpuRealtimePeriod": 6, "CpuRealtimeRuntime": 7, "CpusetCpus": "0",
            "CpusetMems": "1", "DeviceCgroupRules": ["c 1:3 r"], "MemoryReservation": 8, "MemorySwap": 9,
            "Devices": [{"PathOnHost": "/h", "PathInContainer": "/c", "CgroupPermissions": "r"}],
            "DeviceRequests": [{"Driver": "d", "Count": 1, "DeviceIDs": ["i"], "Capabilities": [["gpu"]],
                "Options": {"o": "p"}}],
            "MemorySwappiness": 10, "OomKillDisable": true, "PidsLimit": 11, "CpuCount": 1, "CpuPercent": 2,
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "IOMaximumIOps": 1, "IOMaximumBandwidth": 1,
            "KernelMemoryTCP": 1,
        });
        let refused = ["Cgroup", "CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth", "KernelMemoryTCP"];
        for (key, value) in keys.as_object().unwrap() {
            let parsed = create_body(&json!({"Image": "a", "HostConfig": {key: value}}), CURRENT);
            match refused.contains(&key.as_str()) {
                true => assert!(parsed.is_err(), "{key}"),
                false => assert_eq!(&super::super::host_config(&parsed.unwrap().0.host)[key], value, "{key}"),
            }
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z:/0-9-]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[A-Za-z/0-9]{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn hostile_fields_never_panic(
            key in prop::sample::select(vec!["Memory", "PortBindings", "Mounts", "Tmpfs", "LogConfig", "ConsoleSize",
                "DeviceRequests", "Ulimits", "RestartPolicy", "NetworkMode", "ShmSize", "BlkioWeightDevice"]),
            top in prop::sample::select(vec!["Cmd", "Healthcheck", "ExposedPorts", "Volumes", "NetworkingConfig", "StopTimeout"]),
            value in any_json(),
        ) {
            if let Ok((spec, _)) = create_body(&json!({"Image": "a", top: value.clone(), "HostConfig": {key: value}}), CURRENT) {
                super::super::config(&spec.config);
                super::super::host_config(&spec.host);
            }
        }
    }
}
