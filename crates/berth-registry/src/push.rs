//! Uploads: what is there is not sent, what lies in another repository is mounted, a cut upload goes on.
//!
//! ```text
//! HEAD blob ── 200: nothing to do
//! POST uploads/?mount=digest&from=repository ── 201: mounted
//!                                            ── 202 Location ── PATCH bytes ── PUT ?digest= ── 201
//!                                                                 └ cut ── GET Location ── Range: go on from there
//!                                                                                       ── gone: a new upload
//! ```

use crate::client::Repository;
use crate::http::{Answer, Call, Payload, Source};
use crate::retry::Tries;
use crate::url;
use crate::{Manifest, RegistryError};
use berth_types::Digest;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode, Uri};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

/// A registry reads and hashes a whole blob before it confirms.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(600);
/// Of a file, at a time.
const CHUNK_BYTES: u64 = 256 << 10;
const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// What became of an attempt to mount.
enum Begun {
    Mounted,
    /// Bytes go here.
    At(Uri),
}

/// A file's bytes, read by position: many readers do not disturb each other.
pub struct FileSource {
    file: Arc<std::fs::File>,
}

impl FileSource {
    pub fn new(file: std::fs::File) -> FileSource {
        FileSource { file: Arc::new(file) }
    }
}

impl Source for FileSource {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
        let (file, end) = (self.file.clone(), offset + length);
        futures_util::stream::try_unfold((file, offset), move |(file, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let count = usize::try_from(CHUNK_BYTES.min(end - at)).expect("a chunk fits");
            let reading = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; count];
                file.read_exact_at(&mut chunk, at).map(|()| (Bytes::from(chunk), file))
            });
            let (chunk, file) = reading.await.map_err(io::Error::other)??;
            Ok(Some((chunk, (file, at + count as u64))))
        })
        .boxed()
    }
}

/// Bytes in memory: configurations and the like.
pub struct BytesSource(pub Bytes);

impl Source for BytesSource {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
        let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.0.len());
        let part = self.0.slice(clip(offset)..clip(offset + length));
        futures_util::stream::once(async move { Ok(part) }).boxed()
    }
}

/// Tells how far its reader is.
struct Watched {
    inner: Arc<dyn Source>,
    sent: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Source for Watched {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
        let (sent, mut at) = (self.sent.clone(), offset);
        let tell = move |chunk: &io::Result<Bytes>| {
            if let Ok(chunk) = chunk {
                at += chunk.len() as u64;
                sent(at);
            }
        };
        self.inner.open(offset, length).inspect(tell).boxed()
    }
}

impl Repository {
    fn home(&self) -> &crate::config::Endpoint {
        self.endpoints.last().expect("the registry itself is always an endpoint")
    }

