//! The solver: every vertex once, side by side, nothing that is known already.

use crate::dispatch::Stage;
use crate::error::BuildError;
use crate::events::{Event, Sink, Stream};
use crate::graph::{CopyOp, From, Graph, Id, MountOp, MountOpKind, Op, RunOp, Vertex};
use crate::key::{Key, chain};
use crate::select::{self, SelectError};
use crate::tree::Tree;
use crate::types::{BuildOptions, Built, Layer, NetworkChoice};
use crate::worker::{CopySource, CopyStep, Known, MkdirStep, MountKind, Output, Ran, RunMount, RunStep, Worker};
use berth_dockerfile::ignore::Matcher;
use berth_dockerfile::quote;
use berth_types::{Digest, Error, ErrorKind, ExitStatus};
use futures_util::future::{BoxFuture, try_join_all};
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
    key: Option<Digest>,
}

struct Solver<'a, W: Worker> {
    worker: &'a W,
    options: &'a BuildOptions,
    vertices: Vec<Vertex>,
    cells: Vec<OnceCell<Result<Done, BuildError>>>,
    at_once: Semaphore,
    sink: Sink,
    epoch_seconds: Option<i64>,
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
        cells: vertices.iter().map(|_| OnceCell::new()).collect(),
        vertices,
        at_once: Semaphore::new(options.parallel.max(1)),
        sink,
        epoch_seconds,
    };
    let done = solver.solve(target).await.map_err(show)?;
    Ok(solver.finish(&stage, &done))
}

