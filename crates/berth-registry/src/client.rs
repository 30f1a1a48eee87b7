//! The client of all registries, and one repository of one of them.

use crate::auth::{Auth, Credentials, Scopes};
use crate::config::{Config, Endpoint};
use crate::http::{Answer, Call, Http, Payload};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, digest_of};
use crate::notice::in_words;
use crate::retry::Tries;
use crate::url::{self, Origin};
use crate::{Descriptor, Document, Notice, Notify, RegistryError, manifest};
use berth_types::{Digest, ImageName};
use bytes::Bytes;
use hyper::header;
use hyper::{Method, StatusCode, Uri};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Tags of one repository, and pages that list them.
const TAGS_MAX: usize = 100_000;
const PAGES_MAX: usize = 1000;

/// Speaks to registries; cloning costs a counter. Connections, tokens and what was learnt about a registry are shared.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    auth: Auth,
}

/// What a caller means to do with a repository: what tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Pull,
    Push,
}

/// One repository, asked by one user.
#[derive(Clone)]
pub struct Repository {
    pub(crate) client: Client,
    pub(crate) name: ImageName,
    credentials: Credentials,
    scopes: Scopes,
    pub(crate) endpoints: Arc<Vec<Endpoint>>,
    /// Mirrors that failed; not asked again by this value.
    failed: Arc<Mutex<BTreeSet<usize>>>,
    /// Somebody has answered.
    met: Arc<AtomicBool>,
    notify: Option<Notify>,
}

/// Which endpoints of its repository the bytes of a blob came from, in their order.
#[derive(Debug, Clone, Default)]
pub struct Sources(pub(crate) Vec<usize>);

/// Makes a request from an endpoint's base URL.
pub(crate) type Make<'a> = &'a (dyn Fn(&str) -> Result<Call, RegistryError> + Send + Sync);

/// A file on its way.
pub struct Download {
    answer: Answer,
}

impl Download {
    pub fn status(&self) -> u16 {
        self.answer.status.as_u16()
    }

    /// As the server announces it.
    pub fn length(&self) -> Option<u64> {
        self.answer.header(&header::CONTENT_LENGTH)?.parse().ok()
    }

    pub fn last_modified(&self) -> Option<&str> {
        self.answer.header(&header::LAST_MODIFIED)
    }

    /// The next bytes; `None` at the proper end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.answer.chunk().await
    }
}

impl Client {
    /// Refuses a configuration that could only fail later.
    pub fn new(config: Config) -> Result<Client, RegistryError> {
        config.check()?;
        Ok(Client { inner: Arc::new(Inner { http: Http::new(Arc::new(config)), auth: Auth::default() }) })
    }

    pub fn config(&self) -> &Config {
        self.inner.http.config()
    }

    /// `name`'s repository. Where no credentials come along, those of the configuration are used.
    pub fn repository(&self, name: &ImageName, access: Access, credentials: Option<Credentials>) -> Repository {
        let known = self.config().registry(name.domain()).and_then(|registry| registry.credentials.clone());
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        Repository {
            client: self.clone(),
            name: name.clone(),
            credentials: credentials.filter(|c| *c != Credentials::Anonymous).or(known).unwrap_or_default(),
            scopes: [format!("repository:{}:{actions}", name.path())].into(),
            endpoints: Arc::new(self.config().endpoints(name.domain(), access == Access::Pull)),
            failed: Arc::default(),
            met: Arc::default(),
            notify: None,
        }
    }

    /// Any file by its URL: same connections, proxies and certificates, nobody's credentials.
    pub async fn download(&self, url: &str) -> Result<Download, RegistryError> {
        let answer = self.http().follow(Call::new(Method::GET, url::parse(url)?)).await?;
        Ok(Download { answer })
    }

    pub(crate) fn http(&self) -> &Http {
        &self.inner.http
    }

    /// `https://host/prefix` of an endpoint.
    pub(crate) async fn base(&self, endpoint: &Endpoint) -> Result<String, RegistryError> {
        let tls = match endpoint.tls {
            Some(tls) => tls,
            None => self.http().speaks_tls(endpoint.host()).await?,
        };
        Ok(format!("{}://{}", if tls { "https" } else { "http" }, endpoint.place))
    }

