//! Pulling: a name becomes an image.
//!
//! ```text
//! tag ── digest ── known? ── "up to date"                one request
//!           └ manifest (of our platform) ── configuration ── layers, side by side ── visible together ── record, names
//!                                                             pull/layer.rs
//! ```
//!
//! Nothing is visible before all of it is there and right. What was fetched of a pull that failed stays as unfinished
//! blobs for the next try, also of the next engine; when the image is recorded they go.

mod layer;

pub(super) use layer::LayerJob;

use super::config::ImageConfig;
use super::disk::{Layer, Loaded};
use super::registry::{Credentials, Tell, TransferMessage, TransferProgress, TransferStream, failed, reference, tell};
use super::shared::{Pins, Shared};
use super::{Images, blocking, counted};
use crate::events::{EventKind, now_unix_nanos};
use berth_registry::{Access, Descriptor, Document, Manifest, Notify, Platform, RegistryError, Repository, manifest};
use berth_snapshot::StagedLayer;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use layer::{State, Step};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a layer's progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often it is told how long a registry is still waited for.
const COUNT_BY: Duration = Duration::from_secs(5);
/// Left free on the disk.
const SPARE_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// `os/arch[/variant]`; `None`: the host's.
    pub platform: Option<String>,
    /// Every tag of the repository.
    pub all_tags: bool,
    pub credentials: Option<Credentials>,
}

/// An image in a registry that fits the platform.
struct Remote {
    /// Of what the name means: the index where there is one.
    digest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Images {
    /// Pulls `name`, or all tags of its repository. What keeps it from beginning is the stream's first item.
    pub async fn pull(&self, name: ImageName, options: PullOptions) -> Result<TransferStream> {
        let platform = options.platform.as_deref().map(Platform::parse).transpose();
        let platform = platform.map_err(|cause| Error::invalid(cause.to_string()))?;
        let repository = self.shared().registries.client.repository(&name, Access::Pull, options.credentials.clone());
        let images = self.clone();
        Ok(TransferStream::of(move |to| {
            Box::pin(async move {
                let repository = repository.telling(notify(&to));
                let names = match options.all_tags {
                    true => {
                        let tags = repository.tags().await.map_err(|cause| failed("pull", &name, &cause))?;
                        tags.into_iter().map(|tag| name.clone().with_tag(Some(tag))).collect()
                    }
                    false => vec![name.or_latest()],
                };
                for name in names {
                    let status = match images.pull_one(&repository, &name, platform.as_ref(), &to).await?.1 {
                        true => "Downloaded newer image",
                        false => "Image is up to date",
                    };
                    tell(&to, TransferMessage::line(format!("Status: {status} for {}", name.familiar()))).await;
                }
                Ok(())
            })
        }))
    }

    /// Pulls one image for another operation, a build; its id. `options.all_tags` does not count.
    pub async fn fetch(
        &self,
        name: &ImageName,
        options: &PullOptions,
        to: &tokio::sync::mpsc::Sender<Result<TransferMessage>>,
    ) -> Result<Digest> {
        let platform = options.platform.as_deref().map(Platform::parse).transpose();
        let platform = platform.map_err(|cause| Error::invalid(cause.to_string()))?;
        let name = name.clone().or_latest();
        let client = self.shared().registries.client.clone();
        let repository = client.repository(&name, Access::Pull, options.credentials.clone()).telling(notify(to));
        Ok(self.pull_one(&repository, &name, platform.as_ref(), to).await?.0)
    }

    /// The image's id, and whether anything changed here.
    async fn pull_one(
        &self,
        repository: &Repository,
        name: &ImageName,
        platform: Option<&Platform>,
        to: &Tell,
    ) -> Result<(Digest, bool)> {
        let shared = self.shared();
        let fail = |cause: RegistryError| failed("pull", name, &cause);
        let pulling =
            TransferMessage::Status { id: Some(reference(name)), text: format!("Pulling from {}", name.path()) };
        // Where the tag means what it meant the last time, its digest is all there is to ask for.
        if name.digest().is_none()
            && shared.catalog().names.contains_key(name)
            && let Some(now) = repository.resolve(&reference(name)).await.map_err(fail)?
            && let Some(id) = self.is_current(name, &now.digest, platform)
        {
            tell(to, pulling).await;
            tell(to, TransferMessage::line(format!("Digest: {}", now.digest))).await;
            return Ok((id, false));
        }
        let top = repository.manifest(&reference(name)).await.map_err(fail)?;
        tell(to, pulling).await;
        let remote = choose(repository, &top, platform).await.map_err(fail)?;
        let id = remote.config.digest;
        if let Ok(known) = shared.config(&id) {
            check_platform(&known.config, platform).map_err(fail)?;
        }
        let changed = match self.name_pulled(name, &remote.digest, id).await? {
            Some(changed) => changed,
            None => {
                self.pull_layers(repository, name, platform, &remote, to).await?;
                true
            }
        };
        tell(to, TransferMessage::line(format!("Digest: {}", remote.digest))).await;
        let attributes = BTreeMap::from([("name".to_owned(), name.familiar_repository())]);
        self.engine.events().publish(EventKind::Image, "pull", name.familiar(), attributes);
        Ok((id, changed))
    }

    /// The image of `name` where that is still `digest`, and of the platform asked for.
    fn is_current(&self, name: &ImageName, digest: &Digest, platform: Option<&Platform>) -> Option<Digest> {
        let shared = self.shared();
        let id = {
            let catalog = shared.catalog();
            let id = *catalog.names.get(name)?;
            let pinned = catalog.names.get(&name.clone().pinned(*digest))?;
            (*pinned == id).then_some(id)?
        };
        let config = shared.config(&id).ok()?.config;
        let is = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            ..Platform::default()
        };
        platform.cloned().unwrap_or_else(Platform::host).accepts(&is).then_some(id)
    }

