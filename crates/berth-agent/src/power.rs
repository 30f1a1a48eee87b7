//! Switching a whole system off, in the order that it has for that.
//!
//! Only its own first process can end its services. systemd is told by its signal, which needs neither a program nor a bus
//! that answers; every other one brings a program `poweroff` that knows how to tell it.

use berth_agent_proto::{Failure, FailureKind};
use std::process::{Command, Stdio};

/// sd_booted(3): systemd is the first process.
const SYSTEMD: &str = "/run/systemd/system";
/// systemd(1): SIGRTMIN+4 starts poweroff.target. SIGRTMIN is 34, whichever C library the system has.
const SYSTEMD_POWER_OFF: i32 = 38;
const FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Asks; that it happens shows itself.
pub(crate) fn ask_system() -> Result<(), Failure> {
    let failed = |what: String| Failure::new(FailureKind::Internal, what);
    if std::path::Path::new(SYSTEMD).is_dir() {
        return berth_sys::privileges::kill(1, SYSTEMD_POWER_OFF)
            .map_err(|errno| failed(format!("cannot tell systemd to switch the machine off: {errno}")));
    }
    // Nobody waits for it: what it starts ends us too.
    Command::new("poweroff")
        .env("PATH", FOLDERS)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
        .map_err(|cause| failed(format!("cannot start poweroff: {cause}")))
}
