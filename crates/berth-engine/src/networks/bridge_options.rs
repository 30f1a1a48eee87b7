//! What `--opt` says about a bridge network. Options are honoured or refused.

use super::options;
use super::state::{OPTION_ANTISPOOF, OPTION_NAMES};
use super::types::{Driver, Network};
use berth_net::firewall::Access;
use berth_types::{Error, Result};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const ICC: &str = "com.docker.network.bridge.enable_icc";
pub(super) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(super) const PREFIX: &str = "com.docker.network.container_iface_prefix";
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
pub(super) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
/// `nat`; `nat-unprotected`: whoever routes packets to a container's address reaches all of its ports; `routed`: no
/// translation; `isolated`: not even the host. By IPv4, by IPv6.
pub(super) const MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
/// The address under which the network's packets leave.
pub(super) const SOURCES: [&str; 2] = ["com.docker.network.host_ipv4", "com.docker.network.host_ipv6"];
/// Where ports are published that name no address.
pub(super) const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
/// The bridge gets no IPv4 address: another machine on it is the gateway.
pub(super) const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
/// Interfaces, with colons between, from which published ports are reached at the container's own address too.
pub(super) const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
pub(super) const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
/// The same as the fields of these names.
pub(super) const FAMILIES: [&str; 2] = ["com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"];

/// As Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn mode(text: &str) -> Option<Access> {
    match text {
        "nat" => Some(Access::Published),
        "nat-unprotected" => Some(Access::Anyone),
        "routed" => Some(Access::Routed),
        "isolated" => Some(Access::Isolated),
        _ => None,
    }
}

pub(super) fn check(options: &BTreeMap<String, String>, internal: bool) -> Result<()> {
    for (name, value) in options {
        let good = match name.as_str() {
            ICC | MASQUERADE | OPTION_ANTISPOOF | INHIBIT_IPV4 => boolean(value).is_some(),
            family if FAMILIES.contains(&family) => boolean(value).is_some(),
            DEFAULT_BRIDGE => match boolean(value) {
                Some(true) => {
                    return Err(Error::invalid(format!(
                        "network option {name}: the default bridge is the network bridge"
                    )));
                }
                other => other.is_some(),
            },
            OPTION_NAMES => matches!(value.as_str(), "all" | "one"),
            MTU => value.parse().is_ok_and(|mtu: u32| (68..=65535).contains(&mtu)),
            HOST_BINDING => value.parse::<Ipv4Addr>().is_ok(),
            source if source == SOURCES[0] => value.parse::<Ipv4Addr>().is_ok(),
            source if source == SOURCES[1] => value.parse::<Ipv6Addr>().is_ok(),
            TRUSTED => interfaces(value).all(options::is_interface_name),
            mode_of if MODES.contains(&mode_of) => match mode(value) {
                Some(Access::Isolated) if !internal => {
                    return Err(Error::invalid("gateway mode 'isolated' can only be used for an internal network")
                        .with_hint("add --internal"));
                }
                other => other.is_some(),
            },
            PREFIX => options::is_interface_prefix(value),
            BRIDGE_NAME => true,
            other if other.starts_with("com.docker.network.") => {
                return Err(Error::not_implemented(format!("network option {other} is not supported")));
            }
            _ => true,
        };
        if !good {
            return Err(Error::invalid(format!("invalid value for network option {name}: {value}")));
        }
    }
    Ok(())
}

fn interfaces(text: &str) -> impl Iterator<Item = &str> {
    text.split(':').filter(|name| !name.is_empty())
}

/// What was checked when the network was made.
impl Network {
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.options.get(name).and_then(|text| boolean(text)).unwrap_or(default)
    }

    /// Who reaches it from outside, by IPv4 and by IPv6.
    pub(super) fn access(&self) -> [Access; 2] {
        MODES.map(|name| self.options.get(name).and_then(|text| mode(text)).unwrap_or_default())
    }

    pub(super) fn sources(&self) -> [Option<IpAddr>; 2] {
        SOURCES.map(|name| self.options.get(name).and_then(|text| text.parse().ok()))
    }

    pub(super) fn trusted(&self) -> Vec<String> {
        let text = self.options.get(TRUSTED).map_or("", String::as_str);
        interfaces(text).map(str::to_owned).collect()
    }

    /// The host's own addresses on its bridge.
    pub(super) fn host_addresses(&self) -> Vec<(IpAddr, u8)> {
        let access = self.access();
        let inhibited = self.flag(INHIBIT_IPV4, false);
        let has = |address: &IpAddr| {
            access[usize::from(address.is_ipv6())] != Access::Isolated && !(address.is_ipv4() && inhibited)
        };
        let gateways = self.blocks.iter().filter_map(|block| Some((block.gateway?, block.subnet.prefix_len)));
        gateways.filter(|(address, _)| has(address)).collect()
    }

    /// Ports are opened at the container's own address: instead of being published, by IPv4 and by IPv6.
    pub(super) fn is_routed(&self, address: IpAddr) -> bool {
        self.driver == Driver::Bridge && self.access()[usize::from(address.is_ipv6())] == Access::Routed
    }
}

/// Whether a network of these options has a gateway in this family: on isolated ones nobody would answer there.
pub(super) fn has_gateway(options: &BTreeMap<String, String>, internal: bool, ipv6: bool) -> bool {
    let isolated = options.get(MODES[usize::from(ipv6)]).and_then(|text| mode(text)) == Some(Access::Isolated);
    let inhibited = !ipv6 && internal && options.get(INHIBIT_IPV4).and_then(|text| boolean(text)) == Some(true);
    !isolated && !inhibited
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, value: &str, internal: bool) -> Result<()> {
        check(&BTreeMap::from([(name.to_owned(), value.to_owned())]), internal)
    }

    #[test]
    fn dockers_options_are_understood_and_bad_values_and_unknown_ones_are_refused() {
        for (name, good, bad) in [
            (ICC, "False", "no"),
            (MASQUERADE, "0", ""),
            (INHIBIT_IPV4, "true", "yes"),
            (DEFAULT_BRIDGE, "false", "true"),
            (FAMILIES[0], "1", "2"),
            (MTU, "9000", "67"),
            (HOST_BINDING, "127.0.0.1", "::1"),
            (SOURCES[0], "192.0.2.1", "host"),
            (SOURCES[1], "2001:db8::1", "192.0.2.1"),
            (TRUSTED, "eth0:vxlan.1", "a/b"),
            (MODES[0], "routed", "bridged"),
            (MODES[1], "nat-unprotected", ""),
        ] {
            checked(name, good, false).unwrap();
            assert!(checked(name, bad, false).is_err(), "{name}={bad}");
        }
        assert!(checked(MODES[1], "isolated", false).unwrap_err().message.contains("internal network"));
        checked(MODES[1], "isolated", true).unwrap();
        assert!(checked("com.docker.network.bridge.colour", "red", false).is_err());
        checked("colour", "red", false).unwrap();
    }
}
