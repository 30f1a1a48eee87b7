//! Network, limits, disk, tools and security modules of the host.

use super::{Check, exists, read};
use crate::start_engine::which;
use crate::units::bytes_size;
use rustix::process::{Resource, getrlimit};
use std::path::Path;

pub(super) fn checks(data_root: &Path) -> Vec<Check> {
    let mut out = vec![privileges(), nftables(), links(), forwarding(), ipv6(), kvm(data_root)];
    out.extend(data(data_root));
    out.extend([open_files(), processes(), inotify(), security(), bootstrap()]);
    out
}

fn privileges() -> Check {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default().trim();
    let effective = u64::from_str_radix(line, 16).unwrap_or(0);
    // Numbers of capabilities(7).
    let wanted = [
        (21, "SYS_ADMIN"),
        (12, "NET_ADMIN"),
        (27, "MKNOD"),
        (7, "SETUID"),
        (0, "CHOWN"),
        (1, "DAC_OVERRIDE"),
        (18, "SYS_CHROOT"),
    ];
    let missing: Vec<&str> =
        wanted.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect();
    match (missing.as_slice(), effective >> 24 & 1) {
        ([], 1) => Check::ok("capabilities", "all that an engine needs"),
        ([], _) => Check::warn(
            "capabilities",
            "without SYS_RESOURCE",
            "--ulimit above this process's own limits will be clamped",
        ),
        (missing, _) => Check::fail(
            "capabilities",
            format!("missing: {}", missing.join(" ")),
            "run as root with these capabilities",
        ),
    }
}

fn module(name: &str) -> bool {
    let release = read("/proc/sys/kernel/osrelease");
    exists(&format!("/sys/module/{name}")) || {
        let builtin = read(&format!("/lib/modules/{release}/modules.builtin"));
        let loadable = read(&format!("/lib/modules/{release}/modules.dep"));
        [builtin, loadable].iter().any(|list| list.contains(&format!("/{name}.ko")))
    }
}

fn nftables() -> Check {
    // Opening the netlink family loads the module when there is one.
    let family = rustix::net::netlink::NETFILTER;
    let socket = rustix::net::socket(rustix::net::AddressFamily::NETLINK, rustix::net::SocketType::RAW, Some(family));
    match (socket.is_ok(), exists("/proc/net/netfilter") || module("nf_tables")) {
        (true, true) => Check::ok("nftables", "the kernel speaks it"),
        (true, false) => {
            Check::warn("nftables", "netfilter without visible nf_tables", "modprobe nf_tables nft_nat nft_masq")
        }
        (false, _) => Check::fail("nftables", "no netfilter in this kernel", "publishing ports needs CONFIG_NF_TABLES"),
    }
}

fn links() -> Check {
    let mut missing = Vec::new();
    for name in ["bridge", "veth"] {
        // Built in, a driver leaves no module; an existing link of its kind shows it too.
        let seen = module(name)
            || (name == "bridge"
                && std::fs::read_dir("/sys/class/net")
                    .is_ok_and(|mut d| d.any(|e| e.is_ok_and(|e| e.path().join("bridge").exists()))));
        if !seen {
            missing.push(name);
        }
    }
    match missing.as_slice() {
        [] => Check::ok("bridge, veth", "present"),
        missing => Check::warn(
            "bridge, veth",
            format!("not visible as modules: {}", missing.join(" ")),
            format!("if networks cannot be made: modprobe {}", missing.join(" ")),
        ),
    }
}

