//! The caller's side of making a container.

use crate::channel::{self, FromChild, GO_ON, START};
use crate::child::{self, Work};
use crate::error::{LaunchError, LaunchKind, Step};
use crate::namespaces::{self, Namespaces};
use crate::{CgroupEntry, Stdio, hooks, mounts, notify, seccomp};
use berth_sys::clone::{Forked, fork};
use berth_types::mount::Rootfs;
use oci_spec::runtime::Spec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{WaitId, WaitIdOptions};
use std::path::Path;

/// A container that is to be.
pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub spec: &'a Spec,
    /// An existing folder: relative mount sources start there, and the root is attached to it meanwhile.
    pub bundle: &'a Path,
    pub rootfs: &'a Rootfs,
    pub stdio: Stdio,
    pub cgroup: CgroupEntry<'a>,
    /// Run the program below a small init of ours.
    pub init: bool,
    /// The JSON of the filter's profile, where the configuration has none: it is parsed only where its filter is not kept.
    pub seccomp_profile: Option<&'a [u8]>,
    /// Where compiled filters are kept.
    pub seccomp_cache: Option<&'a Path>,
    /// So many descriptors from 3 on go to the program.
    pub preserve_fds: u32,
    /// A listening SEQPACKET socket: whoever connects starts the program (see [`start_detached`]), and the
    /// created process outlives its caller.
    pub start_socket: Option<BorrowedFd<'a>>,
    /// A session keyring of its own.
    pub keyring: bool,
}

/// A process that has everything but its program. Killed when dropped.
#[derive(Debug)]
pub struct Created {
    pub pid: i32,
    /// Readable once the process has ended; for waiting too.
    pub pidfd: OwnedFd,
    /// The caller's end of the terminal.
    pub terminal: Option<OwnedFd>,
    /// What could not be kept to the letter on this host.
    pub warnings: Vec<String>,
    channel: Option<OwnedFd>,
}

/// A process that executes its program.
#[derive(Debug)]
pub struct Running {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
    pub warnings: Vec<String>,
}

