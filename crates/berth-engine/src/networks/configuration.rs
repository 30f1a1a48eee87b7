//! Networks that are none: settings with a name, from which others are made (`--config-only`, `--config-from`).
//!
//! One has nothing on the host and nobody on it; what is made from it has its blocks, options and labels, and keeps it
//! from being removed.

use super::state::{Live, Shared, State, random_id};
use super::types::{AddressBlock, BlockSpec, Driver, Network, NetworkSpec, Settings};
use crate::events::now_unix_nanos;
use berth_types::{Error, ErrorKind, NetworkId, Result};

fn forbidden(words: impl Into<String>) -> Error {
    Error::new(ErrorKind::Forbidden, words)
}

impl Shared {
    pub(super) fn create_configuration(&self, state: &mut State, spec: NetworkSpec) -> Result<Network> {
        if !spec.config_from.is_empty() {
            return Err(forbidden("a configuration network cannot depend on another configuration network"));
        }
        let block = |block: &BlockSpec| {
            Some(AddressBlock {
                subnet: block.subnet?,
                range: block.range,
                gateway: block.gateway,
                gateway_chosen: false,
                auxiliary: block.auxiliary.clone(),
            })
        };
        let network = Network {
            id: NetworkId::from_bytes(random_id()?),
            name: spec.name,
            driver: Driver::Null,
            created_unix_nanos: now_unix_nanos(),
            blocks: spec.blocks.iter().filter_map(block).collect(),
            internal: false,
            attachable: false,
            enable_ipv6: spec.enable_ipv6.unwrap_or(false),
            labels: spec.labels,
            options: spec.options,
            ipam_options: spec.ipam_options,
            settings: Some(Settings { enable_ipv4: spec.enable_ipv4, enable_ipv6: spec.enable_ipv6 }),
            config_from: String::new(),
            bridge: String::new(),
        };
        state.networks.insert(network.id.clone(), Live::new(network.clone(), 0));
        if let Err(error) = self.save(state) {
            state.networks.remove(&network.id);
            return Err(error);
        }
        Ok(network)
    }
}

/// What `spec.config_from` says comes into `spec`, which may say nothing of it itself.
pub(super) fn apply(state: &State, spec: &mut NetworkSpec) -> Result<()> {
    let missing = || Error::not_found(format!("configuration network \"{}\" does not exist", spec.config_from));
    let source = &state.find(&spec.config_from).map_err(|_| missing())?.network;
    let Some(settings) = &source.settings else { return Err(missing()) };
    if !spec.options.is_empty() {
        return Err(forbidden(
            "network driver options are not supported if the network depends on a configuration network",
        ));
    }
    let says = !spec.blocks.is_empty()
        || !spec.labels.is_empty()
        || spec.ipam_options.as_ref().is_some_and(|options| !options.is_empty())
        || spec.enable_ipv4 == Some(false)
        || spec.enable_ipv6 == Some(true);
    if says {
        return Err(forbidden(
            "user specified configurations are not supported if the network depends on a configuration network",
        ));
    }
    let block = |block: &AddressBlock| BlockSpec {
        subnet: Some(block.subnet),
        range: block.range,
        gateway: block.gateway,
        auxiliary: block.auxiliary.clone(),
    };
    spec.blocks = source.blocks.iter().map(block).collect();
    spec.labels.clone_from(&source.labels);
    spec.options.clone_from(&source.options);
    spec.ipam_options.clone_from(&source.ipam_options);
    (spec.enable_ipv4, spec.enable_ipv6) = (settings.enable_ipv4, settings.enable_ipv6);
    spec.config_from.clone_from(&source.name);
    Ok(())
}

/// Refuses to remove what others were made from.
pub(super) fn check_unused(state: &State, network: &Network) -> Result<()> {
    let made = |live: &Live| network.settings.is_some() && live.network.config_from == network.name;
    match state.networks.values().any(made) {
        true => {
            Err(forbidden(format!("error while removing network: configuration network {:?} is in use", network.name)))
        }
        false => Ok(()),
    }
}

/// Refuses to join what is no network.
pub(crate) fn check_joinable(network: &Network) -> Result<()> {
    match network.settings {
        Some(_) => Err(forbidden("cannot create endpoint on configuration-only network")
            .with_hint(format!("make a network from it: --config-from {}", network.name))),
        None => Ok(()),
    }
}
