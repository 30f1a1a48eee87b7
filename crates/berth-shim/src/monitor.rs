//! The loop: everything that may happen, and what each request does.
//!
//! ```text
//!  Empty --Create--> Created --Start--> Running --process ends--> draining --streams end--> Exited --Forget--> gone
//! ```
//!
//! The end is announced after the streams are drained, the log is whole and exit.json is durable. Without an
//! engine a running container goes on, and an ended one waits for the next engine; one that was never started
//! goes with the engine that made it.

use crate::client::{Attached, Client, Typed};
use crate::container::{Container, ExecProcess, borrow, launch_error, now, open_log, status_of, write_file};
use crate::health::{Health, OUTPUT_BYTES_MAX, Probing};
use crate::streams::{READ, Streams, Wanted};
use berth_log::Stream;
use berth_runtime::{ExecRequest, Running, Stdio};
use berth_shim_proto::{
    Answer, Body, ExecState, Notice, ProbeResult, Request, ShimPhase, State, Target, VERSION, stream,
};
use berth_types::{Error, ErrorKind, ExitStatus, Result};
use oci_spec::runtime::Process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

const SIGKILL: i32 = 9;
/// A process that has not stopped by then waits in the kernel.
const FREEZE_SECONDS_MAX: u64 = 10;
/// Streams that stay open after the container's end (somebody outside holds them) are left after this.
const DRAIN_NANOS_MAX: i64 = 2_000_000_000;
const SECOND_NANOS: i64 = 1_000_000_000;
/// More connections than this wait in the socket's queue.
const CLIENTS_MAX: usize = 512;

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    Client(usize),
    Ended,
    Output(Owner, Which),
    Input(Owner),
    ExecEnded(usize),
    Oom,
    ProbeOutput,
    ProbeEnded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Init,
    Exec(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Stdout,
    Stderr,
    Terminal,
}

/// A container whose process has ended, while its streams are read to their end.
struct Draining {
    status: ExitStatus,
    deadline_nanos: i64,
}

pub(crate) struct Monitor {
    clients: Vec<Client>,
    listener: Option<OwnedFd>,
    container: Option<Container>,
    draining: Option<Draining>,
    leaving: bool,
    /// Work is done that took memory which waiting does not need.
    swollen: bool,
}

