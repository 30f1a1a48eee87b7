//! Whom TLS trusts, and what it shows of us.
//!
//! ```text
//! SSL_CERT_FILE, SSL_CERT_DIR or the system's bundle    every registry
//! <folder>/<host:port>/*.crt                            that registry too, as dockerd and podman read them
//! <folder>/<host:port>/*.cert + *.key                   our client certificate there
//! ```
//!
//! Files are looked at again for every connection: a CA that was just put there counts. A certificate that lies in
//! the registry's own folder is trusted as it is, also where it is its own CA, which many registries' are.

use crate::ConnectError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where distributions keep the bundle.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A file of certificates or a key.
const FILE_BYTES_MAX: u64 = 4 << 20;
const FILES_MAX: usize = 256;

/// Why TLS came to nothing, in words for whoever asks a registry and whoever runs it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("its certificate is signed by no CA that is trusted here")]
    Untrusted {
        /// CAs in the registry's own folders, which do not help.
        tried: Vec<PathBuf>,
    },
    #[error("its certificate is for {}, not for {asked}", list(names))]
    OtherName { asked: String, names: Vec<String> },
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet")]
    NotYet,
    #[error("it answers, but not in TLS")]
    Plain,
    #[error(transparent)]
    Other(std::io::Error),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// Files that were read, and when each was changed last.
type Stamp = Vec<(PathBuf, Option<SystemTime>)>;

pub(crate) struct Tls {
    folders: Vec<PathBuf>,
    provider: Arc<CryptoProvider>,
    unchecked: Arc<ClientConfig>,
    /// The system's CAs as they were read last, and the configuration for registries that need nothing else.
    system: Mutex<Option<System>>,
}

struct System {
    stamp: Stamp,
    roots: Arc<RootCertStore>,
    config: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(folders: &[PathBuf]) -> Tls {
        let provider = Arc::new(ring::default_provider());
        let unchecked = builder(&provider)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked { provider: provider.clone() }))
            .with_no_client_auth();
        Tls { folders: folders.to_vec(), provider, unchecked: Arc::new(unchecked), system: Mutex::new(None) }
    }

    /// The configuration for a registry that is called `names` (with and without its port).
    pub(crate) fn config(&self, names: &[String], insecure: bool) -> Result<Arc<ClientConfig>, ConnectError> {
        let (mut own, mut client) = (Vec::new(), None);
        for folder in self.folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))) {
            for file in sorted(&folder) {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => own.extend(certificates(&file)?),
                    Some("cert") => client = Some((certificates(&file)?, key(&file.with_extension("key"))?)),
                    _ => {}
                }
            }
        }
        if own.is_empty() && client.is_none() {
            return if insecure { Ok(self.unchecked.clone()) } else { Ok(self.system()?.1) };
        }
        let builder = builder(&self.provider).dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match insecure {
            true => Arc::new(Unchecked { provider: self.provider.clone() }),
            false => {
                let mut roots = (*self.system()?.0).clone();
                roots.add_parsable_certificates(own.iter().cloned());
                Arc::new(OwnOrSystem { inner: self.verifier(roots)?, own })
            }
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|cause| ConnectError::Certificate {
                    file: format!("client certificate of {}", names[0]),
                    why: cause.to_string(),
                })?
            }
        };
        Ok(Arc::new(config))
    }

    /// What lies behind a handshake that failed with `asked`, whose certificates are looked for under `names`.
    pub(crate) fn explain(&self, names: &[String], asked: &str, cause: std::io::Error) -> TlsError {
        use rustls::CertificateError as Bad;
        let inner = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match inner {
            // A CA of the same name with another key: its signature is what does not fit.
            Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
                let folders = self.folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
                let files = folders.flat_map(|folder| sorted(&folder));
                TlsError::Untrusted {
                    tried: files.filter(|file| file.extension().is_some_and(|e| e == "crt")).collect(),
                }
            }
            Some(rustls::Error::InvalidCertificate(Bad::NotValidForNameContext { presented, .. })) => {
                // `DnsName("a.example")`, `IpAddress(10.0.0.1)`
                let bare = |text: &String| {
                    let inner = text.split_once('(').map_or(text.as_str(), |(_, inner)| inner);
                    inner.trim_end_matches(')').trim_matches('"').to_owned()
                };
                TlsError::OtherName { asked: asked.to_owned(), names: presented.iter().map(bare).collect() }
            }
            Some(rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => TlsError::Expired,
            Some(rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
                TlsError::NotYet
            }
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => TlsError::Plain,
            _ => TlsError::Other(cause),
        }
    }

    fn verifier(&self, roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, ConnectError> {
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        built.map_err(|cause| ConnectError::Certificate {
            file: "the system's CA bundle".to_owned(),
            why: cause.to_string(),
        })
    }

    fn system(&self) -> Result<(Arc<RootCertStore>, Arc<ClientConfig>), ConnectError> {
        let files = system_files();
        let changed = |file: &PathBuf| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        let stamp: Stamp = files.iter().map(|file| (file.clone(), changed(file))).collect();
        let mut cached = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(system) = &*cached
            && system.stamp == stamp
        {
            return Ok((system.roots.clone(), system.config.clone()));
        }
        let mut roots = RootCertStore::empty();
        for file in &files {
            roots.add_parsable_certificates(certificates(file)?);
        }
        let roots = Arc::new(roots);
        let config = Arc::new(builder(&self.provider).with_root_certificates(roots.clone()).with_no_client_auth());
        *cached = Some(System { stamp, roots: roots.clone(), config: config.clone() });
        Ok((roots, config))
    }
}

fn builder(provider: &Arc<CryptoProvider>) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports the protocol versions that rustls calls safe")
}

fn system_files() -> Vec<PathBuf> {
    let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (file, folder) = (named("SSL_CERT_FILE"), named("SSL_CERT_DIR"));
    if file.is_some() || folder.is_some() {
        return file.into_iter().chain(folder.into_iter().flat_map(|folder| sorted(&folder))).collect();
    }
    BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()).into_iter().collect()
}

/// The files of a folder in their order; a folder that is not there has none.
fn sorted(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).take(FILES_MAX).collect();
    files.sort();
    files
}

fn read(file: &Path) -> Result<Vec<u8>, ConnectError> {
    let failed = |cause| ConnectError::File { file: file.display().to_string(), cause };
    if std::fs::metadata(file).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(file).map_err(failed)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let bytes = read(file)?;
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| ConnectError::Certificate { file: file.display().to_string(), why: cause.to_string() })
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, ConnectError> {
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|cause| ConnectError::Certificate { file: file.display().to_string(), why: cause.to_string() })
}

/// The usual rules, and the certificates of the registry's own folder as they are.
#[derive(Debug)]
struct OwnOrSystem {
    inner: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OwnOrSystem {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(_) if self.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// For insecure registries: any certificate will do.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
