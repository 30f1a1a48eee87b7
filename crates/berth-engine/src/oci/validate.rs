//! What cannot be honoured is refused before anything exists.

use super::{HostFacts, caps, devices, facts, process, security, sysctls};
use crate::containers::mounts;
use berth_types::spec::{
    Config, ContainerSpec, HostConfig, LogConfig, NamespaceMode, NetworkMode, Resources, RestartPolicy,
};
use berth_types::{Error, Result};
use std::net::IpAddr;

/// Less than this leaves no room for a program to start.
const MEMORY_BYTES_MIN: i64 = 6 << 20;
/// `HOST_NAME_MAX` of linux/limits.h.
const HOSTNAME_BYTES_MAX: usize = 64;
/// The shortest time of a health probe.
const PROBE_NANOS_MIN: i64 = 1_000_000;

/// Refuses what is wrong or not possible, in Docker's words; answers warnings for limits that this host
/// cannot keep. The specification is the merged one.
pub fn validate(spec: &ContainerSpec, facts: &HostFacts) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    config(&spec.config)?;
    host(&spec.host)?;
    modes(spec)?;
    sysctls::check(spec)?;
    let security = security::parse(&spec.host)?;
    warnings.extend(security::check(&security, facts)?);
    limits(&spec.host.resources, facts, false, &mut warnings)?;
    for (network, endpoint) in &spec.endpoints {
        let options = crate::networks::endpoint_options(&endpoint.driver_options)?;
        warnings.extend(
            options.unknown.iter().map(|key| format!("driver option {key} of network {network} has no effect here")),
        );
        if let Some(bad) = endpoint.link_local_ips.iter().find(|text| text.parse::<IpAddr>().is_err()) {
            return Err(Error::invalid(format!("invalid link-local IP address: {bad}")));
        }
    }
    if spec.host.network_mode == NetworkMode::Host && !spec.host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(warnings)
}

/// The same for new limits of an existing container: `now` are its present ones.
pub fn validate_update(now: &Resources, update: &Resources, facts: &HostFacts) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    limits(update, facts, true, &mut warnings)?;
    let conflict = |words: &str| Err(Error::conflict(words));
    let cfs = update.cpu_period_micros > 0 || update.cpu_quota_micros > 0;
    if update.nano_cpus > 0 && now.cpu_period_micros > 0 {
        return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set");
    }
    if update.nano_cpus > 0 && now.cpu_quota_micros > 0 {
        return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set");
    }
    if cfs && now.nano_cpus > 0 {
        let which = if update.cpu_quota_micros > 0 { "Quota" } else { "Period" };
        return Err(Error::conflict(format!(
            "Conflicting options: CPU {which} cannot be updated as NanoCPUs has already been set"
        )));
    }
    if update.memory_bytes > 0 {
        let swap = if update.memory_swap_bytes == 0 { now.memory_swap_bytes } else { update.memory_swap_bytes };
        if swap > 0 && update.memory_bytes > swap {
            return conflict(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            );
        }
    }
    if !update.devices.is_empty()
        || !update.device_cgroup_rules.is_empty()
        || !update.device_requests.is_empty()
        || !update.ulimits.is_empty()
        || !update.cgroup_parent.is_empty()
    {
        return Err(Error::invalid("devices, ulimits and the cgroup parent of a container cannot be updated"));
    }
    Ok(warnings)
}