impl Monitor {
    pub(crate) fn new(connection: OwnedFd) -> std::io::Result<Monitor> {
        // What the engine had open is not ours, and nothing of it goes to the container.
        berth_sys::privileges::close_on_exec_from(3)?;
        let engine = Client::new(connection)?;
        Ok(Monitor {
            clients: vec![engine],
            listener: None,
            container: None,
            draining: None,
            leaving: false,
            swollen: false,
        })
    }

    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        loop {
            for source in self.wait()? {
                self.happened(source);
            }
            self.look_after();
            let empty =
                self.container.as_ref().is_none_or(|container| !container.is_running() && container.exit.is_none());
            if self.leaving || (empty && self.clients.is_empty()) {
                self.leave();
                return Ok(());
            }
        }
    }

    fn wait(&self) -> std::io::Result<Vec<Source>> {
        let mut sources = Vec::new();
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        if let Some(listener) = self.listener.as_ref().filter(|_| self.clients.len() < CLIENTS_MAX) {
            sources.push(Source::Listener);
            fds.push(PollFd::new(listener, READ));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let reads = match &client.attached {
                Some(attached) => self.streams_of(&attached.target).is_none_or(Streams::takes_input),
                None => true,
            };
            sources.push(Source::Client(index));
            fds.push(PollFd::from_borrowed_fd(client.fd(), client.interest(reads)));
        }
        if let Some(container) = &self.container {
            if container.is_running() && self.draining.is_none() {
                sources.push(Source::Ended);
                fds.push(PollFd::new(&container.pidfd, READ));
            }
            if let Some(oom) = container.oom.as_ref().filter(|_| container.exit.is_none()) {
                sources.push(Source::Oom);
                fds.push(PollFd::new(oom, READ));
            }
            self.watch_streams(Owner::Init, &container.streams, &mut sources, &mut fds);
            for (index, exec) in container.execs.iter().enumerate() {
                if exec.exit.is_none() {
                    sources.push(Source::ExecEnded(index));
                    fds.push(PollFd::new(&exec.pidfd, READ));
                }
                if !exec.waits_for_client {
                    self.watch_streams(Owner::Exec(index), &exec.streams, &mut sources, &mut fds);
                }
            }
            if let Some(probing) = container.health.as_ref().and_then(|health| health.running.as_ref()) {
                sources.push(Source::ProbeEnded);
                fds.push(PollFd::new(&probing.process.pidfd, READ));
                if let Some(output) = &probing.output {
                    sources.push(Source::ProbeOutput);
                    fds.push(PollFd::new(output, READ));
                }
            }
        }
        match rustix::event::poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn watch_streams<'a>(
        &self,
        owner: Owner,
        streams: &'a Streams,
        sources: &mut Vec<Source>,
        fds: &mut Vec<PollFd<'a>>,
    ) {
        let outputs =
            [(Which::Stdout, &streams.stdout), (Which::Stderr, &streams.stderr), (Which::Terminal, &streams.terminal)];
        let slow = self.clients.iter().any(|client| {
            client.is_slow()
                && client.attached.as_ref().is_some_and(|attached| self.owner_of(&attached.target) == Some(owner))
        });
        for (which, fd) in outputs {
            if let Some(fd) = fd.as_ref().filter(|_| !slow) {
                sources.push(Source::Output(owner, which));
                fds.push(PollFd::new(fd, READ));
            }
        }
        if let Some(fd) = streams.input_interest() {
            sources.push(Source::Input(owner));
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
    }

    /// Until something is due; without end where nothing is.
    fn timeout(&self) -> Option<Timespec> {
        let mut wake: Option<i64> = self.draining.as_ref().map(|draining| draining.deadline_nanos);
        if let Some(container) = self.container.as_ref().filter(|container| container.is_running() && !container.paused)
            && let Some(health) = container.health.as_ref().filter(|_| self.draining.is_none())
        {
            wake = Some(wake.map_or(health.wake_nanos(), |wake| wake.min(health.wake_nanos())));
        }
        let left = wake?.saturating_sub(now()).max(0);
        // A millisecond more: to wake too early would only be to wait again.
        let left = left.saturating_add(1_000_000);
        Some(Timespec { tv_sec: left / SECOND_NANOS, tv_nsec: left % SECOND_NANOS })
    }

    fn owner_of(&self, target: &Target) -> Option<Owner> {
        let container = self.container.as_ref()?;
        match target {
            Target::Init => Some(Owner::Init),
            Target::Exec(id) => container.execs.iter().position(|exec| exec.id == *id).map(Owner::Exec),
        }
    }

    fn streams_of(&self, target: &Target) -> Option<&Streams> {
        let container = self.container.as_ref()?;
        match self.owner_of(target)? {
            Owner::Init => Some(&container.streams),
            Owner::Exec(index) => container.execs.get(index).map(|exec| &exec.streams),
        }
    }

    fn streams_mut(&mut self, owner: Owner) -> Option<&mut Streams> {
        let container = self.container.as_mut()?;
        match owner {
            Owner::Init => Some(&mut container.streams),
            Owner::Exec(index) => container.execs.get_mut(index).map(|exec| &mut exec.streams),
        }
    }

    fn happened(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Client(index) => self.serve(index),
            Source::Ended => self.process_ended(),
            Source::Output(owner, which) => self.output(owner, which),
            Source::Input(owner) => {
                if let Some(streams) = self.streams_mut(owner) {
                    streams.write_input();
                }
            }
            Source::ExecEnded(index) => self.exec_ended(index),
            Source::Oom => self.memory_ran_out(),
            Source::ProbeOutput => self.probe_output(),
            Source::ProbeEnded => self.probe_ended(),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(listener, flags).and_then(Client::new) {
            Ok(client) => self.clients.push(client),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => eprintln!("berth-shim: accept: {errno}"),
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.write();
        client.read();
        while let Some(request) = self.clients.get_mut(index).and_then(Client::request) {
            let Request { sequence, body } = request;
            let result = self.request(index, body);
            if let Some(client) = self.clients.get_mut(index) {
                client.reply(sequence, result);
            }
            self.attached(index);
        }
        let Some(target) =
            self.clients.get(index).and_then(|client| client.attached.as_ref()).map(|a| a.target.clone())
        else {
            return;
        };
        let Some(owner) = self.owner_of(&target) else { return };
        while let Some(typed) = self.clients.get_mut(index).and_then(Client::typed) {
            let takes = self.clients[index].attached.as_ref().is_some_and(|attached| attached.stdin);
            let Some(streams) = self.streams_mut(owner).filter(|_| takes) else { continue };
            match typed {
                Typed::Bytes(bytes) => streams.input(&bytes),
                Typed::End => streams.end_input(),
            }
        }
        if self.clients[index].gone {
            let takes = self.clients[index].attached.as_ref().is_some_and(|attached| attached.stdin);
            let once = match owner {
                Owner::Init => self.container.as_ref().is_some_and(|container| container.create.stdin_once),
                Owner::Exec(_) => true,
            };
            if let Some(streams) = self.streams_mut(owner).filter(|_| takes && once) {
                streams.end_input();
            }
        }
    }

    /// A connection that has just become a stream: what waited for it flows, or it hears that all is over.
    fn attached(&mut self, index: usize) {
        let Some(attached) = self.clients.get(index).and_then(|client| client.attached.clone()) else { return };
        let over = match (self.owner_of(&attached.target), &mut self.container) {
            (Some(Owner::Init), Some(container)) => container.exit.is_some(),
            (Some(Owner::Exec(at)), Some(container)) => match container.execs.get_mut(at) {
                Some(exec) => {
                    exec.waits_for_client = false;
                    exec.ended
                }
                None => true,
            },
            _ => true,
        };
        if over && let Some(client) = self.clients.get_mut(index) {
            client.end();
        }
    }

    fn request(&mut self, index: usize, body: Body) -> Result<Answer> {
        match body {
            Body::Hello { version } if version == VERSION => Ok(Answer::Hello { version: VERSION }),
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
                let pid = format!("{}\n", std::process::id());
                write_file(&create.dir, "shim.pid", pid.as_bytes(), false)
                    .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write shim.pid", &cause))?;
                let container = Container::make(*create)?;
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
                Ok(Answer::Done)
            }
            Body::Resume => {
                let container = self.running()?;
                container.cgroup.thaw().map_err(|cause| part("resume", &cause))?;
                container.paused = false;
                Ok(Answer::Done)
            }
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

    fn container(&mut self) -> Result<&mut Container> {
        self.container.as_mut().ok_or_else(|| Error::conflict("this shim has no container"))
    }

    fn running(&mut self) -> Result<&mut Container> {
        self.container().and_then(|container| match container.is_running() {
            true => Ok(container),
            false => Err(Error::conflict(format!("container {} is not running", container.create.id))),
        })
    }

    fn state(&self) -> Result<State> {
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
        let execs =
            container.execs.iter().map(|exec| ExecState { id: exec.id.clone(), pid: exec.pid, exit: exec.exit });
        Ok(State {
            id: container.create.id.clone(),
            phase,
            health: container.health.as_ref().map(|health| health.state.clone()),
            execs: execs.collect(),
        })
    }

    fn signal(&mut self, target: &Target, signal: i32) -> Result<Answer> {
        let owner = self.owner_of(target).ok_or_else(|| Error::not_found("no such process"))?;
        let container = self.running()?;
        let pidfd = match owner {
            Owner::Init => {
                container.last_signal = Some((signal, now()));
                &container.pidfd
            }
            Owner::Exec(index) => &container.execs[index].pidfd,
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
    fn launch(container: &Container, process: &serde_json::Value, stdio: Stdio) -> Result<Running> {
        let process: Process =
            serde_json::from_value(process.clone()).map_err(|cause| part("read the process", &cause))?;
        let entry = container.cgroup.entry_beside(container.pid).map_err(|cause| part("enter the cgroup", &cause))?;
        berth_runtime::exec(ExecRequest {
            id: container.create.id.as_str(),
            bundle: &container.create.dir,
            pid: container.pid,
            pidfd: container.pidfd.as_fd(),
            spec: &container.spec()?,
            process: &process,
            stdio,
            cgroup: borrow(&entry),
            seccomp_cache: container.create.seccomp_cache.as_deref(),
            preserve_fds: 0,
        })
        .map_err(|error| launch_error(&error))
    }

    fn exec(&mut self, exec: berth_shim_proto::Exec) -> Result<Answer> {
        let container = self.running()?;
        if container.paused {
            return Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.create.id
            )));
        }
        let wanted = Wanted { tty: exec.tty, size: exec.console_size, stdin: exec.stdin, output: exec.output };
        let (mut streams, stdio) = Streams::make(&wanted)?;
        let running = Self::launch(container, &exec.process, stdio)?;
        streams.take_terminal(running.terminal);
        container.execs.push(ExecProcess {
            id: exec.id,
            pid: running.pid,
            pidfd: running.pidfd,
            streams,
            waits_for_client: exec.output,
            exit: None,
            ended: false,
        });
        Ok(Answer::Started { pid: running.pid })
    }

    fn tell(&mut self, notice: &Notice) {
        for client in self.clients.iter_mut().filter(|client| client.subscribed) {
            client.notice(notice);
        }
    }

    fn output(&mut self, owner: Owner, which: Which) {
        let Some(streams) = self.streams_mut(owner) else { return };
        let fd = match which {
            Which::Stdout => &mut streams.stdout,
            Which::Stderr => &mut streams.stderr,
            Which::Terminal => &mut streams.terminal,
        };
        let Some(bytes) = Streams::read(fd) else { return };
        let kind = if which == Which::Stderr { stream::STDERR } else { stream::STDOUT };
        if owner == Owner::Init {
            self.log(if which == Which::Stderr { Stream::Stderr } else { Stream::Stdout }, &bytes);
        }
        let Some(container) = &self.container else { return };
        for client in &mut self.clients {
            let Some(attached) = &client.attached else { continue };
            let same = match (&attached.target, owner) {
                (Target::Init, Owner::Init) => true,
                (Target::Exec(id), Owner::Exec(index)) => container.execs.get(index).is_some_and(|exec| exec.id == *id),
                _ => false,
            };
            let wants = match which {
                Which::Stdout => attached.stdout,
                Which::Stderr => attached.stderr,
                Which::Terminal => attached.stdout || attached.stderr,
            };
            if same && wants {
                client.output(kind, &bytes);
            }
        }
    }

    fn log(&mut self, stream: Stream, bytes: &[u8]) {
        let Some(container) = &mut self.container else { return };
        let Some(writer) = &mut container.log else { return };
        let before = writer.rotations();
        if let Err(error) = writer.write(stream, bytes, now()) {
            eprintln!("berth-shim: {}: {error}", container.create.id);
        }
        if writer.rotations() != before {
            let path = container.create.log.path.clone();
            self.tell(&Notice::LogRotated { path });
        }
    }

    fn memory_ran_out(&mut self) {
        let Some(container) = &mut self.container else { return };
        if let Some(oom) = &container.oom
            && oom.clear().is_err()
        {
            container.oom = None;
            return;
        }
        let kills = container.cgroup.oom_kills();
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.tell(&Notice::OutOfMemory);
        }
    }

    fn process_ended(&mut self) {
        let Some(container) = &mut self.container else { return };
        let status = container.reap();
        // Of a container that shares a pid namespace others may still be there.
        if !container.own_pids
            && let Err(error) = container.cgroup.kill_all(SIGKILL)
        {
            eprintln!("berth-shim: {}: {error}", container.create.id);
        }
        self.draining = Some(Draining { status, deadline_nanos: now().saturating_add(DRAIN_NANOS_MAX) });
    }

    fn exec_ended(&mut self, index: usize) {
        let Some(exec) = self.container.as_mut().and_then(|container| container.execs.get_mut(index)) else { return };
        let status = status_of(&exec.pidfd);
        exec.exit = Some(status);
        let notice = Notice::ExecExited { id: exec.id.clone(), pid: exec.pid, status };
        self.tell(&notice);
    }

    /// What follows from what happened: ends, clients that went, probes that are due.
    fn look_after(&mut self) {
        self.finish_draining();
        self.end_execs();
        self.look_after_health();
        self.clients.retain(|client| !client.is_finished());
        if std::mem::take(&mut self.swollen) {
            berth_sys::memory::give_back();
        }
    }

    fn finish_draining(&mut self) {
        let Some(draining) = &mut self.draining else { return };
        let Some(container) = &mut self.container else { return };
        if container.streams.output_is_open() {
            // A client that reads slowly is waited for: nothing it asked for is lost.
            if self.clients.iter().any(Client::is_slow) {
                draining.deadline_nanos = now().saturating_add(DRAIN_NANOS_MAX);
                return;
            }
            if now() < draining.deadline_nanos {
                return;
            }
        }
        let status = draining.status;
        self.draining = None;
        if let Some(writer) = &mut container.log {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Err(error) = writer.end(stream, now()) {
                    eprintln!("berth-shim: {}: {error}", container.create.id);
                }
            }
        }
        let record = container.record_exit(status);
        container.streams = Streams::default();
        container.oom = None;
        self.tell(&Notice::Exited(record));
        for client in &mut self.clients {
            if client.attached.as_ref().is_some_and(|attached| attached.target == Target::Init) {
                client.end();
            }
        }
        self.remove_cgroup();
    }

    fn remove_cgroup(&self) {
        let Some(container) = &self.container else { return };
        let left = container.cgroup.pids().is_ok_and(|pids| !pids.is_empty());
        if left && let Err(error) = container.cgroup.kill_all(SIGKILL) {
            eprintln!("berth-shim: {}: {error}", container.create.id);
        }
        let again = berth_cgroup::Hierarchy::detect()
            .and_then(|hierarchy| berth_cgroup::Cgroup::open(&hierarchy, container.cgroup.path()));
        if let Ok(cgroup) = again
            && let Err(error) = cgroup.remove()
        {
            eprintln!("berth-shim: {}: {error}", container.create.id);
        }
    }

    /// An exec's clients hear the end once it has ended and all of its output is read.
    fn end_execs(&mut self) {
        let Some(container) = &mut self.container else { return };
        let over = container.exit.is_some();
        for exec in container.execs.iter_mut().filter(|exec| !exec.ended && (exec.exit.is_some() || over)) {
            // A grandchild may hold the pipe: what the process itself said is there at once.
            let drained = !exec.streams.output_is_open();
            let rest = exec.waits_for_client && exec.streams.output_is_open() && !over;
            if rest || (!drained && exec.exit.is_none()) {
                continue;
            }
            if !drained && !over {
                continue;
            }
            exec.ended = true;
            for client in &mut self.clients {
                if client.attached.as_ref().is_some_and(|attached| attached.target == Target::Exec(exec.id.clone())) {
                    client.end();
                }
            }
        }
    }

    fn look_after_health(&mut self) {
        if self.draining.is_some() {
            return;
        }
        let Some(container) = self.container.as_mut().filter(|container| container.is_running() && !container.paused)
        else {
            return;
        };
        let at = now();
        let Some(health) = &mut container.health else { return };
        if let Some(running) = &health.running
            && at >= running.deadline_nanos
        {
            // It ends by this, and is heard of as ended.
            berth_sys::signals::pidfd_send_signal(running.process.pidfd.as_fd(), SIGKILL).ok();
            let text =
                format!("Health check exceeded timeout ({:?})", Duration::from_nanos(health.probe.timeout_nanos));
            self.finish_probe(-1, Some(text));
            return;
        }
        if !health.is_due(at) {
            return;
        }
        match Self::start_probe(container) {
            Ok((process, output)) => {
                if let Some(health) = &mut container.health {
                    let deadline_nanos = health.deadline(at);
                    let output = Some(output);
                    health.running =
                        Some(Probing { process, output, text: Vec::new(), started_nanos: at, deadline_nanos });
                }
            }
            Err(error) => {
                let result = ProbeResult {
                    started_unix_nanos: at,
                    finished_unix_nanos: now(),
                    exit_code: -1,
                    output: error.to_string(),
                };
                self.verdict(result);
            }
        }
    }

    fn start_probe(container: &Container) -> Result<(Running, OwnedFd)> {
        let make = || -> std::result::Result<_, Errno> {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&reader, true)?;
            let second = rustix::io::fcntl_dupfd_cloexec(&writer, 3)?;
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
            Ok((reader, Stdio::Files { stdin: null, stdout: writer, stderr: second }))
        };
        let (reader, stdio) = make().map_err(|errno| part("make a pipe", &std::io::Error::from(errno)))?;
        let process = container.health.as_ref().map(|health| health.probe.process.clone()).unwrap_or_default();
        Self::launch(container, &process, stdio).map(|running| (running, reader))
    }

    fn probe_output(&mut self) {
        let probing = self.container.as_mut().and_then(|container| container.health.as_mut()?.running.as_mut());
        let Some(probing) = probing else { return };
        if let Some(bytes) = Streams::read(&mut probing.output) {
            let room = OUTPUT_BYTES_MAX.saturating_sub(probing.text.len());
            probing.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn probe_ended(&mut self) {
        self.probe_output();
        let probing = self.container.as_ref().and_then(|container| container.health.as_ref()?.running.as_ref());
        let Some(probing) = probing else { return };
        let status = status_of(&probing.process.pidfd);
        self.finish_probe(i32::from(status.shell_code()), None);
    }

    fn finish_probe(&mut self, exit_code: i32, text: Option<String>) {
        let Some(health) = self.container.as_mut().and_then(|container| container.health.as_mut()) else { return };
        let Some(probing) = health.running.take() else { return };
        if exit_code == -1 {
            // Killed a moment ago: no zombie stays.
            status_of(&probing.process.pidfd);
        }
        let output = text.unwrap_or_else(|| String::from_utf8_lossy(&probing.text).into_owned());
        self.verdict(ProbeResult {
            started_unix_nanos: probing.started_nanos,
            finished_unix_nanos: now(),
            exit_code,
            output,
        });
    }

    fn verdict(&mut self, result: ProbeResult) {
        let Some(health) = self.container.as_mut().and_then(|container| container.health.as_mut()) else { return };
        health.ended(result.clone(), now());
        let state = health.state.clone();
        self.tell(&Notice::Probe(result));
        self.tell(&Notice::Health(state));
    }

    /// A container that could not be started.
    fn drop_container(&mut self) {
        self.remove_cgroup();
        self.container = None;
    }

    fn leave(&mut self) {
        if let Some(container) = &mut self.container
            && container.exit.is_none()
        {
            // Made by an engine that has gone, and never started.
            self.drop_container();
        }
        if let Some(container) = &self.container {
            // The engine removes the folder; a socket that nobody hears would only mislead.
            std::fs::remove_file(container.create.dir.join("shim.sock")).ok();
        }
        for client in &mut self.clients {
            client.write();
        }
    }
}

fn part(what: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, format!("cannot {what}"), cause)
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
