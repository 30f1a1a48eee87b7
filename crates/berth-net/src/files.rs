//! `/etc/hosts` and `/etc/resolv.conf` of a container. Pure: texts in, text out.

use std::fmt::Write;
use std::net::IpAddr;

/// glibc reads three name servers; more only lengthen the file.
pub const NAME_SERVERS_MAX: usize = 3;
/// Larger files of a host are cut: nobody's resolver reads so much.
pub const HOST_FILE_BYTES_MAX: usize = 64 * 1024;

/// What goes into a container's hosts file.
#[derive(Debug, Clone, Default)]
pub struct Hosts<'a> {
    pub hostname: &'a str,
    pub domainname: &'a str,
    /// The container's own addresses.
    pub own: &'a [IpAddr],
    /// Address and names, in the caller's order: extra hosts, links, neighbours.
    pub others: &'a [(IpAddr, String)],
    pub ipv6: bool,
}

/// The text of `/etc/hosts`.
pub fn hosts(hosts: &Hosts<'_>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n".to_owned();
    if hosts.ipv6 {
        text += "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                 ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    }
    let mut line = |address: &IpAddr, names: &str| {
        writeln!(text, "{address}\t{names}").expect("writing to a string does not fail");
    };
    for (address, names) in hosts.others {
        line(address, names);
    }
    let names = match (hosts.hostname, hosts.domainname) {
        (hostname, "") => hostname.to_owned(),
        (hostname, domainname) => format!("{hostname}.{domainname} {hostname}"),
    };
    if !names.is_empty() {
        for address in hosts.own {
            line(address, &names);
        }
    }
    text
}

/// An `--add-host` entry that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHostError {
    #[error("bad format for add-host: {0:?}")]
    Format(String),
    #[error("invalid IP address in add-host: {0:?}")]
    Address(String),
    #[error("unable to derive the IP value for host-gateway")]
    NoGateway,
}

/// Reads `name:address`, `name=address` (both with brackets allowed) and `name:host-gateway`.
pub fn extra_host(entry: &str, host_gateway: Option<IpAddr>) -> Result<(IpAddr, String), ExtraHostError> {
    let split = entry.split_once('=').or_else(|| entry.split_once(':'));
    let (name, address) = split.ok_or_else(|| ExtraHostError::Format(entry.to_owned()))?;
    if name.is_empty() || name.contains(char::is_whitespace) || name.contains(char::is_control) {
        return Err(ExtraHostError::Format(entry.to_owned()));
    }
    if address == "host-gateway" {
        return Ok((host_gateway.ok_or(ExtraHostError::NoGateway)?, name.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| ExtraHostError::Address(address.to_owned()))?;
    Ok((address, name.to_owned()))
}

/// What the caller wants in resolv.conf; empty: the host's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resolver<'a> {
    pub servers: &'a [String],
    /// A single `.` means none.
    pub search: &'a [String],
    pub options: &'a [String],
    /// Shares the host's network namespace: the host's loopback servers can be reached.
    pub host_network: bool,
    /// The container's own name server answers, and asks the others itself.
    pub embedded: bool,
}

/// The text of `/etc/resolv.conf`, made of the host's. Name servers on loopback are left out, as nobody
/// answers there inside; when none is left, public ones stand in as Docker does it.
pub fn resolv_conf(host: &str, wanted: &Resolver<'_>) -> String {
    let host = host.get(..HOST_FILE_BYTES_MAX).unwrap_or(host);
    let (mut servers, mut search, mut options) = (Vec::new(), Vec::new(), Vec::new());
    for line in host.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
            // The last line of the two wins (resolv.conf(5)).
            Some("search" | "domain") => search = words.map(str::to_owned).collect(),
            Some("options") => options.extend(words.map(str::to_owned)),
            _ => (),
        }
    }
    if !wanted.host_network {
        // A zone (`fe80::1%eth0`) names an interface of the host, which is not there inside.
        servers.retain(|server| server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback()));
    }
    if !wanted.servers.is_empty() {
        servers = wanted.servers.to_vec();
    }
    if servers.is_empty() {
        servers = vec!["8.8.8.8".to_owned(), "8.8.4.4".to_owned()];
    }
    if !wanted.search.is_empty() {
        search = wanted.search.iter().filter(|domain| *domain != ".").cloned().collect();
    }
    if !wanted.options.is_empty() {
        options = wanted.options.to_vec();
    }
    servers.truncate(NAME_SERVERS_MAX.max(wanted.servers.len()));
    if wanted.embedded {
        servers = vec![crate::names::ADDRESS.to_string()];
        // Names of containers have no dot: they are asked for as they are before any domain is tried behind them.
        if !options.iter().any(|option| option.starts_with("ndots:")) {
            options.push("ndots:0".to_owned());
        }
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (word, values) in [("search", &search), ("options", &options)] {
        if !values.is_empty() {
            text += &format!("{word} {}\n", values.join(" "));
        }
    }
    text
}

