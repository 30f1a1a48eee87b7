//! How the guest is, as it sees itself.

use crate::{freeze, hardware};
use berth_agent_proto::{FILESYSTEMS_MAX, Failure, FailureKind, Filesystem, Statistics};

/// A path that is longer says nothing to anybody.
const PATH_BYTES_MAX: usize = 1024;

pub(crate) fn read() -> Result<Statistics, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|cause| Failure::new(FailureKind::Internal, format!("cannot read the memory's state: {cause}")))?;
    let points = freeze::points()?;
    let filesystems = points.into_iter().filter(|point| point.len() <= PATH_BYTES_MAX).take(FILESYSTEMS_MAX);
    Ok(Statistics {
        memory_total_bytes: bytes(&text, "MemTotal"),
        memory_available_bytes: bytes(&text, "MemAvailable"),
        swap_total_bytes: bytes(&text, "SwapTotal"),
        swap_free_bytes: bytes(&text, "SwapFree"),
        uptime_millis: uptime_millis(),
        cpus_online: hardware::cpus_online(),
        filesystems: filesystems.filter_map(filesystem).collect(),
    })
}

/// Since the guest's boot; 0 where it cannot be read.
pub(crate) fn uptime_millis() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_millis().try_into().unwrap_or(u64::MAX)
}

/// A line of meminfo, in kB there; 0 where a kernel does not have it.
fn bytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// `None`: it was unmounted meanwhile, or its disk fails.
fn filesystem(path: String) -> Option<Filesystem> {
    let room = rustix::fs::statvfs(path.as_str()).ok()?;
    Some(Filesystem {
        path,
        total_bytes: room.f_blocks.saturating_mul(room.f_frsize),
        used_bytes: room.f_blocks.saturating_sub(room.f_bfree).saturating_mul(room.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_memorys_state_is_found_by_its_whole_name() {
        let text =
            "MemTotal:         188040 kB\nMemFree:  1 kB\nMemAvailable:     125000 kB\nHugePages_Total:       0\n";
        assert_eq!(bytes(text, "MemTotal"), 188_040 * 1024);
        assert_eq!(bytes(text, "MemAvailable"), 125_000 * 1024);
        assert_eq!((bytes(text, "Mem"), bytes(text, "SwapTotal"), bytes("", "MemTotal")), (0, 0, 0));
    }

    #[test]
    fn this_system_tells_of_itself() {
        let read = read().unwrap();
        assert!(read.memory_total_bytes >= read.memory_available_bytes && read.memory_available_bytes > 0, "{read:?}");
        assert!(read.uptime_millis > 0);
        assert!(read.filesystems.iter().all(|one| one.used_bytes <= one.total_bytes), "{read:?}");
    }
}
