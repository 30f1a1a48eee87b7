//! Pushing: an image's layers, configuration and manifest go into a repository.
//!
//! ```text
//! layer ── a form that the repository has?           "Layer already exists"
//!       ── one that lies elsewhere in the registry?  "Mounted from .."
//!       ── a packed form on our disk?                sent
//!       ── else packed from the layer's record, the same bytes every time, sent as they come, and kept for the next push,
//!          whatever becomes of this one
//! ```

use super::known::KnownBlob;
use super::registry::{Credentials, Tell, TransferMessage, TransferProgress, TransferStream, failed, tell};
use super::shared::Shared;
use super::{Images, blocking};
use crate::events::EventKind;
use crate::full;
use berth_content::{Draft, Follower};
use berth_image::LayerArchive;
use berth_registry::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use berth_registry::{
    Access, BytesSource, Descriptor, FileSource, Manifest, Positioned, RegistryError, Repository, Source, Uploaded,
};
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use bytes::Bytes;
use futures_util::future::{Either, select};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, Semaphore, mpsc, oneshot};

/// How often a layer's progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Threads that pack one layer.
const PACKING_THREADS: usize = 2;
/// Layers packed at once: more would only take turns on the processors.
const PACKING_MAX: usize = 2;

#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Every tag of the repository that is here.
    pub all_tags: bool,
    pub credentials: Option<Credentials>,
}

/// One push of one image.
struct Push {
    shared: Arc<Shared>,
    repository: Repository,
    name: ImageName,
    packing: Semaphore,
    to: Tell,
}

impl Images {
    /// Pushes `name`, or every tag of its repository that is here.
    pub async fn push(&self, name: ImageName, options: PushOptions) -> Result<TransferStream> {
        if name.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let images = self.clone();
        Ok(TransferStream::of(move |to| {
            Box::pin(async move {
                let whole = format!("{}/{}", name.domain(), name.path());
                tell(&to, TransferMessage::line(format!("The push refers to repository [{whole}]"))).await;
                let names = images.to_push(&name, options.all_tags)?;
                let client = images.shared().registries.client.clone();
                let repository = client.repository(&name, Access::Push, options.credentials);
                let repository = repository.telling(super::pull::notify(&to));
                for (name, id) in names {
                    images.push_one(&repository, &name, id, &to).await?;
                }
                Ok(())
            })
        }))
    }

    fn to_push(&self, name: &ImageName, all_tags: bool) -> Result<Vec<(ImageName, Digest)>> {
        let shared = self.shared();
        let catalog = shared.catalog();
        let same = |other: &ImageName| other.domain() == name.domain() && other.path() == name.path();
        let all: Vec<(ImageName, Digest)> = catalog
            .names
            .iter()
            .filter(|(other, _)| same(other) && other.digest().is_none())
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        if all.is_empty() {
            let familiar = name.familiar_repository();
            return Err(Error::not_found(format!("An image does not exist locally with the tag: {familiar}")));
        }
        if all_tags {
            return Ok(all);
        }
        let wanted = name.clone().or_latest();
        let found = all.into_iter().find(|(name, _)| *name == wanted);
        found
            .map(|found| vec![found])
            .ok_or_else(|| Error::not_found(format!("tag does not exist: {}", wanted.familiar())))
    }

