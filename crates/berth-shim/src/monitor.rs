//! The loop: everything that may happen.
//!
//! ```text
//!  Empty --Create--> Created --Start--> Running --process ends--> draining --streams end--> Exited --Forget--> gone
//! ```
//!
//! The end is announced after the streams are drained, the log is whole and exit.json is durable. Without an
//! engine a running container goes on, and an ended one waits for the next engine; one that was never started
//! goes with the engine that made it. What requests do is in [`requests`], how things end in [`ends`], health
//! probes in [`probes`].

mod ends;
mod probes;
mod requests;

use crate::client::{Client, Typed};
use crate::container::{Container, now};
use crate::streams::{READ, Streams};
use berth_log::Stream;
use berth_shim_proto::{Notice, Request, Target, stream};
use berth_types::{Error, ErrorKind, ExitStatus};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketFlags;

const SIGKILL: i32 = 9;
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
    ProbeLeft,
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
                if let Some(pidfd) = &exec.pidfd {
                    sources.push(Source::ExecEnded(index));
                    fds.push(PollFd::new(pidfd, READ));
                }
                if !exec.waits_for_client {
                    self.watch_streams(Owner::Exec(index), &exec.streams, &mut sources, &mut fds);
                }
            }
            for pidfd in &container.probes_left {
                sources.push(Source::ProbeLeft);
                fds.push(PollFd::new(pidfd, READ));
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
        let execs = self.container.iter().flat_map(|container| &container.execs);
        let wake = execs.filter_map(ends::drain_deadline).chain(wake).min();
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
            Source::ProbeLeft => self.reap_probes_left(),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(listener, flags).and_then(Client::new) {
            Ok(client) => self.clients.push(client),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => say!("accept: {errno}"),
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
        match writer.write(stream, bytes, now()) {
            Ok(()) if container.unlogged > 0 => {
                say!("{}: {} pieces of its output are not in its log", container.create.id, container.unlogged);
                container.unlogged = 0;
            }
            Ok(()) => {}
            Err(error) => {
                // Once: a disk that is full for long must not get a line for each.
                if container.unlogged == 0 {
                    say!("{}: {error}", container.create.id);
                }
                container.unlogged = container.unlogged.saturating_add(1);
            }
        }
        if writer.rotations() != before {
            let path = container.create.log.path.clone();
            self.tell(&Notice::LogRotated { path });
        }
    }

    /// What follows from what happened: ends, clients that went, probes that are due.
    fn look_after(&mut self) {
        self.finish_draining();
        self.end_execs();
        self.look_after_health();
        self.let_go_on();
        self.clients.retain(|client| !client.is_finished());
        if std::mem::take(&mut self.swollen) {
            berth_sys::memory::give_back();
        }
    }
}

impl Monitor {
    /// Whoever held the container still has gone without a word.
    fn let_go_on(&mut self) {
        if !self.clients.iter().any(|client| client.holds && client.is_finished()) {
            return;
        }
        // One that has ended needs nothing.
        if self.running().is_ok()
            && let Err(error) = self.resume()
        {
            say!("{error}");
        }
    }
}

fn part(what: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, format!("cannot {what}"), cause)
}
