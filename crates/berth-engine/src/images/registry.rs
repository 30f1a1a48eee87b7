//! Which registries there are for this engine, and what their answers mean to its users.

use super::Images;
use super::pull::LayerJob;
use crate::EngineConfig;
use berth_registry::{Access, Client, ConnectError, Document, Manifest, Platform, RegistryError, TlsError};
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{Semaphore, mpsc};

pub use berth_registry::{Credentials, Found, Proxies, Registry};

/// Messages between a transfer and a slow client.
pub(super) const MESSAGES_MAX: usize = 256;

/// How this engine speaks to registries: one table for pulls, pushes and builds.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// By domain as image names write it (`docker.io`, `registry.example:5000`).
    pub registries: BTreeMap<String, Registry>,
    /// Hosts, `host:port` and CIDRs without checked TLS.
    pub insecure: Vec<String>,
    pub proxies: Proxies,
    /// Layers that are fetched at once, over all pulls.
    pub downloads_max: usize,
    /// Layers that are sent at once, over all pushes.
    pub uploads_max: usize,
    /// Tries of a request before a pull gives up.
    pub attempts_max: u32,
}

impl Default for RegistryOptions {
    fn default() -> RegistryOptions {
        RegistryOptions {
            registries: BTreeMap::new(),
            insecure: Vec::new(),
            proxies: Proxies::default(),
            downloads_max: 3,
            uploads_max: 5,
            attempts_max: 5,
        }
    }
}

/// The engine's side of all registries.
pub(super) struct Registries {
    pub client: Client,
    pub downloads: Arc<Semaphore>,
    pub uploads: Arc<Semaphore>,
    /// Shared by what is packed already and still on its way to the disk: nobody's answer waits for that, who wants to
    /// find it there does.
    pub keeping: Arc<tokio::sync::RwLock<()>>,
    /// Layers on their way in, by the digests of their blob and of what is in it: pulls of the same layer share it.
    pub jobs: Mutex<HashMap<(Digest, Digest), Weak<LayerJob>>>,
    /// Held while layers become visible: who shares a layer waits until the other one has made it so.
    pub committing: Arc<tokio::sync::Mutex<()>>,
}

impl Registries {
    pub(super) fn open(config: &EngineConfig) -> Result<Registries> {
        let options = &config.registries;
        let client = Client::new(berth_registry::Config {
            registries: options.registries.clone(),
            insecure: options.insecure.clone(),
            proxies: options.proxies.clone(),
            attempts_max: options.attempts_max,
            ..berth_registry::Config::default()
        })
        .map_err(|cause| Error::because(ErrorKind::InvalidArgument, "invalid settings for registries", &cause))?;
        Ok(Registries {
            client,
            downloads: Arc::new(Semaphore::new(options.downloads_max.max(1))),
            uploads: Arc::new(Semaphore::new(options.uploads_max.max(1))),
            keeping: Arc::default(),
            jobs: Mutex::default(),
            committing: Arc::default(),
        })
    }
}

/// Something to tell while an image travels, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferMessage {
    /// A line, about the tag or repository `id` where there is one.
    Status { id: Option<String>, text: String },
    /// Layer `id` will be fetched, so many bytes: told of all layers before the first of them arrives.
    Wanted { id: String, size_bytes: u64 },
    /// Where layer `id` is.
    Layer { id: String, status: String, progress: Option<TransferProgress> },
    /// Layer `id` waits, because its registry asks for time.
    Retrying { id: String, seconds: u64 },
    /// What a push ended with.
    Pushed { tag: String, digest: Digest, size_bytes: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferProgress {
    pub current_bytes: u64,
    /// 0 where it is not known.
    pub total_bytes: u64,
    /// Of the same bytes, those that have been unpacked.
    pub unpacked_bytes: u64,
}

impl TransferMessage {
    pub(super) fn line(text: impl Into<String>) -> TransferMessage {
        TransferMessage::Status { id: None, text: text.into() }
    }

    pub(super) fn layer(id: &str, status: &str) -> TransferMessage {
        TransferMessage::Layer { id: id.to_owned(), status: status.to_owned(), progress: None }
    }
}

/// Where a transfer's messages go; whoever no longer listens is no reason to stop telling.
pub(super) type Tell = mpsc::Sender<Result<TransferMessage>>;

pub(super) async fn tell(to: &Tell, message: TransferMessage) {
    drop(to.send(Ok(message)).await);
}

/// Ends with the transfer; an error is its last item. Dropping it ends the transfer.
pub struct TransferStream {
    receiver: mpsc::Receiver<Result<TransferMessage>>,
}

impl TransferStream {
    pub async fn next(&mut self) -> Option<Result<TransferMessage>> {
        self.receiver.recv().await
    }

    /// Runs `work` until it is done or nobody listens any more.
    pub(super) fn of(
        work: impl FnOnce(Tell) -> futures_util::future::BoxFuture<'static, Result<()>>,
    ) -> TransferStream {
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let work = work(sender.clone());
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = sender.closed() => return,
            };
            if let Err(error) = outcome {
                drop(sender.send(Err(error)).await);
            }
        });
        TransferStream { receiver }
    }
}

