//! The plain model of a compose file, as the plugin writes it: what it asks of the host, what it takes, its labels.

use crate::identity::projects::LABEL;
use crate::quota::Need;
use crate::schema::answers;
use berth_types::{Error, Result};
use serde_json::{Map, Value};

answers! {
    /// A service of a compose file.
    ServiceView {
        name: String,
        image: String,
        replicas: u64,
        /// Services that it waits for.
        depends_on: Vec<String>,
        /// It says how its health is asked for.
        health: bool,
    }
}

/// What anybody may ask for; everything else amounts to more than an operator may, or is not known to amount to less.
const PLAIN: &[&str] = &[
    "attach",
    "cap_drop",
    "command",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_shares",
    "cpus",
    "cpuset",
    "depends_on",
    "deploy",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "environment",
    "expose",
    "extra_hosts",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "isolation",
    "labels",
    "links",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "network_mode",
    "networks",
    "oom_score_adj",
    "pids_limit",
    "platform",
    "ports",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "scale",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "volumes",
    "working_dir",
    "configs",
    "secrets",
];

fn object(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Numbers come as numbers or as texts.
fn number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::String(text)) => text.parse().unwrap_or(0.0),
        Some(value) => value.as_f64().unwrap_or(0.0),
        None => 0.0,
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// What in the model only an administrator may ask for.
pub(crate) fn beyond(model: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in object(Some(model)) {
        if !matches!(key.as_str(), "name" | "services" | "networks" | "volumes" | "configs" | "secrets")
            && !empty(value)
        {
            all.push(key.clone());
        }
    }
    for (name, service) in object(model.get("services")) {
        for (key, value) in object(Some(service)) {
            if !PLAIN.contains(&key.as_str()) && !empty(value) {
                all.push(format!("{name}: {key}"));
            }
        }
        if !matches!(text(service, "network_mode"), "" | "none") {
            all.push(format!("{name}: network_mode {}", text(service, "network_mode")));
        }
        for mount in list(service.get("volumes")) {
            if !matches!(text(mount, "type"), "volume" | "tmpfs") {
                all.push(format!("{name}: {} {}", text(mount, "type"), text(mount, "source")));
            }
        }
        let resources = service.pointer("/deploy/resources/reservations");
        if resources.and_then(|one| one.get("devices")).is_some_and(|devices| !empty(devices)) {
            all.push(format!("{name}: devices"));
        }
    }
    for (name, volume) in object(model.get("volumes")) {
        let driver = text(volume, "driver");
        if !matches!(driver, "" | "local") || volume.get("driver_opts").is_some_and(|options| !empty(options)) {
            all.push(format!("volume {name}: driver options"));
        }
    }
    for (name, network) in object(model.get("networks")) {
        let driver = text(network, "driver");
        if !matches!(driver, "" | "bridge") || network.get("driver_opts").is_some_and(|options| !empty(options)) {
            all.push(format!("network {name}: driver options"));
        }
    }
    for kind in ["configs", "secrets"] {
        for (name, one) in object(model.get(kind)) {
            if one.get("content").is_none() {
                all.push(format!("{kind} {name}: what is not written in the file itself"));
            }
        }
    }
    all
}

/// Names of volumes (`volumes`) or networks (`networks`) as the engine knows them.
pub(crate) fn names(model: &Value, kind: &str) -> Vec<String> {
    let name = |(key, one): (&String, &Value)| match text(one, "name") {
        "" => key.clone(),
        name => name.to_owned(),
    };
    object(model.get(kind)).map(name).collect()
}

pub(crate) fn replicas(service: &Value) -> u64 {
    let said = service.get("scale").or_else(|| service.pointer("/deploy/replicas"));
    said.map_or(1.0, |value| number(Some(value))) as u64
}

