//! Facts become a sentence, details and a hint. Pure.

use super::program::Program;
use crate::containers::Inspect;
use berth_shim_proto::{ExitRecord, HealthStatus};
use berth_types::{ExitStatus, Phase};
use std::path::Path;

/// All that is known.
pub(super) struct Facts<'a> {
    pub inspect: &'a Inspect,
    pub exit: Option<&'a ExitRecord>,
    pub program: Option<&'a Program>,
    pub lines: &'a [String],
    /// Folders of the engine whose disk is full.
    pub full: Vec<String>,
    /// Its end could not be written yet.
    pub unwritten: bool,
    /// Who has the port that it wants to publish.
    pub port_holder: Option<&'a str>,
    pub now_unix_nanos: i64,
}

const MAKE_ROOM: &str = "berth system df shows what takes it, berth system prune frees what is unused";

type Answer = (String, Vec<String>, Option<String>);

const SECOND_NANOS: i64 = 1_000_000_000;
const SIGKILL: u8 = 9;

pub(super) fn explain(facts: &Facts<'_>) -> Answer {
    let (inspect, state) = (facts.inspect, &facts.inspect.state);
    let name = inspect.name.as_str();
    if state.dead {
        let hint = Some(format!("berth rm -f {name}"));
        return ("its removal failed half way".to_owned(), detail(&state.error), hint);
    }
    if state.restarting {
        let (summary, mut details, hint) = exited(facts);
        details.insert(0, format!("the last run: {summary}"));
        let times = inspect.restart_count;
        details.push(format!("restarted {times} time{}", if times == 1 { "" } else { "s" }));
        return ("waits to be started again by its restart policy".to_owned(), details, hint);
    }
    if state.template {
        let hint = Some(format!("berth clone --start {name} NEW"));
        return ("is a template: it stands still, and others begin with its files".to_owned(), Vec::new(), hint);
    }
    match state.phase {
        Phase::Running { pid } => running(facts, pid),
        Phase::Paused { pid } => {
            let since = format!("process {pid}, started {} ago", ago(facts.now_unix_nanos - state.started_unix_nanos));
            ("is paused: all its processes are frozen".to_owned(), vec![since], Some(format!("berth unpause {name}")))
        }
        Phase::Created if state.error.is_empty() => {
            ("has been created and was never started".to_owned(), Vec::new(), Some(format!("berth start {name}")))
        }
        Phase::Created => not_started(facts),
        // A start that failed leaves no moment of starting in this run.
        Phase::Exited { .. } if !state.error.is_empty() && facts.exit.is_none() => not_started(facts),
        Phase::Exited { .. } => exited(facts),
        Phase::Removing => ("is being removed".to_owned(), Vec::new(), None),
    }
}

fn detail(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }
}

