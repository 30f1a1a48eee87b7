//! Starting a container.
//!
//! ```text
//!  under the container's lock:
//!  1  network attached                  swept by networks().recover where no running container has it
//!  2  hosts, resolv.conf, hostname      rewritten at every start
//!  3  <exec-root>/shims/<id>/           config.json, seccomp.json, attachment.json, then who its shim is (`spawned`)
//!  4  Create, Start to the shim         from here on the shim's folder tells the next engine everything
//!  5  phase Running, event, answer      the record follows behind: the shim's folder is older and says more
//! ```
//!
//! Nothing durable is waited for. Killed before 4, the folder names a shim that ends with the engine, and
//! the next one sweeps it; killed after it, the next engine finds the container running and adopts it.
//! A step that fails undoes those before it.

use super::record::{Cleaning, Container, Live, Paths, PendingAttach, Record, TABLE_RUN};
use super::{Containers, Outcome, create, exited, links};
use crate::Engine;
use crate::networks::{AttachRequest, Attachment, files};
use crate::oci::{self, ContainerFiles, Joins, OciInput};
use crate::shim::{Incoming, Shim};
use berth_shim_proto::{Answer, Body, Create, HealthProbe, Notice, Target};
use berth_types::mount::{Overlay, Rootfs};
use berth_types::phase::Event;
use berth_types::spec::{ContainerSpec, IpcMode, MountKind, NamespaceMode, NetworkMode};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// In the shim's folder until the record is written: what the container has of the networks.
pub(super) const ATTACHMENT: &str = "attachment.json";

const PROBE_INTERVAL_NANOS: u64 = 30_000_000_000;
const PROBE_TIMEOUT_NANOS: u64 = 30_000_000_000;
const PROBE_START_INTERVAL_NANOS: u64 = 5_000_000_000;
const PROBE_RETRIES: u32 = 3;
/// A machine that is killed has ended by then.
const GUEST_END: Duration = Duration::from_secs(10);

impl Containers {
    pub(super) async fn start_inner(&self, container: &Arc<Container>) -> Result<Outcome> {
        let _ops = container.ops.lock().await;
        {
            let mut live = container.live();
            // Whoever starts it by hand starts counting anew.
            live.run.restart_count = 0;
            live.backoff = Duration::ZERO;
            if let Some(pending) = live.restarting.take() {
                pending.abort();
            }
        }
        self.start_locked(container).await
    }

