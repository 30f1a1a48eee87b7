//! Signals to everybody inside.

use crate::freezer::self_frozen;
use crate::{Cgroup, CgroupError, Controller, files};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::os::fd::AsFd as _;
use std::time::Duration;

const KILL: i32 = 9;
/// A signal to a cgroup that does not freeze goes out anyway, if not at one instant.
const FREEZE_MAX: Duration = Duration::from_millis(500);
/// Rounds of killing processes that are born meanwhile, where nothing can be frozen.
const ROUNDS_MAX: usize = 50;

impl Cgroup {
    /// Sends `signal` to every process inside and below, also to those born meanwhile. A paused cgroup stays
    /// paused, but SIGKILL ends it.
    pub fn kill_all(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == KILL && self.kill_v2() {
            return Ok(());
        }
        let paused = self.folder(Controller::Freezer).is_some_and(self_frozen);
        let frozen = paused || self.freeze(FREEZE_MAX).is_ok();
        let outcome = self.signal_round(signal).map(drop);
        if frozen && (!paused || signal == KILL) {
            self.thaw()?;
        }
        outcome?;
        if signal == KILL && !frozen {
            for _ in 0..ROUNDS_MAX {
                if self.signal_round(signal)? == 0 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// `cgroup.kill` (Linux 5.14) does it in one step, frozen or not. On a mixed host a process may have left
    /// the v2 folder and still be in ours on v1, so there it does not count.
    fn kill_v2(&self) -> bool {
        self.v1.iter().all(|folder| folder.on == [Controller::Systemd])
            && self.v2.as_deref().is_some_and(|dir| files::try_write(dir, "cgroup.kill", "1").is_ok())
    }

    fn signal_round(&self, signal: i32) -> Result<usize, CgroupError> {
        let pids = self.pids()?;
        for &raw in &pids {
            let Some(pid) = Pid::from_raw(raw) else { continue };
            let sent = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .and_then(|pidfd| berth_sys::signals::pidfd_send_signal(pidfd.as_fd(), signal));
            match sent {
                // Ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(CgroupError::Signal { pid: raw, errno }),
            }
        }
        Ok(pids.len())
    }
}
