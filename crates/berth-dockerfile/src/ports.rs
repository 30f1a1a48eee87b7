//! `EXPOSE 80 8000-8002/udp`.

/// What was noticed beside the ports.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Its protocol is not in lower case.
    pub casing: bool,
    /// An address or a host's port was given, which means nothing here.
    pub mapping: bool,
}

/// Ports of one word as `number/protocol`, in BuildKit's words when there are none.
pub fn exposed(word: &str) -> Result<(Vec<String>, Notes), String> {
    let parts: Vec<&str> = word.split(':').collect();
    let (address, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [address @ .., host, container] => (address.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let context = |cause: &str| format!("invalid port: {}: {cause}", crate::quote(word));
    let (port, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let protocol = if protocol.is_empty() { "tcp" } else { protocol };
    if port.is_empty() {
        return Err(context("no port specified"));
    }
    let lower = protocol.to_lowercase();
    if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        return Err(context(&format!("invalid proto: {protocol}")));
    }
    let notes = Notes { casing: protocol != lower, mapping: !address.is_empty() || !host.is_empty() };
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&address);
    if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (first, last) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (low, high) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != high - low && first != last {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok(((first..=last).map(|port| format!("{port}/{lower}")).collect(), notes))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_ranges_and_protocols() {
        assert_eq!(exposed("80").unwrap().0, ["80/tcp"]);
        assert_eq!(
            exposed("8000-8001/UDP").unwrap(),
            (vec!["8000/udp".to_owned(), "8001/udp".to_owned()], Notes { casing: true, mapping: false })
        );
        assert!(exposed("127.0.0.1:80:8080").unwrap().1.mapping);
        for (bad, message) in [
            ("80/icmp", "invalid port: \"80/icmp\": invalid proto: icmp"),
            ("", "invalid port: \"\": no port specified"),
            ("x", "invalid containerPort: x"),
            ("65536", "invalid containerPort: 65536"),
            ("9-8", "invalid containerPort: 9-8"),
        ] {
            assert_eq!(exposed(bad).unwrap_err(), message);
        }
    }
}
