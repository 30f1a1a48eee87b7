//! `/info`, `/version`, `/_ping`.

use crate::error::ApiResult;
use crate::json::Json;
use crate::version::{ApiVersion, CURRENT, OLDEST};
use axum::extract::State;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::events::now_unix_nanos;
use berth_engine::system::Info;
use serde_json::{Value, json};

pub(crate) fn router() -> Router<Engine> {
    Router::new().route("/_ping", get(ping).head(ping)).route("/version", get(version)).route("/info", get(info))
}

/// `GET` and `HEAD /_ping`
async fn ping(method: Method) -> Response {
    let text = if method == Method::HEAD { "" } else { "OK" };
    let head = [
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        ("builder-version", "2"),
        ("swarm", "inactive"),
        ("content-type", "text/plain; charset=utf-8"),
    ];
    (head, text).into_response()
}

/// `GET /version`
async fn version(State(engine): State<Engine>) -> Json<Value> {
    let version = engine.system().version();
    let details = json!({
        "ApiVersion": CURRENT.to_string(), "Arch": go_arch(&version.architecture), "BuildTime": version.build_time,
        "Experimental": "false", "GitCommit": version.commit, "GoVersion": "", "KernelVersion": version.kernel_version,
        "MinAPIVersion": OLDEST.to_string(), "Os": "linux",
    });
    Json(json!({
        "Platform": {"Name": "Berth Engine"},
        "Components": [{"Name": "Engine", "Version": version.version, "Details": details}],
        "Version": version.version, "ApiVersion": CURRENT.to_string(), "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": version.commit, "GoVersion": "", "Os": "linux", "Arch": go_arch(&version.architecture),
        "KernelVersion": version.kernel_version, "BuildTime": version.build_time,
    }))
}

/// Go's name of an architecture.
fn go_arch(machine: &str) -> &str {
    match machine {
        "" => match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `GET /info`
async fn info(State(engine): State<Engine>, Extension(version): Extension<ApiVersion>) -> ApiResult {
    let info = engine.system().info().await?;
    let mut value = render(&info, &crate::images::registry_config(&engine));
    value["Runtimes"]["vm"]["status"] = json!(engine.kernels().acceleration());
    let default = &engine.config().default_runtime;
    if !default.is_empty() {
        value["DefaultRuntime"] = json!(default);
    }
    Ok(Json(for_version(value, version)).into_response())
}

/// Older clients get fields that newer versions dropped; dockerd then sorts the keys.
fn for_version(mut value: Value, version: ApiVersion) -> Value {
    let Value::Object(map) = &mut value else { return value };
    if version.0 >= 50 {
        return value;
    }
    map.remove("FirewallBackend");
    map.insert("BridgeNfIptables".to_owned(), json!(false));
    map.insert("BridgeNfIp6tables".to_owned(), json!(false));
    if version.0 < 49 {
        for key in ["AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"] {
            map["RegistryConfig"][key] = Value::Null;
        }
        for key in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            map[key]["Expected"] = map[key]["ID"].clone();
        }
    }
    if version.0 < 42 {
        map.insert("KernelMemory".to_owned(), json!(false));
    }
    if version.0 < 25 {
        // `name=seccomp,profile=builtin` was `seccomp`.
        let short = |option: &Value| {
            let name = option.as_str().unwrap_or("").split(',').next().unwrap_or("");
            json!(name.strip_prefix("name=").unwrap_or(name))
        };
        let list: Vec<Value> =
            map["SecurityOptions"].as_array().map(|list| list.iter().map(short).collect()).unwrap_or_default();
        map["SecurityOptions"] = Value::Array(list);
    }
    value.sort_all_objects();
    value
}

fn render(info: &Info, registries: &Value) -> Value {
    let mut value = json!({
        "ID": info.id, "Containers": info.containers, "ContainersRunning": info.running,
        "ContainersPaused": info.paused, "ContainersStopped": info.stopped, "Images": info.images,
        "Driver": info.storage_driver,
        "DriverStatus": info.storage_status.iter().map(|(key, text)| json!([key, text])).collect::<Vec<_>>(),
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "macvlan", "null"], "Authorization": null,
            "Log": ["json-file", "local", "none"],
        },
        "MemoryLimit": info.memory_limit, "SwapLimit": info.swap_limit, "CpuCfsPeriod": info.cpu_cfs,
        "CpuCfsQuota": info.cpu_cfs, "CPUShares": info.cpu_shares, "CPUSet": info.cpuset,
        "PidsLimit": info.pids_limit, "IPv4Forwarding": info.ipv4_forwarding, "Debug": false,
        "NFd": info.open_descriptors, "OomKillDisable": info.oom_kill_disable,
        "NGoroutines": 0, "SystemTime": crate::time::rfc3339(now_unix_nanos()), "LoggingDriver": info.default_log_driver,
        "CgroupDriver": info.cgroup_driver, "CgroupVersion": info.cgroup_version, "NEventsListener": info.event_listeners,
        "KernelVersion": info.kernel_version, "OperatingSystem": info.operating_system, "OSVersion": info.os_version,
        "OSType": "linux", "Architecture": info.architecture, "IndexServerAddress": "https://index.docker.io/v1/",
    });
    let rest = json!({
        "RegistryConfig": registries,
        "NCPU": info.cpus, "MemTotal": info.memory_bytes, "GenericResources": null, "DockerRootDir": info.data_root,
        "HttpProxy": info.http_proxy, "HttpsProxy": info.https_proxy, "NoProxy": info.no_proxy, "Name": info.hostname,
        "Labels": info.labels, "ExperimentalBuild": false, "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Runtimes": {"runc": {"path": "berth-shim"}, "vm": {"path": "berth-vmm"}}, "DefaultRuntime": "runc",
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "berth-shim",
        "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
        "SecurityOptions": info.security_options, "FirewallBackend": {"Driver": "nftables"}, "CDISpecDirs": [],
        "Warnings": if info.warnings.is_empty() { Value::Null } else { json!(info.warnings) },
    });
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest) {
        value.extend(rest);
    }
    value
}
