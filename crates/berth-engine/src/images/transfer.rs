//! Images as archives: load, save, import, and an image of a container.

use super::catalog::Record;
use super::config::{ImageConfig, Step, host_architecture, rfc3339};
use super::disk::{Layer, Loaded};
use super::pipe::{Sink, Source};
use super::registry::{Tell, tell};
use super::{
    CommitOptions, Images, ImportOptions, LoadOptions, Progress, ProgressStream, TransferMessage, TransferProgress,
    TransferStream, changes,
};
use crate::containers::{ByteSource, ByteStream};
use crate::events::{EventKind, now_unix_nanos};
use berth_registry::{ConnectError, Download, RegistryError};
use berth_types::spec::Config;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use bytes::Bytes;
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Messages between an operation and a slow client.
const MESSAGES_MAX: usize = 64;
/// Chunks of an archive between the disk or another host and a slow client.
const CHUNKS_MAX: usize = 16;
/// How often an import from elsewhere says how far it is.
const TELL: std::time::Duration = std::time::Duration::from_millis(100);

impl Images {
    /// Reads an archive of `save`, Docker's or OCI's layout.
    pub async fn load(&self, archive: ByteSource, options: LoadOptions) -> Result<ProgressStream> {
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let images = self.clone();
        tokio::task::spawn_blocking(move || {
            let tell = |progress| drop(sender.blocking_send(Ok(progress)));
            if let Err(error) = images.load_now(archive, &options, &tell) {
                drop(sender.blocking_send(Err(error)));
            }
        });
        Ok(ProgressStream { receiver })
    }

    fn load_now(&self, archive: ByteSource, options: &LoadOptions, tell: &dyn Fn(Progress)) -> Result<()> {
        let shared = self.shared();
        let _at_work = shared.at_work();
        shared.mark_unswept();
        let mut source = Source::new(archive);
        let loaded = match shared.disk.load(&mut source, options.platform.as_deref(), tell) {
            Ok(loaded) => loaded,
            Err(error) => return Err(source.failed.unwrap_or(error)),
        };
        for image in loaded {
            let id = super::disk::digest_of(&image.config);
            let names = image.names.clone();
            for name in &names {
                if let Some(old) = shared.catalog().names.get(name).filter(|old| **old != id) {
                    tell(Progress::Loaded(format!(
                        "The image {} already exists, renaming the old one with ID {old} to empty string",
                        name.familiar()
                    )));
                }
            }
            self.add(image, now_unix_nanos())?;
            match names.is_empty() {
                true => tell(Progress::Loaded(format!("Loaded image ID: {id}"))),
                false => {
                    names.iter().for_each(|name| tell(Progress::Loaded(format!("Loaded image: {}", name.familiar()))))
                }
            }
            self.event("load", &id, &id.to_string());
        }
        Ok(())
    }

    /// Records an image whose layers are on the disk, and its names.
    pub(super) fn add(&self, image: Loaded, now: i64) -> Result<Digest> {
        let id = super::disk::digest_of(&image.config);
        let config = ImageConfig::parse(&image.config)?;
        let text =
            String::from_utf8(image.config).map_err(|_| Error::invalid("invalid image configuration: not UTF-8"))?;
        self.shared().change(|catalog, changes| {
            let known = catalog.images.get(&id);
            let record = Record {
                id,
                parent: image.parent.or_else(|| known.and_then(|record| record.parent)),
                layers: image.layers.iter().map(|layer| layer.diff_id).collect(),
                layer_bytes: image.layers.iter().map(|layer| layer.bytes).collect(),
                created_unix_nanos: config.created_unix_nanos(),
                last_tagged_unix_nanos: match image.names.is_empty() {
                    true => known.map_or(0, |record| record.last_tagged_unix_nanos),
                    false => now,
                },
                labels: config.labels().clone(),
            };
            changes.images.push((Arc::new(record), Some(text)));
            changes.names.extend(image.names.into_iter().map(|name| (name, id)));
            Ok(())
        })?;
        Ok(id)
    }

