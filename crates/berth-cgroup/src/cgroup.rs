//! One container's cgroup: made, entered, changed, removed.

use crate::devices::Policy;
use crate::hierarchy::Unified;
use crate::{CgroupError, Controller, Hierarchy, Limits, files, tree, v1, v2};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A cgroup in all hierarchies that the host has. Holds paths only; dropping it leaves the cgroup alone.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    /// Absolute, below each mount.
    path: String,
    pub(crate) v1: Vec<V1Folder>,
    pub(crate) v2: Option<PathBuf>,
    warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct V1Folder {
    pub(crate) dir: PathBuf,
    pub(crate) on: Vec<Controller>,
}

/// What the child needs to be inside from its first instruction on.
#[derive(Debug, Default)]
pub struct Entry {
    /// For clone3(2)'s CLONE_INTO_CGROUP.
    pub v2: Option<OwnedFd>,
    /// v1's `tasks` files: the child writes "0". Writing one's own thread spares the kernel the wait for all
    /// threads' agreement that a pid in `cgroup.procs` costs, 5 ms in all.
    pub join_files: Vec<OwnedFd>,
    /// Memory's, where it is alone in its hierarchy: a process may choose when to join it.
    pub join_memory: Option<OwnedFd>,
}

impl Cgroup {
    /// Makes the cgroup with its limits. One that exists is taken over.
    pub fn create(hierarchy: &Hierarchy, path: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        check_path(path)?;
        let mut made = Made::default();
        let mut cgroup = Cgroup {
            hierarchy: hierarchy.clone(),
            path: path.to_owned(),
            v1: Vec::with_capacity(hierarchy.v1.len()),
            v2: None,
            warnings: Vec::new(),
        };
        for (mount, on) in &hierarchy.v1 {
            let dir = below(mount, path);
            if on.iter().any(|controller| controller.always() || v1::needs(limits, *controller)) {
                let fresh = v1::make(mount, &dir, on, &mut made.dirs)?;
                let folder = V1Folder { dir, on: on.clone() };
                v1::write(&folder, limits, fresh, &mut cgroup.warnings)?;
                cgroup.v1.push(folder);
            }
        }
        if let Some(unified) = &hierarchy.v2 {
            let dir = below(&unified.root, path);
            let fresh = v2::make(unified, &dir, &mut made.dirs)?;
            cgroup.v2 = Some(dir);
            cgroup.write_v2(unified, limits, fresh)?;
        }
        v1::warn_missing(hierarchy, limits, &mut cgroup.warnings);
        made.dirs.clear();
        Ok(cgroup)
    }

    /// The cgroup that `create` made, perhaps in another process.
    pub fn open(hierarchy: &Hierarchy, path: &str) -> Result<Cgroup, CgroupError> {
        check_path(path)?;
        let v1: Vec<V1Folder> = hierarchy
            .v1
            .iter()
            .map(|(mount, on)| V1Folder { dir: below(mount, path), on: on.clone() })
            .filter(|folder| folder.dir.is_dir())
            .collect();
        let v2 = hierarchy.v2.as_ref().map(|unified| below(&unified.root, path)).filter(|dir| dir.is_dir());
        if v1.is_empty() && v2.is_none() {
            return Err(CgroupError::Open { path: path.into(), errno: Errno::NOENT });
        }
        Ok(Cgroup { hierarchy: hierarchy.clone(), path: path.to_owned(), v1, v2, warnings: Vec::new() })
    }

    /// Relative to each hierarchy's mount.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Limits that this host does not keep, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where `controller` of this cgroup is, on v1 or v2.
    pub fn folder(&self, controller: Controller) -> Option<&Path> {
        match self.v1_folder(controller) {
            Some(folder) => Some(&folder.dir),
            None if self.hierarchy.v2_has(controller) => self.v2.as_deref(),
            None => None,
        }
    }

    pub(crate) fn v1_folder(&self, controller: Controller) -> Option<&V1Folder> {
        self.v1.iter().find(|folder| folder.on.contains(&controller))
    }

    /// The v2 folder if `controller` is there.
    pub(crate) fn v2_for(&self, controller: Controller) -> Option<&Path> {
        self.v2.as_deref().filter(|_| self.hierarchy.v2_has(controller))
    }

    /// Where to look for all processes.
    pub(crate) fn any_folder(&self) -> &Path {
        match (self.folder(Controller::Pids), self.v2.as_deref(), self.v1.first()) {
            (Some(dir), ..) | (None, Some(dir), _) => dir,
            (None, None, Some(folder)) => &folder.dir,
            (None, None, None) => Path::new("/nonexistent"),
        }
    }

