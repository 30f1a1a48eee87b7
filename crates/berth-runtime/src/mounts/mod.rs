//! The container's file systems, from its root to its masks.
//!
//! ```text
//! build    root attached to the bundle's folder, every mount of the configuration in order, /dev
//! console  the terminal at /dev/console
//! enter    masks, read-only paths, pivot_root, the host's tree off, root read-only
//! ```
//!
//! All of it happens in the child's own mount namespace, whose mounts were first cut off from the host's
//! (slaves): nothing is ever seen there.

mod cgroups;
mod copy_up;
mod idmap;
mod memory;
mod options;
mod rootfs;
mod source;
pub(crate) mod target;

use crate::devices;
use crate::error::{LaunchError, Step};
use crate::launch::CreateRequest;
use crate::namespaces::Namespaces;
use berth_sys::mounts::{MountChange, attributes as attr, change_mount, propagation as prop};
use oci_spec::runtime::{Linux, Mount, Spec};
use options::Options;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use std::path::Path;

pub(crate) use cgroups::Own;
pub(crate) use rootfs::layer_images;

/// `SYSFS_MAGIC`, <linux/magic.h>
const SYSFS: u64 = 0x6265_6572;
const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// What a cgroup mount of the configuration will need, before there is a cgroup namespace.
pub(crate) fn own_cgroups(spec: &Spec, memory: Option<BorrowedFd<'_>>) -> Result<Vec<Own>, LaunchError> {
    let wanted = spec.mounts().iter().flatten().any(|mount| mount.typ().as_deref() == Some("cgroup"));
    if wanted { cgroups::own_folders(memory) } else { Ok(Vec::new()) }
}

/// Whether the container's memory has to be counted while its root is made, because files are copied into it.
pub(crate) fn take_memory(spec: &Spec) -> bool {
    let copies = |option: &String| option == "tmpcopyup" || option.starts_with("berth.memory");
    spec.mounts().iter().flatten().flat_map(|mount| mount.options().iter().flatten()).any(copies)
}

/// For a container with a user namespace: its root is nobody on the host and may not reach every folder that a
/// bind starts from, so the trees are taken before the clone (runc opens them from outside for the same reason).
pub(crate) fn bind_sources(request: &CreateRequest<'_>) -> Result<Vec<Option<OwnedFd>>, LaunchError> {
    let mut sources = Vec::new();
    for mount in request.spec.mounts().iter().flatten() {
        let options = options::parse(&mount.options().clone().unwrap_or_default())?;
        let is_bind = options.bind || mount.typ().as_deref() == Some("bind");
        // What another process sees can only be taken from its namespace, which the child enters.
        let Some(path) = mount.source().as_ref().filter(|_| is_bind && options.process.is_none()) else {
            sources.push(None);
            continue;
        };
        let what = || bind_text(mount);
        let tree = source::tree(&request.bundle.join(path), &options, bind_flags(&options), &what)?;
        let cut = MountChange { propagation: prop::SLAVE, ..MountChange::default() };
        change_mount(tree.as_fd(), cut, None, true).step(what)?;
        sources.push(Some(tree));
    }
    Ok(sources)
}

fn bind_flags(options: &Options) -> OpenTreeFlags {
    if options.recursive { CLONE | rootfs::recursive() } else { CLONE }
}

fn bind_text(mount: &Mount) -> String {
    format!("mount {:?} to {:?}", shown_source(mount), mount.destination().display().to_string())
}

