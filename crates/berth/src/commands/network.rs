//! `network ls`, `create`, `rm`, `connect`, `disconnect`.

use crate::app::App;
use crate::cli::Args;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::opts::network::Attachment;
use crate::opts::{self, key_value};
use crate::table::{Listing, short_id};
use crate::value::Value;
use serde_json::{Map, Value as Json, json};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

pub(crate) async fn list(app: &'static App, args: Args) -> Result<u8> {
    let no_trunc = args.on("no-trunc");
    let format = match args.text("format") {
        "" if !args.on("quiet") => app.config.text("networksFormat"),
        format => format,
    };
    let table = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";
    let listing =
        Listing::new(format, table, args.on("quiet").then_some("{{.ID}}"), HEADERS)?.of("*network.networkContext");
    let filters = opts::filter_flag(&args)?;
    let answer = app.client.get_value(&with_query("/networks", &[("filters", &filters)])).await?;
    let mut networks: Vec<&Value> = answer.list().iter().collect();
    networks.sort_by(|a, b| a.text("Name").cmp(b.text("Name")));
    let rows: Vec<Value> = networks
        .into_iter()
        .map(|n| {
            let labels: Vec<(String, String)> =
                n.get("Labels").map().iter().map(|(k, v)| (k.clone(), v.str().to_owned())).collect();
            let text: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let id = if no_trunc { n.text("Id").to_owned() } else { short_id(n.text("Id")) };
            Value::Map(vec![
                ("ID".into(), id.into()),
                ("Name".into(), n.text("Name").into()),
                ("Driver".into(), n.text("Driver").into()),
                ("Scope".into(), n.text("Scope").into()),
                ("IPv4".into(), n.get("EnableIPv4").bool().to_string().into()),
                ("IPv6".into(), n.get("EnableIPv6").bool().to_string().into()),
                ("Internal".into(), n.get("Internal").bool().to_string().into()),
                ("Labels".into(), text.join(",").into()),
                ("Label".into(), Value::Lookup(labels)),
                ("CreatedAt".into(), created_at(n.text("Created")).into()),
            ])
        })
        .collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}

/// Go's `Time.String`, which keeps the nanoseconds.
fn created_at(text: &str) -> String {
    match crate::units::parse_time(text) {
        Some(t) => {
            let zoned = t.to_zoned(jiff::tz::TimeZone::UTC);
            let whole = zoned.strftime("%Y-%m-%d %H:%M:%S");
            let nanos = format!("{:09}", t.subsec_nanosecond());
            let nanos = nanos.trim_end_matches('0');
            let dot = if nanos.is_empty() { "" } else { "." };
            format!("{whole}{dot}{nanos} +0000 UTC")
        }
        None => text.to_owned(),
    }
}

fn pairs(args: &Args, flag: &str) -> Map<String, Json> {
    args.list(flag).into_iter().map(key_value).map(|(k, v)| (k, json!(v))).collect()
}

/// Subnets with the range, gateway and reserved addresses that lie in each.
fn ipam(args: &Args) -> Result<Vec<Json>> {
    let subnets = args.commas("subnet");
    let mut configs: Vec<Map<String, Json>> = Vec::new();
    for subnet in &subnets {
        configs.push(Map::from_iter([("Subnet".to_owned(), json!(subnet))]));
    }
    let place = |address: &str| subnets.iter().position(|s| Net::parse(s).is_some_and(|n| n.contains(address)));
    for range in args.commas("ip-range") {
        let at = place(range.split('/').next().unwrap_or_default());
        let at = at.ok_or_else(|| CliError::failed(format!("no matching subnet for range {range}")))?;
        if configs[at].insert("IPRange".into(), json!(range)).is_some() {
            return Err(CliError::failed(format!(
                "cannot configure multiple ranges ({range}) on the same subnet ({})",
                subnets[at]
            )));
        }
    }
    for gateway in args.commas("gateway") {
        let at = place(gateway).ok_or_else(|| CliError::failed(format!("no matching subnet for gateway {gateway}")))?;
        if configs[at].insert("Gateway".into(), json!(gateway)).is_some() {
            return Err(CliError::failed(format!(
                "cannot configure multiple gateways ({gateway}) for the same subnet ({})",
                subnets[at]
            )));
        }
    }
    for (name, address) in args.list("aux-address").into_iter().map(key_value) {
        let at =
            place(&address).ok_or_else(|| CliError::failed(format!("no matching subnet for aux-address {address}")))?;
        let aux = configs[at].entry("AuxiliaryAddresses").or_insert_with(|| json!({}));
        aux[name] = json!(address);
    }
    Ok(configs.into_iter().map(Json::Object).collect())
}