/// Makes the process, up to its gate.
///
/// On v1 the memory cgroup is joined once the container's file systems are there, where nothing is copied into memory
/// meanwhile and no hook runs. What the kernel makes for them is then counted with the caller's. Charged to the container,
/// each of its file systems would get lists for this memory cgroup and those above it (`memcg_list_lru_alloc`), which an
/// idle container never uses.
pub fn create(request: CreateRequest<'_>) -> Result<Created, LaunchError> {
    let linux = request.spec.linux().as_ref();
    let namespaces = Namespaces::of(linux)?;
    let filter = filter(request.spec, request.seccomp_profile, request.seccomp_cache)?;
    notify::check(request.spec, filter.as_ref())?;
    let sources = if namespaces.new_user() { mounts::bind_sources(&request)? } else { Vec::new() };
    let images = mounts::layer_images(request.rootfs)?;
    let (ours, theirs) = channel::pair()?;
    let around = namespaces.around_clone(linux)?;
    let forked = around.left_by_child(fork(namespaces.cloned, request.cgroup.v2));
    let (pid, pidfd) = match forked.step(|| "clone the container's process".to_owned())? {
        Forked::Child => {
            drop(ours);
            let filter = filter.as_ref();
            child::run(Work { request: &request, namespaces: &namespaces, filter, sources, images, channel: theirs });
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let mut created = Created { pid, pidfd, terminal: None, warnings: Vec::new(), channel: Some(ours) };
    if let Some(adjustment) = request.spec.process().as_ref().and_then(|process| process.oom_score_adj()) {
        adjust_oom_score(pid, adjustment, &mut created.warnings)?;
    }
    if namespaces.new_user() {
        namespaces::write_id_maps(pid, linux)?;
        channel::say(created.channel(), GO_ON).step(|| "release the child".to_owned())?;
    }
    loop {
        match channel::receive(created.channel())? {
            Some((FromChild::Hooks, _)) => {
                host_hooks(&request, pid)?;
                channel::say(created.channel(), GO_ON).step(|| "release the child".to_owned())?;
            }
            Some((FromChild::Ready { warnings }, terminal)) => {
                created.warnings.extend(warnings);
                created.terminal = terminal;
                return Ok(created);
            }
            Some((FromChild::Failed(error), _)) => return Err(error),
            None => return Err(ended(&created.pidfd)),
        }
    }
}

impl Created {
    fn channel(&self) -> &OwnedFd {
        self.channel.as_ref().expect("only `start` and `detach` take it, and they consume the whole")
    }

    /// Executes the program. Answers once it has been executed, or why it could not be.
    pub fn start(mut self) -> Result<Running, LaunchError> {
        // Failing to say it means that the child has ended; hearing from it tells why.
        let said = channel::say(self.channel(), START);
        loop {
            match channel::receive(self.channel())? {
                Some((FromChild::Failed(error), _)) => return Err(error),
                Some(_) => {}
                None if said.is_err() => return Err(ended(&self.pidfd)),
                None => break,
            }
        }
        self.channel = None;
        let pidfd = self.pidfd.try_clone().step(|| "copy a descriptor".to_owned())?;
        let (terminal, warnings) = (self.terminal.take(), std::mem::take(&mut self.warnings));
        Ok(Running { pid: self.pid, pidfd, terminal, warnings })
    }

    /// Lets the process go on waiting at its start socket when this value is gone.
    pub fn detach(mut self) {
        self.channel = None;
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.channel.is_none() {
            return;
        }
        // Ended already is as good as killed.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).ok();
        rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
    }
}

/// Starts a process that [`create`] left waiting at a start socket, through a connection to it.
pub fn start_detached(connection: OwnedFd) -> Result<(), LaunchError> {
    channel::say(&connection, START).step(|| "tell the created process to start".to_owned())?;
    loop {
        match channel::receive(&connection)? {
            Some((FromChild::Failed(error), _)) => return Err(error),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

pub(crate) fn filter(
    spec: &Spec,
    apart: Option<&[u8]>,
    cache: Option<&Path>,
) -> Result<Option<seccomp::Filter>, LaunchError> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = match (profile, apart) {
        (Some(profile), _) => seccomp::load_or_compile(profile, cache),
        (None, Some(text)) => seccomp::load_or_compile_text(text, cache),
        (None, None) => return Ok(None),
    };
    filter.map(Some).map_err(|error| LaunchError::configuration(error.to_string()))
}

fn host_hooks(request: &CreateRequest<'_>, pid: i32) -> Result<(), LaunchError> {
    let Some(all) = request.spec.hooks() else { return Ok(()) };
    let state = hooks::state(request.spec, request.id, "creating", pid, request.bundle);
    #[allow(deprecated)]
    hooks::run("prestart", all.prestart().as_ref(), &state)?;
    hooks::run("createRuntime", all.create_runtime().as_ref(), &state)
}

/// Raising one's own protection needs CAP_SYS_RESOURCE, which a container host may lack.
pub(crate) fn adjust_oom_score(pid: i32, adjustment: i32, warnings: &mut Vec<String>) -> Result<(), LaunchError> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match namespaces::write(&path, &adjustment.to_string()) {
        Ok(()) => Ok(()),
        Err(_) if adjustment < 0 => {
            warnings.push(format!("oom_score_adj {adjustment} cannot be set here (it needs CAP_SYS_RESOURCE)"));
            Ok(())
        }
        // Zero is what nearly everything has: only a caller that is protected itself cannot go there.
        Err(_) if adjustment == 0 => Ok(()),
        Err(error) => Err(error),
    }
}

/// For a child that ended without a word.
pub(crate) fn ended(pidfd: &OwnedFd) -> LaunchError {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let how = match status {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => format!("was killed by signal {signal}"),
            (code, _) => format!("exited with {}", code.unwrap_or(-1)),
        },
        _ => "ended".to_owned(),
    };
    let hint = " before it executed its program; a memory limit below what the set-up needs, or a filter that kills, does that";
    LaunchError { kind: LaunchKind::Host, text: format!("the container's process {how}{hint}") }
}