/// What each instance of it takes.
pub(crate) fn needs(model: &Value) -> Vec<Need> {
    let mut all = Vec::new();
    for (_, service) in object(model.get("services")) {
        let limit = |key: &str| service.pointer(&format!("/deploy/resources/limits/{key}"));
        let need = Need {
            instances: 1,
            cpus: number(service.get("cpus").or_else(|| limit("cpus"))),
            memory_bytes: number(service.get("mem_limit").or_else(|| limit("memory"))) as u64,
            disk_bytes: 0,
        };
        let count = replicas(service);
        if count > 1 {
            // One stands for all: their number is the caller's and may be huge.
            let many = count as f64;
            let memory_bytes = need.memory_bytes.saturating_mul(count);
            all.push(Need { instances: count, cpus: need.cpus * many, memory_bytes, disk_bytes: 0 });
        } else if count == 1 {
            all.push(need);
        }
    }
    all
}

/// Marks all that comes from the model as the project's.
pub(crate) fn label(model: &mut Value, project: &str) -> Result<()> {
    let odd = || Error::invalid("labels of a compose file are names with values");
    let mark = |holder: &mut Value| -> Result<()> {
        if holder.is_null() {
            *holder = Value::Object(Map::new());
        }
        let labels =
            holder.as_object_mut().ok_or_else(odd)?.entry("labels").or_insert_with(|| Value::Object(Map::new()));
        labels.as_object_mut().ok_or_else(odd)?.insert(LABEL.to_owned(), project.into());
        Ok(())
    };
    for (kind, external) in [("services", false), ("volumes", true), ("networks", true)] {
        let all = model.get_mut(kind).and_then(Value::as_object_mut).into_iter().flatten();
        for (_, one) in all {
            // What is there already keeps its labels.
            if external && one.get("external") == Some(&Value::Bool(true)) {
                continue;
            }
            mark(one)?;
        }
    }
    Ok(())
}

/// No text says its own project: the label decides who sees it.
pub(crate) fn labelled(model: &Value) -> bool {
    let kinds = ["services", "volumes", "networks"];
    let mut all = kinds.into_iter().flat_map(|kind| object(model.get(kind)));
    all.any(|(_, one)| one.get("labels").and_then(|labels| labels.get(LABEL)).is_some())
}

