//! The solver: every vertex once, side by side, nothing that is known already.
//!
//! ```text
//!  solve(id)  what it comes to, where a cache knows that: its layers are named, and may lie elsewhere still
//!  real(id)   the same with its files here: found, fetched, or made after all
//! ```
//!
//! What is only a step on the way to something that is known is never fetched: an imported cache says that a stage came
//! to layer x, and that what was copied out of x is layer y, and y alone is brought here.

use crate::dispatch::Stage;
use crate::error::BuildError;
use crate::events::{Event, Sink, Stream};
use crate::graph::{CopyOp, From, Graph, Id, MountOp, MountOpKind, Op, RunOp, Vertex};
use crate::key::{Key, chain};
use crate::select::{self, SelectError};
use crate::tree::Tree;
use crate::types::{BuildOptions, Built, CacheRecord, Layer, NetworkChoice};
use crate::worker::{
    CopySource, CopyStep, Known, MkdirStep, MountKind, Output, OwnMount, Ran, RunMount, RunStep, Worker,
};
use berth_dockerfile::ignore::Matcher;
use berth_dockerfile::quote;
use berth_types::{Digest, Error, ErrorKind, ExitStatus};
use futures_util::future::{BoxFuture, try_join_all};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OnceCell, Semaphore};

/// What is kept of a step's output for the message when it fails.
const TAIL_BYTES_MAX: usize = 8 << 10;
const TAIL_LINES_MAX: usize = 20;

/// A build that came to its end.
pub type Outcome = Result<Built, BuildError>;

/// What a vertex came to.
#[derive(Clone)]
struct Done {
    layers: Arc<Vec<Layer>>,
    added: Option<Layer>,
    created_unix_nanos: i64,
    keys: Vec<Digest>,
}

type Cell = OnceCell<Result<Done, BuildError>>;

/// What must be here of what a vertex comes to.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    /// Its name.
    Name,
    /// Its files.
    Files,
}

struct Solver<'a, W: Worker> {
    worker: &'a W,
    options: &'a BuildOptions,
    vertices: Vec<Vertex>,
    names: Vec<Cell>,
    files: Vec<Cell>,
    at_once: Semaphore,
    sink: Sink,
    epoch_seconds: Option<i64>,
    /// What is known may lie elsewhere: without that a name and its files are one question.
    elsewhere: bool,
    /// Keys of what is being made.
    making: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// Plans and builds. Dropping the future ends the running steps.
pub async fn build<W: Worker>(options: &BuildOptions, worker: &W, sink: Sink) -> Outcome {
    let show = |error: BuildError| error.show(&options.dockerfile_name, &options.dockerfile);
    let (graph, stage) = crate::plan::plan(options, worker).await.map_err(show)?;
    let Graph { vertices, steps, target, epoch_seconds, warnings } = graph;
    sink(Event::Planned { steps, warnings });
    let solver = Solver {
        worker,
        options,
        names: vertices.iter().map(|_| Cell::new()).collect(),
        files: vertices.iter().map(|_| Cell::new()).collect(),
        vertices,
        at_once: Semaphore::new(options.parallel.max(1)),
        sink,
        epoch_seconds,
        elsewhere: worker.is_elsewhere(),
        making: Mutex::default(),
    };
    solver.solve(target).await.map_err(show)?;
    let done = solver.real(target).await.map_err(show)?;
    Ok(solver.finish(&stage, &done))
}

