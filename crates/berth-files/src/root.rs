//! Opening a container's root, and walking in it.

use super::FilesError;
use berth_sys::mounts::{MountChange, attributes, change_mount};
use berth_types::mount::{Lower, Overlay, Rootfs};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// As the kernel has it (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Longer paths are refused: nobody's file system has them.
const NAMES_MAX: usize = 4096;

/// An opened root. Dropping it lets go of the mount.
#[derive(Debug)]
pub struct Root {
    base: OwnedFd,
    /// For mounts that the base does not show by itself.
    mounts: Vec<Mounted>,
    /// The base may not be written, whatever its file system says.
    read_only: bool,
}

/// A volume or bind, put into a root by hand.
#[derive(Debug)]
struct Mounted {
    /// Cleaned, absolute.
    target: PathBuf,
    fd: OwnedFd,
    read_only: bool,
}

/// What lies over a place of a root that does not run.
#[derive(Debug, Clone, Copy)]
pub struct Cover<'a> {
    /// Where in the root.
    pub target: &'a str,
    pub source: &'a Path,
    /// Only this of the source; empty: all of it.
    pub subpath: &'a str,
    pub read_only: bool,
}

/// `path` without `.`, `..` and doubled slashes, as Go's `path.Clean` writes an absolute one.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Something inside of a root.
#[derive(Debug)]
pub struct Found {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    /// Absolute, without links but perhaps the last name.
    pub path: PathBuf,
    pub stat: Stat,
}

impl Found {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Opens the same folder for reading its names.
    pub fn open_folder(&self) -> Result<OwnedFd, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
            .map_err(|errno| FilesError::step("open", &self.path, errno))
    }

    /// What a symbolic link says.
    pub fn link_target(&self) -> Result<PathBuf, FilesError> {
        read_link(&self.fd, &self.path)
    }
}

fn read_link(fd: &OwnedFd, path: &Path) -> Result<PathBuf, FilesError> {
    // An empty name reads the link that the descriptor itself is (readlinkat(2)).
    let target =
        rustix::fs::readlinkat(fd, "", Vec::new()).map_err(|errno| FilesError::step("read link", path, errno))?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

fn open_path(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, FilesError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(|errno| FilesError::step("open", path, errno))
}

fn duplicate(fd: &OwnedFd, path: &Path) -> Result<OwnedFd, FilesError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|errno| FilesError::step("open", path, errno))
}

