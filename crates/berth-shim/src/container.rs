//! The container's own process, from its making to the record of its end.

use crate::health::Health;
use crate::streams::{Streams, Wanted};
use berth_cgroup::{Cgroup, Entry, Hierarchy, OomEvents};
use berth_log::{Format, Options, Writer};
use berth_runtime::{CgroupEntry, CreateRequest, Created, LaunchError, LaunchKind};
use berth_shim::limits;
use berth_shim_proto::{Create, ExitRecord, LogFormat, LogTarget, MADE};
use berth_types::{Error, ErrorKind, ExecId, ExitStatus, Result};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{WaitId, WaitIdOptions};
use std::io::Write as _;
use std::path::Path;

pub(crate) struct Container {
    pub(crate) create: Create,
    /// Its processes end with its first: it has a pid namespace of its own.
    pub(crate) own_pids: bool,
    pub(crate) cgroup: Cgroup,
    /// Before its start.
    created: Option<Created>,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) started_nanos: i64,
    pub(crate) paused: bool,
    pub(crate) streams: Streams,
    pub(crate) log: Option<Writer>,
    pub(crate) oom: Option<OomEvents>,
    /// Pieces of output that could not be written to the log since the last that could.
    pub(crate) unlogged: u64,
    pub(crate) oom_kills: u64,
    pub(crate) last_signal: Option<(i32, i64)>,
    pub(crate) health: Option<Health>,
    /// Probes whose check went while they ran. They are killed and wait to be reaped: a pid namespace ends after its last
    /// zombie only.
    pub(crate) probes_left: Vec<OwnedFd>,
    pub(crate) exit: Option<ExitRecord>,
    pub(crate) execs: Vec<ExecProcess>,
}

/// A process of `exec`.
pub(crate) struct ExecProcess {
    pub(crate) id: ExecId,
    /// Kept for an engine that comes later.
    pub(crate) memo: serde_json::Value,
    pub(crate) pid: i32,
    /// Until it has ended.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) streams: Streams,
    /// Its output waits for its first client.
    pub(crate) waits_for_client: bool,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) exited_nanos: i64,
    /// Clients have been told of its streams' end.
    pub(crate) ended: bool,
}

/// Wall-clock nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A launch's failure as the engine tells it on.
pub(crate) fn launch_error(error: &LaunchError) -> Error {
    let (kind, errno) = match error.kind {
        LaunchKind::Configuration => (ErrorKind::InvalidArgument, None),
        LaunchKind::NotFound => (ErrorKind::CannotRun, Some(2)),
        LaunchKind::CannotRun => (ErrorKind::CannotRun, Some(13)),
        LaunchKind::Host => (ErrorKind::Internal, None),
        LaunchKind::Gone => (ErrorKind::Conflict, None),
    };
    let mut told = Error::new(kind, error.text.clone());
    told.errno = errno;
    told
}

fn because(kind: ErrorKind, what: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(kind, what, cause)
}

/// The entry as the runtime takes it.
pub(crate) fn borrow(entry: &Entry) -> CgroupEntry<'_> {
    CgroupEntry {
        v2: entry.v2.as_ref().map(AsFd::as_fd),
        join_files: entry.join_files.iter().map(AsFd::as_fd).collect(),
        join_memory: entry.join_memory.as_ref().map(AsFd::as_fd),
    }
}

pub(crate) fn open_log(target: &LogTarget) -> Result<Option<Writer>> {
    let format = match target.format {
        LogFormat::None => return Ok(None),
        LogFormat::JsonFile => Format::JsonFile,
        LogFormat::Local => Format::Local,
    };
    let options = Options {
        format,
        path: target.path.clone(),
        bytes_max: target.bytes_max,
        files_max: target.files_max,
        attributes: target.attributes.clone(),
    };
    Writer::open(options).map(Some).map_err(|cause| because(ErrorKind::Unavailable, "cannot open the log", &cause))
}

/// Temp, sync, rename.
fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, dir.join(name))
}

/// What the engine wrote of the container. Few ever see an exec, which reads it again.
pub(crate) struct Config {
    pub(crate) spec: Spec,
    /// The JSON of the profile that is apart from it: parsed it takes 150 KB, and once its filter is compiled nobody
    /// needs it so.
    pub(crate) profile: Option<Vec<u8>>,
}

impl Config {
    fn read(create: &Create) -> Result<Config> {
        let read = |path: &Path| {
            let what = || format!("cannot read {}", path.display());
            std::fs::read(path).map_err(|cause| because(ErrorKind::Internal, &what(), &cause))
        };
        let text = read(&create.dir.join("config.json"))?;
        let spec = serde_json::from_slice(&text)
            .map_err(|cause| because(ErrorKind::Internal, "cannot read config.json", &cause))?;
        Ok(Config { spec, profile: create.seccomp_profile.as_deref().map(read).transpose()? })
    }
}

impl Container {
    /// As it was made.
    pub(crate) fn config(&self) -> Result<Config> {
        Config::read(&self.create)
    }

