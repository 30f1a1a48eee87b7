//! `--network` in both forms, and the flags that belong to it.

use super::csv;
use serde_json::{Map, Value as Json, json};

/// One network a container joins.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) links: Vec<String>,
    pub(crate) ip: String,
    pub(crate) ip6: String,
    pub(crate) mac: String,
    pub(crate) link_local: Vec<String>,
    pub(crate) driver_options: Vec<(String, String)>,
    pub(crate) priority: i64,
}

impl Attachment {
    /// `back` or `name=back,alias=db,ip=10.0.0.5,mac-address=..,driver-opt=k=v,gw-priority=1`.
    pub(crate) fn parse(text: &str) -> Result<Attachment, String> {
        let mut out = Attachment::default();
        if !text.contains('=') {
            text.clone_into(&mut out.name);
            return Ok(out);
        }
        for field in csv(text)? {
            let Some((key, value)) = field.split_once('=') else { return Err(format!("invalid field {field}")) };
            match key.trim().to_ascii_lowercase().as_str() {
                "name" => value.clone_into(&mut out.name),
                "alias" => out.aliases.push(value.to_owned()),
                "ip" => value.clone_into(&mut out.ip),
                "ip6" => value.clone_into(&mut out.ip6),
                "mac-address" => value.clone_into(&mut out.mac),
                "link-local-ip" => out.link_local.push(value.to_owned()),
                "driver-opt" => out.driver_options.push(super::key_value(value)),
                "gw-priority" => out.priority = value.parse().map_err(|_| format!("invalid gw-priority ({value})"))?,
                _ => return Err(format!("invalid field key {key}")),
            }
        }
        if out.name.is_empty() {
            return Err("network name/id is not specified".to_owned());
        }
        Ok(out)
    }

    pub(crate) fn is_user_defined(&self) -> bool {
        !matches!(self.name.as_str(), "" | "default" | "bridge" | "host" | "none")
            && !self.name.starts_with("container:")
    }

    /// The API's `EndpointSettings`.
    pub(crate) fn endpoint(&self) -> Json {
        let null_if_empty = |list: &[String]| if list.is_empty() { Json::Null } else { json!(list) };
        let mut ipam = Map::new();
        for (key, value) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if !value.is_empty() {
                ipam.insert(key.into(), json!(value));
            }
        }
        if !self.link_local.is_empty() {
            ipam.insert("LinkLocalIPs".into(), json!(self.link_local));
        }
        let options: Map<String, Json> = self.driver_options.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        json!({
            "IPAMConfig": if ipam.is_empty() { Json::Null } else { Json::Object(ipam) },
            "Links": null_if_empty(&self.links),
            "Aliases": null_if_empty(&self.aliases),
            "MacAddress": self.mac,
            "DriverOpts": if options.is_empty() { Json::Null } else { Json::Object(options) },
            "GwPriority": self.priority,
            "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
        })
    }
}

/// `--add-host name:ip` or `name=ip`; `host-gateway` stands for the host's address.
pub(crate) fn extra_host(text: &str) -> Result<String, String> {
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((text, ""));
    if name.is_empty() || address.is_empty() {
        return Err(format!("bad format for add-host: {text:?}"));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{name}:{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form_names_everything() {
        let a = Attachment::parse("name=back,alias=db,alias=sql,ip=10.0.0.5,driver-opt=a=b,gw-priority=-1").unwrap();
        assert_eq!((a.name.as_str(), a.aliases.len(), a.ip.as_str(), a.priority), ("back", 2, "10.0.0.5", -1));
        assert_eq!(a.driver_options, [("a".to_owned(), "b".to_owned())]);
        assert!(a.is_user_defined());
        for bad in ["alias=x", "name=a,foo=b", "name=a,junk"] {
            assert!(Attachment::parse(bad).is_err(), "{bad}");
        }
        assert!(!Attachment::parse("container:web").unwrap().is_user_defined());
    }

    #[test]
    fn extra_hosts_are_name_and_address() {
        assert_eq!(extra_host("a:1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(extra_host("a=[::1]").unwrap(), "a:::1");
        assert_eq!(extra_host("a:::1").unwrap(), "a:::1");
        assert_eq!(extra_host("h:host-gateway").unwrap(), "h:host-gateway");
        assert!(extra_host("a").is_err() && extra_host("a:x").is_err());
    }
}
