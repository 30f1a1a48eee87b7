//! The first process of a container that asked for one: passes signals on and reaps what is orphaned.

use berth_sys::clone::{Forked, exit_now, fork};
use berth_sys::privileges::{block_all_signals, kill, wait_for_signal};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

const SIGCHLD: i32 = 17;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;

/// Which of the two a process is after [`fork_program`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Program,
    Init { program: i32 },
}

/// Signals are blocked before the fork so that none is missed; the program's side unblocks all before its execve.
pub(crate) fn fork_program() -> Result<Role, Errno> {
    block_all_signals()?;
    Ok(match fork(0, None)? {
        Forked::Child => Role::Program,
        Forked::Parent { pid, pidfd } => {
            drop(pidfd);
            Role::Init { program: pid }
        }
    })
}

/// Until the program ends, and with its exit code: 128 and the signal for one that was killed.
pub(crate) fn supervise(program: i32) -> ! {
    // A name for `ps`; without it only that is less clear.
    rustix::thread::set_name(c"berth-init").ok();
    berth_sys::clone::close_all_descriptors();
    loop {
        match wait_for_signal() {
            Ok(SIGCHLD) => reap(program),
            Ok(SIGTTIN | SIGTTOU) | Err(_) => {}
            // It may have just gone: its SIGCHLD is next.
            Ok(signal) => drop(kill(program, signal)),
        }
    }
}

fn reap(program: i32) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == program {
            let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            exit_now(code.unwrap_or(255));
        }
    }
}
