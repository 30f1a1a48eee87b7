//! `berth-vmm`: the first process of a machine's jail.
//!
//! ```text
//!  machine.json -> QEMU with our standard streams, which are the machine's serial line
//!  SIGTERM, SIGINT   the guest's agent is asked to switch its system off; where there is none, or it does not help, the power
//!                    button (system_powerdown); the engine kills the jail when its grace is over
//!  SIGCHLD           QEMU has ended: so do we, with its code
//!  control.sock      who wants something of the guest's agent (`bridge`), where it has one
//!  br0               the guest's questions for its address and for names (`services`)
//!  start.sock        a state to begin with, from the engine (`restore`)
//! ```
//!
//! It has no right that QEMU lacks, keeps no state, and needs no engine: what it was asked for it does while the
//! engine is down. The engine's own questions go to QEMU's other monitor, not through here.

use crate::bridge::{Bridge, PowerOff};
use crate::command;
use crate::qmp::Client;
use crate::restore;
use crate::services::Services;
use crate::spec::{CARDS, EVENTS_SOCKET, Machine, Nic, RUN, Start};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};
use serde_json::json;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
/// QEMU's monitor answers within that, or hangs.
const MONITOR_SECONDS_MAX: u64 = 5;
/// The description of a machine is far smaller.
const DESCRIPTION_BYTES_MAX: u64 = 1 << 20;

/// How often a fork's guest is asked whether it has let go of its old card, and how long.
const CARD_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
const CARD_SECONDS_MAX: u64 = 120;

/// An agent says within that whether it switches its system off.
const AGENT_ANSWERS: Duration = Duration::from_secs(3);
/// A system that has begun to end needs no button, as long as it ends.
const SYSTEM_ENDS: Duration = Duration::from_secs(10);

/// Code for a machine that could not be started at all.
const CANNOT_START: u8 = 125;

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("cannot read {path}: {source}")]
    Description { path: String, source: std::io::Error },
    #[error("cannot start {}: {source}", command::PROGRAM)]
    Start { source: std::io::Error },
    #[error("cannot watch signals: {0}")]
    Signals(rustix::io::Errno),
    #[error(transparent)]
    Restore(#[from] restore::RestoreError),
    #[error("cannot listen for those who want something of the guest: {source}")]
    Agent { source: std::io::Error },
    #[error("cannot start the volumes' server: {source}")]
    Shares { source: std::io::Error },
}

/// Runs the machine that `path` describes until it ends; the code to end with.
pub fn run(path: &Path) -> u8 {
    match supervise(path) {
        Ok(code) => code,
        Err(error) => {
            say(&error.to_string());
            CANNOT_START
        }
    }
}

fn supervise(path: &Path) -> Result<u8, SuperviseError> {
    let machine = read(path)?;
    if let Some(workload) = &machine.workload {
        return crate::container::supervise(&machine, workload);
    }
    let signals = berth_sys::signals::all_as_descriptor().map_err(SuperviseError::Signals)?;
    let given = match machine.start {
        Start::Cold => None,
        Start::Restored { .. } => Some(restore::receive()?),
    };
    let mut child = Command::new(command::PROGRAM)
        .args(command::arguments(&machine, restore::numbers(given.as_ref())))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .spawn()
        .map_err(|source| SuperviseError::Start { source })?;
    match given {
        Some(given) => {
            let outcome = or_ended(&mut child, |ended| restore::load(&machine, given.state.as_fd(), ended));
            given.tell(&outcome);
            outcome?;
        }
        None if command::is_limited(&machine) => or_ended(&mut child, |ended| restore::begin_limited(&machine, ended))?,
        None => {}
    }
    let qemu = Pid::from_child(&child);
    let mut cards = Cards::of(&machine);
    let mut services = Services::open(&machine, say);
    let bridge = machine.agent.then(|| Bridge::new(None)).transpose();
    let mut bridge = bridge.map_err(|source| SuperviseError::Agent { source })?;
    let mut end = End::default();
    loop {
        let mut watched = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        watched.extend(services.sockets().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        let mut patience = (cards.waiting() || end.since.is_some()).then_some(CARD_WAIT);
        if let Some(bridge) = &bridge {
            watched.extend(bridge.watched());
            patience = patience.or_else(|| bridge.patience().map(timespec));
        }
        match rustix::event::poll(&mut watched, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SuperviseError::Signals(errno)),
        }
        while let Some(signal) = berth_sys::signals::next_signal(signals.as_fd()).map_err(SuperviseError::Signals)? {
            if matches!(signal, SIGTERM | SIGINT) {
                end.ask(bridge.as_mut());
            }
        }
        // Signals of one kind merge: everything that has ended is collected, whatever was read.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == qemu {
                if let Some(bridge) = &mut bridge {
                    bridge.machine_ended(code_of(status));
                    bridge.farewell();
                }
                return Ok(code_of(status));
            }
        }
        cards.exchange(&machine);
        services.serve();
        if let Some(bridge) = &mut bridge {
            bridge.round();
            if bridge.cards_changed() {
                // Their sockets go before others are opened in their place.
                drop(services);
                services = Services::open(&Machine { nics: cards_now().unwrap_or_default(), ..machine.clone() }, say);
            }
        }
        end.look(bridge.as_ref());
    }
}