fn config(config: &Config) -> Result<()> {
    super::command(&ContainerSpec { config: config.clone(), ..ContainerSpec::default() })?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if config.hostname.len() > HOSTNAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "hostname {:?} is too long (maximum {HOSTNAME_BYTES_MAX} bytes)",
            config.hostname
        )));
    }
    for (what, name) in [("hostname", &config.hostname), ("domainname", &config.domainname)] {
        if name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(Error::invalid(format!("invalid {what}: {name:?}")));
        }
    }
    if config.domainname.len() > HOSTNAME_BYTES_MAX {
        return Err(Error::invalid(format!("domainname {:?} is too long (maximum 64 bytes)", config.domainname)));
    }
    for entry in &config.env {
        if entry.is_empty() || entry.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {entry}")));
        }
    }
    let words = [&config.cmd, &config.entrypoint].into_iter().flatten().flatten();
    let texts = words.chain(&config.env).chain([&config.user, &config.working_dir]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Error::invalid("nil byte in the container's configuration"));
    }
    if let Some(signal) = &config.stop_signal
        && signal_number(signal).is_none()
    {
        return Err(Error::invalid(format!("invalid signal: {signal}")));
    }
    let Some(check) = &config.healthcheck else { return Ok(()) };
    for (name, nanos) in [
        ("Interval", check.interval_nanos),
        ("Timeout", check.timeout_nanos),
        ("StartPeriod", check.start_period_nanos),
        ("StartInterval", check.start_interval_nanos),
    ] {
        if nanos != 0 && nanos < PROBE_NANOS_MIN {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    let probe = ContainerSpec { config: config.clone(), ..ContainerSpec::default() };
    process::health_process(&probe).map(drop)
}

fn host(host: &HostConfig) -> Result<()> {
    if host.auto_remove && host.restart != RestartPolicy::No {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    host.mounts.iter().try_for_each(mounts::check_mount)?;
    host.tmpfs.iter().try_for_each(|(target, options)| mounts::check_tmpfs(target, options))?;
    for entry in &host.extra_hosts {
        let any = Some(IpAddr::from([127, 0, 0, 1]));
        crate::networks::files::extra_host(entry, any).map_err(|cause| Error::invalid(cause.to_string()))?;
    }
    for server in &host.dns {
        if server.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!("invalid IP address: {server}")));
        }
    }
    for word in host.dns_search.iter().chain(&host.dns_options) {
        if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid(format!("invalid DNS search domain or option: {word:?}")));
        }
    }
    caps::check(host)?;
    devices::check(&host.resources)?;
    if !matches!(host.isolation.as_str(), "" | "default" | "vm") {
        return Err(Error::invalid(format!("invalid isolation '{}' on linux", host.isolation)));
    }
    if host.annotations.keys().any(String::is_empty) {
        return Err(Error::invalid("invalid Annotations: the empty string is not permitted as an annotation key"));
    }
    if host.annotations.keys().any(|key| key.starts_with("org.berth.")) {
        return Err(Error::invalid("invalid Annotations: keys that start with \"org.berth.\" are the engine's own"));
    }
    if !matches!(host.runtime.as_str(), "" | "runc" | "berth" | "vm" | "io.containerd.runc.v2") {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host.runtime))
            .with_hint("leave out --runtime: this engine has its own, and \"vm\" for a machine around the container"));
    }
    if let Some(key) = host.storage_opt.keys().next() {
        return Err(Error::invalid(format!("--storage-opt {key} is not supported by the overlay driver on this host"))
            .with_hint("leave out --storage-opt"));
    }
    for group in &host.group_add {
        if group.is_empty() || group.contains([',', ':', '\0', '\n']) {
            return Err(Error::invalid(format!("invalid group: {group:?}")));
        }
    }
    let masks = host.masked_paths.iter().chain(&host.readonly_paths).flatten();
    for path in masks {
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("invalid masked or read-only path: {path:?} must be absolute")));
        }
    }
    log(&host.log)
}

/// The log driver and its options.
fn log(log: &LogConfig) -> Result<()> {
    const COMMON: [&str; 8] =
        ["mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag", "cache-disabled"];
    let own: &[&str] = match log.driver.as_str() {
        "" | "json-file" | "local" => &["max-file", "max-size", "compress"],
        "none" => &[],
        other => {
            return Err(Error::invalid(format!("error looking up logging plugin {other}: plugin {other:?} not found")));
        }
    };
    let driver = if log.driver.is_empty() { "json-file" } else { &log.driver };
    for (key, value) in &log.options {
        if !own.contains(&key.as_str()) && !COMMON.contains(&key.as_str()) {
            return Err(Error::invalid(format!("unknown log opt '{key}' for {driver} log driver")));
        }
        let bad = match key.as_str() {
            "max-file" => value.parse::<u32>().is_ok_and(|files| files >= 1).then_some(()).is_none(),
            "max-size" => value != "-1" && size_bytes(value).is_none(),
            "compress" => !matches!(
                value.as_str(),
                "true" | "false" | "1" | "0" | "t" | "f" | "T" | "F" | "True" | "False" | "TRUE" | "FALSE"
            ),
            "mode" => !matches!(value.as_str(), "" | "blocking" | "non-blocking"),
            _ => false,
        };
        if bad {
            return Err(Error::invalid(format!("invalid value for log opt '{key}': {value:?}")));
        }
    }
    Ok(())
}

/// `10m`, `1g`, `512`: bytes, as docker/go-units reads them (powers of 1024).
pub fn size_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match lower[digits.len()..].trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let number: f64 = digits.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    Some((number * factor as f64) as u64)
}

