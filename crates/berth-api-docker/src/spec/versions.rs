//! What older versions of the API meant by the same body of `POST /containers/create`, as dockerd translates it.
//!
//! A field that an older version did not have is taken back, as that version ignored it; where ignoring would be
//! dangerous dockerd refuses, and so do we.

use crate::version::ApiVersion;
use berth_types::Error;
use berth_types::spec::{ContainerSpec, EndpointSpec, HostConfig, IpcMode, MountKind, MountSpec, NetworkMode};

type Result<T> = std::result::Result<T, Error>;

/// Where an endpoint's sysctls stand since 1.46.
const ENDPOINT_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Makes `spec` what `version` meant. Answers warnings.
pub(super) fn adapt(spec: &mut ContainerSpec, mac_address: String, version: ApiVersion) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    take_back(spec, version)?;
    for mount in &mut spec.host.mounts {
        adapt_mount(mount, version)?;
    }
    warnings.extend(volume_driver(&spec.host, version));
    warnings.extend(main_mac_address(spec, mac_address, version)?);
    warnings.extend(interface_sysctls(spec, version)?);
    warnings.extend(empty_bindings(&spec.host, version));
    Ok(warnings)
}

fn take_back(spec: &mut ContainerSpec, version: ApiVersion) -> Result<()> {
    let host = &mut spec.host;
    if version.before(40) && host.ipc_mode == IpcMode::Default {
        host.ipc_mode = IpcMode::Shareable;
    }
    if version.before(42) {
        host.console_size = (0, 0);
    }
    if version.before(43) {
        host.annotations.clear();
    }
    if version.before(44) {
        if let Some(check) = &mut spec.config.healthcheck {
            check.start_interval_nanos = 0;
        }
        if spec.endpoints.len() > 1 {
            let names: Vec<&str> = spec.endpoints.keys().map(String::as_str).collect();
            return Err(Error::invalid(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
    }
    if version.before(48) {
        spec.endpoints.values_mut().for_each(|endpoint| endpoint.gateway_priority = 0);
    }
    Ok(())
}

fn adapt_mount(mount: &mut MountSpec, version: ApiVersion) -> Result<()> {
    let refuse = |words: &str| Err(Error::invalid(words));
    if version.before(48) && mount.kind == MountKind::Image {
        return refuse("Mount type \"Image\" needs API v1.48 or newer");
    }
    if version.before(45) && mount.volume.as_ref().is_some_and(|volume| !volume.subpath.is_empty()) {
        return refuse("VolumeOptions.Subpath needs API v1.45 or newer");
    }
    if version.before(44) && mount.kind == MountKind::Bind {
        let bind = mount.bind.get_or_insert_default();
        if bind.read_only_force_recursive {
            return refuse("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer");
        }
        // Read-only was the mount itself, not what is mounted below it.
        bind.read_only_non_recursive |= mount.read_only;
    }
    if version.before(42) {
        // Options of another kind of mount were not looked at.
        mount.volume.take_if(|_| mount.kind != MountKind::Volume);
        mount.tmpfs.take_if(|_| mount.kind != MountKind::Tmpfs);
        if let Some(bind) = &mut mount.bind {
            bind.create_mountpoint = false;
        }
    }
    if version.before(40)
        && let Some(bind) = &mut mount.bind
    {
        bind.non_recursive = false;
    }
    Ok(())
}

fn volume_driver(host: &HostConfig, version: ApiVersion) -> Option<String> {
    let undecided = |mount: &MountSpec| {
        mount.kind == MountKind::Volume && mount.volume.as_ref().is_none_or(|volume| volume.driver.is_empty())
    };
    let ambiguous = !version.before(48) && !host.volume_driver.is_empty() && host.mounts.iter().any(undecided);
    ambiguous.then(|| {
        "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use \
         '--mount type=volume,volume-driver=...' instead"
            .to_owned()
    })
}

/// The endpoint of the network that the container starts on, made where there is none; `None` for other modes.
fn main_endpoint(spec: &mut ContainerSpec, version: ApiVersion) -> Result<Option<&mut EndpointSpec>> {
    let name = match &spec.host.network_mode {
        NetworkMode::Default => "bridge",
        NetworkMode::Named(name) => name,
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => return Ok(None),
    };
    let only = version.before(44).then(|| spec.endpoints.keys().next().cloned()).flatten();
    let key = match only {
        // Older versions had one endpoint, whatever it was called.
        Some(only) => only,
        None if spec.endpoints.is_empty() || spec.endpoints.contains_key(name) => name.to_owned(),
        None => {
            return Err(Error::invalid(
                "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks",
            ));
        }
    };
    Ok(Some(spec.endpoints.entry(key).or_default()))
}

/// Up to 1.51 a hardware address could stand in `Config`; it belongs to the main network.
fn main_mac_address(spec: &mut ContainerSpec, wanted: String, version: ApiVersion) -> Result<Option<String>> {
    if wanted.is_empty() {
        if version.before(44) {
            // The endpoint's own was not known yet.
            spec.endpoints.values_mut().for_each(|endpoint| endpoint.mac_address.clear());
        }
        return Ok(None);
    }
    if !version.before(52) {
        return Err(Error::invalid(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead",
        ));
    }
    match main_endpoint(spec, version)? {
        None => return Err(Error::invalid("conflicting options: mac-address and the network mode")),
        Some(endpoint)
            if !version.before(44) && !matches!(&endpoint.mac_address, own if own.is_empty() || *own == wanted) =>
        {
            return Err(Error::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or \
                 be left empty",
            ));
        }
        Some(endpoint) => endpoint.mac_address = wanted,
    }
    let warning =
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.";
    Ok((!version.before(44)).then(|| warning.to_owned()))
}

/// `net.ipv4.conf.eth0.x` names an interface that is not there yet: up to 1.47 it moved to the endpoint.
fn interface_sysctls(spec: &mut ContainerSpec, version: ApiVersion) -> Result<Option<String>> {
    if matches!(spec.host.network_mode, NetworkMode::Host | NetworkMode::Container(_)) {
        return Ok(None);
    }
    let mut moved = Vec::new();
    for (key, value) in &spec.host.sysctls {
        let parts: Vec<&str> = key.splitn(5, '.').collect();
        let ["net", family, what, interface, rest] = parts.as_slice() else { continue };
        if !interface.starts_with("eth") {
            continue;
        }
        if !version.before(48) {
            return Err(Error::invalid(format!(
                "interface specific sysctl setting {key:?} must be supplied using driver option '{ENDPOINT_SYSCTLS}'"
            )));
        }
        if *interface != "eth0" {
            return Err(Error::invalid(format!(
                "unable to determine network endpoint for sysctl {key}, use driver option '{ENDPOINT_SYSCTLS}' to set \
                 per-interface sysctls"
            )));
        }
        moved.push((key.clone(), format!("net.{family}.{what}.IFNAME.{rest}={value}")));
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let keys: Vec<String> = moved.iter().map(|(key, _)| key.clone()).collect();
    let mut settings = moved.into_iter().map(|(_, setting)| setting).collect::<Vec<_>>().join(",");
    let warning = format!("Migrated sysctl {:?} to DriverOpts{{{ENDPOINT_SYSCTLS:?}:{settings:?}}}.", keys.join(","));
    let Some(endpoint) = main_endpoint(spec, version)? else {
        return Err(Error::invalid(format!("unable to find a network for sysctl {}", keys.join(","))));
    };
    // The endpoint's own come last, and so win.
    if let Some(own) = endpoint.driver_options.get(ENDPOINT_SYSCTLS) {
        settings = format!("{settings},{own}");
    }
    endpoint.driver_options.insert(ENDPOINT_SYSCTLS.to_owned(), settings);
    keys.iter().for_each(|key| drop(spec.host.sysctls.remove(key)));
    Ok(Some(warning))
}

fn empty_bindings(host: &HostConfig, version: ApiVersion) -> Option<String> {
    let empty: Vec<String> =
        host.port_bindings.iter().filter(|(_, list)| list.is_empty()).map(|(port, _)| port.to_string()).collect();
    (!empty.is_empty() && !version.before(52)).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Such bindings will be discarded in a \
             future version.",
            empty.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use crate::spec::create_body;
    use crate::version::ApiVersion;
    use berth_types::spec::{ContainerSpec, IpcMode};
    use serde_json::{Value, json};

    fn made(minor: u32, body: Value) -> Result<(ContainerSpec, Vec<String>), String> {
        let mut whole = json!({"Image": "a"});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        create_body(&whole, ApiVersion(minor)).map_err(|error| error.message)
    }

    fn host(host: Value) -> Value {
        json!({ "HostConfig": host })
    }

    /// Each version next to the one that changed something.
    #[test]
    fn an_older_version_means_what_it_meant() {
        let ipc = |minor| made(minor, host(json!({}))).unwrap().0.host.ipc_mode;
        assert_eq!((ipc(39), ipc(40)), (IpcMode::Shareable, IpcMode::Default));
        let console = |minor| made(minor, host(json!({"ConsoleSize": [3, 4]}))).unwrap().0.host.console_size;
        assert_eq!((console(41), console(42)), ((0, 0), (3, 4)));
        let notes = |minor| made(minor, host(json!({"Annotations": {"a": "b"}}))).unwrap().0.host.annotations.len();
        assert_eq!((notes(42), notes(43)), (0, 1));
        let check = json!({"Healthcheck": {"Test": ["CMD", "a"], "StartInterval": 7}});
        let start = |minor| made(minor, check.clone()).unwrap().0.config.healthcheck.unwrap().start_interval_nanos;
        assert_eq!((start(43), start(44)), (0, 7));
        let networks = json!({"NetworkingConfig": {"EndpointsConfig": {"x": {"GwPriority": 5}}}});
        let priority = |minor| made(minor, networks.clone()).unwrap().0.endpoints["x"].gateway_priority;
        assert_eq!((priority(47), priority(48)), (0, 5));
    }

    #[test]
    fn mounts_have_the_options_of_their_version() {
        let bind = |minor, options: Value| {
            let mount =
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": options});
            let mut spec = made(minor, host(json!({ "Mounts": [mount] }))).unwrap().0;
            spec.host.mounts.remove(0).bind.unwrap()
        };
        assert!(!bind(39, json!({"NonRecursive": true})).non_recursive);
        assert!(bind(40, json!({"NonRecursive": true})).non_recursive);
        assert!(!bind(41, json!({"CreateMountpoint": true})).create_mountpoint);
        assert!(bind(42, json!({"CreateMountpoint": true})).create_mountpoint);
        assert!(bind(43, json!({})).read_only_non_recursive);
        assert!(!bind(44, json!({})).read_only_non_recursive);
        let odd = host(
            json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "VolumeOptions": {"NoCopy": true}}]}),
        );
        assert!(made(41, odd.clone()).unwrap().0.host.mounts[0].volume.is_none());
        assert!(made(42, odd).unwrap().0.host.mounts[0].volume.is_some());
    }

    #[test]
    fn what_an_older_version_cannot_say_is_refused_to_it() {
        let cases = [
            (
                44,
                host(json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b",
                "BindOptions": {"ReadOnlyForceRecursive": true}}]})),
                "needs API v1.44",
            ),
            (
                45,
                host(json!({"Mounts": [{"Type": "volume", "Target": "/b", "VolumeOptions": {"Subpath": "x"}}]})),
                "needs API v1.45",
            ),
            (48, host(json!({"Mounts": [{"Type": "image", "Source": "a", "Target": "/b"}]})), "needs API v1.48"),
            (
                44,
                json!({"NetworkingConfig": {"EndpointsConfig": {"x": {}, "y": {}}}}),
                "multiple network endpoints: x, y",
            ),
        ];
        for (since, body, words) in cases {
            let error = made(since - 1, body.clone()).unwrap_err();
            assert!(error.contains(words), "{error}");
            assert!(made(since, body).is_ok(), "1.{since}: {words}");
        }
    }

    #[test]
    fn a_containers_hardware_address_moves_to_its_main_network() {
        let mac = "02:42:ac:11:00:09";
        let (spec, warnings) = made(43, json!({"MacAddress": mac})).unwrap();
        assert_eq!((spec.endpoints["bridge"].mac_address.as_str(), warnings.len()), (mac, 0));
        let (spec, warnings) = made(51, json!({"MacAddress": mac})).unwrap();
        assert_eq!(spec.endpoints["bridge"].mac_address, mac);
        assert!(warnings[0].contains("now deprecated"), "{warnings:?}");
        assert!(made(52, json!({"MacAddress": mac})).unwrap_err().contains("no longer supported"));
        let own = json!({"EndpointsConfig": {"bridge": {"MacAddress": "02:42:ac:11:00:0a"}}});
        assert!(made(51, json!({"MacAddress": mac, "NetworkingConfig": own})).unwrap_err().contains("must match"));
        assert_eq!(made(43, json!({"NetworkingConfig": own})).unwrap().0.endpoints["bridge"].mac_address, "");
        let elsewhere = json!({"MacAddress": mac, "NetworkingConfig": {"EndpointsConfig": {"x": {}}}});
        assert!(made(44, elsewhere.clone()).unwrap_err().contains("must match the identity"));
        assert_eq!(made(43, elsewhere).unwrap().0.endpoints["x"].mac_address, mac);
        assert!(made(51, json!({"MacAddress": mac, "HostConfig": {"NetworkMode": "host"}})).is_err());
    }

    #[test]
    fn sysctls_of_the_first_interface_move_to_the_endpoint() {
        let body = host(json!({"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1", "net.ipv4.ip_forward": "1"}}));
        let (spec, warnings) = made(47, body.clone()).unwrap();
        let moved = &spec.endpoints["bridge"].driver_options["com.docker.network.endpoint.sysctls"];
        assert_eq!(moved, "net.ipv4.conf.IFNAME.forwarding=1");
        assert_eq!(spec.host.sysctls.len(), 1);
        assert!(warnings[0].starts_with("Migrated sysctl"), "{warnings:?}");
        assert!(made(48, body).unwrap_err().contains("must be supplied using driver option"));
        let other = host(json!({"Sysctls": {"net.ipv4.conf.eth1.forwarding": "1"}}));
        assert!(made(47, other).unwrap_err().contains("unable to determine"));
    }

    #[test]
    fn warnings_come_with_the_version_that_has_them() {
        let ports = host(json!({"PortBindings": {"80/tcp": []}}));
        assert!(made(51, ports.clone()).unwrap().1.is_empty());
        assert!(made(52, ports).unwrap().1[0].contains("80/tcp"));
        let driver = host(json!({"VolumeDriver": "local", "Mounts": [{"Type": "volume", "Target": "/b"}]}));
        assert!(made(47, driver.clone()).unwrap().1.is_empty());
        assert!(made(48, driver).unwrap().1[0].contains("volume-driver"));
    }
}
