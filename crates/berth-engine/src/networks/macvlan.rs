//! Networks that are part of the host's own: each container with a hardware address on the parent's wire.
//!
//! Nothing of ours is in between: no bridge, no firewall, no published ports. As with every macvlan, host and
//! containers do not reach each other through the parent. Without `parent` the network is one of its own, on a bridge
//! that nothing else hangs on.

use super::bridge_options::{MTU, PREFIX};
use super::options;
use super::setup::mark;
use super::state::{Shared, host_error};
use super::types::Network;
use berth_net::netlink::{Batch, NetlinkError};
use berth_net::route::{self, Route};
use berth_types::{Error, Result};
use std::collections::BTreeMap;

pub(super) const OPTION_PARENT: &str = "parent";
pub(super) const OPTION_MODE: &str = "macvlan_mode";

/// MACVLAN_MODE_* of linux/if_link.h.
fn mode_number(text: &str) -> Option<u32> {
    match text {
        "private" => Some(1),
        "vepa" => Some(2),
        "" | "bridge" => Some(4),
        "passthru" => Some(8),
        _ => None,
    }
}

pub(super) fn mode(network: &Network) -> u32 {
    let text = network.options.get(OPTION_MODE).map_or("", String::as_str);
    mode_number(text).unwrap_or(4)
}

/// Options are honoured or refused.
pub(super) fn check_options(options: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in options {
        let good = match name.as_str() {
            OPTION_MODE => mode_number(value).is_some(),
            PREFIX => options::is_interface_prefix(value),
            OPTION_PARENT => !value.contains(['/', ' ']) && value.len() <= 15,
            MTU => value.parse().is_ok_and(|mtu: u32| (68..=65535).contains(&mtu)),
            _ => true,
        };
        if !good {
            return Err(Error::invalid(format!("invalid value for network option {name}: {value}")));
        }
    }
    Ok(())
}

impl Shared {
    /// The interface that containers' interfaces hang on, made or found; answers its index.
    pub(super) fn raise_parent(&self, route: &mut Route, network: &Network) -> Result<u32> {
        let name = network.bridge.as_str();
        let failed = |error: NetlinkError| host_error(format!("cannot set up interface {name}"), &error);
        if let Some(link) = route.link(name).map_err(failed)? {
            return Ok(link.index);
        }
        let mut batch = Batch::default();
        if network.options.get(OPTION_PARENT).is_none_or(String::is_empty) {
            let mac = berth_net::addresses::mac_of(std::net::Ipv4Addr::LOCALHOST);
            route::add_bridge(&mut batch, name, mac, 1500, &mark(&self.bridge_name));
        } else {
            let vlan = name.rsplit_once('.').and_then(|(base, number)| Some((base, number.parse::<u16>().ok()?)));
            let vlan = vlan.filter(|(_, number)| (1..4095).contains(number));
            let base = vlan.map(|(base, number)| Ok((route.link(base)?, number))).transpose().map_err(failed)?;
            let Some((Some(base), number)) = base else {
                return Err(Error::invalid(format!("invalid parent interface {name}: there is no such interface"))
                    .with_hint("name one that `ip link` lists, or <interface>.<vlan>"));
            };
            route::add_vlan(&mut batch, name, base.index, number, &mark(&self.bridge_name));
        }
        route.run(batch).map_err(failed)?;
        let link = route.link(name).map_err(failed)?;
        let index = link.ok_or_else(|| Error::internal(format!("interface {name} vanished")))?.index;
        let mut batch = Batch::default();
        route::set_up(&mut batch, index);
        route.run(batch).map_err(failed)?;
        Ok(index)
    }

    /// Takes away what [`Shared::raise_parent`] made; the host's own interfaces stay.
    pub(super) fn remove_parent(&self, route: &mut Route, network: &Network) -> Result<(), NetlinkError> {
        match route.link(&network.bridge)? {
            Some(link) if link.alias == mark(&self.bridge_name) => {
                let mut batch = Batch::default();
                route::delete_link(&mut batch, &network.bridge);
                route.run(batch)
            }
            _ => Ok(()),
        }
    }
}
