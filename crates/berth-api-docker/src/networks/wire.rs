//! Networks as JSON, in Docker's words.

use crate::json::Fields;
use crate::time::rfc3339_nano;
use crate::version::ApiVersion;
use berth_engine::networks::Subnet;
use berth_engine::networks::{AddressBlock, BlockSpec, Endpoint, NetworkSpec, NetworkView};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::str::FromStr;

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

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
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
            enable_ipv4: match &network.settings {
                Some(asked) => asked.enable_ipv4.unwrap_or(true),
                None => network.blocks.is_empty() || network.blocks.iter().any(|b| b.subnet.address.is_ipv4()),
            },
            enable_ipv6: network.enable_ipv6,
            ipam: IpamJson {
                driver: "default",
                options: network.ipam_options.clone(),
                config: (network.driver.has_addresses() || !network.blocks.is_empty())
                    .then(|| network.blocks.iter().map(IpamBlockJson::from).collect()),
            },
            internal: network.internal,
            attachable: network.attachable,
            ingress: false,
            config_from: ConfigFrom { network: network.config_from.clone() },
            config_only: network.settings.is_some(),
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

fn optional<T: FromStr>(what: &str, text: &str) -> Result<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::invalid(format!("invalid network config:\ninvalid {what}: {text}")))
}

/// One of `IPAM.Config`: as in dockerd each names its subnet.
fn block(fields: &Fields<'_>) -> Result<BlockSpec> {
    let subnet = fields.text("Subnet")?;
    let parsed = subnet.parse().map_err(|_| {
        Error::invalid(format!("invalid network config:\ninvalid subnet {subnet}: invalid CIDR block notation"))
    })?;
    let mut auxiliary = BTreeMap::new();
    for key in ["AuxiliaryAddresses", "AuxAddress"] {
        for (name, address) in fields.text_map(key)? {
            auxiliary.extend(optional("auxiliary address", &address)?.map(|address| (name, address)));
        }
    }
    Ok(BlockSpec {
        subnet: Some(parsed),
        range: optional("ip-range", &fields.text("IPRange")?)?,
        gateway: optional("gateway", &fields.text("Gateway")?)?,
        auxiliary,
    })
}

/// The body of `POST /networks/create`.
pub(super) fn create_body(body: &Value, version: ApiVersion) -> Result<NetworkSpec> {
    let fields = Fields::new(body, "CreateRequest")?;
    let forbidden = |words: &str| Err(Error::new(ErrorKind::Forbidden, words));
    let (ingress, scope) = (fields.flag("Ingress")?, fields.text("Scope")?);
    let config_only = fields.flag("ConfigOnly")?;
    if ingress {
        return forbidden("Ingress network can only be global scope network");
    }
    let local = matches!(scope.as_str(), "" | "local");
    let operators = !scope.is_empty() || fields.flag("Internal")? || fields.flag("Attachable")?;
    if config_only && operators {
        return forbidden(
            "configuration network can only contain network specific fields. Network operator fields like \
             [ ingress | internal | attachable | scope ] are not supported.",
        );
    }
    if scope == "swarm" {
        return forbidden("cannot create a swarm scoped network when swarm is not active");
    }
    if !local {
        return Err(Error::not_implemented("not supported: networks wider than this host need a swarm"));
    }
    let ipam = fields.object("IPAM", "CreateRequest.IPAM")?;
    match ipam.text("Driver")?.as_str() {
        "" | "default" => {}
        other => return Err(Error::not_found(format!("plugin \"{other}\" not found"))),
    }
    let options = ipam.text_map("Options")?;
    Ok(NetworkSpec {
        name: fields.text("Name")?,
        driver: fields.text("Driver")?,
        blocks: ipam.objects("Config", "IPAMConfig")?.iter().map(block).collect::<Result<_>>()?,
        internal: fields.flag("Internal")?,
        attachable: fields.flag("Attachable")?,
        // The field came with 1.48.
        enable_ipv4: fields.flag_or_none("EnableIPv4")?.filter(|_| !version.before(48)),
        enable_ipv6: fields.flag_or_none("EnableIPv6")?,
        labels: fields.text_map("Labels")?,
        options: fields.text_map("Options")?,
        ipam_options: ipam.raw("Options").map(|_| options),
        config_only,
        config_from: fields.object("ConfigFrom", "CreateRequest.ConfigFrom")?.text("Network")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::CURRENT;
    use serde_json::json;

    fn spec(body: Value) -> Result<NetworkSpec> {
        create_body(&body, CURRENT)
    }

    #[test]
    fn what_dockers_client_sends_for_a_plain_network_is_understood() {
        let spec = spec(json!({"Name":"n","Driver":"bridge","Scope":"","EnableIPv6":false,"IPAM":{"Driver":"default",
            "Options":{},"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.1"}]},"Internal":false,"Attachable":false,
            "Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":{},"Labels":{"a":"b"}}))
        .unwrap();
        assert_eq!(spec.blocks[0].gateway, Some("10.9.0.1".parse().unwrap()));
        assert_eq!(spec.labels["a"], "b");
    }

    #[test]
    fn keys_match_in_any_case() {
        let spec = spec(json!({"name":"n","ipam":{"config":[{"subnet":"10.9.0.0/24"}]},"enableipv6":true})).unwrap();
        assert_eq!((spec.name.as_str(), spec.blocks.len(), spec.enable_ipv6), ("n", 1, Some(true)));
    }

    #[test]
    fn nothing_that_is_asked_for_is_silently_dropped() {
        for (body, words) in [
            (json!({"Name":"n","Ingress":true}), "Ingress network can only be global scope network"),
            (json!({"Name":"n","Scope":"swarm"}), "cannot create a swarm scoped network when swarm is not active"),
            (json!({"Name":"n","Scope":"moon"}), "not supported: networks wider than this host need a swarm"),
            (json!({"Name":"n","IPAM":{"Driver":"nope"}}), "plugin \"nope\" not found"),
            (
                json!({"Name":"n","IPAM":{"Config":[{}]}}),
                "invalid network config:\ninvalid subnet : invalid CIDR block notation",
            ),
            (
                json!({"Name":"n","IPAM":{"Config":[{"Subnet":"10.9.0.0/99"}]}}),
                "invalid network config:\ninvalid subnet 10.9.0.0/99: invalid CIDR block notation",
            ),
        ] {
            assert_eq!(spec(body).unwrap_err().message, words);
        }
    }
}
