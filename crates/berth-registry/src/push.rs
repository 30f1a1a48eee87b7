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
use crate::url;
use crate::{Manifest, RegistryError};
use berth_types::Digest;
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{BoxStream, StreamExt as _};
use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode, Uri};
use std::future::Future;
use std::io;
use std::pin::pin;
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

/// What became of a blob that was sent while it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    Sent,
    /// The repository had it; the upload was given up.
    WasThere,
}

/// Bytes by position, read by threads that may block: many readers do not disturb each other.
pub trait Positioned: Send + Sync + 'static {
    /// Some bytes from `at` on, waiting for those that are still to come; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Positioned for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, at)
    }
}

/// A file's bytes, also of one that is still being written.
pub struct FileSource<F = std::fs::File> {
    file: Arc<F>,
}

impl<F> FileSource<F> {
    pub fn new(file: F) -> FileSource<F> {
        FileSource { file: Arc::new(file) }
    }
}

impl<F: Positioned> Source for FileSource<F> {
    fn open(&self, offset: u64, length: Option<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let (file, end) = (self.file.clone(), length.map_or(u64::MAX, |length| offset.saturating_add(length)));
        futures_util::stream::try_unfold((file, offset), move |(file, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let count = usize::try_from(CHUNK_BYTES.min(end - at)).expect("a chunk fits");
            let reading = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; count];
                let count = loop {
                    match file.read_at(&mut chunk, at) {
                        Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                        other => break other?,
                    }
                };
                chunk.truncate(count);
                io::Result::Ok((Bytes::from(chunk), file))
            });
            let (chunk, file) = reading.await.map_err(io::Error::other)??;
            match chunk.len() {
                0 if end == u64::MAX => Ok(None),
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                count => Ok(Some((chunk, (file, at + count as u64)))),
            }
        })
        .boxed()
    }
}

/// Bytes in memory: configurations and the like.
pub struct BytesSource(pub Bytes);

impl Source for BytesSource {
    fn open(&self, offset: u64, length: Option<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.0.len());
        let end = length.map_or(u64::MAX, |length| offset.saturating_add(length));
        let part = self.0.slice(clip(offset)..clip(end));
        futures_util::stream::once(async move { Ok(part) }).boxed()
    }
}