impl Root {
    /// The root of a running process, with the mounts that it sees.
    pub fn running(pid: i32) -> Result<Root, FilesError> {
        let path = PathBuf::from(format!("/proc/{pid}/root"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| FilesError::step("open", &path, errno))?;
        Ok(Root { base, mounts: Vec::new(), read_only: false })
    }

    /// The root of a container that does not run, with its volumes and binds. The caller sees to it that it
    /// is not started meanwhile: one upper folder in two mounts at once is undefined (overlayfs.rst).
    pub fn stopped(rootfs: &Rootfs, covers: &[Cover<'_>], read_only: bool) -> Result<Root, FilesError> {
        let mut root = Root { base: mount_detached(rootfs)?, mounts: Vec::new(), read_only };
        for cover in covers {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let Ok(mut opened) = rustix::fs::open(cover.source, flags, Mode::empty()) else { continue };
            if !cover.subpath.is_empty() {
                let inside = Root { base: opened, mounts: Vec::new(), read_only: false };
                let Ok(found) = inside.find(Path::new(cover.subpath)) else { continue };
                opened = found.fd;
            }
            let target = root.place(&clean(Path::new(cover.target)));
            root.mounts.push(Mounted { target, fd: opened, read_only: cover.read_only });
        }
        Ok(root)
    }

    /// Where a mount at `target` is: links on the way are followed, as the runtime follows them when it mounts
    /// (GHSA-vp62-88p7-qqf5); what is not there yet stays as it is written.
    fn place(&self, target: &Path) -> PathBuf {
        for above in target.ancestors() {
            if let (Ok(found), Ok(rest)) = (self.find(above), target.strip_prefix(above)) {
                return if rest.as_os_str().is_empty() { found.path } else { found.path.join(rest) };
            }
        }
        target.to_owned()
    }

    /// The image's content alone, read-only.
    pub fn of_image(rootfs: &Rootfs) -> Result<Root, FilesError> {
        let lower = match rootfs {
            Rootfs::Overlay(overlay) => Rootfs::Overlay(Overlay { upper: None, ..overlay.clone() }),
            directory => directory.clone(),
        };
        Ok(Root { base: mount_detached(&lower)?, mounts: Vec::new(), read_only: true })
    }

    /// Image and changes without any mounts, read-only; the container may run.
    pub fn of_layers(rootfs: &Rootfs) -> Result<Root, FilesError> {
        let stacked = match rootfs {
            Rootfs::Overlay(overlay) => {
                let upper = overlay.upper.iter().map(|upper| Lower::Folder(upper.upper.clone()));
                let lower = upper.chain(overlay.lower.iter().cloned()).collect();
                Rootfs::Overlay(Overlay { lower, upper: None, ..overlay.clone() })
            }
            directory => directory.clone(),
        };
        Ok(Root { base: mount_detached(&stacked)?, mounts: Vec::new(), read_only: true })
    }

    /// Whether the container itself could not write at `path` (cleaned, without links).
    pub fn is_read_only(&self, path: &Path) -> bool {
        let on = self.mounts.iter().filter(|mounted| path.starts_with(&mounted.target));
        let deepest = on.max_by_key(|mounted| mounted.target.components().count());
        deepest.map_or(self.read_only, |mounted| mounted.read_only)
    }

    /// Whether the container itself could write into the folder that was found.
    pub fn can_write(&self, folder: &Found) -> bool {
        let kernel_says = rustix::fs::fstatvfs(&folder.fd)
            .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        !kernel_says && !self.is_read_only(&folder.path)
    }

    /// Mounts whose targets are directly in `folder`.
    pub fn mounts_in<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a OsStr> {
        let in_folder = move |mounted: &&Mounted| mounted.target.parent() == Some(folder);
        self.mounts.iter().filter(in_folder).filter_map(|mounted| mounted.target.file_name())
    }

    fn mounted(&self, path: &Path) -> Option<&OwnedFd> {
        self.mounts.iter().rev().find(|mounted| mounted.target == path).map(|mounted| &mounted.fd)
    }

    /// What `path` means, following all links.
    pub fn find(&self, path: &Path) -> Result<Found, FilesError> {
        self.walk(path, true)
    }

    /// The same, but a link at the end is itself the answer (unless a slash or dot follows it).
    pub fn find_no_follow(&self, path: &Path) -> Result<Found, FilesError> {
        let bytes = path.as_os_str().as_bytes();
        self.walk(path, bytes.ends_with(b"/") || bytes.ends_with(b"/."))
    }

    fn walk(&self, path: &Path, follow_last: bool) -> Result<Found, FilesError> {
        let mut todo: VecDeque<OsString> = VecDeque::new();
        let queue = |todo: &mut VecDeque<OsString>, path: &Path| -> Result<(), FilesError> {
            for part in path.components().rev() {
                match part {
                    Component::Normal(name) => todo.push_front(name.to_owned()),
                    Component::ParentDir => todo.push_front("..".into()),
                    Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                }
            }
            if todo.len() > NAMES_MAX { Err(FilesError::Depth(path.to_owned())) } else { Ok(()) }
        };
        queue(&mut todo, path)?;
        // Folders from the root to where we are, each with its name.
        let mut stack: Vec<(OwnedFd, OsString)> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                stack.pop();
                continue;
            }
            let mut here = path_of(&stack);
            here.push(&name);
            let folder = stack.last().map_or(&self.base, |(fd, _)| fd);
            let fd = match self.mounted(&here) {
                Some(fd) => duplicate(fd, &here)?,
                None => open_path(folder, &name, &here)?,
            };
            let last = todo.is_empty();
            let stat = rustix::fs::fstat(&fd).map_err(|errno| FilesError::step("stat", &here, errno))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink if !last || follow_last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(FilesError::Links(path.to_owned()));
                    }
                    let target = read_link(&fd, &here)?;
                    if target.is_absolute() {
                        stack.clear();
                    }
                    queue(&mut todo, &target)?;
                }
                FileType::Directory => stack.push((fd, name)),
                _ if last => return Ok(Found { fd, path: here, stat }),
                _ => return Err(FilesError::step("open", here, Errno::NOTDIR)),
            }
        }
        let here = path_of(&stack);
        let fd = match stack.pop() {
            Some((fd, _)) => fd,
            None => duplicate(&self.base, &here)?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| FilesError::step("stat", &here, errno))?;
        Ok(Found { fd, path: here, stat })
    }

    /// One name in a folder that was found, without following a link.
    pub fn child(&self, folder: &Found, name: &OsStr) -> Result<Found, FilesError> {
        let path = folder.path.join(name);
        let fd = match self.mounted(&path) {
            Some(fd) => duplicate(fd, &path)?,
            None => open_path(&folder.fd, name, &path)?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| FilesError::step("stat", &path, errno))?;
        Ok(Found { fd, path, stat })
    }
}

fn path_of(stack: &[(OwnedFd, OsString)]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(stack.iter().map(|(_, name)| name));
    path
}

/// The root filesystem as a mount that is nowhere in the host's tree and goes with its descriptor.
fn mount_detached(rootfs: &Rootfs) -> Result<OwnedFd, FilesError> {
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| FilesError::step("open", path, errno))
    };
    let layer = |lower: &Lower| match lower {
        Lower::Folder(path) => open(path),
        Lower::Image { erofs, held } => berth_sys::images::open_image(erofs, held.map(|held| (held.pid, held.fd)))
            .map(|image| image.fd)
            .map_err(|errno| FilesError::step("mount", erofs, errno)),
    };
    let overlay = match rootfs {
        Rootfs::Directory { path } => return open(path),
        // Overlayfs wants two layers or an upper folder; a single layer is what it is.
        Rootfs::Overlay(Overlay { lower, upper: None, .. }) if lower.len() == 1 => return layer(&lower[0]),
        Rootfs::Overlay(overlay) => overlay,
    };
    let layers = overlay.lower.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    let has_images = overlay.lower.iter().any(|lower| matches!(lower, Lower::Image { .. }));
    let stacked = match berth_sys::overlay::takes_layers_one_by_one() {
        true => stack(&layers, overlay),
        false => listed(overlay),
    };
    let stacked = match stacked {
        Err(Errno::INVAL) if has_images => attached(overlay),
        stacked => stacked,
    };
    stacked.map_err(mount_error)
}

