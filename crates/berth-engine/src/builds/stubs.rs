//! Mount points that the runtime made in a step's snapshot, and that are no part of its result.
//!
//! A step may have put links in their place meanwhile (CVE-2024-23652 is what comes of following them): names are
//! opened one by one without following any, below the snapshot's folder, and only what is empty is removed.

use crate::files::Root;
use berth_types::mount::{Overlay, Rootfs};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What every step has mounted.
const ALWAYS: [&str; 9] =
    ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];

/// Removes from `upper` the empty files and folders at `targets`, and the folders above them, that are not in `below`.
pub(crate) fn remove(upper: &Path, below: &Rootfs, targets: &[String]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(upper, flags, Mode::empty())?;
    let mut was: Option<Option<Root>> = None;
    let all = targets.iter().map(String::as_str).chain(ALWAYS);
    for target in all {
        for path in Path::new(target).ancestors() {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { break };
            let Some(folder) = beneath(&top, parent)? else { continue };
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let root = was.get_or_insert_with(|| view(below));
            // What was there before is not ours to remove: the step changed it.
            if root.as_ref().is_some_and(|root| root.find_no_follow(path).is_ok()) {
                break;
            }
            let removed = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR),
                FileType::RegularFile if stat.st_size == 0 => rustix::fs::unlinkat(&folder, name, AtFlags::empty()),
                _ => break,
            };
            match removed {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

fn view(below: &Rootfs) -> Option<Root> {
    match below {
        Rootfs::Overlay(Overlay { lower, .. }) if lower.is_empty() => None,
        other => Root::of_image(other).ok(),
    }
}

/// The folder at `path` without following any link; `None` where there is none.
fn beneath(top: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::io::fcntl_dupfd_cloexec(top, 0)?;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { continue };
        let name: &OsStr = name;
        here = match rustix::fs::openat(&here, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
    }
    Ok(Some(here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_stubs_that_were_not_there_before_go_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, lower, host) = (folder.path().join("u"), folder.path().join("l"), folder.path().join("host"));
        for path in ["u/cache/deep", "u/kept", "u/full", "l/kept", "host/victim"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        std::fs::write(upper.join("full/file"), "x").unwrap();
        std::fs::write(upper.join("secret"), "").unwrap();
        // A hostile step: the mount's folder is a link to the host's.
        std::os::unix::fs::symlink(&host, upper.join("link")).unwrap();
        let below = Rootfs::Directory { path: lower };
        let targets = ["/cache/deep", "/kept", "/full", "/secret", "/link/victim", "/link"].map(str::to_owned);
        remove(&upper, &below, &targets).unwrap();
        assert!(!upper.join("cache").exists() && !upper.join("secret").exists());
        assert!(upper.join("kept").exists() && upper.join("full/file").exists());
        assert!(host.join("victim").exists() && upper.join("link").is_symlink());
    }
}