/// Choices of namespaces that exclude one another.
fn modes(spec: &ContainerSpec) -> Result<()> {
    let (host, config) = (&spec.host, &spec.config);
    let conflict = |words: &str| Err(Error::invalid(format!("conflicting options: {words}")));
    if matches!(host.uts_mode, NamespaceMode::Container(_)) {
        return Err(Error::invalid("invalid UTS mode: container"));
    }
    // The host's own name is what it gets when none was asked for.
    let own = rustix::system::uname();
    let named = !config.hostname.is_empty() && config.hostname.as_bytes() != own.nodename().to_bytes();
    if host.uts_mode == NamespaceMode::Host && named {
        return conflict("hostname and the UTS mode");
    }
    if host.uts_mode == NamespaceMode::Host && !config.domainname.is_empty() {
        return conflict("domainname and the UTS mode");
    }
    match &host.userns_mode {
        NamespaceMode::Default | NamespaceMode::Host => {}
        NamespaceMode::Private | NamespaceMode::Container(_) => {
            return Err(Error::invalid("user namespaces are not enabled on this engine")
                .with_hint("leave out --userns, or use --userns=host"));
        }
    }
    if matches!(host.cgroupns_mode, NamespaceMode::Container(_)) {
        return Err(Error::invalid("invalid cgroup namespace mode: container"));
    }
    if let NetworkMode::Container(_) = host.network_mode {
        if !host.links.is_empty() {
            return conflict(
                "container type network can't be used with links. This would result in undefined behavior",
            );
        }
        if !host.dns.is_empty() {
            return conflict("dns and the network mode");
        }
        if !host.extra_hosts.is_empty() {
            return conflict("custom host-to-IP mapping and the network mode");
        }
        if !host.port_bindings.is_empty() || host.publish_all_ports {
            return conflict("port publishing and the container type network mode");
        }
    }
    if host.network_mode == NetworkMode::Host && !host.links.is_empty() {
        return conflict("host type networking can't be used with links. This would result in undefined behavior");
    }
    let own = [&host.resources.cgroup_parent];
    if own.iter().any(|path| path.split('/').any(|part| part == "..")) {
        return Err(Error::invalid(format!("invalid cgroup parent: {}", host.resources.cgroup_parent)));
    }
    Ok(())
}

fn limits(r: &Resources, facts: &HostFacts, update: bool, warnings: &mut Vec<String>) -> Result<()> {
    let refuse = |words: String| Err(Error::invalid(words));
    let mut warn = |words: &str| warnings.push(words.to_owned());
    memory(r, facts, update, &mut warn)?;
    if r.kernel_memory_bytes != 0 {
        return refuse("kernel memory limits are not supported: the kernel dropped them in 5.16".to_owned());
    }
    if !(-1000..=1000).contains(&r.oom_score_adj) {
        return refuse(format!("Invalid value {}, range for oom score adj is [-1000, 1000]", r.oom_score_adj));
    }
    if r.pids_limit.is_some_and(|limit| limit > 0) && !facts.pids_limit {
        warn(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        );
    }
    cpu(r, facts, &mut warn)?;
    cpuset(r, facts, &mut warn)?;
    block_io(r, facts, &mut warn)?;
    for limit in &r.ulimits {
        process::rlimit_type(&limit.name)?;
        if limit.hard != -1 && (limit.soft > limit.hard || limit.soft == -1) {
            return refuse(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            ));
        }
    }
    Ok(())
}