pub(crate) fn services(model: &Value) -> Vec<ServiceView> {
    let mut all: Vec<ServiceView> = object(model.get("services"))
        .map(|(name, service)| ServiceView {
            name: name.clone(),
            image: text(service, "image").to_owned(),
            replicas: replicas(service),
            depends_on: object(service.get("depends_on")).map(|(name, _)| name.clone()).collect(),
            health: service.get("healthcheck").is_some_and(|health| !empty(health)),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Services, each after those that it waits for.
pub(crate) fn in_order(services: &[ServiceView]) -> Vec<String> {
    let mut order: Vec<String> = Vec::with_capacity(services.len());
    let mut left: Vec<&ServiceView> = services.iter().collect();
    while !left.is_empty() {
        let known = |name: &String| order.contains(name) || !services.iter().any(|one| one.name == *name);
        let (ready, waiting): (Vec<&ServiceView>, Vec<&ServiceView>) =
            left.iter().partition(|one| one.depends_on.iter().all(known));
        // A circle: the plugin refuses it, and here it must only end.
        let next = if ready.is_empty() { waiting.clone() } else { ready.clone() };
        order.extend(next.into_iter().map(|one| one.name.clone()));
        left = if ready.is_empty() { Vec::new() } else { waiting };
    }
    order
}

/// Two of it can run side by side: nothing that only one can have.
pub(crate) fn can_overlap(service: &Value) -> bool {
    let fixed = list(service.get("ports")).any(|port| !matches!(text(port, "published"), "" | "0"));
    let addressed = object(service.get("networks"))
        .any(|(_, one)| !text(one, "ipv4_address").is_empty() || !text(one, "ipv6_address").is_empty());
    text(service, "container_name").is_empty() && !fixed && !addressed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_reaches_the_host_is_an_administrators() {
        let plain = json!({"name": "x", "services": {"web": {"image": "a", "command": null, "networks": {"default": null},
            "volumes": [{"type": "volume", "source": "d", "target": "/d"}], "privileged": false}},
            "networks": {"default": {"name": "x_default", "ipam": {}}}, "volumes": {"d": {"name": "x_d"}}});
        assert_eq!(beyond(&plain), Vec::<String>::new());
        for (bad, why) in [
            (json!({"services": {"w": {"privileged": true}}}), "w: privileged"),
            (json!({"services": {"w": {"volumes": [{"type": "bind", "source": "/", "target": "/h"}]}}}), "w: bind /"),
            (json!({"services": {"w": {"network_mode": "host"}}}), "w: network_mode host"),
            (json!({"services": {"w": {"build": {"context": "/"}}}}), "w: build"),
            (json!({"services": {"w": {"provider": {"type": "rm"}}}}), "w: provider"),
            (json!({"services": {"w": {"post_start": [{"command": ["x"]}]}}}), "w: post_start"),
            (json!({"services": {"w": {"deploy": {"resources": {"reservations": {"devices": [{}]}}}}}}), "w: devices"),
            (json!({"volumes": {"v": {"driver_opts": {"device": "/etc", "o": "bind"}}}}), "volume v: driver options"),
            (json!({"secrets": {"s": {"file": "/etc/shadow"}}}), "secrets s: what is not written in the file itself"),
            (json!({"x": {"y": 1}}), "x"),
        ] {
            assert_eq!(beyond(&bad), [why], "{bad}");
        }
    }

    #[test]
    fn limits_of_all_replicas_are_counted() {
        let model = json!({"services": {
            "a": {"cpus": 0.5, "mem_limit": "100", "scale": 3},
            "b": {"deploy": {"replicas": 2, "resources": {"limits": {"cpus": "0.25", "memory": "10"}}}},
            "c": {"scale": 0}, "d": {}}});
        let needs = needs(&model);
        assert_eq!(needs.iter().map(|one| one.instances).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!((needs[0].cpus, needs[0].memory_bytes, needs[1].cpus, needs[1].memory_bytes), (1.5, 300, 0.5, 20));
        assert_eq!(needs[2].cpus, 0.0);
    }

    #[test]
    fn everything_gets_its_projects_label_and_nothing_else_changes() {
        let mut model = json!({"services": {"w": {"image": "a", "labels": {"k": "v"}}}, "networks": {"default": null},
            "volumes": {"mine": {}, "theirs": {"external": true}}});
        assert!(!labelled(&model));
        label(&mut model, "shop").unwrap();
        assert_eq!(model["services"]["w"]["labels"], json!({"k": "v", "berth.project": "shop"}));
        assert_eq!(model["networks"]["default"]["labels"][LABEL], "shop");
        assert!(model["volumes"]["theirs"].get("labels").is_none() && labelled(&model));
    }

    #[test]
    fn services_come_after_what_they_wait_for() {
        let model = json!({"services": {"web": {"depends_on": {"app": {}}}, "app": {"depends_on": {"db": {}, "gone": {}}}, "db": {}}});
        assert_eq!(in_order(&services(&model)), ["db", "app", "web"]);
        let circle = json!({"services": {"a": {"depends_on": {"b": {}}}, "b": {"depends_on": {"a": {}}}}});
        assert_eq!(in_order(&services(&circle)).len(), 2);
    }

    #[test]
    fn two_with_one_port_cannot_run_side_by_side() {
        assert!(can_overlap(&json!({"ports": [{"target": 80}], "networks": {"default": null}})));
        assert!(!can_overlap(&json!({"ports": [{"target": 80, "published": "8080"}]})));
        assert!(!can_overlap(&json!({"container_name": "one"})));
    }
}
