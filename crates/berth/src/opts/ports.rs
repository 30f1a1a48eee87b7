//! `-p` and `--expose`.
//!
//! ```text
//! [[ip:][host|from-to]:]port|from-to[/tcp|udp|sctp]      ip may be [v6]
//! target=80,published=8080,protocol=tcp,mode=host
//! ```

use super::csv;
use crate::value::Value;
use serde_json::{Map, Value as Json, json};

/// Ports one `-p` may name; more would be a slip that costs a socket each.
const RANGE_MAX: u32 = 65_535;

#[derive(Debug, PartialEq)]
struct Range {
    from: u32,
    to: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let port = |s: &str| s.parse::<u32>().ok().filter(|p| *p <= RANGE_MAX);
        let range = Range { from: port(from)?, to: port(to)? };
        (range.from <= range.to).then_some(range)
    }

    fn len(&self) -> u32 {
        self.to - self.from + 1
    }
}

/// `ExposedPorts` and `PortBindings`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ports {
    pub(crate) exposed: Map<String, Json>,
    pub(crate) bindings: Map<String, Json>,
}

impl Ports {
    pub(crate) fn parse(publish: &[&str], expose: &[&str]) -> Result<Ports, String> {
        let mut ports = Ports::default();
        for spec in publish {
            if spec.contains('=') {
                let spec = long_form(spec)?;
                ports.publish(&spec)?;
            } else {
                ports.publish(spec)?;
            }
        }
        for spec in expose {
            if spec.contains(':') {
                return Err(format!("invalid port format for --expose: {spec}"));
            }
            let (range, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
            let range = Range::parse(range)
                .filter(|r| r.from > 0)
                .ok_or_else(|| format!("invalid range format for --expose: {spec}, error: {}", not_a_port(range)))?;
            let protocol = protocol_of(protocol).ok_or_else(|| format!("invalid proto for --expose: {protocol}"))?;
            for port in range.from..=range.to {
                ports.exposed.insert(format!("{port}/{protocol}"), json!({}));
            }
        }
        Ok(ports)
    }

    fn publish(&mut self, spec: &str) -> Result<(), String> {
        let (body, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
        let protocol = protocol_of(protocol).ok_or_else(|| format!("invalid proto: {protocol}"))?;
        let (rest, container) = body.rsplit_once(':').map_or(("", body), |(r, c)| (r, c));
        let (ip, host) = if body.contains(':') {
            match rest.rsplit_once(':') {
                // `[::1]` has colons of its own.
                Some(_) if rest.starts_with('[') && rest.ends_with(']') => (rest, ""),
                Some((ip, host)) => (ip, host),
                None => ("", rest),
            }
        } else {
            ("", "")
        };
        let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("invalid IP address: {ip}"));
        }
        if container.is_empty() {
            return Err(format!("no port specified: {spec}<empty>"));
        }
        let inside = Range::parse(container)
            .filter(|r| r.from > 0)
            .ok_or_else(|| format!("invalid containerPort: {container}"))?;
        let outside = match host {
            "" => None,
            host => Some(Range::parse(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
        };
        if let Some(outside) = &outside
            && outside.len() != inside.len()
            && inside.len() != 1
        {
            return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
        }
        for offset in 0..inside.len() {
            let host_port = match &outside {
                None => String::new(),
                Some(o) if inside.len() == 1 && o.len() > 1 => format!("{}-{}", o.from, o.to),
                Some(o) => (o.from + offset).to_string(),
            };
            let key = format!("{}/{protocol}", inside.from + offset);
            self.exposed.insert(key.clone(), json!({}));
            let list = self.bindings.entry(key).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!({"HostIp": ip, "HostPort": host_port}));
            }
        }
        Ok(())
    }
}

/// `PortBindings` as they are, without those that `remove` names, and with those of `add`.
pub(crate) fn change(now: &Value, add: &[&str], remove: &[&str]) -> Result<Json, String> {
    let mut bindings: Map<String, Json> = Map::new();
    for (port, list) in now.map() {
        let of = |b: &Value| json!({"HostIp": b.text("HostIp"), "HostPort": b.text("HostPort")});
        bindings.insert(port.clone(), list.list().iter().map(of).collect());
    }
    for spec in remove {
        let (before, asked) = (bindings.len(), Ports::parse(&[spec], &[])?);
        let mut found = false;
        for (port, wanted) in asked.bindings {
            // A bare port means whatever leads to it.
            let all = !spec.contains(':') && !spec.contains('=');
            let Some(Json::Array(list)) = bindings.get_mut(&port) else { continue };
            let length = list.len();
            list.retain(|binding| !all && wanted.as_array().is_none_or(|wanted| !wanted.contains(binding)));
            found |= list.len() != length || all;
        }
        bindings.retain(|_, list| list.as_array().is_none_or(|list| !list.is_empty()));
        if !found && before == bindings.len() {
            return Err(format!("nothing is published as {spec}"));
        }
    }
    for (port, more) in Ports::parse(add, &[])?.bindings {
        let list = bindings.entry(port).or_insert_with(|| json!([]));
        if let (Json::Array(list), Json::Array(more)) = (list, more) {
            list.extend(more.into_iter().filter(|binding| !list.contains(binding)).collect::<Vec<_>>());
        }
    }
    Ok(Json::Object(bindings))
}