/// Answers the root, attached and complete but for console and masks.
pub(crate) fn build(
    request: &CreateRequest<'_>,
    namespaces: &Namespaces,
    cgroups: &[Own],
    sources: &[Option<OwnedFd>],
    images: &[Option<berth_sys::images::ImageMount>],
) -> Result<OwnedFd, LaunchError> {
    let spec = request.spec;
    let host = open_path(CWD, Path::new("/")).step(|| "open the host's root".to_owned())?;
    let cut = MountChange { propagation: prop::SLAVE, ..MountChange::default() };
    change_mount(host.as_fd(), cut, None, true).step(|| "cut the mounts off from the host's".to_owned())?;

    let root = rootfs::mount(request.rootfs, images)?;
    let place = match request.rootfs {
        berth_types::mount::Rootfs::Directory { path } => path.as_path(),
        berth_types::mount::Rootfs::Overlay(_) => request.bundle,
    };
    let at = open_path(CWD, place).step(|| format!("open {}", place.display()))?;
    target::attach(root.as_fd(), at.as_fd()).step(|| "attach the root file system".to_owned())?;

    let mut dev_is_bound = false;
    for (place, mount) in spec.mounts().iter().flatten().enumerate() {
        let words = mount.options().clone().unwrap_or_default();
        let options = options::parse(&words)?;
        dev_is_bound |= options.bind && mount.destination() == Path::new("/dev");
        if options.bind || mount.typ().as_deref() == Some("bind") {
            let opened = sources.get(place).and_then(Option::as_ref);
            bind(root.as_fd(), mount, &options, request, namespaces, opened)?;
        } else {
            apply(root.as_fd(), mount, &options, request, cgroups)?;
        }
    }
    // A host's /dev that is bound as a whole is left as it is.
    if !dev_is_bound {
        let listed = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        devices::make(root.as_fd(), listed, namespaces.new_user())?;
    }
    Ok(root)
}

fn open_path(folder: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn apply(
    root: BorrowedFd<'_>,
    mount: &Mount,
    options: &Options,
    request: &CreateRequest<'_>,
    cgroups: &[Own],
) -> Result<(), LaunchError> {
    let destination = mount.destination();
    let what = || format!("mount {:?} to {:?}", shown_source(mount), destination.display().to_string());
    let kind = mount.typ().as_deref().unwrap_or("none");
    if kind != "proc" {
        procfs_guard(mount, options)?;
    }
    let at = match kind {
        // Where these are mounted, settings are read and written: no link may lead there (CVE-2019-19921).
        "proc" | "sysfs" => real_folder(root, destination)?,
        _ => target::folder(root, destination)?,
    };
    if kind == "cgroup" {
        return cgroups::mount(&at, options, cgroups);
    }
    let mut tree = match kind == "overlay" && !berth_sys::overlay::takes_layers_one_by_one() {
        true => listed_overlay(options).step(what)?,
        false => of_options(kind, mount, options, request)?,
    };
    if let Some(path) = &options.subpath {
        tree = part(tree.as_fd(), path).step(|| format!("{}: take its part {path:?}", what()))?;
    }
    if kind == "tmpfs" {
        if options.copy_up {
            copy_up::copy(at.as_fd(), tree.as_fd()).step(|| format!("{}: copy what was there", what()))?;
        } else if !options.data.iter().any(|(key, _)| key == "mode") {
            // A tmpfs that says nothing of its mode looks as the folder that it covers.
            inherit_mode(at.as_fd(), tree.as_fd()).step(what)?;
        }
    }
    finish(tree.as_fd(), options, None).step(what)?;
    target::attach(tree.as_fd(), at.as_fd()).step(what)
}

/// A file system of this kind with a mount's source and options, in no tree yet.
fn of_options(
    kind: &str,
    mount: &Mount,
    options: &Options,
    request: &CreateRequest<'_>,
) -> Result<OwnedFd, LaunchError> {
    let what = || format!("mount {:?} to {:?}", shown_source(mount), mount.destination().display().to_string());
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(what)?;
    if let Some(source) = mount.source() {
        fsconfig_set_string(&context, "source", source.as_path()).step(what)?;
    }
    let mut images = Vec::new();
    for (key, value) in &options.data {
        let said = match value {
            Some(value) if key == "lowerdir+" && Path::new(value).is_file() => {
                // A layer that is an image: it is mounted first, where overlayfs takes it on every kernel.
                let image = berth_sys::images::mount_image(Path::new(value)).step(what)?;
                berth_sys::images::attach(image.as_fd(), Path::new(value)).step(what)?;
                let name = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&image));
                images.push(image);
                fsconfig_set_string(&context, "lowerdir+", name.as_str())
            }
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        };
        said.step(|| format!("{}: option {key:?}", what()))?;
    }
    let label = request.spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    if let Some(label) = label.filter(|label| !label.is_empty() && matches!(kind, "tmpfs" | "mqueue" | "devpts")) {
        fsconfig_set_string(&context, "context", label).step(what)?;
    }
    fsconfig_create(&context)
        .and_then(|()| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()))
        .step(what)
}

