//! Whether a guest's agent is still there for those who wait for it.
//!
//! ```text
//!  it says something            well
//!  silent for ASK               asked, once
//!  silent for LOOK and longer   QEMU is asked every few seconds: nobody has the port open: gone; the guest stands still: well
//!  silent for SILENT            given up
//! ```
//!
//! Only while somebody waits. Time in which we did not run ourselves (a paused container, a host that slept) does not count.

use crate::qmp::{Client, QmpError};
use crate::spec::EVENTS_SOCKET;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const ASK: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_secs(6);
/// An agent that writes everything to a slow disk says nothing meanwhile; a guest that hangs never does.
pub(crate) const SILENT: Duration = Duration::from_secs(120);
/// Between two moments of ours that belong together.
const STEP_MAX: Duration = Duration::from_secs(2);
/// QEMU's monitor answers within that, or hangs: the others wait for us meanwhile.
const MONITOR_TIME: Duration = Duration::from_secs(2);
/// The port's name among QEMU's own.
const PORT: &str = "agent";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    Well,
    /// To be asked whether it is there.
    Ask,
    /// Nobody has the port open.
    Gone,
    Silent,
}

/// What QEMU knows of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Closed,
    /// Paused, or being saved.
    Still,
    /// Or it cannot be known.
    Open,
}

#[derive(Default)]
pub(crate) struct Pulse {
    silent: Duration,
    asked: bool,
    /// How long it had been silent at the last look.
    looked: Duration,
    before: Option<Instant>,
}

impl Pulse {
    /// It said something.
    pub(crate) fn beat(&mut self) {
        (self.silent, self.looked, self.asked) = (Duration::ZERO, Duration::ZERO, false);
    }

    pub(crate) fn feel(&mut self, now: Instant, waited_for: bool, look: impl FnOnce() -> Seen) -> Sign {
        let before = self.before.replace(now).unwrap_or(now);
        if !waited_for {
            self.beat();
            return Sign::Well;
        }
        self.silent += now.saturating_duration_since(before).min(STEP_MAX);
        if self.silent >= ASK && !self.asked {
            self.asked = true;
            return Sign::Ask;
        }
        if self.silent < LOOK.max(self.looked + ASK) {
            return Sign::Well;
        }
        self.looked = self.silent;
        let sign = match look() {
            Seen::Closed => Sign::Gone,
            Seen::Open if self.silent >= SILENT => Sign::Silent,
            Seen::Open => return Sign::Well,
            // Our question waits for it.
            Seen::Still => {
                (self.silent, self.looked) = (Duration::ZERO, Duration::ZERO);
                return Sign::Well;
            }
        };
        self.beat();
        sign
    }
}

#[cfg(test)]
impl Pulse {
    /// As if it had been asked and had said nothing for so long.
    pub(crate) fn was_silent(&mut self, time: Duration) {
        (self.silent, self.asked) = (time, true);
    }
}

/// Asks the monitor of the machine whose sockets are in `run`.
pub(crate) fn look(run: &Path) -> Seen {
    let ask = || -> Result<Seen, QmpError> {
        let mut monitor = Client::connect(run, EVENTS_SOCKET, MONITOR_TIME)?;
        let status = monitor.ask("query-status", json!({}))?;
        let devices = monitor.ask("query-chardev", json!({}))?;
        Ok(seen(&status, &devices))
    };
    // A monitor that is silent says nothing about the agent.
    ask().unwrap_or(Seen::Open)
}

fn seen(status: &Value, devices: &Value) -> Seen {
    if status["running"] == json!(false) {
        return Seen::Still;
    }
    let devices = devices.as_array().map(Vec::as_slice).unwrap_or_default();
    match devices.iter().find(|one| one["label"] == PORT).map(|port| &port["frontend-open"]) {
        Some(Value::Bool(false)) => Seen::Closed,
        _ => Seen::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Watch {
        pulse: Pulse,
        now: Instant,
    }

    impl Watch {
        /// The signs of so many seconds, without those that all is well.
        fn seconds(&mut self, count: u64, sees: Seen) -> Vec<Sign> {
            let mut signs = Vec::new();
            for _ in 0..count {
                self.now += Duration::from_secs(1);
                signs.push(self.pulse.feel(self.now, true, || sees));
            }
            signs.retain(|sign| *sign != Sign::Well);
            signs
        }
    }

    fn watch() -> Watch {
        let mut watch = Watch { pulse: Pulse::default(), now: Instant::now() };
        watch.pulse.feel(watch.now, true, || Seen::Open);
        watch
    }

    #[test]
    fn a_silent_agent_is_asked_once_and_given_up_in_the_end() {
        let mut watch = watch();
        assert_eq!(watch.seconds(SILENT.as_secs() - 1, Seen::Open), [Sign::Ask]);
        assert_eq!(watch.seconds(ASK.as_secs(), Seen::Open), [Sign::Silent]);
    }

    #[test]
    fn one_that_says_something_is_well() {
        let mut watch = watch();
        for _ in 0..100 {
            assert_eq!(watch.seconds(ASK.as_secs() - 1, Seen::Closed), []);
            watch.pulse.beat();
        }
        for _ in 0..100 {
            watch.pulse.beat();
            assert_eq!(watch.seconds(LOOK.as_secs() - 1, Seen::Closed), [Sign::Ask]);
        }
    }

    #[test]
    fn a_port_that_nobody_has_open_has_no_agent() {
        assert_eq!(watch().seconds(LOOK.as_secs(), Seen::Closed), [Sign::Ask, Sign::Gone]);
    }

    #[test]
    fn a_guest_that_stands_still_is_waited_for() {
        let mut watch = watch();
        assert_eq!(watch.seconds(10 * SILENT.as_secs(), Seen::Still), [Sign::Ask]);
        // It goes on, and has as long to answer as any.
        let signs = watch.seconds(SILENT.as_secs() - 2 * LOOK.as_secs(), Seen::Open);
        assert_eq!(signs, []);
    }

    #[test]
    fn time_without_us_does_not_count() {
        let mut watch = watch();
        watch.now += Duration::from_secs(100_000);
        assert_eq!(watch.pulse.feel(watch.now, true, || Seen::Closed), Sign::Well);
    }

    #[test]
    fn nobody_is_asked_for_nothing() {
        let mut pulse = Pulse::default();
        let mut now = Instant::now();
        for _ in 0..1000 {
            now += Duration::from_secs(1);
            assert_eq!(pulse.feel(now, false, || Seen::Closed), Sign::Well);
        }
    }

    #[test]
    fn what_qemu_says_is_read() {
        let status = json!({"running": true});
        let port =
            |open: Value| json!([{"label": "qmp", "frontend-open": true}, {"label": "agent", "frontend-open": open}]);
        assert_eq!(seen(&status, &port(json!(false))), Seen::Closed);
        assert_eq!(seen(&status, &port(json!(true))), Seen::Open);
        assert_eq!(seen(&status, &json!("nonsense")), Seen::Open);
        assert_eq!(seen(&json!({"running": false}), &port(json!(false))), Seen::Still);
    }
}