    /// Gives an image that is here the names it was pulled by; whether that changed anything. `None` where it is not
    /// here, or no longer: somebody may remove it at any moment.
    async fn name_pulled(&self, name: &ImageName, digest: &Digest, id: Digest) -> Result<Option<bool>> {
        let (images, names) = (self.clone(), names_of(name, digest));
        blocking(move || {
            images.shared().change(|catalog, changes| {
                if !catalog.images.contains_key(&id) {
                    return Ok(None);
                }
                let new: Vec<ImageName> =
                    names.into_iter().filter(|name| catalog.names.get(name) != Some(&id)).collect();
                let changed = !new.is_empty();
                for name in new {
                    changes.name(catalog, name, id);
                }
                Ok(Some(changed))
            })
        })
        .await
    }

    async fn pull_layers(
        &self,
        repository: &Repository,
        name: &ImageName,
        platform: Option<&Platform>,
        remote: &Remote,
        to: &Tell,
    ) -> Result<()> {
        let shared = self.shared();
        let fail = |cause: RegistryError| failed("pull", name, &cause);
        let bytes = repository.blob_bytes(&remote.config, manifest::CONFIG_BYTES_MAX).await.map_err(fail)?;
        let config =
            ImageConfig::parse(&bytes).map_err(|error| error.context(format!("cannot pull {}", name.familiar())))?;
        check_platform(&config, platform).map_err(fail)?;
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != remote.layers.len() {
            let why = format!(
                "its configuration names {} and its manifest {}",
                counted(diff_ids.len(), "layer"),
                counted(remote.layers.len(), "layer")
            );
            return Err(fail(RegistryError::Unsupported(format!("invalid image: {why}"))));
        }
        // From here on nobody removes these layers, here or still to come.
        let pins = {
            let (shared, diff_ids) = (shared.clone(), diff_ids.clone());
            blocking(move || Ok(Shared::pin(&shared, diff_ids))).await?
        };
        let jobs = self.start_layers(repository, name, remote, &diff_ids, to).await?;
        let told = jobs.iter().map(|(descriptor, job)| follow(descriptor, job.clone(), to.clone()));
        futures_util::future::try_join_all(told)
            .await
            .map_err(|error| error.context(format!("cannot pull {}", name.familiar())))?;
        self.make_visible(name, remote, bytes, diff_ids, jobs, pins).await
    }

