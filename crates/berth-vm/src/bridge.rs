//! Between a guest's agent and everybody who wants something of it.
//!
//! ```text
//!  our stdin, stdout, stderr, signals ── the container's stream ─┐
//!  control.sock: `berth-vmm exec`, the engine ── their streams ──┼── agent.sock ── QEMU ── the guest's port
//!  127.0.0.11 of the jail's network ── questions for names ──────┘
//! ```
//!
//! Streams are renumbered, so no client can reach another's. Windows pass through from end to end: what is held
//! here is what the two ends allow each other. A guest that says what makes no sense is cut off.
//!
//! Nobody waits for good: whose agent began anew, is gone or does not answer any more (`pulse`), and whose machine ends, is told.

use crate::names::Names;
use crate::pulse::{self, Pulse, Sign};
use crate::relay::Relay;
use crate::spec::{AGENT_SOCKET, CONTROL_SOCKET, RUN, Workload};
use crate::wire::{WAITING_BYTES_MAX, Wire};
use berth_agent_proto::{
    Answer, Ended, Event, Failure, FailureKind, Frame, FrameError, Hello, Kind, QUERIES_BEGIN, Request, STREAMS_MAX,
    Say, VERSION, padding,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::BTreeMap;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CLIENTS_MAX: usize = 64;
/// Reads of the agent's port in one go: a guest that never stops talking keeps nobody else waiting.
const AGENT_READS_MAX: usize = 8;
/// Reads of what a machine had said when it ended: more than the socket holds.
const LAST_READS_MAX: usize = 64;
/// Questions for names in one go; an honest agent has no more of them open.
const QUESTIONS_MAX: usize = berth_agent_proto::QUERIES_MAX;
/// Of the console, for whoever asks why the guest did not start.
const TAIL_BYTES_MAX: usize = 8 << 10;
/// Streams of our own; clients' follow.
const CONFIGURE: u32 = 1;
const MAIN: u32 = 2;
const POWER_OFF: u32 = 3;
const PULSE: u32 = 4;
const SIGKILL: i32 = 9;
const FIRST_OF_CLIENTS: u32 = 16;
/// Where the engine finds that the container ran out of memory.
pub const OUT_OF_MEMORY: &str = "out-of-memory";
/// How soon it is tried again to reach the agent's socket, which QEMU makes.
const RETRY: Duration = Duration::from_millis(20);

/// How soon those who wait for an agent that has fallen silent are thought of.
const LISTEN: Duration = Duration::from_secs(1);
/// Whoever is told that the machine has ended has heard it by then.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came of the container's start.
enum Start {
    Pending,
    Started { pid: i32 },
    Failed(Failure),
}

/// What the agent of a whole system says to being switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerOff {
    NotAsked,
    Asked,
    /// Its services end; it may be long about it.
    Begun,
    /// It cannot, or is gone.
    Refused,
}

struct Route {
    client: u64,
    theirs: u32,
    /// Goes on behind its answer.
    streams: bool,
}

pub(crate) struct Bridge {
    /// Where the sockets are.
    run: PathBuf,
    agent: Option<Wire>,
    nonce: [u8; 16],
    hello: Option<Hello>,
    listener: UnixListener,
    clients: BTreeMap<u64, Wire>,
    next_client: u64,
    routes: BTreeMap<u32, Route>,
    next_stream: u32,
    names: Names,
    workload: Option<Workload>,
    relay: Option<Relay>,
    start: Start,
    /// The container's start has been asked for.
    asked: bool,
    /// The engine finds the mark of [`OUT_OF_MEMORY`].
    marked: bool,
    /// Questions for names of this round.
    questions: usize,
    waiting: Vec<(u64, u32)>,
    deadline: Option<Instant>,
    ended: Option<u8>,
    console: Option<PipeReader>,
    tail: Vec<u8>,
    heard: bool,
    power_off: PowerOff,
    pulse: Pulse,
    /// Somebody says that the machine has other network cards.
    cards_changed: bool,
}

fn failure(kind: FailureKind, text: impl Into<String>) -> Failure {
    Failure::new(kind, text)
}

/// The code that a shell would give.
pub(crate) fn code_of(ended: &Ended) -> u8 {
    match ended {
        Ended::Code(code) => *code,
        Ended::Signal(signal) => 128_u8.saturating_add(*signal),
        Ended::Failed(failure) => code_of_failure(failure),
    }
}

