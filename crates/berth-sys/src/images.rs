//! EROFS images as mounts that are nowhere in a tree, and finding such a mount again in the process that holds it.

use crate::clone::last_error;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, mount_change, move_mount,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Where an EROFS image has its UUID (fs/erofs/erofs_fs.h).
const UUID_AT: u64 = 1024 + 48;
/// fsconfig(2) takes strings of at most 255 bytes.
const STRING_MAX: usize = 255;

/// Mounts the image in the file `path`, read-only and without a loop device. The mount goes with its last user.
pub fn mount_image(path: &Path) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let held;
    let source = match path.to_str() {
        Some(text) if text.len() <= STRING_MAX => text.to_owned(),
        _ => {
            held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            format!("/proc/self/fd/{}", held.as_raw_fd())
        }
    };
    rustix::mount::fsconfig_set_string(&context, "source", source.as_str())?;
    rustix::mount::fsconfig_set_flag(&context, "ro")?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// An image as a mount.
#[derive(Debug)]
pub struct ImageMount {
    pub fd: OwnedFd,
    /// It is another process's as well.
    pub is_shared: bool,
}

/// The image in the file `path` as a mount: the one that process `held.0` holds as its descriptor `held.1`, if it
/// still does, else one of its own.
pub fn open_image(path: &Path, held: Option<(u32, i32)>) -> Result<ImageMount, Errno> {
    if let Some((pid, fd)) = held
        && let Ok(fd) = open_held(path, pid, fd)
    {
        return Ok(ImageMount { fd, is_shared: true });
    }
    Ok(ImageMount { fd: mount_image(path)?, is_shared: false })
}

/// Attaches a mount of the caller's own over the folder that holds the image, in the caller's mount namespace.
/// Overlayfs takes layers that are in no tree since Linux 6.15 only.
pub fn attach(mounted: BorrowedFd<'_>, image: &Path) -> Result<(), Errno> {
    let folder = image.parent().ok_or(Errno::INVAL)?;
    move_mount(mounted, "", CWD, folder, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Runs `work` on a thread with a mount namespace of its own, a copy of the caller's: what is attached there nobody
/// else sees, and it goes with the thread.
pub fn in_own_namespace<T: Send>(work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    let apart = || {
        crate::netns::unshare(rustix::thread::UnshareFlags::NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount-apart".to_owned()).spawn_scoped(scope, apart);
        let thread = thread.map_err(|cause| Errno::from_io_error(&cause).unwrap_or(Errno::AGAIN))?;
        thread.join().unwrap_or(Err(Errno::CANCELED))
    })
}

/// Processes and descriptors are numbered anew: what is there is taken only if it is the top of a mount with this
/// image's UUID.
fn open_held(path: &Path, pid: u32, fd: i32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::open(format!("/proc/{pid}/fd/{fd}"), flags, Mode::empty())?;
    let image = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut wanted = [0; 16];
    let count = rustix::io::pread(&image, &mut wanted, UUID_AT)?;
    let stat = rustix::fs::statx(&found, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    let is_top = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    match count == wanted.len() && is_top && wanted != [0; 16] && uuid_of(&found)? == wanted {
        true => Ok(found),
        false => Err(Errno::STALE),
    }
}

/// `struct fsuuid2`, <linux/fs.h>
#[repr(C)]
struct FsUuid {
    length: u8,
    uuid: [u8; 16],
}

/// `FS_IOC_GETFSUUID`, <linux/fs.h>, since Linux 6.9
const GET_FS_UUID: libc::c_ulong = 0x8011_1500;

fn uuid_of(file: &OwnedFd) -> Result<[u8; 16], Errno> {
    let mut answer = FsUuid { length: 0, uuid: [0; 16] };
    // SAFETY: the kernel writes one `struct fsuuid2`, whose layout this is, during the call.
    let ret = unsafe { libc::ioctl(file.as_raw_fd(), GET_FS_UUID as _, &raw mut answer) };
    match (ret, usize::from(answer.length)) {
        (0, 16) => Ok(answer.uuid),
        (0, _) => Err(Errno::NODATA),
        _ => Err(last_error()),
    }
}

/// Whether overlayfs takes such a mount as a layer, which this tries.
pub fn stack_on(lower: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let name = format!("/proc/self/fd/{}", lower.as_raw_fd());
    // Twice: a single layer is no overlay.
    let again = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rustix::mount::fsconfig_set_string(&context, "lowerdir+", name.as_str())?;
    rustix::mount::fsconfig_set_string(&context, "lowerdir+", format!("/proc/self/fd/{}", again.as_raw_fd()))?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}
