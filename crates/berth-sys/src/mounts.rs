//! mount_setattr(2), which `rustix` lacks.

use crate::clone::last_error;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `MOUNT_ATTR_*`, <linux/mount.h>
pub mod attributes {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// The access time modes share a field; clear it whole when setting one.
    pub const ATIME_MASK: u64 = 0x70;
    pub const RELATIME: u64 = 0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x10_0000;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// `MS_SHARED` and its kin, as `propagation` takes them.
pub mod propagation {
    pub const UNBINDABLE: u64 = 1 << 17;
    pub const PRIVATE: u64 = 1 << 18;
    pub const SLAVE: u64 = 1 << 19;
    pub const SHARED: u64 = 1 << 20;
}

/// What to change about a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountChange {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// `struct mount_attr`
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const AT_RECURSIVE: libc::c_int = 0x8000;

/// Changes the mount that `fd` is the root of, and with `recursive` all below it.
/// `userns` is the user namespace of an id-mapped mount (with [`attributes::IDMAP`] set).
pub fn change_mount(
    fd: BorrowedFd<'_>,
    change: MountChange,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation,
        userns: userns.map_or(0, |userns| userns.as_raw_fd() as u64),
    };
    let at = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string that lives for ever; the kernel copies `attr` during the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(last_error()) }
}