    async fn push_one(&self, repository: &Repository, name: &ImageName, id: Digest, to: &Tell) -> Result<()> {
        let shared = self.shared();
        let record = shared.find(&id.to_string())?;
        let config = shared.config_bytes(&id)?.into_bytes();
        let pins = {
            let (shared, layers) = (shared.clone(), record.layers.clone());
            blocking(move || Ok(Shared::pin(&shared, layers))).await?
        };
        let push = Push {
            shared: shared.clone(),
            repository: repository.clone(),
            name: name.clone(),
            packing: Semaphore::new(PACKING_MAX),
            to: to.clone(),
        };
        for layer in record.layers.iter().rev() {
            tell(to, TransferMessage::layer(&layer.short(), "Preparing")).await;
        }
        let mut unique: Vec<Digest> = Vec::new();
        for layer in &record.layers {
            if !unique.contains(layer) {
                unique.push(*layer);
            }
        }
        let sent = futures_util::future::try_join_all(unique.iter().map(|diff_id| push.layer(*diff_id))).await?;
        let forms: BTreeMap<Digest, Descriptor> = unique.iter().copied().zip(sent).collect();
        push.config(id, &config).await?;
        let layers: Vec<Descriptor> = record.layers.iter().map(|layer| forms[layer].clone()).collect();
        let manifest = manifest_of(id, config.len() as u64, &layers);
        let tag = name.tag().unwrap_or(berth_types::reference::DEFAULT_TAG);
        push.fail(repository.put_manifest(tag, &manifest).await)?;
        let (images, pinned, digest) = (self.clone(), name.clone().pinned(manifest.digest), manifest.digest);
        let seen: Vec<(Digest, Descriptor)> = forms.into_iter().collect();
        let name_here = name.clone();
        blocking(move || {
            let shared = images.shared();
            shared.remember_blobs(&seen, name_here.domain(), name_here.path())?;
            shared.change(|catalog, changes| {
                // Removed or renamed meanwhile: then there is nothing to name.
                if catalog.images.contains_key(&id) && catalog.names.get(&pinned) != Some(&id) {
                    changes.names.push((pinned, id));
                }
                Ok(())
            })?;
            drop(pins);
            shared.sweep_if_due();
            Ok(())
        })
        .await?;
        let size_bytes = manifest.size_bytes();
        tell(to, TransferMessage::line(format!("{tag}: digest: {digest} size: {size_bytes}"))).await;
        tell(to, TransferMessage::Pushed { tag: tag.to_owned(), digest, size_bytes }).await;
        let attributes = BTreeMap::from([("name".to_owned(), name.familiar_repository())]);
        self.engine.events().publish(EventKind::Image, "push", name.familiar(), attributes);
        Ok(())
    }
}

/// Sees to it that a repository has these layers, without an image; in which form.
pub(super) async fn layers(
    images: &Images,
    repository: &Repository,
    name: &ImageName,
    layers: &[Digest],
) -> Result<Vec<Descriptor>> {
    let shared = images.shared();
    // Nobody listens to how far it is.
    let (to, _) = mpsc::channel(1);
    let packing = Semaphore::new(PACKING_MAX);
    let push = Push { shared: shared.clone(), repository: repository.clone(), name: name.clone(), packing, to };
    let sent = futures_util::future::try_join_all(layers.iter().map(|diff_id| push.layer(*diff_id))).await?;
    let seen: Vec<(Digest, Descriptor)> = layers.iter().copied().zip(sent.iter().cloned()).collect();
    let name = name.clone();
    blocking(move || shared.remember_blobs(&seen, name.domain(), name.path())).await?;
    Ok(sent)
}

/// Packs a layer from its record into an unnamed blob. Blocks.
pub(super) fn pack_here(shared: &Shared, diff_id: Digest) -> Result<Draft> {
    let mut draft = shared.disk.blobs().draft().map_err(|cause| content(&diff_id, &cause))?;
    pack_into(shared, diff_id, &mut draft, &Arc::default())?;
    Ok(draft)
}

fn pack_into(shared: &Shared, diff_id: Digest, draft: &mut Draft, packed: &Arc<Packed>) -> Result<()> {
    let failed = |cause: &(dyn std::error::Error + 'static)| {
        full::or_here(ErrorKind::Internal, format!("cannot pack layer {}", diff_id.short()), cause)
    };
    let layer = shared.disk.snapshots().open_layer(&diff_id).map_err(|cause| failed(&cause))?;
    let archive = LayerArchive::open(&diff_id, layer).map_err(|cause| failed(&cause))?;
    packed.total.store(archive.length(), Ordering::Relaxed);
    let mut from = Watched { inner: archive, packed: packed.clone() };
    let mut to = Counted { inner: draft, packed };
    berth_image::gzip(&mut from, &mut to, PACKING_THREADS).map_err(|cause| failed(&cause))?;
    draft.end();
    Ok(())
}

