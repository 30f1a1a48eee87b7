//! Networks as JSON, in Docker's words.

use crate::time::rfc3339_nano;
use crate::version::ApiVersion;
use berth_engine::networks::Subnet;
use berth_engine::networks::{AddressBlock, BlockSpec, Endpoint, NetworkSpec, NetworkView};
use berth_types::{ContainerId, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// `null` stands for the empty value wherever Go clients send it.
fn or_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkJson {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: &'static str,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: IpamJson,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<String, ContainerJson>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusJson>,
}

#[derive(Debug, Serialize)]
struct StatusJson {
    #[serde(rename = "IPAM")]
    ipam: IpamStatusJson,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamStatusJson {
    subnets: BTreeMap<String, SubnetStatusJson>,
}

#[derive(Debug, Serialize)]
struct SubnetStatusJson {
    #[serde(rename = "IPsInUse")]
    in_use: u64,
    #[serde(rename = "DynamicIPsAvailable")]
    available: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamJson {
    driver: &'static str,
    options: Option<BTreeMap<String, String>>,
    /// `null` for networks without addresses.
    config: Option<Vec<IpamBlockJson>>,
}

#[derive(Debug, Serialize)]
struct IpamBlockJson {
    #[serde(rename = "Subnet")]
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    range: String,
    #[serde(rename = "Gateway", skip_serializing_if = "String::is_empty")]
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct ContainerJson {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "MacAddress")]
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

impl From<&AddressBlock> for IpamBlockJson {
    fn from(block: &AddressBlock) -> IpamBlockJson {
        IpamBlockJson {
            subnet: block.subnet.to_string(),
            range: block.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: block
                .gateway
                .filter(|_| !block.gateway_chosen)
                .map(|address| address.to_string())
                .unwrap_or_default(),
            auxiliary: block.auxiliary.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
        }
    }
}

impl NetworkJson {
    /// As lists show it: who is on it is left to inspect.
    pub(super) fn without_containers(view: &NetworkView) -> NetworkJson {
        NetworkJson::render(view, &[])
    }

    fn render(view: &NetworkView, containers: &[(ContainerId, String, Endpoint)]) -> NetworkJson {
        let network = &view.network;
        let container = |(id, name, endpoint): &(ContainerId, String, Endpoint)| {
            let text = |address: Option<(String, u8)>| address.map(|(a, p)| format!("{a}/{p}")).unwrap_or_default();
            let json = ContainerJson {
                name: name.clone(),
                endpoint_id: endpoint.endpoint_id.clone(),
                mac_address: endpoint.mac_address.clone(),
                ipv4_address: text(endpoint.ipv4.map(|(a, p)| (a.to_string(), p))),
                ipv6_address: text(endpoint.ipv6.map(|(a, p)| (a.to_string(), p))),
            };
            (id.to_string(), json)
        };
        let mut options = network.options.clone();
        if network.is_predefined() && !network.bridge.is_empty() {
            options.entry("com.docker.network.bridge.name".to_owned()).or_insert_with(|| network.bridge.clone());
        }
        NetworkJson {
            name: network.name.clone(),
            id: network.id.to_string(),
            created: rfc3339_nano(network.created_unix_nanos),
            scope: "local",
            driver: network.driver.as_str(),
            enable_ipv4: network.blocks.is_empty() || network.blocks.iter().any(|b| b.subnet.address.is_ipv4()),
            enable_ipv6: network.enable_ipv6,
            ipam: IpamJson {
                driver: "default",
                options: network.ipam_options.clone(),
                config: network
                    .driver
                    .has_addresses()
                    .then(|| network.blocks.iter().map(IpamBlockJson::from).collect()),
            },
            internal: network.internal,
            attachable: network.attachable,
            ingress: false,
            config_from: ConfigFrom::default(),
            config_only: false,
            containers: containers.iter().map(container).collect(),
            options,
            labels: network.labels.clone(),
            status: None,
        }
    }

    /// How full its subnets are.
    pub(super) fn with_status(mut self, view: &NetworkView) -> NetworkJson {
        let subnet = |&(subnet, in_use, available): &(Subnet, u64, u64)| {
            (subnet.to_string(), SubnetStatusJson { in_use, available })
        };
        let subnets = view.usage.iter().map(subnet).collect();
        self.status = Some(StatusJson { ipam: IpamStatusJson { subnets } });
        self
    }
}

impl From<&NetworkView> for NetworkJson {
    fn from(view: &NetworkView) -> NetworkJson {
        NetworkJson::render(view, &view.containers)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateBody {
    name: String,
    #[serde(deserialize_with = "or_default")]
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM", deserialize_with = "or_default")]
    ipam: IpamBody,
    #[serde(deserialize_with = "or_default")]
    internal: bool,
    #[serde(deserialize_with = "or_default")]
    attachable: bool,
    #[serde(deserialize_with = "or_default")]
    ingress: bool,
    #[serde(deserialize_with = "or_default")]
    config_only: bool,
    #[serde(deserialize_with = "or_default")]
    config_from: ConfigFrom,
    #[serde(deserialize_with = "or_default")]
    scope: String,
    #[serde(deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamBody {
    #[serde(deserialize_with = "or_default")]
    driver: String,
    options: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "or_default")]
    config: Vec<IpamBlockBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IpamBlockBody {
    #[serde(rename = "Subnet", deserialize_with = "or_default")]
    subnet: String,
    #[serde(rename = "IPRange", deserialize_with = "or_default")]
    range: String,
    #[serde(rename = "Gateway", deserialize_with = "or_default")]
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses", alias = "AuxAddress", deserialize_with = "or_default")]
    auxiliary: BTreeMap<String, String>,
}

fn optional<T: FromStr>(what: &str, text: &str) -> Result<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let which = match what {
            "subnet" => format!("subnet {text}: invalid CIDR block notation"),
            _ => format!("{what}: {text}"),
        };
        Error::invalid(format!("invalid network config:\ninvalid {which}"))
    })
}

impl CreateBody {
    pub(super) fn into_spec(mut self, version: ApiVersion) -> Result<NetworkSpec> {
        if version.before(48) {
            self.enable_ipv4 = None;
        }
        for (asked, what) in [
            (self.ingress, "ingress networks need a swarm"),
            (self.config_only || !self.config_from.network.is_empty(), "configuration-only networks need a swarm"),
            (!matches!(self.scope.as_str(), "" | "local"), "networks wider than this host need a swarm"),
            (!matches!(self.ipam.driver.as_str(), "" | "default"), "address management by plugins"),
        ] {
            if asked {
                return Err(Error::not_implemented(format!("not supported: {what}")));
            }
        }
        let block = |body: IpamBlockBody| {
            let mut auxiliary = BTreeMap::new();
            for (name, address) in body.auxiliary {
                auxiliary.extend(optional("auxiliary address", &address)?.map(|address| (name, address)));
            }
            Ok(BlockSpec {
                subnet: optional("subnet", &body.subnet)?,
                range: optional("ip-range", &body.range)?,
                gateway: optional("gateway", &body.gateway)?,
                auxiliary,
            })
        };
        Ok(NetworkSpec {
            name: self.name,
            driver: self.driver,
            blocks: self.ipam.config.into_iter().map(block).collect::<Result<_>>()?,
            internal: self.internal,
            attachable: self.attachable,
            enable_ipv4: self.enable_ipv4,
            enable_ipv6: self.enable_ipv6,
            labels: self.labels,
            options: self.options,
            ipam_options: self.ipam.options,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConnectBody {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container: String,
    /// As in a container's creation.
    #[serde(default)]
    pub(super) endpoint_config: serde_json::Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DisconnectBody {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::CURRENT;

    #[test]
    fn what_dockers_client_sends_for_a_plain_network_is_understood() {
        let body = r#"{"Name":"n","Driver":"bridge","Scope":"","EnableIPv6":false,"IPAM":{"Driver":"default",
            "Options":{},"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.1"}]},"Internal":false,"Attachable":false,
            "Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":{},"Labels":{"a":"b"}}"#;
        let spec = serde_json::from_str::<CreateBody>(body).unwrap().into_spec(CURRENT).unwrap();
        assert_eq!(spec.blocks[0].gateway, Some("10.9.0.1".parse().unwrap()));
        assert_eq!(spec.labels["a"], "b");
        let wrong = r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.9.0.0/99"}]}}"#;
        assert!(serde_json::from_str::<CreateBody>(wrong).unwrap().into_spec(CURRENT).is_err());
    }

    #[test]
    fn nothing_that_is_asked_for_is_silently_dropped() {
        for body in [r#"{"Name":"n","Ingress":true}"#, r#"{"Name":"n","Scope":"swarm"}"#] {
            assert!(serde_json::from_str::<CreateBody>(body).unwrap().into_spec(CURRENT).is_err(), "{body}");
        }
    }
}
