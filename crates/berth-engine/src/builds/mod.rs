//! Builds: a Dockerfile and a context become an image.
//!
//! ```text
//!  Builds::build(request) -> BuildStream of events, then the result     dropping it cancels the build
//!  worker    the engine's side of berth_build::Worker                    one per build
//!  run       a RUN in a shim, with no record of a container    sweep: its end    stubs: mount points it leaves behind
//!  agent     the socket of a RUN --mount=type=ssh     caller   who answers for what the request did not carry
//!  write     COPY, ADD, WORKDIR into a snapshot
//!  stream    what a build says, on its way                               context   where files and Dockerfile are
//!  folder    a context that is a folder of this host    spool   one that came as an archive    state   a stage's files
//!  cache     what steps came to: <store>/build-cache     pull, fetch   what comes from elsewhere
//!  elsewhere caches in registries, folders and images
//!
//!  <data-root>/builds/tmp/      while a build runs; emptied when an engine starts
//!  <data-root>/builds/caches/   folders of RUN --mount=type=cache, by the digest of their id
//! ```
//!
//! A step's result is a layer like any other: the snapshot that it wrote into is renamed. Killed in mid-build, the
//! steps that ran are lost and swept by the next engine; those that had ended are in the cache.

mod agent;
mod cache;
mod caller;
mod context;
mod elsewhere;
mod fetch;
mod folder;
mod pull;
mod run;
mod spool;
mod state;
mod stream;
mod stubs;
mod sweep;
mod worker;
mod write;

use crate::Engine;
use crate::images;
use berth_build::{BuildError, BuildOptions, Built, Event, Tree};
use berth_dockerfile::ignore;
use berth_types::spec::Resources;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use stream::Said;
use tokio::sync::watch;

pub use berth_build as build;
pub use berth_dockerfile::lint::{Rule, Warning};
pub use berth_dockerfile::{Lines, go_duration_nanos};
pub use caller::{Caller, Conversation};
pub use context::{Context, DockerfileAt, NamedContext};
pub use elsewhere::{CacheFrom, CacheTo, Elsewhere};
pub use stream::BuildStream;

/// What one step may print into a build's progress.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// What all builds of an engine share.
pub(crate) struct Shared {
    cache: Arc<cache::Cache>,
    digests: Arc<folder::Digests>,
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    temporary: PathBuf,
    caches: PathBuf,
    /// Builds that run, and steps that are being ended.
    underway: watch::Sender<usize>,
    /// The engine is closing: builds are cancelled.
    closing: watch::Sender<bool>,
}

/// Something that the engine's end waits for.
pub(crate) struct Underway(Arc<Shared>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.underway.send_modify(|count| *count -= 1);
    }
}

impl Shared {
    pub(crate) fn open(data_root: &Path, store: berth_store::Store) -> Result<Arc<Shared>> {
        let root = data_root.join("builds");
        let (temporary, caches) = (root.join("tmp"), root.join("caches"));
        let failed = |cause: std::io::Error| {
            Error::because(ErrorKind::Unavailable, format!("cannot use {}", root.display()), &cause)
        };
        match std::fs::remove_dir_all(&temporary) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => {}
        }
        for folder in [&temporary, &caches] {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let cache = cache::Cache::open(store)?;
        let (underway, closing) = (watch::Sender::new(0), watch::Sender::new(false));
        let (digests, locks) = (Arc::default(), Mutex::default());
        Ok(Arc::new(Shared { cache, digests, locks, temporary, caches, underway, closing }))
    }

    fn underway(self: &Arc<Shared>) -> Underway {
        self.underway.send_modify(|count| *count += 1);
        Underway(self.clone())
    }

    /// Cancels all builds and waits until nothing of them runs: no engine would hear of their ends.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        // Its sender is ours: it cannot have gone.
        drop(self.underway.subscribe().wait_for(|count| *count == 0).await);
    }

    /// Layers that the cache and running builds need.
    pub(crate) fn layers(&self) -> std::collections::BTreeSet<Digest> {
        self.cache.layers()
    }

    /// Folders of cache mounts. Blocks: their files are counted.
    fn mounts(&self) -> Vec<CacheEntry> {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(&self.caches).into_iter().flatten().flatten();
        let entry = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let meta = entry.metadata().ok()?;
            Some(CacheEntry {
                id: images::digest_of(name.as_bytes()),
                kind: CacheKind::Mount,
                description: format!("cache mount {}", name.get(..12)?),
                bytes: berth_sys::disk_usage::disk_bytes(&entry.path()),
                created_unix_nanos: meta.created().ok().and_then(unix_nanos).unwrap_or(0),
                used_unix_nanos: meta.mtime().saturating_mul(1_000_000_000),
                shared: false,
                in_use: self.lock(&name).try_lock().is_err(),
            })
        };
        entries.filter_map(entry).collect()
    }

    fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }
}

