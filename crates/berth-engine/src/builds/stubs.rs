//! Mount points that the runtime made in a step's snapshot, and that are no part of its result.
//!
//! A step may have put links in their place meanwhile (CVE-2024-23652 is what comes of following them): names are
//! opened one by one without following any, below the snapshot's folder, and only what is empty is removed.

use crate::files::Root;
use berth_types::mount::{Overlay, Rootfs};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Names of a folder's attributes.
const ATTRIBUTES_BYTES_MAX: usize = 4096;

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
        let mut stub = false;
        for path in Path::new(target).ancestors() {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { break };
            let Some(folder) = beneath(&top, parent)? else { continue };
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let root = was.get_or_insert_with(|| view(below));
            if let Some(before) = root.as_ref().and_then(|root| root.find_no_follow(path).ok()) {
                // What was there before is the step's: but for a folder that overlayfs copied up for the stub alone.
                if !stub || !is_only_copied_up(&folder, name, &stat, &before.stat)? {
                    break;
                }
            }
            let removed = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR),
                FileType::RegularFile if stat.st_size == 0 => rustix::fs::unlinkat(&folder, name, AtFlags::empty()),
                _ => break,
            };
            match removed {
                Ok(()) => stub = true,
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Whether the folder has nothing of its own: rights, owner and attributes are those below. Its time is the stub's.
fn is_only_copied_up(folder: &OwnedFd, name: &OsStr, now: &Stat, before: &Stat) -> io::Result<bool> {
    let said = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    if FileType::from_raw_mode(now.st_mode) != FileType::Directory || said(now) != said(before) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let mut names = vec![0; ATTRIBUTES_BYTES_MAX];
    let length = match rustix::fs::flistxattr(&opened, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        // More than any overlay needs for itself.
        Err(Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    let overlays = |name: &[u8]| name.starts_with(b"trusted.overlay.") && name != b"trusted.overlay.opaque";
    Ok(names[..length].split(|byte| *byte == 0).all(|name| name.is_empty() || overlays(name)))
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
        for path in [
            "u/cache/deep",
            "u/kept",
            "u/full",
            "l/kept",
            "host/victim",
            "l/etc",
            "u/etc",
            "l/open/in",
            "u/open/in",
            "l/time",
            "u/time",
        ] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        std::fs::write(upper.join("full/file"), "x").unwrap();
        std::fs::write(upper.join("secret"), "").unwrap();
        // A hostile step: the mount's folder is a link to the host's.
        std::os::unix::fs::symlink(&host, upper.join("link")).unwrap();
        let below = Rootfs::Directory { path: lower };
        // Copied up for the stub in it; the other one has new rights.
        std::fs::write(upper.join("etc/hosts"), "").unwrap();
        std::fs::write(upper.join("open/in/stub"), "").unwrap();
        std::fs::set_permissions(upper.join("open"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let targets =
            ["/cache/deep", "/open/in/stub", "/time/none", "/kept", "/full", "/secret", "/link/victim", "/link"]
                .map(str::to_owned);
        remove(&upper, &below, &targets).unwrap();
        assert!(!upper.join("cache").exists() && !upper.join("secret").exists());
        assert!(upper.join("kept").exists() && upper.join("full/file").exists());
        assert!(!upper.join("etc").exists() && upper.join("open").exists() && !upper.join("open/in").exists());
        assert!(upper.join("time").exists(), "no stub was made there: the step changed it");
        assert!(host.join("victim").exists() && upper.join("link").is_symlink());
    }
}