/// An overlay whose layers are named one by one, told as one list; in this mount namespace, which is the container's.
fn listed_overlay(options: &Options) -> Result<OwnedFd, Errno> {
    let hold = |path: &str| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (mut layers, mut upper, mut work, mut rest) = (Vec::new(), None, None, Vec::new());
    let mut place = None;
    for (key, value) in &options.data {
        match (key.as_str(), value) {
            ("lowerdir+", Some(path)) => {
                place.get_or_insert(path);
                layers.push(hold(path)?);
            }
            ("upperdir", Some(path)) => upper = Some(hold(path)?),
            ("workdir", Some(path)) => work = Some(hold(path)?),
            (key, Some(value)) => rest.push(format!("{key}={value}")),
            (key, None) => rest.push(key.to_owned()),
        }
    }
    let writable = upper.zip(work).map(|(upper, work)| [upper, work]);
    berth_sys::overlay::mount_by_list(&layers, writable.as_ref(), &rest, Path::new(place.ok_or(Errno::INVAL)?))
}

/// A mount of what is at `path` in another; links do not lead out of it.
fn part(tree: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = rustix::fs::openat2(tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    rustix::mount::open_tree(&found, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)
}

/// Nothing may be mounted into /proc but over files that tell of the host's load: what is read and written there
/// later, by us too, must be the kernel's (CVE-2025-52881; runc allows the same, for lxcfs).
fn procfs_guard(mount: &Mount, options: &Options) -> Result<(), LaunchError> {
    const TELLING: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
    ];
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    let mut clean = std::path::PathBuf::new();
    for part in mount.destination().components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    let Ok(below) = clean.strip_prefix("proc") else { return Ok(()) };
    let allowed = if below.as_os_str().is_empty() {
        // The host's own procfs, for a container in the host's pid namespace.
        let source = mount.source().as_deref().filter(|_| options.bind);
        source.is_some_and(|source| rustix::fs::statfs(source).is_ok_and(|fs| fs.f_type as u64 == PROC_SUPER_MAGIC))
    } else {
        TELLING.iter().any(|name| below == Path::new(name))
    };
    match allowed {
        true => Ok(()),
        false => Err(LaunchError::configuration(format!(
            "{}: nothing may be mounted over or into /proc",
            mount.destination().display()
        ))),
    }
}

fn shown_source(mount: &Mount) -> String {
    mount.source().as_ref().map_or_else(String::new, |source| source.display().to_string())
}

fn inherit_mode(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, "", rustix::fs::AtFlags::EMPTY_PATH)?;
    rustix::fs::chmodat(to, ".", Mode::from_raw_mode(stat.st_mode & 0o7777), rustix::fs::AtFlags::empty())
}

/// Flags and propagation of a detached mount.
fn finish(tree: BorrowedFd<'_>, options: &Options, userns: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut change = Options::normalized(options.change);
    if let Some(userns) = userns {
        let recursive = options.idmap.is_some_and(|idmap| idmap.recursive);
        let map = MountChange { set: attr::IDMAP, ..MountChange::default() };
        change_mount(tree, map, Some(userns), recursive)?;
    }
    let recursive = Options::normalized(options.recursive_change);
    if recursive != MountChange::default() {
        change_mount(tree, recursive, None, true)?;
    }
    if options.recursive_propagation {
        let all = MountChange { propagation: change.propagation, ..MountChange::default() };
        change_mount(tree, all, None, true)?;
        change.propagation = 0;
    }
    if change == MountChange::default() { Ok(()) } else { change_mount(tree, change, None, false) }
}

