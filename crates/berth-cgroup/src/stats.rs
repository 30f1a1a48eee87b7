//! Meters: everything that Docker's statistics show, one reading of each file.

use crate::files::{read_number, try_read};
use crate::{Cgroup, Controller, v1};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_total_nanos: u64,
    pub cpu_user_nanos: u64,
    pub cpu_kernel_nanos: u64,
    /// Empty on v2, which does not count them.
    pub per_cpu_nanos: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_nanos: u64,
    pub memory_usage_bytes: u64,
    pub memory_max_usage_bytes: u64,
    /// `None`: unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// v1: how often the limit was hit; v2: `max` of memory.events.
    pub memory_fail_count: u64,
    /// As the kernel names them; the names differ between v1 and v2.
    pub memory_stat: BTreeMap<String, u64>,
    pub pids_current: u64,
    pub pids_limit: Option<u64>,
    /// major, minor, operation (`read`, `write`, ...), value
    pub io_service_bytes: Vec<(u64, u64, String, u64)>,
    pub io_serviced: Vec<(u64, u64, String, u64)>,
}

impl Cgroup {
    /// A reading. What a host does not count stays zero; so does all of a cgroup that is gone.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.read_cpu(&mut stats);
        self.read_memory(&mut stats);
        if let Some(dir) = self.folder(Controller::Pids) {
            stats.pids_current = read_number(dir, "pids.current").unwrap_or(0);
            stats.pids_limit = read_number(dir, "pids.max");
        }
        if let Some(folder) = self.v1_folder(Controller::Io) {
            stats.io_service_bytes = io_v1(&folder.dir, "io_service_bytes");
            stats.io_serviced = io_v1(&folder.dir, "io_serviced");
        } else if let Some(dir) = self.v2_for(Controller::Io) {
            let text = try_read(dir, "io.stat").unwrap_or_default();
            stats.io_service_bytes = io_v2(&text, &[("rbytes", "read"), ("wbytes", "write"), ("dbytes", "discard")]);
            stats.io_serviced = io_v2(&text, &[("rios", "read"), ("wios", "write"), ("dios", "discard")]);
        }
        stats
    }

    fn read_cpu(&self, stats: &mut Stats) {
        if let Some(folder) = self.v1_folder(Controller::Cpuacct) {
            let dir = &folder.dir;
            stats.cpu_total_nanos = read_number(dir, "cpuacct.usage").unwrap_or(0);
            stats.cpu_user_nanos = read_number(dir, "cpuacct.usage_user").unwrap_or(0);
            stats.cpu_kernel_nanos = read_number(dir, "cpuacct.usage_sys").unwrap_or(0);
            let each = try_read(dir, "cpuacct.usage_percpu").unwrap_or_default();
            stats.per_cpu_nanos = each.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        } else if let Some(dir) = &self.v2 {
            // cpu.stat's first lines are there without the controller.
            let text = try_read(dir, "cpu.stat").unwrap_or_default();
            let counts = flat(&text);
            let micros = |name: &str| counts.get(name).copied().unwrap_or(0).saturating_mul(1000);
            stats.cpu_total_nanos = micros("usage_usec");
            stats.cpu_user_nanos = micros("user_usec");
            stats.cpu_kernel_nanos = micros("system_usec");
        }
        if let Some(dir) = self.folder(Controller::Cpu) {
            let text = try_read(dir, "cpu.stat").unwrap_or_default();
            let counts = flat(&text);
            let count = |name: &str| counts.get(name).copied().unwrap_or(0);
            stats.periods = count("nr_periods");
            stats.throttled_periods = count("nr_throttled");
            stats.throttled_nanos = count("throttled_time") + count("throttled_usec").saturating_mul(1000);
        }
    }

    fn read_memory(&self, stats: &mut Stats) {
        let dir = if let Some(folder) = self.v1_folder(Controller::Memory) {
            let dir = folder.dir.as_path();
            stats.memory_usage_bytes = read_number(dir, "memory.usage_in_bytes").unwrap_or(0);
            stats.memory_max_usage_bytes = read_number(dir, "memory.max_usage_in_bytes").unwrap_or(0);
            stats.memory_limit_bytes = v1::limit_of(dir, "memory.limit_in_bytes");
            stats.memory_fail_count = read_number(dir, "memory.failcnt").unwrap_or(0);
            dir
        } else if let Some(dir) = self.v2_for(Controller::Memory) {
            stats.memory_usage_bytes = read_number(dir, "memory.current").unwrap_or(0);
            stats.memory_max_usage_bytes = read_number(dir, "memory.peak").unwrap_or(0);
            stats.memory_limit_bytes = read_number(dir, "memory.max");
            let events = try_read(dir, "memory.events").unwrap_or_default();
            stats.memory_fail_count = flat(&events).get("max").copied().unwrap_or(0);
            dir
        } else {
            return;
        };
        let text = try_read(dir, "memory.stat").unwrap_or_default();
        stats.memory_stat = flat(&text).into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    }
}

/// Lines of a name and a number.
fn flat(text: &str) -> BTreeMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, count) = line.split_once(' ')?;
            Some((name, count.trim().parse().ok()?))
        })
        .collect()
}

/// The recursive files count what is below too.
fn io_v1(dir: &Path, what: &str) -> Vec<(u64, u64, String, u64)> {
    let text = try_read(dir, &format!("blkio.throttle.{what}_recursive"))
        .or_else(|_| try_read(dir, &format!("blkio.throttle.{what}")))
        .unwrap_or_default();
    lines_v1(&text).map(|(major, minor, what, count)| (major, minor, what.to_ascii_lowercase(), count)).collect()
}

/// `8:0 Read 4096`; what is no such line is left out.
pub(crate) fn lines_v1(text: &str) -> impl Iterator<Item = (u64, u64, &str, u64)> {
    text.lines().filter_map(|line| {
        let mut words = line.split([' ', ':']);
        let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((major, minor, words.next()?, words.next()?.parse().ok()?))
    })
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 ...`
pub(crate) fn io_v2(text: &str, keys: &[(&str, &str)]) -> Vec<(u64, u64, String, u64)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((device, counts)) = line.split_once(' ') else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, operation) in keys {
            let count = counts.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
            if let Some(count) = count {
                found.push((major, minor, (*operation).to_owned(), count));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_counts_of_v2_read_as_dockers() {
        let text = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\nnonsense\n254:1 rbytes=5\n";
        let bytes = io_v2(text, &[("rbytes", "read"), ("wbytes", "write")]);
        assert_eq!(bytes, [(8, 0, "read".into(), 10), (8, 0, "write".into(), 20), (254, 1, "read".into(), 5)]);
    }

    #[test]
    fn flat_files_skip_what_is_no_number() {
        assert_eq!(flat("anon 5\nfile x\nslab 7"), BTreeMap::from([("anon", 5), ("slab", 7)]));
    }
}