    /// Sends `call` with what the registry wants to know about us; any status is an answer.
    pub(crate) async fn ask(
        &self,
        call: Call,
        credentials: &Credentials,
        scopes: &Scopes,
        notify: Option<&Notify>,
    ) -> Result<Answer, RegistryError> {
        let origin = Origin::of(&call.uri).ok_or_else(|| RegistryError::Configuration {
            what: format!("URL {}", call.uri),
            why: "no http(s)".to_owned(),
        })?;
        let mut scopes = scopes.clone();
        for last in [false, true] {
            // What the registry asked for long ago need not be what it asks for now: where that comes to nothing, it is
            // asked itself. A body is not sent to hear that.
            let doubtful = !last && matches!(call.payload, Payload::Empty);
            let tries = if doubtful { Tries::once(self.config()) } else { Tries::new(self.config()).telling(notify) };
            let authorization = match self.inner.auth.header(self.http(), &origin, credentials, &scopes, tries).await {
                Err(cause @ RegistryError::Token { .. }) if doubtful && !cause.is_denied() => {
                    tracing::debug!(%cause, registry = origin.shown(), "asked anew where its tokens are");
                    self.inner.auth.forget(&origin);
                    None
                }
                other => other?,
            };
            let with = match &authorization {
                Some(value) => call.clone().with(header::AUTHORIZATION, value),
                None => call.clone(),
            };
            let answer = self.http().follow(with).await?;
            if answer.status != StatusCode::UNAUTHORIZED || last {
                return Ok(answer);
            }
            if !self.inner.auth.challenged(&origin, &answer.headers, credentials, &mut scopes) {
                return Ok(answer);
            }
            // The same password again cannot be right.
            if authorization.is_some_and(|value| value.starts_with("Basic ")) {
                return Ok(answer);
            }
            answer.drain().await;
        }
        unreachable!("the last round answers");
    }

    /// Checks `credentials` with the registry at `domain`; the identity token where its token server gives one.
    pub async fn login(&self, domain: &str, credentials: &Credentials) -> Result<Option<String>, RegistryError> {
        let endpoint = self.config().endpoints(domain, false).pop().expect("the registry itself is always an endpoint");
        let base = self.base(&endpoint).await?;
        let uri = url::parse(&format!("{base}/v2/"))?;
        let origin = Origin::of(&uri).expect("parsed as http(s)");
        let mut tries = Tries::new(self.config());
        loop {
            let asked = async {
                let answer = self.ask(Call::new(Method::GET, uri.clone()), credentials, &Scopes::new(), None).await?;
                if !answer.status.is_success() {
                    return Err(answer.refusal().await);
                }
                answer.drain().await;
                self.inner.auth.identity(self.http(), &origin, credentials).await
            };
            match asked.await {
                Ok(token) => return Ok(token),
                Err(cause) => tries.again(cause).await?,
            }
        }
    }
}

impl Repository {
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// The same repository for somebody who wants to be told what happens on the way.
    #[must_use]
    pub fn telling(&self, notify: Notify) -> Repository {
        Repository { notify: Some(notify), ..self.clone() }
    }