    /// Cgroup, streams, and the process up to its last step before exec.
    pub(crate) fn make(create: Create) -> Result<Container> {
        let failed = |what: &str, cause: &(dyn std::error::Error + 'static)| because(ErrorKind::Internal, what, cause);
        let config = Config::read(&create)?;
        std::fs::File::create(create.dir.join(MADE))
            .map_err(|cause| failed("cannot say that the container is being made", &cause))?;
        let log = open_log(&create.log)?;
        let resources = config.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let limits = limits::for_create(resources).map_err(|cause| failed("cannot set limits", &cause))?;
        let cgroup = Hierarchy::detect()
            .and_then(|hierarchy| Cgroup::create(&hierarchy, &create.cgroup, &limits))
            .map_err(|cause| failed("cannot make the cgroup", &cause))?;
        let made = Self::launch(create, config, log, &cgroup);
        match made {
            Ok(mut container) => {
                container.cgroup = cgroup;
                Ok(container)
            }
            Err(error) => {
                if let Err(left) = cgroup.remove() {
                    say!("{left}");
                }
                Err(error)
            }
        }
    }

    fn launch(create: Create, config: Config, log: Option<Writer>, cgroup: &Cgroup) -> Result<Container> {
        let Config { spec, profile } = config;
        let failed = |cause: berth_cgroup::CgroupError| because(ErrorKind::Internal, "cannot enter the cgroup", &cause);
        let entry = cgroup.entry().map_err(failed)?;
        let wanted = Wanted { tty: create.tty, size: create.console_size, stdin: create.stdin, output: true };
        let (mut streams, stdio) = Streams::make(&wanted)?;
        let mut created = berth_runtime::create(CreateRequest {
            id: create.id.as_str(),
            spec: &spec,
            bundle: &create.dir,
            rootfs: &create.rootfs,
            stdio,
            cgroup: borrow(&entry),
            init: create.init,
            seccomp_profile: profile.as_deref(),
            seccomp_cache: create.seccomp_cache.as_deref(),
            preserve_fds: 0,
            start_socket: None,
            keyring: true,
        })
        .map_err(|error| launch_error(&error))?;
        streams.take_terminal(created.terminal.take());
        let copy = |fd: &OwnedFd| {
            fd.try_clone().map_err(|cause| because(ErrorKind::Internal, "no descriptor is left", &cause))
        };
        let hierarchy = Hierarchy::detect().map_err(failed)?;
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let own_pids = namespaces
            .is_some_and(|all| all.iter().any(|ns| ns.typ() == LinuxNamespaceType::Pid && ns.path().is_none()));
        Ok(Container {
            pid: created.pid,
            pidfd: copy(&created.pidfd)?,
            oom: cgroup.oom_events().ok().flatten(),
            cgroup: Cgroup::open(&hierarchy, &create.cgroup).map_err(failed)?,
            created: Some(created),
            create,
            own_pids,
            started_nanos: 0,
            paused: false,
            streams,
            log,
            unlogged: 0,
            oom_kills: 0,
            last_signal: None,
            health: None,
            probes_left: Vec::new(),
            exit: None,
            execs: Vec::new(),
        })
    }

    /// Executes the program.
    pub(crate) fn start(&mut self) -> Result<i32> {
        let Some(created) = self.created.take() else { return Err(Error::conflict("container is already started")) };
        let running = created.start().map_err(|error| launch_error(&error))?;
        self.streams.take_terminal(running.terminal);
        self.started_nanos = now();
        self.health = self.create.health.clone().map(|probe| Health::new(probe, self.started_nanos));
        Ok(self.pid)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.created.is_none() && self.exit.is_none()
    }

    /// Reaps the process and says how it ended.
    pub(crate) fn reap(&self) -> ExitStatus {
        status_of(&self.pidfd)
    }

    /// The record of its end, durable before anybody hears of it.
    pub(crate) fn record_exit(&mut self, status: ExitStatus) -> ExitRecord {
        let facts = self.cgroup.exit_facts();
        let record = ExitRecord {
            status,
            oom_killed: facts.oom_kills > 0 || self.oom_kills > 0,
            started_unix_nanos: self.started_nanos,
            finished_unix_nanos: now(),
            memory_limit_bytes: facts.memory_limit_bytes,
            memory_peak_bytes: facts.memory_peak_bytes,
            last_signal_sent: self.last_signal,
        };
        let written = serde_json::to_vec(&record)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_file(&self.create.dir, "exit.json", &bytes));
        if let Err(error) = written {
            say!("exit of {} not recorded: {error}", self.create.id);
        }
        self.exit = Some(record.clone());
        record
    }
}

/// Whether a child has ended; it is left to be waited for.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    matches!(rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look), Ok(Some(_)))
}

/// Waits for a process that has ended.
pub(crate) fn status_of(pidfd: &OwnedFd) -> ExitStatus {
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(255)),
            (None, Some(signal)) => ExitStatus::Signal(u8::try_from(signal).unwrap_or(0)),
            (None, None) => ExitStatus::Unknown,
        },
        _ => ExitStatus::Unknown,
    }
}
