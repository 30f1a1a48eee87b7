//! Networks as the engine's users see them.

use crate::Engine;
use berth_types::spec::{EndpointSpec, HostConfig, PortProto};
use berth_types::{ContainerId, Error, NetworkId, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// The engine's networks.
#[derive(Clone)]
pub struct Networks {
    engine: Engine,
}

/// What a container asks of the network when it starts. `none`, `host` and `container:` modes never get
/// here: the engine handles `host` and `container:`; `none` asks with no networks and gets a namespace with
/// only loopback.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    pub id: &'a ContainerId,
    pub name: &'a str,
    /// Network name or id → how to join it, the primary network first by name in `primary`.
    pub endpoints: &'a BTreeMap<String, EndpointSpec>,
    pub primary: Option<&'a str>,
    pub host: &'a HostConfig,
    pub exposed_ports: &'a BTreeSet<PortProto>,
}

/// What a container has of the network; stored in its record, shown by `inspect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// The network namespace, bind-mounted there.
    pub netns: PathBuf,
    /// By network name.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Published ports: where each listens on the host.
    pub ports: BTreeMap<PortProto, Vec<(IpAddr, u16)>>,
    /// Name servers, search domains and options for resolv.conf where the caller gave none; empty: the host's.
    pub dns_servers: Vec<IpAddr>,
    /// For `host-gateway` in extra hosts.
    pub host_gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub network_id: Option<NetworkId>,
    /// 64 hexadecimal digits.
    pub endpoint_id: String,
    pub ipv4: Option<(Ipv4Addr, u8)>,
    pub gateway: Option<Ipv4Addr>,
    pub ipv6: Option<(Ipv6Addr, u8)>,
    pub ipv6_gateway: Option<Ipv6Addr>,
    pub mac_address: String,
    pub aliases: Vec<String>,
    pub dns_names: Vec<String>,
    pub spec: EndpointSpec,
}

impl Networks {
    pub(crate) fn new(engine: Engine) -> Networks {
        Networks { engine }
    }

    /// Namespace, addresses, routes, published ports: all of a container's network, or nothing.
    pub async fn attach(&self, request: AttachRequest<'_>) -> Result<Attachment> {
        let _ = &self.engine;
        Err(Error::not_implemented(format!("network of {}", request.name)))
    }

    /// Gives all of it back; goes on after failures, and what is already gone is done.
    pub async fn detach(&self, _id: &ContainerId, _attachment: &Attachment) -> Result<()> {
        Ok(())
    }

    /// After a restart of the engine: `attached` (id, what it has) are running and keep what they have;
    /// everything else of ours (namespaces, veths, firewall entries, addresses) is removed.
    pub async fn recover(&self, _attached: Vec<(ContainerId, Attachment)>) -> Result<()> {
        Ok(())
    }

    /// The name and id of the network that `reference` means, or `network x not found`.
    pub fn resolve(&self, reference: &str) -> Result<(String, NetworkId)> {
        Err(Error::not_found(format!("network {reference} not found")))
    }
}
