//! The OCI runtime command line: `berth-runtime create | start | state | kill | delete | ...`.
//!
//! ```text
//! create ── clone3 ──▶ container's process: mounts, pivots, listens on <root>/<id>/start.sock
//!   │ writes state.json, the pid file; ends                │
//! start ── connects to start.sock ───────────────────────▶ accepts, executes the program
//!   │ reads until the socket closes (exec) or says why not
//! kill, exec, ps, pause, update, state ── pid + start time, cgroup ──▶
//! delete ── cgroup, folder, poststop hooks
//! ```
//!
//! A drop-in for runc and crun: podman (`--runtime`), dockerd (`--add-runtime`) and containerd's runc shim
//! call it with the flags listed in [`run`]. It keeps no process of its own between commands; what it knows
//! is in [`state`]. Several commands may work on one container at once; the kernel decides races (a container
//! is created once because its folder is; it is started once because its process accepts once).

mod args;
mod bundle;
mod cgroup;
mod console;
mod create;
mod delete;
mod error;
mod events;
mod exec;
mod kill;
mod list;
mod log;
mod pause;
mod ps;
mod signal;
mod spec;
mod start;
mod state;
mod supervise;
mod update;

use args::{Flag, parse, switch, takes};
use error::CliError;
use log::Log;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the flags before the command say.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) root: PathBuf,
    pub(crate) log: Log,
    /// The containers of a user who is not root: cgroups that cannot be made are done without.
    pub(crate) rootless: bool,
    /// `--cgroup-manager=disabled`: the caller wants no cgroups (crun's word, podman uses it).
    pub(crate) without_cgroups: bool,
}

const GLOBAL: &[Flag] = &[
    takes("root", None, "DIR", "where containers' states are kept (default /run/berth-runtime)"),
    takes("log", None, "FILE", "write errors and warnings there"),
    takes("log-format", None, "text|json", "form of the log's lines"),
    switch("debug", None, "accepted; there is nothing more to say"),
    switch("systemd-cgroup", None, "refused: cgroups are made directly"),
    takes("cgroup-manager", None, "NAME", "cgroupfs or disabled"),
    takes("rootless", None, "true|false|auto", "go on where cgroups cannot be made"),
    switch("version", Some('v'), "print the version"),
    switch("help", Some('h'), "print this"),
];

const ID_ONLY: &[Flag] = &[];
const BUNDLE: Flag = takes("bundle", Some('b'), "DIR", "the folder with config.json (default .)");
const CONSOLE: Flag = takes("console-socket", None, "PATH", "send the terminal's master to this socket");
const PID_FILE: Flag = takes("pid-file", None, "FILE", "write the process's pid there");
const PRESERVE: Flag = takes("preserve-fds", None, "N", "pass N more descriptors from 3 on");
const NO_PIVOT: Flag = switch("no-pivot", None, "refused: only pivot_root is safe");
const NO_KEYRING: Flag = switch("no-new-keyring", None, "keep the caller's session keyring");
const DETACH: Flag = switch("detach", Some('d'), "return once the program runs");

const CREATE: &[Flag] = &[BUNDLE, CONSOLE, PID_FILE, PRESERVE, NO_PIVOT, NO_KEYRING];
const RUN: &[Flag] = &[
    BUNDLE,
    CONSOLE,
    PID_FILE,
    PRESERVE,
    NO_PIVOT,
    NO_KEYRING,
    DETACH,
    switch("keep", None, "keep the container after it stopped"),
    switch("no-subreaper", None, "do not adopt the container's orphans"),
];
const EXEC: &[Flag] = &[
    CONSOLE,
    PID_FILE,
    PRESERVE,
    DETACH,
    switch("tty", Some('t'), "give the process a terminal"),
    takes("process", Some('p'), "FILE", "the process as JSON"),
    takes("cwd", None, "DIR", "working directory in the container"),
    takes("env", Some('e'), "KEY=VALUE", "set a variable (repeatable)"),
    takes("user", Some('u'), "UID[:GID]", "user"),
    takes("additional-gids", Some('g'), "GID", "one more group (repeatable)"),
    takes("cap", Some('c'), "CAP_X", "add a capability (repeatable)"),
    switch("no-new-privs", None, "set no_new_privs"),
    takes("apparmor", None, "PROFILE", "AppArmor profile"),
    takes("process-label", None, "LABEL", "SELinux label"),
    takes("cgroup", None, "PATH", "refused: processes join the container's own cgroup"),
    switch("ignore-paused", None, "exec into a paused container waits instead of failing"),
    switch("no-subreaper", None, "accepted; nothing is adopted"),
];
const KILL: &[Flag] = &[switch("all", Some('a'), "every process of the container")];
const DELETE: &[Flag] = &[switch("force", Some('f'), "kill it first; no error when there is none")];
const LIST: &[Flag] = &[takes("format", Some('f'), "table|json", "form"), switch("quiet", Some('q'), "only IDs")];
const PS: &[Flag] = &[takes("format", Some('f'), "table|json", "form")];
const EVENTS: &[Flag] = &[
    switch("stats", None, "print the numbers once"),
    takes("interval", None, "TIME", "time between two sets of numbers (default 5s)"),
];
const SPEC: &[Flag] = &[BUNDLE, switch("rootless", None, "for a user who is not root")];
const UPDATE: &[Flag] = &[
    takes("resources", Some('r'), "FILE", "linux.resources as JSON; - is standard input"),
    takes("memory", None, "BYTES", "memory limit"),
    takes("memory-swap", None, "BYTES", "memory and swap together, -1: no limit"),
    takes("memory-reservation", None, "BYTES", "soft memory limit"),
    takes("cpu-share", None, "N", "relative weight"),
    takes("cpu-shares", None, "N", "relative weight"),
    takes("cpu-period", None, "MICROSECONDS", "period of the quota"),
    takes("cpu-quota", None, "MICROSECONDS", "time in each period"),
    takes("cpu-burst", None, "MICROSECONDS", "time saved up for later periods"),
    takes("cpu-idle", None, "0|1", "run only when nothing else does"),
    takes("cpuset-cpus", None, "LIST", "processors"),
    takes("cpuset-mems", None, "LIST", "memory nodes"),
    takes("pids-limit", None, "N", "processes at most, -1: no limit"),
    takes("blkio-weight", None, "N", "relative weight of IO"),
];

