//! The engine's side of one build.

use super::cache::{Cache, Held};
use super::elsewhere::{Elsewhere, Imported};
use super::fetch::Means;
use super::run::{self, InFile, Program};
use super::state::StateTree;
use super::write::{Writer, clamp_times, materialise};
use super::{Shared, stubs};
use crate::Engine;
use crate::files::Root;
use berth_build::platform::Platform;
use berth_build::{
    BaseImage, CacheMount, CopyStep, Images, Known, Layer, MkdirStep, MountKind, Output, OwnMount, Ran, Remote,
    RunMount, RunStep, Tree, Worker,
};
use berth_dockerfile::Sharing;
use berth_types::mount::{Lower, Rootfs, Upper};
use berth_types::spec::Resources;
use berth_types::{ContainerId, Digest, Error, ErrorKind, ExitStatus, Result};
use futures_util::future::BoxFuture;
use oci_spec::runtime::Mount;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One build's worker.
pub(crate) struct Job {
    pub engine: Engine,
    pub shared: Arc<Shared>,
    pub context: Arc<dyn Tree>,
    pub named: BTreeMap<String, Arc<dyn Tree>>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub ssh: BTreeMap<String, PathBuf>,
    pub caller: Option<Arc<dyn super::Caller>>,
    pub limits: Resources,
    pub shm_size_bytes: u64,
    pub held: Arc<Held>,
    pub imported: Option<Imported>,
    pub elsewhere: Elsewhere,
    /// For what has to lie on the disk while a step runs; removed with the build and its last step.
    pub scratch: Arc<tempdir::Scratch>,
}

pub(crate) mod tempdir {
    //! A folder that goes with its value, and with the next engine's start.

    use std::path::{Path, PathBuf};

    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn make(parent: &Path, name: &str) -> std::io::Result<Scratch> {
            let path = parent.join(name);
            std::fs::create_dir_all(&path)?;
            Ok(Scratch(path))
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            if let Err(error) = std::fs::remove_dir_all(&self.0)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %self.0.display(), %error, "not removed");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(Error::internal(format!("a build's work ended early: {cause}"))),
    }
}

/// A snapshot that is removed unless it became a layer.
struct Snapshot {
    engine: Engine,
    key: String,
    rootfs: Rootfs,
    done: bool,
}

impl Snapshot {
    fn on(engine: &Engine, id: &ContainerId, layers: &[Layer]) -> Result<Snapshot> {
        let rootfs = engine.images().prepare_state(id.as_str(), layers)?;
        Ok(Snapshot { engine: engine.clone(), key: id.to_string(), rootfs, done: false })
    }

    fn upper(&self) -> Result<&Upper> {
        match &self.rootfs {
            Rootfs::Overlay(overlay) => overlay.upper.as_ref(),
            Rootfs::Directory { .. } => None,
        }
        .ok_or_else(|| Error::internal("a snapshot without a place to write"))
    }

    /// Where its files can be written from here.
    fn root(&self) -> Result<Root> {
        let rootfs = match &self.rootfs {
            // On nothing, what is written is all there is.
            Rootfs::Overlay(overlay) if overlay.lower.is_empty() => {
                Rootfs::Directory { path: self.upper()?.upper.clone() }
            }
            other => other.clone(),
        };
        Root::stopped(&rootfs, &[], false)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot open the stage's files", &cause))
    }