fn bind(
    root: BorrowedFd<'_>,
    mount: &Mount,
    options: &Options,
    request: &CreateRequest<'_>,
    namespaces: &Namespaces,
    opened: Option<&OwnedFd>,
) -> Result<(), LaunchError> {
    procfs_guard(mount, options)?;
    let what = || bind_text(mount);
    let Some(source) = mount.source() else {
        return Err(LaunchError::configuration(format!("{}: a bind mount needs a source", what())));
    };
    let taken = match (opened, options.memory) {
        (_, Some(owner)) => Some(memory::copy(&request.bundle.join(source), owner).step(what)?),
        (Some(_), None) => None,
        (None, None) => Some(source::tree(&request.bundle.join(source), options, bind_flags(options), &what)?),
    };
    let tree = taken.as_ref().or(opened).expect("one of them is there");
    let at = if target::is_folder(tree.as_fd()).step(what)? {
        target::folder(root, mount.destination())?
    } else {
        let at = target::file(root, mount.destination())?;
        // The kernel's own word for it is "invalid argument".
        if target::is_folder(at.as_fd()).step(what)? {
            let words = "is a directory: cannot mount a file onto a folder, or a folder onto a file";
            return Err(LaunchError::configuration(format!("{}: {words}", what())));
        }
        at
    };
    let maps = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
    let userns = match (options.idmap, maps) {
        (None, (None | Some([]), None | Some([]))) => None,
        (_, (Some(uids), Some(gids))) if !uids.is_empty() && !gids.is_empty() => {
            if namespaces.new_user() {
                return Err(LaunchError::configuration(format!(
                    "{}: an id-mapped mount needs a container without a user namespace of its own",
                    what()
                )));
            }
            Some(idmap::user_namespace(uids, gids)?)
        }
        _ => return Err(LaunchError::configuration(format!("{}: an id-mapped mount needs both id mappings", what()))),
    };
    finish(tree.as_fd(), options, userns.as_ref().map(AsFd::as_fd)).step(what)?;
    target::attach(tree.as_fd(), at.as_fd()).step(what)
}

/// A folder that no link leads to.
fn real_folder(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, LaunchError> {
    match target::existing_without_links(root, path) {
        Ok(Some(fd)) => Ok(fd),
        Ok(None) => target::folder(root, path),
        Err(Errno::LOOP) => Err(LaunchError::configuration(format!(
            "the image's {} is or contains a link; it must be a folder",
            path.display()
        ))),
        Err(errno) => Err(errno).step(|| format!("open {}", path.display())),
    }
}

/// Binds the terminal over /dev/console; through descriptors on both sides (CVE-2025-52565).
pub(crate) fn console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), LaunchError> {
    let what = || "bind the terminal to /dev/console".to_owned();
    let tree = open_tree(slave, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH).step(what)?;
    let path = Path::new("/dev/console");
    let at = match target::existing_without_links(root, path) {
        Ok(Some(fd)) => fd,
        Ok(None) => {
            let (folder, name) = target::parent(root, path)?;
            target::file_in(folder.as_fd(), &name, path)?
        }
        Err(Errno::LOOP) => return Err(LaunchError::configuration("the image's /dev/console is a link")),
        Err(errno) => return Err(errno).step(what),
    };
    target::attach(tree.as_fd(), at.as_fd()).step(what)
}

/// Masks, then makes `root` the root of this mount namespace and lets go of the host's.
pub(crate) fn enter(root: OwnedFd, spec: &Spec) -> Result<(), LaunchError> {
    if let Some(linux) = spec.linux() {
        mask(root.as_fd(), linux)?;
        read_only_paths(root.as_fd(), linux)?;
    }
    let what = || "pivot into the container's root".to_owned();
    let host = open_path(CWD, Path::new("/")).step(what)?;
    rustix::process::fchdir(&root).step(what)?;
    // Puts the old root on top of the new one, at the same place (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".").step(what)?;
    rustix::process::fchdir(&host).step(what)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step(what)?;
    rustix::process::chdir("/").step(what)?;

    let mut change = MountChange::default();
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        change.set = attr::RDONLY;
    }
    let propagation = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let (propagation, recursive) = match propagation {
        Some("shared") => (prop::SHARED, false),
        Some("rshared") => (prop::SHARED, true),
        Some("private") => (prop::PRIVATE, false),
        Some("rprivate") => (prop::PRIVATE, true),
        Some("unbindable" | "runbindable") => (prop::UNBINDABLE, false),
        Some("slave" | "rslave" | "") | None => (0, false),
        Some(other) => return Err(LaunchError::configuration(format!("rootfsPropagation {other:?} is not known"))),
    };
    if recursive {
        change_mount(root.as_fd(), MountChange { propagation, ..MountChange::default() }, None, true).step(what)?;
    } else {
        change.propagation = propagation;
    }
    if change != MountChange::default() {
        change_mount(root.as_fd(), change, None, false).step(|| "set the root's flags".to_owned())?;
    }
    Ok(())
}