/// Docker's schema 2 where its words suffice, OCI's manifest for what it cannot say (zstd).
fn manifest_of(config: Digest, config_size: u64, layers: &[Descriptor]) -> Manifest {
    let docker = layers.iter().all(|layer| packing(&layer.media_type) == "gzip");
    let (kind, config_kind) = if docker { (DOCKER_MANIFEST, DOCKER_CONFIG) } else { (OCI_MANIFEST, OCI_CONFIG) };
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            let kind = match (docker, packing(&layer.media_type)) {
                (true, _) => DOCKER_LAYER_GZIP,
                (false, "gzip") => OCI_LAYER_GZIP,
                (false, "zstd") => OCI_LAYER_ZSTD,
                (false, _) => "application/vnd.oci.image.layer.v1.tar",
            };
            json!({"mediaType": kind, "size": layer.size, "digest": layer.digest})
        })
        .collect();
    let text = json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": config_kind, "size": config_size, "digest": config},
        "layers": layers,
    });
    Manifest::new(kind, text.to_string().into_bytes())
}

fn packing(media_type: &str) -> &'static str {
    match media_type {
        kind if kind.ends_with("gzip") => "gzip",
        kind if kind.ends_with("zstd") => "zstd",
        _ => "none",
    }
}

/// How far a layer's packing is.
#[derive(Default)]
struct Packed {
    /// Bytes of the archive, how many of them are read, and how many they became.
    total: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// The push that wants it is gone.
    cancelled: AtomicBool,
}

impl Packed {
    /// How many bytes it will become, as far as can be said.
    fn expected(&self) -> u64 {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (total, read, written) = (of(&self.total), of(&self.read), of(&self.written));
        let whole = u128::from(written) * u128::from(total.max(read)) / u128::from(read.max(1));
        u64::try_from(whole).unwrap_or(u64::MAX).max(written)
    }
}

/// Ends work on a thread when the push that wants it is gone.
struct Cancel(Arc<Packed>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Release);
    }
}

/// Counts what is read, and ends when nobody wants it any more.
struct Watched<R> {
    inner: R,
    packed: Arc<Packed>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.packed.cancelled.load(Ordering::Acquire) {
            return Err(io::Error::other("nobody wants it any more"));
        }
        let count = self.inner.read(buffer)?;
        self.packed.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Counts what is written.
struct Counted<'a> {
    inner: &'a mut Draft,
    packed: &'a Packed,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.packed.written.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A layer that is packed. Kept for the next push when this is dropped: also when the upload fails, when another layer's
/// does, or when the client leaves.
struct Ready {
    shared: Arc<Shared>,
    diff_id: Digest,
    form: Descriptor,
    draft: Option<Draft>,
}

impl Ready {
    /// Keeps it; nobody waits for its way to the disk but who wants to know what is kept.
    async fn keep(mut self) {
        let keeping = self.shared.registries.keeping.clone().read_owned().await;
        self.seal(Some(keeping), false);
    }

    fn seal(&mut self, keeping: Option<OwnedRwLockReadGuard<()>>, remember: bool) {
        // Without a runtime the engine is ending.
        let (Some(draft), Ok(runtime)) = (self.draft.take(), Handle::try_current()) else { return };
        let (shared, diff_id, form) = (self.shared.clone(), self.diff_id, self.form.clone());
        runtime.spawn_blocking(move || {
            let sealed = draft.seal().map_err(|cause| content(&diff_id, &cause));
            let kept = sealed.and_then(|_| if remember { shared.remember_packed(diff_id, form) } else { Ok(()) });
            if let Err(cause) = kept {
                tracing::warn!(%cause, layer = %diff_id, "what was packed is not kept: the next push packs it again");
            }
            drop(keeping);
        });
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let keeping = self.shared.registries.keeping.clone().try_read_owned().ok();
        // Whoever sent it would have remembered it.
        self.seal(keeping, true);
    }
}

/// What of a draft is there already is sent while the rest is packed.
struct Growing(Follower);

impl Positioned for Growing {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buffer, at)
    }
}