/// Go's words for text that is no number.
fn not_a_port(range: &str) -> String {
    let bad = range.split('-').find(|part| part.parse::<u32>().is_err());
    match bad {
        Some(bad) => format!("strconv.ParseUint: parsing {bad:?}: invalid syntax"),
        None => format!("invalid range specified for the Port: {range}"),
    }
}

fn protocol_of(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    matches!(lower.as_str(), "tcp" | "udp" | "sctp").then_some(lower)
}

fn long_form(spec: &str) -> Result<String, String> {
    let (mut target, mut published, mut protocol) = (String::new(), String::new(), "tcp".to_owned());
    for field in csv(spec)? {
        let Some((key, value)) = field.split_once('=') else { return Err(format!("invalid field: {field}")) };
        match key.to_ascii_lowercase().as_str() {
            "target" => value.clone_into(&mut target),
            "published" => value.clone_into(&mut published),
            "protocol" => value.clone_into(&mut protocol),
            "mode" if matches!(value, "host" | "ingress") => {}
            "mode" => return Err(format!("invalid publish mode value ({value}): must be either 'ingress' or 'host'")),
            _ => return Err(format!("invalid field key: {key}")),
        }
    }
    if target.is_empty() {
        return Err("missing mandatory field 'target'".to_owned());
    }
    Ok(if published.is_empty() { format!("{target}/{protocol}") } else { format!("{published}:{target}/{protocol}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(spec: &str) -> String {
        match Ports::parse(&[spec], &[]) {
            Ok(ports) => Json::Object(ports.bindings).to_string(),
            Err(e) => format!("ERROR {e}"),
        }
    }

    #[test]
    fn published_ports_are_added_and_taken_away() {
        let now = Value::parse(
            br#"{"80/tcp":[{"HostIp":"","HostPort":"8080"},{"HostIp":"127.0.0.1","HostPort":"81"}],"53/udp":[{"HostIp":"","HostPort":"53"}]}"#,
        )
        .unwrap();
        let changed = |add: &[&str], remove: &[&str]| change(&now, add, remove).map(|json| json.to_string());
        let dns = r#""53/udp":[{"HostIp":"","HostPort":"53"}]"#;
        assert_eq!(
            changed(&[], &["8080:80"]).unwrap(),
            format!(r#"{{"80/tcp":[{{"HostIp":"127.0.0.1","HostPort":"81"}}],{dns}}}"#)
        );
        assert_eq!(changed(&[], &["80"]).unwrap(), format!("{{{dns}}}"));
        assert_eq!(
            changed(&["9:9", "53:53/udp"], &["80/tcp"]).unwrap(),
            format!(r#"{{{dns},"9/tcp":[{{"HostIp":"","HostPort":"9"}}]}}"#)
        );
        assert!(changed(&[], &["8081:80"]).unwrap_err().contains("nothing is published as 8081:80"));
        assert!(changed(&["x:y"], &[]).is_err());
    }

    #[test]
    fn every_form_of_publishing_is_read() {
        for (spec, expected) in [
            ("80", r#"{"80/tcp":[{"HostIp":"","HostPort":""}]}"#),
            ("8080:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("8080:80/UDP", r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("127.0.0.1:8080:80", r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}"#),
            ("127.0.0.1::80", r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]}"#),
            ("[::1]:8080:80", r#"{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}]}"#),
            ("[::1]::80", r#"{"80/tcp":[{"HostIp":"::1","HostPort":""}]}"#),
            (
                "8000-8001:80-81",
                r#"{"80/tcp":[{"HostIp":"","HostPort":"8000"}],"81/tcp":[{"HostIp":"","HostPort":"8001"}]}"#,
            ),
            ("8000-8010:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8000-8010"}]}"#),
            ("target=80,published=8080,protocol=udp", r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("80-82:80-81", "ERROR invalid ranges specified for container and host Ports: 80-81 and 80-82"),
            ("x:80", "ERROR invalid hostPort: x"),
            ("80:x", "ERROR invalid containerPort: x"),
            ("80:0", "ERROR invalid containerPort: 0"),
            ("70000:80", "ERROR invalid hostPort: 70000"),
            ("80/icmp", "ERROR invalid proto: icmp"),
            ("nonsense:80:80", "ERROR invalid IP address: nonsense"),
            ("81-80", "ERROR invalid containerPort: 81-80"),
        ] {
            assert_eq!(bindings(spec), expected, "{spec}");
        }
    }

    #[test]
    fn exposing_takes_ranges_and_protocols() {
        let ports = Ports::parse(&[], &["80-81/udp", "443"]).unwrap();
        assert_eq!(ports.exposed.keys().collect::<Vec<_>>(), ["80/udp", "81/udp", "443/tcp"]);
        assert!(ports.bindings.is_empty());
        assert!(Ports::parse(&[], &["a"]).is_err());
    }
}
