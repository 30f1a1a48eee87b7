//! The flags of `run` and `create` to the body of `POST /containers/create`.
//!
//! Field for field what Docker's own client sends (compared with it for some sixty command lines), so that
//! the engine has one kind of request to understand.

use super::network::Attachment;
use super::{env, key_value, limits, mounts, network, ports, security};
use crate::cli::Args;
use crate::error::{CliError, Result};
use serde_json::{Map, Value as Json, json};

/// What is to be created, and what `run` must know beside it.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) body: Json,
    pub(crate) image: String,
    pub(crate) tty: bool,
    pub(crate) attach_stdin: bool,
    pub(crate) attach_stdout: bool,
    pub(crate) attach_stderr: bool,
    pub(crate) auto_remove: bool,
}

/// What Docker's client finds wrong only after it has read all flags.
fn wrong(message: String) -> CliError {
    // The flag's own check speaks of the flag, and then its usage follows.
    let flag = message.starts_with("invalid argument ");
    if flag { CliError::usage(message) } else { CliError::failed(message).with_code(125) }
}

fn object(pairs: impl IntoIterator<Item = (String, String)>) -> Json {
    Json::Object(pairs.into_iter().map(|(k, v)| (k, Json::String(v))).collect())
}

fn list_or_null<T: serde::Serialize>(list: Vec<T>) -> Json {
    if list.is_empty() { Json::Null } else { json!(list) }
}

pub(crate) fn create(args: &Args, detach: bool) -> Result<Create> {
    let (image, command) = args.words.split_first().expect("the table asks for an image");
    let here = std::env::current_dir().map_err(|e| CliError::io("cannot tell the working directory", e))?;
    if args.on("use-api-socket") {
        return Err(wrong("--use-api-socket is not supported".to_owned())
            .with_hint("mount the socket yourself: -v /run/berth/berth.sock:/var/run/docker.sock"));
    }
    modes(args).map_err(wrong)?;
    let tty = args.on("tty");
    let interactive = args.on("interactive");
    let (mut stdin, mut stdout, mut stderr) = (false, false, false);
    for name in args.list("attach") {
        match name.to_ascii_lowercase().as_str() {
            "stdin" => stdin = true,
            "stdout" => stdout = true,
            "stderr" => stderr = true,
            _ => return Err(args.because("attach", name, "valid streams are STDIN, STDOUT and STDERR")),
        }
    }
    if !args.changed("attach") {
        (stdin, stdout, stderr) = (interactive, true, true);
    }
    if detach {
        (stdin, stdout, stderr) = (false, false, false);
    }
    let ports = ports::Ports::parse(&args.list("publish"), &args.list("expose")).map_err(wrong)?;
    let labels = env::labels(&args.list("label-file"), &args.list("label")).map_err(wrong)?;
    let environment = env::environment(&args.list("env-file"), &args.list("env")).map_err(wrong)?;
    let (volumes, binds) = volumes(args, &here)?;

    let mut config = Map::new();
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    set("Hostname", json!(args.text("hostname")));
    set("Domainname", json!(args.text("domainname")));
    set("User", json!(args.text("user")));
    set("AttachStdin", json!(stdin));
    set("AttachStdout", json!(stdout));
    set("AttachStderr", json!(stderr));
    set("Tty", json!(tty));
    set("OpenStdin", json!(interactive));
    set("StdinOnce", json!(interactive && stdin && !detach));
    set("Env", list_or_null(environment));
    set("Cmd", list_or_null(command.to_vec()));
    set("Image", json!(image));
    set("Volumes", json!(volumes));
    set("WorkingDir", json!(args.text("workdir")));
    set("Entrypoint", if args.changed("entrypoint") { json!([args.text("entrypoint")]) } else { Json::Null });
    set("OnBuild", Json::Null);
    set("Labels", object(labels));
    if !ports.exposed.is_empty() {
        set("ExposedPorts", Json::Object(ports.exposed.clone()));
    }
    if let Some(health) = health(args)? {
        set("Healthcheck", health);
    }
    if args.changed("stop-signal") {
        set("StopSignal", json!(args.text("stop-signal")));
    }
    if args.changed("stop-timeout") {
        set("StopTimeout", json!(args.int("stop-timeout")?));
    }
    let (mode, endpoints) = networks(args)?;
    set("HostConfig", host_config(args, binds, ports.bindings, &mode, tty)?);
    set("NetworkingConfig", json!({"EndpointsConfig": endpoints}));
    let auto_remove = args.on("rm");
    Ok(Create {
        body: Json::Object(config),
        image: image.clone(),
        tty,
        attach_stdin: stdin,
        attach_stdout: stdout,
        attach_stderr: stderr,
        auto_remove,
    })
}

