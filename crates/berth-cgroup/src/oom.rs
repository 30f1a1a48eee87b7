//! Memory shortage: being told when the kernel kills for it, and what there was at the end.

use crate::files::{read_number, try_read};
use crate::{Cgroup, CgroupError, Controller, v1};
use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// Becomes readable when memory ran out inside; level-triggered until [`OomEvents::clear`].
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomEvents {
    /// Takes what has come; ask [`Cgroup::oom_kills`] whether somebody was killed: v1 also tells of the
    /// cgroup's removal, v2 of other marks that were passed.
    pub fn clear(&self) -> Result<(), Errno> {
        let mut bytes = [0_u8; 4096];
        match rustix::io::read(&self.fd, &mut bytes) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// What `why` wants to know of a container that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitFacts {
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// `None`: unlimited, or not known here.
    pub memory_limit_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
}

impl Cgroup {
    /// `None` where no memory controller is.
    pub fn oom_events(&self) -> Result<Option<OomEvents>, CgroupError> {
        let watch = |dir: &Path| {
            let path = dir.to_owned();
            move |errno| CgroupError::Watch { path, errno }
        };
        if let Some(folder) = self.v1_folder(Controller::Memory) {
            return watch_v1(&folder.dir).map(Some).map_err(watch(&folder.dir));
        }
        if let Some(dir) = self.v2_for(Controller::Memory) {
            return watch_v2(dir).map(Some).map_err(watch(dir));
        }
        Ok(None)
    }

    /// Processes killed for want of memory so far.
    pub fn oom_kills(&self) -> u64 {
        let (dir, name) = match (self.v1_folder(Controller::Memory), self.v2_for(Controller::Memory)) {
            (Some(folder), _) => (folder.dir.as_path(), "memory.oom_control"),
            (None, Some(dir)) => (dir, "memory.events"),
            (None, None) => return 0,
        };
        let Ok(text) = try_read(dir, name) else { return 0 };
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// To be asked before the cgroup goes.
    pub fn exit_facts(&self) -> ExitFacts {
        let mut facts = ExitFacts { oom_kills: self.oom_kills(), ..ExitFacts::default() };
        if let Some(folder) = self.v1_folder(Controller::Memory) {
            facts.memory_limit_bytes = v1::limit_of(&folder.dir, "memory.limit_in_bytes");
            facts.memory_peak_bytes = read_number(&folder.dir, "memory.max_usage_in_bytes");
        } else if let Some(dir) = self.v2_for(Controller::Memory) {
            facts.memory_limit_bytes = read_number(dir, "memory.max");
            facts.memory_peak_bytes = read_number(dir, "memory.peak");
        }
        facts
    }
}

/// cgroup-v1/memory.rst, "OOM control": an eventfd registered with the file's descriptor.
fn watch_v1(dir: &Path) -> Result<OomEvents, Errno> {
    let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = rustix::fs::open(dir.join("memory.oom_control"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut line = String::new();
    write!(line, "{} {}", fd.as_raw_fd(), control.as_raw_fd()).expect("a String takes any text");
    let register = rustix::fs::open(dir.join("cgroup.event_control"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&register, line.as_bytes())?;
    Ok(OomEvents { fd })
}

fn watch_v2(dir: &Path) -> Result<OomEvents, Errno> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
    Ok(OomEvents { fd })
}