    fn commit(mut self, held: &Held, epoch_seconds: Option<i64>) -> Result<Option<Layer>> {
        if let Some(epoch) = epoch_seconds {
            let upper = self.upper()?.upper.clone();
            clamp_times(&upper, epoch)
                .map_err(|cause| Error::because(ErrorKind::Internal, "cannot set the times of files", &cause))?;
        }
        let layer = self.engine.images().commit_state(&self.key, &|layer| held.add(layer))?;
        self.done = true;
        Ok(layer)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (engine, key) = (self.engine.clone(), std::mem::take(&mut self.key));
        let remove = move || {
            if let Err(error) = engine.images().remove_rootfs(&key) {
                tracing::warn!(step = key, %error, "a build step's snapshot is still there");
            }
        };
        match tokio::runtime::Handle::try_current() {
            // What the step still has open goes first; the removal is not waited for.
            Ok(handle) => drop(handle.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn new_id() -> Result<ContainerId> {
    Ok(ContainerId::from_bytes(crate::containers::random_bytes()?))
}

fn oci_mount(target: &str, typ: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

fn bind(target: &str, folder: &Path, source: &str, read_only: bool) -> Mount {
    let mut options = vec!["rbind".to_owned(), if read_only { "rro" } else { "rw" }.to_owned(), "rprivate".to_owned()];
    let inside = source.trim_start_matches('/');
    if inside.is_empty() {
        return oci_mount(target, "bind", folder, options);
    }
    // Another step may put a link in its place at any moment (CVE-2024-23651): the runtime stays beneath.
    options.push(format!("berth.beneath={}", folder.display()));
    oci_mount(target, "bind", &folder.join(inside), options)
}

/// What the mounts of a step come to, and what must live as long as it runs.
#[derive(Default)]
struct Mounts {
    mounts: Vec<Mount>,
    files: Vec<InFile>,
    env: Vec<String>,
    locks: Vec<tokio::sync::OwnedMutexGuard<()>>,
    agents: Vec<super::agent::Agent>,
}

impl Job {
    async fn mounts(&self, id: &ContainerId, wanted: Vec<RunMount>) -> Result<Mounts> {
        let mut all = Mounts::default();
        for (number, mount) in wanted.into_iter().enumerate() {
            let place = self.scratch.path().join(format!("{}-{number}", id.short()));
            let target = mount.target;
            match mount.kind {
                MountKind::State { layers, source, read_only } => {
                    let mount = self.state_mount(&target, &layers, &source, read_only, place).await?;
                    all.mounts.push(mount);
                }
                MountKind::Tree { tree, source, read_only } => {
                    let (path, inside) = (place.join("tree"), PathBuf::from(source.trim_start_matches('/')));
                    let within = place.clone();
                    blocking(move || put_down(&*tree, &inside, &within, &path)).await?;
                    all.mounts.push(bind(&target, &place, "tree", read_only));
                }
                MountKind::Cache { mount, from } => {
                    let (folder, lock) = self.cache_folder(&mount, from).await?;
                    all.locks.extend(lock);
                    let source = if folder.1 { "" } else { &mount.source };
                    all.mounts.push(bind(&target, &folder.0, source, mount.read_only));
                }
                MountKind::Own(own) => self.own_mount(own, target, place, &mut all).await?,
            }
        }
        Ok(all)
    }

    /// A secret of the request's, or of the caller's.
    fn means(&self) -> Means<'_> {
        Means {
            engine: &self.engine,
            scratch: self.scratch.path(),
            secrets: &self.secrets,
            ssh: &self.ssh,
            caller: self.caller.as_deref(),
        }
    }

    /// An agent of this host, or the caller's.
    pub(crate) async fn agent(&self, id: &str) -> Result<Option<super::agent::Dial>> {
        use super::agent::Dial;
        match (self.ssh.get(id), &self.caller) {
            (Some(socket), _) => Ok(Some(Dial::Socket(socket.clone()))),
            (None, Some(caller)) if caller.has_agent(id).await? => {
                Ok(Some(Dial::Caller(caller.clone(), id.to_owned())))
            }
            _ => Ok(None),
        }
    }

    async fn own_mount(&self, own: OwnMount, target: String, place: PathBuf, all: &mut Mounts) -> Result<()> {
        match own {
            OwnMount::Tmpfs { size_bytes } => {
                let mut options: Vec<String> = ["nosuid", "nodev", "mode=1777"].map(str::to_owned).to_vec();
                if size_bytes > 0 {
                    options.push(format!("size={size_bytes}"));
                }
                all.mounts.push(oci_mount(&target, "tmpfs", Path::new("tmpfs"), options));
            }
            OwnMount::Secret { id, file, env, required } => {
                let Some(data) = self.means().secret(&id).await? else {
                    if required {
                        let error = Error::invalid(format!("secret {id}: not found"));
                        return Err(error.with_hint(format!("--secret id={id},src=FILE")));
                    }
                    return Ok(());
                };
                if let Some(name) = env {
                    let value = String::from_utf8(data.clone())
                        .map_err(|_| Error::invalid(format!("secret {id} is no text: it cannot be a variable")))?;
                    all.env.push(format!("{name}={value}"));
                }
                if let Some((uid, gid, mode)) = file {
                    all.files.push(InFile { target, data, owner: (uid, gid), mode });
                }
            }
            OwnMount::Ssh { id, owner, mode, required } => match self.agent(&id).await? {
                Some(agent) => {
                    let failed = |cause: std::io::Error| {
                        Error::because(ErrorKind::Unavailable, "cannot make a socket for the agent", &cause)
                    };
                    std::fs::create_dir_all(&place).map_err(failed)?;
                    let own = place.join("agent.sock");
                    all.agents.push(super::agent::listen(&own, agent, owner, mode).map_err(failed)?);
                    all.env.push(format!("SSH_AUTH_SOCK={target}"));
                    all.mounts.push(bind(&target, &own, "", false));
                }
                None if required => {
                    return Err(Error::invalid(format!("unset ssh forward key {id}"))
                        .with_hint(format!("--ssh {id} with SSH_AUTH_SOCK set")));
                }
                None => {}
            },
            OwnMount::Inline { data } => {
                all.files.push(InFile { target, data: data.into_bytes(), owner: (0, 0), mode: 0o755 });
            }
        }
        Ok(())
    }

    async fn state_mount(
        &self,
        target: &str,
        layers: &[Layer],
        source: &str,
        read_only: bool,
        place: PathBuf,
    ) -> Result<Mount> {
        let Rootfs::Overlay(view) = self.engine.images().view_state(layers) else {
            return Err(Error::internal("a state without layers"));
        };
        if view.lower.is_empty() {
            let path = place.join("empty");
            std::fs::create_dir_all(&path)
                .map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot make a folder", &cause))?;
            return Ok(bind(target, &path, source, read_only));
        }
        let whole = source == "/";
        if let (true, [Lower::Folder(only)]) = (read_only, &view.lower[..]) {
            return Ok(bind(target, only, source, true));
        }
        if !whole {
            // A part of several layers, or one to be written to: a copy that goes with the build.
            let tree = self.tree(layers).await?;
            let (path, inside) = (place.join("tree"), PathBuf::from(source.trim_start_matches('/')));
            let within = place.clone();
            blocking(move || put_down(&*tree, &inside, &within, &path)).await?;
            return Ok(bind(target, &place, "tree", read_only));
        }
        if let (true, [only]) = (read_only, &view.lower[..]) {
            return Ok(oci_mount(target, "erofs", only.path(), vec!["ro".to_owned()]));
        }
        let mut options: Vec<String> =
            view.lower.iter().map(|lower| format!("lowerdir+={}", lower.path().display())).collect();
        if read_only {
            options.push("ro".to_owned());
        } else {
            for (option, name) in [("upperdir", "upper"), ("workdir", "work")] {
                let path = place.join(name);
                std::fs::create_dir_all(&path)
                    .map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot make a folder", &cause))?;
                options.push(format!("{option}={}", path.display()));
            }
        }
        Ok(oci_mount(target, "overlay", Path::new("overlay"), options))
    }

    /// The folder of a cache mount; `true` with it where its source has been applied already.
    async fn cache_folder(
        &self,
        mount: &CacheMount,
        from: Option<Vec<Layer>>,
    ) -> Result<((PathBuf, bool), Option<tokio::sync::OwnedMutexGuard<()>>)> {
        let (owner, mode) = (mount.owner, mount.mode);
        let root = self.shared.caches.clone();
        let name = crate::images::digest_of(mount.id.as_bytes()).hex();
        let (folder, lock) = match mount.sharing {
            Sharing::Shared => (root.join(&name), None),
            Sharing::Locked => (root.join(&name), Some(self.shared.lock(&name).lock_owned().await)),
            // The first free one; each has what was in it when it was used last.
            Sharing::Private => {
                let mut number = 0;
                loop {
                    let name = if number == 0 { name.clone() } else { format!("{name}-{number}") };
                    if let Ok(guard) = self.shared.lock(&name).try_lock_owned() {
                        break (root.join(name), Some(guard));
                    }
                    number += 1;
                }
            }
        };
        let tree = match &from {
            Some(layers) => Some(self.tree(layers).await?),
            None => None,
        };
        let applied = tree.is_some();
        let (path, source) = (folder.clone(), PathBuf::from(mount.source.trim_start_matches('/')));
        blocking(move || {
            let failed = |cause: std::io::Error| {
                Error::because(ErrorKind::Unavailable, format!("cannot make {}", path.display()), &cause)
            };
            if path.exists() {
                return Ok(());
            }
            let new = path.with_extension(format!("new-{}", crate::events::now_unix_nanos()));
            match &tree {
                Some(tree) => drop(materialise(&**tree, &source, &new).map_err(failed)?),
                None => std::fs::create_dir_all(&new).map_err(failed)?,
            }
            std::os::unix::fs::chown(&new, Some(owner.0), Some(owner.1)).map_err(failed)?;
            let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&new, rights).map_err(failed)?;
            match std::fs::rename(&new, &path) {
                // Two steps began it at the same time.
                Err(_) if path.exists() => std::fs::remove_dir_all(&new).map_err(failed),
                other => other.map_err(failed),
            }
        })
        .await?;
        Ok(((folder, applied), lock))
    }

    /// A layer that a cache elsewhere could not give, and that came out the same, is here now.
    fn made(&self, layer: Option<Layer>) -> Option<Layer> {
        if let (Some(imported), Some(layer)) = (&self.imported, &layer) {
            imported.made(layer);
        }
        layer
    }

    fn cache(&self) -> &Arc<Cache> {
        &self.shared.cache
    }
}

/// Files of a tree where a mount can take them from.
fn put_down(tree: &dyn Tree, source: &Path, place: &Path, to: &Path) -> Result<()> {
    let failed = |cause: std::io::Error| Error::because(ErrorKind::Unavailable, "cannot lay out the context", &cause);
    std::fs::create_dir_all(place).map_err(failed)?;
    materialise(tree, source, to).map_err(failed)?;
    Ok(())
}

impl Images for Job {
    fn image<'a>(&'a self, name: &'a str, platform: &'a Platform, pull: bool) -> BoxFuture<'a, Result<BaseImage>> {
        Box::pin(async move {
            let caller = self.caller.as_deref();
            let image = super::pull::image(&self.engine, name, platform, pull, &self.elsewhere, caller).await?;
            image.layers.iter().for_each(|layer| self.held.add(layer));
            Ok(image)
        })
    }
}

impl Worker for Job {
    fn context<'a>(&'a self, name: Option<&'a str>) -> BoxFuture<'a, Result<Arc<dyn Tree>>> {
        Box::pin(async move {
            match name {
                None => Ok(self.context.clone()),
                Some(name) => self
                    .named
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Error::not_found(format!("there is no build context {name}"))),
            }
        })
    }