/// How the guest was asked to end.
#[derive(Default)]
struct End {
    /// When its agent was asked, until the power button is pressed too.
    since: Option<Instant>,
}

impl End {
    /// Who asks again has no more patience with the agent.
    fn ask(&mut self, bridge: Option<&mut Bridge>) {
        let again = self.since.take().is_some();
        match bridge.is_some_and(|bridge| !again && bridge.switch_off()) {
            true => self.since = Some(Instant::now()),
            false => press_power_button(),
        }
    }

    fn look(&mut self, bridge: Option<&Bridge>) {
        let Some(since) = self.since else { return };
        let patience = match bridge.map(Bridge::power_off) {
            Some(PowerOff::Asked) => AGENT_ANSWERS,
            Some(PowerOff::Begun) => SYSTEM_ENDS,
            Some(PowerOff::Refused | PowerOff::NotAsked) | None => Duration::ZERO,
        };
        if since.elapsed() >= patience {
            self.since = None;
            press_power_button();
        }
    }
}

/// What is done with QEMU before its guest runs on; a QEMU with which it fails is ended. `begin` can ask whether it has ended.
fn or_ended(
    child: &mut Child,
    begin: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<(), restore::RestoreError>,
) -> Result<(), restore::RestoreError> {
    let outcome = begin(&mut || !matches!(child.try_wait(), Ok(None)));
    if outcome.is_err() {
        // It may have ended by itself.
        child.kill().ok();
        child.wait().ok();
    }
    outcome
}

/// A fork's network cards that are still to be exchanged for its own.
struct Cards {
    left: Vec<usize>,
    deadline: Instant,
}

impl Cards {
    fn of(machine: &Machine) -> Cards {
        let fork = matches!(machine.start, Start::Restored { fork: true, .. });
        let left = if fork { (0..machine.nics.len()).collect() } else { Vec::new() };
        Cards { left, deadline: Instant::now() + Duration::from_secs(CARD_SECONDS_MAX) }
    }

    fn waiting(&self) -> bool {
        !self.left.is_empty()
    }

    fn exchange(&mut self, machine: &Machine) {
        if !self.waiting() {
            return;
        }
        self.left.retain(|index| !matches!(restore::plug_in(*index, &machine.nics[*index]), Ok(true)));
        if self.waiting() && Instant::now() > self.deadline {
            self.left.clear();
            say("the guest does not give its old network card back: this fork has no network");
        }
    }
}

/// The console is the only place that anybody looks at.
fn say(text: &str) {
    rustix::io::write(rustix::stdio::stderr(), format!("berth-vmm: {text}\n").as_bytes()).ok();
}

pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) }
}

/// As a shell counts them.
pub(crate) fn code_of(status: rustix::process::WaitStatus) -> u8 {
    let killed = status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or(killed).unwrap_or(i32::from(CANNOT_START));
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn read(path: &Path) -> Result<Machine, SuperviseError> {
    let failed = |source| SuperviseError::Description { path: path.display().to_string(), source };
    let text = read_bounded(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|cause| failed(cause.into()))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// The network cards that the engine has written down meanwhile.
fn cards_now() -> Option<Vec<Nic>> {
    let text = read_bounded(&Path::new(RUN).join(CARDS)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Asks the guest to end. One that does not listen is killed with the jail after its grace.
fn press_power_button() {
    let time = Duration::from_secs(MONITOR_SECONDS_MAX);
    let asked = Client::connect(Path::new(RUN), EVENTS_SOCKET, time)
        .and_then(|mut monitor| monitor.ask("system_powerdown", json!({})));
    if let Err(error) = asked {
        say(&format!("the power button does not work: {error}"));
    }
}