impl Push {
    fn fail<T>(&self, outcome: Result<T, RegistryError>) -> Result<T> {
        outcome.map_err(|cause| failed("push", &self.name, &cause))
    }

    async fn say(&self, id: &str, status: &str) {
        tell(&self.to, TransferMessage::layer(id, status)).await;
    }

    async fn config(&self, id: Digest, bytes: &[u8]) -> Result<()> {
        if self.fail(self.repository.has_blob(&id).await)? {
            return Ok(());
        }
        let source = Arc::new(BytesSource(Bytes::copy_from_slice(bytes)));
        self.fail(self.repository.upload(&id, bytes.len() as u64, source, Arc::new(|_| {})).await)
    }

    /// Sees to it that the repository has the layer; in which form.
    async fn layer(&self, diff_id: Digest) -> Result<Descriptor> {
        let id = diff_id.short();
        // What was packed a moment ago.
        drop(self.shared.registries.keeping.write().await);
        let shared = self.shared.clone();
        let known = blocking(move || shared.known_blobs(&diff_id)).await?;
        let describe = |blob: &KnownBlob| Descriptor::new(&blob.media_type, blob.digest, blob.size);
        for blob in &known {
            if self.fail(self.repository.has_blob(&blob.digest).await)? {
                self.say(&id, "Layer already exists").await;
                return Ok(describe(blob));
            }
        }
        for blob in &known {
            let here = |(domain, path): &&(String, String)| domain == self.name.domain() && path != self.name.path();
            for (_, path) in blob.places.iter().filter(here) {
                if self.fail(self.repository.mount(&blob.digest, path).await)? {
                    self.say(&id, &format!("Mounted from {path}")).await;
                    return Ok(describe(blob));
                }
            }
        }
        let turns = self.shared.registries.uploads.clone();
        if turns.available_permits() == 0 {
            self.say(&id, "Waiting").await;
        }
        let _turn = turns.acquire_owned().await.map_err(|_| Error::internal("the engine is closing"))?;
        for blob in &known {
            let (shared, digest) = (self.shared.clone(), blob.digest);
            let here =
                blocking(move || shared.disk.blobs().get(&digest).map_err(|cause| content(&diff_id, &cause))).await?;
            if let Some(here) = here {
                self.send(&id, &blob.digest, blob.size, here.file).await?;
                return Ok(describe(blob));
            }
        }
        self.pack_and_send(diff_id).await
    }

