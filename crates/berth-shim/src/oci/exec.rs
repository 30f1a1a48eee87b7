//! `exec`: one more process in a running container.

use super::args::{ArgsError, Parsed};
use super::bundle::CONFIG_BYTES_MAX;
use super::error::CliError;
use super::state::{Folder, Record, Status, read_bounded};
use super::{Global, cgroup, console, create, list, supervise};
use berth_runtime::{ExecRequest, Stdio};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};
use rustix::fd::AsFd;
use rustix::process::{Pid, PidfdFlags};
use std::process::ExitCode;

pub(crate) fn exec(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let Some((id, args)) = flags.rest.split_first() else {
        return Err(ArgsError::Count { command: "exec", what: "needs a container's ID" }.into());
    };
    if flags.get("cgroup").is_some_and(|path| !path.is_empty()) {
        return Err(CliError::NotSupported { what: "--cgroup", why: "processes join the container's own cgroup" });
    }
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    match list::status(&folder, &record) {
        Status::Running | Status::Created => {}
        Status::Paused if flags.has("ignore-paused") => {}
        Status::Stopped => return Err(CliError::NotRunning),
        status => return Err(CliError::WrongStatus { action: "exec into", id: id.clone(), status: status.word() }),
    }
    let spec = container_spec(&folder)?;
    let process = process(flags, args, &spec)?;
    let terminal = process.terminal().unwrap_or(false);
    let console = flags.path("console-socket").map(|path| console::connect(&path)).transpose()?;
    let detach = flags.has("detach");
    if terminal && detach && console.is_none() {
        return Err(CliError::Config("a detached process with a terminal needs --console-socket".to_owned()));
    }
    start(&record, flags, &spec, &process, console, detach)
}

fn start(
    record: &Record,
    flags: &Parsed,
    spec: &Spec,
    process: &Process,
    console: Option<rustix::fd::OwnedFd>,
    detach: bool,
) -> Result<ExitCode, CliError> {
    let signals =
        (!detach).then(berth_sys::signals::all_as_descriptor).transpose().map_err(CliError::sys("take signals"))?;
    let pid = Pid::from_raw(record.pid).ok_or(CliError::NotRunning)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| CliError::NotRunning)?;
    if !record.is_alive() {
        return Err(CliError::NotRunning);
    }
    let entry = cgroup::entry_of(record)?;
    let stdio = if process.terminal().unwrap_or(false) {
        let narrow = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        let (rows, columns) =
            process.console_size().map_or_else(console::own_size, |size| (narrow(size.height()), narrow(size.width())));
        Stdio::Terminal { rows, columns }
    } else {
        Stdio::Inherit
    };
    let mut running = berth_runtime::exec(ExecRequest {
        id: &record.id,
        bundle: &record.bundle,
        pid: record.pid,
        pidfd: pidfd.as_fd(),
        spec,
        process,
        stdio,
        cgroup: cgroup::borrow(&entry),
        seccomp_profile: None,
        seccomp_cache: None,
        preserve_fds: create::preserved(flags)?,
    })
    .map_err(CliError::part("exec in the container"))?;
    let mut terminal = running.terminal.take();
    if let (Some(console), Some(master)) = (&console, terminal.take_if(|_| console.is_some())) {
        console::send(console, &master)?;
    }
    create::write_pid_file(flags, running.pid)?;
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
    supervise::wait(&running.pidfd, &signals, terminal)
}

/// The configuration as it was at create.
fn container_spec(folder: &Folder) -> Result<Spec, CliError> {
    let path = folder.path.join("config.json");
    let text = read_bounded(&path, CONFIG_BYTES_MAX).map_err(CliError::file("read", &path))?;
    serde_json::from_slice(&text).map_err(CliError::json(&path))
}

/// The process of `--process`, or the container's own with what the flags change.
fn process(flags: &Parsed, args: &[String], spec: &Spec) -> Result<Process, CliError> {
    let mut process = match flags.path("process") {
        Some(path) => {
            let text = read_bounded(&path, CONFIG_BYTES_MAX).map_err(CliError::file("read", &path))?;
            serde_json::from_slice(&text).map_err(CliError::json(&path))?
        }
        None => {
            let Some(mut process) = spec.process().clone() else {
                return Err(CliError::Config("process is missing".to_owned()));
            };
            if args.is_empty() {
                return Err(ArgsError::Count { command: "exec", what: "needs a program" }.into());
            }
            process.set_args(Some(args.to_vec()));
            process.set_terminal(Some(false));
            process.set_console_size(None);
            process
        }
    };
    if flags.has("tty") {
        process.set_terminal(Some(true));
    }
    if let Some(directory) = flags.path("cwd") {
        process.set_cwd(directory);
    }
    if flags.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = flags.get("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = flags.get("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    for entry in flags.all("env") {
        process.env_mut().get_or_insert_default().push(entry.to_owned());
    }
    if let Some(text) = flags.get("user") {
        let wrong = || ArgsError::BadValue { flag: "user", value: text.to_owned(), wanted: "UID or UID:GID" };
        let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
        process.user_mut().set_uid(uid.parse().map_err(|_| wrong())?);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid.parse().map_err(|_| wrong())?);
        }
    }
    for gid in flags.all("additional-gids") {
        let wrong = || ArgsError::BadValue { flag: "additional-gids", value: gid.to_owned(), wanted: "a number" };
        let gid = gid.parse().map_err(|_| wrong())?;
        process.user_mut().additional_gids_mut().get_or_insert_default().push(gid);
    }
    add_capabilities(flags, &mut process)?;
    Ok(process)
}

/// runc's `--cap`: into all sets but the inheritable one; into ambient only what is inheritable.
fn add_capabilities(flags: &Parsed, process: &mut Process) -> Result<(), CliError> {
    let mut sets: LinuxCapabilities = match process.capabilities() {
        Some(sets) => sets.clone(),
        None => serde_json::from_str("{}").map_err(CliError::json("capabilities"))?,
    };
    let mut changed = false;
    for name in flags.all("cap") {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let wrong = |_| ArgsError::BadValue { flag: "cap", value: name.to_owned(), wanted: "a capability" };
        let capability: Capability = serde_json::from_value(full.into()).map_err(wrong)?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        changed = true;
    }
    if changed {
        process.set_capabilities(Some(sets));
    }
    Ok(())
}
