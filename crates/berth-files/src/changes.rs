//! `diff`: what a container changed against its image.
//!
//! Read from the overlay's upper folder: what is there was added or changed, a whiteout is a deletion, an
//! opaque folder hides all that the layers below have in it (overlayfs.rst, "whiteouts and opaque
//! directories"). A folder is only there because something in it changed unless its own owner or rights did.

use crate::{FilesError, Found, Root};
use berth_types::mount::Rootfs;
use rustix::fs::{Dir, FileType};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Deeper trees are refused.
const DEPTH_MAX: usize = 400;

/// Holds some of [`MOUNT_TARGETS`].
const ETC: &str = "/etc";

/// Made by the runtime to mount over; Docker has them in a layer of its own that `diff` does not show.
const MOUNT_TARGETS: [&str; 10] = [
    "/dev",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/proc",
    "/sys",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/hostname",
    "/.dockerenv",
];

/// What of `upper` the runtime made to mount over, in a container of `image`: nobody wrote it. The folder around the files
/// in /etc is among them where there is nothing else in it.
pub fn made_for_mounting(upper: &Path, image: &Root) -> Vec<&'static Path> {
    let absent = |path: &Path| image.find_no_follow(path).is_err();
    let mut made: Vec<&Path> = MOUNT_TARGETS.into_iter().map(Path::new).filter(|target| absent(target)).collect();
    if absent(Path::new(ETC)) && only_targets(&upper.join(ETC.trim_start_matches('/'))) {
        made.push(Path::new(ETC));
    }
    made
}

fn only_targets(etc: &Path) -> bool {
    // A link in its place was somebody's doing.
    if !etc.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return false;
    }
    let Ok(mut entries) = std::fs::read_dir(etc) else { return false };
    let is_target = |name: OsString| {
        let path = Path::new(ETC).join(name);
        MOUNT_TARGETS.iter().any(|target| path == Path::new(target))
    };
    entries.all(|entry| entry.is_ok_and(|entry| is_target(entry.file_name())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// Absolute, inside the container.
    pub path: String,
}

/// What the upper folder of an overlay changes against `image`.
pub fn changes(upper: &Path, image: Root) -> Result<Vec<Change>, FilesError> {
    let made = made_for_mounting(upper, &image);
    let upper = Root::of_image(&Rootfs::Directory { path: upper.to_owned() })?;
    let mut found = Comparison { upper, image, made, changes: BTreeMap::new() };
    let top = found.upper.find(Path::new("/"))?;
    found.folder(&top, 0)?;
    Ok(found.finish())
}

struct Comparison {
    upper: Root,
    image: Root,
    made: Vec<&'static Path>,
    changes: BTreeMap<PathBuf, ChangeKind>,
}

/// Names in a folder, sorted.
fn names(folder: &Found) -> Result<BTreeSet<OsString>, FilesError> {
    let fail = |errno| FilesError::step("read", &folder.path, errno);
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(folder.open_folder()?).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            names.insert(OsString::from_vec(bytes.to_vec()));
        }
    }
    Ok(names)
}

/// A character device 0/0 stands for "deleted below".
fn is_whiteout(found: &Found) -> bool {
    found.kind() == FileType::CharacterDevice && found.stat.st_rdev == 0
}

fn is_opaque(folder: &Found) -> bool {
    let Ok(opened) = folder.open_folder() else { return false };
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0_u8; 1];
        matches!(rustix::fs::fgetxattr(&opened, *name, &mut value[..]), Ok(1)) && value[0] == b'y'
    })
}

impl Comparison {
    fn folder(&mut self, folder: &Found, depth: usize) -> Result<(), FilesError> {
        if depth > DEPTH_MAX {
            return Err(FilesError::Depth(folder.path.clone()));
        }
        let there = names(folder)?;
        for name in &there {
            let child = match self.upper.child(folder, name) {
                Ok(child) => child,
                Err(error) if error.is_absent() => continue,
                Err(error) => return Err(error),
            };
            self.entry(&child, depth)?;
        }
        // Everything that the image has in an opaque folder is gone unless it is there again.
        if is_opaque(folder)
            && let Ok(below) = self.image.find_no_follow(&folder.path)
            && below.is_dir()
        {
            for name in names(&below)?.difference(&there) {
                self.changes.insert(folder.path.join(name), ChangeKind::Deleted);
            }
        }
        Ok(())
    }

