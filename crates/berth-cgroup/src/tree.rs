//! Folders of a cgroup and below: making, walking, removing.

use crate::CgroupError;
use crate::files::try_read;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A container may nest cgroups; deeper ones are not walked (`cgroup.max.depth` is unlimited by default).
const DEPTH_MAX: usize = 64;
/// Processes that were killed leave their cgroup within this, even on a busy host.
const EXITING_MAX: Duration = Duration::from_secs(5);

/// Makes `dir` and its missing parents, telling of each one made. `false`: it was there.
pub(crate) fn make(dir: &Path, made: &mut dyn FnMut(&Path) -> Result<(), CgroupError>) -> Result<bool, CgroupError> {
    let failed = |errno| CgroupError::Make { path: dir.to_owned(), errno };
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdir(dir, mode) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(false),
        Err(Errno::NOENT) => {
            make(dir.parent().ok_or(failed(Errno::NOENT))?, made)?;
            match rustix::fs::mkdir(dir, mode) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Ok(false),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Err(errno) => return Err(failed(errno)),
    }
    made(dir)?;
    Ok(true)
}

/// Cgroups directly below; none is the rule and costs one call.
fn children(dir: &Path) -> Result<Vec<PathBuf>, Errno> {
    // kernfs counts sub-folders as links, as every Unix filesystem does: two are the folder's own.
    if rustix::fs::stat(dir)?.st_nlink <= 2 {
        return Ok(Vec::new());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entries = rustix::fs::Dir::new(rustix::fs::open(dir, flags, Mode::empty())?)?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            found.push(dir.join(std::ffi::OsStr::new(&*name.to_string_lossy())));
        }
    }
    Ok(found)
}

/// Pids of `dir` and everything below.
pub(crate) fn pids(dir: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    collect_pids(dir, 0, &mut found)?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect_pids(dir: &Path, depth: usize, found: &mut Vec<i32>) -> Result<(), CgroupError> {
    let text = match try_read(dir, "cgroup.procs") {
        Ok(text) => text,
        // Threaded v2 cgroups list their processes at their domain; ENODEV: removed meanwhile.
        Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::NODEV) => String::new(),
        Err(errno) => return Err(CgroupError::Read { file: dir.join("cgroup.procs"), errno }),
    };
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|&pid| pid > 0));
    if depth < DEPTH_MAX {
        for child in children(dir).unwrap_or_default() {
            collect_pids(&child, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Removes `dir` with everything below, waiting while the last processes exit. Gone already is done.
pub(crate) fn remove(dir: &Path) -> Result<(), CgroupError> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        let errno = match rustix::fs::unlinkat(rustix::fs::CWD, dir, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => errno,
        };
        if !matches!(errno, Errno::BUSY | Errno::NOTEMPTY | Errno::INTR) {
            return Err(CgroupError::Remove { path: dir.to_owned(), errno });
        }
        let below = children(dir).unwrap_or_default();
        let had_children = !below.is_empty();
        for child in below {
            remove(&child)?;
        }
        // A process that is there to stay is somebody's mistake, not an exit to wait for.
        if started.elapsed() > EXITING_MAX {
            return Err(CgroupError::Remove { path: dir.to_owned(), errno });
        }
        if !had_children {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}
