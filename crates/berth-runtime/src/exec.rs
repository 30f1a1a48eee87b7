//! One more process inside a running container.
//!
//! The pid namespace is joined by the caller around the clone, so the process is the caller's own child and
//! no helper stays between them; everything else is joined by the child through one pidfd.

use crate::capabilities;
use crate::channel::{self, FromChild, START};
use crate::child::{self, Gate, Never, Person};
use crate::error::{LaunchError, Step};
use crate::launch::{adjust_oom_score, ended, filter};
use crate::namespaces;
use crate::notify::{self, Agent, Of};
use crate::procfs::Procfs;
use crate::{CgroupEntry, Running, Stdio, seccomp, terminal};
use berth_sys::clone::{Forked, fork};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType};
use std::path::Path;

/// A process that is to run in a container.
pub struct ExecRequest<'a> {
    /// The container's name, and its folder.
    pub id: &'a str,
    pub bundle: &'a Path,
    /// The container's first process, and the descriptor by which its namespaces are found.
    pub pid: i32,
    pub pidfd: BorrowedFd<'a>,
    /// The container's configuration: namespaces and filter.
    pub spec: &'a Spec,
    pub process: &'a Process,
    pub stdio: Stdio,
    pub cgroup: CgroupEntry<'a>,
    /// See [`crate::CreateRequest`].
    pub seccomp_profile: Option<&'a [u8]>,
    pub seccomp_cache: Option<&'a Path>,
    pub preserve_fds: u32,
}

/// Makes it and executes its program.
pub fn exec(request: ExecRequest<'_>) -> Result<Running, LaunchError> {
    let filter = filter(request.spec, request.seccomp_profile, request.seccomp_cache)?;
    notify::check(request.spec, filter.as_ref())?;
    let container = request.pidfd;
    let spaces = spaces(request.spec);
    let (ours, theirs) = channel::pair()?;
    let around = match spaces.contains(ThreadNameSpaceType::PROCESS_ID) {
        true => namespaces::pid_namespace_of(container)?,
        false => namespaces::Around::default(),
    };
    let forked = around.left_by_child(fork(0, request.cgroup.v2));
    let (pid, pidfd) = match forked.step(|| "clone a process".to_owned())? {
        Forked::Child => {
            drop(ours);
            // Outlives the telling: whoever drops the last master is hung up, before it has said a word.
            let mut pair = None;
            let error = match inside(&request, container, spaces, filter.as_ref(), &theirs, &mut pair) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            Gate { channel: None }.tell(&error, &theirs)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let mut running = Running { pid, pidfd, terminal: None, warnings: Vec::new() };
    let done = converse(&request, &ours, &mut running);
    if done.is_err() {
        rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL).ok();
        rustix::process::waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
    }
    done.map(|()| running)
}

fn converse(request: &ExecRequest<'_>, ours: &OwnedFd, running: &mut Running) -> Result<(), LaunchError> {
    if let Some(adjustment) = request.process.oom_score_adj() {
        adjust_oom_score(running.pid, adjustment, &mut running.warnings)?;
    }
    let mut ready = false;
    loop {
        match channel::receive(ours)? {
            Some((FromChild::Ready { warnings }, terminal)) => {
                running.warnings.extend(warnings);
                running.terminal = terminal;
                ready = true;
                channel::say(ours, START).step(|| "release the child".to_owned())?;
            }
            Some((FromChild::Failed(error), _)) => return Err(error),
            Some(_) => {}
            None if ready => return Ok(()),
            None => return Err(ended(&running.pidfd)),
        }
    }
}

/// Those that the container has of its own, or joined from others.
fn spaces(spec: &Spec) -> ThreadNameSpaceType {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    listed.into_iter().flatten().fold(ThreadNameSpaceType::empty(), |all, namespace| {
        all | match namespace.typ() {
            LinuxNamespaceType::Mount => ThreadNameSpaceType::MOUNT,
            LinuxNamespaceType::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
            LinuxNamespaceType::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            LinuxNamespaceType::User => ThreadNameSpaceType::USER,
            LinuxNamespaceType::Pid => ThreadNameSpaceType::PROCESS_ID,
            LinuxNamespaceType::Network => ThreadNameSpaceType::NETWORK,
            LinuxNamespaceType::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
            LinuxNamespaceType::Time => ThreadNameSpaceType::TIME,
        }
    })
}

fn inside(
    request: &ExecRequest<'_>,
    container: BorrowedFd<'_>,
    spaces: ThreadNameSpaceType,
    filter: Option<&seccomp::Filter>,
    channel: &OwnedFd,
    pair: &mut Option<terminal::Pair>,
) -> Result<Never, LaunchError> {
    let process = request.process;
    let mut warnings = Vec::new();
    child::hide(request.preserve_fds)?;
    let of = Of { id: request.id, bundle: request.bundle, status: "running", init: Some(request.pid) };
    let agent = Agent::connect(request.spec, filter, &of)?;
    child::join_cgroups(&request.cgroup)?;
    child::join_memory(&request.cgroup)?;
    if !spaces.is_empty() {
        let joined = rustix::thread::move_into_thread_name_spaces(container, spaces);
        crate::error::join(joined, "join the container's namespaces")?;
    }
    if spaces.contains(ThreadNameSpaceType::USER) {
        child::become_root()?;
    }
    *pair = match request.stdio {
        Stdio::Terminal { rows, columns } => {
            let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .step(|| "open the container's root".to_owned())?;
            Some(terminal::open(root.as_fd(), rows, columns)?)
        }
        _ => None,
    };
    let procfs = child::needs_procfs(process, false).then(Procfs::open).transpose()?;
    rustix::process::setsid().step(|| "make a session".to_owned())?;
    child::streams(&request.stdio, pair.as_ref())?;
    let person = Person::prepare(process, Vec::new(), &mut warnings)?;
    let extra = match filter {
        Some(_) if !process.no_new_privileges().unwrap_or(false) => CapabilitySet::SYS_ADMIN,
        _ => CapabilitySet::empty(),
    };
    let program = person.drop_privileges(process, procfs.as_ref(), extra)?;
    let master = pair.as_ref().map(|pair| pair.master.as_fd());
    channel::send(channel, &FromChild::Ready { warnings }, master)?;
    *pair = None;
    if !channel::await_word(channel, START) {
        berth_sys::clone::exit_now(1);
    }
    let last = person.capabilities.last_step(extra)?;
    let call = person.call(program, process)?;
    child::load_filter(filter, agent.as_ref())?;
    last.map_or(Ok(()), capabilities::set)?;
    Err(call.execute())
}
