//! Device nodes and the rules of who may use them.

use berth_types::spec::{DeviceMapping, Resources};
use berth_types::{Error, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::FileType;
use std::path::{Path, PathBuf};

/// More entries below one folder of devices are refused.
const NODES_MAX: usize = 4096;

fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(typ).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}

/// Docker's: nothing but the harmless ones, terminals, and making nodes that nobody may open.
fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let c = Some(LinuxDeviceType::C);
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        rule(true, c, None, None, "m"),
        rule(true, Some(LinuxDeviceType::B), None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, c, Some(major), Some(minor), "rwm"));
    }
    // Pseudo terminals.
    rules.push(rule(true, c, Some(136), None, "rwm"));
    rules
}

/// Nodes to make and rules for them.
pub(super) fn of(limits: &Resources, privileged: bool) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let mut nodes = Vec::new();
    if privileged {
        walk(Path::new("/dev"), Path::new("/dev"), &mut nodes);
        for mapping in limits.devices.iter().filter(|mapping| mapping.path_on_host != mapping.path_in_container) {
            nodes.extend(mapped(mapping)?);
        }
        return Ok((nodes, vec![rule(true, None, None, None, "rwm")]));
    }
    let mut rules = default_rules();
    for mapping in &limits.devices {
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        for node in mapped(mapping)? {
            rules.push(rule(true, Some(node.typ()), Some(node.major()), Some(node.minor()), access));
            nodes.push(node);
        }
    }
    for text in &limits.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    Ok((nodes, rules))
}

/// The device, or all devices below a folder of them.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<LinuxDevice>> {
    let host = Path::new(&mapping.path_on_host);
    let inside = if mapping.path_in_container.is_empty() { host } else { Path::new(&mapping.path_in_container) };
    let gather = |why: String| {
        let what = format!("error gathering device information while adding custom device {:?}", mapping.path_on_host);
        Error::invalid(why).context(what)
    };
    let real = std::fs::canonicalize(host).map_err(|_| gather("no such file or directory".to_owned()))?;
    if let Some(node) = node(&real, inside) {
        return Ok(vec![node]);
    }
    let mut nodes = Vec::new();
    if real.is_dir() {
        walk(&real, inside, &mut nodes);
    }
    if nodes.is_empty() {
        return Err(gather("not a device node".to_owned()));
    }
    Ok(nodes)
}

/// The device node at `path`, as `inside` within the container.
fn node(path: &Path, inside: &Path) -> Option<LinuxDevice> {
    let stat = rustix::fs::lstat(path).ok()?;
    let typ = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::BlockDevice => LinuxDeviceType::B,
        _ => return None,
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(inside.to_owned())
        .set_typ(typ)
        .set_major(rustix::fs::major(stat.st_rdev).into())
        .set_minor(rustix::fs::minor(stat.st_rdev).into())
        .set_file_mode(Some(stat.st_mode & 0o7777))
        .set_uid(Some(stat.st_uid))
        .set_gid(Some(stat.st_gid));
    Some(device)
}

/// Everything below `host` but what the container has of its own.
fn walk(host: &Path, inside: &Path, nodes: &mut Vec<LinuxDevice>) {
    const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
    let Ok(entries) = std::fs::read_dir(host) else { return };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        if nodes.len() >= NODES_MAX || name.to_str().is_some_and(|name| OWN.contains(&name)) {
            continue;
        }
        let (from, to): (PathBuf, PathBuf) = (host.join(&name), inside.join(&name));
        match node(&from, &to) {
            Some(found) => nodes.push(found),
            // `symlink_metadata` would not, but a link to a folder must not lead out of /dev.
            None if std::fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_dir()) => walk(&from, &to, nodes),
            None => {}
        }
    }
}

/// `c 1:3 rwm`, with `*` for any number.
pub(super) fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let invalid = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split(' ');
    let (Some(typ), Some(numbers), Some(access), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(invalid());
    };
    let typ = match typ {
        "a" => None,
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        _ => return Err(invalid()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map(Some).map_err(|_| invalid()),
        _ => Err(invalid()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    if access.is_empty() || access.len() > 3 || access.bytes().any(|byte| !b"rwm".contains(&byte)) {
        return Err(invalid());
    }
    Ok(rule(true, typ, number(major)?, number(minor)?, access))
}

/// Refuses what can be seen to be wrong before any device is looked at.
pub(super) fn check(limits: &Resources) -> Result<()> {
    for text in &limits.device_cgroup_rules {
        parse_rule(text)?;
    }
    for mapping in &limits.devices {
        let access = &mapping.cgroup_permissions;
        if access.bytes().any(|byte| !b"rwm".contains(&byte)) || access.len() > 3 {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        if mapping.path_on_host.is_empty() {
            return Err(Error::invalid("invalid device: the path on the host is empty"));
        }
    }
    if let Some(request) = limits.device_requests.first() {
        let words = match request.driver.as_str() {
            "cdi" => format!("CDI device injection failed: unresolvable CDI devices {}", request.device_ids.join(", ")),
            driver => {
                let list: Vec<String> = request.capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
                format!("could not select device driver {driver:?} with capabilities: [{}]", list.join(" "))
            }
        };
        return Err(
            Error::invalid(words).with_hint("no device drivers are known here; give the device's nodes with --device")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_type_numbers_and_rights() {
        let rule = parse_rule("c 10:* rw").unwrap();
        assert_eq!((rule.major(), rule.minor(), rule.access().as_deref()), (Some(10), None, Some("rw")));
        for bad in ["", "c", "x 1:2 r", "c 1 r", "c 1:2 q", "c 1:2 rwmr", "c -1:2 r", "c 1:2 r "] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mapped_device_gets_a_node_and_a_rule() {
        let devices = vec![DeviceMapping {
            path_on_host: "/dev/null".to_owned(),
            path_in_container: "/dev/nix".to_owned(),
            cgroup_permissions: "r".to_owned(),
        }];
        let (nodes, rules) = of(&Resources { devices, ..Resources::default() }, false).unwrap();
        assert_eq!((nodes[0].path().as_path(), nodes[0].major(), nodes[0].minor()), (Path::new("/dev/nix"), 1, 3));
        assert_eq!(rules.last().unwrap().access().as_deref(), Some("r"));
        assert!(!rules[0].allow(), "everything is denied first");
    }

    #[test]
    fn a_missing_device_is_named_in_dockers_words() {
        let devices = vec![DeviceMapping {
            path_on_host: "/dev/nope".to_owned(),
            path_in_container: "/dev/nope".to_owned(),
            cgroup_permissions: "rwm".to_owned(),
        }];
        let error = of(&Resources { devices, ..Resources::default() }, false).unwrap_err();
        let words =
            "error gathering device information while adding custom device \"/dev/nope\": no such file or directory";
        assert_eq!(error.to_string(), words);
    }

    #[test]
    fn privileged_sees_the_hosts_devices() {
        let (nodes, rules) = of(&Resources::default(), true).unwrap();
        assert!(nodes.iter().any(|node| node.path() == Path::new("/dev/null")));
        assert!(!nodes.iter().any(|node| node.path().starts_with("/dev/pts")));
        assert_eq!(rules.len(), 1);
    }
}
