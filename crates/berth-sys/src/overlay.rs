//! An overlay as kernels before 6.8 want it, which know no `lowerdir+`.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};
use std::ffi::CString;
use std::path::Path;

/// Whether this kernel takes layers one by one, with `lowerdir+` (Documentation/filesystems/overlayfs.rst: Linux 6.8). It
/// is not tried, because an older one writes a line to its log each time.
pub fn takes_layers_one_by_one() -> bool {
    crate::kernel::release() >= (6, 8)
}

/// mount(2) with all layers, topmost first, in one page of options: their names are descriptors, relative to the folder
/// of descriptors, so that 300 layers fit. `upper`: the upper and the work folder; without them it is read-only.
///
/// The result is in no tree. For a moment it is mounted over `place` and the working directory is another: the caller has
/// a mount namespace and a working directory of its own, and has opened all folders in there.
pub fn mount_by_list(
    layers: &[OwnedFd],
    upper: Option<&[OwnedFd; 2]>,
    options: &[String],
    place: &Path,
) -> Result<OwnedFd, Errno> {
    let numbers: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut data = format!("lowerdir={}", numbers.join(":"));
    if let Some([upper, work]) = upper {
        data.push_str(&format!(",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd()));
    }
    for option in options {
        data.push(',');
        data.push_str(option);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = if upper.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    let before = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // The thread's own: its namespace is not that of the others.
    rustix::process::chdir("/proc/thread-self/fd")?;
    let mounted = rustix::mount::mount("overlay", place, "overlay", flags, data.as_c_str());
    rustix::process::fchdir(&before)?;
    mounted?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, place, clone);
    rustix::mount::unmount(place, UnmountFlags::DETACH)?;
    tree
}