    /// The caller holds the container's lock.
    pub(super) async fn start_locked(&self, container: &Arc<Container>) -> Result<Outcome> {
        let cleaned = {
            let live = container.live();
            if live.removing || live.dead {
                return Err(Error::conflict("container is marked for removal and cannot be started"));
            }
            match live.run.phase {
                Phase::Running { .. } => return Ok(Outcome::Already),
                Phase::Paused { .. } => {
                    return Err(Error::conflict("cannot start a paused container, try unpause instead"));
                }
                Phase::Created | Phase::Exited { .. } => {}
                Phase::Removing => {
                    return Err(Error::conflict("container is marked for removal and cannot be started"));
                }
            }
            live.cleaned.clone()
        };
        super::clones::not_a_template(&container.record(), "does not run")?;
        // The last run's folder and addresses must be gone before they are made again.
        let mut cleaned = cleaned;
        if matches!(cleaned.wait_for(|state| *state != Cleaning::Due).await.as_deref(), Ok(Cleaning::Unwritten)) {
            let name = container.name();
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("cannot start container {name}: the end of its last run cannot be written, is the disk full?"),
            ));
        }
        match self.launch(container).await {
            Ok(()) => Ok(Outcome::Done),
            Err(error) => {
                self.start_failed(container, &error);
                if container.record().spec.host.auto_remove {
                    self.remove_behind(container);
                }
                Err(error.context(format!("cannot start container {}", container.name())))
            }
        }
    }

    /// With `--rm` a container that cannot start, or did not survive an engine, goes at once.
    pub(super) fn remove_behind(&self, container: &Arc<Container>) {
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let options = super::RemoveOptions { force: false, volumes: true };
            if let Err(error) = containers.remove_inner(&container, options).await {
                tracing::warn!(container = container.id.short(), %error, "not removed");
            }
        });
    }

    async fn launch(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        let mut undo = Undo { engine: self.engine.clone(), container: container.clone(), attached: None, shim: None };
        let mut attachment = self.network(&record).await?;
        undo.attached = Some(attachment.clone());
        attachment.link_env = self.link_env(&record);

        let (joins, netns) = self.joins(&record.spec, &attachment)?;
        let files = self.files_of(&record);
        let never_ran = matches!(container.live().run.phase, Phase::Created);
        let prepared = {
            let (engine, record, attachment) = (self.engine.clone(), record.clone(), attachment.clone());
            super::archive::blocking(move || {
                if never_ran {
                    make_folders_again(&engine, &record)?;
                }
                prepare(&engine, &record, &attachment, netns.as_deref(), joins, &files)
            })
            .await?
        };
        let mut taken = self.engine.pool().take().await?;
        undo.shim = Some(taken.pid);
        let paths = Paths::new(self.engine.config(), &record.id);
        taken.note(&paths.shim, self.engine.boot_id()).map_err(|cause| {
            Error::because(ErrorKind::Internal, format!("cannot write into {}", paths.shim.display()), &cause)
        })?;

        let guest = crate::guests::is_guest(&record.spec);
        let create = Create {
            id: record.id.clone(),
            dir: paths.shim.clone(),
            rootfs: match guest {
                true => Rootfs::Directory { path: crate::machines::jail(&self.engine) },
                false => self.engine.images().mounted(rootfs_of(&record))?,
            },
            cgroup: record.cgroup.clone(),
            tty: record.spec.config.tty,
            console_size: record.spec.host.console_size,
            stdin: record.spec.config.open_stdin,
            stdin_once: record.spec.config.stdin_once,
            log: record.log.clone(),
            init: record.spec.host.init.unwrap_or(false) && !guest,
            health: prepared.health,
            seccomp_cache: Some(self.engine.config().data_root.join("seccomp")),
            seccomp_profile: prepared.profile,
        };
        let attaches = std::mem::take(&mut container.live().attaches);
        let pid = self.converse(container, &mut taken.incoming, &taken.shim, create, attaches).await?;
        if guest {
            let exit = paths.shim.join("exit.json");
            if let Err(error) = crate::guests::await_start(&self.engine, &record.id, &record.spec, exit).await {
                // Its process was started: the shim stays for whoever asks how it ended, until it is let go.
                let ending = crate::shim::end(&taken.shim, &mut taken.incoming, true);
                if tokio::time::timeout(GUEST_END, ending).await != Ok(true) {
                    tracing::debug!(
                        container = record.id.short(),
                        "the shim of a failed start did not say that it goes"
                    );
                }
                return Err(error);
            }
        }

        let now = crate::events::now_unix_nanos();
        let (cleaning, late, written) = {
            let mut live = container.live();
            live.run.phase =
                live.run.phase.after(Event::Started { pid }).map_err(|refusal| Error::conflict(refusal.to_string()))?;
            live.run.started_unix_nanos = now;
            live.run.error.clear();
            live.run.exit_code = 0;
            live.run.stopped_by_user = false;
            live.run.restart_due = false;
            live.run.attachment = attachment.clone();
            live.stop_asked = false;
            // Those of the last run.
            for old in std::mem::take(&mut live.execs).into_keys() {
                self.engine.table().drop_exec(&old);
            }
            live.health = exited::health_at_start(&record.spec);
            live.shim = Some(taken.shim.clone());
            let (cleaning, cleaned) = tokio::sync::watch::channel(Cleaning::Due);
            live.cleaned = cleaned;
            let written = self.save(&live);
            // Clients that came while the shim was at work; from here on they find it running.
            (cleaning, std::mem::take(&mut live.attaches), written)
        };
        undo.attached = None;
        undo.shim = None;
        self.tell_networks("connect", &record, &attachment);
        self.tell_volumes("mount", &record);
        self.tell(container, "start", &[]);
        self.relink(container);
        let (of, shim) = (container.clone(), Arc::downgrade(&taken.shim));
        self.supervise(container, taken.shim, taken.incoming, Some(taken.pid), cleaning);
        tokio::spawn(async move {
            // The record says it from now on; one that could not be written does not.
            let written = written.await == Ok(true);
            // Under its lock, or it could be the file of the next run.
            let live = of.live();
            let runs = live.shim.as_ref().is_some_and(|now| std::ptr::eq(Arc::as_ptr(now), shim.as_ptr()));
            if written
                && runs
                && let Err(error) = std::fs::remove_file(paths.shim.join(ATTACHMENT))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %paths.shim.display(), %error, "{ATTACHMENT} was not removed");
            }
        });
        for pending in late {
            self.connect_pending(container, pending).await;
        }
        Ok(())
    }

    /// Create and Start: in one write, unless somebody wants to be attached before the first byte.
    async fn converse(
        &self,
        container: &Arc<Container>,
        incoming: &mut Incoming,
        shim: &Arc<Shim>,
        create: Create,
        attaches: Vec<PendingAttach>,
    ) -> Result<i32> {
        let mut bodies = crate::shim::greeting();
        bodies.push(Body::Create(Box::new(create)));
        if attaches.is_empty() {
            bodies.push(Body::Start);
        }
        let mut replies = shim.send(bodies).await?;
        let mut pid = 0;
        let last = replies.pop();
        for reply in replies {
            if let Answer::Started { pid: made } = incoming.answer(reply).await? {
                pid = made;
            }
        }
        if let Some(reply) = last
            && let Answer::Started { pid: made } = incoming.answer(reply).await?
        {
            pid = made;
        }
        if !attaches.is_empty() {
            for pending in attaches {
                self.connect_pending(container, pending).await;
            }
            let replies = shim.send(vec![Body::Start]).await?;
            for reply in replies {
                if let Answer::Started { pid: made } = incoming.answer(reply).await? {
                    pid = made;
                }
            }
        }
        if pid <= 0 {
            return Err(Error::internal("the shim did not say which process it started"));
        }
        Ok(pid)
    }

    /// The network that it starts with. `host` and `container:` need nothing.
    async fn network(&self, record: &Record) -> Result<Attachment> {
        let host = &record.spec.host;
        match &host.network_mode {
            NetworkMode::Host if record.parted => return Ok(Attachment::default()),
            NetworkMode::Host => {
                let (name, endpoint) = self.engine.networks().host_endpoint()?;
                return Ok(Attachment { endpoints: [(name, Box::new(endpoint))].into(), ..Attachment::default() });
            }
            NetworkMode::Container(_) => return Ok(Attachment::default()),
            NetworkMode::None | NetworkMode::Default | NetworkMode::Named(_) => {}
        }
        let mut endpoints = record.spec.endpoints.clone();
        if let Some(spec) = endpoints.remove("default") {
            endpoints.entry("bridge".to_owned()).or_insert(spec);
        }
        if record.spec.config.network_disabled {
            endpoints.clear();
        }
        links::of_endpoints(&record.spec, &mut endpoints);
        let linked = self.linked(record)?;
        let request = AttachRequest {
            id: &record.id,
            name: &record.name,
            endpoints: &endpoints,
            primary: if record.spec.config.network_disabled { Some("none") } else { record.primary() },
            host,
            exposed_ports: &record.spec.config.exposed_ports,
            hostname: &chosen_hostname(record),
        };
        let mut attachment = self.engine.networks().attach(request).await?;
        attachment.neighbours.extend(linked);
        Ok(attachment)
    }

    /// Processes whose namespaces it joins, and its network namespace's file (`None`: the host's).
    fn joins(&self, spec: &ContainerSpec, attachment: &Attachment) -> Result<(Joins, Option<PathBuf>)> {
        let pid_of = |name: &str, what: &str| -> Result<i32> {
            let other = self.get(name)?;
            let (pid, restarting) = {
                let live = other.live();
                (live.run.phase.pid(), live.is_restarting())
            };
            match pid {
                Some(pid) => Ok(pid),
                None if restarting => Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    other.id
                ))),
                None => Err(Error::conflict(format!("cannot join {what} of a non running container: {}", other.id))),
            }
        };
        let mut joins = Joins::default();
        if let IpcMode::Container(name) = &spec.host.ipc_mode {
            joins.ipc = Some(pid_of(name, "IPC namespace")?);
        }
        if let NamespaceMode::Container(name) = &spec.host.pid_mode {
            joins.pid = Some(pid_of(name, "PID namespace")?);
        }
        let netns = match &spec.host.network_mode {
            NetworkMode::Host => None,
            NetworkMode::Container(name) => {
                Some(PathBuf::from(format!("/proc/{}/ns/net", pid_of(name, "network namespace")?)))
            }
            NetworkMode::None | NetworkMode::Default | NetworkMode::Named(_) => Some(attachment.netns.clone()),
        };
        Ok((joins, netns))
    }

    /// The paths that are bound into it: another container's where it shares that one's network.
    fn files_of(&self, record: &Record) -> Paths {
        let owner = match &record.spec.host.network_mode {
            NetworkMode::Container(name) => self.get(name).map_or_else(|_| record.id.clone(), |other| other.id.clone()),
            _ => record.id.clone(),
        };
        Paths::new(self.engine.config(), &owner)
    }

    /// Records why a start failed, in Docker's numbers.
    fn start_failed(&self, container: &Arc<Container>, error: &Error) {
        {
            let mut live = container.live();
            live.run.error = error.to_string();
            live.run.exit_code = failure_code(error);
            live.run.restart_due = false;
            // The end of an earlier run says nothing about this failure.
            live.run.last_exit = None;
            // Clients that wanted to be attached hear the end.
            live.attaches.clear();
            drop(self.save(&live));
        }
    }

    /// Writes the phase behind; losing it is healed by the shim's folder. Handed over under the lock, so that
    /// an older phase never overwrites a newer one. The answer comes once it is durable (`true`) or has failed.
    pub(super) fn save(&self, live: &Live) -> tokio::sync::oneshot::Receiver<bool> {
        let (told, written) = tokio::sync::oneshot::channel();
        let mut batch = berth_store::Batch::new();
        match create::put(&mut batch, TABLE_RUN, &live.record.id, &live.run) {
            Ok(()) => self.engine.store().submit(batch, |result| {
                if let Err(error) = &result {
                    let error = Error::because(ErrorKind::Internal, "a container's phase was not written", error);
                    tracing::error!("{error}");
                }
                // Most callers do not wait.
                told.send(result.is_ok()).ok();
            }),
            Err(error) => tracing::error!(%error, "a container's phase was not written"),
        }
        written
    }

    pub(super) fn tell_networks(&self, action: &str, record: &Record, attachment: &Attachment) {
        for (name, endpoint) in &attachment.endpoints {
            let network = self.engine.networks().network(name);
            let driver = network.map_or("bridge", |network| network.driver.as_str());
            let attributes = std::collections::BTreeMap::from([
                ("name".to_owned(), name.clone()),
                ("type".to_owned(), driver.to_owned()),
                ("container".to_owned(), record.id.to_string()),
            ]);
            let id = endpoint.network_id.as_ref().map_or(name.as_str(), |id| id.as_str());
            self.engine.events().publish(crate::events::EventKind::Network, action, id, attributes);
        }
    }

    /// Its volumes are in use, or no longer: `mount`, `unmount`.
    pub(super) fn tell_volumes(&self, action: &str, record: &Record) {
        for point in record.mounts.iter().filter(|point| point.kind == MountKind::Volume) {
            let mut attributes = std::collections::BTreeMap::from([
                ("container".to_owned(), record.id.to_string()),
                ("driver".to_owned(), point.driver.clone()),
            ]);
            if action == "mount" {
                attributes.insert("destination".to_owned(), point.target.clone());
                attributes.insert("propagation".to_owned(), point.propagation.clone());
                attributes.insert("read/write".to_owned(), point.read_write.to_string());
            }
            self.engine.events().publish(crate::events::EventKind::Volume, action, &point.name, attributes);
        }
    }

    /// Listens to a running container's shim until its end.
    pub(super) fn supervise(
        &self,
        container: &Arc<Container>,
        shim: Arc<Shim>,
        mut incoming: Incoming,
        child: Option<i32>,
        cleaning: tokio::sync::watch::Sender<Cleaning>,
    ) {
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let mut exit = None;
            let mut cleaning = Some(cleaning);
            while let Some(notice) = incoming.next().await {
                match notice {
                    Notice::Exited(record) => {
                        let Some(cleaning) = cleaning.take() else { continue };
                        exit = Some(());
                        let Some(end) = containers.end_run(&container, record, "") else {
                            cleaning.send_replace(Cleaning::Done);
                            continue;
                        };
                        // Later replies must be read while this goes on: in a task of its own.
                        let (containers, container, shim) = (containers.clone(), container.clone(), shim.clone());
                        tokio::spawn(async move {
                            containers.after_end(&container, end, Some(shim), cleaning).await;
                        });
                    }
                    other => containers.noticed(&container, other),
                }
            }
            drop(incoming);
            if let Some(pid) = child {
                crate::shim::forget_process(pid);
            }
            if let (None, Some(cleaning)) = (exit, cleaning) {
                if containers.engine.is_closing() {
                    return;
                }
                containers.exited(&container, exited::Ended::ShimGone, None, cleaning).await;
            }
        });
    }

    /// Connects a client that was waiting for this start.
    async fn connect_pending(&self, container: &Arc<Container>, pending: PendingAttach) {
        let paths = Paths::new(self.engine.config(), &container.id);
        let wanted = super::attach::wanted(&pending.options, Target::Init);
        match crate::shim::attach(&paths.shim, wanted).await {
            Ok(streams) => {
                super::attach::run(self, container, streams, pending.options, pending.output, pending.input);
            }
            // The start goes on; the client sees its stream end.
            Err(error) => tracing::warn!(container = container.id.short(), %error, "a client was not attached"),
        }
    }
}