    /// Whether the repository has this blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let asked = self.read(&|base| Ok(Call::new(Method::HEAD, self.uri(base, &format!("/blobs/{digest}"))?))).await;
        match asked {
            Ok(answer) => {
                answer.drain().await;
                Ok(true)
            }
            Err(cause) if cause.is_not_found() => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// Takes a blob over from repository `from` of the same registry; false where that is not possible.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        match self.begin(Some((digest, from))).await {
            Ok(Begun::Mounted) => Ok(true),
            Ok(Begun::At(location)) => {
                // Nobody will use it. A registry that does not let go of it drops it by itself.
                let cancelled = self.once(self.home(), &|_| Ok(Call::new(Method::DELETE, location.clone()))).await;
                if let Ok(answer) = cancelled {
                    answer.drain().await;
                }
                Ok(false)
            }
            // The user may not read the other repository: then the bytes are sent.
            Err(cause) if cause.is_denied() || cause.is_not_found() => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    async fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Begun, RegistryError> {
        let mut tries = Tries::new(self.client.config());
        loop {
            let make = |base: &str| {
                let uri = self.uri(base, "/blobs/uploads/")?;
                let uri = match mount {
                    Some((digest, from)) => url::with_query(&uri, &[("mount", &digest.to_string()), ("from", from)])?,
                    None => uri,
                };
                Ok(Call::new(Method::POST, uri))
            };
            let asked = match mount {
                Some((_, from)) => self.once_with(self.home(), &format!("repository:{from}:pull"), &make).await,
                None => self.once(self.home(), &make).await,
            };
            match asked {
                Ok(answer) if answer.status == StatusCode::CREATED && mount.is_some() => {
                    answer.drain().await;
                    return Ok(Begun::Mounted);
                }
                Ok(answer) => {
                    let location = location(&answer)?;
                    answer.drain().await;
                    return Ok(Begun::At(location));
                }
                Err(cause) => tries.again(cause).await?,
            }
        }
    }

    /// Sends a blob. `sent` hears how many of its bytes have gone out, less again after a cut that could not be mended.
    pub async fn upload(
        &self,
        digest: &Digest,
        length: u64,
        source: Arc<dyn Source>,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<(), RegistryError> {
        let source: Arc<dyn Source> = Arc::new(Watched { inner: source, sent });
        let mut tries = Tries::new(self.client.config());
        let mut upload: Option<(Uri, u64)> = None;
        let mut farthest = 0;
        loop {
            let (location, offset) = match upload.take() {
                Some(open) => open,
                None => match self.begin(None).await? {
                    Begun::At(location) => (location, 0),
                    Begun::Mounted => return Ok(()),
                },
            };
            let cause = match self.send(&location, digest, offset, length, &source).await {
                Ok(()) => return Ok(()),
                Err(cause) => cause,
            };
            // The last answer may be all that was lost.
            if cause.is_transient() && self.has_blob(digest).await.unwrap_or(false) {
                return Ok(());
            }
            // A registry that threw the upload away (404) or lost track of it (416) gets a new one.
            let mended = matches!(&cause, RegistryError::Refused { status: 404 | 416, .. }) && offset > 0;
            if mended {
                continue;
            }
            upload = if cause.is_transient() { self.arrived(&location, length).await } else { None };
            let reached = upload.as_ref().map_or(0, |(_, offset)| *offset);
            if reached > farthest && cause.is_transient() {
                farthest = reached;
                tries.refill();
            }
            tries.again(cause).await?;
        }
    }

    /// How much of an upload the registry has; `None` where it has lost it.
    async fn arrived(&self, location: &Uri, length: u64) -> Option<(Uri, u64)> {
        let answer = self.once(self.home(), &|_| Ok(Call::new(Method::GET, location.clone()))).await.ok()?;
        let next = self::location(&answer).unwrap_or_else(|_| location.clone());
        let range = answer.header(&header::RANGE).unwrap_or_default();
        let last: u64 = range.trim_start_matches("bytes=").split_once('-')?.1.parse().ok()?;
        // `0-0` is what registries say of an empty upload too.
        let offset = if last == 0 { 0 } else { last + 1 };
        answer.drain().await;
        (offset <= length).then_some((next, offset))
    }

    /// The rest of the bytes, and the confirmation.
    async fn send(
        &self,
        location: &Uri,
        digest: &Digest,
        offset: u64,
        length: u64,
        source: &Arc<dyn Source>,
    ) -> Result<(), RegistryError> {
        let rest = length - offset;
        let mut location = location.clone();
        if rest > 0 {
            let answer = self
                .once(self.home(), &|_| {
                    let payload = Payload::Source { source: source.clone(), offset, length: rest };
                    let call = Call::new(Method::PATCH, location.clone())
                        .with(header::CONTENT_TYPE, "application/octet-stream")
                        .sending(payload);
                    // Only a part needs to say which one it is; some registries refuse it for a whole.
                    Ok(match offset {
                        0 => call,
                        _ => call.with(header::CONTENT_RANGE, &format!("{offset}-{}", length - 1)),
                    })
                })
                .await?;
            location = self::location(&answer)?;
            answer.drain().await;
        }
        let confirmed = self
            .once(self.home(), &|_| {
                let uri = url::with_query(&location, &[("digest", &digest.to_string())])?;
                let mut call = Call::new(Method::PUT, uri).with(header::CONTENT_TYPE, "application/octet-stream");
                call.patience = Some(CONFIRM_PATIENCE);
                Ok(call)
            })
            .await?;
        check_digest(&confirmed, digest, "the uploaded blob")?;
        confirmed.drain().await;
        Ok(())
    }

    /// Stores a manifest under `reference`, a tag or its digest.
    pub async fn put_manifest(&self, reference: &str, manifest: &Manifest) -> Result<(), RegistryError> {
        let mut tries = Tries::new(self.client.config());
        loop {
            let put = self
                .once(self.home(), &|base| {
                    let uri = self.uri(base, &format!("/manifests/{reference}"))?;
                    let mut call = Call::new(Method::PUT, uri)
                        .with(header::CONTENT_TYPE, &manifest.media_type)
                        .sending(Payload::Bytes(Bytes::from(manifest.bytes.clone())));
                    call.patience = Some(CONFIRM_PATIENCE);
                    Ok(call)
                })
                .await;
            match put {
                Ok(answer) => {
                    check_digest(&answer, &manifest.digest, "the stored manifest")?;
                    answer.drain().await;
                    return Ok(());
                }
                Err(cause) => tries.again(cause).await?,
            }
        }
    }
}

fn check_digest(answer: &Answer, expected: &Digest, what: &str) -> Result<(), RegistryError> {
    match answer.header(&DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok()) {
        Some(actual) if actual != *expected => {
            Err(RegistryError::WrongDigest { what: what.to_owned(), expected: *expected, actual })
        }
        _ => Ok(()),
    }
}

fn location(answer: &Answer) -> Result<Uri, RegistryError> {
    let text = answer.header(&header::LOCATION).ok_or_else(|| RegistryError::Damaged {
        host: answer.host.clone(),
        what: "answer".to_owned(),
        why: "it does not say where the upload goes on".to_owned(),
    })?;
    url::join(&answer.uri, text)
}
