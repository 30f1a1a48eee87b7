//! Limits, devices and restart policies.

use crate::units::parse_bytes;
use serde_json::{Value as Json, json};

/// `nofile=1024:2048`.
pub(crate) fn ulimit(text: &str) -> Result<Json, String> {
    const NAMES: &[&str] = &[
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |s: &str| s.trim().parse::<i64>().map_err(|_| format!("invalid ulimit value: {s}"));
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(json!({"Name": name, "Hard": hard, "Soft": soft}))
}

/// `--cpus 1.5` in billionths.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let cpus: f64 = text.parse().map_err(|_| format!("failed to parse {text} as a rational number"))?;
    let nano = cpus * 1e9;
    if !nano.is_finite() || nano.abs() > i64::MAX as f64 {
        return Err(format!("failed to parse {text} as a rational number"));
    }
    if (nano - nano.round()).abs() > 1e-3 {
        return Err("value is too precise".to_owned());
    }
    Ok(nano.round() as i64)
}

/// `-1` or a size.
pub(crate) fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { parse_bytes(text) }
}

/// `no`, `always`, `unless-stopped`, `on-failure[:3]`.
pub(crate) fn restart_policy(text: &str) -> Result<Json, String> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => {
            let n = count
                .parse::<i64>()
                .map_err(|_| "invalid restart policy format: maximum retry count must be an integer".to_owned())?;
            (name, n)
        }
        None => (text, 0),
    };
    if text.starts_with(':') {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// `/dev/a[:/dev/b][:rwm]`.
pub(crate) fn device(text: &str) -> Result<Json, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |s: &str| !s.is_empty() && s.len() <= 3 && s.chars().all(|c| "rwm".contains(c));
    let (source, target, mode) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, mode] if is_mode(mode) => (*source, *source, *mode),
        [source, target] => (*source, *target, "rwm"),
        [source, target, mode] if is_mode(mode) => (*source, *target, *mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if source.is_empty() || target.is_empty() {
        return Err(format!("invalid device specification: {text}"));
    }
    Ok(json!({"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}))
}

/// Whether `--device` names a device of a vendor's list (`vendor.com/class=name`) and no path.
pub(crate) fn is_cdi(text: &str) -> bool {
    !text.starts_with('/') && text.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

/// `c 1:3 rwm`, `a *:* rwm`.
pub(crate) fn device_rule(text: &str) -> Result<String, String> {
    let fields: Vec<&str> = text.split(' ').collect();
    let number = |s: &str| s == "*" || (!s.is_empty() && s.chars().all(|c| c.is_ascii_digit()));
    let ok = matches!(fields.as_slice(), [kind, numbers, mode]
        if matches!(*kind, "a" | "b" | "c")
        && numbers.split_once(':').is_some_and(|(a, b)| number(a) && number(b))
        && (1..=3).contains(&mode.len()) && mode.chars().all(|c| "rwm".contains(c)));
    if ok { Ok(text.to_owned()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

/// Only what a container has for itself can be set.
pub(crate) fn sysctl(text: &str) -> Result<(), String> {
    const NAMES: &[&str] = &["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let name = text.split('=').next().unwrap_or_default();
    let own = name.strip_prefix("kernel.").is_some_and(|n| NAMES.contains(&n));
    match own || name.starts_with("net.") || name.starts_with("fs.mqueue.") {
        true if text.contains('=') => Ok(()),
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
}

/// `/dev/sda:1mb`, `/dev/sda:100`: a path and a rate.
pub(crate) fn throttle(text: &str, bytes: bool) -> Result<Json, String> {
    let (path, rate) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    let rate = if bytes { parse_bytes(rate).ok() } else { rate.parse::<i64>().ok().filter(|n| *n >= 0) };
    match rate {
        Some(rate) => Ok(json!({"Path": path, "Rate": rate})),
        None => Err(format!("invalid rate for device: {text}")),
    }
}

pub(crate) fn blkio_weight(text: &str) -> Result<Json, String> {
    let (path, weight) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    match weight.parse::<u16>() {
        Ok(w) if w == 0 || (10..=1000).contains(&w) => Ok(json!({"Path": path, "Weight": w})),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// `all`, `2`, `device=0`, `driver=x,capabilities=a`: the engine decides whether it has any.
pub(crate) fn gpus(text: &str) -> Result<Json, String> {
    let (mut count, mut driver, mut ids, mut capabilities) = (0, String::new(), Vec::new(), Vec::new());
    let mut options = serde_json::Map::new();
    for field in super::csv(text)? {
        let number = |v: &str| match v {
            "all" => Ok(-1),
            v => {
                v.parse::<i64>().map_err(|_| format!("invalid count ({v}): value must be either \"all\" or an integer"))
            }
        };
        match field.split_once('=') {
            None => count = number(&field)?,
            Some(("count", v)) => count = number(v)?,
            Some(("driver", v)) => v.clone_into(&mut driver),
            Some(("device", v)) => ids = v.split(',').map(str::to_owned).collect(),
            Some(("capabilities", v)) => capabilities.extend(v.split(',').map(str::to_owned)),
            Some(("options", v)) => {
                let (k, v) = super::key_value(v);
                options.insert(k, json!(v));
            }
            Some((key, _)) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if count == 0 && ids.is_empty() {
        count = 1;
    }
    if !capabilities.iter().any(|c| c == "gpu") {
        capabilities.push("gpu".to_owned());
    }
    let ids = if ids.is_empty() { Json::Null } else { json!(ids) };
    Ok(json!({"Driver": driver, "Count": count, "DeviceIDs": ids, "Capabilities": [capabilities], "Options": options}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_have_a_soft_and_a_hard_side() {
        assert_eq!(ulimit("nofile=10:20").unwrap(), json!({"Name":"nofile","Hard":20,"Soft":10}));
        assert_eq!(ulimit("core=-1").unwrap(), json!({"Name":"core","Hard":-1,"Soft":-1}));
        for bad in ["nofile", "nope=1", "nofile=x", "nofile=3:2", "nofile=1:2:3"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_are_exact_to_a_billionth() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        for bad in ["", "x", "inf", "0.00000000012"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_take_a_target_and_a_mode() {
        assert_eq!(device("/dev/a:r").unwrap()["CgroupPermissions"], "r");
        assert_eq!(device("/dev/a:/dev/b").unwrap()["PathInContainer"], "/dev/b");
        assert_eq!(device("/dev/a:/dev/b:rw").unwrap()["CgroupPermissions"], "rw");
        for bad in ["/a:/b:x", "/a:/b:rwmr", ":/b", "/a:/b:r:w"] {
            assert!(device(bad).is_err(), "{bad}");
        }
        assert!(is_cdi("vendor.com/gpu=0") && !is_cdi("/dev/a=b/c"));
        assert!(device_rule("c 1:* rwm").is_ok() && device_rule("x 1:3 r").is_err() && device_rule("c 13 r").is_err());
    }

    #[test]
    fn policies_and_rates_are_checked() {
        assert_eq!(restart_policy("on-failure:3").unwrap(), json!({"Name":"on-failure","MaximumRetryCount":3}));
        assert!(restart_policy("on-failure:x").is_err() && restart_policy(":3").is_err());
        assert_eq!(throttle("/dev/sda:1mb", true).unwrap()["Rate"], 1 << 20);
        assert!(throttle("/dev/sda:1mb", false).is_err() && throttle("sda:1", true).is_err());
        assert!(blkio_weight("/dev/sda:5").is_err());
        assert!(sysctl("net.core.somaxconn=1").is_ok() && sysctl("kernel.shmmax=1").is_ok());
        assert!(sysctl("kernel.hostname=x").is_err() && sysctl("vm.swappiness=1").is_err() && sysctl("net.x").is_err());
        assert_eq!(gpus("all").unwrap()["Count"], -1);
        assert_eq!(gpus("device=1").unwrap()["DeviceIDs"], json!(["1"]));
    }
}
