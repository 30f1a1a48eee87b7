//! "Up 5 minutes (healthy)": a state as people read it.

use super::types::{State, StateWord};
use berth_shim_proto::HealthStatus;

/// Docker's words for a duration (go-units `HumanDuration`), which scripts and tests know.
pub fn human_duration(nanos: i64) -> String {
    let seconds = (nanos.max(0)) / 1_000_000_000;
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

pub(super) fn text(state: &State, now_unix_nanos: i64) -> String {
    let up = || human_duration(now_unix_nanos - state.started_unix_nanos);
    let ended = || human_duration(now_unix_nanos - state.finished_unix_nanos);
    match state.word() {
        StateWord::Created | StateWord::Exited if state.template => "Template".to_owned(),
        StateWord::Paused => format!("Up {} (Paused)", up()),
        StateWord::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ended()),
        StateWord::Running => match state.health.as_ref().map(|health| health.status) {
            None => format!("Up {}", up()),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", up()),
            Some(HealthStatus::Healthy) => format!("Up {} (healthy)", up()),
            Some(HealthStatus::Unhealthy) => format!("Up {} (unhealthy)", up()),
        },
        StateWord::Removing => "Removal In Progress".to_owned(),
        StateWord::Dead => "Dead".to_owned(),
        StateWord::Created => "Created".to_owned(),
        StateWord::Exited => format!("Exited ({}) {} ago", state.exit_code, ended()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        let second = 1_000_000_000;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (72 * 3600, "3 days"),
            (15 * 24 * 3600, "2 weeks"),
            (90 * 24 * 3600, "3 months"),
            (900 * 24 * 3600, "2 years"),
        ] {
            assert_eq!(human_duration(seconds * second), text, "{seconds} s");
        }
    }
}
