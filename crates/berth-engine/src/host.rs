//! The host's own meters: processors, memory, disk, network, as the kernel counts them.

use crate::events::now_unix_nanos;
use crate::oci::HostFacts;
use std::path::Path;

/// One reading; counters only grow, rates are the difference of two readings.
#[derive(Debug, Clone, Default)]
pub struct HostMeters {
    pub unix_nanos: i64,
    pub cpus: u32,
    /// Time that all processors together were not idle.
    pub cpu_busy_nanos: u64,
    /// Over the last minute.
    pub load: f64,
    pub memory_total_bytes: u64,
    /// What is not available to a new program.
    pub memory_used_bytes: u64,
    /// Of the file system below the data root.
    pub disk_total_bytes: u64,
    pub disk_used_bytes: u64,
    /// Over the host's links to the outside: no loopback, bridges or pairs.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// From and to its disks, each counted once: no partitions, nothing that lies on another one.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// The kernel counts processor time in hundredths of a second (proc(5), USER_HZ).
const TICK_NANOS: u64 = 10_000_000;

/// Reads them; what cannot be read is zero.
pub fn meters(data_root: &Path) -> HostMeters {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (total, available) = memory(&text("/proc/meminfo"));
    let (received_bytes, sent_bytes) = network(&text("/proc/net/dev"));
    let (read_bytes, written_bytes) = disks(&text("/proc/diskstats"));
    let disk = rustix::fs::statvfs(data_root).ok();
    let blocks = |get: fn(&rustix::fs::StatVfs) -> u64| disk.as_ref().map_or(0, |disk| get(disk) * disk.f_frsize);
    HostMeters {
        unix_nanos: now_unix_nanos(),
        cpus: HostFacts::get().cpus,
        cpu_busy_nanos: busy_nanos(&text("/proc/stat")),
        load: text("/proc/loadavg").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
        memory_total_bytes: total,
        memory_used_bytes: total.saturating_sub(available),
        disk_total_bytes: blocks(|disk| disk.f_blocks),
        disk_used_bytes: blocks(|disk| disk.f_blocks.saturating_sub(disk.f_bfree)),
        received_bytes,
        sent_bytes,
        read_bytes,
        written_bytes,
    }
}

/// 0 where it cannot be read.
pub(crate) fn memory_total() -> u64 {
    memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()).0
}

/// What the kernel counts in, whatever the disk has (proc(5)).
const SECTOR_BYTES: u64 = 512;

/// user nice system idle iowait irq softirq steal; guests are counted in user already.
fn busy_nanos(stat: &str) -> u64 {
    let first = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = first.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    let busy =
        ticks.iter().take(7).enumerate().filter(|(n, _)| !matches!(n, 3 | 4)).map(|(_, ticks)| ticks).sum::<u64>();
    busy.saturating_mul(TICK_NANOS)
}

fn memory(meminfo: &str) -> (u64, u64) {
    let value = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    (value("MemTotal"), value("MemAvailable"))
}

fn network(dev: &str) -> (u64, u64) {
    let inside = ["lo", "veth", "br-", "docker", "berth", "virbr", "tap", "bv"];
    let mut sum = (0_u64, 0_u64);
    for (name, counters) in dev.lines().filter_map(|line| line.split_once(':')) {
        if inside.iter().any(|start| name.trim().starts_with(start)) {
            continue;
        }
        let counters: Vec<u64> = counters.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        sum.0 = sum.0.saturating_add(counters.first().copied().unwrap_or(0));
        sum.1 = sum.1.saturating_add(counters.get(8).copied().unwrap_or(0));
    }
    sum
}

fn disks(diskstats: &str) -> (u64, u64) {
    let stacked = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
    let lines: Vec<Vec<&str>> = diskstats.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    let names: Vec<&str> = lines.iter().filter_map(|line| line.get(2).copied()).collect();
    let whole = |name: &str| {
        !stacked.iter().any(|start| name.starts_with(start))
            && !names.iter().any(|other| *other != name && name.starts_with(other))
    };
    let bytes = |line: &[&str], at: usize| {
        line.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0).saturating_mul(SECTOR_BYTES)
    };
    let own = lines.iter().filter(|line| line.get(2).is_some_and(|name| whole(name)));
    own.fold((0, 0), |(read, written), line| {
        (u64::saturating_add(read, bytes(line, 5)), u64::saturating_add(written, bytes(line, 9)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        assert_eq!(busy_nanos("cpu  1 2 3 100 100 4 5 6 7 8\n"), 15 * TICK_NANOS);
        assert_eq!(busy_nanos(""), 0);
    }

    #[test]
    fn each_disk_counts_once() {
        let stats = " 7 0 loop0 1 0 99 0 1 0 99 0\n 254 0 vda 9 0 4 0 9 0 6 0\n 254 1 vda1 9 0 4 0 9 0 6 0\n 253 0 dm-0 9 0 4 0 9 0 6 0\n 259 0 nvme0n1 1 0 1 0 1 0 1 0\n";
        assert_eq!(disks(stats), (5 * 512, 7 * 512));
        assert_eq!(disks("nonsense"), (0, 0));
    }

    #[test]
    fn only_links_to_the_outside_count() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 5 0 0 0 0 0 0 0 7 0\n berth0: 1 0 0 0 0 0 0 0 1 0\n";
        assert_eq!(network(dev), (5, 7));
        assert_eq!(memory("MemTotal: 4 kB\nMemAvailable: 1 kB\n"), (4096, 1024));
    }
}