struct Net {
    address: std::net::IpAddr,
    bits: u32,
}

impl Net {
    fn parse(text: &str) -> Option<Net> {
        let (address, bits) = text.split_once('/')?;
        let address: std::net::IpAddr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Net { address, bits })
    }

    fn contains(&self, other: &str) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, other.parse()) {
            (V4(a), Ok(V4(b))) => {
                let shift = 32 - self.bits;
                a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
            }
            (V6(a), Ok(V6(b))) => {
                let shift = 128 - self.bits;
                a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

pub(crate) async fn create(app: &'static App, args: Args) -> Result<u8> {
    let driver = if args.changed("driver") { args.text("driver") } else { "bridge" };
    let ipam_driver = if args.changed("ipam-driver") { args.text("ipam-driver") } else { "default" };
    let mut body = json!({
        "Name": args.words[0],
        "Driver": driver,
        "Scope": args.text("scope"),
        "IPAM": {"Driver": ipam_driver, "Options": pairs(&args, "ipam-opt"), "Config": ipam(&args)?},
        "Internal": args.on("internal"),
        "Attachable": args.on("attachable"),
        "Ingress": args.on("ingress"),
        "ConfigOnly": args.on("config-only"),
        "ConfigFrom": if args.changed("config-from") { json!({"Network": args.text("config-from")}) } else { Json::Null },
        "Options": pairs(&args, "opt"),
        "Labels": pairs(&args, "label"),
    });
    for (flag, key) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if args.changed(flag) {
            body[key] = json!(args.on(flag));
        }
    }
    let answer = app.client.post_json("/networks/create", &body).await?;
    if !answer.text("Warning").is_empty() {
        app.note(&format!("WARNING: {}", answer.text("Warning")));
    }
    app.line(answer.text("Id"))?;
    Ok(0)
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    let force = args.on("force");
    app.each(&args.words, async |name: String| match app.client.delete(&format!("/networks/{}", encode(&name))).await {
        Err(error) if force && error.status() == Some(404) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => app.line(&name),
    })
    .await
}

pub(crate) async fn connect(app: &'static App, args: Args) -> Result<u8> {
    let container = app.container(&args.words[1]).await?;
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let attachment = Attachment {
        name: args.words[0].clone(),
        aliases: owned(args.commas("alias")),
        links: owned(args.list("link")),
        ip: args.text("ip").to_owned(),
        ip6: args.text("ip6").to_owned(),
        mac: String::new(),
        link_local: owned(args.commas("link-local-ip")),
        driver_options: args.commas("driver-opt").into_iter().map(key_value).collect(),
        priority: args.int("gw-priority")?,
    };
    let body = json!({"Container": container, "EndpointConfig": attachment.endpoint()});
    app.client.post_json(&format!("/networks/{}/connect", encode(&args.words[0])), &body).await?;
    Ok(0)
}

pub(crate) async fn disconnect(app: &'static App, args: Args) -> Result<u8> {
    let container = app.container(&args.words[1]).await?;
    let body = json!({"Container": container, "Force": args.on("force")});
    app.client.post_json(&format!("/networks/{}/disconnect", encode(&args.words[0])), &body).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_find_their_subnet() {
        let net = Net::parse("10.1.0.0/16").unwrap();
        assert!(net.contains("10.1.255.1") && !net.contains("10.2.0.1") && !net.contains("::1"));
        assert!(Net::parse("0.0.0.0/0").unwrap().contains("1.2.3.4"));
        assert!(Net::parse("fd00::/8").unwrap().contains("fd12::1"));
        assert!(Net::parse("10.0.0.0/33").is_none() && Net::parse("10.0.0.0").is_none());
    }

    #[test]
    fn times_are_printed_as_go_prints_them() {
        assert_eq!(created_at("2026-11-23T10:00:00.120Z"), "2026-11-23 10:00:00.12 +0000 UTC");
    }
}