impl<W: Worker> Solver<'_, W> {
    fn solve(&self, id: Id) -> BoxFuture<'_, Result<Done, BuildError>> {
        Box::pin(async move {
            let once = async {
                try_join_all(self.vertices[id].op.inputs().into_iter().map(|input| self.solve(input))).await?;
                let need = if self.elsewhere { Need::Name } else { Need::Files };
                match self.told(id, need).await? {
                    Some(done) => Ok(done),
                    None => self.real(id).await,
                }
            };
            self.placed(id, self.names[id].get_or_init(|| once).await)
        })
    }

    /// Comes after [`Solver::solve`].
    fn real(&self, id: Id) -> BoxFuture<'_, Result<Done, BuildError>> {
        Box::pin(async move {
            let once = async {
                match self.names[id].get() {
                    Some(Ok(done)) if self.can_be_had(id, done).await? => return Ok(done.clone()),
                    _ => {}
                }
                try_join_all(self.vertices[id].op.inputs().into_iter().map(|input| self.real(input))).await?;
                let done = self.told(id, Need::Files).await?;
                done.ok_or_else(|| BuildError::new(Error::internal("a step was neither known nor done")))
            };
            self.placed(id, self.files[id].get_or_init(|| once).await)
        })
    }

    /// Whether all files of `done` are here; those of what it stands on may have to be made for that, and come out as
    /// they were.
    async fn can_be_had(&self, id: Id, done: &Done) -> Result<bool, BuildError> {
        if !self.elsewhere || self.worker.ready(&done.layers).await? {
            return Ok(true);
        }
        let Some(base) = self.vertices[id].op.base() else { return Ok(false) };
        let below = self.real(base).await?;
        let added: Vec<Layer> = done.added.into_iter().collect();
        let named = |layer: &Layer| layer.diff_id;
        let same = below.layers.iter().chain(&added).map(named).eq(done.layers.iter().map(named));
        Ok(same && self.worker.ready(&added).await?)
    }

    /// An error knows its step and lines.
    fn placed(&self, id: Id, result: &Result<Done, BuildError>) -> Result<Done, BuildError> {
        result.clone().map_err(|mut error| {
            if error.lines.is_none() {
                error.lines = self.vertices[id].lines;
            }
            error.step.get_or_insert(id);
            error
        })
    }

    async fn told(&self, id: Id, need: Need) -> Result<Option<Done>, BuildError> {
        let result = self.run_vertex(id, need).await;
        if let Err(error) = &result {
            (self.sink)(Event::Failed(id, error.to_string()));
        }
        result
    }

    fn done(&self, id: Id, need: Need) -> Result<Done, BuildError> {
        let cells = if need == Need::Name || !self.elsewhere { &self.names } else { &self.files };
        match cells[id].get() {
            Some(result) => result.clone(),
            None => Err(BuildError::new(Error::internal("a step ran before what it needs"))),
        }
    }

    /// `None`: only its name is needed, and nobody knows it; or what it depends on is not here.
    async fn run_vertex(&self, id: Id, need: Need) -> Result<Option<Done>, BuildError> {
        match &self.vertices[id].op {
            Op::State(layers) => {
                (self.sink)(Event::Started(id));
                (self.sink)(Event::Done(id));
                let layers = Arc::new(layers.clone());
                Ok(Some(Done { layers, added: None, created_unix_nanos: 0, keys: Vec::new() }))
            }
            Op::Config { base, known_by } => {
                let base = self.done(*base, need)?;
                let key = self.key("config", &base.layers).digest(known_by).end();
                let _alone = self.alone(id, &key).await;
                if let Some(done) = self.cached(id, &base, &key, need).await? {
                    return Ok(Some(done));
                }
                (self.sink)(Event::Started(id));
                Ok(Some(self.keep(id, &base, None, vec![key])))
            }
            Op::Mkdir { base, path, user } => {
                let base = self.done(*base, need)?;
                let key = self.key("mkdir", &base.layers).text(path).text(user).end();
                let _alone = self.alone(id, &key).await;
                if let Some(done) = self.cached(id, &base, &key, need).await? {
                    return Ok(Some(done));
                }
                if need == Need::Name {
                    return Ok(None);
                }
                let _turn = self.turn().await?;
                (self.sink)(Event::Started(id));
                let step = MkdirStep {
                    layers: base.layers.to_vec(),
                    path: path.clone(),
                    user: user.clone(),
                    epoch_seconds: self.epoch_seconds,
                };
                let added = self.worker.mkdir(step).await?;
                Ok(Some(self.keep(id, &base, added, vec![key])))
            }
            Op::Copy(copy) => self.copy(id, copy, need).await,
            Op::Run(run) => self.run(id, run, need).await,
        }
    }

    fn key(&self, kind: &str, base: &[Layer]) -> Key {
        Key::new(kind).digest(&chain(base)).number(self.epoch_seconds.unwrap_or(-1))
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, BuildError> {
        self.at_once.acquire().await.map_err(|_| BuildError::cancelled())
    }

    /// Waits for whoever makes what has this key. A step that two stages have is made once: the second to come looks again.
    async fn alone(&self, id: Id, key: &Digest) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        if self.vertices[id].no_cache {
            return None;
        }
        let lock = self.making.lock().unwrap_or_else(PoisonError::into_inner).entry(*key).or_default().clone();
        Some(lock.lock_owned().await)
    }

    async fn cached(&self, id: Id, base: &Done, key: &Digest, need: Need) -> Result<Option<Done>, BuildError> {
        if self.vertices[id].no_cache {
            return Ok(None);
        }
        let Some(known) = self.worker.lookup(key) else { return Ok(None) };
        if let (Need::Files, Some(layer)) = (need, known.layer)
            && !self.worker.ready(&[layer]).await?
        {
            return Ok(None);
        }
        (self.sink)(Event::Cached(id));
        Ok(Some(Self::on(base, known, vec![*key])))
    }

    fn on(base: &Done, known: Known, keys: Vec<Digest>) -> Done {
        let mut layers = base.layers.to_vec();
        layers.extend(known.layer);
        let created_unix_nanos = known.created_unix_nanos;
        Done { layers: Arc::new(layers), added: known.layer, created_unix_nanos, keys }
    }

    fn keep(&self, id: Id, base: &Done, added: Option<Layer>, keys: Vec<Digest>) -> Done {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let known = Known { layer: added, created_unix_nanos: i64::try_from(now.as_nanos()).unwrap_or(0) };
        for key in &keys {
            self.worker.remember(key, known, &self.vertices[id].name);
        }
        (self.sink)(Event::Done(id));
        Self::on(base, known, keys)
    }

    async fn tree_of(&self, from: &From, need: Need) -> Result<Arc<dyn Tree>, BuildError> {
        Ok(match from {
            From::State(id) => self.worker.tree(&self.done(*id, need)?.layers).await?,
            From::Context(name) => self.worker.context(name.as_deref()).await?,
            From::Memory(tree) => tree.clone(),
            From::Remote(remote) => self.worker.fetch(remote).await?,
        })
    }

    /// Whether files that are to be hashed are here.
    async fn is_here(&self, from: &From, need: Need) -> Result<bool, BuildError> {
        match from {
            From::State(id) if need == Need::Name => Ok(self.worker.ready(&self.done(*id, need)?.layers).await?),
            _ => Ok(true),
        }
    }

    async fn copy(&self, id: Id, copy: &CopyOp, need: Need) -> Result<Option<Done>, BuildError> {
        let base = self.done(copy.base, need)?;
        // Names of users are looked up in the state; without them a linked layer does not depend on it.
        let by_number = copy.chown.split(':').all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let seen: &[Layer] = if copy.link && by_number { &[] } else { &base.layers };
        let common = |kind: &str| {
            self.key(kind, seen)
                .number(i64::from(copy.link))
                .text(&copy.destination)
                .text(&copy.chown)
                .text(&format!("{:?}", copy.chmod))
                .number(i64::from(copy.parents))
                .list(&copy.exclude)
        };
        // Where the sources as a whole are the same, nothing needs to be hashed, or fetched.
        let mut quick = common("copy-states");
        let mut is_quick = true;
        for source in &copy.sources {
            match &source.from {
                From::State(id) => quick = quick.digest(&chain(&self.done(*id, need)?.layers)).text(&source.path),
                From::Remote(remote) => match remote.identity() {
                    Some(identity) => quick = quick.digest(&identity),
                    None => is_quick = false,
                },
                From::Context(_) | From::Memory(_) => is_quick = false,
            }
            quick = quick.number(i64::from(source.unpack));
        }
        let quick = is_quick.then(|| quick.end());
        if let Some(quick) = &quick
            && let Some(done) = self.cached(id, &base, quick, need).await?
        {
            return Ok(Some(done));
        }
        let mut sources = Vec::new();
        let mut slow = common("copy-content");
        for source in &copy.sources {
            if !self.is_here(&source.from, need).await? {
                return Ok(None);
            }
            let tree = self.tree_of(&source.from, need).await?;
            let (path, parents, exclude) = (source.path.clone(), copy.parents, copy.exclude.clone());
            let within = tree.clone();
            let picked = tokio::task::spawn_blocking(move || {
                let exclude = Matcher::new(&exclude).map_err(SelectError::Pattern)?;
                let shapes = select::select(&*within, &path, parents, &exclude)?;
                let digests =
                    shapes.iter().map(|shape| select::digest(&*within, shape)).collect::<Result<Vec<_>, _>>()?;
                Ok::<_, SelectError>((shapes, digests))
            });
            let picked = picked.await.map_err(ended)?;
            let (shapes, digests) = match picked {
                Ok(picked) => picked,
                Err(error) => return Err(self.not_selected(error, &source.path, &source.from, tree).await),
            };
            slow = digests.iter().fold(slow, Key::digest).number(i64::from(source.unpack));
            sources.extend(shapes.into_iter().map(|shape| CopySource {
                tree: tree.clone(),
                shape,
                unpack: source.unpack,
            }));
        }
        let slow = slow.end();
        let _alone = self.alone(id, &slow).await;
        if let Some(mut done) = self.cached(id, &base, &slow, need).await? {
            if let Some(quick) = quick {
                let known = Known { layer: done.added, created_unix_nanos: done.created_unix_nanos };
                self.worker.remember(&quick, known, &self.vertices[id].name);
                done.keys.push(quick);
            }
            return Ok(Some(done));
        }
        if need == Need::Name {
            return Ok(None);
        }
        let mut destination = copy.destination.clone();
        if (sources.len() > 1 || copy.parents) && !destination.ends_with('/') {
            destination.push('/');
        }
        let _turn = self.turn().await?;
        (self.sink)(Event::Started(id));
        let step = CopyStep {
            layers: base.layers.to_vec(),
            link: copy.link,
            sources,
            destination,
            chown: copy.chown.clone(),
            chmod: copy.chmod.clone(),
            epoch_seconds: self.epoch_seconds,
        };
        let added = self.worker.copy(step).await?;
        let keys: Vec<Digest> = std::iter::once(slow).chain(quick).collect();
        Ok(Some(self.keep(id, &base, added, keys)))
    }

    /// Words and hints for a source that is not there.
    async fn not_selected(&self, error: SelectError, path: &str, from: &From, tree: Arc<dyn Tree>) -> BuildError {
        let missing = match &error {
            SelectError::Missing(missing) => missing.clone(),
            SelectError::Read(_, _) => {
                return BuildError::new(Error::because(ErrorKind::Unavailable, "cannot copy", &error));
            }
            _ => return BuildError::invalid(format!("failed to compute cache key: {error}")),
        };
        let message = format!("failed to compute cache key: {error}");
        let failed = BuildError::new(Error::not_found(message));
        let in_context = matches!(from, From::Context(None));
        if in_context && tree.is_ignored(&missing) {
            return failed.hint(format!("{path} is left out by .dockerignore"));
        }
        if in_context && path.starts_with("..") {
            return failed.hint("a build sees only what is below its context");
        }
        let near = tokio::task::spawn_blocking(move || select::nearest(&*tree, &missing)).await.ok().flatten();
        match near {
            Some(near) => failed.hint(format!("did you mean {near}?")),
            None if in_context => failed.hint("paths are relative to the build context, not to the Dockerfile"),
            None => failed,
        }
    }

    async fn run(&self, id: Id, run: &RunOp, need: Need) -> Result<Option<Done>, BuildError> {
        let base = self.done(run.base, need)?;
        let network = match &run.network {
            NetworkChoice::Named(_) => &NetworkChoice::Default,
            other => other,
        };
        let mut key = self
            .key("run", &base.layers)
            .list(&run.args)
            .list(&run.env)
            .text(&run.cwd)
            .text(&run.user)
            .text(&format!("{network:?}"))
            .number(i64::from(run.insecure))
            .list(&run.extra_hosts);
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            let (after, kind) = self.mount(key, mount, need).await?;
            key = after;
            mounts.push(RunMount { target: mount.target.clone(), kind });
        }
        let key = key.end();
        let _alone = self.alone(id, &key).await;
        if let Some(done) = self.cached(id, &base, &key, need).await? {
            return Ok(Some(done));
        }
        if need == Need::Name {
            return Ok(None);
        }
        let _turn = self.turn().await?;
        (self.sink)(Event::Started(id));
        let step = RunStep {
            layers: base.layers.to_vec(),
            args: run.args.clone(),
            env: run.env.iter().chain(&run.proxy_env).cloned().collect(),
            cwd: run.cwd.clone(),
            user: run.user.clone(),
            network: run.network.clone(),
            insecure: run.insecure,
            extra_hosts: run.extra_hosts.clone(),
            mounts,
            epoch_seconds: self.epoch_seconds,
        };
        let tail = Arc::new(Mutex::new(Vec::new()));
        let (kept, sink) = (tail.clone(), self.sink.clone());
        let output: Output = Arc::new(move |stream: Stream, bytes: &[u8]| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(bytes);
            if kept.len() > 2 * TAIL_BYTES_MAX {
                let cut = kept.len() - TAIL_BYTES_MAX;
                kept.drain(..cut);
            }
            sink(Event::Output(id, stream, bytes.to_vec()));
        });
        let ran = self.worker.run(step, output).await.map_err(|error| refused(run, error))?;
        if ran.status != ExitStatus::Code(0) {
            let tail = String::from_utf8_lossy(&tail.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
            return Err(failed(run, &ran, &tail));
        }
        Ok(Some(self.keep(id, &base, ran.layer, vec![key])))
    }

    /// A mount's part of the key, and what the worker is to do.
    async fn mount(&self, key: Key, mount: &MountOp, need: Need) -> Result<(Key, MountKind), BuildError> {
        let key = key.text(&mount.target);
        Ok(match &mount.kind {
            MountOpKind::Bind { from: From::State(id), source, read_only } => {
                let layers = self.done(*id, need)?.layers.to_vec();
                let key = key.text("state").digest(&chain(&layers)).text(source).number(i64::from(*read_only));
                (key, MountKind::State { layers, source: source.clone(), read_only: *read_only })
            }
            MountOpKind::Bind { from, source, read_only } => {
                let tree = self.tree_of(from, need).await?;
                let (within, path) = (tree.clone(), source.clone());
                let digest = tokio::task::spawn_blocking(move || {
                    let shapes = select::select(&*within, &path, false, &Matcher::default())?;
                    shapes.first().map(|shape| select::digest(&*within, shape)).transpose()
                });
                let digest = match digest.await.map_err(ended)? {
                    Ok(Some(digest)) => digest,
                    Ok(None) => return Err(BuildError::invalid(format!("{}: not found", quote(source)))),
                    Err(error) => return Err(self.not_selected(error, source, from, tree).await),
                };
                let key = key.text("tree").digest(&digest).number(i64::from(*read_only));
                (key, MountKind::Tree { tree, source: source.clone(), read_only: *read_only })
            }
            MountOpKind::Cache { mount, from } => {
                let from = match from {
                    Some(from) => Some(self.done(*from, need)?.layers.to_vec()),
                    None => None,
                };
                let key = key.text("cache").text(&mount.id).text(&mount.source).number(i64::from(mount.read_only));
                (key, MountKind::Cache { mount: mount.clone(), from })
            }
            MountOpKind::Own(own) => {
                let key = match own {
                    OwnMount::Tmpfs { .. } => key.text("tmpfs"),
                    // Which secret, never what it says.
                    OwnMount::Secret { id, file, env, .. } => {
                        key.text("secret").text(id).text(&format!("{file:?} {env:?}"))
                    }
                    OwnMount::Ssh { id, .. } => key.text("ssh").text(id),
                    OwnMount::Inline { data } => key.text("inline").text(data),
                };
                (key, MountKind::Own(own.clone()))
            }
        })
    }

    fn finish(&self, stage: &Stage, done: &Done) -> Built {
        // What changes only the configuration is as old as what it stands on: the same again is the same image.
        let mut last = None;
        let history = stage.history.iter().map(|(step, vertex)| {
            let mut step = step.clone();
            if let Some(done) = vertex.and_then(|id| self.came_to(id)) {
                step.empty_layer = done.added.is_none();
                step.created_unix_nanos = step.created_unix_nanos.or(Some(done.created_unix_nanos));
            }
            step.created_unix_nanos = step.created_unix_nanos.or(last);
            last = step.created_unix_nanos;
            step
        });
        let mut config = stage.config.clone();
        config.labels.extend(self.options.labels.clone());
        Built {
            config,
            platform: stage.platform.clone(),
            author: stage.author.clone(),
            layers: done.layers.to_vec(),
            history: history.collect(),
            epoch_seconds: self.epoch_seconds,
            records: (0..self.vertices.len()).filter_map(|id| self.came_to(id)).flat_map(records).collect(),
        }
    }

    /// What a vertex came to, where anybody needed it.
    fn came_to(&self, id: Id) -> Option<Done> {
        let done = [&self.files[id], &self.names[id]].into_iter().find_map(|cell| cell.get());
        done?.clone().ok()
    }
}