    fn tree<'a>(&'a self, layers: &'a [Layer]) -> BoxFuture<'a, Result<Arc<dyn Tree>>> {
        Box::pin(async move {
            if layers.is_empty() {
                let mut tree = berth_build::MemTree::default();
                tree.add("", berth_build::Meta::folder(0o755), Vec::new());
                return Ok(Arc::new(tree) as Arc<dyn Tree>);
            }
            let rootfs = self.engine.images().view_state(layers);
            let text: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
            let identity = crate::images::digest_of(text.join(" ").as_bytes());
            let root = blocking(move || {
                Root::of_image(&rootfs)
                    .map_err(|cause| Error::because(ErrorKind::Internal, "cannot open a stage's files", &cause))
            })
            .await?;
            Ok(Arc::new(StateTree::new(root, identity)) as Arc<dyn Tree>)
        })
    }

    fn fetch<'a>(&'a self, what: &'a Remote) -> BoxFuture<'a, Result<Arc<dyn Tree>>> {
        Box::pin(super::fetch::fetch(self.means(), what))
    }

    fn run(&self, step: RunStep, output: Output) -> BoxFuture<'_, Result<Ran>> {
        Box::pin(async move {
            let id = new_id()?;
            let (engine, layers, of) = (self.engine.clone(), step.layers.clone(), id.clone());
            let snapshot = blocking(move || Snapshot::on(&engine, &of, &layers)).await?;
            let mounts = self.mounts(&id, step.mounts).await?;
            let targets: Vec<String> = mounts
                .mounts
                .iter()
                .map(|mount| mount.destination().to_string_lossy().into_owned())
                .chain(mounts.files.iter().map(|file| file.target.clone()))
                .collect();
            let program = Program {
                id,
                rootfs: snapshot.rootfs.clone(),
                args: step.args,
                env: step.env.into_iter().chain(mounts.env).collect(),
                cwd: step.cwd,
                user: step.user,
                network: step.network,
                insecure: step.insecure,
                extra_hosts: step.extra_hosts,
                mounts: mounts.mounts,
                files: mounts.files,
                limits: self.limits.clone(),
                shm_size_bytes: self.shm_size_bytes,
            };
            // All this must stay as long as anything of the step runs, also of one that is cancelled.
            let holds = (snapshot, mounts.locks, mounts.agents, self.scratch.clone(), self.held.clone());
            let (exit, (snapshot, ..)) = run::run(&self.engine, program, holds, output).await?;
            if exit.status != ExitStatus::Code(0) {
                return Ok(Ran { status: exit.status, out_of_memory: exit.oom_killed, layer: None });
            }
            let view = self.engine.images().view_state(&step.layers);
            let (held, epoch) = (self.held.clone(), step.epoch_seconds);
            let layer = blocking(move || {
                stubs::remove(&snapshot.upper()?.upper, &view, &targets)
                    .map_err(|cause| Error::because(ErrorKind::Internal, "cannot clean up after mounts", &cause))?;
                snapshot.commit(&held, epoch)
            })
            .await?;
            Ok(Ran { status: exit.status, out_of_memory: false, layer: self.made(layer) })
        })
    }

    fn copy(&self, step: CopyStep) -> BoxFuture<'_, Result<Option<Layer>>> {
        let (engine, held) = (self.engine.clone(), self.held.clone());
        let made = blocking(move || {
            // A linked layer knows nothing of what is below it.
            let below: &[Layer] = if step.link { &[] } else { &step.layers };
            let snapshot = Snapshot::on(&engine, &new_id()?, below)?;
            Writer::new(snapshot.root()?, step.epoch_seconds).copy(&step)?;
            snapshot.commit(&held, step.epoch_seconds)
        });
        Box::pin(async move { Ok(self.made(made.await?)) })
    }

    fn mkdir(&self, step: MkdirStep) -> BoxFuture<'_, Result<Option<Layer>>> {
        let (engine, held) = (self.engine.clone(), self.held.clone());
        let made = blocking(move || {
            let snapshot = Snapshot::on(&engine, &new_id()?, &step.layers)?;
            Writer::new(snapshot.root()?, step.epoch_seconds).mkdir(&step)?;
            snapshot.commit(&held, step.epoch_seconds)
        });
        Box::pin(async move { Ok(self.made(made.await?)) })
    }

    fn lookup(&self, key: &Digest) -> Option<Known> {
        let known = self.cache().lookup(key).or_else(|| {
            let known = self.imported.as_ref()?.lookup(key)?;
            self.remember(key, known, "from a cache elsewhere");
            Some(known)
        })?;
        known.layer.iter().for_each(|layer| self.held.add(layer));
        Some(known)
    }

    fn is_elsewhere(&self) -> bool {
        self.imported.is_some()
    }

    fn ready<'a>(&'a self, layers: &'a [Layer]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            match &self.imported {
                Some(imported) => Ok(imported.ready(layers, self.cache()).await),
                None => Ok(true),
            }
        })
    }

    fn remember(&self, key: &Digest, known: Known, what: &str) {
        // The engine's own cache names only layers that are here.
        if self.imported.as_ref().is_none_or(|imported| imported.is_here(known.layer)) {
            self.cache().remember(key, known, what);
        }
    }
}
