//! File systems that stand still while the host copies the disks.
//!
//! Whoever froze them may be gone: they go on by themselves after the time that was given.

use berth_agent_proto::{Failure, FailureKind};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SECONDS_MAX: u32 = 300;
/// Those that live on a disk of their own.
const KINDS: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat"];

pub(crate) struct Frozen {
    folders: Vec<OwnedFd>,
    pub(crate) until: Instant,
}

/// A line of mountinfo: device, mount point, rights, kind.
fn mounted(line: &str) -> Option<(&str, String, bool, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let fields: Vec<&str> = left.split(' ').collect();
    let (kind, rest) = right.split_once(' ')?;
    let writable = rest.rsplit(' ').next()?.split(',').any(|word| word == "rw");
    Some((fields.get(2)?, fields.get(4)?.replace("\\040", " "), writable, kind))
}

/// Where the file systems that can be written and live on a disk of their own are mounted, each once, in that order.
pub(crate) fn points() -> Result<Vec<String>, Failure> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|cause| Failure::new(FailureKind::Internal, format!("cannot read the mounts: {cause}")))?;
    let (mut seen, mut points) = (BTreeSet::new(), Vec::new());
    for (device, point, writable, kind) in table.lines().filter_map(mounted) {
        if writable && KINDS.contains(&kind) && seen.insert(device.to_owned()) {
            points.push(point);
        }
    }
    Ok(points)
}

impl Frozen {
    pub(crate) fn all(seconds_max: u32) -> Result<Frozen, Failure> {
        let failed = |text: String| Failure::new(FailureKind::Internal, text);
        let points = points()?;
        let seconds = seconds_max.clamp(1, SECONDS_MAX);
        let mut frozen =
            Frozen { folders: Vec::new(), until: Instant::now() + Duration::from_secs(u64::from(seconds)) };
        rustix::fs::sync();
        // The last mounted first: what lies above writes to what lies below. Dropped, those that stand still go on.
        for point in points.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::open(point, flags, Mode::empty())
                .map_err(|errno| failed(format!("cannot open {point}: {errno}")))?;
            match berth_sys::freeze::freeze(folder.as_fd()) {
                Ok(()) => frozen.folders.push(folder),
                // Has none of its own to freeze, or stands still already.
                Err(Errno::OPNOTSUPP | Errno::BUSY) => {}
                Err(errno) => return Err(failed(format!("cannot freeze {point}: {errno}"))),
            }
        }
        Ok(frozen)
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.folders.len()).unwrap_or(u32::MAX)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for folder in self.folders.iter().rev() {
            if let Err(errno) = berth_sys::freeze::thaw(folder.as_fd()) {
                eprintln!("berth-agent: a file system stays frozen: {errno}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mounts_is_read() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext4 /dev/root rw,errors=continue";
        assert_eq!(mounted(line), Some(("98:0", "/mnt 2".to_owned(), true, "ext4")));
        let line = "36 35 0:5 / /proc rw - proc proc ro";
        assert_eq!(mounted(line), Some(("0:5", "/proc".to_owned(), false, "proc")));
        assert_eq!(mounted("nonsense"), None);
    }
}
