//! Everything about one container: inspect, top, why.

use super::summary::{endpoints, render_mount};
use crate::error::ApiResult;
use crate::json::Json;
use crate::params::Params;
use crate::spec;
use crate::time::rfc3339;
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{Inspect, State as ContainerState, StateWord, Why};
use berth_engine::networks::Endpoint;
use berth_types::mount::Rootfs;
use berth_types::spec::NetworkMode;
use serde_json::{Map, Value, json};

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/top", get(top))
        .route("/api/v1/containers/{id}/why", get(why))
}

/// `GET /containers/{id}/json`
async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Json<Value>> {
    Ok(Json(render(&engine.containers().inspect(&id, params.flag("size")).await?, version)))
}

/// `GET /containers/{id}/top`
async fn top(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<Json<Value>> {
    let top = engine.containers().top(&id, params.get("ps_args").unwrap_or("")).await?;
    Ok(Json(json!({"Processes": top.processes, "Titles": top.titles})))
}

/// `GET /api/v1/containers/{id}/why`: ours; Docker has no word for it.
async fn why(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Json<Why>> {
    Ok(Json(engine.containers().why(&id).await?))
}

fn state(state: &ContainerState) -> Value {
    let word = state.word();
    let mut value = json!({
        "Status": word.as_str(),
        "Running": matches!(word, StateWord::Running | StateWord::Paused | StateWord::Restarting),
        "Paused": word == StateWord::Paused, "Restarting": word == StateWord::Restarting,
        "OOMKilled": state.oom_killed, "Dead": state.dead, "Pid": state.pid(), "ExitCode": state.exit_code,
        "Error": state.error, "StartedAt": rfc3339(state.started_unix_nanos),
        "FinishedAt": rfc3339(state.finished_unix_nanos),
    });
    if state.template {
        value["Template"] = json!(true);
    }
    if let Some(health) = &state.health {
        let log: Vec<Value> = health
            .log
            .iter()
            .map(|probe| {
                json!({
                    "Start": rfc3339(probe.started_unix_nanos), "End": rfc3339(probe.finished_unix_nanos),
                    "ExitCode": probe.exit_code, "Output": probe.output,
                })
            })
            .collect();
        value["Health"] = json!({"Status": health.status, "FailingStreak": health.failing_streak, "Log": log});
    }
    value
}

fn graph_driver(rootfs: Option<&Rootfs>) -> Value {
    match rootfs {
        Some(Rootfs::Overlay(overlay)) => {
            let lower: Vec<String> = overlay.lower.iter().map(|lower| lower.path().display().to_string()).collect();
            let mut data = json!({"LowerDir": lower.join(":")});
            if let Some(upper) = &overlay.upper {
                data["UpperDir"] = json!(upper.upper);
                data["WorkDir"] = json!(upper.work);
            }
            json!({"Data": data, "Name": "overlay2"})
        }
        Some(Rootfs::Directory { path }) => json!({"Data": {"Dir": path}, "Name": "directory"}),
        None => json!({"Data": null, "Name": "overlay2"}),
    }
}

fn network_settings(inspect: &Inspect, version: ApiVersion) -> Value {
    let mut ports: Map<String, Value> = inspect
        .network
        .ports
        .iter()
        .map(|(port, bindings)| {
            // 0: open at the container's own address, not at one of the host's.
            let text = |number: u16| if number == 0 { String::new() } else { number.to_string() };
            let list: Vec<Value> = bindings
                .iter()
                .map(|&(address, number)| json!({"HostIp": address.to_string(), "HostPort": text(number)}))
                .collect();
            (port.to_string(), if list.is_empty() { Value::Null } else { json!(list) })
        })
        .collect();
    if !inspect.network.endpoints.is_empty() {
        for port in &inspect.spec.config.exposed_ports {
            ports.entry(port.to_string()).or_insert(Value::Null);
        }
        ports.sort_keys();
    }
    // Good whatever becomes of the engine; of one that does not run there is none.
    let (sandbox, key) = match inspect.state.pid() {
        pid if pid == 0 || inspect.spec.config.network_disabled => ("", String::new()),
        pid => (inspect.id.as_str(), format!("/proc/{pid}/ns/net")),
    };
    let networks = networks(inspect, version);
    if !version.before(52) {
        return json!({
            "SandboxID": sandbox, "SandboxKey": key, "Ports": ports, "Networks": networks,
        });
    }
    let empty = Endpoint::default();
    // The old fields show the default bridge's endpoint only.
    let bridge = inspect.network.endpoints.get("bridge").map_or(&empty, |endpoint| &**endpoint);
    let text = |address: Option<String>| address.unwrap_or_default();
    json!({
        "Bridge": "", "SandboxID": sandbox,
        "SandboxKey": key, "Ports": ports, "HairpinMode": false, "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id, "Gateway": text(bridge.gateway.map(|a| a.to_string())),
        "GlobalIPv6Address": text(bridge.ipv6.map(|(a, _)| a.to_string())),
        "GlobalIPv6PrefixLen": bridge.ipv6.map_or(0, |(_, bits)| bits),
        "IPAddress": text(bridge.ipv4.map(|(a, _)| a.to_string())),
        "IPPrefixLen": bridge.ipv4.map_or(0, |(_, bits)| bits),
        "IPv6Gateway": text(bridge.ipv6_gateway.map(|a| a.to_string())), "MacAddress": bridge.mac_address,
        "Networks": networks,
    })
}

/// Before 1.45 the short id and the host name stood among the aliases.
fn networks(inspect: &Inspect, version: ApiVersion) -> Map<String, Value> {
    let mut all = endpoints(&inspect.networks);
    if !version.before(45) {
        return all;
    }
    for (name, endpoint) in &mut all {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let mut aliases: Vec<String> = serde_json::from_value(endpoint["Aliases"].take()).unwrap_or_default();
        for alias in [inspect.id.short(), &inspect.spec.config.hostname] {
            if !alias.is_empty() && !aliases.iter().any(|known| known == alias) {
                aliases.push(alias.to_owned());
            }
        }
        endpoint["Aliases"] = json!(aliases);
    }
    all
}

/// `Config`; up to 1.51 with the hardware address of the network that the container starts on.
fn config(inspect: &Inspect, version: ApiVersion) -> Value {
    let mut config = spec::config(&inspect.spec.config);
    let Value::Object(map) = &mut config else { return config };
    if !version.before(52) {
        if inspect.spec.config.on_build.as_ref().is_none_or(Vec::is_empty) {
            map.shift_remove("OnBuild");
        }
        return config;
    }
    let primary = match &inspect.spec.host.network_mode {
        NetworkMode::Default => "bridge",
        NetworkMode::Named(name) => name,
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => return config,
    };
    if let Some(wanted) = inspect.networks.get(primary).filter(|endpoint| !endpoint.spec.mac_address.is_empty()) {
        map.insert("MacAddress".to_owned(), json!(wanted.spec.mac_address));
    }
    config
}

fn render(inspect: &Inspect, version: ApiVersion) -> Value {
    let execs: Vec<String> = inspect.exec_ids.iter().map(|id| id.to_string()).collect();
    let mut value = json!({
        "Id": inspect.id.to_string(), "Created": rfc3339(inspect.created_unix_nanos), "Path": inspect.path,
        "Args": inspect.args, "State": state(&inspect.state),
        "Image": inspect.image_id.as_ref().map_or(String::new(), |id| id.to_string()),
        "ResolvConfPath": inspect.resolv_conf_path, "HostnamePath": inspect.hostname_path,
        "HostsPath": inspect.hosts_path, "LogPath": inspect.log_path, "Name": format!("/{}", inspect.name),
        "RestartCount": inspect.restart_count, "Driver": "overlay2", "Platform": inspect.platform.split('/').next().unwrap_or_default(), "MountLabel": "",
        "ProcessLabel": "", "AppArmorProfile": inspect.app_armor_profile,
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": spec::host_config(&inspect.spec.host), "GraphDriver": graph_driver(inspect.rootfs.as_ref()),
    });
    if let Some(sizes) = inspect.sizes {
        value["SizeRw"] = json!(sizes.written_bytes);
        value["SizeRootFs"] = json!(sizes.all_bytes);
    }
    let rest = json!({
        "Mounts": inspect.mounts.iter().map(render_mount).collect::<Vec<_>>(),
        "Config": config(inspect, version), "NetworkSettings": network_settings(inspect, version),
    });
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest) {
        value.extend(rest);
    }
    value
}