fn memory(r: &Resources, facts: &HostFacts, update: bool, warn: &mut dyn FnMut(&str)) -> Result<()> {
    let refuse = |words: &str| Err(Error::invalid(words));
    if r.memory_bytes != 0 && r.memory_bytes < MEMORY_BYTES_MIN {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if r.memory_bytes > 0 && !facts.memory_limit {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
    } else if r.memory_bytes > 0 && r.memory_swap_bytes != -1 && !facts.swap_limit {
        warn(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        );
    }
    if r.memory_bytes > 0 && r.memory_swap_bytes > 0 && r.memory_swap_bytes < r.memory_bytes {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory_bytes == 0 && r.memory_swap_bytes > 0 && !update {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if let Some(value) = r.memory_swappiness.filter(|value| *value != -1) {
        if !(0..=100).contains(&value) {
            return Err(Error::invalid(format!("Invalid value: {value}, valid memory swappiness range is 0-100")));
        }
        if !facts.swappiness {
            warn(
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
            );
        }
    }
    if r.memory_reservation_bytes > 0 && !facts.memory_limit {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
    }
    if r.memory_reservation_bytes != 0 && r.memory_reservation_bytes < MEMORY_BYTES_MIN {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if r.memory_bytes > 0 && r.memory_reservation_bytes > r.memory_bytes {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if r.oom_kill_disable == Some(true) {
        if !facts.oom_kill_disable {
            warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        } else if r.memory_bytes == 0 {
            warn(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
            );
        }
    }
    Ok(())
}

fn cpu(r: &Resources, facts: &HostFacts, warn: &mut dyn FnMut(&str)) -> Result<()> {
    let refuse = |words: &str| Err(Error::invalid(words));
    if r.nano_cpus > 0 && r.cpu_period_micros > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if r.nano_cpus > 0 && r.cpu_quota_micros > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if r.nano_cpus > 0 && !facts.cpu_cfs {
        return refuse(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if r.nano_cpus < 0 || r.nano_cpus > i64::from(facts.cpus) * 1_000_000_000 {
        let cpus = facts.cpus;
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if r.cpu_shares < 0 {
        return Err(Error::invalid(format!("invalid CPU shares ({}): value must be a positive integer", r.cpu_shares)));
    }
    if r.cpu_shares > 0 && !facts.cpu_shares {
        warn("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.");
    }
    if (r.cpu_period_micros != 0 || r.cpu_quota_micros != 0) && !facts.cpu_cfs {
        warn("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.");
    }
    if r.cpu_period_micros != 0 && !(1000..=1_000_000).contains(&r.cpu_period_micros) {
        return refuse("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if r.cpu_quota_micros > 0 && r.cpu_quota_micros < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if (r.cpu_rt_period_micros != 0 || r.cpu_rt_runtime_micros != 0) && !facts.cpu_realtime {
        return refuse("Your kernel does not support CPU real-time scheduler");
    }
    if r.cpu_rt_period_micros != 0 && r.cpu_rt_runtime_micros > r.cpu_rt_period_micros {
        return refuse("CPU real-time runtime cannot be higher than CPU real-time period");
    }
    Ok(())
}

fn cpuset(r: &Resources, facts: &HostFacts, warn: &mut dyn FnMut(&str)) -> Result<()> {
    if (!r.cpuset_cpus.is_empty() || !r.cpuset_mems.is_empty()) && !facts.cpuset {
        warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.");
    }
    for (list, online, what, name) in [
        (&r.cpuset_cpus, &facts.cpus_online, "CPUs", "cpuset cpus"),
        (&r.cpuset_mems, &facts.memory_nodes_online, "memory nodes", "cpuset mems"),
    ] {
        let wanted = facts::numbers(list)
            .map_err(|cause| Error::invalid(format!("Invalid value {list} for {name}: {cause}")))?;
        let there = facts::numbers(online).unwrap_or_default();
        if wanted.iter().any(|number| !there.contains(number)) {
            return Err(Error::invalid(format!(
                "Requested {what} are not available - requested {list}, available: {online}"
            )));
        }
    }
    Ok(())
}

fn block_io(r: &Resources, facts: &HostFacts, warn: &mut dyn FnMut(&str)) -> Result<()> {
    if r.blkio_weight > 0 && !facts.blkio_weight {
        warn("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.");
    }
    let weights = r.blkio_weight_device.iter().map(|device| device.weight).chain([r.blkio_weight]);
    if weights.into_iter().any(|weight| weight > 0 && !(10..=1000).contains(&weight)) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if !r.blkio_weight_device.is_empty() && !facts.blkio_weight {
        warn(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
        );
    }
    for (list, what) in [
        (&r.blkio_read_bps, "BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit"),
        (&r.blkio_write_bps, "BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit"),
        (&r.blkio_read_iops, "IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit"),
        (&r.blkio_write_iops, "IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit"),
    ] {
        if !list.is_empty() && !facts.blkio_throttle {
            warn(&format!("Your kernel does not support {what} discarded."));
        }
    }
    Ok(())
}

/// The number that `SIGTERM`, `term`, `15` or `RTMIN+3` stand for.
pub fn signal_number(text: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    const REALTIME_MIN: i32 = 34;
    const REALTIME_MAX: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        return (1..=REALTIME_MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|name| *name == bare) {
        return i32::try_from(at + 1).ok();
    }
    match bare {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        "UNUSED" => Some(31),
        "RTMIN" => Some(REALTIME_MIN),
        "RTMAX" => Some(REALTIME_MAX),
        _ => {
            let number = match (bare.strip_prefix("RTMIN+"), bare.strip_prefix("RTMAX-")) {
                (Some(up), _) => REALTIME_MIN.checked_add(up.parse().ok()?)?,
                (_, Some(down)) => REALTIME_MAX.checked_sub(down.parse().ok()?)?,
                _ => return None,
            };
            (REALTIME_MIN..=REALTIME_MAX).contains(&number).then_some(number)
        }
    }
}

#[cfg(test)]
mod tests;