/// 127 not found, 126 cannot be run, 128 for all else: what Docker's `State.ExitCode` shows.
pub(super) fn failure_code(error: &Error) -> i64 {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match error.errno {
        _ if says(&["executable file not found", "no such file or directory"]) => 127,
        Some(2) => 127,
        _ if says(&["permission denied", "is a directory", "exec format error"]) => 126,
        Some(8 | 13 | 21) => 126,
        _ if error.kind == ErrorKind::CannotRun => 126,
        _ => 128,
    }
}

struct Prepared {
    health: Option<HealthProbe>,
    /// Where the filter's profile is, when it is not in the configuration.
    profile: Option<PathBuf>,
}

/// Overlayfs writes the whole file system that its upper folder is on to the disk when it is unmounted, which is when
/// the last process ends: on a busy host a container's end waits for everybody's writes. What `--rm` leaves behind goes
/// with the container, and does not outlive a power cut either.
const VOLATILE: &str = "volatile";

fn rootfs_of(record: &Record) -> Rootfs {
    match record.rootfs.clone() {
        Rootfs::Overlay(mut overlay) if record.spec.host.auto_remove && overlay.upper.is_some() => {
            overlay.options.push(VOLATILE.to_owned());
            Rootfs::Overlay(overlay)
        }
        other => other,
    }
}

