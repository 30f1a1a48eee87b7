//! A container in a list.

use crate::version::ApiVersion;
use berth_engine::containers::{MountPoint, StateWord, Summary};
use berth_engine::networks::Endpoint;
use berth_types::spec::{EndpointField, MountKind};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One entry of `GET /containers/json`.
pub(crate) fn render_summary(summary: &Summary, now_unix_nanos: i64, version: ApiVersion) -> Value {
    let mut value = json!({
        "Id": summary.id.to_string(),
        "Names": [format!("/{}", summary.name)],
        "Image": summary.image,
        "ImageID": summary.image_id.as_ref().map_or(String::new(), |id| id.to_string()),
        "Command": command(&summary.command),
        "Created": summary.created_unix_nanos / 1_000_000_000,
        "Ports": ports(summary),
    });
    if let Some(sizes) = summary.sizes {
        for (key, bytes) in [("SizeRw", sizes.written_bytes), ("SizeRootFs", sizes.all_bytes)] {
            if bytes != 0 {
                value[key] = json!(bytes);
            }
        }
    }
    let mut host = json!({"NetworkMode": summary.network_mode});
    if !version.before(46) && !summary.annotations.is_empty() {
        host["Annotations"] = json!(summary.annotations);
    }
    let rest = json!({
        "Labels": summary.labels,
        "State": summary.state.word().as_str(),
        "Status": summary.state.status_text(now_unix_nanos),
        "HostConfig": host,
        "NetworkSettings": {"Networks": endpoints(&summary.networks)},
        "Mounts": summary.mounts.iter().map(render_mount).collect::<Vec<_>>(),
    });
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest) {
        value.extend(rest);
    }
    if !version.before(52) {
        value["Health"] = health(summary);
    }
    value
}

/// `none` for those that have no check or do not run.
fn health(summary: &Summary) -> Value {
    let runs = matches!(summary.state.word(), StateWord::Running | StateWord::Paused);
    match summary.state.health.as_ref().filter(|_| runs) {
        Some(health) => json!({"Status": health.status, "FailingStreak": health.failing_streak}),
        None => json!({"Status": "none", "FailingStreak": 0}),
    }
}

/// Program and arguments as dockerd joins them: those with blanks quoted.
fn command(words: &[String]) -> String {
    let quoted = words.iter().enumerate().map(|(index, word)| match index > 0 && word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn ports(summary: &Summary) -> Vec<Value> {
    let mut ports = Vec::new();
    for (port, bindings) in &summary.network.ports {
        // 0: open at the container's own address, not at one of the host's.
        let published = bindings.iter().filter(|(_, public)| *public != 0);
        ports.extend(published.clone().map(|(address, public)| {
            json!({
                "IP": address.to_string(), "PrivatePort": port.port, "PublicPort": public,
                "Type": port.protocol.as_str(),
            })
        }));
        if published.count() == 0 && !bindings.is_empty() {
            ports.push(json!({"PrivatePort": port.port, "Type": port.protocol.as_str()}));
        }
    }
    // Shown once the container has a network to have them on.
    let joined = !summary.network.endpoints.is_empty();
    for port in summary.exposed_ports.iter().filter(|_| joined) {
        if summary.network.ports.get(port).is_none_or(Vec::is_empty) {
            ports.push(json!({"PrivatePort": port.port, "Type": port.protocol.as_str()}));
        }
    }
    ports
}

pub(crate) fn render_mount(mount: &MountPoint) -> Value {
    // In dockerd's order, which `docker inspect` prints.
    let mut value = json!({"Type": mount.kind.as_str()});
    if !mount.name.is_empty() {
        value["Name"] = json!(mount.name);
    }
    // Where the engine keeps a secret is nobody's business.
    let hidden = matches!(mount.kind, MountKind::Secret | MountKind::Config);
    value["Source"] = if hidden { json!("") } else { json!(mount.source) };
    value["Destination"] = json!(mount.target);
    if !mount.driver.is_empty() && !hidden {
        value["Driver"] = json!(mount.driver);
    }
    value["Mode"] = json!(mount.mode);
    value["RW"] = json!(mount.read_write);
    value["Propagation"] = json!(mount.propagation);
    value
}

/// `NetworkSettings.Networks`
pub(crate) fn endpoints(networks: &BTreeMap<String, Box<Endpoint>>) -> Map<String, Value> {
    networks.iter().map(|(name, endpoint)| (name.clone(), render_endpoint(name, endpoint))).collect()
}

fn render_endpoint(name: &str, endpoint: &Endpoint) -> Value {
    let text = |address: Option<String>| address.unwrap_or_default();
    let list = |list: &Vec<String>| if list.is_empty() { Value::Null } else { json!(list) };
    let spec = &endpoint.spec;
    // As the client said it: nothing, or that there is none.
    let absent = |field, empty: bool| empty && !spec.given_empty.contains(&field);
    let given = |field, list: &Vec<String>| if absent(field, list.is_empty()) { Value::Null } else { json!(list) };
    let no_address = spec.ipv4_address.is_none() && spec.ipv6_address.is_none() && spec.link_local_ips.is_empty();
    let ipam = match !absent(EndpointField::Addresses, no_address) {
        false => Value::Null,
        true => {
            let mut ipam = Map::new();
            if let Some(address) = spec.ipv4_address {
                ipam.insert("IPv4Address".to_owned(), json!(address));
            }
            if let Some(address) = spec.ipv6_address {
                ipam.insert("IPv6Address".to_owned(), json!(address));
            }
            if !spec.link_local_ips.is_empty() {
                ipam.insert("LinkLocalIPs".to_owned(), json!(spec.link_local_ips));
            }
            Value::Object(ipam)
        }
    };
    json!({
        "IPAMConfig": ipam,
        "Links": given(EndpointField::Links, &spec.links),
        "Aliases": given(EndpointField::Aliases, &endpoint.aliases),
        "MacAddress": endpoint.mac_address,
        "DriverOpts": match absent(EndpointField::DriverOptions, spec.driver_options.is_empty()) {
            true => Value::Null,
            false => json!(spec.driver_options),
        },
        "GwPriority": spec.gateway_priority,
        "NetworkID": endpoint.network_id.as_ref().map_or(String::new(), |id| id.to_string()),
        "EndpointID": endpoint.endpoint_id,
        "Gateway": text(endpoint.gateway.map(|a| a.to_string())),
        "IPAddress": text(endpoint.ipv4.map(|(a, _)| a.to_string())),
        "IPPrefixLen": endpoint.ipv4.map_or(0, |(_, bits)| bits),
        "IPv6Gateway": text(endpoint.ipv6_gateway.map(|a| a.to_string())),
        "GlobalIPv6Address": text(endpoint.ipv6.map(|(a, _)| a.to_string())),
        "GlobalIPv6PrefixLen": endpoint.ipv6.map_or(0, |(_, bits)| bits),
        // Networks that are always there have no names.
        "DNSNames": if matches!(name, "bridge" | "host" | "none") { Value::Null } else { list(&endpoint.dns_names) },
    })
}
