//! The container's root as a detached mount.

use crate::error::{LaunchError, Step};
use berth_types::mount::{Lower, Overlay, Rootfs};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use std::path::Path;

/// fsconfig(2) takes strings of at most 255 bytes.
const STRING_MAX: usize = 255;

/// AT_RECURSIVE, which open_tree(2) takes among its own flags.
pub(crate) fn recursive() -> OpenTreeFlags {
    OpenTreeFlags::AT_RECURSIVE
}

/// The layers that are images, as mounts; nothing for those that are folders. Done before the clone: a user
/// namespace may not mount them, nor look into the process that has them mounted already.
pub(crate) fn layer_images(rootfs: &Rootfs) -> Result<Vec<Option<OwnedFd>>, LaunchError> {
    let Rootfs::Overlay(overlay) = rootfs else { return Ok(Vec::new()) };
    let open = |lower: &Lower| match lower {
        Lower::Folder(_) => Ok(None),
        Lower::Image { erofs, held } => berth_sys::images::open_image(erofs, held.map(|held| (held.pid, held.fd)))
            .map(Some)
            .step(|| format!("mount the layer {}", erofs.display())),
    };
    overlay.lower.iter().map(open).collect()
}

/// `images` are of [`layer_images`].
pub(crate) fn mount(rootfs: &Rootfs, images: &[Option<OwnedFd>]) -> Result<OwnedFd, LaunchError> {
    match rootfs {
        Rootfs::Directory { path } => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive();
            open_tree(CWD, path, flags).step(|| format!("take the root file system {}", path.display()))
        }
        Rootfs::Overlay(overlay) => match by_parts(overlay, images) {
            // A kernel before 6.8 knows no `lowerdir+`. One that mounts images does.
            Err(Errno::INVAL) if images.iter().all(Option::is_none) => by_string(overlay),
            mounted => mounted.step(|| describe(overlay)),
        },
    }
}

fn describe(overlay: &Overlay) -> String {
    let upper = overlay.upper.as_ref().map_or(String::new(), |upper| format!(" and {}", upper.upper.display()));
    format!("mount the root file system of {} layers{upper}", overlay.lower.len())
}

/// A path that is short enough to be said, else its descriptor's.
struct Named {
    text: String,
    _held: Option<OwnedFd>,
}

fn named(path: &Path) -> Result<Named, Errno> {
    match path.to_str() {
        Some(text) if text.len() <= STRING_MAX => Ok(Named { text: text.to_owned(), _held: None }),
        _ => {
            let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            Ok(Named { text: format!("/proc/self/fd/{}", fd.as_raw_fd()), _held: Some(fd) })
        }
    }
}

fn by_parts(overlay: &Overlay, images: &[Option<OwnedFd>]) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    let mut held = Vec::new();
    for (number, lower) in overlay.lower.iter().enumerate() {
        if let Some(Some(image)) = images.get(number) {
            fsconfig_set_string(&context, "lowerdir+", format!("/proc/self/fd/{}", image.as_raw_fd()))?;
            continue;
        }
        let name = named(lower.path())?;
        fsconfig_set_string(&context, "lowerdir+", name.text.as_str())?;
        held.push(name);
    }
    if let Some(upper) = &overlay.upper {
        for (key, path) in [("upperdir", &upper.upper), ("workdir", &upper.work)] {
            let name = named(path)?;
            fsconfig_set_string(&context, key, name.text.as_str())?;
            held.push(name);
        }
    }
    for option in &overlay.options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, read_only(overlay))
}

fn read_only(overlay: &Overlay) -> MountAttrFlags {
    match overlay.upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    }
}

/// mount(2) with all layers in one page of options: their names are descriptors, relative to the folder of
/// descriptors, so that 300 layers fit. It is attached where nobody sees it and taken off again.
fn by_string(overlay: &Overlay) -> Result<OwnedFd, LaunchError> {
    let what = || describe(overlay);
    let hold = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let layers: Vec<OwnedFd> =
        overlay.lower.iter().map(|lower| hold(lower.path())).collect::<Result<_, _>>().step(what)?;
    let before = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).step(what)?;
    let numbers: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut data = format!("lowerdir={}", numbers.join(":"));
    let mut held = Vec::new();
    if let Some(upper) = &overlay.upper {
        for (key, path) in [("upperdir", &upper.upper), ("workdir", &upper.work)] {
            let fd = hold(path).step(what)?;
            data.push_str(&format!(",{key}={}", fd.as_raw_fd()));
            held.push(fd);
        }
    }
    for option in &overlay.options {
        data.push_str(&format!(",{option}"));
    }
    // The newest layer's own folder serves as the place: this mount namespace is ours alone.
    let place =
        overlay.lower.first().map(Lower::path).ok_or_else(|| LaunchError::configuration("an overlay needs a layer"))?;
    let flags = if overlay.upper.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    rustix::process::chdir("/proc/self/fd").step(what)?;
    let data = std::ffi::CString::new(data).map_err(|_| LaunchError::configuration("a path holds a zero byte"))?;
    let mounted = rustix::mount::mount("overlay", place, "overlay", flags, data.as_c_str());
    rustix::process::fchdir(&before).step(what)?;
    mounted.step(what)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, place, clone).step(what)?;
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).step(what)?;
    Ok(tree)
}
