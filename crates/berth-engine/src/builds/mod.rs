//! Builds: a Dockerfile and a context become an image.
//!
//! ```text
//!  Builds::build(request) -> BuildStream of events, then the result     dropping it cancels the build
//!  worker    the engine's side of berth_build::Worker                    one per build
//!  run       a RUN in a shim, with no record of a container              stubs: mount points it leaves behind
//!  agent     the socket of a RUN --mount=type=ssh
//!  write     COPY, ADD, WORKDIR into a snapshot
//!  folder    a context that is a folder of this host    spool   one that came as an archive    state   a stage's files
//!  cache     what steps came to: <store>/build-cache     pull, fetch   what comes from elsewhere
//!
//!  <data-root>/builds/tmp/      while a build runs; emptied when an engine starts
//!  <data-root>/builds/caches/   folders of RUN --mount=type=cache, by the digest of their id
//! ```
//!
//! A step's result is a layer like any other: the snapshot that it wrote into is renamed. Killed in mid-build, the
//! steps that ran are lost and swept by the next engine; those that had ended are in the cache.

mod agent;
mod cache;
mod fetch;
mod folder;
mod pull;
mod run;
mod spool;
mod state;
mod stubs;
mod worker;
mod write;

use crate::Engine;
use crate::containers::ByteSource;
use crate::images;
use berth_build::{BuildError, BuildOptions, Built, Event, Tree};
use berth_dockerfile::ignore::{self, Matcher};
use berth_types::spec::Resources;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

pub use berth_build as build;
pub use berth_dockerfile::go_duration_nanos;