    fn entry(&mut self, child: &Found, depth: usize) -> Result<(), FilesError> {
        let path = child.path.clone();
        let below = self.image.find_no_follow(&path).ok();
        if is_whiteout(child) {
            if below.is_some() {
                self.changes.insert(path, ChangeKind::Deleted);
            }
            return Ok(());
        }
        match &below {
            None => {
                // The one around mount targets was there before anything was written into it.
                let kind =
                    if path == Path::new(ETC) && child.is_dir() { ChangeKind::Modified } else { ChangeKind::Added };
                if !self.made.contains(&path.as_path()) {
                    self.changes.insert(path, kind);
                }
            }
            Some(below) if child.is_dir() && below.is_dir() => {
                let own = |found: &Found| (found.stat.st_mode, found.stat.st_uid, found.stat.st_gid);
                if own(child) != own(below) {
                    self.changes.insert(path, ChangeKind::Modified);
                }
            }
            Some(_) => drop(self.changes.insert(path, ChangeKind::Modified)),
        }
        if child.is_dir() { self.folder(child, depth + 1) } else { Ok(()) }
    }

    /// Folders on the way to a change count as changed.
    fn finish(mut self) -> Vec<Change> {
        let changed: Vec<PathBuf> = self.changes.keys().cloned().collect();
        for path in changed {
            for parent in path.ancestors().skip(1) {
                if parent != Path::new("/") && parent.as_os_str() != OsStr::new("") {
                    self.changes.entry(parent.to_owned()).or_insert(ChangeKind::Modified);
                }
            }
        }
        let text = |path: PathBuf| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
        self.changes.into_iter().map(|(path, kind)| Change { kind, path: text(path) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whiteout(path: &Path) -> bool {
        use rustix::fs::{CWD, Mode};
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).is_ok()
    }

    #[test]
    fn what_was_made_for_mounting_is_no_change_until_somebody_writes_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["image", "upper/etc", "upper/proc"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("upper/etc/hosts"), "").unwrap();
        let image = || Root::of_image(&Rootfs::Directory { path: at("image") }).unwrap();
        assert_eq!(changes(&at("upper"), image()).unwrap(), []);
        assert!(made_for_mounting(&at("upper"), &image()).contains(&Path::new("/etc")));
        std::fs::write(at("upper/etc/passwd"), "").unwrap();
        let found = changes(&at("upper"), image()).unwrap();
        assert_eq!(
            found.iter().map(|change| (change.kind, change.path.as_str())).collect::<Vec<_>>(),
            [(ChangeKind::Modified, "/etc"), (ChangeKind::Added, "/etc/passwd")]
        );
        assert!(!made_for_mounting(&at("upper"), &image()).contains(&Path::new("/etc")));
    }

    #[test]
    fn added_changed_and_deleted_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["lower/etc/ssl", "lower/usr", "upper/etc", "upper/new/deep", "upper/usr"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        for (path, text) in
            [("lower/etc/a", "1"), ("lower/etc/gone", "1"), ("upper/etc/a", "2"), ("upper/new/deep/f", "x")]
        {
            std::fs::write(at(path), text).unwrap();
        }
        std::fs::write(at("upper/etc/hosts"), "").unwrap();
        if !whiteout(&at("upper/etc/gone")) {
            eprintln!("skipped: needs root");
            return;
        }
        let image = Root::of_image(&Rootfs::Directory { path: at("lower") }).unwrap();
        let all: Vec<String> = changes(&at("upper"), image)
            .unwrap()
            .into_iter()
            .map(|change| format!("{:?} {}", change.kind, change.path))
            .collect();
        assert_eq!(
            all,
            [
                "Modified /etc",
                "Modified /etc/a",
                "Deleted /etc/gone",
                "Added /new",
                "Added /new/deep",
                "Added /new/deep/f"
            ]
        );
    }
}