    /// Says which layers are here, and has the others fetched.
    async fn start_layers(
        &self,
        repository: &Repository,
        name: &ImageName,
        remote: &Remote,
        diff_ids: &[Digest],
        to: &Tell,
    ) -> Result<Vec<(Descriptor, Arc<LayerJob>)>> {
        let shared = self.shared();
        let (asked, wanted) = (shared.clone(), diff_ids.to_vec());
        let present = blocking(move || {
            wanted
                .iter()
                .map(|diff_id| asked.disk.layer_bytes(diff_id).map(|bytes| bytes.is_some()))
                .collect::<Result<Vec<bool>>>()
        })
        .await?;
        let needed: u64 =
            remote.layers.iter().zip(&present).filter(|(_, here)| !**here).map(|(layer, _)| layer.size).sum();
        let free = free_bytes(&self.engine.config().data_root)?;
        if needed.saturating_add(SPARE_BYTES) > free {
            let why = format!("its layers are {} packed, and the disk has {} left", megabytes(needed), megabytes(free));
            return Err(Error::new(ErrorKind::Unavailable, format!("cannot pull {}: {why}", name.familiar()))
                .with_hint("make room with docker system prune"));
        }
        let mut jobs: Vec<(Descriptor, Arc<LayerJob>)> = Vec::new();
        for ((descriptor, diff_id), present) in remote.layers.iter().zip(diff_ids).zip(present) {
            let id = descriptor.digest.short();
            if present {
                tell(to, TransferMessage::layer(&id, "Already exists")).await;
                continue;
            }
            if jobs.iter().any(|(other, _)| other.digest == descriptor.digest) {
                continue;
            }
            tell(to, TransferMessage::Wanted { id, size_bytes: descriptor.size }).await;
            jobs.push((descriptor.clone(), LayerJob::get(&shared, repository, descriptor, *diff_id)));
        }
        Ok(jobs)
    }

    /// Makes all layers and then the image visible. Once begun, it goes on to its end without its client: `pins` and the
    /// others' turn end with it, not with whoever waits for it.
    async fn make_visible(
        &self,
        name: &ImageName,
        remote: &Remote,
        config: Vec<u8>,
        diff_ids: Vec<Digest>,
        jobs: Vec<(Descriptor, Arc<LayerJob>)>,
        pins: Pins,
    ) -> Result<()> {
        let committing = self.shared().registries.committing.clone().lock_owned().await;
        let staged: Vec<_> = jobs.iter().filter_map(|(_, job)| job.take()).collect();
        let fetched: Vec<Digest> = jobs.iter().map(|(descriptor, _)| descriptor.digest).collect();
        let sources: Vec<(Digest, Descriptor)> = diff_ids.iter().copied().zip(remote.layers.iter().cloned()).collect();
        let (images, names, id) = (self.clone(), names_of(name, &remote.digest), remote.config.digest);
        let name = name.clone();
        blocking(move || {
            let shared = images.shared();
            // Whoever shares them finds them visible.
            let _jobs = jobs;
            shared.disk.commit_layers(staged)?;
            let mut layers = Vec::new();
            for diff_id in diff_ids {
                let bytes = shared.disk.layer_bytes(&diff_id)?;
                let bytes = bytes.ok_or_else(|| Error::internal(format!("layer {} got lost", diff_id.short())))?;
                layers.push(Layer { diff_id, bytes });
            }
            shared.remember_blobs(&sources, name.domain(), name.path())?;
            let made = images.add(Loaded { config, layers, names, parent: None }, now_unix_nanos())?;
            debug_assert_eq!(made, id, "an image's id is the digest of its configuration");
            drop(committing);
            fetched.iter().for_each(|digest| forget_blob(&shared, digest));
            drop(pins);
            shared.sweep_if_due();
            Ok(())
        })
        .await
    }
}