    /// Tries of one request here.
    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.client.config()).telling(self.notify.as_ref())
    }

    fn credentials_at(&self, endpoint: &Endpoint) -> Credentials {
        if !endpoint.mirror {
            return self.credentials.clone();
        }
        // What the user knows of the registry is none of a mirror's business.
        let known = self.client.config().registries.get(endpoint.host());
        known.and_then(|registry| registry.credentials.clone()).unwrap_or_default()
    }

    /// `https://host/v2/library/debian` + `rest`
    pub(crate) fn uri(&self, base: &str, rest: &str) -> Result<Uri, RegistryError> {
        url::parse(&format!("{base}/v2/{}{rest}", self.name.path()))
    }

    /// One try at one endpoint; only success is an answer.
    pub(crate) async fn once(&self, endpoint: &Endpoint, make: Make<'_>) -> Result<Answer, RegistryError> {
        let base = self.client.base(endpoint).await?;
        let mut call = make(&base)?;
        if endpoint.mirror && self.name.domain() != "docker.io" {
            // A mirror of several registries must know which one is meant.
            call.uri = url::with_query(&call.uri, &[("ns", self.name.domain())])?;
        }
        let answer =
            match self.client.ask(call, &self.credentials_at(endpoint), &self.scopes, self.notify.as_ref()).await {
                Err(cause @ RegistryError::Connect { .. }) => {
                    self.client.http().forget(endpoint.host());
                    return Err(cause);
                }
                other => other?,
            };
        self.met.store(true, Ordering::Relaxed);
        if answer.status.is_success() { Ok(answer) } else { Err(answer.refusal().await) }
    }

    /// Waits before another try, as [`Tries::again`] says. Where nobody was ever at home, nobody is waited for.
    pub(crate) async fn again(&self, tries: &mut Tries, cause: RegistryError) -> Result<(), RegistryError> {
        if cause.is_nobody_at_home() && !self.met.load(Ordering::Relaxed) {
            return Err(cause);
        }
        tries.again(cause).await
    }

    /// Asks with a scope of more than this repository.
    pub(crate) async fn once_with(
        &self,
        endpoint: &Endpoint,
        more: &str,
        make: Make<'_>,
    ) -> Result<Answer, RegistryError> {
        let mut wider = self.clone();
        wider.scopes.insert(more.to_owned());
        wider.once(endpoint, make).await
    }

    pub(crate) fn skips(&self, endpoint: usize) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&endpoint)
    }

    /// Passes a mirror over.
    pub(crate) fn skip(&self, endpoint: usize, cause: &RegistryError) {
        let place = &self.endpoints[endpoint].place;
        // One that lacks the content may have other content; one that is broken or lies is not asked again.
        if cause.is_not_found() {
            tracing::debug!(mirror = place, name = %self.name, %cause, "a mirror does not have it");
            return;
        }
        let why = in_words(cause);
        tracing::warn!(mirror = place, name = %self.name, cause = why, "a mirror is passed over");
        let is_new = self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint);
        if let Some(notify) = self.notify.as_ref().filter(|_| is_new) {
            notify(Notice::Mirror { place: place.clone(), why });
        }
    }

    /// Reads from the first endpoint whose answer `take` can use: mirrors once, the registry itself until there were
    /// enough tries.
    pub(crate) async fn read<T, F>(
        &self,
        make: Make<'_>,
        take: impl Fn(Answer, bool) -> F + Send + Sync,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>> + Send,
    {
        let last = self.endpoints.len() - 1;
        for (at, endpoint) in self.endpoints.iter().enumerate().filter(|(at, _)| *at == last || !self.skips(*at)) {
            let mut tries = self.tries();
            loop {
                let taken = match self.once(endpoint, make).await {
                    Ok(answer) => take(answer, endpoint.mirror).await,
                    Err(cause) => Err(cause),
                };
                match taken {
                    Ok(taken) => return Ok(taken),
                    Err(cause) if at < last => {
                        self.skip(at, &cause);
                        break;
                    }
                    Err(cause) => self.again(&mut tries, cause).await?,
                }
            }
        }
        unreachable!("the last endpoint answers or fails");
    }

    /// Blames the mirrors among `sources` for a blob that was not what its digest says; false where there are none, or
    /// none that was not blamed before: then another try would bring the same.
    pub fn blame(&self, sources: &Sources, descriptor: &Descriptor, actual: Digest) -> bool {
        let last = self.endpoints.len() - 1;
        let mut is_new = false;
        for &endpoint in sources.0.iter().filter(|&&endpoint| endpoint < last && !self.skips(endpoint)) {
            is_new = true;
            self.skip(endpoint, &self.wrong(endpoint, descriptor, actual));
        }
        is_new
    }

    /// That the blob is not what its digest says, of where the last of it came from.
    pub fn wrong_blob(&self, sources: &Sources, descriptor: &Descriptor, actual: Digest) -> RegistryError {
        self.wrong(sources.0.last().copied().unwrap_or(self.endpoints.len() - 1), descriptor, actual)
    }

    fn wrong(&self, endpoint: usize, descriptor: &Descriptor, actual: Digest) -> RegistryError {
        let what = format!("blob {}", descriptor.digest.short());
        let host = self.endpoints[endpoint].host().to_owned();
        RegistryError::WrongDigest { host, what, expected: descriptor.digest, actual }
    }

    /// Fetches the manifest that `reference`, a tag or a digest, means.
    pub async fn manifest(&self, reference: &str) -> Result<Manifest, RegistryError> {
        let wanted = reference.parse::<Digest>().ok();
        let accept = [manifest::OCI_INDEX, manifest::DOCKER_LIST, manifest::OCI_MANIFEST, manifest::DOCKER_MANIFEST];
        let make = |base: &str| {
            let uri = self.uri(base, &format!("/manifests/{reference}"))?;
            Ok(Call::new(Method::GET, uri).with(header::ACCEPT, &accept.join(", ")))
        };
        self.read(&make, async |answer, is_mirror| {
            let content_type = answer.header(&header::CONTENT_TYPE).unwrap_or_default().to_owned();
            let said = answer.named("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
            let host = answer.host.clone();
            let bytes = answer.bytes("the manifest", MANIFEST_BYTES_MAX).await?;
            let manifest = Manifest::new(&content_type, bytes);
            match wanted.or(said) {
                Some(expected) if expected != manifest.digest => Err(RegistryError::WrongDigest {
                    host,
                    what: format!("the manifest {reference}"),
                    expected,
                    actual: manifest.digest,
                }),
                // What a mirror says of a tag has no digest to be checked by: it must at least be a manifest. The
                // registry's own is shown to whoever wants to see it.
                _ if is_mirror => manifest.parse().map(|_| manifest),
                _ => Ok(manifest),
            }
        })
        .await
    }

    /// The digest that `tag` means now, without fetching the manifest; `None` where the registry does not say.
    pub async fn resolve(&self, tag: &str) -> Result<Option<Descriptor>, RegistryError> {
        let accept = [manifest::OCI_INDEX, manifest::DOCKER_LIST, manifest::OCI_MANIFEST, manifest::DOCKER_MANIFEST];
        let make = |base: &str| {
            let uri = self.uri(base, &format!("/manifests/{tag}"))?;
            Ok(Call::new(Method::HEAD, uri).with(header::ACCEPT, &accept.join(", ")))
        };
        let answer = self.read(&make, whole).await?;
        let digest = answer.named("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let kind = answer.header(&header::CONTENT_TYPE).unwrap_or_default().to_owned();
        let found = digest.zip(answer.length()).map(|(digest, size)| Descriptor::new(&kind, digest, size));
        answer.drain().await;
        Ok(found)
    }

    /// All tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut next: Option<Uri> = None;
        for _ in 0..PAGES_MAX {
            let make = |base: &str| {
                let uri = match &next {
                    Some(uri) => uri.clone(),
                    None => self.uri(base, "/tags/list")?,
                };
                Ok(Call::new(Method::GET, uri))
            };
            let answer = self.read(&make, whole).await?;
            let (host, here) = (answer.host.clone(), answer.uri.clone());
            let link = answer.header(&header::LINK).and_then(next_link).map(str::to_owned);
            let body = answer.bytes("the list of tags", MANIFEST_BYTES_MAX).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|cause| RegistryError::Damaged {
                host: host.clone(),
                what: "list of tags".to_owned(),
                why: cause.to_string(),
            })?;
            tags.extend(
                page.tags.unwrap_or_default().into_iter().filter(|tag| berth_types::reference::is_valid_tag(tag)),
            );
            if tags.len() > TAGS_MAX {
                return Err(RegistryError::TooLarge {
                    what: "the list of tags".to_owned(),
                    limit_bytes: TAGS_MAX as u64,
                });
            }
            let Some(link) = link else { return Ok(tags) };
            let following = url::join(&here, &link)?;
            if Origin::of(&following) != Origin::of(&here) {
                let why = "its next page is at another host".to_owned();
                return Err(RegistryError::Damaged { host, what: "list of tags".to_owned(), why });
            }
            next = Some(following);
        }
        Err(RegistryError::TooLarge { what: "the list of tags".to_owned(), limit_bytes: TAGS_MAX as u64 })
    }

    /// What refers to `digest` (signatures, attestations), also in registries that only know the tag for that.
    pub async fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        let make = |base: &str| {
            let uri = self.uri(base, &format!("/referrers/{digest}"))?;
            Ok(Call::new(Method::GET, uri).with(header::ACCEPT, manifest::OCI_INDEX))
        };
        let manifest = match self.read(&make, whole).await {
            Ok(answer) => {
                let kind = answer.header(&header::CONTENT_TYPE).unwrap_or_default().to_owned();
                Manifest::new(&kind, answer.bytes("the list of referrers", MANIFEST_BYTES_MAX).await?)
            }
            Err(cause) if cause.is_not_found() => match self.manifest(&format!("sha256-{}", digest.hex())).await {
                Ok(manifest) => manifest,
                Err(cause) if cause.is_not_found() => return Ok(Vec::new()),
                Err(cause) => return Err(cause),
            },
            Err(cause) => return Err(cause),
        };
        match manifest.parse()? {
            Document::Index(entries) => Ok(entries),
            Document::Image { .. } => {
                Err(RegistryError::Unsupported(format!("the referrers of {digest} are no index")))
            }
        }
    }

    /// A small blob, whole and checked.
    pub async fn blob_bytes(&self, descriptor: &Descriptor, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size > limit_bytes {
            let what = format!("blob {}", descriptor.digest.short());
            return Err(RegistryError::TooLarge { what, limit_bytes });
        }
        loop {
            let mut all = Vec::new();
            let mut reader = self.blob(descriptor, 0);
            while let Some(chunk) = reader.next().await? {
                all.extend_from_slice(&chunk);
            }
            let actual = digest_of(&all);
            if actual == descriptor.digest {
                return Ok(all);
            }
            let sources = reader.sources();
            if !self.blame(&sources, descriptor, actual) {
                return Err(self.wrong_blob(&sources, descriptor, actual));
            }
        }
    }
}

/// An answer as it is, whoever gave it.
async fn whole(answer: Answer, _: bool) -> Result<Answer, RegistryError> {
    Ok(answer)
}

/// `<url>; rel="next"`
pub(crate) fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        rest.replace(['"', ' '], "").contains("rel=next").then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_link(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#), Some("/v2/a/tags/list?last=b&n=2"));
        assert_eq!(next_link(r#"</x>; rel=prev, </y>; rel = "next""#), Some("/y"));
        assert_eq!(next_link("nonsense"), None);
    }
}
