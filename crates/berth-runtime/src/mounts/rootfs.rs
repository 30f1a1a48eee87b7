//! The container's root as a detached mount.

use crate::error::{LaunchError, Step};
use berth_sys::images::ImageMount;
use berth_types::mount::{Lower, Overlay, Rootfs};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
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
pub(crate) fn layer_images(rootfs: &Rootfs) -> Result<Vec<Option<ImageMount>>, LaunchError> {
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
pub(crate) fn mount(rootfs: &Rootfs, images: &[Option<ImageMount>]) -> Result<OwnedFd, LaunchError> {
    match rootfs {
        Rootfs::Directory { path } => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive();
            open_tree(CWD, path, flags).step(|| format!("take the root file system {}", path.display()))
        }
        Rootfs::Overlay(overlay) if !berth_sys::overlay::takes_layers_one_by_one() => by_string(overlay),
        Rootfs::Overlay(overlay) => match by_parts(overlay, images) {
            // One before 6.15 wants layers that are somewhere in this namespace, which is ours alone. Nobody shares
            // mounts there: those of others stay where they are.
            Err(Errno::INVAL) if images.iter().flatten().all(|image| !image.is_shared) => {
                let again = || {
                    attach_all(overlay, images)?;
                    forget_mark(overlay)?;
                    by_parts(overlay, images)
                };
                again().step(|| describe(overlay))
            }
            mounted => mounted.step(|| describe(overlay)),
        },
    }
}

fn attach_all(overlay: &Overlay, images: &[Option<ImageMount>]) -> Result<(), Errno> {
    let mut all = overlay.lower.iter().zip(images).filter_map(|(lower, image)| Some((lower.path(), image.as_ref()?)));
    all.try_for_each(|(path, image)| berth_sys::images::attach(image.fd.as_fd(), path))
}

/// The kernel marks the work folder of a volatile overlay before it takes the layers, and takes no folder with a mark:
/// the one that is there is of the mount that failed a moment ago.
fn forget_mark(overlay: &Overlay) -> Result<(), Errno> {
    let Some(upper) = overlay.upper.as_ref().filter(|_| overlay.options.iter().any(|option| option == "volatile"))
    else {
        return Ok(());
    };
    match std::fs::remove_dir_all(upper.work.join("work/incompat")) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(cause.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        }
        _ => Ok(()),
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

fn by_parts(overlay: &Overlay, images: &[Option<ImageMount>]) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    let mut held = Vec::new();
    for (number, lower) in overlay.lower.iter().enumerate() {
        if let Some(Some(image)) = images.get(number) {
            fsconfig_set_string(&context, "lowerdir+", format!("/proc/self/fd/{}", image.fd.as_raw_fd()))?;
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

/// In this mount namespace, which is the container's alone.
fn by_string(overlay: &Overlay) -> Result<OwnedFd, LaunchError> {
    let what = || describe(overlay);
    let hold = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let layers: Vec<OwnedFd> =
        overlay.lower.iter().map(|lower| hold(lower.path())).collect::<Result<_, _>>().step(what)?;
    let upper = overlay.upper.as_ref().map(|upper| Ok::<_, Errno>([hold(&upper.upper)?, hold(&upper.work)?]));
    let upper = upper.transpose().step(what)?;
    let place =
        overlay.lower.first().map(Lower::path).ok_or_else(|| LaunchError::configuration("an overlay needs a layer"))?;
    berth_sys::overlay::mount_by_list(&layers, upper.as_ref(), &overlay.options, place).step(what)
}
