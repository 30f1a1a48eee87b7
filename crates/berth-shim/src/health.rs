//! The health probe's clock and verdict.
//!
//! ```text
//!  starting --success--> healthy --`retries` failures in a row--> unhealthy --success--> healthy
//! ```
//!
//! Failures within the start period count nothing; until the first success probes come at the start interval
//! while that period lasts.

use berth_runtime::Running;
use berth_shim_proto::{HealthProbe, HealthState, HealthStatus, ProbeResult};
use rustix::fd::OwnedFd;

/// So many results are kept.
const LOG_MAX: usize = 5;
/// Of a probe's output; the rest is thrown away.
pub(crate) const OUTPUT_BYTES_MAX: usize = 4096;

pub(crate) struct Health {
    pub(crate) probe: HealthProbe,
    pub(crate) state: HealthState,
    started_nanos: i64,
    /// When the next probe is due, wall clock.
    next_nanos: i64,
    pub(crate) running: Option<Probing>,
}

/// A probe on its way.
pub(crate) struct Probing {
    pub(crate) process: Running,
    pub(crate) output: Option<OwnedFd>,
    pub(crate) text: Vec<u8>,
    pub(crate) started_nanos: i64,
    pub(crate) deadline_nanos: i64,
}

impl Health {
    pub(crate) fn new(probe: HealthProbe, now: i64) -> Health {
        let state = HealthState { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() };
        let mut health = Health { probe, state, started_nanos: now, next_nanos: 0, running: None };
        health.next_nanos = now.saturating_add(health.interval(now));
        health
    }

    fn in_start_period(&self, now: i64) -> bool {
        now.saturating_sub(self.started_nanos) < signed(self.probe.start_period_nanos)
    }

    fn interval(&self, now: i64) -> i64 {
        let starting = self.state.status == HealthStatus::Starting && self.in_start_period(now);
        signed(if starting { self.probe.start_interval_nanos } else { self.probe.interval_nanos })
    }

    /// When something is to be done.
    pub(crate) fn wake_nanos(&self) -> i64 {
        self.running.as_ref().map_or(self.next_nanos, |running| running.deadline_nanos)
    }

    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.running.is_none() && now >= self.next_nanos
    }

    pub(crate) fn deadline(&self, now: i64) -> i64 {
        now.saturating_add(signed(self.probe.timeout_nanos))
    }

    /// Takes a result; true where the verdict changed.
    pub(crate) fn ended(&mut self, result: ProbeResult, now: i64) -> bool {
        let before = self.state.status;
        if result.exit_code == 0 {
            self.state.failing_streak = 0;
            self.state.status = HealthStatus::Healthy;
        } else if !(self.state.status == HealthStatus::Starting && self.in_start_period(now)) {
            self.state.failing_streak += 1;
            if self.state.failing_streak >= self.probe.retries.max(1) {
                self.state.status = HealthStatus::Unhealthy;
            }
        }
        self.state.log.push(result);
        if self.state.log.len() > LOG_MAX {
            self.state.log.remove(0);
        }
        self.next_nanos = now.saturating_add(self.interval(now));
        before != self.state.status
    }
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(retries: u32, start_period: u64) -> Health {
        let probe = HealthProbe {
            process: serde_json::Value::Null,
            interval_nanos: 10,
            timeout_nanos: 5,
            start_period_nanos: start_period,
            start_interval_nanos: 2,
            retries,
        };
        Health::new(probe, 0)
    }

    fn result(exit_code: i32) -> ProbeResult {
        ProbeResult { started_unix_nanos: 0, finished_unix_nanos: 0, exit_code, output: String::new() }
    }

    #[test]
    fn only_failures_in_a_row_make_it_unhealthy() {
        let mut health = health(2, 0);
        assert!(!health.ended(result(1), 10));
        assert!(health.ended(result(0), 20));
        assert!(!health.ended(result(1), 30));
        assert!(health.ended(result(1), 40));
        assert_eq!(health.state.status, HealthStatus::Unhealthy);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count() {
        let mut health = health(1, 100);
        assert_eq!(health.wake_nanos(), 2);
        assert!(!health.ended(result(1), 50));
        assert_eq!((health.state.status, health.state.failing_streak), (HealthStatus::Starting, 0));
        assert!(health.ended(result(1), 150));
    }
}
