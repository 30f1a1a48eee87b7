//! What the networks' operations take and answer.

use berth_net::addresses::Subnet;
use berth_types::spec::{EndpointSpec, HostConfig, PortProto};
use berth_types::{ContainerId, NetworkId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// What a container asks of the network when it starts. `host` and `container:` modes never get here: the
/// engine handles them; `none` asks with no networks and gets a namespace with only loopback.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    pub id: &'a ContainerId,
    pub name: &'a str,
    /// Network name or id → how to join it, the primary network first by name in `primary`.
    pub endpoints: &'a BTreeMap<String, EndpointSpec>,
    pub primary: Option<&'a str>,
    pub host: &'a HostConfig,
    pub exposed_ports: &'a BTreeSet<PortProto>,
    /// Answered for as well on user networks, where the caller chose one; else empty.
    pub hostname: &'a str,
}

/// What a container has of the network; stored in its record, shown by `inspect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// The network namespace's file. Good while the engine that made it runs; afterwards a running
    /// container's is `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    /// By network name. Boxed: a leaf of the map has room for eleven, and nearly every container has one.
    pub endpoints: BTreeMap<String, Box<Endpoint>>,
    /// Published ports: where each listens on the host.
    #[serde(with = "berth_types::port_runs")]
    pub ports: BTreeMap<PortProto, Vec<(IpAddr, u16)>>,
    /// Its names are answered at 127.0.0.11.
    pub names: bool,
    /// Name servers of its own, which are asked for everything else; empty: the host's.
    pub dns_servers: Vec<IpAddr>,
    /// For `host-gateway` in extra hosts.
    pub host_gateway: Option<IpAddr>,
    /// Addresses and names of other containers, for the hosts file: linked ones, and where nobody answers for
    /// names, those on the same user networks.
    pub neighbours: Vec<(IpAddr, String)>,
    /// What its processes are told of linked containers.
    pub link_env: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub network_id: Option<NetworkId>,
    /// 64 hexadecimal digits.
    pub endpoint_id: String,
    /// The interface inside: `eth0`.
    pub interface: String,
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The network's; the way out for the one endpoint with `default_route`.
    pub gateway: Option<Ipv4Addr>,
    pub ipv6: Option<(Ipv6Addr, u8)>,
    pub ipv6_gateway: Option<Ipv6Addr>,
    pub default_route: bool,
    /// The network's; 0: nobody said.
    pub mtu: u32,
    /// Which of the network's bridges it hangs on; 0: the first.
    pub shard: usize,
    pub mac_address: String,
    pub aliases: Vec<String>,
    pub dns_names: Vec<String>,
    pub spec: EndpointSpec,
}

/// How a network moves packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    Bridge,
    Macvlan,
    Host,
    Null,
}

impl Driver {
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Host => "host",
            Driver::Null => "null",
        }
    }
}

/// One block of a network's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressBlock {
    pub subnet: Subnet,
    /// Where addresses are chosen from.
    #[serde(default)]
    pub range: Option<Subnet>,
    /// The host's address on the bridge, or another router's; `None`: nobody's.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The gateway was chosen for a subnet that was asked for: Docker's answers show what was asked for.
    #[serde(default)]
    pub gateway_chosen: bool,
    /// Addresses that other machines have, by name.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// A network as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: String,
    pub driver: Driver,
    pub created_unix_nanos: i64,
    pub blocks: Vec<AddressBlock>,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv6: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// What the client said to the address management, which has no options; `None`: nothing.
    #[serde(default)]
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// It is no network: others are made with its blocks, options and labels, and these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// The name of what it was made with; empty: of nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config_from: String,
    /// The bridge's interface, or a macvlan's parent; empty for the others.
    pub bridge: String,
}

/// What a configuration's client said beyond blocks, options and labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
}

impl Network {
    /// One of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        is_predefined(&self.name)
    }
}

pub(crate) fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none" | "default")
}

/// A network and who is on it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkView {
    pub network: Network,
    /// Running containers: id, name, endpoint.
    pub containers: Vec<(ContainerId, String, Endpoint)>,
    /// Of each block: addresses that are taken, and those left to choose from.
    pub usage: Vec<(Subnet, u64, u64)>,
}

/// One address block as a caller asks for it; empty means: choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSpec {
    pub subnet: Option<Subnet>,
    pub range: Option<Subnet>,
    pub gateway: Option<IpAddr>,
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// A network that is to be made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkSpec {
    pub name: String,
    /// Empty: `bridge`.
    pub driver: String,
    pub blocks: Vec<BlockSpec>,
    pub internal: bool,
    pub attachable: bool,
    /// `None`: yes.
    pub enable_ipv4: Option<bool>,
    /// `None`: where the host has it.
    pub enable_ipv6: Option<bool>,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Nothing but settings with a name.
    pub config_only: bool,
    /// The settings to make it with; empty: those of this request.
    pub config_from: String,
}

/// A running container's interface and what went through it, from its own point of view.
pub type InterfaceCounters = (String, berth_net::route::Counters);
