//! Connections to another engine.

use super::Host;
use super::call::{Link, away};
use super::ssh::Words;
use axum::body::Body;
use berth_types::{Error, ErrorKind, Result};
use hyper::Request;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

const CONNECT_SECONDS_MAX: u64 = 5;

pub(crate) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// Another engine, and the way to it.
pub(crate) struct Far {
    pub(super) name: String,
    pub(super) host: Host,
    pub(super) link: Arc<Link>,
}

/// Only the certificate that was agreed on; whose name is in it does not matter.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    algorithms: WebPkiSupportedAlgorithms,
}

/// SHA-256 as colons and capitals, which is how browsers and the engine's log show it.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate.as_ref());
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let shown = fingerprint(end_entity);
        match shown == self.fingerprint {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General(format!("it shows another certificate: SHA-256 {shown}"))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// `https://ADDRESS:PORT` or `ssh://[USER@]HOST[:PORT]`.
pub(crate) fn check_address(address: &str) -> Result<()> {
    let plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:@[]".contains(c))
    };
    match address.split_once("://") {
        Some(("https", target))
            if plain(target)
                && target
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
        {
            Ok(())
        }
        Some(("ssh", target)) if plain(target) => Ok(()),
        _ => Err(Error::invalid(format!("{address:?} is no engine's address"))
            .with_hint("use https://HOST:PORT of its console, or ssh://USER@HOST")),
    }
}

impl Far {
    pub(super) async fn open(&self) -> Result<(Box<dyn Pipe>, Words)> {
        let (scheme, target) = self.host.address.split_once("://").unwrap_or(("", ""));
        match scheme {
            "ssh" => super::ssh::open(target).map_err(|error| away(&self.name, error.message)),
            _ => Ok((Box::new(self.tls(target).await?), Words::default())),
        }
    }

    async fn tls(&self, target: &str) -> Result<impl Pipe + use<>> {
        let told = |cause: String| away(&self.name, cause);
        let provider = ring::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        let pinned = Pinned { fingerprint: self.host.fingerprint.clone(), algorithms };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|cause| told(cause.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host).trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|cause| told(cause.to_string()))?;
        let connect = async {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::new(config)).connect(name, stream).await
        };
        let connected = tokio::time::timeout(Duration::from_secs(CONNECT_SECONDS_MAX), connect).await;
        connected
            .map_err(|_| told(format!("no connection within {CONNECT_SECONDS_MAX} s")))?
            .map_err(|cause| told(cause.to_string()))
    }

    /// A raw stream to the other engine's own socket, where everybody is root.
    pub(crate) async fn docker(&self, user: &str) -> Result<Box<dyn Pipe>> {
        let request = Request::post("/api/v1/dial").header("connection", "upgrade").header("upgrade", "tcp");
        let request = request.body(Body::empty()).map_err(|cause| Error::internal(cause.to_string()))?;
        let response = self.pass_on(request, user, "admin").await?;
        if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            return Err(away(&self.name, format!("it refuses: {status}"))
                .with_hint("the token that this host is known with must be an administrator's there"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|cause| away(&self.name, cause))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

/// The certificate that is shown at `target`, whoever it is: to be compared by a person.
pub(crate) async fn shown(address: &str) -> Result<String> {
    let host = Host { address: address.to_owned(), fingerprint: String::new(), token: String::new(), added_unix: 0 };
    let far = Far { name: address.to_owned(), host, link: Arc::default() };
    let target = address.split_once("://").map_or("", |(_, target)| target);
    match far.tls(target).await {
        Ok(_) => Err(Error::internal("a certificate without a fingerprint")),
        Err(error) => match error.causes.iter().find_map(|cause| cause.split_once("SHA-256 ")) {
            Some((_, shown)) => Ok(shown.trim().to_owned()),
            None => Err(error),
        },
    }
}

/// Bytes both ways until one side ends.
pub(crate) async fn copy(mut one: Box<dyn Pipe>, mut other: Box<dyn Pipe>) {
    // Either end breaking off is how such a stream ends.
    drop(tokio::io::copy_bidirectional(&mut one, &mut other).await);
}

pub(crate) async fn unix(path: &str) -> Result<Box<dyn Pipe>> {
    let stream = UnixStream::connect(path).await;
    Ok(Box::new(
        stream.map_err(|cause| Error::because(ErrorKind::Unavailable, format!("cannot connect to {path}"), &cause))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_consoles_or_ssh() {
        for good in ["https://10.0.0.2:9443", "https://[::1]:9443", "ssh://root@box", "ssh://box:2222"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://x:1",
            "https://x",
            "https://:1",
            "ssh://-oProxyCommand=x",
            "ssh://",
            "https://x:y",
            "ssh://a b",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_host_that_is_away_says_so_and_nothing_hangs() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = shown(&address).await.unwrap_err();
        assert!(error.message.contains("does not answer"), "{error}");
    }
}