/// One layer alone, for whoever makes it visible: a job that others share, or its own.
pub(super) async fn fetch_layer(
    shared: &Arc<Shared>,
    repository: &Repository,
    descriptor: &Descriptor,
    diff_id: Digest,
) -> Result<StagedLayer> {
    let job = LayerJob::get(shared, repository, descriptor, diff_id);
    let (to, mut messages) = tokio::sync::mpsc::channel(super::registry::MESSAGES_MAX);
    // Nobody wants to know how far it is.
    let ignored = async move { while messages.recv().await.is_some() {} };
    let (fetched, ()) = tokio::join!(follow(descriptor, job.clone(), to), ignored);
    fetched?;
    let taken = job.take();
    drop(job);
    let (shared, digest) = (shared.clone(), descriptor.digest);
    blocking(move || {
        forget_blob(&shared, &digest);
        taken.ok_or_else(|| Error::new(ErrorKind::Conflict, "somebody else fetched it at the same time: check again"))
    })
    .await
}

/// A blob whose layer is there.
fn forget_blob(shared: &Shared, digest: &Digest) {
    if let Err(cause) = shared.disk.remove_blob(digest) {
        tracing::warn!(%cause, %digest, "a blob that was unpacked is still on the disk");
    }
}

/// Brings one layer here, without an image. Whoever asks holds it already, so that nobody sweeps it.
pub(super) async fn one_layer(
    images: &Images,
    repository: &Repository,
    name: &ImageName,
    descriptor: &Descriptor,
    diff_id: Digest,
) -> Result<()> {
    let shared = images.shared();
    let job = LayerJob::get(&shared, repository, descriptor, diff_id);
    // Nobody listens to how far it is.
    let (to, _) = tokio::sync::mpsc::channel(1);
    follow(descriptor, job.clone(), to).await?;
    let committing = shared.registries.committing.clone().lock_owned().await;
    super::remote::keep(images, job.take(), descriptor.clone(), diff_id, name.clone(), committing).await
}

/// Has whoever listens told what happens on the way.
pub(super) fn notify(to: &Tell) -> Notify {
    let to = to.clone();
    // Where there is no room, so much is being told that this is not missed.
    Arc::new(move |notice| drop(to.try_send(Ok(TransferMessage::line(notice.to_string())))))
}

/// Rounded up.
fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

/// What is left on the disk for us.
fn free_bytes(folder: &std::path::Path) -> Result<u64> {
    let free = rustix::fs::statvfs(folder).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    free.map_err(|cause| {
        Error::because(
            ErrorKind::Internal,
            format!("cannot look at {}", folder.display()),
            &std::io::Error::from(cause),
        )
    })
}

fn names_of(name: &ImageName, digest: &Digest) -> Vec<ImageName> {
    let pinned = name.clone().pinned(*digest);
    if name.digest().is_some() { vec![pinned] } else { vec![name.clone(), pinned] }
}

/// The image for `platform` behind what a name means.
async fn choose(repository: &Repository, top: &Manifest, platform: Option<&Platform>) -> Result<Remote, RegistryError> {
    let mut document = top.parse()?;
    // An index may lead to another one; more than one step is a maze.
    for _ in 0..2 {
        let Document::Index(entries) = &document else { break };
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let chosen = berth_registry::choose(entries, &wanted)?;
        document = repository.manifest(&chosen.digest.to_string()).await?.parse()?;
    }
    let Document::Image { config, layers } = document else {
        return Err(RegistryError::Unsupported("an index of indexes of indexes is no image".to_owned()));
    };
    let kind = &config.media_type;
    if !manifest::is_image_config(kind) {
        return Err(RegistryError::Unsupported(format!("it is no container image but {kind:?}")));
    }
    if let Some(layer) = layers.iter().find(|layer| !manifest::is_layer(&layer.media_type)) {
        return Err(RegistryError::Unsupported(format!("layer {} is {:?}", layer.digest.short(), layer.media_type)));
    }
    Ok(Remote { digest: top.digest, config: *config, layers })
}