/// The text of `/etc/hostname`.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_name_comes_last_and_the_domain_first() {
        let own = ["172.17.0.2".parse().unwrap()];
        let others = [("10.0.0.9".parse().unwrap(), "db".to_owned())];
        let text = hosts(&Hosts { hostname: "web", domainname: "lan", own: &own, others: &others, ipv6: false });
        assert_eq!(text, "127.0.0.1\tlocalhost\n10.0.0.9\tdb\n172.17.0.2\tweb.lan web\n");
        assert!(hosts(&Hosts { hostname: "web", ipv6: true, ..Hosts::default() }).contains("::1\tlocalhost"));
    }

    #[test]
    fn extra_hosts_are_names_with_addresses() {
        let gateway = Some("172.17.0.1".parse().unwrap());
        assert_eq!(extra_host("a:10.0.0.1", None).unwrap(), ("10.0.0.1".parse().unwrap(), "a".to_owned()));
        assert_eq!(extra_host("a:fd00::1", None).unwrap().0.to_string(), "fd00::1");
        assert_eq!(extra_host("a=[fd00::1]", None).unwrap().0.to_string(), "fd00::1");
        assert_eq!(extra_host("h:host-gateway", gateway).unwrap().0.to_string(), "172.17.0.1");
        assert_eq!(extra_host("h:host-gateway", None), Err(ExtraHostError::NoGateway));
        for bad in ["a", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3", "a\n1.1.1.1 b:1.2.3.4"] {
            assert!(extra_host(bad, gateway).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_name_servers_are_left_out_and_replaced_when_none_is_left() {
        let host = "# c\nnameserver 127.0.0.53\nnameserver 10.0.0.2 # x\nnameserver fe80::1%eth0\nsearch a b\nsearch lan\noptions ndots:2\n";
        let text = resolv_conf(host, &Resolver::default());
        assert_eq!(text, "nameserver 10.0.0.2\nsearch lan\noptions ndots:2\n");
        assert_eq!(resolv_conf("nameserver ::1\n", &Resolver::default()), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let same = Resolver { host_network: true, ..Resolver::default() };
        assert!(resolv_conf("nameserver 127.0.0.53\n", &same).starts_with("nameserver 127.0.0.53\n"));
    }

    #[test]
    fn the_own_name_server_stands_for_all_others() {
        let own = Resolver { embedded: true, ..Resolver::default() };
        let text = resolv_conf("nameserver 127.0.0.53\nsearch lan\n", &own);
        assert_eq!(text, "nameserver 127.0.0.11\nsearch lan\noptions ndots:0\n");
        let text = resolv_conf("nameserver 9.9.9.9\noptions ndots:2 edns0\n", &own);
        assert_eq!(text, "nameserver 127.0.0.11\noptions ndots:2 edns0\n");
    }

    #[test]
    fn what_the_caller_says_replaces_the_hosts() {
        let servers = ["1.1.1.1".to_owned()];
        let wanted = Resolver {
            servers: &servers,
            search: &[".".to_owned()],
            options: &["ndots:0".to_owned()],
            ..Resolver::default()
        };
        assert_eq!(resolv_conf("nameserver 9.9.9.9\nsearch lan\n", &wanted), "nameserver 1.1.1.1\noptions ndots:0\n");
    }
}