/// The program. Exit status 0, that of the container's process (`run`, `exec`), or 1 with a message.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words = match args::words(words) {
        Ok(words) => words,
        Err(error) => {
            Log::default().fail(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let mut log = Log::default();
    match run(&words, &mut log) {
        Ok(code) => code,
        Err(error) => {
            log.fail(&error::render(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String], log: &mut Log) -> Result<ExitCode, CliError> {
    let flags = parse(words, GLOBAL, true)?;
    log.path = flags.path("log");
    log.json = flags.get("log-format") == Some("json");
    if flags.has("version") {
        println!("berth-runtime version {}\nspec: {}", env!("CARGO_PKG_VERSION"), spec::OCI_VERSION);
        return Ok(ExitCode::SUCCESS);
    }
    let Some((command, words)) = flags.rest.split_first().filter(|_| !flags.has("help")) else {
        help();
        return Ok(ExitCode::SUCCESS);
    };
    if flags.has("systemd-cgroup") || flags.get("cgroup-manager") == Some("systemd") {
        return Err(CliError::NotSupported {
            what: "the systemd cgroup driver",
            why: "cgroups are made directly; use the cgroupfs driver (podman --cgroup-manager=cgroupfs, dockerd --exec-opt native.cgroupdriver=cgroupfs)",
        });
    }
    let rootless = match flags.get("rootless") {
        Some("true") => true,
        Some("false") => false,
        _ => !rustix::process::geteuid().is_root(),
    };
    let global = Global {
        root: flags.path("root").unwrap_or_else(|| default_root(rootless)),
        log: std::mem::take(log),
        rootless,
        without_cgroups: flags.get("cgroup-manager") == Some("disabled"),
    };
    let done = dispatch(&global, command, words);
    *log = global.log;
    done
}

fn default_root(rootless: bool) -> PathBuf {
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| rootless);
    of_user.map_or_else(|| Path::new("/run").to_owned(), PathBuf::from).join("berth-runtime")
}

fn dispatch(global: &Global, command: &str, words: &[String]) -> Result<ExitCode, CliError> {
    let flags = |table, stop_early| parse(words, table, stop_early);
    match command {
        "create" => create::create(global, &flags(CREATE, false)?),
        "run" => create::run(global, &flags(RUN, false)?),
        "start" => start::start(global, flags(ID_ONLY, false)?.only_id("start")?),
        "exec" => exec::exec(global, &flags(EXEC, true)?),
        "state" => list::state(global, flags(ID_ONLY, false)?.only_id("state")?),
        "list" => list::list(global, &flags(LIST, false)?),
        "ps" => ps::ps(global, &flags(PS, true)?),
        "kill" => kill::kill(global, &flags(KILL, false)?),
        "delete" => delete::delete(global, &flags(DELETE, false)?),
        "pause" => pause::pause(global, flags(ID_ONLY, false)?.only_id("pause")?),
        "resume" => pause::resume(global, flags(ID_ONLY, false)?.only_id("resume")?),
        "update" => update::update(global, &flags(UPDATE, false)?),
        "events" => events::events(global, &flags(EVENTS, false)?),
        "spec" => {
            let flags = flags(SPEC, false)?;
            let bundle = flags.path("bundle").unwrap_or_else(|| PathBuf::from("."));
            spec::write(&bundle, flags.has("rootless")).map(|()| ExitCode::SUCCESS)
        }
        "features" => {
            println!("{:#}", spec::features());
            Ok(ExitCode::SUCCESS)
        }
        "checkpoint" | "restore" => Err(CliError::NotSupported {
            what: "checkpoint and restore",
            why: "processes are not frozen to disk by this runtime; stop and start the container instead",
        }),
        "help" => {
            help();
            Ok(ExitCode::SUCCESS)
        }
        other => Err(CliError::UnknownCommand(other.to_owned())),
    }
}

fn help() {
    let print = |name: &str, table: &[Flag]| {
        println!("\n{name}");
        for flag in table {
            let short = flag.short.map_or(String::new(), |short| format!("-{short}, "));
            println!("  {:<32} {}", format!("{short}--{} {}", flag.long, flag.value), flag.help);
        }
    };
    println!(
        "berth-runtime: makes and controls containers from OCI bundles\n\nusage: berth-runtime [FLAG...] COMMAND [FLAG...] ID"
    );
    print("flags before the command", GLOBAL);
    print("create ID: make a container that waits for start", CREATE);
    print("run ID: create, start, wait for the program and delete", RUN);
    print("exec ID PROGRAM [ARG...]: run a process in a container", EXEC);
    print("kill ID [SIGNAL]: send a signal (default TERM)", KILL);
    print("delete ID", DELETE);
    print("update ID: change limits", UPDATE);
    print("list", LIST);
    print("ps ID [FLAGS OF ps]", PS);
    print("events ID", EVENTS);
    print("spec: write a config.json to start from", SPEC);
    println!("\nstart ID, state ID, pause ID, resume ID, features: no flags");
}
