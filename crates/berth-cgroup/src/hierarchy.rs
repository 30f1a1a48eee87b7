//! Hierarchies: which controller is mounted where on this host.

use crate::CgroupError;
use crate::files::try_read;
use std::path::{Path, PathBuf};

/// Which of the kernel's two interfaces steers containers here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
    /// Some controllers on each.
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    /// `blkio` on v1.
    Io,
    Pids,
    Devices,
    Freezer,
    Hugetlb,
    NetCls,
    NetPrio,
    PerfEvent,
    Rdma,
    Misc,
    /// v1's named hierarchy of systemd, no controller.
    Systemd,
}

impl Controller {
    const ALL: [(&'static str, Controller); 15] = [
        ("cpu", Controller::Cpu),
        ("cpuacct", Controller::Cpuacct),
        ("cpuset", Controller::Cpuset),
        ("memory", Controller::Memory),
        ("blkio", Controller::Io),
        ("io", Controller::Io),
        ("pids", Controller::Pids),
        ("devices", Controller::Devices),
        ("freezer", Controller::Freezer),
        ("hugetlb", Controller::Hugetlb),
        ("net_cls", Controller::NetCls),
        ("net_prio", Controller::NetPrio),
        ("perf_event", Controller::PerfEvent),
        ("rdma", Controller::Rdma),
        ("name=systemd", Controller::Systemd),
    ];

    fn named(name: &str) -> Option<Controller> {
        match name {
            "misc" => Some(Controller::Misc),
            _ => Controller::ALL.iter().find(|(known, _)| *known == name).map(|&(_, controller)| controller),
        }
    }

    /// Made for every container: it meters or steers, limits or not.
    pub(crate) fn always(self) -> bool {
        !matches!(
            self,
            Controller::Cpuset
                | Controller::Hugetlb
                | Controller::NetCls
                | Controller::NetPrio
                | Controller::PerfEvent
                | Controller::Rdma
                | Controller::Misc
        )
    }
}

/// Where the controllers are. Cheap to make: one file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Each v1 mount and the controllers on it.
    pub(crate) v1: Vec<(PathBuf, Vec<Controller>)>,
    pub(crate) v2: Option<Unified>,
}

/// The v2 tree, where it has controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unified {
    pub(crate) root: PathBuf,
    /// As in its `cgroup.controllers`.
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    /// This host's, as this process sees it.
    pub fn detect() -> Result<Hierarchy, CgroupError> {
        let mounts = try_read(Path::new("/proc/self"), "mountinfo")
            .map_err(|errno| CgroupError::Read { file: "/proc/self/mountinfo".into(), errno })?;
        Hierarchy::parse(&mounts, |root| try_read(root, "cgroup.controllers").unwrap_or_default())
    }

    /// `controllers` reads the file of a v2 root.
    pub(crate) fn parse(mounts: &str, controllers: impl Fn(&Path) -> String) -> Result<Hierarchy, CgroupError> {
        let mut v1: Vec<(PathBuf, Vec<Controller>)> = Vec::new();
        let mut root: Option<PathBuf> = None;
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            // proc_pid_mountinfo(5): id parent device root mountpoint options [tags] - fstype source super-options
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = before.split(' ').nth(4).map(unescape) else { continue };
            let mut words = after.split(' ');
            match words.next() {
                Some("cgroup2") if root.is_none() => root = Some(mount_point),
                Some("cgroup") => {
                    let options = words.nth(1).unwrap_or_default();
                    let found: Vec<Controller> = options.split(',').filter_map(Controller::named).collect();
                    // A hierarchy mounted twice counts where it was mounted first.
                    if !found.is_empty() && !v1.iter().any(|(_, known)| known.contains(&found[0])) {
                        v1.push((mount_point, found));
                    }
                }
                _ => {}
            }
        }
        let v2 = root.and_then(|root| {
            let names = controllers(&root);
            let unified = Unified { controllers: names.split_whitespace().map(str::to_owned).collect(), root };
            // Beside v1 hierarchies a v2 tree that steers nothing we need would only cost time.
            let steers = |name: &String| ["cpu", "cpuset", "io", "memory", "pids"].contains(&name.as_str());
            (v1.iter().all(|(_, on)| on.as_slice() == [Controller::Systemd]) || unified.controllers.iter().any(steers))
                .then_some(unified)
        });
        if v1.is_empty() && v2.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(Hierarchy { v1, v2 })
    }

    pub fn version(&self) -> Version {
        match (self.v1.iter().any(|(_, on)| on.as_slice() != [Controller::Systemd]), &self.v2) {
            (true, Some(_)) => Version::Mixed,
            (true, None) => Version::V1,
            (false, _) => Version::V2,
        }
    }

    pub fn has(&self, controller: Controller) -> bool {
        self.v1_mount(controller).is_some() || self.v2_has(controller)
    }

    /// Mount points of v1 hierarchies with their options' names, for those who mount them again.
    pub fn v1_mounts(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(path, _)| path.as_path())
    }

    pub fn v2_root(&self) -> Option<&Path> {
        self.v2.as_ref().map(|unified| unified.root.as_path())
    }

    pub(crate) fn v1_mount(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(_, on)| on.contains(&controller)).map(|(path, _)| path.as_path())
    }

    pub(crate) fn v2_has(&self, controller: Controller) -> bool {
        self.v2.as_ref().is_some_and(|unified| match controller {
            // Part of v2 itself, without a controller's name.
            Controller::Devices | Controller::Freezer => self.v1_mount(controller).is_none(),
            Controller::Cpuacct => unified.controllers.iter().any(|name| name == "cpu"),
            _ => unified.controllers.iter().any(|name| Controller::named(name) == Some(controller)),
        })
    }
}