/// A volatile overlay leaves a mark in its work folder, and the kernel mounts no upper folder with one again: it may
/// have lost writes in a power cut. A container with `--rm` does not outlive one, so a mark is of an earlier run.
fn forget_volatile(rootfs: &Rootfs) -> std::io::Result<()> {
    let Rootfs::Overlay(Overlay { upper: Some(upper), .. }) = rootfs else { return Ok(()) };
    match std::fs::remove_dir_all(upper.work.join("work/incompat")) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// Writes all files that the start needs. On a thread where it may block.
/// A power cut soon after a container was made may have kept its record and lost its folders, whose names nobody waits
/// for. They were empty: of one that never ran nothing is lost.
fn make_folders_again(engine: &Engine, record: &Record) -> Result<()> {
    let folder = Paths::new(engine.config(), &record.id).folder;
    for folder in [Some(folder.as_path()), record.log.path.parent()].into_iter().flatten() {
        std::fs::create_dir_all(folder).map_err(|cause| {
            Error::because(ErrorKind::Internal, format!("cannot make {}", folder.display()), &cause)
        })?;
    }
    match record.image {
        Some(image) => engine.images().prepare_rootfs(record.id.as_str(), &image).map(drop),
        None => Ok(()),
    }
}

fn prepare(
    engine: &Engine,
    record: &Record,
    attachment: &Attachment,
    netns: Option<&std::path::Path>,
    joins: Joins,
    files: &Paths,
) -> Result<Prepared> {
    let paths = Paths::new(engine.config(), &record.id);
    let failed = |path: &std::path::Path, cause: &std::io::Error| {
        let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
        Error::because(kind, format!("cannot write {}", path.display()), cause)
    };
    let write = |path: &std::path::Path, text: &[u8]| std::fs::write(path, text).map_err(|cause| failed(path, &cause));
    if files.folder == paths.folder {
        write(&paths.hostname, files::hostname(&full_hostname(&record.spec)).as_bytes())?;
        write(&paths.hosts, hosts(record, attachment)?.as_bytes())?;
        write(&paths.resolv_conf, resolv_conf(record, attachment).as_bytes())?;
    }
    if let Some(machine) = &record.machine {
        crate::machines::before_start(engine, &record.id, &record.name, machine, attachment)?;
    }
    let spec = record.told(attachment);
    let guest = crate::guests::is_guest(&record.spec);
    let mut built = oci::build(OciInput {
        id: &record.id,
        spec: &spec,
        command: &record.command,
        mounts: &record.mounts,
        files: ContainerFiles {
            resolv_conf: Some(&files.resolv_conf),
            hostname: Some(&files.hostname),
            hosts: Some(&files.hosts),
        },
        netns: netns.filter(|_| !guest),
        cgroup: &record.cgroup,
        joins,
    })?;
    if guest {
        let texts = [
            ("resolv.conf", files.resolv_conf.clone()),
            ("hostname", files.hostname.clone()),
            ("hosts", files.hosts.clone()),
        ];
        built.spec = crate::guests::before_start(engine, record, attachment, netns, built.spec, texts)?;
    } else if record.spec.host.auto_remove {
        forget_volatile(&record.rootfs).map_err(|cause| {
            Error::because(ErrorKind::Internal, format!("cannot ready the files of container {}", record.id), &cause)
        })?;
    }
    if record.machine.is_some() {
        crate::machines::adjust(&mut built.spec);
    }
    let health = health_probe(&spec, Some(record))?;
    // A folder of an earlier try says nothing about this one.
    match std::fs::create_dir(&paths.shim) {
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_dir_all(&paths.shim).map_err(|cause| failed(&paths.shim, &cause))?;
            std::fs::create_dir(&paths.shim).map_err(|cause| failed(&paths.shim, &cause))?;
        }
        other => other.map_err(|cause| failed(&paths.shim, &cause))?,
    }
    let profile = crate::shim::write_config(&engine.config().exec_root, &paths.shim, built.spec)?;
    let attachment = serde_json::to_vec(attachment)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the network's part", &cause))?;
    write(&paths.shim.join(ATTACHMENT), &attachment)?;
    Ok(Prepared { health, profile })
}