/// The namespace modes that Docker's client checks itself.
fn modes(args: &Args) -> Result<(), String> {
    let container = |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    for (flag, word) in [("pid", "PID"), ("uts", "UTS"), ("userns", "USER"), ("cgroupns", "CGROUP")] {
        let mode = args.text(flag);
        let known = matches!(mode, "" | "host")
            || (flag == "pid" && container(mode))
            || (flag == "cgroupns" && mode == "private");
        if !known {
            return Err(format!("--{flag}: invalid {word} mode"));
        }
    }
    let mac = args.text("mac-address").trim();
    let groups: Vec<&str> = mac.split([':', '-']).collect();
    let is_address = groups.len() == 6 && groups.iter().all(|g| g.len() == 2 && u8::from_str_radix(g, 16).is_ok());
    if !(mac.is_empty() || is_address) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    Ok(())
}

fn volumes(args: &Args, here: &std::path::Path) -> Result<(Map<String, Json>, Vec<String>)> {
    let (mut anonymous, mut binds) = (Map::new(), Vec::new());
    for spec in args.list("volume") {
        match mounts::volume(spec, here).map_err(wrong)? {
            mounts::Volume::Anonymous(path) => drop(anonymous.insert(path, json!({}))),
            mounts::Volume::Bind(bind) => binds.push(bind),
        }
    }
    Ok((anonymous, binds))
}