/// What is asked of a build.
pub struct BuildRequest {
    /// Its `dockerfile` is filled in from `dockerfile` below.
    pub options: BuildOptions,
    pub dockerfile: DockerfileAt,
    pub context: Context,
    /// Text of the ignore file; `None`: the context's own.
    pub ignore: Option<String>,
    pub named_contexts: BTreeMap<String, NamedContext>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Agents' sockets on this host.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Asked for secrets and agents that are not in the two above, and for credentials.
    pub caller: Option<Arc<dyn Caller>>,
    pub tags: Vec<ImageName>,
    pub limits: Resources,
    pub shm_size_bytes: u64,
    pub output: OutputTo,
    pub elsewhere: Elsewhere,
}

/// What becomes of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputTo {
    /// An image of this engine.
    #[default]
    Image,
    /// Nothing but the cache.
    Nothing,
    /// Its files as an archive, sent in [`Message::Archive`].
    Files,
    /// Its files, in [`Finished::files`].
    Tree,
}

/// What a build says, in this order: events, perhaps archive parts, and one end.
pub enum Message {
    Event(Event),
    /// Words about caches elsewhere.
    Note(String),
    Archive(bytes::Bytes),
    /// Of an archive that is a cache's folder.
    Cache(bytes::Bytes),
    Done(Box<Finished>),
    Failed(BuildError),
}

#[derive(Clone)]
pub struct Finished {
    /// Where an image was made.
    pub image: Option<Digest>,
    pub tags: Vec<String>,
    pub built: Built,
    /// [`OutputTo::Tree`]: the files of the result, which the cache keeps as long as this is there.
    pub files: Option<Arc<dyn Tree>>,
}

/// What a part of the build cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// What a step came to.
    Step,
    /// The folder of a `RUN --mount=type=cache`.
    Mount,
}

/// A part of the build cache.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    pub id: Digest,
    pub kind: CacheKind,
    pub description: String,
    pub bytes: u64,
    pub created_unix_nanos: i64,
    pub used_unix_nanos: i64,
    /// An image needs the layer too: it would stay.
    pub shared: bool,
    /// A running build needs it.
    pub in_use: bool,
}

/// The engine's builds.
#[derive(Clone)]
pub struct Builds {
    engine: Engine,
}

impl Builds {
    pub(crate) fn new(engine: Engine) -> Builds {
        Builds { engine }
    }

    fn shared(&self) -> Arc<Shared> {
        self.engine.build_state().clone()
    }

    /// Starts a build.
    pub fn build(&self, request: BuildRequest) -> BuildStream {
        let (said, stream) = stream::channel();
        let builds = self.clone();
        let underway = self.shared().underway();
        let mut closing = self.shared().closing.subscribe();
        tokio::spawn(async move {
            let _underway = underway;
            let work = builds.run(request, said.clone());
            tokio::select! {
                outcome = work => {
                    said.say(match outcome {
                        Ok(finished) => Message::Done(Box::new(finished)),
                        Err(error) => Message::Failed(error),
                    });
                }
                () = said.closed() => tracing::debug!("a build was cancelled"),
                _ = closing.wait_for(|closing| *closing) => {
                    let error = Error::new(ErrorKind::Unavailable, "the build was cancelled: the engine is stopping");
                    said.say(Message::Failed(error.into()));
                }
            }
            builds.tidy().await;
        });
        stream
    }

    /// What a build would warn about, or stumble over, before its first step.
    pub async fn check(&self, options: &BuildOptions) -> berth_build::Checked {
        berth_build::check(options, &pull::Here(&self.engine)).await
    }

    /// What a target takes.
    pub async fn outline(&self, options: &BuildOptions) -> Result<berth_build::Outline, BuildError> {
        berth_build::outline(options, &pull::Here(&self.engine)).await
    }

