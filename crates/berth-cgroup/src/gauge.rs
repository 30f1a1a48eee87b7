//! The few counters that are read of every cgroup all the time.
//!
//! What a reader of a thousand cgroups pays for is opening files, some three microseconds each, not what is in them. So the
//! folders are known beforehand instead of looked for, a quarter of the files that [`Cgroup::stats`](crate::Cgroup::stats)
//! reads is read, each by one call. None is kept open: the kernel holds a page for each open one.

use crate::cgroup::{below, check_path};
use crate::stats::{io_v2, lines_v1};
use crate::{CgroupError, Controller, Hierarchy};
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// What changes all the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauge {
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
    /// Of it: file cache that goes as soon as it is needed.
    pub cache_bytes: u64,
    /// `None`: unlimited.
    pub memory_limit_bytes: Option<u64>,
    pub pids: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Reads the gauges of one cgroup after the other.
#[derive(Debug)]
pub struct GaugeReader<'a> {
    hierarchy: &'a Hierarchy,
    buffer: Vec<u8>,
}

/// More than any of these files has: the statistics of memory are some two thousand bytes. The rest of a longer one is not read.
const FILE_BYTES_MAX: usize = 16 << 10;

impl<'a> GaugeReader<'a> {
    pub fn new(hierarchy: &'a Hierarchy) -> GaugeReader<'a> {
        GaugeReader { hierarchy, buffer: vec![0; FILE_BYTES_MAX] }
    }

    /// Of the cgroup at `path`, below each hierarchy's mount. What a host does not count stays zero; so does all of a
    /// cgroup that is not there.
    pub fn read(&mut self, path: &str) -> Result<Gauge, CgroupError> {
        check_path(path)?;
        let mut gauge = Gauge::default();
        let hierarchy = self.hierarchy;
        let v1 = |controller| hierarchy.v1_mount(controller).map(|mount| below(mount, path));
        let v2 = |controller| {
            let root = hierarchy.v2_root().filter(|_| hierarchy.v2_has(controller));
            root.map(|root| below(root, path))
        };
        if let Some(dir) = v1(Controller::Cpuacct) {
            gauge.cpu_nanos = number(self.text(&dir, "cpuacct.usage")).unwrap_or(0);
        } else if let Some(root) = hierarchy.v2_root() {
            // cpu.stat's first lines are there without the controller.
            let text = self.text(&below(root, path), "cpu.stat");
            gauge.cpu_nanos = line_of(text, "usage_usec").saturating_mul(1000);
        }
        if let Some(dir) = v1(Controller::Memory) {
            gauge.memory_bytes = number(self.text(&dir, "memory.usage_in_bytes")).unwrap_or(0);
            gauge.memory_limit_bytes = number(self.text(&dir, "memory.limit_in_bytes")).filter(crate::v1::is_limit);
            gauge.cache_bytes = line_of(self.text(&dir, "memory.stat"), "total_inactive_file");
        } else if let Some(dir) = v2(Controller::Memory) {
            gauge.memory_bytes = number(self.text(&dir, "memory.current")).unwrap_or(0);
            gauge.memory_limit_bytes = number(self.text(&dir, "memory.max"));
            gauge.cache_bytes = line_of(self.text(&dir, "memory.stat"), "inactive_file");
        }
        if let Some(dir) = v1(Controller::Pids).or_else(|| v2(Controller::Pids)) {
            gauge.pids = number(self.text(&dir, "pids.current")).unwrap_or(0);
        }
        if let Some(dir) = v1(Controller::Io) {
            let mut text = self.text(&dir, "blkio.throttle.io_service_bytes_recursive");
            if text.is_empty() {
                text = self.text(&dir, "blkio.throttle.io_service_bytes");
            }
            for (_, _, what, bytes) in lines_v1(text) {
                match what {
                    "Read" => gauge.read_bytes += bytes,
                    "Write" => gauge.written_bytes += bytes,
                    // Some kernels count every transfer also in a total.
                    _ => {}
                }
            }
        } else if let Some(dir) = v2(Controller::Io) {
            for (_, _, what, bytes) in io_v2(self.text(&dir, "io.stat"), &[("rbytes", "read"), ("wbytes", "write")]) {
                match what.as_str() {
                    "read" => gauge.read_bytes += bytes,
                    _ => gauge.written_bytes += bytes,
                }
            }
        }
        Ok(gauge)
    }

    /// What is in the file; nothing where there is none.
    fn text(&mut self, dir: &Path, name: &str) -> &str {
        let open = || rustix::fs::open(dir.join(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        // One call has all of a file that the kernel writes as one record, as it does all of these.
        let read = open().and_then(|file| rustix::io::read(&file, self.buffer.as_mut_slice()));
        let bytes = read.unwrap_or(0);
        std::str::from_utf8(&self.buffer[..bytes]).unwrap_or_default()
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim_ascii().parse().ok()
}

/// The number on the line that begins with `name`; 0 without one.
fn line_of(text: &str, name: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn gauges_of_v1_come_from_each_hierarchy() {
        let folder = tree(&[
            ("cpuacct/a/b/cpuacct.usage", "12\n"),
            ("memory/a/b/memory.usage_in_bytes", "4096\n"),
            ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 7\n"),
            ("pids/a/b/pids.current", "3\n"),
            (
                "blkio/a/b/blkio.throttle.io_service_bytes",
                "8:0 Read 5\n8:0 Write 6\n9:0 Read 1\n8:0 Total 11\nTotal 12\n",
            ),
        ]);
        let root = folder.path().display();
        let mount = |name: &str| format!("1 1 0:1 / {root}/{name} rw - cgroup cgroup rw,{name}\n");
        let mounts = ["cpuacct", "memory", "pids", "blkio"].map(mount).concat();
        let hierarchy = Hierarchy::parse(&mounts, |_| String::new()).unwrap();
        let mut reader = GaugeReader::new(&hierarchy);
        let gauge = reader.read("/a/b").unwrap();
        let expected = Gauge {
            cpu_nanos: 12,
            memory_bytes: 4096,
            cache_bytes: 7,
            memory_limit_bytes: None,
            pids: 3,
            read_bytes: 6,
            written_bytes: 6,
        };
        assert_eq!(gauge, expected);
        assert_eq!(reader.read("/a/gone").unwrap(), Gauge::default());
        assert!(reader.read("/a/../b").is_err());
    }

    #[test]
    fn gauges_of_v2_come_from_one_folder() {
        let folder = tree(&[
            ("a/cpu.stat", "usage_usec 12\nuser_usec 1\n"),
            ("a/memory.current", "4096\n"),
            ("a/memory.max", "8192\n"),
            ("a/memory.stat", "anon 1\ninactive_file 7\n"),
            ("a/pids.current", "3\n"),
            ("a/io.stat", "8:0 rbytes=5 wbytes=6 rios=1\n9:0 rbytes=1 wbytes=0\n"),
        ]);
        let mounts = format!("1 1 0:1 / {} rw - cgroup2 cgroup2 rw\n", folder.path().display());
        let hierarchy = Hierarchy::parse(&mounts, |_| "cpu io memory pids".into()).unwrap();
        let gauge = GaugeReader::new(&hierarchy).read("/a").unwrap();
        let expected = Gauge {
            cpu_nanos: 12_000,
            memory_bytes: 4096,
            cache_bytes: 7,
            memory_limit_bytes: Some(8192),
            pids: 3,
            read_bytes: 6,
            written_bytes: 6,
        };
        assert_eq!(gauge, expected);
    }

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let text = "inactive_file 1\ntotal_inactive_file 7\nusage_usec 9\nodd x\n";
        assert_eq!((line_of(text, "total_inactive_file"), line_of(text, "usage_usec")), (7, 9));
        assert_eq!((line_of(text, "usage"), line_of(text, "odd"), line_of("", "a")), (0, 0, 0));
    }
}