/// Another host name than the one everybody gets; empty otherwise.
pub(super) fn chosen_hostname(record: &Record) -> String {
    let hostname = &record.spec.config.hostname;
    if hostname == record.id.short() { String::new() } else { hostname.clone() }
}

/// Brings the files of a running container in line with its network; what it wrote into them itself stays.
pub(super) fn rewrite_files(record: &Record, before: &Attachment, now: &Attachment, paths: &Paths) -> Result<()> {
    let texts = [
        (&paths.hosts, hosts(record, before)?, hosts(record, now)?),
        (&paths.resolv_conf, resolv_conf(record, before), resolv_conf(record, now)),
    ];
    for (path, old, new) in texts {
        if old == new {
            continue;
        }
        let failed = |cause: std::io::Error| {
            Error::because(ErrorKind::Internal, format!("cannot write {}", path.display()), &cause)
        };
        let is = std::fs::read_to_string(path).map_err(failed)?;
        let text = if is == old {
            new
        } else if path == &paths.hosts {
            // Somebody added lines: ours are exchanged, theirs stay.
            let ours: std::collections::HashSet<&str> = old.lines().collect();
            let theirs = is.lines().filter(|line| !ours.contains(line));
            theirs.fold(new, |text, line| text + line + "\n")
        } else {
            continue;
        };
        // In place: the file is mounted into the container.
        std::fs::write(path, text).map_err(failed)?;
    }
    Ok(())
}

