//! `top`: a container's processes by the host's `ps`.
//!
//! `ps` is one of the few programs that the engine runs: its columns and options are what callers ask for.

use super::stats::cgroup_of;
use super::{Containers, Inspect, Top};
use crate::events::EventKind;
use berth_types::{Error, ErrorKind, Phase, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// A `ps` that takes longer is ended.
const PS_TIMEOUT: Duration = Duration::from_secs(20);
/// More words are no arguments for `ps`.
const ARGUMENTS_MAX: usize = 256;

impl Containers {
    /// Its processes by the host's `ps`; empty arguments mean `-ef`.
    pub async fn top(&self, container: &str, ps_arguments: &str) -> Result<Top> {
        let inspect = self.inspect(container, false).await?;
        if !matches!(inspect.state.phase, Phase::Running { .. } | Phase::Paused { .. }) {
            return Err(Error::conflict(format!("container {} is not running", inspect.id)));
        }
        let arguments: Vec<&str> = match ps_arguments.trim() {
            "" => vec!["-ef"],
            words => words.split_ascii_whitespace().collect(),
        };
        check(&arguments)?;
        if crate::guests::is_guest(&inspect.spec) {
            let (engine, of) = (self.engine.clone(), inspect.clone());
            let words: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
            let top = super::blocking(move || {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                crate::guests::top(&engine, &of, &words)
            })
            .await?;
            self.tell_top(&inspect);
            return Ok(top);
        }
        let pids = self.pids(&inspect)?;
        let list: Vec<String> = pids.iter().map(i32::to_string).collect();
        let only = format!("-q{}", list.join(","));
        // Some options of ps exclude -q; then all processes are listed and ours are picked.
        let output = match ps(arguments.iter().copied().chain([only.as_str()])).await? {
            Ok(output) => output,
            // It lists all processes at any time: what it refuses is what was asked for.
            Err(_) => ps(arguments.iter().copied()).await?.map_err(|words| Error::invalid(words).context("ps"))?,
        };
        let top = parse(&output, &pids)?;
        self.tell_top(&inspect);
        Ok(top)
    }

    fn tell_top(&self, inspect: &Inspect) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), inspect.name.clone()),
            ("image".to_owned(), inspect.spec.config.image.clone()),
        ]);
        self.engine.events().publish(EventKind::Container, "top", inspect.id.as_str(), attributes);
    }

    fn pids(&self, inspect: &Inspect) -> Result<Vec<i32>> {
        let failed = |cause: berth_cgroup::CgroupError| {
            let what = format!("cannot list the processes of container {}", inspect.name);
            Error::because(ErrorKind::Internal, what, &cause)
        };
        cgroup_of(&self.engine, inspect).and_then(|cgroup| cgroup.pids()).map_err(failed)
    }
}

/// Renamed columns would hide the pids that we look for.
fn check(arguments: &[&str]) -> Result<()> {
    if arguments.len() > ARGUMENTS_MAX {
        return Err(Error::invalid("too many arguments for ps"));
    }
    for word in arguments {
        if let Some((name, title)) = word.split_once('=')
            && title.trim_start().starts_with("PID")
            && !name.trim_start_matches('-').ends_with("pid")
        {
            return Err(Error::invalid(format!("specifying \"{name}={title}\" is not allowed")));
        }
    }
    Ok(())
}

/// Its output, or the first line of what it complained about.
async fn ps<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<Result<String, String>> {
    let mut command = tokio::process::Command::new("ps");
    command.args(arguments).kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = match tokio::time::timeout(PS_TIMEOUT, command.output()).await {
        Err(_) => return Err(Error::new(ErrorKind::Timeout, "ps did not end in time")),
        Ok(Err(cause)) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::Unavailable, "the host has no ps program")
                .with_hint("install it on the host: apt-get install procps"));
        }
        Ok(Err(cause)) => return Err(Error::because(ErrorKind::Internal, "cannot run ps", &cause)),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("ended with an error");
    Ok(Err(first.trim().to_owned()))
}

pub(crate) fn no_pid() -> Error {
    Error::invalid("Couldn't find PID field in ps output")
        .with_hint("the columns asked for must have the process id: -o pid,comm")
}

/// The rows of the container's processes, and of their threads (a `-` for the pid) below each.
fn parse(output: &str, pids: &[i32]) -> Result<Top> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(no_pid());
    };
    let mut processes = Vec::new();
    let mut inside = false;
    for line in lines {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(&pid) = fields.get(column) else { continue };
        if pid != "-" {
            let number: i32 = pid.parse().map_err(|_| Error::internal(format!("Unexpected pid '{pid}'")))?;
            inside = pids.contains(&number);
        }
        if inside {
            // The last column is a command with spaces in it.
            let last = titles.len() - 1;
            let mut row: Vec<String> = fields.iter().take(last).map(|&field| field.to_owned()).collect();
            row.push(fields.get(last..).unwrap_or_default().join(" "));
            processes.push(row);
        }
    }
    Ok(Top { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_picked_by_pid_and_commands_keep_their_spaces() {
        let output = "UID PID CMD\nroot 1 init\nroot 7 sh -c  sleep 9\nroot 8 other\n";
        let top = parse(output, &[7]).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "CMD"]);
        assert_eq!(top.processes, [["root", "7", "sh -c sleep 9"]]);
        assert!(parse("UID CMD\n", &[7]).is_err());
    }

    #[test]
    fn threads_follow_their_process() {
        let output = "PID TTY CMD\n7 ? sh\n- ? -\n8 ? other\n- ? -\n";
        assert_eq!(parse(output, &[7]).unwrap().processes.len(), 2);
    }

    #[test]
    fn another_column_may_not_be_called_pid() {
        assert!(check(&["-o", "comm=PID"]).is_err());
        check(&["-o", "pid=PID,comm"]).unwrap();
        check(&["aux"]).unwrap();
    }
}