/// Where the v2 tree is mounted, with or without controllers.
pub fn v2_mount() -> Option<PathBuf> {
    let mounts = try_read(Path::new("/proc/self"), "mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(unescape)
}

/// Octal escapes of proc_pid_mountinfo(5).
fn unescape(text: &str) -> PathBuf {
    if !text.contains('\\') {
        return PathBuf::from(text);
    }
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /mnt/memory\\040again rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_v2_tree_that_steers_nothing_is_left_alone_beside_v1() {
        let hierarchy = Hierarchy::parse(HYBRID, |_| "hugetlb misc".into()).unwrap();
        assert_eq!(hierarchy.version(), Version::V1);
        assert_eq!(hierarchy.v1_mount(Controller::Cpuacct), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(hierarchy.v1_mount(Controller::Memory), Some(Path::new("/sys/fs/cgroup/memory")));
        assert!(!hierarchy.has(Controller::Pids));
    }

    #[test]
    fn controllers_may_be_on_both() {
        let hierarchy = Hierarchy::parse(HYBRID, |_| "pids io\n".into()).unwrap();
        assert_eq!(hierarchy.version(), Version::Mixed);
        assert!(hierarchy.v2_has(Controller::Pids) && !hierarchy.v2_has(Controller::Memory));
    }

    #[test]
    fn a_v2_host_has_one_tree() {
        let mounts = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let hierarchy = Hierarchy::parse(mounts, |_| "cpuset cpu io memory pids".into()).unwrap();
        assert_eq!(hierarchy.version(), Version::V2);
        assert!(hierarchy.has(Controller::Devices) && hierarchy.has(Controller::Cpuacct));
    }

    #[test]
    fn no_cgroups_are_an_error_with_a_way_out() {
        let error = Hierarchy::parse("1 1 0:1 / / rw - ext4 /dev/vda rw\n", |_| String::new()).unwrap_err();
        assert!(error.hint().is_some());
    }

    #[test]
    fn spaces_in_mount_points_are_understood() {
        assert_eq!(unescape("/mnt/memory\\040again"), PathBuf::from("/mnt/memory again"));
        assert_eq!(unescape("/mnt/back\\slash"), PathBuf::from("/mnt/back\\slash"));
    }
}
