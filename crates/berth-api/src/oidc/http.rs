//! Questions to the provider: short, bounded, over a connection whose certificate is checked.

use axum::body::Body;
use berth_types::{Error, ErrorKind, Result};
use http_body_util::{BodyExt as _, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const SECONDS_MAX: u64 = 10;
const BYTES_MAX: usize = 1 << 20;
/// Where distributions keep what they trust.
const BUNDLES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

fn failed(url: &str, cause: impl std::fmt::Display) -> Error {
    let mut error = Error::new(ErrorKind::Unavailable, format!("cannot ask {url}"));
    error.causes.push(cause.to_string());
    error
}

/// Where a URL leads: secure, host, port, path.
fn parts(url: &str) -> Option<(bool, String, u16, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let secure = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = rest.split_once('/').map_or((rest, String::new()), |(at, path)| (at, path.to_owned()));
    if authority.contains('@') {
        return None;
    }
    let port = if secure { 443 } else { 80 };
    let (host, port) = match authority.strip_prefix('[') {
        Some(six) => {
            let (host, after) = six.split_once(']')?;
            (host, after.strip_prefix(':').map_or(Some(port), |port| port.parse().ok())?)
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, port),
        },
    };
    (!host.is_empty()).then(|| (secure, host.to_owned(), port, format!("/{path}")))
}

fn roots(ca: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let own = CertificateDer::pem_slice_iter(ca.as_bytes()).flatten();
    let system = BUNDLES.iter().filter_map(|path| CertificateDer::pem_file_iter(path).ok()).flatten().flatten();
    for certificate in own.chain(system) {
        // One that is odd is one that is not trusted.
        roots.add(certificate).ok();
    }
    roots
}

/// What is asked.
pub(super) enum Ask<'a> {
    Get,
    /// With an access token.
    GetAs(&'a str),
    Form(String),
}

/// The answer must be JSON.
pub(super) async fn json(url: &str, what: Ask<'_>, ca: &str) -> Result<Value> {
    let asking = tokio::time::timeout(Duration::from_secs(SECONDS_MAX), ask(url, what, ca));
    let bytes = asking.await.map_err(|_| failed(url, format!("no answer within {SECONDS_MAX} s")))??;
    serde_json::from_slice(&bytes).map_err(|cause| failed(url, cause))
}

async fn ask(url: &str, what: Ask<'_>, ca: &str) -> Result<Vec<u8>> {
    let (secure, host, port, path) = parts(url).ok_or_else(|| failed(url, "this is no address"))?;
    // With its port where that is not the usual one, as browsers send it: providers make their own addresses of it.
    let authority = match port == if secure { 443 } else { 80 } {
        true => host.clone(),
        false if host.contains(':') => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    // In clear only to this host itself.
    let loopback = ["127.0.0.1", "localhost", "::1"].contains(&host.as_str());
    if !secure && !loopback {
        return Err(failed(url, "it is not https"));
    }
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|cause| failed(url, cause))?;
    if !secure {
        return send(stream, url, &authority, &path, what).await;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| failed(url, cause))?
        .with_root_certificates(roots(ca))
        .with_no_client_auth();
    let name = ServerName::try_from(host.clone()).map_err(|cause| failed(url, cause))?;
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|cause| failed(url, cause))?;
    send(stream, url, &authority, &path, what).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &str,
    host: &str,
    path: &str,
    what: Ask<'_>,
) -> Result<Vec<u8>> {
    let broken = |cause: hyper::Error| failed(url, cause);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::builder().uri(path).header(HOST, host).header(ACCEPT, "application/json");
    let request = match what {
        Ask::Get => request.body(Body::empty()),
        Ask::GetAs(token) => request.header(AUTHORIZATION, format!("Bearer {token}")).body(Body::empty()),
        Ask::Form(form) => {
            request.method("POST").header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(Body::from(form))
        }
    };
    let request = request.map_err(|cause| failed(url, cause))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BYTES_MAX).collect().await.map_err(|cause| failed(url, cause))?;
    connection.abort();
    match status.is_success() {
        true => Ok(body.to_bytes().to_vec()),
        false => Err(failed(url, format!("it answers {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let read = |url: &str| parts(url).map(|(secure, host, port, path)| format!("{secure} {host} {port} {path}"));
        assert_eq!(read("https://id.example/a/b?c").as_deref(), Some("true id.example 443 /a/b?c"));
        assert_eq!(read("http://[::1]:8080").as_deref(), Some("false ::1 8080 /"));
        for bad in ["id.example", "ftp://x", "https://", "https://a@b/", "https://x:y/"] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