    /// The images with their layers as one archive that every engine loads.
    pub async fn save(&self, references: &[String]) -> Result<ByteStream> {
        let shared = self.shared();
        let mut wanted: BTreeMap<Digest, Vec<ImageName>> = BTreeMap::new();
        let mut order = Vec::new();
        for reference in references {
            for (id, name) in self.expand(reference)? {
                if !order.contains(&id) {
                    order.push(id);
                }
                let names = wanted.entry(id).or_default();
                names.extend(name.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
            }
        }
        let mut all = Vec::new();
        for id in order {
            let record = shared.find(&id.to_string())?;
            let names = wanted.remove(&id).unwrap_or_default();
            self.event("save", &id, &id.to_string());
            let config = shared.config_bytes(&id)?.into_bytes();
            let (layers, parent) = (record.layers.clone(), record.parent);
            all.push(berth_image::ToSave { config, layers, names, parent });
        }
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        tokio::task::spawn_blocking(move || {
            let _at_work = shared.at_work();
            let mut sink = Sink::new(sender);
            let outcome = shared.disk.save(&all, &mut sink);
            sink.finish(outcome);
        });
        Ok(ByteStream { chunks })
    }

    /// What one word of `save` means: an id without a name, a name, or a repository with all its tags.
    fn expand(&self, reference: &str) -> Result<Vec<(Digest, Option<ImageName>)>> {
        let shared = self.shared();
        let catalog = shared.catalog();
        if let Ok(name) = reference.parse::<ImageName>()
            && name.tag().is_none()
            && name.digest().is_none()
        {
            let repository = name.familiar_repository();
            let all: Vec<_> = catalog
                .names
                .iter()
                .filter(|(name, _)| name.digest().is_none() && name.familiar_repository() == repository)
                .map(|(name, id)| (*id, Some(name.clone())))
                .collect();
            if !all.is_empty() {
                return Ok(all);
            }
        }
        // Docker's words have no tag here.
        let id = catalog.find(reference).map_err(|error| match error.kind {
            ErrorKind::NotFound => Error::not_found(format!("No such image: {reference}")),
            _ => error,
        })?;
        let by_id = super::catalog::is_id_prefix(&id, reference);
        let name = reference.parse::<ImageName>().ok().filter(|name| !by_id && name.digest().is_none());
        Ok(vec![(id, name.map(ImageName::or_latest))])
    }

    /// Makes an image of one layer from a file system's archive.
    pub async fn import(&self, archive: ByteSource, options: ImportOptions) -> Result<Digest> {
        let now = now_unix_nanos();
        let mut config = Config::default();
        changes::apply(&mut config, &options.changes)?;
        let mut made = new_config(options.platform.as_deref(), now)?;
        made.comment = options.message.clone();
        made.history = vec![Step { created: made.created.clone(), comment: options.message, ..Step::default() }];
        made.set_inner(&config);
        let images = self.clone();
        super::blocking(move || {
            let mut source = Source::new(archive);
            let id = images.import_now(&mut source, made, options.name, now);
            let id = id.map_err(|error| source.failed.take().unwrap_or(error))?;
            images.event("import", &id, &id.to_string());
            Ok(id)
        })
        .await
    }

    /// The same for an archive elsewhere; a name without a scheme is fetched by HTTP. What it becomes is told once the
    /// other side has begun to send.
    pub async fn import_from(&self, url: &str, options: ImportOptions) -> Result<TransferStream> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(Error::invalid(format!("cannot import from {url}: only http and https are fetched")));
        }
        // Before anybody is asked.
        changes::apply(&mut Config::default(), &options.changes)?;
        new_config(options.platform.as_deref(), 0)?;
        let download = self.download(&url).await.map_err(|cause| not_fetched(&url, &cause))?;
        if !(200..300).contains(&download.status()) {
            let kind = match download.status() {
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                500.. => ErrorKind::Unavailable,
                _ => ErrorKind::InvalidArgument,
            };
            return Err(Error::new(kind, format!("cannot fetch {url}: the server answers {}", download.status())));
        }
        let images = self.clone();
        Ok(TransferStream::of(move |to| {
            async move {
                tell(&to, TransferMessage::line(format!("Downloading from {url}"))).await;
                let (sender, archive) = mpsc::channel(CHUNKS_MAX);
                let fetch = fetch(download, &url, sender, &to);
                let (id, ()) = tokio::join!(images.import(archive, options), fetch);
                tell(&to, TransferMessage::line(id?.to_string())).await;
                Ok(())
            }
            .boxed()
        }))
    }

    /// Unpacks `source` as the one layer of an image with the configuration `made`.
    pub(super) fn import_now(
        &self,
        source: &mut dyn std::io::Read,
        mut made: ImageConfig,
        name: Option<ImageName>,
        now: i64,
    ) -> Result<Digest> {
        let shared = self.shared();
        let _at_work = shared.at_work();
        shared.mark_unswept();
        let layer = shared.disk.unpack(source)?;
        made.rootfs.kind = "layers".to_owned();
        made.rootfs.diff_ids = vec![layer.diff_id];
        let names = name.into_iter().collect();
        self.add(Loaded { config: made.to_bytes(), layers: vec![layer], names, parent: None }, now)
    }

    /// Makes an image of a container as it is now.
    pub async fn commit(&self, options: CommitOptions) -> Result<Digest> {
        let mut source = self.engine.containers().commit_source(&options.container, options.pause).await?;
        let mut config = options.config.unwrap_or_else(|| source.spec.config.clone());
        changes::apply(&mut config, &options.changes)?;
        inherit(&mut config, &source.spec.config);
        let images = self.clone();
        let (name, now) = (options.name, now_unix_nanos());
        super::blocking(move || {
            let shared = images.shared();
            let at_work = shared.at_work();
            shared.mark_unswept();
            let parent = source.image_id.and_then(|id| shared.catalog().images.get(&id).cloned());
            let (mut made, mut layers) = match &parent {
                Some(record) => {
                    let of = record.layers.iter().zip(&record.layer_bytes);
                    let layers = of.map(|(&diff_id, &bytes)| Layer { diff_id, bytes }).collect();
                    ((*shared.config(&record.id)?.config).clone(), layers)
                }
                None => (new_config(None, now)?, Vec::new()),
            };
            let layer = match &mut source.guest {
                Some(archive) => Some(shared.disk.unpack(archive)?),
                None => shared.disk.commit(&source.rootfs_key)?,
            };
            let command = source.spec.config.cmd.clone().unwrap_or_default().join(" ");
            made.created = rfc3339(now);
            made.author.clone_from(&options.author);
            made.comment.clone_from(&options.message);
            made.docker_version = env!("CARGO_PKG_VERSION").to_owned();
            made.set_inner(&config);
            made.history.push(Step {
                created: made.created.clone(),
                author: options.author,
                created_by: command,
                comment: options.message,
                empty_layer: layer.is_none(),
            });
            layers.extend(layer);
            made.rootfs.kind = "layers".to_owned();
            made.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
            let names: Vec<ImageName> = name.into_iter().collect();
            let shown = names.first().map(ImageName::familiar).unwrap_or_default();
            let tagged = shown.clone();
            let parent = parent.map(|record| record.id);
            let id = images.add(Loaded { config: made.to_bytes(), layers, names, parent }, now)?;
            drop(at_work);
            images.event("create", &id, &id.to_string());
            if !tagged.is_empty() {
                images.event("tag", &id, &tagged);
            }
            let attributes = BTreeMap::from([
                ("comment".to_owned(), made.comment.clone()),
                ("imageID".to_owned(), id.to_string()),
                ("imageRef".to_owned(), shown),
                ("image".to_owned(), source.spec.config.image.clone()),
                ("name".to_owned(), source.name.clone()),
            ]);
            images.engine.events().publish(EventKind::Container, "commit", source.id.to_string(), attributes);
            Ok(id)
        })
        .await
    }
}