    async fn run(&self, request: BuildRequest, said: Said) -> Result<Finished, BuildError> {
        let shared = self.shared();
        let name = format!("{:x}", crate::events::now_unix_nanos());
        let scratch = worker::tempdir::Scratch::make(&shared.temporary, &name)
            .map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot make a folder for the build", &cause))?;
        let mut options = request.options;
        let means = fetch::Means {
            engine: &self.engine,
            scratch: scratch.path(),
            secrets: &request.secrets,
            ssh: &request.ssh,
            caller: request.caller.as_deref(),
        };
        let opened = context::open(means, request.context, request.dockerfile, request.ignore, &mut options).await?;
        let mut named: BTreeMap<String, Arc<dyn Tree>> = BTreeMap::new();
        for (name, context) in request.named_contexts {
            let tree = context::open_named(means, context).await?;
            options.tree_contexts.insert(name.clone());
            named.insert(name, tree);
        }
        let held = Arc::new(shared.cache.hold());
        let (elsewhere, caller) = (request.elsewhere, request.caller);
        let imported = self.import(&elsewhere, caller.as_deref(), &held, &said, &mut options).await?;
        let job = worker::Job {
            engine: self.engine.clone(),
            context: opened,
            named,
            secrets: request.secrets,
            ssh: request.ssh,
            caller,
            limits: request.limits,
            shm_size_bytes: request.shm_size_bytes,
            held,
            imported,
            elsewhere,
            shared,
            scratch: Arc::new(scratch),
        };
        let printed: Mutex<BTreeMap<usize, usize>> = Mutex::default();
        let events = said.clone();
        let sink: berth_build::Sink = Arc::new(move |event| {
            if let Some(event) = clipped(event, &printed) {
                events.say(Message::Event(event));
            }
        });
        let built = berth_build::build(&options, &job, sink).await?;
        elsewhere::export(&job, &built, &said).await?;
        let inline = job.elsewhere.inline() || build_arg_is_on(&options, "BUILDKIT_INLINE_CACHE");
        let carried = inline.then(|| elsewhere::inline(&built.records, &built.layers, built.epoch_seconds));
        let made = self.finish(built, request.tags, request.output, carried, &said, &job);
        made.await.map_err(BuildError::from)
    }

    /// Reads the caches that a build is to know.
    async fn import(
        &self,
        wanted: &Elsewhere,
        caller: Option<&dyn Caller>,
        held: &cache::Held,
        said: &Said,
        options: &mut BuildOptions,
    ) -> Result<Option<elsewhere::Imported>> {
        if wanted.from.is_empty() {
            return Ok(None);
        }
        let told = said.clone();
        let tell = move |text| told.say(Message::Note(text));
        let imported = elsewhere::Imported::read(&self.engine, wanted, caller, held, tell).await?;
        options.no_cache |= wanted.from_only && !imported.found_any();
        Ok(Some(imported).filter(|imported| !imported.is_empty()))
    }

    async fn finish(
        &self,
        built: Built,
        names: Vec<ImageName>,
        output: OutputTo,
        carried: Option<String>,
        said: &Said,
        job: &worker::Job,
    ) -> Result<Finished> {
        let tags = names.iter().map(ImageName::familiar).collect();
        match output {
            OutputTo::Nothing => Ok(Finished { image: None, tags, built, files: None }),
            OutputTo::Tree => {
                let files = berth_build::Worker::tree(job, &built.layers).await?;
                let files = Arc::new(state::Kept::new(files, job.held.clone()));
                Ok(Finished { image: None, tags, built, files: Some(files) })
            }
            OutputTo::Image => {
                let (images, result, held) = (self.engine.images(), built.clone(), job.held.clone());
                let now = crate::events::now_unix_nanos();
                let added = tokio::task::spawn_blocking(move || {
                    let id = images.add_built(&result, carried.unwrap_or_default(), names, now);
                    drop(held);
                    id
                });
                let id = added.await.map_err(|cause| Error::internal(format!("the image was not made: {cause}")))??;
                Ok(Finished { image: Some(id), tags, built, files: None })
            }
            OutputTo::Files => {
                let rootfs = self.engine.images().view_state(&built.layers);
                let (said, empty) = (said.clone(), built.layers.is_empty());
                let packed = tokio::task::spawn_blocking(move || pack(&rootfs, empty, &said));
                packed.await.map_err(|cause| Error::internal(format!("packing ended early: {cause}")))??;
                Ok(Finished { image: None, tags, built, files: None })
            }
        }
    }

    /// A file without a name beside those of builds: what a door receives for one is kept in it.
    pub fn scratch_file(&self) -> std::io::Result<std::fs::File> {
        spool::unnamed(&self.shared().temporary)
    }

    /// Keeps the cache within its budget, and lets go of layers that nobody needs.
    async fn tidy(&self) {
        let (images, shared) = (self.engine.images(), self.shared());
        let tidied = tokio::task::spawn_blocking(move || {
            shared.cache.evict(cache::BUDGET_BYTES, &images.needed_layers(), &|_| true);
            images.sweep_layers();
        });
        if let Err(error) = tidied.await {
            tracing::warn!(%error, "the build cache was not tidied");
        }
    }

