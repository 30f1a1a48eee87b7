//! Layers that are EROFS images, mounted once for all who use them.
//!
//! The mounts are in no tree: this process holds each by a descriptor, and shims take it from there. Containers of
//! one image so share one copy of its files in memory; one that mounts an image anew has a copy of its own. A mount
//! keeps its file on the disk, so it goes before its layer does; containers that run keep what they have.

use berth_types::mount::{HeldMount, Lower, Rootfs};
use berth_types::{Error, ErrorKind, Result};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Descriptors for this; what is over it is mounted anew by each who needs it.
const HELD_MAX: usize = 2048;

#[derive(Debug, Default)]
pub(super) struct Mounts {
    held: Mutex<HashMap<PathBuf, OwnedFd>>,
    /// Overlayfs takes them as they are held, in no tree. Known with the first one.
    are_taken: OnceLock<bool>,
}

impl Mounts {
    /// Says of each layer that is an image where it is mounted.
    pub(super) fn hold(&self, rootfs: &mut Rootfs) -> Result<()> {
        let Rootfs::Overlay(overlay) = rootfs else { return Ok(()) };
        for lower in &mut overlay.lower {
            if let Lower::Image { erofs, held } = lower {
                *held = self.mounted(erofs)?;
            }
        }
        Ok(())
    }

    fn mounted(&self, image: &Path) -> Result<Option<HeldMount>> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |fd: &OwnedFd| Some(HeldMount { pid: std::process::id(), fd: fd.as_raw_fd() });
        if let Some(fd) = all.get(image) {
            return Ok(here(fd));
        }
        if all.len() >= HELD_MAX || self.are_taken.get() == Some(&false) {
            return Ok(None);
        }
        let fd = berth_sys::images::mount_image(image).map_err(|errno| cannot_mount(image, errno))?;
        if !self.are_taken.get_or_init(|| berth_sys::images::stack_on(fd.as_fd()).is_ok()) {
            return Ok(None);
        }
        let held = here(&fd);
        all.insert(image.to_owned(), fd);
        Ok(held)
    }

    /// Lets go of the mounts below a layer's folder.
    pub(super) fn forget(&self, folder: &Path) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|image, _| !image.starts_with(folder));
    }
}

fn cannot_mount(image: &Path, errno: Errno) -> Error {
    let message = format!("cannot mount the layer {}", image.display());
    let error = Error::because(ErrorKind::Unavailable, message, &std::io::Error::from(errno));
    match errno {
        Errno::NODEV | Errno::NOTBLK => error.with_hint(
            "the layer is an EROFS image, which cannot be mounted here: that needs Linux 6.12 with \
             CONFIG_EROFS_FS_BACKED_BY_FILE, and a data root on a disk, not on a tmpfs. Remove the image with its \
             containers, and pull or load it again with an engine of --storage-driver overlay",
        ),
        _ => error,
    }
}

/// How this kernel stacks an overlay on an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stacking {
    /// On a mount in no tree, which all who use the image share (Linux 6.15).
    Shared,
    /// On a mount in the namespace of who uses it: each has a copy of the image's files in memory (Linux 6.12).
    Apart,
}

/// Whether and how this kernel mounts the image in a file and stacks an overlay on it, which this tries.
pub(super) fn try_out(image: &Path) -> Result<Stacking> {
    let mounted = berth_sys::images::mount_image(image).map_err(|errno| cannot_mount(image, errno))?;
    if berth_sys::images::stack_on(mounted.as_fd()).is_ok() {
        return Ok(Stacking::Shared);
    }
    let apart = berth_sys::images::in_own_namespace(|| {
        berth_sys::images::attach(mounted.as_fd(), image)?;
        berth_sys::images::stack_on(mounted.as_fd())
    });
    apart.map(|_| Stacking::Apart).map_err(|errno| {
        let message = "cannot stack an overlay on an EROFS image";
        Error::because(ErrorKind::Unavailable, message, &std::io::Error::from(errno))
            .with_hint("use --storage-driver overlay")
    })
}