/// Tells how far its reader is.
struct Watched {
    inner: Arc<dyn Source>,
    sent: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Source for Watched {
    fn open(&self, offset: u64, length: Option<u64>) -> BoxStream<'static, io::Result<Bytes>> {
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
        let make = |base: &str| Ok(Call::new(Method::HEAD, self.uri(base, &format!("/blobs/{digest}"))?));
        let asked = self.read(&make, async |answer, _| {
            answer.drain().await;
            Ok(())
        });
        match asked.await {
            Ok(()) => Ok(true),
            Err(cause) if cause.is_not_found() => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// Takes a blob over from repository `from` of the same registry; false where that is not possible.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        match self.begin(Some((digest, from))).await {
            Ok(Begun::Mounted) => Ok(true),
            Ok(Begun::At(location)) => {
                self.cancel(&location).await;
                Ok(false)
            }
            // The user may not read the other repository: then the bytes are sent.
            Err(cause) if cause.is_denied() || cause.is_not_found() => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// Lets go of an upload that nobody will go on with. A registry that keeps it drops it by itself some day.
    async fn cancel(&self, location: &Uri) {
        if let Ok(answer) = self.once(self.home(), &|_| Ok(Call::new(Method::DELETE, location.clone()))).await {
            answer.drain().await;
        }
    }

    async fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Begun, RegistryError> {
        let mut tries = self.tries();
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
                Err(cause) => self.again(&mut tries, cause).await?,
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
        self.send_all(digest, length, &source, None).await
    }

    /// Sends a blob that is still being made: `whole` answers its digest and length when all of it is in `source`. What
    /// the repository turns out to have then is not sent to its end.
    pub async fn upload_growing(
        &self,
        source: Arc<dyn Source>,
        whole: impl Future<Output = io::Result<(Digest, u64)>>,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Uploaded, RegistryError> {
        let source: Arc<dyn Source> = Arc::new(Watched { inner: source, sent });
        let mut whole = pin!(whole);
        let Begun::At(location) = self.begin(None).await? else { return Ok(Uploaded::WasThere) };
        let ((digest, length), sent) = {
            let mut sending = pin!(self.patch(&location, 0, None, &source));
            match select(&mut sending, &mut whole).await {
                // A cut link waits here for the rest: what is sent then has a length.
                Either::Left((sent, whole)) => (whole.await.map_err(RegistryError::Source)?, sent),
                Either::Right((made, _)) => {
                    let (digest, length) = made.map_err(RegistryError::Source)?;
                    let sent = match select(&mut sending, pin!(self.has_blob(&digest))).await {
                        Either::Left((sent, _)) => Some(sent),
                        Either::Right((Ok(true), _)) => None,
                        Either::Right((_, sending)) => Some(sending.await),
                    };
                    match sent {
                        Some(sent) => ((digest, length), sent),
                        None => {
                            self.cancel(&location).await;
                            return Ok(Uploaded::WasThere);
                        }
                    }
                }
            }
        };
        let failed = match sent {
            Ok(location) => match self.confirm(&location, &digest).await {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(cause) => Some((location, 0, cause)),
            },
            // It wants to know the length before it takes anything.
            Err(RegistryError::Refused { status: 411, .. }) => {
                self.cancel(&location).await;
                None
            }
            Err(cause) => Some((location, 0, cause)),
        };
        self.send_all(&digest, length, &source, failed).await.map(|()| Uploaded::Sent)
    }

    /// Sends a blob to its end, over as many links as it takes. `failed`: an upload that broke, where its last try had
    /// begun, and why it broke.
    async fn send_all(
        &self,
        digest: &Digest,
        length: u64,
        source: &Arc<dyn Source>,
        mut failed: Option<(Uri, u64, RegistryError)>,
    ) -> Result<(), RegistryError> {
        let mut tries = self.tries();
        let mut upload: Option<(Uri, u64)> = None;
        let mut farthest = 0;
        loop {
            let (location, offset, cause) = match failed.take() {
                Some(failed) => failed,
                None => {
                    let (location, offset) = match upload.take() {
                        Some(open) => open,
                        None => match self.begin(None).await? {
                            Begun::At(location) => (location, 0),
                            Begun::Mounted => return Ok(()),
                        },
                    };
                    match self.send(&location, digest, offset, length, source).await {
                        Ok(()) => return Ok(()),
                        Err(cause) => (location, offset, cause),
                    }
                }
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
            self.again(&mut tries, cause).await?;
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
        match offset < length {
            true => self.confirm(&self.patch(location, offset, Some(length), source).await?, digest).await,
            false => self.confirm(location, digest).await,
        }
    }

    /// The bytes from `offset` on, up to `end` where that is known; where the upload goes on.
    async fn patch(
        &self,
        location: &Uri,
        offset: u64,
        end: Option<u64>,
        source: &Arc<dyn Source>,
    ) -> Result<Uri, RegistryError> {
        let answer = self
            .once(self.home(), &|_| {
                let length = end.map(|end| end - offset);
                let payload = Payload::Source { source: source.clone(), offset, length };
                let call = Call::new(Method::PATCH, location.clone())
                    .with(header::CONTENT_TYPE, "application/octet-stream")
                    .sending(payload);
                // Only a part needs to say which one it is; some registries refuse it for a whole.
                Ok(match end {
                    Some(end) if offset > 0 => {
                        call.with(header::CONTENT_RANGE, &format!("{offset}-{}", end.saturating_sub(1)))
                    }
                    _ => call,
                })
            })
            .await?;
        let location = self::location(&answer)?;
        answer.drain().await;
        Ok(location)
    }

    /// All bytes are there: makes them the blob `digest`.
    async fn confirm(&self, location: &Uri, digest: &Digest) -> Result<(), RegistryError> {
        let confirmed = self
            .once(self.home(), &|_| {
                let uri = url::with_query(location, &[("digest", &digest.to_string())])?;
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
        let mut tries = self.tries();
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
                Err(cause) => self.again(&mut tries, cause).await?,
            }
        }
    }
}

fn check_digest(answer: &Answer, expected: &Digest, what: &str) -> Result<(), RegistryError> {
    match answer.header(&DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok()) {
        Some(actual) if actual != *expected => Err(RegistryError::WrongDigest {
            host: answer.host.clone(),
            what: what.to_owned(),
            expected: *expected,
            actual,
        }),
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
