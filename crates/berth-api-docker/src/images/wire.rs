//! Images as the API's JSON shows them.

use crate::time::{NEVER, rfc3339};
use crate::version::ApiVersion;
use berth_engine::images::{DiskUsage, HistoryEntry, Inspect, Removed, Summary};
use berth_types::mount::Rootfs;
use berth_types::spec::Config;
use serde_json::{Value, json};

fn seconds(unix_nanos: i64) -> i64 {
    unix_nanos.div_euclid(1_000_000_000)
}

pub(super) fn summary(image: &Summary, version: ApiVersion) -> Value {
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
    let mut value = json!({
        "Id": image.id, "RepoTags": image.repo_tags, "RepoDigests": image.repo_digests,
        "Parent": image.parent.map_or(String::new(), |parent| parent.to_string()),
        "Comment": image.comment, "DockerVersion": image.docker_version, "Author": image.author,
        "Config": config(&image.config, version), "Architecture": image.architecture, "Os": image.os,
        "Size": image.size_bytes, "GraphDriver": graph_driver(&image.rootfs),
        "RootFS": {"Type": "layers", "Layers": image.layers},
        "Metadata": {"LastTagTime": rfc3339(image.last_tagged_unix_nanos)},
    });
    if !created.is_empty() {
        value["Created"] = json!(created);
    }
    for (key, text) in [("Variant", &image.variant), ("OsVersion", &image.os_version)] {
        if !text.is_empty() {
            value[key] = json!(text);
        }
    }
    if version.0 < 44 {
        value["VirtualSize"] = json!(image.size_bytes);
    }
    if version.0 < 45 {
        value["Container"] = json!("");
        value["ContainerConfig"] = config(&Config::default(), version);
    }
    value
}

/// Since 1.50 only what an image can say; before, the whole of a container's configuration.
fn config(config: &Config, version: ApiVersion) -> Value {
    let mut value = crate::spec::config(config);
    for (key, empty) in [("Env", config.env.is_empty()), ("Labels", config.labels.is_empty())] {
        if empty {
            value[key] = Value::Null;
        }
    }
    if version.0 < 50 {
        return value;
    }
    let Some(map) = value.as_object_mut() else { return value };
    for key in
        ["Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"]
    {
        map.remove(key);
    }
    for key in ["Image", "NetworkDisabled", "StopTimeout"] {
        map.remove(key);
    }
    map.retain(|key, value| match key.as_str() {
        // Go's `omitempty` on all but these.
        "Cmd" | "Entrypoint" | "Env" | "Labels" | "OnBuild" | "User" | "Volumes" | "WorkingDir" => true,
        _ => !value.is_null(),
    });
    value
}

pub(crate) fn graph_driver(rootfs: &Rootfs) -> Value {
    match rootfs {
        Rootfs::Directory { path } => json!({"Name": "overlay2", "Data": {"UpperDir": path}}),
        Rootfs::Overlay(overlay) => {
            let join = |paths: &[std::path::PathBuf]| {
                paths.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(":")
            };
            let mut data = json!({});
            match &overlay.upper {
                Some(upper) => {
                    data["LowerDir"] = json!(join(&overlay.lower));
                    data["UpperDir"] = json!(upper.upper);
                    data["WorkDir"] = json!(upper.work);
                    data["MergedDir"] = json!(upper.upper.parent().map(|folder| folder.join("merged")));
                }
                None => {
                    if let Some(folder) = overlay.lower.first().and_then(|top| top.parent()) {
                        data["MergedDir"] = json!(folder.join("merged"));
                        data["WorkDir"] = json!(folder.join("work"));
                    }
                    if overlay.lower.len() > 1 {
                        data["LowerDir"] = json!(join(&overlay.lower[1..]));
                    }
                    data["UpperDir"] = json!(overlay.lower.first());
                }
            }
            json!({"Name": "overlay2", "Data": data})
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

/// The images' part of `/system/df`: the sum and the list.
pub(crate) fn disk_usage(usage: &DiskUsage, version: ApiVersion) -> (Value, Value) {
    (json!(usage.layers_bytes), usage.images.iter().map(|image| summary(image, version)).collect())
}