    /// What the cache has, each layer once, however many steps came to it.
    pub async fn cache(&self) -> Result<Vec<CacheEntry>> {
        let (images, shared) = (self.engine.images(), self.shared());
        let listed = tokio::task::spawn_blocking(move || {
            let needed = images.needed_layers();
            let mut all = shared.cache.entries(&needed);
            all.extend(shared.mounts());
            all
        });
        listed.await.map_err(|cause| Error::internal(format!("listing the cache ended early: {cause}")))
    }

    /// `builder prune`: records not needed since `before_unix_nanos` go until the rest fits `keep_bytes`; answers
    /// which, and the bytes that are free now. Cache mounts that nobody uses go with `all`.
    pub async fn prune(
        &self,
        all: bool,
        keep_bytes: u64,
        before_unix_nanos: Option<i64>,
    ) -> Result<(Vec<Digest>, u64)> {
        let (images, shared) = (self.engine.images(), self.shared());
        let pruned = tokio::task::spawn_blocking(move || {
            let needed = images.needed_layers();
            let old = |record: &cache::Record| {
                let unused = record.known.layer.is_none_or(|layer| !needed.contains(&layer.diff_id));
                (all || unused) && before_unix_nanos.is_none_or(|before| record.used_unix_nanos < before)
            };
            let (gone, mut freed) = shared.cache.evict(keep_bytes, &needed, &old);
            images.sweep_layers();
            if all && keep_bytes == 0 && before_unix_nanos.is_none() {
                for entry in std::fs::read_dir(&shared.caches).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    let Ok(_free) = shared.lock(&name).try_lock_owned() else { continue };
                    freed += berth_sys::disk_usage::disk_bytes(&entry.path());
                    std::fs::remove_dir_all(entry.path()).map_err(|cause| {
                        Error::because(ErrorKind::Internal, format!("cannot remove {}", entry.path().display()), &cause)
                    })?;
                }
            }
            Ok((gone, freed))
        });
        pruned.await.map_err(|cause| Error::internal(format!("pruning ended early: {cause}")))?
    }

    /// Steps of an engine that was killed.
    pub(crate) async fn recover(&self) {
        sweep::recover(&self.engine).await;
    }
}

fn unix_nanos(time: std::time::SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// The frontend that a Dockerfile's first lines name.
pub fn syntax(dockerfile: &[u8]) -> Option<String> {
    let directives = berth_dockerfile::directives(&String::from_utf8_lossy(dockerfile));
    directives.into_iter().find(|directive| directive.name == "syntax").map(|directive| directive.value)
}

/// The patterns of an ignore file, as they are sent to whoever has the files.
pub fn ignored(ignore_file: &str) -> Vec<String> {
    ignore::read(ignore_file)
}

fn build_arg_is_on(options: &BuildOptions, name: &str) -> bool {
    options.build_args.get(name).is_some_and(|value| matches!(value.as_str(), "1" | "true"))
}

/// Output beyond the limit of a step is left out, and said so once.
fn clipped(event: Event, printed: &Mutex<BTreeMap<usize, usize>>) -> Option<Event> {
    let Event::Output(id, stream, bytes) = event else { return Some(event) };
    let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
    let count = printed.entry(id).or_insert(0);
    if *count > OUTPUT_BYTES_MAX {
        return None;
    }
    *count += bytes.len();
    if *count > OUTPUT_BYTES_MAX {
        let text = format!("\n[output clipped, log limit {}MiB reached]\n", OUTPUT_BYTES_MAX >> 20);
        return Some(Event::Output(id, stream, text.into_bytes()));
    }
    Some(Event::Output(id, stream, bytes))
}

fn pack(rootfs: &berth_types::mount::Rootfs, empty: bool, said: &Said) -> Result<()> {
    let failed = |cause: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::Internal, "cannot pack the result", cause)
    };
    let sink = std::io::BufWriter::with_capacity(64 << 10, said.file(Message::Archive));
    if empty {
        let sink = tar::Builder::new(sink).into_inner().map_err(|cause| failed(&cause))?;
        return sink.into_inner().map(drop).map_err(|cause| failed(cause.error()));
    }
    let root = crate::files::Root::of_image(rootfs).map_err(|cause| failed(&cause))?;
    let top = root.find(Path::new("/")).map_err(|cause| failed(&cause))?;
    crate::files::pack_content(&root, &top, sink).map_err(|cause| failed(&cause))
}
