//! The child's side: from the clone to the execve.

use crate::capabilities::{self, Sets};
use crate::channel::{self, FromChild, GO_ON, START};
use crate::error::{LaunchError, Step};
use crate::identity::{self, Identity};
use crate::launch::CreateRequest;
use crate::namespaces::Namespaces;
use crate::notify::{Agent, Of};
use crate::procfs::{self, Procfs, sysctl};
use crate::seccomp::Filter;
use crate::{CgroupEntry, Stdio, hooks, init, mounts, program, rlimits, terminal};
use berth_sys::privileges::{self, Scheduling};
use oci_spec::runtime::{IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerPolicy, Process};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::CapabilitySet;
use std::ffi::CString;
use std::path::Path;

/// What the child does; everything in it is a copy of the caller's memory.
pub(crate) struct Work<'a> {
    pub(crate) request: &'a CreateRequest<'a>,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) filter: Option<&'a Filter>,
    /// Of the binds that only the caller may open; by their place among the mounts.
    pub(crate) sources: Vec<Option<OwnedFd>>,
    pub(crate) images: Vec<Option<berth_sys::images::ImageMount>>,
    pub(crate) channel: OwnedFd,
}

/// Never returns: becomes the program, or ends after telling why not.
pub(crate) fn run(work: Work<'_>) -> ! {
    let mut gate = Gate { channel: work.channel.as_fd().try_clone_to_owned().ok() };
    // Outlives the telling: whoever drops the last master is hung up, before it has said a word.
    let mut pair = None;
    let error = match container(&work, &mut gate, &mut pair) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    gate.tell(&error, &work.channel)
}

pub(crate) enum Never {}

/// Where a failure is told: the caller, or whoever came to the start socket.
pub(crate) struct Gate {
    pub(crate) channel: Option<OwnedFd>,
}

impl Gate {
    pub(crate) fn tell(self, error: &LaunchError, caller: &OwnedFd) -> ! {
        let to = self.channel.as_ref().unwrap_or(caller);
        // A caller that is gone hears nothing; the exit code is all that is left.
        channel::send(to, &FromChild::Failed(error.clone()), None).ok();
        berth_sys::clone::exit_now(1)
    }
}

