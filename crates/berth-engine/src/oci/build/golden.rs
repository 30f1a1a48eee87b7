//! What dockerd 28.5.2 wrote for the same requests (`dockerd/*.json`: the parts that do not depend on the
//! container's id). Where we differ on purpose the test says so.

use super::*;
use crate::containers::mounts;
use berth_types::spec::{
    BindOptions, DeviceMapping, ImageDefaults, MountKind, MountSpec, ThrottleDevice, TmpfsOptions, Ulimit,
};
use serde_json::{Value, json};

fn mount_spec(kind: MountKind, source: &str, target: &str) -> MountSpec {
    MountSpec {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: false,
        consistency: String::new(),
        bind: None,
        volume: None,
        tmpfs: None,
        image_subpath: String::new(),
        file: None,
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// Ours, cut down to what the recorded files have.
fn ours(change: impl FnOnce(&mut ContainerSpec)) -> Value {
    let mut spec = ContainerSpec::default();
    change(&mut spec);
    super::super::merge(&mut spec, &ImageDefaults::default());
    let id = ContainerId::from_bytes([0xab; 32]);
    let points = mounts::plan_for_tests(&spec);
    let command = texts(&["/bin/true"]);
    let input = OciInput {
        id: &id,
        spec: &spec,
        command: &command,
        mounts: &points,
        files: ContainerFiles::default(),
        netns: Some(Path::new("/netns")),
        cgroup: "/berth/x",
        joins: Joins::default(),
    };
    let config = serde_json::to_value(build(input).unwrap().spec).unwrap();
    let (process, linux) = (&config["process"], &config["linux"]);
    let sorted = |value: &Value| {
        let mut list: Vec<String> = serde_json::from_value(value.clone()).unwrap_or_default();
        list.sort();
        list
    };
    let mut all: Vec<Value> = config["mounts"].as_array().unwrap().clone();
    all.sort_by_key(|mount| mount["destination"].as_str().unwrap().to_owned());
    let mounts: Vec<Value> = all
        .iter()
        .map(|mount| {
            // Docker leaves a volume's propagation to the root's, which is a slave: rprivate says what it is.
            let mut options = sorted(&mount["options"]);
            let volume = points.iter().any(|p| p.kind == MountKind::Volume && mount["destination"] == p.target);
            options.retain(|option| !(volume && option == "rprivate"));
            json!({"destination": mount["destination"], "type": mount["type"], "options": options})
        })
        .collect();
    let env: Vec<String> =
        process["env"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned()).collect();
    let own_name = format!("HOSTNAME={}", id.short());
    let env: Vec<String> =
        env.into_iter().map(|entry| if entry == own_name { "HOSTNAME=<id>".to_owned() } else { entry }).collect();
    let mut namespaces: Vec<&str> =
        linux["namespaces"].as_array().unwrap().iter().map(|ns| ns["type"].as_str().unwrap()).collect();
    // A cgroup namespace of its own on v1 too: Docker has one only on v2.
    namespaces.retain(|kind| *kind != "cgroup");
    namespaces.sort_unstable();
    let or_empty = |value: &Value| if value.is_null() { json!({}) } else { value.clone() };
    let devices: Vec<Value> = linux["devices"].as_array().into_iter().flatten().map(|device| {
        json!({"path": device["path"], "type": device["type"], "major": device["major"], "minor": device["minor"]})
    }).collect();
    let mut masked = sorted(&linux["maskedPaths"]);
    masked.retain(|path| !path.starts_with("/sys/devices/system/cpu"));
    json!({
        "env": env, "cwd": process["cwd"], "terminal": process["terminal"], "noNewPrivileges": process["noNewPrivileges"],
        "oomScoreAdj": process["oomScoreAdj"], "rlimits": process["rlimits"].as_array().cloned().unwrap_or_default(),
        "capabilities": sorted(&process["capabilities"]["bounding"]), "readonly": config["root"]["readonly"],
        "mounts": mounts, "sysctl": linux["sysctl"], "namespaces": namespaces, "maskedPaths": masked,
        "readonlyPaths": sorted(&linux["readonlyPaths"]), "memory": or_empty(&linux["resources"]["memory"]),
        "cpu": or_empty(&linux["resources"]["cpu"]), "pids": or_empty(&linux["resources"]["pids"]),
        "seccomp": !linux["seccomp"].is_null(), "devices": devices,
    })
}

#[track_caller]
fn same(recorded: &str, ours: Value) {
    let mut recorded: Value = serde_json::from_str(recorded).unwrap();
    let mut ours = ours;
    // Not a terminal's property of the container but of how the two write "absent".
    let facts = HostFacts::get();
    let limits_differ = facts.cgroup_v2 || !facts.memory_limit || !facts.swap_limit;
    let mut without: Vec<&str> = if limits_differ { vec!["memory", "cpu", "pids"] } else { Vec::new() };
    if recorded["devices"] == "host" {
        // What the host has, and what the recording engine was allowed itself.
        without.extend(["devices", "capabilities"]);
    }
    for key in without {
        recorded[key] = Value::Null;
        ours[key] = Value::Null;
    }
    for (key, value) in recorded.as_object().unwrap() {
        assert_eq!(&ours[key], value, "{key}");
    }
}

#[test]
fn nothing_said() {
    same(include_str!("dockerd/plain.json"), ours(|_| {}));
}

#[test]
fn limits() {
    let limits = ours(|spec| {
        let r = &mut spec.host.resources;
        r.memory_bytes = 64 << 20;
        r.memory_reservation_bytes = 32 << 20;
        r.memory_swappiness = Some(10);
        r.nano_cpus = 1_500_000_000;
        r.cpu_shares = 512;
        r.cpuset_cpus = "0".to_owned();
        r.pids_limit = Some(10);
        r.oom_score_adj = 100;
        r.blkio_write_bps = vec![ThrottleDevice { path: "/dev/null".to_owned(), rate: 1 << 20 }];
    });
    same(include_str!("dockerd/limits.json"), limits);
}

#[test]
fn privileged() {
    same(include_str!("dockerd/priv.json"), ours(|spec| spec.host.privileged = true));
}

#[test]
fn fewer_rights() {
    let caps = ours(|spec| {
        spec.host.cap_drop = texts(&["ALL"]);
        spec.host.cap_add = texts(&["CHOWN"]);
        spec.host.security_opt = texts(&["no-new-privileges"]);
    });
    same(include_str!("dockerd/caps.json"), caps);
}

#[test]
fn the_hosts_namespaces() {
    let host = ours(|spec| {
        spec.host.pid_mode = NamespaceMode::Host;
        spec.host.ipc_mode = IpcMode::Host;
        spec.host.uts_mode = NamespaceMode::Host;
        spec.host.cgroupns_mode = NamespaceMode::Host;
    });
    same(include_str!("dockerd/hostns.json"), host);
}

#[test]
fn tmpfs_and_a_read_only_root() {
    let tmpfs = ours(|spec| {
        spec.host.readonly_rootfs = true;
        spec.host.tmpfs.insert("/run".to_owned(), "size=1m,exec".to_owned());
        spec.host.tmpfs.insert("/x".to_owned(), String::new());
        let options = TmpfsOptions { size_bytes: 1 << 20, mode: 0o700, ..TmpfsOptions::default() };
        spec.host.mounts = vec![MountSpec { tmpfs: Some(options), ..mount_spec(MountKind::Tmpfs, "", "/y") }];
    });
    same(include_str!("dockerd/tmpfs.json"), tmpfs);
}

#[test]
fn binds_and_volumes() {
    let volumes = ours(|spec| {
        spec.host.binds = texts(&["vol:/data", "/etc:/hostetc:ro", "anon:/anon:nocopy"]);
        let private = BindOptions { propagation: "rprivate".to_owned(), ..BindOptions::default() };
        let flat = BindOptions { non_recursive: true, ..BindOptions::default() };
        spec.host.mounts = vec![
            MountSpec { read_only: true, bind: Some(private), ..mount_spec(MountKind::Bind, "/usr", "/u") },
            MountSpec { bind: Some(flat), ..mount_spec(MountKind::Bind, "/usr", "/v") },
        ];
    });
    same(include_str!("dockerd/vols.json"), volumes);
}

#[test]
fn devices_ulimits_and_sysctls() {
    let devices = ours(|spec| {
        let r = &mut spec.host.resources;
        r.devices = vec![DeviceMapping {
            path_on_host: "/dev/null".to_owned(),
            path_in_container: "/dev/nix".to_owned(),
            cgroup_permissions: "r".to_owned(),
        }];
        r.device_cgroup_rules = texts(&["c 10:* rw"]);
        r.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 10, hard: 20 }];
        spec.host.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
        spec.host.shm_size_bytes = 1 << 20;
    });
    same(include_str!("dockerd/dev.json"), devices);
}

#[test]
fn user_folder_environment_and_terminal() {
    let user = ours(|spec| {
        spec.config.user = "0:5".to_owned();
        spec.config.working_dir = "/data/x".to_owned();
        spec.config.env = texts(&["A=1"]);
        spec.config.hostname = "host1".to_owned();
        spec.config.domainname = "dom".to_owned();
        spec.config.tty = true;
        spec.host.group_add = texts(&["44"]);
    });
    same(include_str!("dockerd/user.json"), user);
}

#[test]
fn no_ipc_no_filter_no_masks() {
    let bare = ours(|spec| {
        spec.host.ipc_mode = IpcMode::None;
        spec.host.cgroupns_mode = NamespaceMode::Private;
        spec.host.security_opt = texts(&["seccomp=unconfined"]);
        // What docker's client makes of systempaths=unconfined.
        spec.host.masked_paths = Some(Vec::new());
        spec.host.readonly_paths = Some(Vec::new());
    });
    same(include_str!("dockerd/priv2.json"), bare);
}
