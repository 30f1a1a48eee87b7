//! Images as the API's JSON shows them.

use crate::time::{NEVER, rfc3339};
use crate::version::ApiVersion;
use berth_engine::images::{HistoryEntry, Inspect, Removed, Summary};
use berth_types::ImageName;
use berth_types::mount::Rootfs;
use berth_types::spec::Config;
use serde_json::{Value, json};

fn seconds(unix_nanos: i64) -> i64 {
    unix_nanos.div_euclid(1_000_000_000)
}

pub(crate) fn summary(image: &Summary, version: ApiVersion) -> Value {
    let untagged = image.repo_tags.is_empty() && image.repo_digests.is_empty();
    let list = |names: &[String]| match names.is_empty() && version.0 < 43 {
        true => Value::Null,
        false => json!(names),
    };
    let (tags, digests) = match untagged && version.0 < 43 {
        true => (json!(["<none>:<none>"]), json!(["<none>@<none>"])),
        false => (list(&image.repo_tags), list(&image.repo_digests)),
    };
    let size = i64::try_from(image.size_bytes).unwrap_or(i64::MAX);
    let number = |count: Option<u64>| count.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
    let mut value = json!({
        "Containers": number(image.containers), "Created": seconds(image.created_unix_nanos), "Id": image.id,
        "Labels": if image.labels.is_empty() { Value::Null } else { json!(image.labels) },
        "ParentId": image.parent.map_or(String::new(), |parent| parent.to_string()),
        "RepoDigests": digests, "RepoTags": tags, "SharedSize": number(image.shared_size_bytes), "Size": size,
    });
    if version.0 < 44 {
        value["VirtualSize"] = json!(size);
    }
    value
}

pub(super) fn inspect(image: &Inspect, version: ApiVersion) -> Value {
    let created = match image.created_unix_nanos {
        0 if version.0 < 44 => NEVER.to_owned(),
        0 => String::new(),
        nanos => rfc3339(nanos),
    };
    let text = |text: &str| if text.is_empty() { None } else { Some(json!(text)) };
    // Since 1.52 left out where empty.
    let filled = |text: &str| if text.is_empty() && !version.before(52) { None } else { Some(json!(text)) };
    let old = |before: u32, value: Value| (version.0 < before).then_some(value);
    // In dockerd's order, which `docker inspect` shows as it comes.
    let fields = [
        ("Id", Some(json!(image.id))),
        ("RepoTags", Some(json!(image.repo_tags))),
        ("RepoDigests", Some(json!(image.repo_digests))),
        ("Identity", if version.before(53) { None } else { identity(image) }),
        ("Parent", filled(&image.parent.map_or(String::new(), |parent| parent.to_string()))),
        ("Comment", filled(&image.comment)),
        ("Created", text(&created)),
        ("Container", old(45, json!(""))),
        ("ContainerConfig", old(45, config(&Config::default(), version))),
        ("DockerVersion", filled(&image.docker_version)),
        ("Author", filled(&image.author)),
        ("Architecture", Some(json!(image.architecture))),
        ("Variant", text(&image.variant)),
        ("Os", Some(json!(image.os))),
        ("OsVersion", text(&image.os_version)),
        ("Size", Some(json!(image.size_bytes))),
        ("VirtualSize", old(44, json!(image.size_bytes))),
        ("GraphDriver", Some(graph_driver(&image.rootfs))),
        ("RootFS", Some(json!({"Type": "layers", "Layers": image.layers}))),
        ("Metadata", Some(json!({"LastTagTime": rfc3339(image.last_tagged_unix_nanos)}))),
        ("Config", Some(config(&image.config, version))),
    ];
    Value::Object(fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

/// Where it came from: the repositories that it was pulled from or pushed to.
fn identity(image: &Inspect) -> Option<Value> {
    let mut repositories: Vec<String> = image
        .repo_digests
        .iter()
        .filter_map(|name| name.parse::<ImageName>().ok())
        .map(|name| format!("{}/{}", name.domain(), name.path()))
        .collect();
    repositories.sort();
    repositories.dedup();
    let pull: Vec<Value> = repositories.into_iter().map(|name| json!({"Repository": name})).collect();
    (!pull.is_empty()).then(|| json!({ "Pull": pull }))
}

/// Since 1.50 only what an image can say; before, the whole of a container's configuration. Since 1.52 what it does
/// not say is left out.
fn config(config: &Config, version: ApiVersion) -> Value {
    let mut value = crate::spec::config(config);
    for (key, empty) in [("Env", config.env.is_empty()), ("Labels", config.labels.is_empty())] {
        if empty {
            value[key] = Value::Null;
        }
    }
    let Value::Object(map) = value else { return value };
    let container_only = [
        "AttachStderr",
        "AttachStdin",
        "AttachStdout",
        "Domainname",
        "Hostname",
        "Image",
        "NetworkDisabled",
        "OpenStdin",
        "StdinOnce",
        "StopTimeout",
        "Tty",
    ];
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    // dockerd sorts the keys here.
    let sorted: std::collections::BTreeMap<String, Value> = map
        .into_iter()
        .filter(|(key, _)| version.before(50) || !container_only.contains(&key.as_str()))
        .filter(|(key, value)| version.before(52) || key == "Healthcheck" || !empty(value))
        .collect();
    Value::Object(sorted.into_iter().collect())
}

pub(crate) fn graph_driver(rootfs: &Rootfs) -> Value {
    match rootfs {
        Rootfs::Directory { path } => json!({"Data": {"UpperDir": path}, "Name": "overlay2"}),
        Rootfs::Overlay(overlay) => {
            let join = |layers: &[berth_types::mount::Lower]| {
                layers.iter().map(|layer| layer.path().to_string_lossy()).collect::<Vec<_>>().join(":")
            };
            let mut data = json!({});
            match &overlay.upper {
                Some(upper) => {
                    data["LowerDir"] = json!(join(&overlay.lower));
                    data["MergedDir"] = json!(upper.upper.parent().map(|folder| folder.join("merged")));
                    data["UpperDir"] = json!(upper.upper);
                    data["WorkDir"] = json!(upper.work);
                }
                None => {
                    let folder = overlay.lower.first().and_then(|top| top.path().parent());
                    if overlay.lower.len() > 1 {
                        data["LowerDir"] = json!(join(&overlay.lower[1..]));
                    }
                    data["MergedDir"] = json!(folder.map(|folder| folder.join("merged")));
                    data["UpperDir"] = json!(overlay.lower.first().map(berth_types::mount::Lower::path));
                    data["WorkDir"] = json!(folder.map(|folder| folder.join("work")));
                }
            }
            json!({"Data": data, "Name": "overlay2"})
        }
    }
}

pub(super) fn history(entry: &HistoryEntry) -> Value {
    json!({
        "Comment": entry.comment, "Created": seconds(entry.created_unix_nanos), "CreatedBy": entry.created_by,
        "Id": entry.id.map_or("<missing>".to_owned(), |id| id.to_string()), "Size": entry.size_bytes,
        "Tags": if entry.tags.is_empty() { Value::Null } else { json!(entry.tags) },
    })
}

pub(super) fn removed(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(id) => json!({ "Deleted": id }),
    }
}