impl<W: Worker> Solver<'_, W> {
    fn solve(&self, id: Id) -> BoxFuture<'_, Result<Done, BuildError>> {
        Box::pin(async move {
            let once = async {
                try_join_all(self.vertices[id].op.inputs().into_iter().map(|input| self.solve(input))).await?;
                let result = self.run_vertex(id).await;
                if let Err(error) = &result {
                    (self.sink)(Event::Failed(id, error.to_string()));
                }
                result
            };
            let result = self.cells[id].get_or_init(|| once).await.clone();
            result.map_err(|mut error| {
                if error.lines.is_none() {
                    error.lines = self.vertices[id].lines;
                }
                error.step.get_or_insert(id);
                error
            })
        })
    }

    fn done(&self, id: Id) -> Result<Done, BuildError> {
        match self.cells[id].get() {
            Some(result) => result.clone(),
            None => Err(BuildError::new(Error::internal("a step ran before what it needs"))),
        }
    }

    async fn run_vertex(&self, id: Id) -> Result<Done, BuildError> {
        match &self.vertices[id].op {
            Op::State(layers) => {
                (self.sink)(Event::Started(id));
                (self.sink)(Event::Done(id));
                Ok(Done { layers: Arc::new(layers.clone()), added: None, created_unix_nanos: 0, key: None })
            }
            Op::Mkdir { base, path, user } => {
                let base = self.done(*base)?;
                let key = self.key("mkdir", &base.layers).text(path).text(user).end();
                if let Some(done) = self.cached(id, &base, &key) {
                    return Ok(done);
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
                Ok(self.keep(id, &base, added, &[key]))
            }
            Op::Copy(copy) => self.copy(id, copy).await,
            Op::Run(run) => self.run(id, run).await,
        }
    }

    fn key(&self, kind: &str, base: &[Layer]) -> Key {
        Key::new(kind).digest(&chain(base)).number(self.epoch_seconds.unwrap_or(-1))
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, BuildError> {
        self.at_once.acquire().await.map_err(|_| BuildError::cancelled())
    }

    fn cached(&self, id: Id, base: &Done, key: &Digest) -> Option<Done> {
        if self.vertices[id].no_cache {
            return None;
        }
        let known = self.worker.lookup(key)?;
        (self.sink)(Event::Cached(id));
        Some(Self::on(base, known, *key))
    }

    fn on(base: &Done, known: Known, key: Digest) -> Done {
        let mut layers = base.layers.to_vec();
        layers.extend(known.layer);
        let created_unix_nanos = known.created_unix_nanos;
        Done { layers: Arc::new(layers), added: known.layer, created_unix_nanos, key: Some(key) }
    }

    fn keep(&self, id: Id, base: &Done, added: Option<Layer>, keys: &[Digest]) -> Done {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let known = Known { layer: added, created_unix_nanos: i64::try_from(now.as_nanos()).unwrap_or(0) };
        for key in keys {
            self.worker.remember(key, known, &self.vertices[id].name);
        }
        (self.sink)(Event::Done(id));
        Self::on(base, known, keys[0])
    }

    async fn tree_of(&self, from: &From) -> Result<Arc<dyn Tree>, BuildError> {
        Ok(match from {
            From::State(id) => self.worker.tree(&self.done(*id)?.layers).await?,
            From::Context(name) => self.worker.context(name.as_deref()).await?,
            From::Memory(tree) => tree.clone(),
            From::Remote(remote) => self.worker.fetch(remote).await?,
        })
    }

    async fn copy(&self, id: Id, copy: &CopyOp) -> Result<Done, BuildError> {
        let base = self.done(copy.base)?;
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
                From::State(id) => quick = quick.digest(&chain(&self.done(*id)?.layers)).text(&source.path),
                From::Remote(remote) => match remote.identity() {
                    Some(identity) => quick = quick.digest(&identity),
                    None => is_quick = false,
                },
                From::Context(_) | From::Memory(_) => is_quick = false,
            }
            quick = quick.number(i64::from(source.unpack));
        }
        let quick = is_quick.then(|| quick.end());
        if let Some(done) = quick.and_then(|quick| self.cached(id, &base, &quick)) {
            return Ok(done);
        }
        let mut sources = Vec::new();
        let mut slow = common("copy-content");
        for source in &copy.sources {
            let tree = self.tree_of(&source.from).await?;
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
        if let Some(done) = self.cached(id, &base, &slow) {
            if let Some(quick) = quick {
                let known = Known { layer: done.added, created_unix_nanos: done.created_unix_nanos };
                self.worker.remember(&quick, known, &self.vertices[id].name);
            }
            return Ok(done);
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
        Ok(self.keep(id, &base, added, &keys))
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

    async fn run(&self, id: Id, run: &RunOp) -> Result<Done, BuildError> {
        let base = self.done(run.base)?;
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
            let (after, kind) = self.mount(key, mount).await?;
            key = after;
            mounts.push(RunMount { target: mount.target.clone(), kind });
        }
        let key = key.end();
        if let Some(done) = self.cached(id, &base, &key) {
            return Ok(done);
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
        Ok(self.keep(id, &base, ran.layer, &[key]))
    }

    /// A mount's part of the key, and what the worker is to do.
    async fn mount(&self, key: Key, mount: &MountOp) -> Result<(Key, MountKind), BuildError> {
        let key = key.text(&mount.target);
        Ok(match &mount.kind {
            MountOpKind::Bind { from: From::State(id), source, read_only } => {
                let layers = self.done(*id)?.layers.to_vec();
                let key = key.text("state").digest(&chain(&layers)).text(source).number(i64::from(*read_only));
                (key, MountKind::State { layers, source: source.clone(), read_only: *read_only })
            }
            MountOpKind::Bind { from, source, read_only } => {
                let tree = self.tree_of(from).await?;
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
            MountOpKind::Cache { id, sharing, from, source, owner, mode, read_only } => {
                let from = match from {
                    Some(from) => Some(self.done(*from)?.layers.to_vec()),
                    None => None,
                };
                let key = key.text("cache").text(id).text(source).number(i64::from(*read_only));
                let kind = MountKind::Cache {
                    id: id.clone(),
                    sharing: *sharing,
                    from,
                    source: source.clone(),
                    owner: *owner,
                    mode: *mode,
                    read_only: *read_only,
                };
                (key, kind)
            }
            MountOpKind::Tmpfs { size_bytes } => (key.text("tmpfs"), MountKind::Tmpfs { size_bytes: *size_bytes }),
            MountOpKind::Secret { id, file, env, required } => {
                // Which secret, never what it says.
                let key = key.text("secret").text(id).text(&format!("{file:?} {env:?}"));
                let kind = MountKind::Secret { id: id.clone(), file: *file, env: env.clone(), required: *required };
                (key, kind)
            }
            MountOpKind::Ssh { id, owner, mode, required } => {
                let kind = MountKind::Ssh { id: id.clone(), owner: *owner, mode: *mode, required: *required };
                (key.text("ssh").text(id), kind)
            }
            MountOpKind::Inline { data } => (key.text("inline").text(data), MountKind::Inline { data: data.clone() }),
        })
    }

    fn finish(&self, stage: &Stage, done: &Done) -> Built {
        // What changes only the configuration is as old as what it stands on: the same again is the same image.
        let mut last = None;
        let history = stage.history.iter().map(|(step, vertex)| {
            let mut step = step.clone();
            if let Some(done) = vertex.and_then(|id| self.done(id).ok()) {
                step.empty_layer = done.added.is_none();
                step.created_unix_nanos = step.created_unix_nanos.or(Some(done.created_unix_nanos));
            }
            step.created_unix_nanos = step.created_unix_nanos.or(last);
            last = step.created_unix_nanos;
            step
        });
        let mut config = stage.config.clone();
        config.labels.extend(self.options.labels.clone());
        let keys = stage.keys.iter().filter_map(|id| self.done(*id).ok());
        Built {
            config,
            platform: stage.platform.clone(),
            author: stage.author.clone(),
            layers: done.layers.to_vec(),
            history: history.collect(),
            epoch_seconds: self.epoch_seconds,
            records: keys.filter_map(|done| Some((done.key?, done.added))).collect(),
        }
    }
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
