//! What each request of an engine does.

use super::{Monitor, Owner, SIGKILL, part};
use crate::client::Attached;
use crate::container::{Container, ExecProcess, borrow, launch_error, now, open_log};
use crate::health::Health;
use crate::streams::{Streams, Wanted};
use berth_runtime::{ExecRequest, Running, Stdio};
use berth_shim_proto::{Answer, Body, ExecState, MADE, OLDEST_VERSION, ShimPhase, State, Target, VERSION};
use berth_types::{Error, Result};
use oci_spec::runtime::Process;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// How long the first process of a container whose others were killed takes to be seen to have ended.
const ENDS_WITHIN: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// A process that has not stopped by then waits in the kernel.
const FREEZE_SECONDS_MAX: u64 = 10;

impl Monitor {
    pub(super) fn request(&mut self, index: usize, body: Body) -> Result<Answer> {
        match body {
            Body::Hello { version } if (OLDEST_VERSION..=VERSION).contains(&version) => Ok(Answer::Hello { version }),
            Body::Hello { version } => {
                Err(Error::not_implemented(format!("this shim speaks version {VERSION}, the engine {version}")))
            }
            Body::Subscribe => {
                self.clients[index].subscribed = true;
                Ok(Answer::Done)
            }
            Body::Create(create) => {
                if self.container.is_some() {
                    return Err(Error::conflict("this shim has a container already"));
                }
                self.listener = Some(listen(&create.dir)?);
                let dir = create.dir.clone();
                // Left there it would say that a container was made.
                let unsay = |_: &Error| drop(std::fs::remove_file(dir.join(MADE)));
                let container = Container::make(*create).inspect_err(unsay)?;
                let pid = container.pid;
                self.container = Some(container);
                Ok(Answer::Started { pid })
            }
            Body::Start => {
                let container = self.container()?;
                match container.start() {
                    Ok(pid) => {
                        self.swollen = true;
                        Ok(Answer::Started { pid })
                    }
                    Err(error) => {
                        self.drop_container();
                        Err(error)
                    }
                }
            }
            Body::State => Ok(Answer::State(self.state()?)),
            Body::Signal { target, signal } => self.signal(&target, signal),
            Body::SignalAll { signal } => {
                let container = self.running()?;
                container.last_signal = Some((signal, now()));
                container.cgroup.kill_all(signal).map_err(|cause| part("send the signal", &cause))?;
                Ok(Answer::Done)
            }
            Body::Resize { target, rows, columns } => {
                let streams = self.streams_of(&target).ok_or_else(|| Error::not_found("no such process"))?;
                streams.resize(rows, columns).map(|()| Answer::Done)
            }
            Body::CloseStdin { target } => {
                let owner = self.owner_of(&target).ok_or_else(|| Error::not_found("no such process"))?;
                if let Some(streams) = self.streams_mut(owner) {
                    streams.end_input();
                }
                Ok(Answer::Done)
            }
            Body::Pause => {
                let container = self.running()?;
                let deadline = Duration::from_secs(FREEZE_SECONDS_MAX);
                container.cgroup.freeze(deadline).map_err(|cause| part("pause", &cause))?;
                container.paused = true;
                self.clients[index].holds = !self.clients[index].subscribed;
                Ok(Answer::Done)
            }
            Body::Resume => self.resume(),
            Body::Update { resources } => {
                let resources = serde_json::from_value(resources).map_err(|cause| part("read the limits", &cause))?;
                let limits = berth_shim::limits::for_update(&resources).map_err(|cause| part("set limits", &cause))?;
                self.running()?.cgroup.update(&limits).map_err(|cause| part("set limits", &cause))?;
                Ok(Answer::Done)
            }
            Body::Exec(exec) => {
                self.swollen = true;
                self.exec(*exec)
            }
            Body::Processes => {
                let pids = self.running()?.cgroup.pids().map_err(|cause| part("list processes", &cause))?;
                Ok(Answer::Processes { pids })
            }
            Body::Attach(attach) => {
                self.owner_of(&attach.target).ok_or_else(|| Error::not_found("no such process"))?;
                let (stdin, stdout, stderr) = (attach.stdin, attach.stdout, attach.stderr);
                self.clients[index].attached = Some(Attached { target: attach.target, stdin, stdout, stderr });
                Ok(Answer::Done)
            }
            Body::UpdateLog { log } => {
                let writer = open_log(&log)?;
                let container = self.container()?;
                container.log = writer;
                container.create.log = log;
                Ok(Answer::Done)
            }
            Body::UpdateHealth { health } => {
                let container = self.container()?;
                Self::leave_probe(container);
                container.health = health.map(|probe| Health::new(probe, now()));
                Ok(Answer::Done)
            }
            Body::Forget => {
                if self.container.as_ref().is_some_and(Container::is_running) {
                    return Err(Error::conflict("the container is running"));
                }
                self.leaving = true;
                Ok(Answer::Done)
            }
        }
    }

    pub(super) fn resume(&mut self) -> Result<Answer> {
        let container = self.running()?;
        container.cgroup.thaw().map_err(|cause| part("resume", &cause))?;
        container.paused = false;
        self.clients.iter_mut().for_each(|client| client.holds = false);
        Ok(Answer::Done)
    }