/// The same before Linux 6.15, where overlayfs takes no layers that are in no tree: in a namespace that ends when the
/// overlay is there, with mounts of its own.
fn attached(overlay: &Overlay) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = |lower: &Lower| match lower {
        Lower::Folder(path) => rustix::fs::open(path, flags, Mode::empty()),
        Lower::Image { erofs, .. } => {
            let image = berth_sys::images::mount_image(erofs)?;
            berth_sys::images::attach(image.as_fd(), erofs)?;
            Ok(image)
        }
    };
    berth_sys::images::in_own_namespace(|| {
        // Folders too are opened in there: overlayfs takes no other namespace's.
        stack(&overlay.lower.iter().map(layer).collect::<Result<Vec<_>, _>>()?, overlay)
    })
}

/// The same before Linux 6.8, where overlayfs takes its layers as one list.
fn listed(overlay: &Overlay) -> Result<OwnedFd, Errno> {
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let place = overlay.lower.first().map(Lower::path).ok_or(Errno::INVAL)?;
    berth_sys::images::in_own_namespace(|| {
        let layers = overlay.lower.iter().map(|lower| open(lower.path())).collect::<Result<Vec<_>, _>>()?;
        let upper = overlay.upper.as_ref().map(|upper| Ok([open(&upper.upper)?, open(&upper.work)?])).transpose()?;
        let tree = berth_sys::overlay::mount_by_list(&layers, upper.as_ref(), &overlay.options, place)?;
        let safe = MountChange { set: attributes::NODEV | attributes::NOSUID, clear: 0, propagation: 0 };
        change_mount(tree.as_fd(), safe, None, false)?;
        Ok(tree)
    })
}

fn stack(layers: &[OwnedFd], overlay: &Overlay) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &Path| rustix::mount::fsconfig_set_string(fs.as_fd(), key, value);
    let names: Vec<String> =
        layers.iter().map(|fd| format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd))).collect();
    names.iter().try_for_each(|name| set("lowerdir+", Path::new(name)))?;
    if let Some(upper) = &overlay.upper {
        set("upperdir", &upper.upper)?;
        set("workdir", &upper.work)?;
    }
    for option in &overlay.options {
        match option.split_once('=') {
            Some((key, value)) => set(key, Path::new(value))?,
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), option.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn mount_error(errno: Errno) -> FilesError {
    FilesError::Mount(errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(folder: &Path) -> Root {
        Root::of_image(&Rootfs::Directory { path: folder.to_owned() }).unwrap()
    }

    #[test]
    fn links_and_dots_never_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        std::fs::write(inside.join("etc/passwd"), "inside").unwrap();
        std::fs::write(folder.path().join("secret"), "outside").unwrap();
        symlink("/etc/passwd", inside.join("absolute")).unwrap();
        symlink("../../../etc/passwd", inside.join("relative")).unwrap();
        symlink("../secret", inside.join("out")).unwrap();
        symlink("/proc/self/root/secret", inside.join("magic")).unwrap();
        let root = root(&inside);
        for path in ["/absolute", "/relative", "etc/../../../etc/passwd", "/../etc/./passwd"] {
            let found = root.find(Path::new(path)).unwrap();
            assert_eq!(found.path, Path::new("/etc/passwd"), "{path}");
        }
        for path in ["/out", "/magic", "/../secret"] {
            assert!(root.find(Path::new(path)).unwrap_err().is_absent(), "{path}");
        }
    }

    #[test]
    fn a_loop_of_links_ends() {
        let folder = tempfile::tempdir().unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        assert!(matches!(root(folder.path()).find(Path::new("/a/x")), Err(FilesError::Links(_))));
        let found = root(folder.path()).find_no_follow(Path::new("/a")).unwrap();
        assert_eq!(found.link_target().unwrap(), Path::new("b"));
    }

    #[test]
    fn a_volume_covers_what_is_below_it() {
        let (folder, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("data/below"), "").unwrap();
        std::fs::write(volume.path().join("above"), "").unwrap();
        let mut root = root(folder.path());
        let fd = rustix::fs::open(volume.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        root.mounts.push(Mounted { target: PathBuf::from("/data"), fd, read_only: true });
        root.find(Path::new("/data/above")).unwrap();
        assert!(root.find(Path::new("/data/below")).unwrap_err().is_absent());
        assert_eq!(root.find(Path::new("/data/..")).unwrap().path, Path::new("/"));
        assert!(root.is_read_only(Path::new("/data/x")));
    }

    #[test]
    fn a_file_in_the_middle_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(root(folder.path()).find(Path::new("/file/x")).unwrap_err().is_not_folder());
    }
}