    /// Descriptors through which a new process enters.
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        let mut entry = Entry { v2: None, join_files: Vec::with_capacity(self.v1.len()), join_memory: None };
        for folder in &self.v1 {
            let file = folder.dir.join("tasks");
            match rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) if folder.on.as_slice() == [Controller::Memory] => entry.join_memory = Some(fd),
                Ok(fd) => entry.join_files.push(fd),
                Err(errno) => return Err(CgroupError::Open { path: file, errno }),
            }
        }
        if let Some(dir) = &self.v2 {
            entry.v2 = Some(open_folder(dir)?);
        }
        Ok(entry)
    }

    /// As [`entry`](Cgroup::entry), for a process that joins a running container: where the container runs
    /// cgroups of its own below ours, v2 takes no process in ours and it goes where `init` is.
    pub fn entry_beside(&self, init: i32) -> Result<Entry, CgroupError> {
        let mut entry = self.entry()?;
        let (Some(dir), Some(unified)) = (&self.v2, &self.hierarchy.v2) else { return Ok(entry) };
        let delegates = files::try_read(dir, "cgroup.subtree_control").is_ok_and(|text| !text.trim().is_empty());
        if delegates {
            let own = files::read(Path::new("/proc"), &format!("{init}/cgroup"))?;
            if let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) {
                let place = below(&unified.root, path);
                if place.starts_with(dir) {
                    entry.v2 = Some(open_folder(&place)?);
                }
            }
        }
        Ok(entry)
    }

    /// Writes new limits over the old ones. Answers what the host does not keep.
    pub fn update(&mut self, limits: &Limits) -> Result<Vec<String>, CgroupError> {
        let mut warnings = Vec::new();
        for (mount, on) in &self.hierarchy.v1 {
            let missing = !self.v1.iter().any(|folder| folder.on == *on);
            if missing && on.iter().any(|controller| v1::needs(limits, *controller)) {
                // A controller that nothing needed until now: everybody inside moves in.
                let dir = below(mount, &self.path);
                let mut made = Made::default();
                v1::make(mount, &dir, on, &mut made.dirs)?;
                let folder = V1Folder { dir, on: on.clone() };
                v1::write(&folder, limits, true, &mut warnings)?;
                move_all(self.any_folder(), &folder.dir)?;
                made.dirs.clear();
                self.v1.push(folder);
            }
        }
        for folder in &self.v1 {
            v1::write(folder, limits, false, &mut warnings)?;
        }
        if let Some(unified) = self.hierarchy.v2.clone() {
            let mut own = std::mem::take(&mut self.warnings);
            let outcome = self.write_v2(&unified, limits, false);
            std::mem::swap(&mut own, &mut self.warnings);
            warnings.append(&mut own);
            outcome?;
        }
        v1::warn_missing(&self.hierarchy, limits, &mut warnings);
        Ok(warnings)
    }

    fn write_v2(&mut self, unified: &Unified, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
        let Some(dir) = &self.v2 else { return Ok(()) };
        v2::write(unified, dir, limits, &mut self.warnings)?;
        if let Some(rules) = limits.devices.as_ref().filter(|_| self.hierarchy.v2_has(Controller::Devices)) {
            Policy::new(rules).attach_v2(dir, fresh)?;
        }
        Ok(())
    }

    /// Processes inside and below, in the host's numbering.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        tree::pids(self.any_folder())
    }

    /// Removes it everywhere, waiting while its last processes exit. Goes on after a failure and reports the first.
    pub fn remove(self) -> Result<(), CgroupError> {
        let folders = self.v1.iter().map(|folder| folder.dir.as_path()).chain(self.v2.as_deref());
        folders.map(tree::remove).fold(Ok(()), Result::and)
    }
}

/// Folders made so far; what is still listed when it drops is removed again.
#[derive(Default)]
struct Made {
    dirs: Vec<PathBuf>,
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in self.dirs.drain(..).rev() {
            // The error that brought us here is the one worth telling.
            rustix::fs::rmdir(&dir).ok();
        }
    }
}

/// Moves processes from one hierarchy's folder into another hierarchy's, until none is born outside.
fn move_all(from: &Path, to: &Path) -> Result<(), CgroupError> {
    const ROUNDS_MAX: usize = 100;
    for _ in 0..ROUNDS_MAX {
        let inside = tree::pids(to)?;
        let outside: Vec<i32> =
            tree::pids(from)?.into_iter().filter(|pid| inside.binary_search(pid).is_err()).collect();
        if outside.is_empty() {
            break;
        }
        for pid in outside {
            match files::try_write(to, "cgroup.procs", &pid.to_string()) {
                // Ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(CgroupError::Write { file: to.join("cgroup.procs"), value: pid.to_string(), errno });
                }
            }
        }
    }
    Ok(())
}

fn open_folder(dir: &Path) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| CgroupError::Open { path: dir.to_owned(), errno })
}

pub(crate) fn check_path(path: &str) -> Result<(), CgroupError> {
    let plain = path.starts_with('/')
        && path.len() > 1
        && path.len() < 3000
        && path[1..].split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
        && !path.contains(['\0', '\n']);
    if plain { Ok(()) } else { Err(CgroupError::Path(path.to_owned())) }
}

pub(crate) fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests;
