//! `top` of a guest: its processes, by its agent, as `ps` writes them.

use super::Agent;
use crate::Engine;
use crate::containers::{Inspect, Top};
use berth_agent_proto::{Answer, Process, Request};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);

/// A column: what it is called after `-o`, its title, and what stands in it.
struct Column {
    names: &'static [&'static str],
    title: &'static str,
    value: fn(&Process) -> String,
}

const fn column(names: &'static [&'static str], title: &'static str, value: fn(&Process) -> String) -> Column {
    Column { names, title, value }
}

/// What the agent knows of a process, as procps calls it.
const COLUMNS: [Column; 14] = [
    column(&["pid"], "PID", |one| one.pid.to_string()),
    column(&["ppid"], "PPID", |one| one.parent.to_string()),
    column(&["user", "euser"], "USER", |one| one.user.clone()),
    column(&["uid", "euid"], "UID", |one| one.uid.to_string()),
    column(&["tty", "tt", "tname"], "TTY", |one| one.terminal.clone()),
    column(&["stime", "start_time"], "STIME", |one| hour(one.started_unix_seconds)),
    column(&["time", "cputime"], "TIME", |one| clock(one.cpu_millis)),
    column(&["rss", "rssize"], "RSS", |one| (one.resident_bytes >> 10).to_string()),
    column(&["vsz", "vsize"], "VSZ", |one| (one.virtual_bytes >> 10).to_string()),
    column(&["s", "state"], "S", |one| one.state.chars().take(1).collect()),
    column(&["stat"], "STAT", |one| one.state.clone()),
    column(&["cmd"], "CMD", |one| one.command.clone()),
    column(&["args", "command"], "COMMAND", |one| one.command.clone()),
    column(&["comm", "ucmd"], "COMMAND", |one| short_name(&one.command)),
];

/// The program's own name, without its folder and arguments.
fn short_name(command: &str) -> String {
    let first = command.split(' ').next().unwrap_or_default();
    first.rsplit('/').next().unwrap_or_default().to_owned()
}

enum Form {
    /// `-ef`
    Short,
    /// `aux`
    Long,
    Columns(Vec<(String, &'static Column)>),
}

/// `-ef`, `aux`, or columns of the agent's. All processes are listed in any case, so `-e`, `-A` and `ax` say nothing.
fn form(arguments: &[&str]) -> Result<Form> {
    match arguments {
        ["-ef"] => return Ok(Form::Short),
        ["aux" | "-aux"] => return Ok(Form::Long),
        _ => {}
    }
    let mut columns = Vec::new();
    let mut words = arguments.iter();
    while let Some(&word) = words.next() {
        let list = match word {
            "-e" | "-A" | "ax" | "-ax" => continue,
            "-o" | "-eo" | "-Ao" | "o" | "axo" | "-axo" => words.next().copied(),
            word => word.strip_prefix("-eo").or_else(|| word.strip_prefix("-o")),
        };
        for name in list.ok_or_else(unknown)?.split(',') {
            let (name, title) = name.split_once('=').map_or((name, None), |(name, title)| (name, Some(title)));
            let column = COLUMNS.iter().find(|column| column.names.contains(&name)).ok_or_else(unknown)?;
            columns.push((title.unwrap_or(column.title).to_owned(), column));
        }
    }
    if columns.is_empty() {
        return Err(unknown());
    }
    if !columns.iter().any(|(title, _)| title == "PID") {
        return Err(crate::containers::top::no_pid());
    }
    Ok(Form::Columns(columns))
}

fn unknown() -> Error {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.names[0]).collect();
    Error::invalid(format!(
        "ps: error: of a container in a machine -ef, aux and -o with these columns are known: {}",
        names.join(",")
    ))
    .with_hint("where the image has ps: berth exec CONTAINER ps ...")
}

/// The processes of a guest, by its agent, as `ps` writes them.
pub(crate) fn top(engine: &Engine, inspect: &Inspect, arguments: &[&str]) -> Result<Top> {
    let form = form(arguments)?;
    if !matches!(inspect.state.phase, Phase::Running { .. }) {
        return Err(Error::conflict(format!("container {} is paused, unpause it to see its processes", inspect.name)));
    }
    let run = crate::machines::run_folder(engine, &inspect.id);
    let Answer::Processes { list } = Agent::connect(&run, ANSWER)?.ask(&Request::Processes)? else {
        return Err(Error::new(ErrorKind::DataLoss, "the guest's agent answered something else"));
    };
    let owned = |titles: &[&str]| titles.iter().map(|&title| title.to_owned()).collect();
    let titles = match &form {
        Form::Short => owned(&["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]),
        Form::Long => owned(&["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]),
        Form::Columns(columns) => columns.iter().map(|(title, _)| title.clone()).collect(),
    };
    let row = |process: &Process| match &form {
        Form::Short => short_row(process),
        Form::Long => long_row(process),
        Form::Columns(columns) => columns.iter().map(|(_, column)| (column.value)(process)).collect(),
    };
    Ok(Top { titles, processes: list.iter().map(row).collect() })
}

/// Seconds since 1970 as the time of day, UTC.
fn hour(unix_seconds: i64) -> String {
    let of_day = unix_seconds.rem_euclid(86_400);
    format!("{:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

/// Processor time.
fn clock(millis: u64) -> String {
    let seconds = millis / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn short_row(process: &Process) -> Vec<String> {
    vec![
        process.user.clone(),
        process.pid.to_string(),
        process.parent.to_string(),
        "0".to_owned(),
        hour(process.started_unix_seconds),
        process.terminal.clone(),
        clock(process.cpu_millis),
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

    fn process() -> Process {
        Process {
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
            command: "/bin/sleep 9".to_owned(),
        }
    }

    #[test]
    fn a_row_has_a_column_for_each_title() {
        let process = process();
        assert_eq!(short_row(&process), ["root", "7", "1", "0", "01:02", "?", "00:01:01", "/bin/sleep 9"]);
        assert_eq!(long_row(&process).len(), 11);
    }

    #[test]
    fn columns_are_those_that_were_asked_for() {
        let row = |arguments: &[&str]| match form(arguments) {
            Ok(Form::Columns(columns)) => {
                let process = process();
                columns.iter().map(|(title, column)| format!("{title}={}", (column.value)(&process))).collect()
            }
            _ => Vec::new(),
        };
        assert_eq!(row(&["-o", "pid,args"]), ["PID=7", "COMMAND=/bin/sleep 9"]);
        assert_eq!(row(&["-eopid,comm"]), ["PID=7", "COMMAND=sleep"]);
        assert_eq!(row(&["-e", "-o", "pid", "-o", "time=CPU"]), ["PID=7", "CPU=00:01:01"]);
        for wrong in [&["nope"][..], &["-o"], &["-o", "pid,nope"], &["-o", "comm"], &["-e"]] {
            assert!(form(wrong).is_err(), "{wrong:?}");
        }
        assert!(matches!(form(&["-ef"]), Ok(Form::Short)) && matches!(form(&["aux"]), Ok(Form::Long)));
    }
}
