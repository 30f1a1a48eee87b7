//! The console's listener: TLS with a given certificate, or one made on the first run.
//!
//! ```text
//! <data-root>/console/{cert,key}.pem    made by us, valid ten years, for the host's name and loopback
//! ```

use crate::guard::Peer;
use axum::{Extension, Router};
use berth_types::{Error, ErrorKind, Result};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Browsers open six or so each.
const CONNECTIONS_MAX: usize = 512;
/// A host that is busy takes its time.
const HANDSHAKE_SECONDS_MAX: u64 = 30;
const HEAD_SECONDS_MAX: u64 = 30;
const ACCEPT_RETRY_MILLIS: u64 = 100;
const VALID_YEARS: i32 = 10;

/// Certificate and key files in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

fn failed(action: &str, path: &Path, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Unavailable, format!("cannot {action} {}", path.display()), cause)
}

/// The given one, or ours, made where it is missing.
pub(crate) fn config(given: Option<&Certificate>, data_root: &Path) -> Result<(Arc<ServerConfig>, String)> {
    let own = Certificate { chain: data_root.join("console/cert.pem"), key: data_root.join("console/key.pem") };
    let files = match given {
        Some(given) => given,
        None => {
            if !own.chain.exists() || !own.key.exists() {
                make(&own)?;
            }
            &own
        }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect)
        .map_err(|cause| failed("read", &files.chain, &cause))?;
    let fingerprint = match chain.first() {
        Some(first) => fingerprint(first),
        None => return Err(Error::invalid(format!("{} has no certificate", files.chain.display()))),
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| failed("read", &files.key, &cause))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| failed("use TLS with", &files.chain, &cause))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|cause| failed("use", &files.chain, &cause))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), fingerprint))
}

/// What a browser's certificate window shows as SHA-256.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(certificate.as_ref());
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

fn make(files: &Certificate) -> Result<()> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !host.is_empty() && host.is_ascii() {
        names.push(host);
    }
    let made = (|| -> std::result::Result<_, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name.push(rcgen::DnType::CommonName, "berth console");
        let year = i32::try_from(crate::identity::now_unix() / 31_556_952 + 1970).unwrap_or(2026);
        params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + VALID_YEARS, 1, 1);
        let key = rcgen::KeyPair::generate()?;
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    })();
    let (chain, key) = made.map_err(|cause| failed("make", &files.chain, &cause))?;
    for (path, text) in [(&files.key, key), (&files.chain, chain)] {
        write_private(path, text.as_bytes()).map_err(|cause| failed("write", path, &cause))?;
    }
    Ok(())
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// Serves until `stop` turns true; open streams are then cut.
pub(crate) async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MILLIS)).await;
                continue;
            }
        };
        // Over the limit the newest is closed at once: those that are there go on.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            connection(stream, peer, acceptor, routes, stop).await;
        });
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) {
    // Keystrokes of a terminal must not wait for each other.
    if let Err(cause) = stream.set_nodelay(true) {
        tracing::debug!(%cause, "no TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => return tracing::debug!(%cause, %peer, "no TLS"),
        Err(_) => return tracing::debug!(%peer, "no TLS in time"),
    };
    let routes = routes.layer(Extension(Peer::Network(peer)));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .with_upgrades();
    tokio::select! {
        served = served => if let Err(cause) = served {
            tracing::debug!(%cause, "connection ended");
        },
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (_, first) = config(None, folder.path()).unwrap();
        let (_, second) = config(None, folder.path()).unwrap();
        assert_eq!(first, second);
        let mode = std::fs::metadata(folder.path().join("console/key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