fn full_hostname(spec: &ContainerSpec) -> String {
    match spec.config.domainname.as_str() {
        "" => spec.config.hostname.clone(),
        domain => format!("{}.{domain}", spec.config.hostname),
    }
}

fn hosts(record: &Record, attachment: &Attachment) -> Result<String> {
    let host = &record.spec.host;
    let extra = |entry: &String| {
        files::extra_host(entry, attachment.host_gateway).map_err(|cause| Error::invalid(cause.to_string()))
    };
    let mut others = host.extra_hosts.iter().map(extra).collect::<Result<Vec<_>>>()?;
    if host.network_mode == NetworkMode::Host {
        let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        for (address, names) in others {
            text.push_str(&format!("{address}\t{names}\n"));
        }
        return Ok(text);
    }
    others.extend(attachment.neighbours.iter().cloned());
    let own: Vec<IpAddr> = attachment
        .endpoints
        .values()
        .flat_map(|endpoint| endpoint.ipv4.map(|a| a.0.into()).into_iter().chain(endpoint.ipv6.map(|a| a.0.into())))
        .collect();
    Ok(files::hosts(&files::Hosts {
        hostname: &record.spec.config.hostname,
        domainname: &record.spec.config.domainname,
        own: &own,
        others: &others,
        ipv6: true,
    }))
}

