//! The `local` driver's names and options. Pure.

use super::VolumeCreate;
use crate::containers::FileSystem;
use berth_types::{Error, Result};
use std::collections::BTreeMap;

/// One component of a path on every file system.
const NAME_BYTES_MAX: usize = 255;

/// Refuses names, drivers and options that cannot be, in Docker's words.
pub(super) fn check(request: &VolumeCreate) -> Result<()> {
    if !matches!(request.driver.as_str(), "" | "local") {
        let driver = &request.driver;
        return Err(Error::not_found(format!("error looking up volume plugin {driver}: plugin {driver:?} not found"))
            .with_hint("the only volume driver is local"));
    }
    if !request.name.is_empty() {
        name(&request.name)?;
    }
    options(&request.driver_options).map_err(|error| error.context(format!("create {}", request.name)))
}

pub(super) fn name(name: &str) -> Result<()> {
    if name.len() < 2 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    let good = |(at, byte): (usize, u8)| byte.is_ascii_alphanumeric() || (at > 0 && matches!(byte, b'_' | b'.' | b'-'));
    if name.len() > NAME_BYTES_MAX || !name.bytes().enumerate().all(good) {
        return Err(Error::invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    Ok(())
}

fn options(options: &BTreeMap<String, String>) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    for key in options.keys() {
        match key.as_str() {
            "type" | "device" | "o" => {}
            "size" => return Err(Error::invalid("quota size requested but no quota support")),
            _ => return Err(Error::invalid(format!("invalid option: {key:?}"))),
        }
    }
    for key in ["device", "type"] {
        if options.get(key).is_none_or(String::is_empty) {
            return Err(Error::invalid(format!("missing required option: {key:?}")));
        }
    }
    let fs = file_system(options).unwrap_or_default();
    let bind = fs.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    if bind && !fs.device.starts_with('/') {
        return Err(Error::invalid(format!("invalid device {:?}: a bind needs an absolute path", fs.device)));
    }
    if !bind && fs.kind == "none" {
        return Err(Error::invalid("type none needs o=bind"));
    }
    if matches!(fs.kind.as_str(), "overlay" | "proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts" | "mqueue" | "bpf") {
        return Err(Error::invalid(format!("volumes of type {} are not supported", fs.kind)));
    }
    Ok(())
}

/// What a volume with driver options stands for.
pub(super) fn file_system(options: &BTreeMap<String, String>) -> Option<FileSystem> {
    let kind = options.get("type")?.clone();
    let words = options.get("o").map_or("", String::as_str);
    Some(FileSystem {
        kind,
        device: options.get("device").cloned().unwrap_or_default(),
        options: words.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[(&str, &str)]) -> Result<()> {
        let driver_options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        check(&VolumeCreate { driver_options, ..VolumeCreate::default() })
    }

    #[test]
    fn a_name_is_one_harmless_component() {
        name("my_vol.1-a").unwrap();
        for bad in ["a", "..", ".a", "a/b", "../x", "-a", "a b", "ä1", &"a".repeat(256)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_are_known_and_complete() {
        with(&[("type", "none"), ("device", "/srv"), ("o", "bind")]).unwrap();
        with(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=10m,uid=1000")]).unwrap();
        with(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=10.0.0.1,rw")]).unwrap();
        for bad in [
            &[("colour", "red")][..],
            &[("type", "nfs")],
            &[("device", "/x")],
            &[("size", "1g")],
            &[("type", "none"), ("device", "relative"), ("o", "bind")],
            &[("type", "proc"), ("device", "proc")],
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn another_driver_is_not_found() {
        let error = check(&VolumeCreate { driver: "ceph".to_owned(), ..VolumeCreate::default() }).unwrap_err();
        assert_eq!(error.message, "error looking up volume plugin ceph: plugin \"ceph\" not found");
    }
}
