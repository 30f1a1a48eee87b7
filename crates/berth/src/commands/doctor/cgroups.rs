//! The cgroup layout: v1, v2 or both.

use super::{Check, exists, read};

const WANTED: &[&str] = &["cpu", "memory", "pids", "io", "cpuset"];

pub(super) fn checks() -> Vec<Check> {
    let unified = exists("/sys/fs/cgroup/cgroup.controllers");
    let hybrid = exists("/sys/fs/cgroup/unified/cgroup.controllers");
    let v1 = mounted_v1();
    let layout = match (unified, hybrid, v1.is_empty()) {
        (true, _, _) => Check::ok("cgroups", "v2"),
        (false, true, false) => Check::ok("cgroups", "hybrid: v1 controllers, v2 for the process tree"),
        (false, false, false) => Check::warn(
            "cgroups",
            "v1",
            "v2 gives exact memory limits and pressure figures: systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        ),
        (false, _, true) => Check::fail("cgroups", "not mounted", "mount -t cgroup2 none /sys/fs/cgroup"),
    };
    vec![layout, controllers(unified, &v1), writable(unified, &v1)]
}

fn mounted_v1() -> Vec<(String, String)> {
    let mounts = read("/proc/self/mountinfo");
    mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            if right.next()? != "cgroup" {
                return None;
            }
            Some((right.nth(1)?.to_owned(), left.split(' ').nth(4)?.to_owned()))
        })
        .collect()
}

fn controllers(unified: bool, v1: &[(String, String)]) -> Check {
    let have: Vec<String> = if unified {
        read("/sys/fs/cgroup/cgroup.controllers").split_whitespace().map(str::to_owned).collect()
    } else {
        v1.iter()
            .flat_map(|(options, _)| options.split(','))
            .map(|c| if c == "blkio" { "io" } else { c }.to_owned())
            .collect()
    };
    let missing: Vec<&str> = WANTED.iter().copied().filter(|w| !have.iter().any(|h| h == w)).collect();
    let shown: Vec<&str> = WANTED.iter().copied().filter(|w| !missing.contains(w)).collect();
    match missing.as_slice() {
        [] => Check::ok("controllers", shown.join(" ")),
        missing if missing.contains(&"memory") => Check::fail(
            "controllers",
            format!("missing: {}", missing.join(" ")),
            "cgroup_enable=memory swapaccount=1 on the kernel's command line",
        ),
        missing => Check::warn(
            "controllers",
            format!("missing: {}", missing.join(" ")),
            "limits of these kinds will be refused",
        ),
    }
}

fn writable(unified: bool, v1: &[(String, String)]) -> Check {
    let path = match (unified, v1.first()) {
        (true, _) => "/sys/fs/cgroup".to_owned(),
        (false, Some((_, path))) => path.clone(),
        (false, None) => return Check::fail("cgroup access", "no hierarchy", "see cgroups above"),
    };
    match rustix::fs::access(path.as_str(), rustix::fs::Access::WRITE_OK) {
        Ok(()) => Check::ok("cgroup access", format!("{path} is writable")),
        Err(_) => Check::fail(
            "cgroup access",
            format!("{path} is read-only"),
            "run as root, outside of a container that has cgroups read-only",
        ),
    }
}