fn resolv_conf(record: &Record, attachment: &Attachment) -> String {
    let host = &record.spec.host;
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    files::resolv_conf(
        &text,
        &files::Resolver {
            servers: &host.dns,
            search: &host.dns_search,
            options: &host.dns_options,
            host_network: host.network_mode == NetworkMode::Host,
            embedded: attachment.names,
        },
    )
}

/// The probe with Docker's defaults filled in.
pub(super) fn health_probe(spec: &ContainerSpec, record: Option<&Record>) -> Result<Option<HealthProbe>> {
    let Some(mut process) = oci::health_process(spec)? else { return Ok(None) };
    let Some(check) = &spec.config.healthcheck else { return Ok(None) };
    if let Some(record) = record.filter(|record| crate::guests::is_guest(&record.spec)) {
        process = crate::guests::wrapped(record, process, false, (0, 0), false)?;
    }
    let process = serde_json::to_value(process)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the health probe", &cause))?;
    let nanos = |value: i64, default: u64| u64::try_from(value).ok().filter(|nanos| *nanos > 0).unwrap_or(default);
    Ok(Some(HealthProbe {
        process,
        interval_nanos: nanos(check.interval_nanos, PROBE_INTERVAL_NANOS),
        timeout_nanos: nanos(check.timeout_nanos, PROBE_TIMEOUT_NANOS),
        start_period_nanos: nanos(check.start_period_nanos, 0),
        start_interval_nanos: nanos(check.start_interval_nanos, PROBE_START_INTERVAL_NANOS),
        retries: if check.retries == 0 { PROBE_RETRIES } else { check.retries },
    }))
}

