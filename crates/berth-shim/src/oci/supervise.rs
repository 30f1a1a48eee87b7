//! `run` and `exec` in the foreground: wait for the process, pass signals on, carry its terminal.

use super::console::{Carrier, RawMode, copy_size};
use super::error::CliError;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};
use std::process::ExitCode;

/// How a process ended, as a shell says it: its exit code, or 128 and the signal.
pub(crate) fn wait(pidfd: &OwnedFd, signals: &OwnedFd, terminal: Option<OwnedFd>) -> Result<ExitCode, CliError> {
    let raw_mode = terminal.is_some().then(RawMode::enter);
    let mut carrier = terminal.map(Carrier::new).transpose()?;
    loop {
        let ready = {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            fds.extend(carrier.iter().flat_map(Carrier::poll_fds));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(CliError::Sys { step: "wait for the process", errno }),
            }
            !fds[0].revents().is_empty()
        };
        while let Some(signal) =
            berth_sys::signals::next_signal(signals.as_fd()).map_err(CliError::sys("read signals"))?
        {
            pass_on(signal, pidfd, carrier.as_ref())?;
        }
        if let Some(carrier) = &mut carrier {
            carrier.carry()?;
        }
        if ready {
            break;
        }
    }
    if let Some(carrier) = carrier {
        carrier.finish()?;
    }
    drop(raw_mode);
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .map_err(CliError::sys("wait for the process"))?;
    let code = status
        .and_then(|status| status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)));
    Ok(ExitCode::from(u8::try_from(code.unwrap_or(255)).unwrap_or(255)))
}

fn pass_on(signal: i32, pidfd: &OwnedFd, carrier: Option<&Carrier>) -> Result<(), CliError> {
    match signal {
        libc_numbers::SIGWINCH => {
            if let Some(carrier) = carrier {
                copy_size(&carrier.terminal);
            }
        }
        // Of our own doing, or about our own terminal.
        libc_numbers::SIGCHLD | libc_numbers::SIGPIPE | libc_numbers::SIGURG => {}
        signal => match berth_sys::signals::pidfd_send_signal(pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(CliError::Sys { step: "pass a signal on", errno }),
        },
    }
    Ok(())
}

mod libc_numbers {
    pub(super) const SIGPIPE: i32 = 13;
    pub(super) const SIGCHLD: i32 = 17;
    pub(super) const SIGURG: i32 = 23;
    pub(super) const SIGWINCH: i32 = 28;
}
