//! Files of a cgroup: short texts, written whole in one call, read whole.

use crate::CgroupError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

/// The longest file read: `memory.numa_stat` and `cpuacct.usage_percpu` of large hosts stay below.
const FILE_BYTES_MAX: usize = 1 << 20;

pub(crate) fn try_write(dir: &Path, name: &str, value: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(dir.join(name), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

pub(crate) fn write(dir: &Path, name: &str, value: &str) -> Result<(), CgroupError> {
    try_write(dir, name, value).map_err(|errno| CgroupError::Write {
        file: dir.join(name),
        value: value.to_owned(),
        errno,
    })
}

pub(crate) fn try_read(dir: &Path, name: &str) -> Result<String, Errno> {
    let file = rustix::fs::open(dir.join(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // One read takes most files: kernfs fills what it is given up to the file's end.
    let mut bytes = vec![0; 4096];
    let mut used = 0;
    loop {
        if used == bytes.len() {
            if used >= FILE_BYTES_MAX {
                return Err(Errno::FBIG);
            }
            bytes.resize(used * 4, 0);
        }
        match rustix::io::read(&file, &mut bytes[used..]) {
            Ok(0) => break,
            Ok(count) => used += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(used);
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

pub(crate) fn read(dir: &Path, name: &str) -> Result<String, CgroupError> {
    try_read(dir, name).map_err(|errno| CgroupError::Read { file: dir.join(name), errno })
}

/// A file of one number; `max` and what is not there are `None`.
pub(crate) fn read_number(dir: &Path, name: &str) -> Option<u64> {
    try_read(dir, name).ok()?.trim().parse().ok()
}