fn not_fetched(url: &str, cause: &RegistryError) -> Error {
    let kind = match cause {
        // What was asked for is no address.
        RegistryError::Configuration { .. } | RegistryError::TooLarge { .. } => ErrorKind::InvalidArgument,
        // Nobody is called that.
        RegistryError::Connect { cause: ConnectError::Resolve(..) | ConnectError::NoAddress(_), .. } => {
            ErrorKind::NotFound
        }
        _ => ErrorKind::Unavailable,
    };
    Error::because(kind, format!("cannot fetch {url}"), cause)
}

/// Passes on what comes, and tells how much that is.
async fn fetch(mut download: Download, url: &str, sender: mpsc::Sender<Result<Bytes>>, to: &Tell) {
    let total_bytes = download.length().unwrap_or(0);
    let mut progress = TransferProgress { current_bytes: 0, total_bytes, unpacked_bytes: 0 };
    let mut told = std::time::Instant::now();
    loop {
        let chunk = match download.chunk().await {
            Ok(None) => break,
            Ok(Some(bytes)) => Ok(bytes),
            Err(cause) => Err(not_fetched(url, &cause)),
        };
        let last = chunk.is_err();
        progress.current_bytes += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        // An import that has failed wants no more.
        if sender.send(chunk).await.is_err() || last {
            break;
        }
        if told.elapsed() >= TELL || progress.current_bytes == total_bytes {
            told = std::time::Instant::now();
            let status = "Importing".to_owned();
            tell(to, TransferMessage::Layer { id: String::new(), status, progress: Some(progress) }).await;
        }
    }
}

/// A configuration for this host, or for the platform asked for.
pub(super) fn new_config(platform: Option<&str>, now: i64) -> Result<ImageConfig> {
    let mut parts = platform.unwrap_or("").split('/');
    let os = parts.next().filter(|os| !os.is_empty()).unwrap_or("linux");
    if os != "linux" {
        return Err(Error::invalid("operating system is not supported"));
    }
    Ok(ImageConfig {
        architecture: parts.next().unwrap_or(host_architecture()).to_owned(),
        variant: parts.next().unwrap_or("").to_owned(),
        os: os.to_owned(),
        created: rfc3339(now),
        docker_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..ImageConfig::default()
    })
}

/// What a changed configuration leaves open comes from the container, as dockerd merges it.
fn inherit(config: &mut Config, from: &Config) {
    if config.user.is_empty() {
        config.user.clone_from(&from.user);
    }
    config.exposed_ports.extend(from.exposed_ports.iter().copied());
    for entry in &from.env {
        let key = entry.split('=').next().unwrap_or(entry);
        if !config.env.iter().any(|have| have.split('=').next() == Some(key)) {
            config.env.push(entry.clone());
        }
    }
    for (key, value) in &from.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if config.entrypoint.is_none() {
        config.cmd = config.cmd.take().or_else(|| from.cmd.clone());
        config.entrypoint.clone_from(&from.entrypoint);
    }
    if config.healthcheck.is_none() {
        config.healthcheck.clone_from(&from.healthcheck);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&from.working_dir);
    }
    config.volumes.extend(from.volumes.iter().cloned());
    config.stop_signal = config.stop_signal.take().or_else(|| from.stop_signal.clone());
    config.stop_timeout_seconds = config.stop_timeout_seconds.or(from.stop_timeout_seconds);
    config.shell = config.shell.take().or_else(|| from.shell.clone());
}