/// A single image says in its configuration what it is for: asked for another platform, that is told.
fn check_platform(config: &ImageConfig, platform: Option<&Platform>) -> Result<(), RegistryError> {
    let is = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        ..Platform::default()
    };
    match platform {
        Some(wanted) if !wanted.accepts(&is) => {
            Err(RegistryError::OtherPlatform { wanted: wanted.to_string(), is: is.to_string() })
        }
        None if !is.os.is_empty() && is.os != "linux" => {
            Err(RegistryError::OtherPlatform { wanted: Platform::host().to_string(), is: is.to_string() })
        }
        _ => Ok(()),
    }
}

/// Tells how far a layer is until it is there.
async fn follow(descriptor: &Descriptor, job: Arc<LayerJob>, to: Tell) -> Result<()> {
    let id = descriptor.digest.short();
    let mut state = job.watch();
    let mut last: Option<State> = None;
    let mut told = Instant::now();
    let mut passed_over = 0;
    loop {
        let now = state.borrow_and_update().clone();
        for text in now.passed_over.iter().skip(passed_over) {
            tell(&to, TransferMessage::line(text)).await;
        }
        passed_over = now.passed_over.len();
        let left = now.waits_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if !left.is_zero() && state.has_changed().is_ok() {
            tell(&to, TransferMessage::Retrying { id: id.clone(), seconds: left.as_millis().div_ceil(1000) as u64 })
                .await;
            // A long wait is not worth a line every second.
            let next = if left > 2 * COUNT_BY { COUNT_BY } else { Duration::from_secs(1) };
            drop(tokio::time::timeout(next.min(left), state.changed()).await);
            state.mark_changed();
            continue;
        }
        let stepped = last.as_ref().is_none_or(|last| last.step != now.step);
        if stepped {
            if last.as_ref().is_some_and(|last| last.step == Step::Downloading) && now.step == Step::Extracting {
                tell(&to, TransferMessage::layer(&id, "Verifying Checksum")).await;
                tell(&to, TransferMessage::layer(&id, "Download complete")).await;
            }
            match &now.step {
                // Said only where it has to wait.
                Step::Waiting => {
                    if tokio::time::timeout(TELL_EVERY, state.changed()).await.is_err() {
                        tell(&to, TransferMessage::layer(&id, "Waiting")).await;
                    } else {
                        state.mark_changed();
                    }
                }
                Step::Done => {
                    tell(&to, TransferMessage::layer(&id, "Pull complete")).await;
                    return Ok(());
                }
                Step::Failed(error) => return Err(error.clone()),
                Step::Downloading | Step::Extracting => {}
            }
        }
        let counts = match now.step {
            Step::Downloading => Some(("Downloading", now.downloaded)),
            Step::Extracting => Some(("Extracting", now.unpacked)),
            _ => None,
        };
        if let Some((status, current_bytes)) = counts
            && (stepped || told.elapsed() >= TELL_EVERY)
        {
            told = Instant::now();
            let progress =
                TransferProgress { current_bytes, total_bytes: descriptor.size, unpacked_bytes: now.unpacked };
            let status = status.to_owned();
            tell(&to, TransferMessage::Layer { id: id.clone(), status, progress: Some(progress) }).await;
        }
        last = Some(now);
        if state.changed().await.is_err() && *state.borrow() == *last.as_ref().expect("just set") {
            return Err(Error::internal(format!("fetching layer {id} ended without a word")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_by_digest_leaves_no_tag() {
        let digest = Digest::from_bytes([1; 32]);
        let names =
            |text: &str| names_of(&text.parse().unwrap(), &digest).iter().map(ImageName::familiar).collect::<Vec<_>>();
        assert_eq!(names("a:1"), ["a:1".to_owned(), format!("a@{digest}")]);
        assert_eq!(names(&format!("a@{digest}")), [format!("a@{digest}")]);
    }

    #[test]
    fn an_image_of_another_platform_says_what_it_is_for() {
        let config = ImageConfig { os: "linux".into(), architecture: "s390x".into(), ..ImageConfig::default() };
        let wanted = Platform::parse("linux/arm64").unwrap();
        let error = check_platform(&config, Some(&wanted)).unwrap_err().to_string();
        assert!(error.contains("linux/arm64/v8") && error.contains("linux/s390x"), "{error}");
        assert!(check_platform(&config, None).is_ok());
    }
}
