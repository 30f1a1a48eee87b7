//! Engines that are reached through something: a TLS connection or an ssh program.
//!
//! ```text
//! this program --socket pair--> ssh HOST berth system dial-stdio --> the socket there
//! this program --socket pair--> thread: TLS                      --> tcp://HOST:2376
//! this program --its engine's socket--> POST /api/v1/hosts/HOST/dial --> the socket there
//! ```
//!
//! Either way a plain Unix stream comes out, which the client and the blocking streams of attach use alike.

use super::endpoint::Tls;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
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

const HEAD_BYTES_MAX: usize = 16 << 10;
const DIAL_SECONDS_MAX: u64 = 60;

/// Asks the engine behind `socket` for a raw stream to a host that it knows.
pub(super) fn via(socket: &Path, host: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(DIAL_SECONDS_MAX)))?;
    write!(
        stream,
        "POST /api/v1/hosts/{host}/dial HTTP/1.1\r\nhost: berth\r\nconnection: upgrade\r\nupgrade: tcp\r\ncontent-length: 0\r\n\r\n"
    )?;
    // One by one: what follows the head is the other engine's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() >= HEAD_BYTES_MAX || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("the engine's answer breaks off"));
        }
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 101") {
        stream.set_read_timeout(None)?;
        return Ok(stream);
    }
    let mut body = Vec::new();
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
    (&mut stream).take(length.unwrap_or(0).min(HEAD_BYTES_MAX as u64)).read_to_end(&mut body)?;
    let failure: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = failure["message"]
        .as_str()
        .unwrap_or("this engine serves no console: start it with berthd --console 127.0.0.1:9443");
    let causes = failure["causes"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    Err(io::Error::other(std::iter::once(message).chain(causes).collect::<Vec<_>>().join(": ")))
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
