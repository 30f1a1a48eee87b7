use super::*;
use serde_json::{Value, json};

fn id() -> ContainerId {
    ContainerId::from_bytes([0xab; 32])
}

fn built_with(spec: &ContainerSpec, mounts: &[MountPoint]) -> Value {
    let command = ["sh".to_owned()];
    let (hosts, netns) = (Path::new("/data/hosts"), Path::new("/run/netns"));
    let input = OciInput {
        id: &id(),
        spec,
        command: &command,
        mounts,
        files: ContainerFiles { hosts: Some(hosts), ..ContainerFiles::default() },
        netns: Some(netns),
        cgroup: "/berth/x",
        joins: Joins::default(),
    };
    serde_json::to_value(build(input).unwrap().spec).unwrap()
}

fn built(change: impl FnOnce(&mut ContainerSpec)) -> Value {
    let mut spec = ContainerSpec::default();
    change(&mut spec);
    built_with(&spec, &[])
}

fn targets(config: &Value) -> Vec<&str> {
    config["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect()
}

fn options<'a>(config: &'a Value, target: &str) -> Vec<&'a str> {
    let mounts = config["mounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["destination"] == target).unwrap();
    mount["options"].as_array().unwrap().iter().map(|option| option.as_str().unwrap()).collect()
}

fn kinds(config: &Value) -> Vec<&str> {
    config["linux"]["namespaces"].as_array().unwrap().iter().map(|ns| ns["type"].as_str().unwrap()).collect()
}

#[test]
fn the_default_is_dockers() {
    let config = built(|_| {});
    assert_eq!(
        targets(&config),
        ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm", "/etc/hosts"]
    );
    assert_eq!(kinds(&config), ["mount", "network", "uts", "pid", "ipc", "cgroup"]);
    assert!(options(&config, "/sys").contains(&"ro") && options(&config, "/sys/fs/cgroup").contains(&"ro"));
    assert!(options(&config, "/dev/shm").contains(&"size=67108864"));
    assert_eq!(config["hostname"], id().short());
    assert_eq!(config["process"]["cwd"], "/");
    assert_eq!(config["process"]["user"]["username"], "");
    assert_eq!(config["process"]["noNewPrivileges"], false);
    assert_eq!(config["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
    assert!(config["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/interrupts")));
    assert_eq!(config["linux"]["readonlyPaths"].as_array().unwrap().len(), 5);
    assert_eq!(config["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(config["linux"]["resources"]["devices"][0]["allow"], false);
}

#[test]
fn privileged_takes_the_masks_off() {
    let config = built(|spec| spec.host.privileged = true);
    assert!(!options(&config, "/sys").contains(&"ro") && !options(&config, "/sys/fs/cgroup").contains(&"ro"));
    assert_eq!(config["linux"]["maskedPaths"], json!([]));
    assert!(config["linux"]["seccomp"].is_null());
    assert!(!config["linux"]["devices"].as_array().unwrap().is_empty());
}

#[test]
fn the_hosts_namespaces_are_left_out() {
    let config = built(|spec| {
        spec.host.pid_mode = NamespaceMode::Host;
        spec.host.ipc_mode = IpcMode::Host;
        spec.host.uts_mode = NamespaceMode::Host;
        spec.host.cgroupns_mode = NamespaceMode::Host;
    });
    assert_eq!(kinds(&config), ["mount", "network"]);
    assert!(config["hostname"].is_null());
    assert_eq!(options(&config, "/dev/shm"), ["rbind", "rprivate"]);
}

#[test]
fn without_ipc_there_is_no_shared_memory() {
    let config = built(|spec| spec.host.ipc_mode = IpcMode::None);
    assert!(!targets(&config).contains(&"/dev/shm") && kinds(&config).contains(&"ipc"));
}

#[test]
fn a_mount_over_dev_replaces_all_of_it() {
    let config = built(|spec| drop(spec.host.tmpfs.insert("/dev".to_owned(), String::new())));
    let targets = targets(&config);
    assert_eq!(targets.iter().filter(|target| target.starts_with("/dev")).collect::<Vec<_>>(), [&"/dev"]);
}

#[test]
fn a_tmpfs_is_strict_unless_told_otherwise() {
    let config = built(|spec| {
        spec.host.tmpfs.insert("/run".to_owned(), "rw,exec,size=1m".to_owned());
        spec.host.tmpfs.insert("/run/lock".to_owned(), String::new());
    });
    assert_eq!(options(&config, "/run/lock"), ["noexec", "nosuid", "nodev", "rprivate"]);
    let run = options(&config, "/run");
    assert!(run.contains(&"exec") && !run.contains(&"noexec") && run.contains(&"size=1m"), "{run:?}");
    let targets = targets(&config);
    let at = |wanted: &str| targets.iter().position(|target| *target == wanted).unwrap();
    assert!(at("/run") < at("/run/lock"));
}

#[test]
fn a_file_that_the_caller_mounts_replaces_the_engines() {
    let point = MountPoint {
        kind: berth_types::spec::MountKind::Bind,
        name: String::new(),
        source: PathBuf::from("/etc/hosts"),
        target: "/etc/hosts".to_owned(),
        driver: String::new(),
        mode: String::new(),
        read_write: false,
        propagation: "rprivate".to_owned(),
        anonymous: false,
        detail: Default::default(),
    };
    let config = built_with(&ContainerSpec::default(), &[point]);
    let mounts = config["mounts"].as_array().unwrap();
    let hosts: Vec<_> = mounts.iter().filter(|mount| mount["destination"] == "/etc/hosts").collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0]["source"], "/etc/hosts");
}

#[test]
fn cgroup_parents_stay_inside() {
    let mut spec = ContainerSpec::default();
    assert_eq!(cgroup_path("/berth", &spec, &id()), format!("/berth/{}", id()));
    spec.host.resources.cgroup_parent = "../../x".to_owned();
    assert_eq!(cgroup_path("/berth", &spec, &id()), format!("/x/{}", id()));
}

#[test]
fn groups_by_name_are_for_the_runtime_to_look_up() {
    let config = built(|spec| spec.host.group_add = vec!["audio".to_owned(), "44".to_owned()]);
    assert_eq!(config["annotations"]["org.berth.group-add"], "audio");
    assert_eq!(config["process"]["user"]["additionalGids"], json!([44]));
}