fn container(work: &Work<'_>, gate: &mut Gate, pair: &mut Option<terminal::Pair>) -> Result<Never, LaunchError> {
    let (request, namespaces) = (work.request, work.namespaces);
    let spec = request.spec;
    let linux = spec.linux().as_ref();
    let Some(process) = spec.process() else { return Err(LaunchError::configuration("process is missing")) };
    let mut warnings = Vec::new();

    hide(request.preserve_fds)?;
    let of = Of { id: request.id, bundle: request.bundle, status: "creating", init: None };
    let agent = Agent::connect(spec, work.filter, &of)?;
    join_cgroups(&request.cgroup)?;
    let hooks = spec.hooks().is_some();
    let late = namespaces.new_mount() && !hooks && !mounts::take_memory(spec);
    let late = request.cgroup.join_memory.filter(|_| late);
    if late.is_none() {
        join_memory(&request.cgroup)?;
    }
    if namespaces.new_user() {
        if !channel::await_word(&work.channel, GO_ON) {
            return Err(LaunchError::host("the caller is gone"));
        }
        become_root()?;
    }
    let cgroups = mounts::own_cgroups(spec, late)?;
    namespaces.enter()?;
    if late.is_none() {
        namespaces.enter_cgroup()?;
    }
    let all_hooks = spec.hooks().as_ref();
    #[allow(deprecated)]
    let host_hooks = all_hooks.is_some_and(|all| {
        [all.prestart(), all.create_runtime()]
            .into_iter()
            .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    });
    if host_hooks {
        channel::send(&work.channel, &FromChild::Hooks, None)?;
        if !channel::await_word(&work.channel, GO_ON) {
            return Err(LaunchError::host("a hook failed"));
        }
    }

    if namespaces.new_uts() {
        if let Some(name) = spec.hostname() {
            rustix::system::sethostname(name.as_bytes()).step(|| format!("set the host name {name:?}"))?;
        }
        if let Some(name) = spec.domainname() {
            rustix::system::setdomainname(name.as_bytes()).step(|| format!("set the domain name {name:?}"))?;
        }
    }
    rustix::process::umask(Mode::empty());
    let has_terminal = matches!(request.stdio, Stdio::Terminal { .. });
    if namespaces.new_mount() {
        let root = mounts::build(request, namespaces, &cgroups, &work.sources, &work.images)?;
        if let Stdio::Terminal { rows, columns } = request.stdio {
            let made = terminal::open(root.as_fd(), rows, columns)?;
            mounts::console(root.as_fd(), made.slave.as_fd())?;
            *pair = Some(made);
        }
        in_container_hooks("createContainer", request, |all| all.create_container().as_ref())?;
        mounts::enter(root, spec)?;
        if late.is_some() {
            join_memory(&request.cgroup)?;
            namespaces.enter_cgroup()?;
        }
    } else if has_terminal {
        return Err(LaunchError::configuration("a terminal needs a mount namespace of its own"));
    }

    let procfs =
        needs_procfs(process, linux.and_then(|linux| linux.sysctl().as_ref()).is_some_and(|all| !all.is_empty()))
            .then(Procfs::open)
            .transpose()?;
    if let (Some(procfs), Some(all)) = (&procfs, linux.and_then(|linux| linux.sysctl().as_ref())) {
        for (name, value) in all {
            procfs::refuse_foreign(name, namespaces)?;
            sysctl(procfs, name, value)?;
        }
    }
    if request.keyring {
        session_keyring(request.id)?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        };
        privileges::set_personality(domain).step(|| "set the personality".to_owned())?;
    }

    // A session of its own: signals of the caller's terminal are none of the container's business.
    rustix::process::setsid().step(|| "make a session".to_owned())?;
    streams(&request.stdio, pair.as_ref())?;
    let person = Person::prepare(process, linux_annotations(request), &mut warnings)?;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let extra = match work.filter {
        Some(_) if !no_new_privileges => CapabilitySet::SYS_ADMIN,
        _ => CapabilitySet::empty(),
    };
    make_folder(&process.cwd().to_string_lossy());
    let program = person.drop_privileges(process, procfs.as_ref(), extra)?;

    let master = pair.as_ref().map(|pair| pair.master.as_fd());
    channel::send(&work.channel, &FromChild::Ready { warnings }, master)?;
    *pair = None;
    match request.start_socket {
        Some(listener) => {
            // From here on the caller may end; whoever connects is told what happens.
            let connection = channel::retry(|| rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC))
                .step(|| "wait to be started".to_owned())?;
            gate.channel = Some(connection);
        }
        None => gate.channel = None,
    }
    let heard = match &gate.channel {
        Some(connection) => channel::await_word(connection, START),
        None => channel::await_word(&work.channel, START),
    };
    if !heard {
        berth_sys::clone::exit_now(1);
    }
    in_container_hooks("startContainer", request, |all| all.start_container().as_ref())?;

    // pid 1 stays behind as init; both go on and give up the same.
    let role =
        if request.init { init::fork_program().step(|| "make the init".to_owned())? } else { init::Role::Program };
    let last = person.capabilities.last_step(extra)?;
    let finish = |say: bool| -> Result<(), LaunchError> {
        load_filter(work.filter, agent.as_ref().filter(|_| say))?;
        last.map_or(Ok(()), capabilities::set)
    };
    match role {
        init::Role::Init { program } => {
            finish(false)?;
            init::supervise(program)
        }
        init::Role::Program => {
            let call = person.call(program, process)?;
            finish(true)?;
            Err(call.execute())
        }
    }
}

/// Out of sight before anything of the container's is near: no other process may look into this one, and no
/// descriptor, known or not, goes through the execve.
pub(crate) fn hide(preserved: u32) -> Result<(), LaunchError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step(|| "hide the process".to_owned())?;
    privileges::close_on_exec_from(3 + preserved).step(|| "mark descriptors".to_owned())?;
    for number in 3..3 + preserved {
        keep_open(number)?;
    }
    Ok(())
}

/// The caller asked for these; one that is not open is none of ours to complain about.
fn keep_open(number: u32) -> Result<(), LaunchError> {
    let path = format!("/proc/self/fd/{number}");
    match berth_sys::handed_over::take_descriptor(i32::try_from(number).unwrap_or(-1)) {
        None => Ok(()),
        Some(fd) => {
            let set = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty());
            // It is not ours to close.
            std::mem::forget(fd);
            set.step(|| format!("keep {path}"))
        }
    }
}

pub(crate) fn join_cgroups(entry: &CgroupEntry<'_>) -> Result<(), LaunchError> {
    for file in &entry.join_files {
        rustix::io::write(file, b"0").step(|| "join a cgroup".to_owned())?;
    }
    // Of this copy of the caller's memory nobody else closes them: no folder of the host stays open (CVE-2024-21626).
    for file in entry.join_files.iter().chain(&entry.v2) {
        drop(berth_sys::handed_over::take_descriptor(file.as_raw_fd()));
    }
    Ok(())
}

