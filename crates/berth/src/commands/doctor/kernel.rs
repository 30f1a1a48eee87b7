//! The kernel's version and the features that runtime and storage stand on.

use super::{Check, exists, read};

pub(super) fn checks() -> Vec<Check> {
    let version = read("/proc/sys/kernel/osrelease");
    let number = parse_version(&version);
    vec![
        kernel(&version, number),
        filesystems(),
        layers(number),
        mounts(number),
        namespaces(),
        user_namespaces(),
        seccomp(),
        pidfd(number),
    ]
}

/// `6.1.0-18-amd64` -> (6, 1)
fn parse_version(text: &str) -> (u32, u32) {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn kernel(version: &str, number: (u32, u32)) -> Check {
    match number {
        n if n >= (5, 10) => Check::ok("kernel", version),
        n if n >= (4, 18) => Check::warn("kernel", version, "5.10 or newer starts containers faster and safer"),
        _ => Check::fail("kernel", version, "at least 4.18 is needed; 5.10 or newer is better"),
    }
}

fn filesystems() -> Check {
    let listed = read("/proc/filesystems");
    let has = |name: &str| listed.lines().any(|l| l.split_whitespace().last() == Some(name));
    let module = || {
        let release = read("/proc/sys/kernel/osrelease");
        read(&format!("/lib/modules/{release}/modules.dep")).contains("/overlay.ko")
    };
    match (has("overlay"), module()) {
        (true, _) => Check::ok("overlayfs", "in the kernel"),
        (false, true) => Check::warn(
            "overlayfs",
            "a module that is not loaded",
            "modprobe overlay; echo overlay > /etc/modules-load.d/overlay.conf",
        ),
        (false, false) => Check::fail("overlayfs", "not in this kernel", "boot a kernel with CONFIG_OVERLAY_FS"),
    }
}

fn layers(number: (u32, u32)) -> Check {
    match number >= (6, 8) {
        true => Check::ok("lowerdir+", "any number of layers in one mount"),
        false => Check::warn(
            "lowerdir+",
            "needs Linux 6.8",
            "images of more than some 60 layers fall back to longer mount options",
        ),
    }
}

fn mounts(number: (u32, u32)) -> Check {
    match number >= (5, 12) {
        true => Check::ok("mount API", "fsopen, move_mount, mount_setattr (id-mapped mounts)"),
        false if number >= (5, 2) => Check::warn(
            "mount API",
            "fsopen without mount_setattr",
            "Linux 5.12 brings recursive read-only and id-mapped mounts",
        ),
        false => Check::warn("mount API", "only mount(2)", "Linux 5.2 or newer mounts faster and tells why it fails"),
    }
}

fn namespaces() -> Check {
    let missing: Vec<&str> = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|n| !exists(&format!("/proc/self/ns/{n}")))
        .collect();
    match missing.as_slice() {
        [] => Check::ok("namespaces", "mnt pid net ipc uts cgroup"),
        missing => Check::fail(
            "namespaces",
            format!("missing: {}", missing.join(" ")),
            "boot a kernel with CONFIG_NAMESPACES and its parts",
        ),
    }
}

fn user_namespaces() -> Check {
    let max: u64 = read("/proc/sys/user/max_user_namespaces").parse().unwrap_or(0);
    match (exists("/proc/self/ns/user"), max) {
        (false, _) => {
            Check::warn("user namespaces", "not in this kernel", "boot a kernel with CONFIG_USER_NS for --userns")
        }
        (true, 0) => Check::warn("user namespaces", "turned off", "sysctl -w user.max_user_namespaces=15000"),
        (true, max) => Check::ok("user namespaces", format!("up to {max}")),
    }
}

fn seccomp() -> Check {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    match (actions.contains("errno"), actions.contains("user_notif")) {
        (true, true) => Check::ok("seccomp", "filters and notifications"),
        (true, false) => Check::warn("seccomp", "filters without notifications", "Linux 5.0 or newer has them"),
        (false, _) => Check::fail(
            "seccomp",
            "no filters",
            "boot a kernel with CONFIG_SECCOMP_FILTER; without it containers can make any system call",
        ),
    }
}

fn pidfd(number: (u32, u32)) -> Check {
    match number >= (5, 3) {
        true => Check::ok("pidfd", "processes are watched without races"),
        false => Check::fail("pidfd", "needs Linux 5.3", "boot a newer kernel"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_read_from_their_start() {
        assert_eq!(super::parse_version("6.1.0-18-amd64"), (6, 1));
        assert_eq!(super::parse_version("5.10"), (5, 10));
        assert_eq!(super::parse_version(""), (0, 0));
    }
}
