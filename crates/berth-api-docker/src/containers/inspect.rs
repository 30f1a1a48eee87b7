//! Everything about one container: inspect, top, why.

use super::summary::{endpoints, render_mount};
use crate::error::ApiResult;
use crate::params::Params;
use crate::spec;
use crate::time::rfc3339;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use berth_engine::Engine;
use berth_engine::containers::{Inspect, State as ContainerState, StateWord, Why};
use berth_engine::networks::Endpoint;
use berth_types::mount::Rootfs;
use serde_json::{Map, Value, json};

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/top", get(top))
        .route("/api/v1/containers/{id}/why", get(why))
}

/// `GET /containers/{id}/json`
async fn inspect(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<Json<Value>> {
    Ok(Json(render(&engine.containers().inspect(&id, params.flag("size")).await?)))
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

fn network_settings(inspect: &Inspect) -> Value {
    let mut ports: Map<String, Value> = inspect
        .network
        .ports
        .iter()
        .map(|(port, bindings)| {
            let list: Vec<Value> = bindings
                .iter()
                .map(|(address, number)| json!({"HostIp": address.to_string(), "HostPort": number.to_string()}))
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
    let empty = Endpoint::default();
    // The old fields show the default bridge's endpoint only.
    let bridge = inspect.network.endpoints.get("bridge").unwrap_or(&empty);
    let text = |address: Option<String>| address.unwrap_or_default();
    json!({
        "Bridge": "", "SandboxID": if inspect.network.netns.as_os_str().is_empty() { "" } else { inspect.id.as_str() },
        "SandboxKey": inspect.network.netns, "Ports": ports, "HairpinMode": false, "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id, "Gateway": text(bridge.gateway.map(|a| a.to_string())),
        "GlobalIPv6Address": text(bridge.ipv6.map(|(a, _)| a.to_string())),
        "GlobalIPv6PrefixLen": bridge.ipv6.map_or(0, |(_, bits)| bits),
        "IPAddress": text(bridge.ipv4.map(|(a, _)| a.to_string())),
        "IPPrefixLen": bridge.ipv4.map_or(0, |(_, bits)| bits),
        "IPv6Gateway": text(bridge.ipv6_gateway.map(|a| a.to_string())), "MacAddress": bridge.mac_address,
        "Networks": endpoints(&inspect.networks),
    })
}

fn render(inspect: &Inspect) -> Value {
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
    if let Some(bytes) = inspect.size_rw_bytes {
        value["SizeRw"] = json!(bytes);
    }
    if let Some(bytes) = inspect.size_root_bytes {
        value["SizeRootFs"] = json!(bytes);
    }
    let rest = json!({
        "Mounts": inspect.mounts.iter().map(render_mount).collect::<Vec<_>>(),
        "Config": spec::config(&inspect.spec.config), "NetworkSettings": network_settings(inspect),
    });
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest) {
        value.extend(rest);
    }
    value
}
