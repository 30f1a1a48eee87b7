//! What `--driver-opt` says about one endpoint.

use berth_types::{Error, Result};
use std::collections::BTreeMap;

/// What the interface is called inside.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";
/// Kernel parameters of the interface, which is called `IFNAME` there.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// `IFNAMSIZ` of linux/if.h, with its final zero.
const INTERFACE_BYTES_MAX: usize = 15;

/// The options of one endpoint, understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointOptions {
    pub(crate) interface: Option<String>,
    /// Path below `/proc/sys` with `IFNAME` for the interface, and value.
    pub(crate) sysctls: Vec<(String, String)>,
    /// Keys that mean nothing here.
    pub(crate) unknown: Vec<String>,
}

/// Reads them; refuses what cannot be.
pub(crate) fn read(options: &BTreeMap<String, String>) -> Result<EndpointOptions> {
    let mut read = EndpointOptions::default();
    for (key, value) in options {
        match key.as_str() {
            INTERFACE => read.interface = Some(interface(value)?),
            SYSCTLS => {
                let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                read.sysctls = entries.map(sysctl).collect::<Result<_>>()?;
            }
            other => read.unknown.push(other.to_owned()),
        }
    }
    Ok(read)
}

pub(super) fn is_interface_name(name: &str) -> bool {
    name.len() <= INTERFACE_BYTES_MAX && !matches!(name, "." | "..") && has_good_letters(name)
}

/// Room for two digits is left.
pub(super) fn is_interface_prefix(name: &str) -> bool {
    name.len() + 2 <= INTERFACE_BYTES_MAX && has_good_letters(name) && name != "lo"
}

fn has_good_letters(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

fn interface(name: &str) -> Result<String> {
    match is_interface_name(name) && name != "lo" {
        true => Ok(name.to_owned()),
        false => Err(Error::invalid(format!("invalid interface name {name:?} in {INTERFACE}"))
            .with_hint(format!("at most {INTERFACE_BYTES_MAX} letters, digits and dashes, not lo"))),
    }
}

/// `net.ipv4.conf.IFNAME.log_martians=1`: a parameter of the interface and nothing else.
fn sysctl(entry: &str) -> Result<(String, String)> {
    let invalid = || {
        Error::invalid(format!("invalid sysctl {entry:?} in {SYSCTLS}"))
            .with_hint("write it as net.ipv4.conf.IFNAME.log_martians=1")
    };
    let (name, value) = entry.split_once('=').ok_or_else(invalid)?;
    let parts: Vec<&str> = name.split('.').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let good = parts.len() >= 5 && parts[0] == "net" && parts[3] == "IFNAME" && parts.iter().all(word);
    if !good || value.contains(['\0', '\n']) {
        return Err(invalid());
    }
    Ok((parts.join("/"), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<EndpointOptions> {
        read(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn an_interface_has_a_name_of_its_own() {
        assert_eq!(of(INTERFACE, "wave0").unwrap().interface.as_deref(), Some("wave0"));
        for bad in ["", "lo", "..", "a/b", "a b", "a:b", "sixteen-letters-"] {
            assert!(of(INTERFACE, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_parameters_of_the_interface_are_set() {
        let read = of(SYSCTLS, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0").unwrap();
        assert_eq!(read.sysctls[0], ("net/ipv4/conf/IFNAME/log_martians".to_owned(), "1".to_owned()));
        assert_eq!(read.sysctls.len(), 2);
        for bad in
            ["kernel.panic=1", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.log_martians=1", "net.ipv4.conf.IFNAME.x"]
        {
            assert!(of(SYSCTLS, bad).is_err(), "{bad}");
        }
        assert!(of(SYSCTLS, "net.ipv4.conf.IFNAME.../x=1").is_err());
        assert_eq!(of("colour", "red").unwrap().unknown, ["colour"]);
    }
}
