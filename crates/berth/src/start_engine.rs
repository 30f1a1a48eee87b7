//! Starts an engine when none runs.
//!
//! Only for the socket that nobody chose, only as root, only with a `berthd` that stands beside this
//! program or in PATH. The engine gets a session of its own and its log in `<data-root>/berthd.log`; this
//! command waits until it answers, at most [`DEADLINE`].

use crate::client::endpoint::Endpoint;
use crate::error::{CliError, Result, plain};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A cold engine with many containers needs a second at most; a host that swaps may need a few.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long the socket may still appear after our engine has ended.
const AFTER_END: Duration = Duration::from_secs(1);
const DATA_ROOT: &str = "/var/lib/berth";

pub(crate) async fn start(endpoint: &Endpoint, why: &io::Error) -> Result<()> {
    let no_engine =
        || format!("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running? ({})", plain(why));
    if !rustix::process::geteuid().is_root() {
        return Err(
            CliError::failed(no_engine()).with_hint("as root, berth starts an engine by itself: sudo berth ...")
        );
    }
    let Some(program) = find_engine() else {
        return Err(CliError::failed(no_engine())
            .with_hint("berthd is neither beside berth nor in PATH; install it, or name an engine with -H"));
    };
    let log_path = Path::new(DATA_ROOT).join("berthd.log");
    std::fs::create_dir_all(DATA_ROOT).map_err(|e| CliError::io(format!("cannot make {DATA_ROOT}"), e))?;
    let open_log = || OpenOptions::new().create(true).append(true).open(&log_path);
    let log = open_log().map_err(|e| CliError::io(format!("cannot open {}", log_path.display()), e))?;
    let log_too = log.try_clone().map_err(|e| CliError::io("cannot share the log", e))?;
    // The engine must not end with this terminal. setsid(2) between fork and exec would need unsafe
    // code; setsid(1) does the same and is part of every system (util-linux).
    let mut command = match which("setsid") {
        Some(setsid) => {
            let mut command = Command::new(setsid);
            command.arg(&program);
            command
        }
        None => {
            let mut command = Command::new(&program);
            command.process_group(0);
            command
        }
    };
    command.stdin(Stdio::null()).stdout(log).stderr(log_too).current_dir("/");
    let mut child = command.spawn().map_err(|e| CliError::io(format!("cannot start {}", program.display()), e))?;
    let mut deadline = Instant::now() + DEADLINE;
    let mut ended = None;
    while endpoint.try_open().await.is_err() {
        // Another command may have started one at the same moment, which makes ours end: its socket counts too.
        if ended.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            ended = Some(status);
            deadline = deadline.min(Instant::now() + AFTER_END);
        }
        if Instant::now() > deadline {
            let what = match ended {
                Some(status) => format!("{} ended at once ({status})", program.display()),
                None => format!("{} did not answer within {} s", program.display(), DEADLINE.as_secs()),
            };
            return Err(CliError::failed(what).with_hint(format!("its log: {}", log_path.display())));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(io::Write::write_all(
        &mut io::stderr(),
        format!("berth: started an engine ({}, log {})\n", program.display(), log_path.display()).as_bytes(),
    ));
    Ok(())
}

fn find_engine() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name("berthd");
    if beside.is_file() { Some(beside) } else { which("berthd") }
}

pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|p| p.is_absolute()).map(|p| p.join(name)).find(|p| p.is_file())
}
