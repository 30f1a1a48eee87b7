//! Places inside the container's root: found, or made, without ever leaving it.
//!
//! Links of the image are followed as the container would follow them (`RESOLVE_IN_ROOT`), so a link to
//! /etc means the container's /etc. What is attached goes to a descriptor, so that nothing can be swapped between the
//! look and the mount (CVE-2021-30465).

use crate::error::{LaunchError, Step};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows on one way.
const LINKS_MAX: u32 = 40;

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more) {
            // A rename somewhere made the kernel's own check unsure.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// What is there, or `None`.
pub(crate) fn existing(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match open(root, path, PATH, ResolveFlags::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => opened.map(Some),
    }
}

/// What is there when neither it nor anything on the way is a link; `Err(LOOP)` when one is. (Without
/// `O_NOFOLLOW`: together with `O_PATH` it would open a link at the end, openat2(2).)
pub(crate) fn existing_without_links(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match open(root, path, PATH, ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => opened.map(Some),
    }
}

/// The folder at `path`, made with all above it where it is missing.
pub(crate) fn folder(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, LaunchError> {
    match open(root, path, PATH | OFlags::DIRECTORY, ResolveFlags::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened.step(|| format!("open the mount point {}", path.display())),
    }
    make_folders(root, path)
}

fn make_folders(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, LaunchError> {
    let failed = || format!("make the mount point {}", path.display());
    let mut links = 0;
    let mut left: Vec<PathBuf> = parts(path).into_iter().rev().collect();
    let mut done = PathBuf::new();
    let mut at = open(root, Path::new("."), PATH | OFlags::DIRECTORY, ResolveFlags::empty()).step(failed)?;
    while let Some(part) = left.pop() {
        let here = done.join(&part);
        match open(root, &here, PATH | OFlags::DIRECTORY, ResolveFlags::empty()) {
            Ok(fd) => {
                (at, done) = (fd, here);
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).step(failed),
        }
        match rustix::fs::mkdirat(&at, &part, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // A link to what is not there: make what it points to.
            Err(Errno::EXIST) => {
                links += 1;
                let to = rustix::fs::readlinkat(&at, &part, Vec::new()).step(failed)?;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP).step(failed);
                }
                let to = PathBuf::from(to.to_string_lossy().into_owned());
                if to.is_absolute() {
                    (done, at) = (
                        PathBuf::new(),
                        open(root, Path::new("."), PATH | OFlags::DIRECTORY, ResolveFlags::empty()).step(failed)?,
                    );
                }
                left.extend(parts(&to).into_iter().rev());
                continue;
            }
            Err(errno) => return Err(errno).step(failed),
        }
        at = open(root, &here, PATH | OFlags::DIRECTORY, ResolveFlags::empty()).step(failed)?;
        done = here;
    }
    Ok(at)
}

fn parts(path: &Path) -> Vec<PathBuf> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

/// The folder that `path` is in, made where it is missing, and its last name.
pub(crate) fn parent(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, String), LaunchError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(name) = name else {
        return Err(LaunchError::configuration(format!("{} names no file", path.display())));
    };
    Ok((folder(root, path.parent().unwrap_or(Path::new("/")))?, name))
}

/// The file at `path`, an empty one made where it is missing: a place for a file to be bound to.
pub(crate) fn file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, LaunchError> {
    if let Some(fd) = existing(root, path).step(|| format!("open the mount point {}", path.display()))? {
        return Ok(fd);
    }
    let (folder, name) = parent(root, path)?;
    file_in(folder.as_fd(), &name, path)
}

pub(crate) fn file_in(folder: BorrowedFd<'_>, name: &str, path: &Path) -> Result<OwnedFd, LaunchError> {
    let failed = || format!("make the mount point {}", path.display());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).step(failed),
    }
    rustix::fs::openat(folder, name, PATH | OFlags::NOFOLLOW, Mode::empty()).step(failed)
}

/// Puts the detached mount `tree` on top of what `at` is.
pub(crate) fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", at, "", flags)
}

/// Whether a descriptor is a folder.
pub(crate) fn is_folder(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}
