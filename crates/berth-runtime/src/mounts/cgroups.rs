//! /sys/fs/cgroup as the container sees it.

use crate::error::{LaunchError, Step};
use crate::mounts::options::Options;
use crate::mounts::target;
use berth_sys::mounts::{MountChange, attributes as attr, change_mount};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `CGROUP2_SUPER_MAGIC`, <linux/magic.h>
const CGROUP2: u64 = 0x6367_7270;
const HOST: &str = "/sys/fs/cgroup";

/// Mounts it at `at`. v2: the tree below the cgroup namespace; v1 and hybrid: a tmpfs with a bind of the
/// container's own folder of each hierarchy.
pub(crate) fn mount(at: &OwnedFd, options: &Options, own: &[Own]) -> Result<(), LaunchError> {
    if is_v2() { mount_v2(at.as_fd(), options) } else { mount_v1(at.as_fd(), options, own) }
}

fn is_v2() -> bool {
    rustix::fs::statfs(HOST).is_ok_and(|stat| stat.f_type as u64 == CGROUP2)
}

fn finish(tree: BorrowedFd<'_>, options: &Options) -> Result<(), Errno> {
    let set = options.change.set | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    change_mount(tree, Options::normalized(MountChange { set, ..options.change }), None, false)
}

fn mount_v2(at: BorrowedFd<'_>, options: &Options) -> Result<(), LaunchError> {
    let fresh = (|| {
        let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    })();
    let tree = match fresh {
        // In a user namespace that shares the host's cgroup namespace only a bind is allowed.
        Err(Errno::PERM) => clone(Path::new(HOST)),
        fresh => fresh,
    };
    let tree = tree.step(|| "mount the cgroup tree".to_owned())?;
    finish(tree.as_fd(), options)
        .and_then(|()| target::attach(tree.as_fd(), at))
        .step(|| "mount the cgroup tree".to_owned())
}

fn clone(path: &Path) -> Result<OwnedFd, Errno> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}

fn mount_v1(at: BorrowedFd<'_>, options: &Options, own: &[Own]) -> Result<(), LaunchError> {
    let what = || "mount the cgroup hierarchies".to_owned();
    let base = (|| {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "mode", "755")?;
        fsconfig_create(&context)?;
        let flags =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    })()
    .step(what)?;
    target::attach(base.as_fd(), at).step(what)?;
    for own in own {
        // `cpu,cpuacct` is one hierarchy with a name of its own for each controller.
        let tree = match clone(Path::new(&own.folder)) {
            Ok(tree) => tree,
            // The engine's own folder is elsewhere than this process (a stale hierarchy): leave that one out.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno).step(what),
        };
        // Nobody else has been in this tmpfs: its names need no resolving with care.
        finish(tree.as_fd(), options)
            .and_then(|()| rustix::fs::mkdirat(&base, own.name.as_str(), Mode::from_raw_mode(0o755)))
            .and_then(|()| move_mount(&tree, "", &base, own.name.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))
            .step(what)?;
        for controller in own.name.split(',').filter(|_| own.name.contains(',')) {
            rustix::fs::symlinkat(own.name.as_str(), &base, controller).step(what)?;
        }
    }
    finish(base.as_fd(), options).step(what)
}

/// A folder of this process' own in a v1 (or the hybrid's v2) hierarchy.
#[derive(Debug)]
pub(crate) struct Own {
    /// Below /sys/fs/cgroup: `memory`, `cpu,cpuacct`, `systemd`, `unified`.
    name: String,
    folder: String,
}

/// This process' folder in each v1 hierarchy, from /proc/self/cgroup and what is mounted below /sys/fs/cgroup.
///
/// Called once it is in its cgroups, but for memory's where `memory` is the file by which it will join, and before it has
/// a cgroup namespace of its own, in which paths start elsewhere; and while /proc is still the host's.
pub(crate) fn own_folders(memory: Option<BorrowedFd<'_>>) -> Result<Vec<Own>, LaunchError> {
    if is_v2() {
        return Ok(Vec::new());
    }
    let read = |path: &str| berth_sys::procfs::read(path).step(|| format!("read {path}"));
    let (mounts, memberships) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let (mounts, memberships) = (String::from_utf8_lossy(&mounts), String::from_utf8_lossy(&memberships));
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        let mut system = right.split(' ');
        let (kind, options) = (system.next().unwrap_or_default(), system.nth(1).unwrap_or_default());
        let Some(name) = point.strip_prefix(HOST).and_then(|name| name.strip_prefix('/')) else { continue };
        if name.contains('/') || !matches!(kind, "cgroup" | "cgroup2") {
            continue;
        }
        let own = memberships.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let same = match kind {
                "cgroup2" => controllers.is_empty(),
                _ => {
                    !controllers.is_empty()
                        && controllers.split(',').all(|one| options.split(',').any(|has| has == one))
                }
            };
            same.then_some(path)
        });
        // This one is joined at the end: its folder is the one that the file for joining is in.
        if let Some(file) = memory.filter(|_| kind == "cgroup" && options.split(',').any(|option| option == "memory")) {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let file = rustix::fs::readlink(path.as_str(), Vec::new()).step(|| format!("read {path}"))?;
            let folder = Path::new(OsStr::from_bytes(file.as_bytes())).parent().unwrap_or(Path::new("/"));
            found.push(Own { name: name.to_owned(), folder: folder.to_string_lossy().into_owned() });
            continue;
        }
        let Some(own) = own else { continue };
        // A mount whose root is not "/" shows a part of the tree: of `/a` mounted, `/a/b` is at `<point>/b`.
        let inside = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own);
        found.push(Own { name: name.to_owned(), folder: format!("{point}{inside}") });
    }
    Ok(found)
}
