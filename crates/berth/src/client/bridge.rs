//! Engines that are reached through something: a TLS connection or an ssh program.
//!
//! ```text
//! this program --socket pair--> ssh HOST berth system dial-stdio --> the socket there
//! this program --socket pair--> thread: TLS                      --> tcp://HOST:2376
//! ```
//!
//! Either way a plain Unix stream comes out, which the client and the blocking streams of attach use alike.

use super::endpoint::Tls;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What runs on the other host: ours, or docker's where only that is installed.
const REMOTE: &str =
    "if command -v berth >/dev/null; then exec berth system dial-stdio; else exec docker system dial-stdio; fi";

/// Starts ssh on one end of a socket pair; it ends when the other end is closed.
pub(super) fn ssh(target: &str) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let input: OwnedFd = theirs.into();
    let output = input.try_clone()?;
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, Some(port)),
        _ => (target, None),
    };
    let mut command = Command::new("ssh");
    if let Some(port) = port {
        command.args(["-p", port]);
    }
    // `--`: a host cannot be an option.
    command.args(["-o", "ConnectTimeout=30", "-T", "--", host, REMOTE]);
    command.stdin(Stdio::from(input)).stdout(Stdio::from(output));
    command.spawn().map_err(|e| io::Error::new(e.kind(), format!("cannot start ssh: {e}")))?;
    Ok(ours)
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn config(tls: &Tls) -> io::Result<ClientConfig> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.ca) {
        roots.add(certificate.map_err(other)?).map_err(other)?;
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_root_certificates(roots);
    if tls.certificate.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let chain = CertificateDer::pem_slice_iter(&tls.certificate).collect::<Result<Vec<_>, _>>().map_err(other)?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(other)?;
    builder.with_client_auth_cert(chain, key).map_err(other)
}

/// Connects with TLS; a thread of its own moves the bytes.
pub(super) fn tls(address: &str, tls: &Tls) -> io::Result<UnixStream> {
    let connector = TlsConnector::from(Arc::new(config(tls)?));
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(other)?;
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_nonblocking(true)?;
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let (told, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(told.send(Err(error))),
        };
        runtime.block_on(async move {
            let handshake = async {
                let tcp = tokio::net::TcpStream::from_std(tcp)?;
                let local = tokio::net::UnixStream::from_std(theirs)?;
                Ok((connector.connect(name, tcp).await?, local))
            };
            match handshake.await {
                Err(error) => drop(told.send(Err(error))),
                Ok((mut remote, mut local)) => {
                    drop(told.send(Ok(())));
                    // An end that breaks off shows on the other side.
                    drop(tokio::io::copy_bidirectional(&mut local, &mut remote).await);
                }
            }
        });
    });
    ready.recv().map_err(other)??;
    Ok(ours)
}
