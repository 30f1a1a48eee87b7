//! Where the engine is.
//!
//! The first that is set wins: `-H`, `--context`, `BERTH_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the
//! current context of `config.json`, and at last our own socket. Only for the last one is an engine started.

use super::Stream;
use crate::app::Config;
use crate::cli::Global;
use crate::error::{CliError, Result, plain};
use std::fmt;
use std::io;
use std::path::PathBuf;
use tokio::net::{TcpStream, UnixStream};

pub(crate) const DEFAULT_SOCKET: &str = "/run/berth/berth.sock";

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String),
    Tls(String, Box<Tls>),
    /// `user@host:port`
    Ssh(String),
    /// A host that the engine behind this socket knows (`berth host ls`).
    Via(PathBuf, String),
}

/// What a connection is checked with, as PEM.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tls {
    pub(crate) ca: Vec<u8>,
    /// Empty: the engine is told no certificate of ours.
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Tls {
    /// From flags and `DOCKER_TLS_VERIFY`, files from `DOCKER_CERT_PATH` or the configuration's folder.
    fn choose(global: &Global, config: &Config) -> Result<Option<Tls>> {
        let env = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        if !global.tls_verify && env("DOCKER_TLS_VERIFY").is_none() {
            return Ok(None);
        }
        let folder = env("DOCKER_CERT_PATH").map_or_else(|| config.folder().to_owned(), PathBuf::from);
        let read = |given: &Option<String>, name: &str| {
            let path = given.as_ref().map_or_else(|| folder.join(name), PathBuf::from);
            crate::commands::context::store::read_pem(&path)
                .map_err(|e| CliError::failed(format!("open {}: {}", path.display(), plain(&e))))
        };
        Ok(Some(Tls {
            ca: read(&global.tls_ca, "ca.pem")?,
            certificate: read(&global.tls_cert, "cert.pem")?,
            key: read(&global.tls_key, "key.pem")?,
        }))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    /// Nobody chose it: an engine may be started for it.
    pub(crate) is_default: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) | Address::Tls(address, _) => write!(f, "tcp://{address}"),
            Address::Ssh(target) => write!(f, "ssh://{target}"),
            Address::Via(path, host) => write!(f, "host {host} through unix://{}", path.display()),
        }
    }
}

impl Endpoint {
    pub(crate) fn choose(global: &Global, config: &Config) -> Result<Endpoint> {
        let mut endpoint = Endpoint::named(global, config)?;
        if let (Address::Tcp(address), Some(tls)) = (&endpoint.address, Tls::choose(global, config)?) {
            endpoint.address = Address::Tls(secure(address), Box::new(tls));
        }
        Ok(endpoint)
    }

    /// A context's endpoint with its certificates.
    pub(crate) fn with_tls(mut self, tls: Option<Tls>) -> Endpoint {
        if let (Address::Tcp(address), Some(tls)) = (&self.address, tls) {
            self.address = Address::Tls(secure(address), Box::new(tls));
        }
        self
    }

    fn named(global: &Global, config: &Config) -> Result<Endpoint> {
        let env = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        if let Some(host) = &global.host {
            return if is_name(host) { Endpoint::via(host) } else { Endpoint::parse(host) };
        }
        if let Some(context) = &global.context {
            return config.context_endpoint(context);
        }
        if let Some(host) = env("BERTH_HOST").or_else(|| env("DOCKER_HOST")) {
            return Endpoint::parse(&host);
        }
        match env("DOCKER_CONTEXT").or_else(|| config.current_context()) {
            Some(context) => config.context_endpoint(&context),
            None => Ok(Endpoint::standard()),
        }
    }

    pub(crate) fn standard() -> Endpoint {
        Endpoint { address: Address::Unix(DEFAULT_SOCKET.into()), is_default: true }
    }

    /// A host by the name that our own engine knows it by.
    fn via(host: &str) -> Result<Endpoint> {
        let env = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let own = match env("BERTH_HOST").or_else(|| env("DOCKER_HOST")) {
            Some(own) => Endpoint::parse(&own)?.address,
            None => Endpoint::standard().address,
        };
        match own {
            Address::Unix(path) => Ok(Endpoint { address: Address::Via(path, host.to_owned()), is_default: false }),
            _ => {
                Err(CliError::failed(format!("cannot reach host {host}: the engine that knows it is not on this host"))
                    .with_hint("hosts are known to the engine of this host; see berth host ls"))
            }
        }
    }

