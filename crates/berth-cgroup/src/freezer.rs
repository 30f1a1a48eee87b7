//! Freezing: every process of a cgroup stands still, and knows nothing of it.

use crate::files::{read, try_read, try_write, write};
use crate::{Cgroup, CgroupError, Controller};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;
use std::time::{Duration, Instant};

impl Cgroup {
    /// Stops all processes. After `deadline` everything runs again and the error says so: a process that waits
    /// in the kernel (for a dead network disk) cannot be frozen.
    pub fn freeze(&self, deadline: Duration) -> Result<(), CgroupError> {
        let (dir, frozen) = if let Some(dir) = self.v2_for(Controller::Freezer) {
            write(dir, "cgroup.freeze", "1").map_err(no_freezer)?;
            (dir, wait_v2(dir, deadline)?)
        } else if let Some(folder) = self.v1_folder(Controller::Freezer) {
            (folder.dir.as_path(), freeze_v1(&folder.dir, deadline)?)
        } else {
            return Err(CgroupError::NoFreezer);
        };
        if frozen {
            return Ok(());
        }
        self.thaw()?;
        Err(CgroupError::NotFrozen { path: dir.to_owned(), deadline })
    }

    /// Lets all processes run again.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        if let Some(dir) = self.v2_for(Controller::Freezer) {
            write(dir, "cgroup.freeze", "0").map_err(no_freezer)
        } else if let Some(folder) = self.v1_folder(Controller::Freezer) {
            write(&folder.dir, "freezer.state", "THAWED")
        } else {
            Err(CgroupError::NoFreezer)
        }
    }

    /// Whether all processes stand still, or are asked to.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        if let Some(dir) = self.v2_for(Controller::Freezer) {
            Ok(read(dir, "cgroup.freeze").map_err(no_freezer)?.trim() == "1")
        } else if let Some(folder) = self.v1_folder(Controller::Freezer) {
            Ok(read(&folder.dir, "freezer.state")?.trim() != "THAWED")
        } else {
            Err(CgroupError::NoFreezer)
        }
    }
}

/// cgroup.freeze came with Linux 5.2.
fn no_freezer(error: CgroupError) -> CgroupError {
    if error.errno() == Some(Errno::NOENT.raw_os_error()) { CgroupError::NoFreezer } else { error }
}

fn wait_v2(dir: &Path, deadline: Duration) -> Result<bool, CgroupError> {
    let started = Instant::now();
    let failed = |errno| CgroupError::Read { file: dir.join("cgroup.events"), errno };
    let events =
        rustix::fs::open(dir.join("cgroup.events"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    loop {
        let mut text = [0_u8; 256];
        let count = rustix::io::pread(&events, &mut text, 0).map_err(failed)?;
        if text[..count].windows(8).any(|word| word == b"frozen 1") {
            return Ok(true);
        }
        let left = deadline.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        // kernfs tells of a change by POLLPRI.
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

fn freeze_v1(dir: &Path, deadline: Duration) -> Result<bool, CgroupError> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(20);
    for round in 1_u32.. {
        write(dir, "freezer.state", "FROZEN")?;
        if read(dir, "freezer.state")?.trim() == "FROZEN" {
            return Ok(true);
        }
        if started.elapsed() > deadline {
            return Ok(false);
        }
        // A process caught while forking can stay FREEZING for good; letting go for a moment helps (as runc does).
        if round % 50 == 0 && try_write(dir, "freezer.state", "THAWED").is_ok() {
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    Ok(false)
}

/// For those who must know it without touching it.
pub(crate) fn self_frozen(dir: &Path) -> bool {
    try_read(dir, "freezer.state").is_ok_and(|state| state.trim() != "THAWED")
        || try_read(dir, "cgroup.freeze").is_ok_and(|state| state.trim() == "1")
}