fn records(done: Done) -> Vec<CacheRecord> {
    let known = Known { layer: done.added, created_unix_nanos: done.created_unix_nanos };
    done.keys.into_iter().map(|key| CacheRecord { key, known, layers: done.layers.clone() }).collect()
}

fn ended(cause: tokio::task::JoinError) -> BuildError {
    BuildError::new(Error::internal(format!("reading files ended early: {cause}")))
}

/// A `RUN` whose program could not even be started.
fn refused(run: &RunOp, error: Error) -> BuildError {
    let text = error.to_string();
    let mut failed = BuildError::new(error);
    if text.contains("exec format error") || text.contains("Exec format error") {
        failed = failed.hint("the program is for another architecture than this host's: see FROM --platform");
    } else if text.contains("executable file not found") || text.contains("no such file or directory") {
        failed = failed.hint(format!("{} is not in the image at this step", run.args[0]));
    }
    failed
}

fn failed(run: &RunOp, ran: &Ran, tail: &str) -> BuildError {
    let (code, how) = match ran.status {
        ExitStatus::Code(code) => (i32::from(code), format!("exit code: {code}")),
        ExitStatus::Signal(signal) => (128 + i32::from(signal), format!("killed by signal {signal}")),
        ExitStatus::Unknown => (255, "its shim was killed".to_owned()),
    };
    let message = format!("process {} did not complete successfully: {how}", quote(&run.args.join(" ")));
    let mut error = Error::invalid(message);
    let lines: Vec<&str> = tail.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..];
    let no_names = ["Temporary failure resolving", "Temporary failure in name resolution", "Could not resolve"];
    error.hint = if ran.out_of_memory {
        Some("it was killed because the step's memory limit was reached".to_owned())
    } else if run.network == NetworkChoice::None
        && (no_names.iter().any(|words| tail.contains(words)) || tail.contains("Network is unreachable"))
    {
        Some("this step has no network (--network=none)".to_owned())
    } else if no_names.iter().any(|words| tail.contains(words)) {
        Some("names cannot be resolved in this step: does the host reach its name servers?".to_owned())
    } else if tail.contains("exec format error") || tail.contains("Exec format error") {
        Some("a program is for another architecture than this host's".to_owned())
    } else if code == 127 {
        Some("127: the shell did not find the command".to_owned())
    } else if code == 137 {
        Some("137: killed with SIGKILL".to_owned())
    } else {
        None
    };
    if !shown.is_empty() {
        error.causes = vec![format!("last output:\n{}", shown.join("\n"))];
    }
    let mut failed = BuildError::new(error);
    failed.exit = Some((run.shown.clone(), code));
    failed
}