/// Files behind /dev/null, folders behind an empty read-only one.
fn mask(root: BorrowedFd<'_>, linux: &Linux) -> Result<(), LaunchError> {
    let mut empty: Option<OwnedFd> = None;
    for path in linux.masked_paths().iter().flatten() {
        let what = || format!("mask {path}");
        let at = match target::existing_without_links(root, Path::new(path)) {
            Ok(Some(at)) => at,
            Ok(None) => continue,
            Err(Errno::LOOP) => {
                return Err(LaunchError::configuration(format!("mask {path}: it is or contains a link")));
            }
            Err(errno) => return Err(errno).step(what),
        };
        let tree = match (target::is_folder(at.as_fd()).step(what)?, &empty) {
            (false, _) => null().step(what)?,
            // Copied once the first is in its place: before Linux 6.15 what is detached cannot be.
            (true, Some(first)) => open_tree(first, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH).step(what)?,
            (true, None) => {
                let first = empty.insert(empty_folder(root).step(what)?);
                target::attach(first.as_fd(), at.as_fd()).step(what)?;
                continue;
            }
        };
        target::attach(tree.as_fd(), at.as_fd()).step(what)?;
    }
    Ok(())
}

/// Folders of sysfs made to be mounted on: nobody, the kernel included, can put anything into them
/// (`sysfs_create_mount_point`).
const ALWAYS_EMPTY: [&str; 3] = ["/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/config"];

/// One of the container's own sysfs where there is one: each file system more is a shrinker more, and every memory
/// cgroup of the host keeps a place for every shrinker (`alloc_shrinker_info`). Else a tmpfs.
fn empty_folder(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    for path in ALWAYS_EMPTY {
        if let Ok(Some(folder)) = target::existing_without_links(root, Path::new(path))
            && rustix::fs::fstatfs(&folder)?.f_type as u64 == SYSFS
        {
            let tree = open_tree(&folder, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)?;
            let change = MountChange { set: attr::RDONLY, ..MountChange::default() };
            change_mount(tree.as_fd(), change, None, false)?;
            return Ok(tree);
        }
    }
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "nr_blocks", "1")?;
    fsconfig_set_string(&context, "nr_inodes", "1")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// The host's /dev/null, and nothing else that may stand there (CVE-2025-31133). Read-only: what is written to the
/// device goes through, but nobody inside changes the mode or owner of the host's node.
fn null() -> Result<OwnedFd, Errno> {
    let tree = open_tree(CWD, "/dev/null", CLONE)?;
    if !is_null(tree.as_fd())? {
        return Err(Errno::NODEV);
    }
    let change = MountChange { set: attr::RDONLY | attr::NOSUID | attr::NOEXEC, ..MountChange::default() };
    change_mount(tree.as_fd(), change, None, false)?;
    Ok(tree)
}

fn is_null(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(file, "", rustix::fs::AtFlags::EMPTY_PATH)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    Ok(device && stat.st_rdev == rustix::fs::makedev(1, 3))
}

fn read_only_paths(root: BorrowedFd<'_>, linux: &Linux) -> Result<(), LaunchError> {
    for path in linux.readonly_paths().iter().flatten() {
        let what = || format!("make {path} read-only");
        let at = match target::existing_without_links(root, Path::new(path)) {
            Ok(Some(at)) => at,
            Ok(None) => continue,
            Err(Errno::LOOP) => {
                return Err(LaunchError::configuration(format!("make {path} read-only: it is or contains a link")));
            }
            Err(errno) => return Err(errno).step(what),
        };
        let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH | rootfs::recursive();
        let tree = open_tree(&at, "", flags).step(what)?;
        let change = MountChange { set: attr::RDONLY, ..MountChange::default() };
        change_mount(tree.as_fd(), change, None, true).step(what)?;
        target::attach(tree.as_fd(), at.as_fd()).step(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_device_itself_is_null() {
        let folder = std::env::temp_dir();
        let link = folder.join(format!("berth-null-{}", std::process::id()));
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is = |path: &Path| is_null(rustix::fs::open(path, flags, Mode::empty()).unwrap().as_fd()).unwrap();
        let answers = [Path::new("/dev/null"), Path::new("/dev/zero"), &link, &folder].map(is);
        std::fs::remove_file(&link).unwrap();
        assert_eq!(answers, [true, false, false, false]);
    }
}