/// What a registry knows about a name.
#[derive(Debug, Clone)]
pub struct Distribution {
    pub media_type: String,
    pub digest: Digest,
    pub size_bytes: u64,
    pub platforms: Vec<Platform>,
}

/// What to ask for: the digest where the name has one, else its tag.
pub(super) fn reference(name: &ImageName) -> String {
    match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(berth_types::reference::DEFAULT_TAG).to_owned(),
    }
}

/// A registry's failure as Docker's users know it.
pub(super) fn failed(action: &str, name: &ImageName, cause: &RegistryError) -> Error {
    let reasons = match cause {
        RegistryError::Refused { reasons, .. } => &reasons[..],
        _ => &[],
    };
    let code = |wanted: &str| reasons.iter().any(|reason| reason.code.eq_ignore_ascii_case(wanted));
    let familiar = name.familiar_repository();
    if code("MANIFEST_UNKNOWN") {
        return Error::not_found(format!("manifest for {} not found: {cause}", name.clone().familiar()));
    }
    if code("NAME_UNKNOWN") {
        return Error::not_found(format!("repository {familiar} not found: {cause}"));
    }
    if code("DENIED") && action == "pull" {
        return Error::not_found(format!(
            "pull access denied for {familiar}, repository does not exist or may require 'docker login': {cause}"
        ));
    }
    let kind = match cause {
        _ if cause.is_not_found() => ErrorKind::NotFound,
        // Not "unauthorized": Docker's client would ask for a password and try again, which dockerd's answers never make it do.
        _ if cause.is_denied() => ErrorKind::Forbidden,
        RegistryError::NoPlatform { .. } | RegistryError::OtherPlatform { .. } => ErrorKind::NotFound,
        RegistryError::Unsupported(_) | RegistryError::Configuration { .. } => ErrorKind::InvalidArgument,
        RegistryError::Damaged { .. } | RegistryError::WrongDigest { .. } | RegistryError::TooLarge { .. } => {
            ErrorKind::DataLoss
        }
        RegistryError::Source(_) => ErrorKind::Internal,
        _ => ErrorKind::Unavailable,
    };
    let error = Error::because(kind, format!("cannot {action} {}", name.familiar()), cause);
    match hint(name, cause) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn hint(name: &ImageName, cause: &RegistryError) -> Option<String> {
    let domain = name.domain();
    match cause {
        RegistryError::Connect { cause: ConnectError::Tls(host, cause), .. } => {
            let insecure = format!("name it with --insecure-registry {host}");
            match cause {
                TlsError::Plain => Some(format!("{host} seems to speak plain HTTP: {insecure} if that is meant")),
                TlsError::Untrusted { tried } => Some(match tried.as_slice() {
                    [] => format!("put the CA of {host} into /etc/berth/certs.d/{host}/ca.crt, or {insecure}"),
                    [.., last] => format!("the CA in {} is another one than that of {host}", last.display()),
                }),
                TlsError::OtherName { names, .. } if !names.is_empty() => {
                    Some(format!("use a name that it has ({}), or have it made for {host} too", names.join(", ")))
                }
                TlsError::OtherName { .. } => Some(format!("it needs a certificate that names {host}")),
                TlsError::Expired => Some(format!("whoever runs {host} must renew it, if this host's clock is right")),
                TlsError::NotYet => Some("is this host's clock right?".to_owned()),
                TlsError::Other(_) => Some(insecure + " if its certificate need not be checked"),
            }
        }
        RegistryError::Connect { cause: ConnectError::Resolve(..) | ConnectError::NoAddress(_), .. }
            if domain.bytes().any(|byte| byte.is_ascii_uppercase()) && !domain.contains(['.', ':']) =>
        {
            Some(format!("{domain} is taken for a registry's host: names of repositories have no capital letters"))
        }
        RegistryError::Refused { status: 401, .. } => Some(format!("log in first: docker login {domain}")),
        RegistryError::Refused { status: 429, retry_after_seconds, .. } => {
            let when = retry_after_seconds.map_or(String::new(), |seconds| format!(" for {}", in_words(seconds)));
            let way_out = format!("log in (docker login {domain}) or use a mirror");
            Some(format!("the registry wants to be left alone{when}, since it limits how often it is asked: {way_out}"))
        }
        _ => None,
    }
}

/// `90 seconds`, `6 hours`: rounded up.
fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3600), "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `https://index.docker.io/v1/`, `https://host:5000/`, `host:5000` -> the domain of image names.
fn domain_of(server: &str) -> String {
    let bare = server.trim().trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

impl Images {
    /// A file from anywhere, through this engine's proxies.
    pub(crate) async fn download(&self, url: &str) -> Result<berth_registry::Download, RegistryError> {
        self.shared().registries.client.download(url).await
    }

    /// Checks credentials with a registry; the identity token to keep instead of the password, where it gives one.
    pub async fn login(&self, server: &str, credentials: &Credentials) -> Result<Option<String>> {
        let domain = domain_of(server);
        let shared = self.shared();
        shared.registries.client.login(&domain, credentials).await.map_err(|cause| {
            let kind = if cause.is_denied() { ErrorKind::Unauthorized } else { ErrorKind::Unavailable };
            let name = format!("{domain}/x").parse::<ImageName>().ok();
            let error = Error::because(kind, format!("login attempt to {domain} failed"), &cause);
            let tls = matches!(cause, RegistryError::Connect { .. });
            match name.filter(|_| tls).and_then(|name| hint(&name, &cause)) {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        })
    }

    /// What the registry says about `name` now, without pulling it.
    pub async fn distribution(&self, name: &ImageName, credentials: Option<Credentials>) -> Result<Distribution> {
        let name = name.clone().or_latest();
        let client = self.shared().registries.client.clone();
        let repository = client.repository(&name, Access::Pull, credentials);
        let fail = |cause: RegistryError| failed("look up", &name, &cause);
        let manifest = repository.manifest(&reference(&name)).await.map_err(fail)?;
        let platforms = match manifest.parse().map_err(fail)? {
            Document::Index(entries) => entries.into_iter().filter_map(|entry| entry.platform).collect(),
            Document::Image { config, .. } if berth_registry::manifest::is_image_config(&config.media_type) => {
                let bytes = repository.blob_bytes(&config, berth_registry::manifest::CONFIG_BYTES_MAX).await;
                let platform: Platform = serde_json::from_slice(&bytes.map_err(fail)?)
                    .map_err(|cause| Error::because(ErrorKind::DataLoss, "invalid image configuration", &cause))?;
                vec![platform]
            }
            Document::Image { .. } => Vec::new(),
        };
        let size_bytes = manifest.size_bytes();
        Ok(Distribution { media_type: manifest.media_type, digest: manifest.digest, size_bytes, platforms })
    }

    /// The digest that `name` means at its registry now. Asked for without the manifest where the registry says it so:
    /// that is no pull, which some registries count.
    pub async fn digest_now(&self, name: &ImageName) -> Result<Digest> {
        let name = name.clone().or_latest();
        let repository = self.shared().registries.client.repository(&name, Access::Pull, None);
        let fail = |cause: RegistryError| failed("look up", &name, &cause);
        if let Some(found) = repository.resolve(&reference(&name)).await.map_err(fail)? {
            return Ok(found.digest);
        }
        Ok(repository.manifest(&reference(&name)).await.map_err(fail)?.digest)
    }

    /// Repositories that `term` (`[host/]words`) finds.
    pub async fn search(&self, term: &str, limit: usize, credentials: Option<Credentials>) -> Result<Vec<Found>> {
        let host = |first: &&str| first.contains(['.', ':']) || *first == "localhost";
        let (domain, words) = match term.split_once('/').filter(|(first, _)| host(first)) {
            Some((domain, words)) => (domain, words),
            None => ("docker.io", term),
        };
        let client = self.shared().registries.client.clone();
        let credentials = credentials.unwrap_or_default();
        client.search(&domain_of(domain), words, limit, &credentials).await.map_err(|cause| {
            let kind = if cause.is_denied() { ErrorKind::Forbidden } else { ErrorKind::Unavailable };
            Error::because(kind, format!("cannot search {domain} for {words:?}"), &cause)
        })
    }

    /// The manifest that `name` means in its registry, as it is.
    pub async fn remote_manifest(&self, name: &ImageName, credentials: Option<Credentials>) -> Result<Manifest> {
        let name = name.clone().or_latest();
        let repository = self.shared().registries.client.repository(&name, Access::Pull, credentials);
        repository.manifest(&reference(&name)).await.map_err(|cause| failed("look up", &name, &cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_registry::Reason;

    #[test]
    fn servers_of_logins_become_domains() {
        for (server, domain) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("https://r.example:5000/", "r.example:5000"),
            ("r.example", "r.example"),
        ] {
            assert_eq!(domain_of(server), domain);
        }
    }

    #[test]
    fn a_registrys_no_is_told_in_dockers_words() {
        let refused = |status, code: &str, message: &str| RegistryError::Refused {
            host: "h".into(),
            status,
            reasons: vec![Reason { code: code.into(), message: message.into() }],
            retry_after_seconds: None,
        };
        let name: ImageName = "h:5000/a:1".parse().unwrap();
        let unknown = failed("pull", &name, &refused(404, "MANIFEST_UNKNOWN", "manifest unknown"));
        assert_eq!(unknown.to_string(), "manifest for h:5000/a:1 not found: manifest unknown: manifest unknown");
        assert_eq!(unknown.kind, ErrorKind::NotFound);
        let denied = failed("pull", &name, &refused(403, "DENIED", "requested access to the resource is denied"));
        assert!(denied.message.starts_with(
            "pull access denied for h:5000/a, repository does not exist or may require 'docker login': denied: "
        ));
        let busy = failed("pull", &name, &refused(429, "TOOMANYREQUESTS", "slow down"));
        assert_eq!(busy.to_string(), "cannot pull h:5000/a:1: toomanyrequests: slow down");
        assert_eq!((busy.kind, busy.hint.is_some()), (ErrorKind::Unavailable, true));
    }
}