pub(crate) fn health(args: &Args) -> Result<Option<Json>> {
    let given = [
        "health-cmd",
        "health-interval",
        "health-timeout",
        "health-start-period",
        "health-start-interval",
        "health-retries",
    ]
    .iter()
    .any(|f| args.changed(f));
    if args.on("no-healthcheck") {
        if given {
            return Err(wrong("--no-healthcheck conflicts with --health-* options".to_owned()));
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    if !given {
        return Ok(None);
    }
    let mut out = Map::new();
    if !args.text("health-cmd").is_empty() {
        out.insert("Test".into(), json!(["CMD-SHELL", args.text("health-cmd")]));
    }
    for (flag, key) in [
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ] {
        let nanos = args.duration(flag)?;
        if nanos < 0 {
            return Err(wrong(format!("--{flag} cannot be negative")));
        }
        if nanos > 0 {
            out.insert(key.into(), json!(nanos));
        }
    }
    let retries = args.int("health-retries")?;
    if retries < 0 {
        return Err(wrong("--health-retries cannot be negative".to_owned()));
    }
    if retries > 0 {
        out.insert("Retries".into(), json!(retries));
    }
    Ok(Some(Json::Object(out)))
}

/// `--log-opt` as `LogConfig.Config`.
pub(crate) fn log_options(args: &Args) -> Json {
    object(args.list("log-opt").into_iter().map(key_value))
}

/// The network mode and the endpoints by network.
fn networks(args: &Args) -> Result<(String, Map<String, Json>)> {
    let mut attachments = Vec::new();
    for text in args.list("network") {
        attachments.push(Attachment::parse(text).map_err(|e| args.because("network", text, &e))?);
    }
    if attachments.is_empty() {
        attachments.push(Attachment { name: "default".to_owned(), ..Attachment::default() });
    }
    let first = &mut attachments[0];
    let conflict =
        |flag: &str| wrong(format!("conflicting options: cannot specify both --{flag} and per-network {flag}"));
    for (flag, field) in [("ip", &mut first.ip), ("ip6", &mut first.ip6), ("mac-address", &mut first.mac)] {
        if args.changed(flag) {
            if !field.is_empty() {
                return Err(conflict(flag));
            }
            args.text(flag).clone_into(field);
        }
    }
    if args.changed("network-alias") {
        if !first.aliases.is_empty() {
            return Err(wrong(
                "conflicting options: cannot specify both --network-alias and per-network alias".to_owned(),
            ));
        }
        first.aliases = args.list("network-alias").into_iter().map(str::to_owned).collect();
    }
    if first.is_user_defined() && first.links.is_empty() {
        first.links = args.list("link").into_iter().map(str::to_owned).collect();
    }
    first.link_local.extend(args.list("link-local-ip").into_iter().map(str::to_owned));
    let mode = first.name.clone();
    let mut endpoints = Map::new();
    for attachment in &attachments {
        if attachments.len() > 1 && !attachment.is_user_defined() && matches!(attachment.name.as_str(), "host" | "none")
        {
            return Err(wrong(format!(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes ({})",
                attachment.name
            )));
        }
        // The host's network, no network and another container's have no endpoint to describe.
        let bare = Attachment { name: attachment.name.clone(), ..Attachment::default() };
        let shared = matches!(attachment.name.as_str(), "host" | "none") || attachment.name.starts_with("container:");
        if shared && *attachment == bare {
            continue;
        }
        if endpoints.insert(attachment.name.clone(), attachment.endpoint()).is_some() {
            return Err(wrong(format!("network {:?} is specified multiple times", attachment.name)));
        }
    }
    Ok((mode, endpoints))
}

fn each(args: &Args, flag: &str, parse: impl Fn(&str) -> Result<Json, String>) -> Result<Vec<Json>> {
    args.list(flag).into_iter().map(|text| parse(text).map_err(|e| args.because(flag, text, &e))).collect()
}

fn host_config(args: &Args, binds: Vec<String>, bindings: Map<String, Json>, mode: &str, tty: bool) -> Result<Json> {
    let here = std::env::current_dir().map_err(|e| CliError::io("cannot tell the working directory", e))?;
    let mut out = resources(args)?;
    let mut set = |key: &str, value: Json| drop(out.insert(key.to_owned(), value));
    let strings = |flag: &str| list_or_null(args.list(flag).into_iter().map(str::to_owned).collect());
    let security = security::parse(&args.list("security-opt")).map_err(wrong)?;
    set("Binds", list_or_null(binds));
    set("ContainerIDFile", json!(args.text("cidfile")));
    set("LogConfig", json!({"Type": args.text("log-driver"), "Config": log_options(args)}));
    set("NetworkMode", json!(mode));
    set("PortBindings", Json::Object(bindings));
    let restart = if args.changed("restart") { args.text("restart") } else { "no" };
    let restart = limits::restart_policy(restart).map_err(wrong)?;
    if args.on("rm") && !matches!(restart["Name"].as_str(), Some("no" | "")) {
        return Err(wrong("conflicting options: cannot specify both --restart and --rm".to_owned()));
    }
    set("RestartPolicy", restart);
    set("AutoRemove", json!(args.on("rm")));
    set("VolumeDriver", json!(args.text("volume-driver")));
    set("VolumesFrom", strings("volumes-from"));
    let console = if tty {
        crate::tty::size().map_or(json!([0, 0]), |(rows, columns)| json!([rows, columns]))
    } else {
        json!([0, 0])
    };
    set("ConsoleSize", console);
    set("CapAdd", capabilities(args, "cap-add"));
    set("CapDrop", capabilities(args, "cap-drop"));
    set("CgroupnsMode", json!(args.text("cgroupns")));
    set("Dns", list_or_empty(args, "dns"));
    set("DnsOptions", list_or_empty(args, "dns-option"));
    set("DnsSearch", list_or_empty(args, "dns-search"));
    let hosts = each(args, "add-host", |t| network::extra_host(t).map(Json::String))?;
    set("ExtraHosts", list_or_null(hosts));
    set("GroupAdd", strings("group-add"));
    set("IpcMode", json!(args.text("ipc")));
    set("Cgroup", json!(""));
    set("Links", strings("link"));
    set("OomScoreAdj", json!(args.int("oom-score-adj")?));
    set("PidMode", json!(args.text("pid")));
    set("Privileged", json!(args.on("privileged")));
    set("PublishAllPorts", json!(args.on("publish-all")));
    set("ReadonlyRootfs", json!(args.on("read-only")));
    let options = if args.changed("security-opt") { json!(security.options) } else { Json::Null };
    set("SecurityOpt", options);
    set("UTSMode", json!(args.text("uts")));
    set("UsernsMode", json!(args.text("userns")));
    set("ShmSize", json!(args.bytes("shm-size")?));
    set("Isolation", json!(args.text("isolation")));
    set("MaskedPaths", if security.paths_unconfined { json!([]) } else { Json::Null });
    set("ReadonlyPaths", if security.paths_unconfined { json!([]) } else { Json::Null });
    if args.changed("runtime") {
        set("Runtime", json!(args.text("runtime")));
    }
    if args.changed("annotation") {
        set("Annotations", object(args.list("annotation").into_iter().map(key_value)));
    }
    if args.changed("storage-opt") {
        set("StorageOpt", object(args.list("storage-opt").into_iter().map(key_value)));
    }
    if args.changed("sysctl") {
        for text in args.list("sysctl") {
            limits::sysctl(text).map_err(|e| args.because("sysctl", text, &e))?;
        }
        set("Sysctls", object(args.list("sysctl").into_iter().map(key_value)));
    }
    if args.changed("tmpfs") {
        set("Tmpfs", object(args.list("tmpfs").into_iter().map(mounts::tmpfs)));
    }
    let mounts = each(args, "mount", |t| mounts::mount(t, &here))?;
    if !mounts.is_empty() {
        set("Mounts", Json::Array(mounts));
    }
    if args.changed("init") {
        set("Init", json!(args.on("init")));
    }
    Ok(Json::Object(out))
}

/// `net_admin` and `CAP_NET_ADMIN` are one; sorted, each once.
fn capabilities(args: &Args, flag: &str) -> Json {
    let mut names: Vec<String> = args
        .list(flag)
        .into_iter()
        .map(|name| {
            let upper = name.trim().to_uppercase();
            if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
        })
        .collect();
    names.sort();
    names.dedup();
    if names.iter().any(|n| n == "ALL") {
        names = vec!["ALL".to_owned()];
    }
    list_or_null(names)
}

fn list_or_empty(args: &Args, flag: &str) -> Json {
    json!(args.list(flag))
}

/// Limits and devices: what `update` could change, and a little more.
fn resources(args: &Args) -> Result<Map<String, Json>> {
    let mut out = Map::new();
    let mut set = |key: &str, value: Json| drop(out.insert(key.to_owned(), value));
    let memory = args.bytes("memory")?;
    let swap = match args.text("memory-swap") {
        "" => 0,
        text => limits::swap(text).map_err(|e| args.because("memory-swap", text, &e))?,
    };
    set("Memory", json!(memory));
    set("MemorySwap", json!(swap));
    set("MemoryReservation", json!(args.bytes("memory-reservation")?));
    let swappiness = if args.changed("memory-swappiness") { args.int("memory-swappiness")? } else { -1 };
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(wrong(format!("invalid value: {swappiness}. Valid memory swappiness range is 0-100")));
    }
    set("MemorySwappiness", json!(swappiness));
    // Gone from the kernel: its value is checked and then left out, as Docker's client does.
    args.bytes("kernel-memory")?;
    set("OomKillDisable", json!(args.on("oom-kill-disable")));
    let cpus = match args.text("cpus") {
        "" => 0,
        text => limits::nano_cpus(text).map_err(|e| args.because("cpus", text, &e))?,
    };
    set("NanoCpus", json!(cpus));
    for (flag, key) in [
        ("cpu-shares", "CpuShares"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-count", "CpuCount"),
        ("cpu-percent", "CpuPercent"),
        ("blkio-weight", "BlkioWeight"),
        ("pids-limit", "PidsLimit"),
        ("io-maxiops", "IOMaximumIOps"),
    ] {
        set(key, json!(args.int(flag)?));
    }
    set("IOMaximumBandwidth", json!(args.bytes("io-maxbandwidth")?));
    set("CpusetCpus", json!(args.text("cpuset-cpus")));
    set("CpusetMems", json!(args.text("cpuset-mems")));
    set("CgroupParent", json!(args.text("cgroup-parent")));
    set("BlkioWeightDevice", json!(each(args, "blkio-weight-device", limits::blkio_weight)?));
    for (flag, key, bytes) in [
        ("device-read-bps", "BlkioDeviceReadBps", true),
        ("device-write-bps", "BlkioDeviceWriteBps", true),
        ("device-read-iops", "BlkioDeviceReadIOps", false),
        ("device-write-iops", "BlkioDeviceWriteIOps", false),
    ] {
        set(key, json!(each(args, flag, |t| limits::throttle(t, bytes))?));
    }
    let (cdi, paths): (Vec<&str>, Vec<&str>) = args.list("device").into_iter().partition(|d| limits::is_cdi(d));
    let devices: Vec<Json> = paths.into_iter().map(|d| limits::device(d).map_err(wrong)).collect::<Result<_>>()?;
    set("Devices", json!(devices));
    let rules = each(args, "device-cgroup-rule", |t| limits::device_rule(t).map(Json::String))?;
    set("DeviceCgroupRules", list_or_null(rules));
    let mut requests = each(args, "gpus", limits::gpus)?;
    if !cdi.is_empty() {
        requests.push(json!({"Driver": "cdi", "Count": 0, "DeviceIDs": cdi, "Capabilities": null, "Options": null}));
    }
    set("DeviceRequests", list_or_null(requests));
    // One name, one limit: the last wins.
    let mut ulimits: Vec<Json> = Vec::new();
    for limit in each(args, "ulimit", limits::ulimit)? {
        ulimits.retain(|l| l["Name"] != limit["Name"]);
        ulimits.push(limit);
    }
    ulimits.sort_by(|a, b| a["Name"].as_str().cmp(&b["Name"].as_str()));
    set("Ulimits", json!(ulimits));
    Ok(out)
}