pub(crate) fn join_memory(entry: &CgroupEntry<'_>) -> Result<(), LaunchError> {
    let Some(file) = entry.join_memory else { return Ok(()) };
    rustix::io::write(file, b"0").step(|| "join the memory cgroup".to_owned())?;
    drop(berth_sys::handed_over::take_descriptor(file.as_raw_fd()));
    Ok(())
}

/// In a new user namespace this process is nobody until it says otherwise.
pub(crate) fn become_root() -> Result<(), LaunchError> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .step(|| "become root of the user namespace".to_owned())?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .step(|| "become root of the user namespace".to_owned())?;
    // The change of user made it dumpable by another rule; say it again.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step(|| "hide the process".to_owned())
}

fn in_container_hooks(
    kind: &str,
    request: &CreateRequest<'_>,
    of: impl Fn(&oci_spec::runtime::Hooks) -> Option<&Vec<oci_spec::runtime::Hook>>,
) -> Result<(), LaunchError> {
    match request.spec.hooks().as_ref().and_then(of) {
        Some(list) if !list.is_empty() => {
            let status = if kind == "startContainer" { "created" } else { "creating" };
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            hooks::run(kind, Some(list), &hooks::state(request.spec, request.id, status, pid, request.bundle))
        }
        _ => Ok(()),
    }
}

/// Names of groups for the program, which only the container's own /etc/group knows.
const GROUPS_ANNOTATION: &str = "org.berth.group-add";