    pub(super) fn container(&mut self) -> Result<&mut Container> {
        self.container.as_mut().ok_or_else(|| Error::conflict("this shim has no container"))
    }

    pub(super) fn running(&mut self) -> Result<&mut Container> {
        self.container().and_then(|container| match container.is_running() {
            true => Ok(container),
            false => Err(Error::conflict(format!("container {} is not running", container.create.id))),
        })
    }

    pub(super) fn state(&self) -> Result<State> {
        let Some(container) = &self.container else { return Err(Error::conflict("this shim has no container")) };
        let phase = match &container.exit {
            Some(record) => ShimPhase::Exited(record.clone()),
            None if container.is_running() => ShimPhase::Running {
                pid: container.pid,
                started_unix_nanos: container.started_nanos,
                paused: container.paused,
            },
            None => ShimPhase::Created { pid: container.pid },
        };
        let execs = container.execs.iter().map(|exec| ExecState {
            id: exec.id.clone(),
            pid: exec.pid,
            exit: exec.exit,
            memo: exec.memo.clone(),
        });
        Ok(State {
            id: container.create.id.clone(),
            phase,
            health: container.health.as_ref().map(|health| health.state.clone()),
            execs: execs.collect(),
        })
    }

    pub(super) fn signal(&mut self, target: &Target, signal: i32) -> Result<Answer> {
        let owner = self.owner_of(target).ok_or_else(|| Error::not_found("no such process"))?;
        let container = self.running()?;
        let pidfd = match owner {
            Owner::Init => {
                container.last_signal = Some((signal, now()));
                &container.pidfd
            }
            Owner::Exec(index) => match &container.execs[index].pidfd {
                Some(pidfd) => pidfd,
                None => return Ok(Answer::Done),
            },
        };
        match berth_sys::signals::pidfd_send_signal(pidfd.as_fd(), signal) {
            // It has ended meanwhile: that is what the signal was to do, more or less.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(part("send the signal", &std::io::Error::from(errno))),
        }
        // A frozen process of v1 cannot even die.
        if signal == SIGKILL && container.paused {
            container.cgroup.thaw().map_err(|cause| part("resume", &cause))?;
            container.paused = false;
        }
        Ok(Answer::Done)
    }

    /// Makes and starts a process inside.
    pub(super) fn launch(container: &Container, process: &serde_json::Value, stdio: Stdio) -> Result<Running> {
        let process: Process =
            serde_json::from_value(process.clone()).map_err(|cause| part("read the process", &cause))?;
        let entry = container.cgroup.entry_beside(container.pid).map_err(|cause| part("enter the cgroup", &cause))?;
        let config = container.config()?;
        berth_runtime::exec(ExecRequest {
            id: container.create.id.as_str(),
            bundle: &container.create.dir,
            pid: container.pid,
            pidfd: container.pidfd.as_fd(),
            spec: &config.spec,
            process: &process,
            stdio,
            cgroup: borrow(&entry),
            seccomp_profile: config.profile.as_deref(),
            seccomp_cache: container.create.seccomp_cache.as_deref(),
            preserve_fds: 0,
        })
        .map_err(|error| launch_error(&error))
    }

    pub(super) fn exec(&mut self, exec: berth_shim_proto::Exec) -> Result<Answer> {
        let container = self.running()?;
        if container.paused {
            return Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.create.id
            )));
        }
        let wanted = Wanted { tty: exec.tty, size: exec.console_size, stdin: exec.stdin, output: exec.output };
        let (mut streams, stdio) = Streams::make(&wanted)?;
        let running = match Self::launch(container, &exec.process, stdio) {
            // It ended while we looked at it: that is the reason, whatever step met it.
            Err(error) if ends_now(&container.pidfd, &error) => {
                return Err(Error::conflict(format!("container {} is not running", container.create.id)));
            }
            launched => launched?,
        };
        streams.take_terminal(running.terminal);
        container.execs.push(ExecProcess {
            id: exec.id,
            memo: exec.memo,
            pid: running.pid,
            pidfd: Some(running.pidfd),
            streams,
            waits_for_client: exec.output,
            exit: None,
            exited_nanos: 0,
            ended: false,
        });
        Ok(Answer::Started { pid: running.pid })
    }
}

/// Whether a process of the container could not be made because the container ends. The kernel kills all of a pid
/// namespace before its first process can be seen to have ended: then that is waited for, a moment.
fn ends_now(init: &OwnedFd, error: &Error) -> bool {
    if error.to_string().contains("was killed by signal 9") {
        let mut fds = [rustix::event::PollFd::new(init, rustix::event::PollFlags::IN)];
        // What poll fails with, has_ended knows.
        rustix::event::poll(&mut fds, Some(&ENDS_WITHIN)).ok();
    }
    crate::container::has_ended(init)
}

/// The socket through which later engines find us. Bound through the folder's descriptor: an address has
/// room for 107 bytes only.
fn listen(dir: &Path) -> Result<OwnedFd> {
    let bind = || -> std::result::Result<OwnedFd, Errno> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let folder = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?;
        let path = format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_str())?)?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::listen(&socket, 64)?;
        Ok(socket)
    };
    bind().map_err(|errno| part("make shim.sock", &std::io::Error::from(errno)))
}
