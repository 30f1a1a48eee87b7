//! `create`, and `run`: a bundle becomes a container.
//!
//! Order: read and check the configuration, claim the folder, make the cgroup, clone (hooks run while the
//! child waits), hand over the terminal, record, write the pid file. Whatever fails takes back what was done
//! before it: the guards [`Claimed`] and the runtime's own `Created` do so when dropped.

use super::args::Parsed;
use super::bundle::Bundle;
use super::error::{CliError, render};
use super::state::{About, Folder, Record, Status};
use super::{Global, cgroup, console, delete, start, supervise};
use berth_runtime::hooks;
use berth_runtime::{CreateRequest, Created, Stdio};
use berth_types::mount::Rootfs;
use rustix::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A folder and a cgroup that go away again unless the container came to be.
struct Claimed<'a> {
    global: &'a Global,
    folder: Folder,
    cgroup: cgroup::Made,
    kept: bool,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for undone in [self.cgroup.remove(), self.folder.remove()] {
            if let Err(error) = undone {
                self.global.log.warn(&render(&error));
            }
        }
    }
}

pub(crate) fn create(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let id = flags.only_id("create")?;
    let bundle = Bundle::load(flags)?;
    if bundle.terminal() && flags.path("console-socket").is_none() {
        return Err(CliError::Config("process.terminal needs --console-socket with create".to_owned()));
    }
    if !bundle.terminal() && flags.path("console-socket").is_some() {
        return Err(CliError::Config("--console-socket needs process.terminal".to_owned()));
    }
    let console = flags.path("console-socket").map(|path| console::connect(&path)).transpose()?;
    let mut claimed = claim(global, id, &bundle)?;
    let listener = start::listen(&claimed.folder)?;
    let (created, record) = launch(&claimed, id, &bundle, flags, Some(listener))?;
    if let (Some(console), Some(terminal)) = (&console, &created.terminal) {
        console::send(console, terminal)?;
    }
    write_pid_file(flags, record.pid)?;
    claimed.folder.save(&record)?;
    created.detach();
    claimed.kept = true;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let id = flags.only_id("run")?;
    let bundle = Bundle::load(flags)?;
    let detach = flags.has("detach");
    let console = flags.path("console-socket").map(|path| console::connect(&path)).transpose()?;
    if detach && bundle.terminal() && console.is_none() {
        return Err(CliError::Config("process.terminal needs --console-socket with --detach".to_owned()));
    }
    let mut claimed = claim(global, id, &bundle)?;
    // Before the clone, so that no signal falls between; the child unblocks all.
    let signals =
        (!detach).then(berth_sys::signals::all_as_descriptor).transpose().map_err(CliError::sys("take signals"))?;
    let (mut created, record) = launch(&claimed, id, &bundle, flags, None)?;
    let mut terminal = created.terminal.take();
    if let (Some(console), Some(master)) = (&console, terminal.take_if(|_| console.is_some())) {
        console::send(console, &master)?;
    }
    write_pid_file(flags, record.pid)?;
    claimed.folder.save(&record)?;
    let running = created.start().map_err(CliError::part("start the container"))?;
    if let Err(error) = hooks::run("poststart", Some(&record.poststart), &record.oci_state(Status::Running).to_string())
    {
        global.log.warn(&render(&error));
    }
    claimed.kept = true;
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
    let code = supervise::wait(&running.pidfd, &signals, terminal);
    if !flags.has("keep") {
        delete::clean(global, &claimed.folder, &record)?;
    }
    code
}

fn claim<'a>(global: &'a Global, id: &str, bundle: &Bundle) -> Result<Claimed<'a>, CliError> {
    let folder = Folder::create(&global.root, id)?;
    let mut claimed = Claimed { global, folder, cgroup: cgroup::Made::none(), kept: false };
    claimed.cgroup = cgroup::make(global, id, &bundle.spec)?;
    let copy = claimed.folder.path.join("config.json");
    std::fs::write(&copy, &bundle.text).map_err(CliError::file("write", &copy))?;
    Ok(claimed)
}

fn launch(
    claimed: &Claimed<'_>,
    id: &str,
    bundle: &Bundle,
    flags: &Parsed,
    listener: Option<OwnedFd>,
) -> Result<(Created, Record), CliError> {
    let hooks = bundle.spec.hooks().clone().unwrap_or_default();
    let of = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
    let about = |pid| {
        Record::new(
            About {
                id,
                oci_version: bundle.spec.version(),
                bundle: &bundle.path,
                rootfs: bundle.rootfs.clone(),
                cgroup: claimed.cgroup.path(),
                annotations: bundle.spec.annotations().clone().unwrap_or_default(),
                poststart: of(hooks.poststart()),
                poststop: of(hooks.poststop()),
            },
            pid,
        )
    };
    let entry = claimed.cgroup.entry()?;
    let seccomp_cache = claimed.global.root.join("seccomp");
    let created = berth_runtime::create(CreateRequest {
        id,
        spec: &bundle.spec,
        bundle: &bundle.path,
        rootfs: &Rootfs::Directory { path: bundle.rootfs.clone() },
        stdio: stdio(bundle)?,
        cgroup: cgroup::borrow(&entry),
        init: false,
        seccomp_profile: None,
        seccomp_cache: Some(&seccomp_cache),
        preserve_fds: preserved(flags)?,
        start_socket: listener.as_ref().map(AsFd::as_fd),
        keyring: !flags.has("no-new-keyring"),
    })
    .map_err(CliError::part("create the container"))?;
    let record = about(created.pid);
    Ok((created, record))
}

fn stdio(bundle: &Bundle) -> Result<Stdio, CliError> {
    if !bundle.terminal() {
        return Ok(Stdio::Inherit);
    }
    let asked = bundle.spec.process().as_ref().and_then(|process| process.console_size());
    let narrow = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let (rows, columns) = match asked {
        Some(size) => (narrow(size.height()), narrow(size.width())),
        None => console::own_size(),
    };
    Ok(Stdio::Terminal { rows, columns })
}

/// How many descriptors from 3 on the program gets: `--preserve-fds` and those of socket activation.
pub(crate) fn preserved(flags: &Parsed) -> Result<u32, CliError> {
    let listen = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
    Ok(flags.number::<u32>("preserve-fds")?.unwrap_or(0).saturating_add(listen))
}

/// Written beside and renamed: a caller that waits for the file never reads half a number.
pub(crate) fn write_pid_file(flags: &Parsed, pid: i32) -> Result<(), CliError> {
    let Some(path) = flags.path("pid-file") else { return Ok(()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new: PathBuf = path.parent().unwrap_or(Path::new("")).join(format!(".{name}.new"));
    std::fs::write(&new, pid.to_string()).map_err(CliError::file("write the pid file", &new))?;
    std::fs::rename(&new, &path).map_err(CliError::file("write the pid file", &path))
}