    pub(crate) fn parse(host: &str) -> Result<Endpoint> {
        let address = match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Address::Unix(path.into()),
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                Address::Tcp(if address.contains(':') { address.to_owned() } else { format!("{address}:2375") })
            }
            Some(("ssh", target)) if !target.trim_end_matches('/').is_empty() && !target.starts_with('-') => {
                Address::Ssh(target.trim_end_matches('/').to_owned())
            }
            None if host.starts_with('/') => Address::Unix(host.into()),
            _ => {
                return Err(CliError::failed(format!("unable to parse engine host {host:?}"))
                    .with_hint("use unix:///path/to/socket or tcp://host:port"));
            }
        };
        Ok(Endpoint { address, is_default: false })
    }

    pub(crate) async fn try_open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Tls(..) | Address::Ssh(_) | Address::Via(..) => {
                let stream = self.bridged()?;
                stream.set_nonblocking(true)?;
                Box::new(UnixStream::from_std(stream)?)
            }
        })
    }

    /// A blocking stream through ssh or TLS.
    pub(crate) fn bridged(&self) -> io::Result<std::os::unix::net::UnixStream> {
        match &self.address {
            Address::Ssh(target) => super::bridge::ssh(target),
            Address::Tls(address, tls) => super::bridge::tls(address, tls),
            Address::Via(path, host) => super::bridge::via(path, host),
            Address::Unix(path) => std::os::unix::net::UnixStream::connect(path),
            Address::Tcp(_) => Err(io::Error::other("a plain TCP endpoint needs no bridge")),
        }
    }

    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>> {
        match self.try_open().await {
            Ok(stream) => Ok(stream),
            Err(e) if self.is_default && may_be_started(&e) => {
                crate::start_engine::start(self, &e).await?;
                self.try_open().await.map_err(|e| self.unreachable(&e))
            }
            Err(e) => Err(self.unreachable(&e)),
        }
    }

    fn unreachable(&self, error: &io::Error) -> CliError {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root, or as a member of the socket's group",
            _ if self.is_default => "start one with: berthd &",
            _ if matches!(self.address, Address::Via(..)) => {
                "berth host ls says which hosts there are and how they are"
            }
            _ => "is it running there? check -H, BERTH_HOST, DOCKER_HOST and the context",
        };
        let what = match error.kind() {
            // The words that scripts wait for.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("Cannot connect to the Docker daemon at {self}. Is the docker daemon running?")
            }
            io::ErrorKind::PermissionDenied => {
                format!("permission denied while trying to connect to the Docker daemon socket at {self}")
            }
            _ => format!("cannot connect to the engine at {self}: {}", plain(error)),
        };
        CliError::failed(what).with_hint(format!("{}: {hint}", plain(error)))
    }
}

/// Not a socket's address, but a host's name.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

/// The port of TLS, where none was given.
fn secure(address: &str) -> String {
    address.strip_suffix(":2375").map_or_else(|| address.to_owned(), |host| format!("{host}:2376"))
}

fn may_be_started(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_hosts_name_and_an_address_is_not() {
        assert!(is_name("prod-2") && is_name("most-room"));
        for address in ["", "/run/x.sock", "tcp://h:1", "h:2375", "-x", "a/b"] {
            assert!(!is_name(address), "{address}");
        }
    }

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        assert_eq!(Endpoint::parse("unix:///a/b").unwrap().address, Address::Unix("/a/b".into()));
        assert_eq!(Endpoint::parse("tcp://h:1").unwrap().address, Address::Tcp("h:1".into()));
        assert_eq!(Endpoint::parse("tcp://h").unwrap().address, Address::Tcp("h:2375".into()));
        assert_eq!(Endpoint::parse("ssh://me@h:22").unwrap().address, Address::Ssh("me@h:22".into()));
        for bad in ["", "unix://rel", "npipe://x", "ssh://", "ssh://-oProxyCommand=x", "nonsense"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        assert!(!Endpoint::parse("unix:///run/berth/berth.sock").unwrap().is_default, "a chosen socket starts nothing");
    }
}
