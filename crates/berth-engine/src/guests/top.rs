//! `top` of a guest: its processes, by its agent, as `ps` writes them.

use super::Agent;
use crate::Engine;
use crate::containers::{Inspect, Top};
use berth_agent_proto::{Answer, Process, Request};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);

/// `ps -ef` or `ps aux` of a guest; other columns are not known there.
pub(crate) fn top(engine: &Engine, inspect: &Inspect, arguments: &[&str]) -> Result<Top> {
    if !matches!(inspect.state.phase, Phase::Running { .. }) {
        return Err(Error::conflict(format!("container {} is paused, unpause it to see its processes", inspect.name)));
    }
    let long = match arguments {
        ["-ef"] => false,
        ["aux" | "-aux"] => true,
        _ => {
            return Err(Error::invalid("top of a container in a machine knows -ef and aux only")
                .with_hint(format!("where the image has ps: berth exec {} ps ...", inspect.name)));
        }
    };
    let run = crate::machines::run_folder(engine, &inspect.id);
    let Answer::Processes { list } = Agent::connect(&run, ANSWER)?.ask(&Request::Processes)? else {
        return Err(Error::new(ErrorKind::DataLoss, "the guest's agent answered something else"));
    };
    let titles: &[&str] = match long {
        false => &["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
        true => &["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"],
    };
    let row = |process: &Process| if long { long_row(process) } else { short_row(process) };
    Ok(Top {
        titles: titles.iter().map(|&title| title.to_owned()).collect(),
        processes: list.iter().map(row).collect(),
    })
}

/// Seconds since 1970 as the time of day, UTC.
fn hour(unix_seconds: i64) -> String {
    let of_day = unix_seconds.rem_euclid(86_400);
    format!("{:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

fn short_row(process: &Process) -> Vec<String> {
    let seconds = process.cpu_millis / 1000;
    vec![
        process.user.clone(),
        process.pid.to_string(),
        process.parent.to_string(),
        "0".to_owned(),
        hour(process.started_unix_seconds),
        process.terminal.clone(),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        process.command.clone(),
    ]
}

fn long_row(process: &Process) -> Vec<String> {
    let seconds = process.cpu_millis / 1000;
    vec![
        process.user.clone(),
        process.pid.to_string(),
        "0.0".to_owned(),
        "0.0".to_owned(),
        (process.virtual_bytes >> 10).to_string(),
        (process.resident_bytes >> 10).to_string(),
        process.terminal.clone(),
        process.state.clone(),
        hour(process.started_unix_seconds),
        format!("{}:{:02}", seconds / 60, seconds % 60),
        process.command.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_column_for_each_title() {
        let process = Process {
            pid: 7,
            parent: 1,
            uid: 0,
            user: "root".to_owned(),
            terminal: "?".to_owned(),
            started_unix_seconds: 3_723,
            cpu_millis: 61_500,
            resident_bytes: 4096,
            virtual_bytes: 8192,
            state: "S".to_owned(),
            command: "sleep 9".to_owned(),
        };
        assert_eq!(short_row(&process), ["root", "7", "1", "0", "01:02", "?", "00:01:01", "sleep 9"]);
        assert_eq!(long_row(&process).len(), 11);
    }
}
