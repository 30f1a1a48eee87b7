//! One table for every registry: mirrors, trust, credentials, proxies, limits.
//!
//! ```text
//! name docker.io/library/debian
//!   mirrors of docker.io, in their order     pull only; plain http:// only where it was written so
//!   https://registry-1.docker.io             the registry itself, always last
//! insecure registry (listed, or a loopback address): TLS without checking, then plain HTTP
//! ```

use crate::{Credentials, RegistryError};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What an image name calls the public registry, and where that answers.
const DOCKER_DOMAIN: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// How to speak to registries.
#[derive(Debug, Clone)]
pub struct Config {
    /// By domain as image names write it; `*` stands for those not listed.
    pub registries: BTreeMap<String, Registry>,
    /// `host`, `host:port` or a CIDR: TLS is not checked there, and plain HTTP is good enough. Loopback always is.
    pub insecure: Vec<String>,
    /// Folders with one folder per `host:port`: `*.crt` are CAs, `*.cert` with `*.key` client certificates.
    pub certificate_folders: Vec<PathBuf>,
    pub proxies: Proxies,
    /// Tries of one request, the first one counted.
    pub attempts_max: u32,
    /// Between the first and the second try; doubled from then on.
    pub backoff: Duration,
    pub connect_timeout: Duration,
    /// The longest silence in the middle of an answer.
    pub silence_timeout: Duration,
    pub user_agent: String,
}

/// What is known about one registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// URLs to ask first, `https://mirror.example[/prefix]`.
    pub mirrors: Vec<String>,
    /// Said for this one alone: also a loopback address can be told to be checked.
    pub insecure: Option<bool>,
    /// Where no client sent any.
    pub credentials: Option<Credentials>,
}

/// Programs between us and the registries; empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: String,
    pub https: String,
    /// Hosts, `.suffixes`, addresses and CIDRs that are reached directly; `*`: all.
    pub none: String,
}

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` or their lower-case forms.
    pub fn from_environment() -> Proxies {
        let read = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.or_else(|| std::env::var(name.to_ascii_lowercase()).ok()).unwrap_or_default()
        };
        Proxies { http: read("HTTP_PROXY"), https: read("HTTPS_PROXY"), none: read("NO_PROXY") }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            registries: BTreeMap::new(),
            insecure: Vec::new(),
            certificate_folders: ["/etc/berth/certs.d", "/etc/docker/certs.d", "/etc/containers/certs.d"]
                .map(PathBuf::from)
                .to_vec(),
            proxies: Proxies::default(),
            attempts_max: 5,
            backoff: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(15),
            silence_timeout: Duration::from_secs(60),
            user_agent: concat!("berth/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A place that serves a registry's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port][/prefix]`
    pub place: String,
    /// `None`: an insecure one, to be found out.
    pub tls: Option<bool>,
    pub insecure: bool,
    pub mirror: bool,
}

impl Endpoint {
    /// `host[:port]`
    pub(crate) fn host(&self) -> &str {
        self.place.split('/').next().unwrap_or_default()
    }
}

impl Config {
    /// Refuses what could only fail later.
    pub fn check(&self) -> Result<(), RegistryError> {
        for registry in self.registries.values() {
            for mirror in &registry.mirrors {
                mirror_endpoint(self, mirror)?;
            }
        }
        for proxy in [&self.proxies.http, &self.proxies.https] {
            crate::proxy::Proxy::parse(proxy)?;
        }
        for entry in &self.insecure {
            if entry.contains("://") || entry.is_empty() {
                let why = "a host, host:port or CIDR is needed, without a scheme".to_owned();
                return Err(RegistryError::Configuration { what: format!("insecure registry {entry:?}"), why });
            }
        }
        Ok(())
    }

    pub(crate) fn registry(&self, domain: &str) -> Option<&Registry> {
        self.registries.get(domain).or_else(|| self.registries.get("*"))
    }