/// Takes a failed start back.
struct Undo {
    engine: Engine,
    container: Arc<Container>,
    attached: Option<Attachment>,
    /// The shim's process: its connection is closed when this is dropped.
    shim: Option<i32>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.attached.is_none() && self.shim.is_none() {
            return;
        }
        let (cleaning, cleaned) = tokio::sync::watch::channel(Cleaning::Due);
        self.container.live().cleaned = cleaned;
        let (engine, container) = (self.engine.clone(), self.container.clone());
        let (attached, shim) = (self.attached.take(), self.shim.take());
        tokio::spawn(async move {
            exited::sweep_run(&engine, &container.record(), attached.as_ref()).await;
            if let Some(pid) = shim {
                crate::shim::forget_process(pid);
            }
            cleaning.send_replace(Cleaning::Done);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_has_dockers_exit_code() {
        let error = |kind, text: &str| Error::new(kind, text);
        assert_eq!(failure_code(&error(ErrorKind::NotFound, "exec: \"x\": executable file not found in $PATH")), 127);
        assert_eq!(failure_code(&error(ErrorKind::CannotRun, "exec /x: permission denied")), 126);
        assert_eq!(failure_code(&error(ErrorKind::Internal, "cannot publish port")), 128);
    }

    #[test]
    fn a_probe_has_dockers_defaults() {
        let mut spec = ContainerSpec::default();
        assert!(health_probe(&spec, None).unwrap().is_none());
        let test = ["CMD", "true"].map(str::to_owned).to_vec();
        spec.config.healthcheck = Some(berth_types::spec::Healthcheck { test, ..Default::default() });
        let probe = health_probe(&spec, None).unwrap().unwrap();
        assert_eq!((probe.interval_nanos, probe.retries, probe.start_period_nanos), (PROBE_INTERVAL_NANOS, 3, 0));
    }

    #[tokio::test]
    async fn an_exit_in_the_same_read_as_the_start_is_heard() {
        use berth_shim_proto::{ExitRecord, Notice, ShimMessage, frame};
        use tokio::io::AsyncWriteExt;
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let (shim, mut incoming) = Shim::over(ours);
        let reply = shim.send(vec![Body::Start]).await.unwrap().pop().unwrap();
        let exit = ExitRecord {
            status: berth_types::ExitStatus::Code(9),
            oom_killed: false,
            started_unix_nanos: 1,
            finished_unix_nanos: 2,
            memory_limit_bytes: None,
            memory_peak_bytes: None,
            last_signal_sent: None,
        };
        let mut bytes = Vec::new();
        frame::encode(&ShimMessage::Reply { sequence: 1, result: Ok(Answer::Started { pid: 7 }) }, &mut bytes).unwrap();
        frame::encode(&ShimMessage::Notice(Notice::Exited(exit)), &mut bytes).unwrap();
        theirs.write_all(&bytes).await.unwrap();
        let answer = incoming.answer(reply).await.unwrap();
        assert!(matches!(answer, Answer::Started { pid: 7 }));
        assert!(matches!(incoming.next().await, Some(Notice::Exited(_))));
    }
}