fn linux_annotations(request: &CreateRequest<'_>) -> Vec<String> {
    let listed = request.spec.annotations().as_ref().and_then(|all| all.get(GROUPS_ANNOTATION));
    listed.into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn needs_procfs(process: &Process, sysctls: bool) -> bool {
    let set = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    sysctls || set(process.apparmor_profile()) || set(process.selinux_label())
}

fn session_keyring(id: &str) -> Result<(), LaunchError> {
    let name =
        CString::new(format!("_ses.{id}")).map_err(|_| LaunchError::configuration("the id holds a zero byte"))?;
    match privileges::join_session_keyring(&name) {
        // Not built in, forbidden here, or the quota of keys is used up: the old keyring is then not reachable by
        // a container whose filter refuses keyctl.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::DQUOT) => Ok(()),
        Err(errno) => Err(errno).step(|| "make a session keyring".to_owned()),
    }
}

pub(crate) fn streams(stdio: &Stdio, pair: Option<&terminal::Pair>) -> Result<(), LaunchError> {
    match (stdio, pair) {
        (_, Some(pair)) => terminal::adopt(&pair.slave),
        (Stdio::Files { stdin, stdout, stderr }, None) => rustix::stdio::dup2_stdin(stdin)
            .and_then(|()| rustix::stdio::dup2_stdout(stdout))
            .and_then(|()| rustix::stdio::dup2_stderr(stderr))
            .step(|| "take the standard streams".to_owned()),
        (Stdio::Inherit | Stdio::Terminal { .. }, None) => Ok(()),
    }
}

/// Who the program is, and what it may.
pub(crate) struct Person {
    identity: Identity,
    pub(crate) capabilities: Sets,
    environment: Vec<String>,
}

impl Person {
    /// Inside the container's root, still as root: limits, working folder, names looked up.
    pub(crate) fn prepare(
        process: &Process,
        more_groups: Vec<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Person, LaunchError> {
        rlimits::apply(process.rlimits().as_deref().unwrap_or_default(), warnings)?;
        if let Some(scheduler) = process.scheduler() {
            schedule(scheduler)?;
        }
        if let Some(priority) = process.io_priority() {
            let class = match priority.class() {
                IOPriorityClass::IoprioClassRt => 1,
                IOPriorityClass::IoprioClassBe => 2,
                IOPriorityClass::IoprioClassIdle => 3,
            };
            let level = u32::try_from(priority.priority()).unwrap_or(0).min(7);
            privileges::set_io_priority(class, level).step(|| "set the io priority".to_owned())?;
        }
        let identity = identity::resolve(process.user(), &more_groups)?;
        let mut environment = process.env().clone().unwrap_or_default();
        if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
            environment.push(format!("HOME={}", identity.home));
        }
        Ok(Person { identity, capabilities: Sets::of(process.capabilities().as_ref()), environment })
    }

    /// Becomes the user with `extra` above its capabilities, and finds the program as that user.
    pub(crate) fn drop_privileges(
        &self,
        process: &Process,
        procfs: Option<&Procfs>,
        extra: CapabilitySet,
    ) -> Result<CString, LaunchError> {
        change_folder(&process.cwd().to_string_lossy())?;
        self.identity.own_streams();
        self.capabilities.bound()?;
        self.identity.assume()?;
        self.capabilities.apply(extra)?;
        self.capabilities.raise_ambient()?;
        // Changing the user made the process dumpable by the system's rule, not ours.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step(|| "hide the process".to_owned())?;
        if process.no_new_privileges().unwrap_or(false) {
            rustix::thread::set_no_new_privs(true).step(|| "set no_new_privs".to_owned())?;
        }
        if let Some(procfs) = procfs {
            security_labels(process, procfs)?;
        }
        let mask = process.user().umask().unwrap_or(0o022);
        rustix::process::umask(Mode::from_raw_mode(mask));
        let name = process.args().as_ref().and_then(|args| args.first());
        let Some(name) = name else { return Err(LaunchError::configuration("process.args is empty")) };
        program::find(name, &self.environment)
    }

    /// Everything that the program's start needs but execve(2) itself, signals included: a filter that is loaded after
    /// this need allow nothing else.
    pub(crate) fn call(&self, program: CString, process: &Process) -> Result<Call, LaunchError> {
        let strings = |list: &[String]| -> Result<Vec<CString>, LaunchError> {
            let string = |text: &String| CString::new(text.as_bytes());
            list.iter().map(string).collect::<Result<_, _>>().map_err(|_| {
                LaunchError::configuration("an argument or a variable of the environment holds a zero byte")
            })
        };
        let arguments = strings(process.args().as_deref().unwrap_or_default())?;
        let environment = strings(&self.environment)?;
        privileges::default_signal_handlers();
        berth_sys::signals::unblock_all().step(|| "unblock signals".to_owned())?;
        Ok(Call { program, arguments, environment })
    }
}

/// An execve(2) that only waits to be made.
pub(crate) struct Call {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Call {
    /// Only comes back with the reason why it could not.
    pub(crate) fn execute(&self) -> LaunchError {
        let errno = berth_sys::clone::execute(&self.program, &self.arguments, &self.environment);
        program::explain(&self.program.to_string_lossy(), errno)
    }
}

/// A new container's working directory is made where it is missing, inside its root whatever descriptors lead out
/// of it; a process that joins finds it or fails.
fn make_folder(path: &str) {
    if path.starts_with('/') && rustix::process::chdir(path) == Err(Errno::NOENT) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Read-only roots and the like: changing there says it best.
        if let Ok(root) = rustix::fs::open("/", flags, Mode::empty()) {
            mounts::target::folder(root.as_fd(), Path::new(path)).ok();
        }
    }
}

/// Must be inside the root (CVE-2024-21626: a folder reached through a leaked descriptor is not).
fn change_folder(path: &str) -> Result<(), LaunchError> {
    let failed = |errno: Errno| {
        LaunchError::configuration(format!(
            "chdir to cwd ({path:?}) set in config.json failed: {}",
            crate::error::reason(errno)
        ))
    };
    if !path.starts_with('/') {
        return Err(LaunchError::configuration(format!("cwd {path:?} is not an absolute path")));
    }
    rustix::process::chdir(path).map_err(failed)?;
    match rustix::process::getcwd(Vec::new()) {
        Ok(now) if now.as_bytes().starts_with(b"/") => Ok(()),
        _ => Err(LaunchError::configuration(format!("cwd {path:?} is outside of the container's root"))),
    }
}

fn schedule(scheduler: &oci_spec::runtime::Scheduler) -> Result<(), LaunchError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let wanted = Scheduling {
        policy,
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().and_then(|priority| u32::try_from(priority).ok()).unwrap_or(0),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..Scheduling::default()
    };
    privileges::set_scheduling(wanted).step(|| "set the scheduler".to_owned())
}

/// For the next execve (apparmor(7), selinux(8)).
fn security_labels(process: &Process, procfs: &Procfs) -> Result<(), LaunchError> {
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        let value = format!("exec {profile}");
        procfs.write("self/attr/apparmor/exec", &value).or_else(|_| procfs.write("self/attr/exec", &value))?;
    }
    if let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) {
        procfs.write("self/attr/exec", label)?;
    }
    Ok(())
}

/// With an agent, this process hands the notifications' listener over.
pub(crate) fn load_filter(filter: Option<&Filter>, agent: Option<&Agent>) -> Result<(), LaunchError> {
    let Some(filter) = filter else { return Ok(()) };
    let code: Vec<_> = filter.instructions.iter().map(|at| (at.code, at.jt, at.jf, at.k)).collect();
    let listener =
        privileges::load_filter(&code, filter.flags, agent.is_some()).step(|| "load the seccomp filter".to_owned())?;
    match (agent, listener) {
        (Some(agent), Some(listener)) => agent.send(listener.as_fd()),
        _ => Ok(()),
    }
}