/// A Dockerfile is not larger than this.
const DOCKERFILE_BYTES_MAX: u64 = 4 << 20;
/// What one step may print into a build's progress.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// What all builds of an engine share.
pub(crate) struct Shared {
    cache: Arc<cache::Cache>,
    digests: Arc<folder::Digests>,
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    temporary: PathBuf,
    caches: PathBuf,
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
        Ok(Arc::new(Shared { cache, digests: Arc::default(), locks: Mutex::default(), temporary, caches }))
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
                bytes: crate::files::disk_bytes(&entry.path()),
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

/// The files that a build sees.
pub enum Context {
    /// A folder of this host, and what tells that it is the one that the caller sees.
    Folder {
        path: PathBuf,
        identity: Option<(u64, u64)>,
    },
    /// An archive.
    Archive(ByteSource),
    Nothing,
}

/// Where the Dockerfile is.
pub enum DockerfileAt {
    Text(Vec<u8>),
    /// A path in the context.
    Context(String),
}

/// What is asked of a build.
pub struct BuildRequest {
    /// Its `dockerfile` is filled in from `dockerfile` below.
    pub options: BuildOptions,
    pub dockerfile: DockerfileAt,
    pub context: Context,
    /// Text of the ignore file; `None`: the context's own.
    pub ignore: Option<String>,
    pub named_contexts: BTreeMap<String, PathBuf>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Agents' sockets on this host.
    pub ssh: BTreeMap<String, PathBuf>,
    pub tags: Vec<ImageName>,
    pub limits: Resources,
    pub shm_size_bytes: u64,
    pub output: OutputTo,
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
}

/// What a build says, in this order: events, perhaps archive parts, and one end.
#[derive(Debug)]
pub enum Message {
    Event(Event),
    Archive(bytes::Bytes),
    Done(Box<Finished>),
    Failed(BuildError),
}

#[derive(Debug, Clone)]
pub struct Finished {
    /// Where an image was made.
    pub image: Option<Digest>,
    pub tags: Vec<String>,
    pub built: Built,
}

/// A running build; dropping it cancels it.
pub struct BuildStream {
    receiver: mpsc::UnboundedReceiver<Message>,
}

impl BuildStream {
    pub async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }
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
        let (sender, receiver) = mpsc::unbounded_channel();
        let builds = self.clone();
        tokio::spawn(async move {
            let closed = sender.clone();
            let said = sender.clone();
            let work = builds.run(request, said);
            tokio::select! {
                outcome = work => {
                    // Whoever waited may have gone just now.
                    match outcome {
                        Ok(finished) => drop(sender.send(Message::Done(Box::new(finished)))),
                        Err(error) => drop(sender.send(Message::Failed(error))),
                    }
                }
                () = closed.closed() => tracing::debug!("a build was cancelled"),
            }
            builds.tidy().await;
        });
        BuildStream { receiver }
    }

    async fn run(&self, request: BuildRequest, said: mpsc::UnboundedSender<Message>) -> Result<Finished, BuildError> {
        let shared = self.shared();
        let name = format!("{:x}", crate::events::now_unix_nanos());
        let scratch = worker::tempdir::Scratch::make(&shared.temporary, &name)
            .map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot make a folder for the build", &cause))?;
        let mut options = request.options;
        let opened = self.open(request.context, request.dockerfile, request.ignore, &mut options).await?;
        let mut named: BTreeMap<String, Arc<dyn Tree>> = BTreeMap::new();
        for (name, path) in request.named_contexts {
            let tree =
                folder::FolderTree::open(&path, Matcher::default(), shared.digests.clone()).map_err(|cause| {
                    Error::because(ErrorKind::NotFound, format!("cannot open build context {}", path.display()), &cause)
                })?;
            options.tree_contexts.insert(name.clone());
            named.insert(name, Arc::new(tree));
        }
        let job = worker::Job {
            engine: self.engine.clone(),
            context: opened,
            named,
            secrets: request.secrets,
            ssh: request.ssh,
            limits: request.limits,
            shm_size_bytes: request.shm_size_bytes,
            held: Arc::new(shared.cache.hold()),
            shared,
            scratch,
        };
        let printed: Mutex<BTreeMap<usize, usize>> = Mutex::default();
        let events = said.clone();
        let sink: berth_build::Sink = Arc::new(move |event| {
            if let Some(event) = clipped(event, &printed) {
                // The build ends by itself when nobody listens.
                drop(events.send(Message::Event(event)));
            }
        });
        let built = berth_build::build(&options, &job, sink).await?;
        self.finish(built, request.tags, request.output, &said, &job.held).await.map_err(BuildError::from)
    }

    /// Opens the context, and finds the Dockerfile and the ignore file in it.
    async fn open(
        &self,
        context: Context,
        dockerfile: DockerfileAt,
        ignore: Option<String>,
        options: &mut BuildOptions,
    ) -> Result<Arc<dyn Tree>> {
        let shared = self.shared();
        let (tree, text, file): (Arc<dyn Tree>, _, Vec<u8>) = match context {
            Context::Nothing => {
                let mut tree = berth_build::MemTree::default();
                tree.add("", berth_build::Meta::folder(0o755), Vec::new());
                let DockerfileAt::Text(text) = dockerfile else {
                    return Err(Error::invalid("there is no context to find a Dockerfile in"));
                };
                (Arc::new(tree), String::new(), text)
            }
            Context::Folder { path, identity } => {
                let open = |ignore: Matcher| {
                    folder::FolderTree::open(&path, ignore, shared.digests.clone()).map_err(|cause| {
                        let what = format!("cannot open build context {}", path.display());
                        Error::because(ErrorKind::NotFound, what, &cause)
                    })
                };
                if let Some((device, inode)) = identity {
                    use std::os::unix::fs::MetadataExt;
                    let same = std::fs::metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (device, inode));
                    if !same {
                        let what = format!("the engine does not see the build context {}", path.display());
                        return Err(Error::new(ErrorKind::Unavailable, what));
                    }
                }
                let plain = open(Matcher::default())?;
                let (file, text) = locate(dockerfile, ignore, &|name| small(&plain, name))?;
                (Arc::new(open(matcher(&text)?)?), text, file)
            }
            Context::Archive(source) => {
                let folder = shared.temporary.clone();
                let spool = tokio::task::spawn_blocking(move || {
                    let mut source = crate::images::Source::new(source);
                    let spool = spool::SpoolTree::read(&mut source, &folder);
                    spool.map_err(|error| source.failed.take().unwrap_or(error))
                });
                let spool = spool
                    .await
                    .map_err(|cause| Error::internal(format!("reading the context ended early: {cause}")))??;
                let (file, text) = locate(dockerfile, ignore, &|name| spool.small(name, DOCKERFILE_BYTES_MAX))?;
                (Arc::new(spool.ignoring(matcher(&text)?)), text, file)
            }
        };
        options.ignored = ignore::read(&text);
        options.dockerfile = file;
        Ok(tree)
    }

    async fn finish(
        &self,
        built: Built,
        names: Vec<ImageName>,
        output: OutputTo,
        said: &mpsc::UnboundedSender<Message>,
        held: &Arc<cache::Held>,
    ) -> Result<Finished> {
        let tags = names.iter().map(ImageName::familiar).collect();
        match output {
            OutputTo::Nothing => Ok(Finished { image: None, tags, built }),
            OutputTo::Image => {
                let (images, result, held) = (self.engine.images(), built.clone(), held.clone());
                let now = crate::events::now_unix_nanos();
                let added = tokio::task::spawn_blocking(move || {
                    let id = images.add_built(&result, names, now);
                    drop(held);
                    id
                });
                let id = added.await.map_err(|cause| Error::internal(format!("the image was not made: {cause}")))??;
                Ok(Finished { image: Some(id), tags, built })
            }
            OutputTo::Files => {
                let rootfs = self.engine.images().view_state(&built.layers);
                let (said, empty) = (said.clone(), built.layers.is_empty());
                let packed = tokio::task::spawn_blocking(move || pack(&rootfs, empty, &said));
                packed.await.map_err(|cause| Error::internal(format!("packing ended early: {cause}")))??;
                Ok(Finished { image: None, tags, built })
            }
        }
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
                    freed += crate::files::disk_bytes(&entry.path());
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
        run::recover(&self.engine).await;
    }
}

