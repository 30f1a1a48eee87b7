//! Listening sockets: unix, tcp on the loopback or with mutual TLS, and those that systemd hands over.

use crate::options::Options;
use berth_api_docker::Listener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

const DEFAULT_SOCKET: &str = "/run/berth/berth.sock";

pub(crate) fn hosts(options: &Options) -> Vec<String> {
    match options.hosts.is_empty() {
        true => vec![format!("unix://{DEFAULT_SOCKET}")],
        false => options.hosts.clone(),
    }
}

/// Opens all sockets; must be called within the runtime.
pub(crate) fn open(options: &Options) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for host in hosts(options) {
        match host.split_once("://") {
            Some(("unix", path)) => listeners.push(unix(Path::new(path), options.group.as_deref())?),
            Some(("tcp", address)) if options.tlsverify => listeners.push(tls(address, options)?),
            Some(("tcp", address)) => listeners.push(tcp(address)?),
            Some(("fd", _)) => listeners.extend(handed_over()?),
            _ => return Err(format!("invalid host {host:?}: must begin with unix://, tcp:// or fd://")),
        }
    }
    Ok(listeners)
}

/// Removes our Unix sockets at the end.
pub(crate) fn remove(options: &Options) {
    for host in hosts(options) {
        if let Some(path) = host.strip_prefix("unix://") {
            std::fs::remove_file(path).ok();
        }
    }
}

fn unix(path: &Path, group: Option<&str>) -> Result<Listener, String> {
    let failed = |cause: std::io::Error| format!("cannot listen on {}: {cause}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // The folders' lock is ours, but the socket's path may be another engine's: ask whether somebody answers.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(format!("cannot listen on {}: another engine answers there", path.display()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    // Bound under a private name first: nobody can connect before owner and mode are right.
    let temporary = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&temporary).map_err(failed)?;
    let group = match group {
        Some(name) => Some(group_id(name).ok_or_else(|| format!("there is no group {name}"))?),
        None => group_id("docker").or_else(|| group_id("berth")),
    };
    std::os::unix::fs::chown(&temporary, None, group.or(Some(0))).or_else(|cause| match group {
        Some(_) => Err(failed(cause)),
        None => Ok(()),
    })?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::UnixListener::from_std(listener).map(Listener::Unix).map_err(failed)
}

/// The group's id by `/etc/group`, or the number itself.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let by_name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    by_name.or_else(|| name.parse().ok())
}

fn tcp(address: &str) -> Result<Listener, String> {
    let failed = |cause: std::io::Error| format!("cannot listen on tcp://{address}: {cause}");
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    if !local.ip().is_loopback() {
        return Err(format!(
            "will not listen on tcp://{local}: whoever reaches it is root on this host\nhint: use 127.0.0.1 and a tunnel"
        ));
    }
    tracing::warn!(
        "tcp://{local} HAS NO AUTHENTICATION: every user of this host, and every web page open on it, can become root"
    );
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map(Listener::Tcp).map_err(failed)
}

/// TCP for those who show a certificate of the clients' CA.
fn tls(address: &str, options: &Options) -> Result<Listener, String> {
    let failed = |cause: std::io::Error| format!("cannot listen on tcp://{address}: {cause}");
    let file = |path: &Option<PathBuf>, flag: &str| {
        let path = path.as_ref().ok_or_else(|| format!("--tlsverify needs --{flag}\nhint: berth cert makes it"))?;
        std::fs::read(path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))
    };
    let (ca, certificate, key) =
        (file(&options.tlscacert, "tlscacert")?, file(&options.tlscert, "tlscert")?, file(&options.tlskey, "tlskey")?);
    let config = tls_config(&ca, &certificate, &key).map_err(|why| format!("cannot serve TLS: {why}"))?;
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    Ok(Listener::Tls(listener, TlsAcceptor::from(Arc::new(config))))
}

fn tls_config(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca) {
        roots.add(authority?)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?)
}

/// Sockets by systemd's protocol (sd_listen_fds(3)).
fn handed_over() -> Result<Vec<Listener>, String> {
    let failed = |cause: std::io::Error| format!("cannot take a socket over: {cause}");
    let mut listeners = Vec::new();
    for fd in sd_notify::listen_fds().map_err(failed)? {
        let socket = berth_sys::handed_over::take_descriptor(fd)
            .ok_or_else(|| format!("descriptor {fd} was promised, but is not open"))?;
        listeners.push(adopt(socket).map_err(failed)?);
    }
    match listeners.is_empty() {
        true => {
            Err("fd:// was asked for, but no socket was handed over\nhint: start berthd by berth.socket".to_owned())
        }
        false => Ok(listeners),
    }
}

fn adopt(fd: OwnedFd) -> std::io::Result<Listener> {
    let listener = std::os::unix::net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener).map(Listener::Unix)
}