pub(crate) fn code_of_failure(failure: &Failure) -> u8 {
    match failure.kind {
        FailureKind::NoProgram => 127,
        FailureKind::CannotRun => 126,
        // As an engine's other processes: a working folder that is not there.
        _ if failure.text.contains("no such file or directory") => 127,
        _ => 125,
    }
}

impl Bridge {
    pub(crate) fn new(workload: Option<Workload>) -> std::io::Result<Bridge> {
        Bridge::at(Path::new(RUN), workload)
    }

    fn at(run: &Path, workload: Option<Workload>) -> std::io::Result<Bridge> {
        let path = run.join(CONTROL_SOCKET);
        // Of an earlier run.
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path)?;
        // Its folder is closed to all but this machine's user.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        let mut nonce = [0; 16];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
        let deadline = workload
            .as_ref()
            .map(|workload| Instant::now() + Duration::from_secs(u64::from(workload.boot_seconds_max)));
        Ok(Bridge {
            run: run.to_owned(),
            agent: None,
            nonce,
            hello: None,
            listener,
            clients: BTreeMap::new(),
            next_client: 0,
            routes: BTreeMap::new(),
            next_stream: FIRST_OF_CLIENTS,
            names: Names::default(),
            workload,
            relay: None,
            start: Start::Pending,
            asked: false,
            marked: false,
            questions: 0,
            waiting: Vec::new(),
            deadline,
            ended: None,
            console: None,
            tail: Vec::new(),
            heard: false,
            power_off: PowerOff::NotAsked,
            pulse: Pulse::default(),
            cards_changed: false,
        })
    }

    /// Asks the agent to switch its system off; `false`: there is none that answers.
    pub(crate) fn switch_off(&mut self) -> bool {
        let Some(agent) = self.agent.as_mut().filter(|_| self.hello.is_some()) else { return false };
        agent.send(Kind::Request, POWER_OFF, &Request::PowerOff.to_json());
        agent.flush();
        self.power_off = PowerOff::Asked;
        true
    }

    pub(crate) fn power_off(&self) -> PowerOff {
        self.power_off
    }

    /// Whether the machine has other network cards since it was asked last.
    pub(crate) fn cards_changed(&mut self) -> bool {
        std::mem::take(&mut self.cards_changed)
    }

    /// The guest's serial line, where nobody else has it.
    pub(crate) fn watch_console(&mut self, console: PipeReader) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(&console, true)?;
        self.console = Some(console);
        Ok(())
    }

    /// The machine could not even be started.
    pub(crate) fn failed(&mut self, why: &str) {
        self.fail(failure(FailureKind::Internal, why));
    }

    /// Whether somebody has been told what came of the container's start.
    pub(crate) fn was_heard(&self) -> bool {
        self.heard && self.clients.values().all(|client| client.out.is_empty())
    }

    pub(crate) fn watched(&self) -> Vec<PollFd<'_>> {
        let mut watched = vec![PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN)];
        let mut add = |(fd, flags)| watched.push(PollFd::from_borrowed_fd(fd, flags));
        if let Some(console) = &self.console {
            add((console.as_fd(), PollFlags::IN));
        }
        let waits = self.agent.as_ref().map_or(0, |agent| agent.out.len());
        if let Some(agent) = &self.agent {
            add(agent.watched(true));
        }
        for client in self.clients.values() {
            add(client.watched(waits < WAITING_BYTES_MAX));
        }
        if let Some(relay) = &self.relay {
            relay.watched(waits).into_iter().for_each(&mut add);
        }
        self.names.watched().for_each(|fd| add((fd, PollFlags::IN)));
        watched
    }

    /// How long to wait at most.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let retry = self.agent.is_none().then_some(RETRY);
        let deadline = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let listen = (!self.routes.is_empty()).then_some(LISTEN);
        [retry, deadline, listen].into_iter().flatten().min()
    }

    /// Moves everything that can be moved; the code to end with, once the container has ended and been told of.
    pub(crate) fn round(&mut self) -> Option<u8> {
        self.read_console();
        self.accept();
        self.reach_agent();
        self.hear_agent(AGENT_READS_MAX);
        self.hear_clients();
        self.answer_names();
        self.feel_pulse();
        if let (Some(relay), Some(agent)) = (&mut self.relay, &mut self.agent) {
            relay.pump(&mut agent.out);
        }
        if let Some(agent) = &mut self.agent {
            agent.flush();
        }
        self.clients.values_mut().for_each(Wire::flush);
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let seconds = self.workload.as_ref().map_or(0, |workload| workload.boot_seconds_max);
            self.fail(failure(FailureKind::Internal, format!("the guest did not start within {seconds} seconds")));
        }
        let drained = self.relay.as_ref().is_none_or(Relay::is_drained);
        self.ended.filter(|_| drained)
    }

    /// QEMU is gone: whoever waits for a start, or for anything else of the guest, hears so.
    pub(crate) fn machine_ended(&mut self, code: u8) -> u8 {
        self.read_console();
        self.hear_agent(LAST_READS_MAX);
        self.lose_routes(&failure(FailureKind::Internal, "the machine has ended"));
        if let Some(relay) = &mut self.relay {
            relay.pump(&mut Vec::new());
        }
        if self.workload.is_some() && matches!(self.start, Start::Pending) {
            self.fail(failure(
                FailureKind::Internal,
                format!("the machine ended with {code} before its guest had started"),
            ));
        }
        self.ended.unwrap_or(code)
    }

    /// Until those who were told of the machine's end have heard it: they end with us.
    pub(crate) fn farewell(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        while self.clients.values().any(|client| client.told) && Instant::now() < deadline {
            self.clients.values_mut().for_each(|client| {
                client.flush();
                client.receive();
            });
            self.clients.retain(|_, client| !client.gone);
            let watched = self.clients.values().map(|client| client.watched(true));
            let mut watched: Vec<_> = watched.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
            let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            if rustix::event::poll(&mut watched, Some(&patience)).is_err() {
                return;
            }
        }
    }

    pub(crate) fn signal(&mut self, number: i32) {
        if let (Some(relay), Some(agent)) = (&self.relay, &mut self.agent) {
            relay.signal(number, &mut agent.out);
        } else if matches!(self.start, Start::Pending) && self.workload.is_some() && matches!(number, 2 | 3 | 15) {
            // There is nobody to pass it on to, and nothing to lose.
            self.fail(failure(FailureKind::Conflict, "it was stopped before its guest had started"));
            self.ended = Some(128_u8.saturating_add(u8::try_from(number).unwrap_or(0)));
        }
    }

    pub(crate) fn resized(&mut self) {
        if let (Some(relay), Some(agent)) = (&self.relay, &mut self.agent) {
            relay.resized(&mut agent.out);
        }
    }

    fn read_console(&mut self) {
        let Some(console) = &mut self.console else { return };
        let mut bytes = [0_u8; 4096];
        let mut open = true;
        loop {
            match console.read(&mut bytes) {
                Ok(count) if count > 0 => self.tail.extend_from_slice(&bytes[..count]),
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    open = false;
                    break;
                }
            }
            let more = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
            self.tail.drain(..more);
        }
        if !open {
            self.console = None;
        }
    }

    /// The end of the container's start.
    fn fail(&mut self, mut failure: Failure) {
        self.deadline = None;
        if matches!(failure.kind, FailureKind::Internal) {
            let lines: String = String::from_utf8_lossy(&self.tail)
                .chars()
                .map(|c| if c == '\n' || !c.is_control() { c } else { ' ' })
                .collect();
            let last: Vec<&str> = lines.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = &last[last.len().saturating_sub(12)..];
            if !last.is_empty() {
                failure.text = format!("{}; its console ended with:\n{}", failure.text, last.join("\n"));
            }
        }
        self.ended = Some(code_of_failure(&failure));
        let answer: Result<Answer, Failure> = Err(failure.clone());
        self.tell_waiting(&answer);
        self.start = Start::Failed(failure);
    }

    fn tell_waiting(&mut self, answer: &Result<Answer, Failure>) {
        self.heard |= !self.waiting.is_empty();
        for (client, stream) in std::mem::take(&mut self.waiting) {
            if let Some(wire) = self.clients.get_mut(&client) {
                wire.send(Kind::Answer, stream, &answer.to_json());
                wire.flush_all();
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS_MAX
                && let Ok(wire) = Wire::new(stream)
            {
                self.clients.insert(self.next_client, wire);
                self.next_client += 1;
            }
        }
    }

    fn reach_agent(&mut self) {
        if self.agent.is_some() {
            return;
        }
        let Ok(stream) = UnixStream::connect(self.run.join(AGENT_SOCKET)) else { return };
        let Ok(mut wire) = Wire::new(stream) else { return };
        wire.out.extend(padding());
        wire.send(Kind::Reset, 0, &self.nonce);
        self.agent = Some(wire);
        self.hello = None;
    }

    /// What is left after so many reads waits in the socket, which is watched.
    fn hear_agent(&mut self, reads_max: usize) {
        self.questions = 0;
        for _ in 0..reads_max {
            let Some(agent) = &mut self.agent else { return };
            agent.receive();
            let mut any = false;
            while let Some(agent) = &mut self.agent {
                match agent.next_frame() {
                    Ok(Some(frame)) => {
                        any = true;
                        self.agent_frame(frame);
                    }
                    Ok(None) => break,
                    // Before its first word there may be the rest of what it said to another.
                    Err(FrameError::Kind(_) | FrameError::Long(_)) if self.hello.is_none() => agent.decoder.skip(),
                    Err(error) => {
                        self.cut_off(&error.to_string());
                        return;
                    }
                }
            }
            if self.agent.as_ref().is_some_and(|agent| agent.gone) {
                match self.hello {
                    // The machine has ended, or begins anew: its end is told by itself.
                    None => self.agent = None,
                    Some(_) => self.cut_off("it closed its port"),
                }
                return;
            }
            if !any {
                return;
            }
        }
    }

    /// The agent is not to be understood any more. A container's machine ends with it.
    fn cut_off(&mut self, why: &str) {
        self.agent = None;
        if self.power_off == PowerOff::Asked {
            self.power_off = PowerOff::Refused;
        }
        let lost = failure(FailureKind::Internal, format!("the guest's agent cannot be understood: {why}"));
        self.lose_routes(&lost);
        if self.workload.is_some() && self.ended.is_none() {
            self.fail(lost);
        }
    }

    /// Nothing more comes for those who wait.
    fn lose_routes(&mut self, lost: &Failure) {
        for route in std::mem::take(&mut self.routes).into_values() {
            if let Some(client) = self.clients.get_mut(&route.client) {
                client.send(Kind::End, route.theirs, &Ended::Failed(lost.clone()).to_json());
                client.told = true;
            }
        }
    }

    /// The agent of a whole system that is not there any more, or is another process: it knows nothing of who waits. The next
    /// one finds our reset where the port keeps it.
    fn agent_lost(&mut self, why: &str) {
        self.lose_routes(&failure(FailureKind::Internal, why));
        if self.workload.is_some() {
            return;
        }
        if self.power_off == PowerOff::Asked {
            self.power_off = PowerOff::Refused;
        }
        self.hello = None;
        let Some(agent) = &mut self.agent else { return };
        if agent.out.len() > WAITING_BYTES_MAX {
            // It is reached anew.
            self.agent = None;
            return;
        }
        agent.out.extend(padding());
        agent.send(Kind::Reset, 0, &self.nonce);
    }

    fn feel_pulse(&mut self) {
        let waited_for = !self.routes.is_empty() && self.hello.is_some();
        match self.pulse.feel(Instant::now(), waited_for, || pulse::look(&self.run)) {
            Sign::Well => {}
            Sign::Ask => {
                if let Some(agent) = &mut self.agent {
                    agent.send(Kind::Request, PULSE, &Request::Ping.to_json());
                }
            }
            Sign::Gone => self.agent_lost("the guest's agent is gone"),
            Sign::Silent => {
                let seconds = pulse::SILENT.as_secs();
                self.agent_lost(&format!("the guest's agent has not answered for {seconds} seconds"));
            }
        }
    }

    fn agent_frame(&mut self, frame: Frame) {
        self.pulse.beat();
        let Some(hello) = &self.hello else {
            if frame.kind == Kind::Hello {
                self.greeted(&frame.payload);
            }
            return;
        };
        debug_assert_eq!(hello.version, VERSION, "checked when it came");
        match (frame.kind, frame.stream) {
            (Kind::Query, stream) if stream >= QUERIES_BEGIN => {
                self.questions += 1;
                if self.questions <= QUESTIONS_MAX {
                    self.names.ask(stream, &frame.payload);
                }
            }
            (Kind::Event, _) if !self.marked && serde_json::from_slice::<Event>(&frame.payload).is_ok() => {
                // A mark for the engine; that it cannot be made hides nothing but the reason.
                std::fs::write(self.run.join(OUT_OF_MEMORY), b"").ok();
                self.marked = true;
            }
            // One that has just begun says so, and does not know us.
            (Kind::Hello, _) if self.workload.is_none() && is_greeting_of_a_new_one(&frame.payload) => {
                self.agent_lost("the guest's agent began anew");
            }
            (Kind::Answer, CONFIGURE) => self.configured(&frame.payload),
            (kind, MAIN) => self.main_frame(kind, &frame.payload),
            (Kind::Answer, POWER_OFF) => {
                self.power_off = if read_answer(&frame.payload).is_ok() { PowerOff::Begun } else { PowerOff::Refused };
            }
            (kind @ (Kind::Answer | Kind::Data | Kind::Eof | Kind::Window | Kind::End), stream) => {
                self.tell_client(kind, stream, &frame.payload);
            }
            _ => {}
        }
    }

    fn greeted(&mut self, payload: &[u8]) {
        let nonce: String = self.nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let Ok(hello) = serde_json::from_slice::<Hello>(payload) else { return };
        if hello.nonce != nonce {
            return;
        }
        if hello.version != VERSION {
            let text = format!("it speaks version {}, not {VERSION}", hello.version);
            return self.cut_off(&text);
        }
        self.hello = Some(hello);
        if let (Some(workload), Some(agent)) = (&self.workload, &mut self.agent)
            && matches!(self.start, Start::Pending)
        {
            let request = Request::Configure(Box::new(workload.configure.clone()));
            agent.send(Kind::Request, CONFIGURE, &request.to_json());
        }
    }

    fn configured(&mut self, payload: &[u8]) {
        // Once: a guest that says it again and again would be told the whole configuration each time.
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        match read_answer(payload) {
            Ok(_) => {
                if let (Some(workload), Some(agent)) = (&self.workload, &mut self.agent) {
                    let request = Request::Run(Box::new(workload.run.clone()));
                    agent.send(Kind::Request, MAIN, &request.to_json());
                }
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn main_frame(&mut self, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Answer if matches!(self.start, Start::Pending) => match read_answer(payload) {
                Ok(Answer::Started { pid }) => {
                    self.deadline = None;
                    self.start = Start::Started { pid };
                    let (tty, stdin) = self.workload.as_ref().map_or((false, false), |w| (w.run.tty, w.run.stdin));
                    self.relay = Some(Relay::new(MAIN, tty, stdin));
                    if tty {
                        // It may have changed while nobody was there to tell the guest.
                        self.resized();
                    }
                    self.tell_waiting(&Ok(Answer::Started { pid }));
                }
                Ok(_) => self.fail(failure(FailureKind::Internal, "the guest did not say what it started")),
                Err(failure) => self.fail(failure),
            },
            // What comes behind its end would keep us from ending.
            Kind::Data if self.ended.is_none() => {
                if let Some(relay) = &mut self.relay {
                    relay.data(payload);
                }
            }
            Kind::Window => {
                if let Some(relay) = &mut self.relay {
                    relay.grant(payload);
                }
            }
            Kind::End if matches!(self.start, Start::Started { .. }) => {
                let ended = serde_json::from_slice(payload).unwrap_or(Ended::Code(u8::MAX));
                self.ended = Some(code_of(&ended));
            }
            _ => {}
        }
    }

    fn tell_client(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let Some(route) = self.routes.get(&stream) else { return };
        let over = match kind {
            Kind::Answer => !route.streams || read_answer(payload).is_err(),
            Kind::End => true,
            _ => false,
        };
        if let Some(client) = self.clients.get_mut(&route.client) {
            client.send(kind, route.theirs, payload);
        }
        if over {
            self.routes.remove(&stream);
        }
    }

    fn hear_clients(&mut self) {
        if self.agent.as_ref().is_some_and(|agent| agent.out.len() >= WAITING_BYTES_MAX) {
            return;
        }
        let numbers: Vec<u64> = self.clients.keys().copied().collect();
        for number in numbers {
            let Some(client) = self.clients.get_mut(&number) else { continue };
            client.receive();
            while let Some(client) = self.clients.get_mut(&number) {
                match client.next_frame() {
                    Ok(Some(frame)) => self.client_frame(number, &frame),
                    Ok(None) => break,
                    Err(_) => {
                        client.gone = true;
                        break;
                    }
                }
            }
            if self.clients.get(&number).is_some_and(|client| client.gone) {
                self.drop_client(number);
            }
        }
    }

    fn drop_client(&mut self, number: u64) {
        self.clients.remove(&number);
        self.waiting.retain(|(client, _)| *client != number);
        let theirs: Vec<u32> =
            self.routes.iter().filter(|(_, route)| route.client == number).map(|(stream, _)| *stream).collect();
        for stream in theirs {
            self.routes.remove(&stream);
            if let Some(agent) = &mut self.agent {
                agent.send(Kind::Cancel, stream, &[]);
            }
        }
    }

    fn client_frame(&mut self, client: u64, frame: &Frame) {
        if frame.kind == Kind::Request {
            return self.client_request(client, frame);
        }
        let ours = self.routes.iter().find(|(_, route)| route.client == client && route.theirs == frame.stream);
        let passes =
            matches!(frame.kind, Kind::Data | Kind::Eof | Kind::Window | Kind::Signal | Kind::Resize | Kind::Cancel);
        if let (Some((&stream, _)), Some(agent), true) = (ours, &mut self.agent, passes) {
            agent.send(frame.kind, stream, &frame.payload);
            if frame.kind == Kind::Cancel {
                self.routes.remove(&stream);
            }
        }
    }

    fn client_request(&mut self, client: u64, frame: &Frame) {
        let refuse = |bridge: &mut Bridge, failure: Failure| {
            let answer: Result<Answer, Failure> = Err(failure);
            if let Some(wire) = bridge.clients.get_mut(&client) {
                wire.send(Kind::Answer, frame.stream, &answer.to_json());
            }
        };
        let request = match serde_json::from_slice::<Request>(&frame.payload) {
            Ok(request) => request,
            Err(cause) => {
                return refuse(self, failure(FailureKind::Unsupported, format!("the request cannot be read: {cause}")));
            }
        };
        if matches!(request, Request::AwaitStart) {
            return match &self.start {
                Start::Pending if self.workload.is_some() => self.waiting.push((client, frame.stream)),
                Start::Pending => refuse(self, failure(FailureKind::Conflict, "the machine runs no container")),
                Start::Failed(failure) => {
                    let failure = failure.clone();
                    self.heard = true;
                    refuse(self, failure);
                }
                Start::Started { pid } => {
                    let answer: Result<Answer, Failure> = Ok(Answer::Started { pid: *pid });
                    if let Some(wire) = self.clients.get_mut(&client) {
                        wire.send(Kind::Answer, frame.stream, &answer.to_json());
                    }
                }
            };
        }
        if matches!(request, Request::Cards) && self.workload.is_none() {
            self.cards_changed = true;
            let answer: Result<Answer, Failure> = Ok(Answer::Done);
            if let Some(wire) = self.clients.get_mut(&client) {
                wire.send(Kind::Answer, frame.stream, &answer.to_json());
            }
            return;
        }
        if self.hello.is_none() || self.agent.is_none() {
            return refuse(self, failure(FailureKind::Conflict, "the guest's agent does not answer (yet)"));
        }
        let killed = matches!(request, Request::Kill);
        if killed {
            let (Some(relay), Some(agent)) = (&self.relay, &mut self.agent) else {
                return refuse(self, failure(FailureKind::Conflict, "the machine runs no container"));
            };
            relay.signal(SIGKILL, &mut agent.out);
        }
        let taken = self.routes.values().any(|route| route.client == client && route.theirs == frame.stream);
        if taken || self.routes.len() + 2 >= STREAMS_MAX {
            return refuse(self, failure(FailureKind::Conflict, "the stream is in use, or there are too many"));
        }
        let stream = self.next_stream;
        self.next_stream = if stream + 1 >= QUERIES_BEGIN { FIRST_OF_CLIENTS } else { stream + 1 };
        let streams = request.streams();
        self.routes.insert(stream, Route { client, theirs: frame.stream, streams });
        if let Some(agent) = &mut self.agent {
            match killed {
                // It answers behind the signal.
                true => agent.send(Kind::Request, stream, &Request::Ping.to_json()),
                false => agent.send(Kind::Request, stream, &frame.payload),
            }
        }
    }

    fn answer_names(&mut self) {
        for (stream, message) in self.names.answers() {
            if let Some(agent) = &mut self.agent {
                agent.send(Kind::Reply, stream, &message);
            }
        }
    }

    /// What is said to whoever reads our standard error, where the container did not start.
    pub(crate) fn complaint(&self) -> Option<&str> {
        match &self.start {
            Start::Failed(failure) => Some(&failure.text),
            Start::Pending | Start::Started { .. } => None,
        }
    }
}

fn is_greeting_of_a_new_one(payload: &[u8]) -> bool {
    serde_json::from_slice::<Hello>(payload).is_ok_and(|hello| hello.nonce.is_empty())
}

fn read_answer(payload: &[u8]) -> Result<Answer, Failure> {
    match serde_json::from_slice::<Result<Answer, Failure>>(payload) {
        Ok(answer) => answer,
        Err(cause) => Err(failure(FailureKind::Internal, format!("the guest's answer cannot be read: {cause}"))),
    }
}

#[cfg(test)]
mod tests;