    /// Where `domain` is asked, in order.
    pub(crate) fn endpoints(&self, domain: &str, with_mirrors: bool) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        let mirrors = self.registry(domain).map_or(&[][..], |registry| &registry.mirrors);
        for mirror in mirrors.iter().filter(|_| with_mirrors) {
            match mirror_endpoint(self, mirror) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(cause) => tracing::warn!(mirror, %cause, "a mirror is left out"),
            }
        }
        let place = if domain == DOCKER_DOMAIN { DOCKER_HOST } else { domain };
        let insecure = self.is_insecure(domain);
        endpoints.push(Endpoint {
            place: place.to_owned(),
            tls: if insecure { None } else { Some(true) },
            insecure,
            mirror: false,
        });
        endpoints
    }

    /// Whether TLS of `host[:port]` goes unchecked.
    pub fn is_insecure(&self, host: &str) -> bool {
        if let Some(said) = self.registries.get(host).and_then(|registry| registry.insecure) {
            return said;
        }
        let bare = without_port(host);
        let address = bare.parse::<IpAddr>().ok();
        if bare == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.insecure
            .iter()
            .any(|entry| entry == host || entry == bare || address.is_some_and(|address| cidr_contains(entry, address)))
    }
}

/// `host` of `host`, `host:port`, `[v6]:port`.
pub(crate) fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

fn mirror_endpoint(config: &Config, mirror: &str) -> Result<Endpoint, RegistryError> {
    let uri = crate::url::parse(mirror)?;
    if uri.query().is_some() {
        let why = "a mirror has no query".to_owned();
        return Err(RegistryError::Configuration { what: format!("mirror {mirror:?}"), why });
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    Ok(Endpoint {
        place: format!("{host}{}", uri.path().trim_end_matches('/')),
        tls: Some(uri.scheme_str() == Some("https")),
        insecure: config.is_insecure(host),
        mirror: true,
    })
}

/// Whether `cidr` (`10.0.0.0/8`) covers `address`; anything malformed covers nothing.
pub(crate) fn cidr_contains(cidr: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mirrors = vec!["https://mirror.example/hub/".to_owned(), "http://10.1.2.3:5000".to_owned()];
        Config {
            registries: [("docker.io".to_owned(), Registry { mirrors, ..Registry::default() })].into(),
            insecure: vec!["10.0.0.0/8".into(), "old.example:5000".into(), "lab".into()],
            ..Config::default()
        }
    }

    #[test]
    fn mirrors_come_first_and_only_for_pulls() {
        let places = |with| config().endpoints("docker.io", with).into_iter().map(|e| e.place).collect::<Vec<_>>();
        assert_eq!(places(true), ["mirror.example/hub", "10.1.2.3:5000", "registry-1.docker.io"]);
        assert_eq!(places(false), ["registry-1.docker.io"]);
        let all = config().endpoints("docker.io", true);
        assert_eq!((all[1].tls, all[1].insecure, all[0].insecure), (Some(false), true, false));
    }

    #[test]
    fn insecure_is_what_is_listed_and_loopback() {
        let config = config();
        for host in ["localhost:5000", "127.0.0.2", "[::1]:5000", "10.9.9.9:443", "old.example:5000", "lab:1", "lab"] {
            assert!(config.is_insecure(host), "{host}");
        }
        for host in ["old.example", "docker.io", "11.0.0.1", "localhost.example"] {
            assert!(!config.is_insecure(host), "{host}");
        }
        let checked = Registry { insecure: Some(false), ..Registry::default() };
        let config = Config { registries: [("localhost:5000".to_owned(), checked)].into(), ..config };
        assert!(!config.is_insecure("localhost:5000") && config.is_insecure("localhost:5001"));
    }

    #[test]
    fn what_cannot_work_is_refused_early() {
        assert!(config().check().is_ok());
        for mirror in ["mirror.example", "https://user:pw@mirror", "ftp://x", "https://x/?a=b"] {
            let mut config = config();
            config.registries.get_mut("docker.io").unwrap().mirrors = vec![mirror.to_owned()];
            assert!(config.check().is_err(), "{mirror}");
        }
        assert!(Config { insecure: vec!["https://x".into()], ..Config::default() }.check().is_err());
        let proxies = Proxies { http: "gopher://x".into(), ..Proxies::default() };
        assert!(Config { proxies, ..Config::default() }.check().is_err());
    }
}
