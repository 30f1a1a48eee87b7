//! The loop: frames of the host in, streams out.

use crate::dns::Dns;
use crate::freeze::Frozen;
use crate::init::{self, StartError};
use crate::port::{self, Port};
use crate::process::Process;
use crate::workload::{self, Workload};
use crate::{files, hardware, identity, network, power, processes, statistics};
use berth_agent_proto::{
    Answer, Event, Failure, FailureKind, Frame, Hello, Kind, QUERIES_BEGIN, Request, STDIN, STREAMS_MAX, VERSION,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::WaitOptions;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often it is looked whether somebody has come to the port's other end: the kernel says so only by a hang-up
/// that stays.
const ALONE_MILLIS: u64 = 50;

struct Agent {
    init: bool,
    port: Port,
    signals: Option<OwnedFd>,
    streams: BTreeMap<u32, Process>,
    workload: Option<Workload>,
    /// The stream that is the container.
    main: Option<u32>,
    oom_kills: u64,
    frozen: Option<Frozen>,
    /// The stream that holds the container still.
    still: Option<u32>,
    dns: Option<Dns>,
    off: bool,
}

pub(crate) fn run(init: bool) -> Result<(), StartError> {
    let port = port::open().map_err(StartError::Port)?;
    // A first process has the guest's orphans to collect; a service leaves signals as they are.
    let signals = match init {
        true => Some(berth_sys::signals::all_as_descriptor().map_err(init::step("watch signals"))?),
        false => None,
    };
    let mut agent = Agent {
        init,
        port,
        signals,
        streams: BTreeMap::new(),
        workload: None,
        main: None,
        oom_kills: 0,
        frozen: None,
        still: None,
        dns: None,
        off: false,
    };
    if !init {
        hardware::take_memory();
        // A host that knew another service here learns that it is gone, with all that it did.
        agent.greet("");
    }
    loop {
        agent.wait().map_err(init::step("wait"))?;
        agent.round();
        if agent.off {
            agent.port.flush();
            init::power_off();
        }
    }
}

impl Agent {
    fn wait(&self) -> Result<(), rustix::io::Errno> {
        let mut watched = Vec::new();
        if !self.port.alone {
            watched.push(PollFd::from_borrowed_fd(self.port.fd(), self.port.wants()));
        }
        if let Some(signals) = &self.signals {
            watched.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        }
        let room = self.port.has_room();
        for process in self.streams.values() {
            let both = process.watched(room).into_iter().flatten();
            watched.extend(both.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        }
        if let Some(dns) = self.dns.as_ref().filter(|_| room) {
            watched.extend(dns.watched().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let alone = self.port.alone.then(|| Duration::from_millis(ALONE_MILLIS));
        let thaw = self.frozen.as_ref().map(|frozen| frozen.until.saturating_duration_since(Instant::now()));
        let limit = [alone, thaw].into_iter().flatten().min();
        let limit = limit.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        match poll(&mut watched, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn round(&mut self) {
        self.port.receive();
        while let Some(frame) = self.port.next_frame() {
            self.frame(frame);
        }
        if let Some(dns) = &mut self.dns {
            dns.pump(&mut self.port);
        }
        let mut over = Vec::new();
        for (&stream, process) in &mut self.streams {
            if let Some(ended) = process.pump(stream, &mut self.port) {
                over.push((stream, ended));
            }
        }
        self.watch_memory();
        for (stream, ended) in over {
            self.streams.remove(&stream);
            self.let_go(stream);
            if self.main == Some(stream) {
                // Whoever hears the end may pull the plug; what else was asked is answered before that takes its time.
                self.port.flush();
                rustix::fs::sync();
            }
            self.say(Kind::End, stream, &ended);
        }
        // A frozen guest whose host is gone goes on.
        if self.frozen.as_ref().is_some_and(|frozen| Instant::now() >= frozen.until) {
            self.frozen = None;
        }
        self.port.flush();
        self.collect();
    }

    /// Orphans that became ours. The streams' processes are waited for by themselves.
    fn collect(&mut self) {
        let Some(signals) = &self.signals else { return };
        while let Ok(Some(_)) = berth_sys::signals::next_signal(signals.as_fd()) {}
        let ours: Vec<i32> = self.streams.values().map(|process| process.pid).collect();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let child = std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_zombie_of_ours(&stat));
            if child && !ours.contains(&pid) {
                rustix::process::waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::NOHANG).ok();
            }
        }
    }

    fn watch_memory(&mut self) {
        let Some(workload) = &self.workload else { return };
        let kills = workload.oom_kills();
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.say(Kind::Event, 0, &Event::OutOfMemory);
        }
    }

    fn say<T: berth_agent_proto::Say>(&mut self, kind: Kind, stream: u32, what: &T) {
        self.port.send(kind, stream, &what.to_json());
    }

    fn answer(&mut self, stream: u32, answer: Result<Answer, Failure>) {
        self.say(Kind::Answer, stream, &answer);
    }

    fn frame(&mut self, frame: Frame) {
        let (stream, payload) = (frame.stream, frame.payload.as_slice());
        let number = |at: usize| payload.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
        let process = self.streams.get_mut(&stream);
        match frame.kind {
            Kind::Reset => self.reset(payload),
            Kind::Request => self.request(stream, payload),
            Kind::Data => {
                if let (Some(process), Some((&STDIN, bytes))) = (process, payload.split_first()) {
                    process.input(bytes);
                }
            }
            Kind::Eof => {
                if let Some(process) = process {
                    process.end_input();
                }
            }
            Kind::Window => {
                if let (Some(process), Some(&channel), Some(bytes)) = (process, payload.first(), number(1)) {
                    process.grant(channel, bytes);
                }
            }
            Kind::Signal => {
                if let (Some(process), Some(signal)) = (process, number(0).and_then(|n| i32::try_from(n).ok())) {
                    process.signal(signal);
                }
            }
            Kind::Resize => {
                if let (Some(process), [a, b, c, d]) = (process, payload) {
                    process.resize(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
                }
            }
            Kind::Cancel => {
                // Who asked is gone; a process goes on without anybody, as one does whose terminal is closed.
                if self.main != Some(stream)
                    && let Some(process) = self.streams.remove(&stream)
                {
                    process.signal(1);
                    self.let_go(stream);
                }
            }
            Kind::Reply if stream >= QUERIES_BEGIN => {
                if let Some(dns) = &mut self.dns {
                    dns.reply(stream, payload);
                }
            }
            Kind::Reply | Kind::Hello | Kind::Answer | Kind::End | Kind::Query | Kind::Event => {}
        }
    }

    /// Another host, or the same one that forgot: streams of before are nobody's.
    fn reset(&mut self, nonce: &[u8]) {
        self.port.forget();
        self.frozen = None;
        if let Some(stream) = self.still {
            self.let_go(stream);
        }
        self.streams.retain(|stream, _| self.main == Some(*stream));
        let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        self.greet(&nonce);
    }

    fn greet(&mut self, nonce: &str) {
        self.port.send_raw(&berth_agent_proto::padding());
        let hello = Hello {
            nonce: nonce.to_owned(),
            version: VERSION,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            init: self.init,
            uptime_millis: statistics::uptime_millis(),
        };
        self.say(Kind::Hello, 0, &hello);
    }

    fn request(&mut self, stream: u32, payload: &[u8]) {
        if stream >= QUERIES_BEGIN || self.streams.contains_key(&stream) || self.streams.len() >= STREAMS_MAX {
            let refused = Failure::new(FailureKind::Conflict, "the stream is in use, or there are too many");
            return self.answer(stream, Err(refused));
        }
        let request = match serde_json::from_slice(payload) {
            Ok(request) => request,
            Err(cause) => {
                let text = format!("the request cannot be read: {cause}");
                return self.answer(stream, Err(Failure::new(FailureKind::Unsupported, text)));
            }
        };
        let answer = self.act(stream, request);
        self.answer(stream, answer);
    }

    fn begin(&mut self, stream: u32, process: Process) -> Result<Answer, Failure> {
        let pid = process.pid;
        self.streams.insert(stream, process);
        Ok(Answer::Started { pid })
    }

    /// The container goes on, where that stream held it still.
    fn let_go(&mut self, stream: u32) {
        if self.still == Some(stream) {
            self.still = None;
            if let Some(Err(failure)) = self.workload.as_ref().map(Workload::thaw) {
                eprintln!("berth-agent: {failure}");
            }
        }
    }

    fn act(&mut self, stream: u32, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::Ping => Ok(Answer::Done),
            Request::Configure(wanted) => {
                network::configure(&wanted)?;
                if wanted.names && self.dns.is_none() {
                    let listening = Dns::listen();
                    self.dns = Some(listening.map_err(|cause| {
                        Failure::new(FailureKind::Internal, format!("cannot listen for names: {cause}"))
                    })?);
                }
                Ok(Answer::Done)
            }
            Request::Run(run) => {
                if self.workload.is_some() || !self.init {
                    return Err(Failure::new(FailureKind::Conflict, "the machine has its container already"));
                }
                let (workload, process) = Workload::start(&run)?;
                let pid = process.pid;
                self.workload = Some(workload);
                self.main = Some(stream);
                self.streams.insert(stream, process);
                Ok(Answer::Started { pid })
            }
            Request::Exec(exec) => {
                let process = match &self.workload {
                    Some(workload) => workload.exec(&exec)?,
                    None if self.init => return Err(not_started()),
                    None => workload::beside_init(&exec)?,
                };
                self.begin(stream, process)
            }
            Request::Processes => {
                let workload = self.workload.as_ref().ok_or_else(not_started)?;
                Ok(Answer::Processes { list: processes::list(&workload.pids()?, workload.pid) })
            }
            Request::Update { resources } => {
                let workload = self.workload.as_mut().ok_or_else(not_started)?;
                Ok(Answer::Changed { notes: workload.update(&resources)? })
            }
            Request::Freeze { seconds_max } => {
                if self.frozen.is_some() {
                    return Err(Failure::new(FailureKind::Conflict, "the file systems stand still already"));
                }
                let frozen = Frozen::all(seconds_max)?;
                let filesystems = frozen.count();
                self.frozen = Some(frozen);
                Ok(Answer::Frozen { filesystems })
            }
            Request::Thaw => {
                self.frozen = None;
                Ok(Answer::Done)
            }
            Request::Identify(wanted) => Ok(Answer::Changed { notes: identity::become_another(&wanted)? }),
            Request::Online { cpus } => hardware::online(cpus).map(|notes| Answer::Changed { notes }),
            Request::PowerOff => {
                // What ends writes its last words.
                self.frozen = None;
                match self.init {
                    true => self.off = true,
                    false => power::ask_system()?,
                }
                Ok(Answer::Done)
            }
            Request::Statistics => Ok(Answer::Statistics(Box::new(statistics::read()?))),
            Request::Stat { .. } | Request::Get { .. } | Request::Put { .. } => {
                let pid = match &self.workload {
                    Some(workload) => workload.pid,
                    None if self.init => return Err(not_started()),
                    None => 1,
                };
                self.begin(stream, files::start(pid, &request)?)
            }
            Request::Export | Request::Changes | Request::Layer { .. } => {
                let workload = self.workload.as_ref().ok_or_else(not_started)?;
                if matches!(request, Request::Layer { still: true }) && self.still.is_none() {
                    workload.freeze()?;
                    self.still = Some(stream);
                }
                let begun = files::start(workload.pid, &request);
                if begun.is_err() {
                    self.let_go(stream);
                }
                self.begin(stream, begun?)
            }
            Request::Grow { .. } | Request::AwaitStart | Request::Kill | Request::Cards => {
                Err(Failure::new(FailureKind::Unsupported, "this agent cannot do that"))
            }
        }
    }
}

fn not_started() -> Failure {
    Failure::new(FailureKind::Conflict, "the container has not started")
}

fn is_zombie_of_ours(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    fields.next() == Some("Z") && fields.next() == Some("1")
}