fn forwarding() -> Check {
    match read("/proc/sys/net/ipv4/ip_forward").as_str() {
        "1" => Check::ok("ip_forward", "on"),
        _ => Check::warn(
            "ip_forward",
            "off",
            "the engine turns it on for its networks; for good: sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

fn ipv6() -> Check {
    match (exists("/proc/net/if_inet6"), read("/proc/sys/net/ipv6/conf/all/disable_ipv6").as_str()) {
        (true, "0") => Check::ok("IPv6", "on"),
        (true, _) => {
            Check::warn("IPv6", "turned off", "sysctl -w net.ipv6.conf.all.disable_ipv6=0, if networks are to have it")
        }
        (false, _) => Check::warn("IPv6", "not in this kernel", "networks have IPv4 only"),
    }
}

/// What the engine's guest of 254 bytes found out about this kernel, if it was asked: why not, or nothing.
fn verdict(root: &Path) -> Option<Option<String>> {
    let text = std::fs::read(root.join("machines/acceleration.json")).ok()?;
    let kept: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let uname = rustix::system::uname();
    let this = format!("{} {}", uname.release().to_string_lossy(), uname.version().to_string_lossy());
    let same = kept["of"].as_str().is_some_and(|of| of.starts_with(&this));
    same.then(|| kept["refused"].as_str().map(str::to_owned))
}

fn kvm(root: &Path) -> Check {
    let can = rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok();
    match (exists("/dev/kvm"), can) {
        (true, true) => match verdict(root) {
            Some(None) => Check::ok("KVM", "guests run on /dev/kvm"),
            Some(Some(why)) => Check::warn(
                "KVM",
                format!("/dev/kvm is there, but a guest does not run on it: {why}"),
                "virtual machines run emulated, about ten times slower; nested virtualisation needs VT-x or AMD-V passed on",
            ),
            None => Check::ok("KVM", "/dev/kvm opens; the first machine finds out whether guests run on it"),
        },
        (true, false) => Check::warn("KVM", "no access to /dev/kvm", "run as root, or join the kvm group"),
        (false, _) => Check::warn(
            "KVM",
            "no /dev/kvm",
            "virtual machines run emulated, about ten times slower; turn on VT-x or AMD-V, or nested virtualisation",
        ),
    }
}

fn data(root: &Path) -> Vec<Check> {
    // The folder may not be there yet: its file system is that of the nearest one above.
    let there = root.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let Ok(fs) = rustix::fs::statfs(there) else {
        return vec![Check::fail(
            "data root",
            format!("{} cannot be read", there.display()),
            "choose another --data-root",
        )];
    };
    let name = match fs.f_type as u64 {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x2fc1_2fc1 => "zfs",
        0x6573_5546 => "fuse",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        _ => "unknown",
    };
    let mut out = vec![match name {
        "overlay" => Check::warn(
            "data root",
            format!("{} is on overlay", there.display()),
            "an overlay cannot be an overlay's upper layer on every kernel: put --data-root on a disk of its own",
        ),
        "nfs" | "fuse" => Check::fail(
            "data root",
            format!("{} is on {name}", there.display()),
            "put --data-root on a local file system",
        ),
        name => Check::ok("data root", format!("{} is on {name}", there.display())),
    }];
    out.push(match d_type(there) {
        Some(true) => Check::ok("d_type", "folders say what their entries are"),
        Some(false) => Check::fail("d_type", "missing", "overlayfs needs it: mkfs.xfs -n ftype=1"),
        None => Check::warn("d_type", "no entry to look at", "nothing to do"),
    });
    let size = fs.f_blocks as f64 * fs.f_bsize as f64;
    let free = fs.f_bavail as f64 * fs.f_bsize as f64;
    let found = format!("{} of {} free", bytes_size(free), bytes_size(size));
    let inodes = if fs.f_files > 0 { fs.f_ffree as f64 / fs.f_files as f64 } else { 1.0 };
    out.push(match () {
        () if free < 256e6 || inodes < 0.01 => Check::fail("free disk", found, "berth system prune, or a larger disk"),
        () if free < 2e9 || inodes < 0.05 => Check::warn("free disk", found, "berth system df says what uses it"),
        () => Check::ok("free disk", found),
    });
    out
}

/// Whether entries come with their type; none when the folder is empty.
fn d_type(folder: &Path) -> Option<bool> {
    use rustix::fs::{FileType, Mode, OFlags};
    let fd = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut entries = rustix::fs::Dir::read_from(fd).ok()?;
    let entry = entries.find_map(|e| e.ok().filter(|e| !matches!(e.file_name().to_bytes(), b"." | b"..")))?;
    Some(entry.file_type() != FileType::Unknown)
}

fn open_files() -> Check {
    let limit = getrlimit(Resource::Nofile).maximum;
    match limit {
        Some(n) if n < 65_536 => Check::warn("nofile", n.to_string(), "LimitNOFILE=1048576 in the engine's unit"),
        n => Check::ok("nofile", n.map_or("unlimited".to_owned(), |n| n.to_string())),
    }
}

fn processes() -> Check {
    let limit = getrlimit(Resource::Nproc).maximum;
    let pids: u64 = read("/proc/sys/kernel/pid_max").parse().unwrap_or(0);
    match limit {
        Some(n) if n < 16_384 => Check::warn("nproc", n.to_string(), "LimitNPROC=infinity in the engine's unit"),
        _ if pids < 65_536 => Check::warn("nproc", format!("pid_max is {pids}"), "sysctl -w kernel.pid_max=4194304"),
        n => Check::ok("nproc", format!("{}, pid_max {pids}", n.map_or("unlimited".to_owned(), |n| n.to_string()))),
    }
}

fn inotify() -> Check {
    let instances: u64 = read("/proc/sys/fs/inotify/max_user_instances").parse().unwrap_or(0);
    let watches: u64 = read("/proc/sys/fs/inotify/max_user_watches").parse().unwrap_or(0);
    let found = format!("{instances} instances, {watches} watches");
    match instances < 512 || watches < 65_536 {
        true => Check::warn(
            "inotify",
            found,
            "many containers share these: sysctl -w fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288",
        ),
        false => Check::ok("inotify", found),
    }
}

fn security() -> Check {
    let modules = read("/sys/kernel/security/lsm");
    let apparmor = read("/sys/module/apparmor/parameters/enabled") == "Y";
    let selinux = exists("/sys/fs/selinux/enforce");
    match (apparmor, selinux) {
        (true, _) => Check::ok("security module", "AppArmor"),
        (_, true) => Check::ok("security module", "SELinux"),
        _ => Check::warn(
            "security module",
            if modules.is_empty() { "none seen".to_owned() } else { modules },
            "containers are confined by namespaces, capabilities and seccomp; AppArmor or SELinux would add to it",
        ),
    }
}

fn bootstrap() -> Check {
    match which("mmdebstrap") {
        Some(path) => Check::ok("mmdebstrap", path.display().to_string()),
        None => Check::warn("mmdebstrap", "not installed", "apt-get install mmdebstrap, for berth image bootstrap"),
    }
}