    /// Packs a layer from its record, and sends what is packed meanwhile.
    async fn pack_and_send(&self, diff_id: Digest) -> Result<Descriptor> {
        let id = diff_id.short();
        let turn = self.packing.acquire().await.map_err(|_| Error::internal("the engine is closing"))?;
        let shared = self.shared.clone();
        let keep = move |cause| content(&diff_id, &cause);
        let draft = blocking(move || shared.disk.blobs().draft().map_err(keep)).await?;
        let source = Arc::new(FileSource::new(Growing(draft.follow().map_err(keep)?)));
        let packed = Arc::new(Packed::default());
        let _cancel = Cancel(packed.clone());
        let (told, whole) = oneshot::channel();
        let (shared, watched) = (self.shared.clone(), packed.clone());
        let packing = async move {
            let mut draft = draft;
            let ready = blocking(move || {
                pack_into(&shared, diff_id, &mut draft, &watched)?;
                let form = Descriptor::new(DOCKER_LAYER_GZIP, draft.digest(), draft.size());
                Ok(Ready { shared, diff_id, form, draft: Some(draft) })
            })
            .await?;
            drop(turn);
            // Who sends it may have ended: its own error counts.
            told.send((ready.form.digest, ready.form.size)).unwrap_or_default();
            Ok::<_, Error>(ready)
        };
        let whole = async { whole.await.map_err(|_| io::Error::other("it could not be packed")) };
        let expected = packed.clone();
        let sent = Arc::new(progress(id.clone(), move || expected.expected(), self.to.clone()));
        let sending = self.repository.upload_growing(source, whole, sent);
        let (ready, sent) = match select(pin!(packing), pin!(sending)).await {
            Either::Left((packed, sending)) => {
                let ready = packed?;
                (ready, self.fail(sending.await)?)
            }
            Either::Right((Ok(sent), packing)) => (packing.await?, sent),
            Either::Right((Err(cause), packing)) => {
                // There was nothing to read any more: why, packing knows.
                if let RegistryError::Source(_) = &cause {
                    packing.await?;
                }
                return self.fail(Err(cause));
            }
        };
        let status = if sent == Uploaded::Sent { "Pushed" } else { "Layer already exists" };
        self.say(&id, status).await;
        let form = ready.form.clone();
        ready.keep().await;
        let (shared, seen) = (self.shared.clone(), [(diff_id, form.clone())]);
        let (domain, path) = (self.name.domain().to_owned(), self.name.path().to_owned());
        blocking(move || shared.remember_blobs(&seen, &domain, &path)).await?;
        Ok(form)
    }

    async fn send(&self, id: &str, digest: &Digest, size: u64, file: File) -> Result<()> {
        let source: Arc<dyn Source> = Arc::new(FileSource::new(file));
        let sent = Arc::new(progress(id.to_owned(), move || size, self.to.clone()));
        self.fail(self.repository.upload(digest, size, source, sent).await)?;
        self.say(id, "Pushed").await;
        Ok(())
    }
}

/// Tells how much has gone out of `total`, now and then; a client that is slow misses some of it.
fn progress(
    id: String,
    total: impl Fn() -> u64 + Send + Sync,
    to: mpsc::Sender<Result<TransferMessage>>,
) -> impl Fn(u64) + Send + Sync {
    let told = Mutex::new(None::<Instant>);
    move |current_bytes| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let total_bytes = total();
        if told.is_some_and(|at| at.elapsed() < TELL_EVERY) && current_bytes < total_bytes {
            return;
        }
        *told = Some(Instant::now());
        let progress = TransferProgress { current_bytes, total_bytes, unpacked_bytes: 0 };
        let message = TransferMessage::Layer { id: id.clone(), status: "Pushing".to_owned(), progress: Some(progress) };
        drop(to.try_send(Ok(message)));
    }
}

fn content(diff_id: &Digest, cause: &berth_content::ContentError) -> Error {
    full::or_here(ErrorKind::Internal, format!("cannot keep layer {} packed", diff_id.short()), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_manifest_is_used_where_it_can_say_it() {
        let layer = |kind: &str| Descriptor::new(kind, Digest::from_bytes([1; 32]), 5);
        let kind = |layers: &[Descriptor]| manifest_of(Digest::from_bytes([2; 32]), 9, layers).media_type;
        assert_eq!(kind(&[layer(DOCKER_LAYER_GZIP), layer(OCI_LAYER_GZIP)]), DOCKER_MANIFEST);
        assert_eq!(kind(&[layer(DOCKER_LAYER_GZIP), layer(OCI_LAYER_ZSTD)]), OCI_MANIFEST);
        let manifest = manifest_of(Digest::from_bytes([2; 32]), 9, &[layer(OCI_LAYER_GZIP)]);
        assert!(manifest.parse().is_ok());
        assert!(String::from_utf8(manifest.bytes).unwrap().contains(DOCKER_LAYER_GZIP));
    }
}