fn running(facts: &Facts<'_>, pid: i32) -> Answer {
    let state = &facts.inspect.state;
    let since = ago(facts.now_unix_nanos - state.started_unix_nanos);
    let mut details = vec![format!("process {pid} on the host")];
    if facts.inspect.restart_count > 0 {
        details.push(format!("restarted {} times by its restart policy", facts.inspect.restart_count));
    }
    if state.oom_killed {
        details.push("a process in it was killed by the kernel: out of memory".to_owned());
    }
    let Some(health) = &state.health else { return (format!("runs since {since}"), details, None) };
    let last = health.log.last().map(|probe| {
        let output = probe.output.trim();
        let said = if output.is_empty() { "said nothing".to_owned() } else { format!("said: {}", first_line(output)) };
        format!("the last probe ended with code {} and {said}", probe.exit_code)
    });
    details.extend(last);
    match health.status {
        HealthStatus::Unhealthy => {
            details.insert(1, format!("{} probes failed one after another", health.failing_streak));
            (format!("runs since {since}, but its health probe fails"), details, None)
        }
        HealthStatus::Starting => (format!("runs since {since}; its health is not known yet"), details, None),
        HealthStatus::Healthy => (format!("runs since {since} and is healthy"), details, None),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The start itself failed.
fn not_started(facts: &Facts<'_>) -> Answer {
    let error = &facts.inspect.state.error;
    let (error, hint) = match error.split_once("\nhint: ") {
        Some((error, hint)) => (error, Some(hint.to_owned())),
        None => (error.as_str(), None),
    };
    let mut details = detail(error);
    details.extend(facts.port_holder.map(str::to_owned));
    if let Some(program) = facts.program
        && let Some((summary, more, way_out)) = about_program(program, facts)
    {
        details.extend(more);
        return (format!("does not start: {summary}"), details, way_out);
    }
    let lower = error.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let name = &facts.inspect.name;
    let (summary, known) = if has(&["port is already allocated", "address already in use", "failed to bind"]) {
        (
            "a port that it publishes is taken",
            Some("find who listens there with ss -ltnp, or publish another port with -p".to_owned()),
        )
    } else if has(&["bind source path does not exist", "mount source path", "no such file or directory: mount"]) {
        (
            "something that it mounts is not there",
            Some("make the path on the host, or make the container again with another -v".to_owned()),
        )
    } else if has(&["adding custom device"]) || (lower.contains("stat /dev/") && lower.contains("no such file")) {
        (
            "a device that it asks for is not there",
            Some("look for it below /dev on the host, or make the container again without it".to_owned()),
        )
    } else if has(&["working directory", "chdir"]) && has(&["not a directory"]) {
        ("its working directory is not a folder", Some("give another with -w (--workdir)".to_owned()))
    } else if has(&["cannot link to a non running container"]) {
        ("a container that it is linked to does not run", None)
    } else if has(&["mount"]) && has(&["not a directory", "is a directory"]) {
        ("a mount joins a file and a folder", Some("both ends of a bind must be files, or both folders".to_owned()))
    } else if has(&["unable to find user", "no matching entries in passwd", "unable to find group"]) {
        (
            "its user or group is not in the image",
            Some("give a number with --user, or one that is in the image's /etc/passwd".to_owned()),
        )
    } else if has(&["no space left"]) {
        details.extend(facts.full.iter().cloned());
        ("the disk is full", Some(MAKE_ROOM.to_owned()))
    } else if has(&["cannot allocate memory"]) {
        ("the host has no memory left for it", None)
    } else if has(&["no such network", "network"]) && has(&["not found"]) {
        ("its network is gone", Some("berth network ls shows those there are".to_owned()))
    } else if has(&["no such container", "cannot join"]) {
        ("the container whose namespace it joins does not run", None)
    } else if has(&["cgroup"]) {
        ("a limit cannot be set", Some("berth doctor checks the host's cgroups".to_owned()))
    } else if has(&["operation not permitted", "permission denied"]) {
        ("the kernel does not permit something that it needs", None)
    } else {
        ("its start failed", None)
    };
    let retry = || Some(format!("berth logs {name} shows what it wrote")).filter(|_| !facts.lines.is_empty());
    (format!("does not start: {summary}"), details, hint.or(known).or_else(retry))
}

/// What is wrong with the program file, if that is it.
fn about_program(program: &Program, facts: &Facts<'_>) -> Option<Answer> {
    let command = &facts.inspect.path;
    let shown = |path: &Path| path.display().to_string();
    Some(match program {
        Program::NotFound { searched: Some(path) } => (
            format!("{command:?} is not in the image's PATH"),
            vec![format!("looked in {path}")],
            Some("check the spelling, or give the whole path".to_owned()),
        ),
        Program::NotFound { searched: None } => {
            (format!("{command} does not exist in the image"), Vec::new(), Some("check the path".to_owned()))
        }
        Program::Folder(path) => (format!("{} is a folder, not a program", shown(path)), Vec::new(), None),
        Program::NotExecutable(path) => (
            format!("{} is not executable", shown(path)),
            vec!["its file has no execute permission (x) for anybody".to_owned()],
            Some(format!("chmod +x {} where the image is made", shown(path))),
        ),
        Program::NoInterpreter { path, interpreter } if interpreter.ends_with('\r') => (
            format!("{} has Windows line endings", shown(path)),
            vec![format!("its first line asks for the interpreter {interpreter:?}, with a carriage return")],
            Some("save it with Unix line endings (sed -i 's/\\r$//')".to_owned()),
        ),
        Program::NoInterpreter { path, interpreter } => (
            format!("the interpreter of {} is missing", shown(path)),
            vec![format!("its first line asks for {interpreter}, which is not in the image")],
            Some(format!("install {interpreter} in the image, or change the first line (#!)")),
        ),
        Program::NoLoader { path, loader } => (
            format!("the loader of {} is missing", shown(path)),
            vec![format!("it was linked against {loader}, which is not in the image")],
            Some(match loader.contains("musl") {
                true => "the program was built for Alpine (musl): build it for this image, or statically",
                false => "the image lacks the C library that it was built with: use another base image, or build it statically",
            }
            .to_owned()),
        ),
        Program::WrongArchitecture { path, built_for } => (
            format!("{} was built for another processor", shown(path)),
            vec![format!("built for {built_for}, this host is {}", host_architecture())],
            Some(format!("get the image for {}, or register an emulator (qemu-user-static)", host_architecture())),
        ),
        Program::NoShebang(path) => (
            format!("{} is a script without a first line that says who runs it", shown(path)),
            Vec::new(),
            Some("put #!/bin/sh into its first line, or run it with sh".to_owned()),
        ),
        Program::Empty(path) => (format!("{} is an empty file", shown(path)), Vec::new(), None),
        Program::Unknown(path) => (format!("{} is no program that this kernel knows", shown(path)), Vec::new(), None),
        Program::Fine(_) => return None,
    })
}

fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// It ran, and ended.
fn exited(facts: &Facts<'_>) -> Answer {
    let (inspect, state) = (facts.inspect, &facts.inspect.state);
    let name = inspect.name.as_str();
    let mut details = Vec::new();
    let (status, oom) = match (facts.exit, state.phase) {
        (Some(exit), _) => (exit.status, exit.oom_killed),
        (None, Phase::Exited { status, oom_killed }) => (status, oom_killed),
        (None, _) => (ExitStatus::Unknown, state.oom_killed),
    };
    if state.started_unix_nanos > 0 && state.finished_unix_nanos > 0 {
        details.push(format!(
            "ran for {}, ended {} ago",
            ago(state.finished_unix_nanos - state.started_unix_nanos),
            ago(facts.now_unix_nanos - state.finished_unix_nanos)
        ));
    }
    let (summary, mut hint) = match status {
        _ if oom => out_of_memory(facts, &mut details),
        ExitStatus::Unknown => {
            details.extend(detail(&state.error));
            (
                "ended, and nobody could learn how: its monitor was killed or the host went down".to_owned(),
                Some(format!("berth start {name}")),
            )
        }
        ExitStatus::Signal(signal) => by_signal(facts, signal, &mut details),
        ExitStatus::Code(code) => by_code(facts, code, &mut details),
    };
    if facts.unwritten {
        details
            .push("its end cannot be written: it is kept by its monitor, and cannot be started until it is".to_owned());
        details.extend(facts.full.iter().cloned());
        hint = Some(MAKE_ROOM.to_owned());
    }
    let failed = status != ExitStatus::Code(0);
    if failed && !facts.lines.is_empty() {
        details.push("the last that it wrote:".to_owned());
        details.extend(facts.lines.iter().map(|line| format!("  {line}")));
    }
    if failed && hint.is_none() && !facts.lines.is_empty() {
        hint = Some(format!("berth logs {name}"));
    }
    (summary, details, hint)
}

fn out_of_memory(facts: &Facts<'_>, details: &mut Vec<String>) -> (String, Option<String>) {
    let asked = u64::try_from(facts.inspect.spec.host.resources.memory_bytes).unwrap_or(0);
    let limit = facts.exit.and_then(|exit| exit.memory_limit_bytes).filter(|limit| *limit > 0 && *limit < 1 << 60);
    let limit = limit.unwrap_or(asked);
    if limit > 0 {
        details.push(format!("its memory limit is {}", bytes(limit)));
    } else {
        details.push("it has no memory limit of its own: the host ran out of memory".to_owned());
    }
    if let Some(peak) = facts.exit.and_then(|exit| exit.memory_peak_bytes) {
        details.push(format!("the most that it had was {}", bytes(peak)));
    }
    let name = &facts.inspect.name;
    let hint = (limit > 0).then(|| {
        let more = (limit * 2) >> 20;
        format!("berth update --memory {more}m --memory-swap {}m {name} && berth start {name}", more * 2)
    });
    ("was killed by the kernel: out of memory".to_owned(), hint)
}

fn by_signal(facts: &Facts<'_>, signal: u8, details: &mut Vec<String>) -> (String, Option<String>) {
    let word = signal_name(signal);
    let crashed = matches!(signal, 4 | 6 | 7 | 8 | 11 | 31);
    match facts.exit.map(|exit| exit.last_signal_sent) {
        Some(Some((sent, at))) if i32::from(signal) == sent => {
            let moment = ago(facts.now_unix_nanos - at);
            details.push(format!("this engine sent {word} {moment} ago, because somebody asked for it"));
            if signal == SIGKILL {
                details.push("SIGKILL follows where a program does not end within the grace of stop".to_owned());
            }
            (format!("was stopped by {word}, as asked"), None)
        }
        Some(_) if crashed => {
            let cause = match signal {
                6 => "it gave up by itself (abort)",
                31 => "it made a system call that its seccomp profile forbids",
                _ => "a fault of the program itself",
            };
            details.push(format!("{word}: {cause}"));
            let hint = (signal == 31).then(|| "see whether it runs with --security-opt seccomp=unconfined".to_owned());
            (format!("crashed with {word}"), hint)
        }
        Some(_) => {
            details
                .push("this engine did not send it: a process in the container or somebody on the host did".to_owned());
            if signal == SIGKILL {
                details.push("where the host itself ran out of memory, its kernel log (dmesg) says so".to_owned());
            }
            (format!("was killed by {word} from outside of this engine"), None)
        }
        None => (format!("was ended by {word}"), None),
    }
}

fn by_code(facts: &Facts<'_>, code: u8, details: &mut Vec<String>) -> (String, Option<String>) {
    let asked = facts.exit.and_then(|exit| exit.last_signal_sent);
    if let Some((signal, _)) = asked {
        let word = signal_name(u8::try_from(signal).unwrap_or(0));
        details.push(format!("this engine had sent {word}, because somebody asked for it"));
        return (format!("ended with code {code} after {word}, as asked"), None);
    }
    if code == 0 {
        let shell = matches!(
            Path::new(&facts.inspect.path).file_name().and_then(|name| name.to_str()),
            Some("sh" | "bash" | "ash" | "dash")
        );
        let config = &facts.inspect.spec.config;
        let interactive = shell && facts.inspect.args.is_empty() && !config.open_stdin;
        let hint = interactive.then(|| {
            "a shell without standard input ends at once: run it with -it, or -d with a command that stays".to_owned()
        });
        return ("ended by itself, its work done (code 0)".to_owned(), hint);
    }
    let program = facts.program.and_then(|program| about_program(program, facts));
    if let Some((likely, way_out)) = said(facts.lines) {
        details.push(format!("likely: {likely}"));
        return (format!("ended by itself with code {code}"), Some(way_out.to_owned()));
    }
    let hint = match code {
        126 | 127 if program.is_some() => {
            let (summary, more, hint) = program.unwrap_or_default();
            details.push(summary);
            details.extend(more);
            hint
        }
        127 => {
            details.push("shells end with 127 when they do not find a command".to_owned());
            None
        }
        126 => {
            details.push("shells end with 126 when a command cannot be executed".to_owned());
            None
        }
        129..=192 => {
            let signal = code - 128;
            details.push(format!("shells report {code} for a command that {} ended", signal_name(signal)));
            (signal == SIGKILL).then(|| "a process in it may have been killed for its memory: see the limit".to_owned())
        }
        _ => None,
    };
    (format!("ended by itself with code {code}"), hint)
}

/// What programs say in the C library's words, and what usually is behind it.
fn said(lines: &[String]) -> Option<(&'static str, &'static str)> {
    const KNOWN: [(&str, &str, &str); 7] = [
        (
            "no space left on device",
            "a disk is full: the host's, or a volume or tmpfs of limited size",
            "berth system df shows what takes the host's disk, df -h inside shows the others",
        ),
        (
            "read-only file system",
            "it writes where it may only read",
            "give it a --tmpfs or a volume there, or leave out --read-only and :ro",
        ),
        (
            "permission denied",
            "it was refused access to a file: its user is not the owner",
            "compare --user with who owns what it uses (ls -ln), also in what is mounted",
        ),
        (
            "operation not permitted",
            "it lacks a right that it asks the kernel for",
            "give the one it needs with --cap-add; berth inspect shows those it has",
        ),
        ("too many open files", "its limit of open files is too low for it", "raise it with --ulimit nofile=SOFT:HARD"),
        ("address already in use", "the port that it listens on is taken", "see who else listens in its network"),
        (
            "cannot allocate memory",
            "its memory limit, or its limit of processes, is too low for it",
            "raise --memory or --pids-limit with berth update",
        ),
    ];
    let lower: Vec<String> = lines.iter().map(|line| line.to_lowercase()).collect();
    let found = KNOWN.iter().find(|(words, ..)| lower.iter().any(|line| line.contains(words)));
    found.map(|&(_, likely, way_out)| (likely, way_out))
}

fn signal_name(signal: u8) -> String {
    const NAMES: [&str; 32] = [
        "signal 0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(usize::from(signal)).map_or_else(|| format!("signal {signal}"), |&name| name.to_owned())
}

/// `3 seconds`, `2 hours`: as much as one reads at a glance.
fn ago(nanos: i64) -> String {
    let seconds = nanos.max(0) / SECOND_NANOS;
    let (number, word) = match seconds {
        0 => return "less than a second".to_owned(),
        1..=119 => (seconds, "second"),
        120..=7199 => (seconds / 60, "minute"),
        7200..=172_799 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in UNITS {
        if count >= size {
            let value = count as f64 / size as f64;
            return if count.is_multiple_of(size) {
                format!("{} {unit}", count / size)
            } else {
                format!("{value:.1} {unit}")
            };
        }
    }
    format!("{count} bytes")
}

#[cfg(test)]
mod tests;