fn unix_nanos(time: std::time::SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

fn no_dockerfile(name: &str) -> Error {
    Error::invalid(format!("Cannot locate specified Dockerfile: {name}"))
}

/// The Dockerfile, and the text of the ignore file that belongs to it. `small` reads a file of the context.
fn locate(
    dockerfile: DockerfileAt,
    ignore: Option<String>,
    small: &dyn Fn(&Path) -> Result<Option<Vec<u8>>>,
) -> Result<(Vec<u8>, String)> {
    let small = |name: &str| small(Path::new(ignore::clean(name).trim_start_matches('/')));
    let (file, name) = match dockerfile {
        DockerfileAt::Text(text) => (text, None),
        DockerfileAt::Context(name) => (small(&name)?.ok_or_else(|| no_dockerfile(&name))?, Some(name)),
    };
    if let Some(text) = ignore {
        return Ok((file, text));
    }
    let own = name.map(|name| small(&format!("{name}.dockerignore"))).transpose()?.flatten();
    let found = match own {
        Some(text) => Some(text),
        None => small(".dockerignore")?,
    };
    Ok((file, String::from_utf8_lossy(&found.unwrap_or_default()).into_owned()))
}

fn matcher(ignore_file: &str) -> Result<Matcher> {
    Matcher::new(&ignore::read(ignore_file)).map_err(Error::invalid)
}

fn small(tree: &folder::FolderTree, path: &Path) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let failed = |cause: std::io::Error| {
        Error::because(ErrorKind::InvalidArgument, format!("cannot read {}", path.display()), &cause)
    };
    match tree.meta(path).map_err(failed)? {
        None => Ok(None),
        Some(meta) if meta.size > DOCKERFILE_BYTES_MAX => {
            Err(Error::invalid(format!("{} is larger than {DOCKERFILE_BYTES_MAX} bytes", path.display())))
        }
        Some(_) => {
            let mut bytes = Vec::new();
            let file = tree.open(path).map_err(failed)?;
            file.take(DOCKERFILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
            Ok(Some(bytes))
        }
    }
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

fn pack(rootfs: &berth_types::mount::Rootfs, empty: bool, said: &mpsc::UnboundedSender<Message>) -> Result<()> {
    struct Parts<'a>(&'a mpsc::UnboundedSender<Message>);
    impl std::io::Write for Parts<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let part = Message::Archive(bytes::Bytes::copy_from_slice(bytes));
            self.0.send(part).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let failed = |cause: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::Internal, "cannot pack the result", cause)
    };
    let sink = std::io::BufWriter::with_capacity(64 << 10, Parts(said));
    if empty {
        let sink = tar::Builder::new(sink).into_inner().map_err(|cause| failed(&cause))?;
        return sink.into_inner().map(drop).map_err(|cause| failed(cause.error()));
    }
    let root = crate::files::Root::of_image(rootfs).map_err(|cause| failed(&cause))?;
    let top = root.find(Path::new("/")).map_err(|cause| failed(&cause))?;
    crate::files::pack_content(&root, &top, sink).map_err(|cause| failed(&cause))
}
