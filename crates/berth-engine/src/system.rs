//! The engine as a whole: what it is, what the host can do, what is on the disk.

use crate::Engine;
use crate::containers::{ListOptions, StateWord, Summary};
use crate::oci::HostFacts;
use crate::volumes::Volume;
use berth_types::{Error, ErrorKind, Result};
use std::path::Path;

#[derive(Clone)]
pub struct System {
    engine: Engine,
}

/// What `info` shows; words that are the same on every host are the doors'.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Stable for this data root.
    pub id: String,
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
    pub images: usize,
    pub storage_driver: String,
    /// For example `("Backing Filesystem", "extfs")`.
    pub storage_status: Vec<(String, String)>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpuset: bool,
    pub pids_limit: bool,
    pub oom_kill_disable: bool,
    pub ipv4_forwarding: bool,
    pub open_descriptors: usize,
    pub event_listeners: usize,
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    pub kernel_version: String,
    pub operating_system: String,
    pub os_version: String,
    pub architecture: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub data_root: String,
    pub hostname: String,
    pub labels: Vec<String>,
    /// As `docker info` lists them: `name=seccomp,profile=builtin`, `name=apparmor`.
    pub security_options: Vec<String>,
    pub warnings: Vec<String>,
    pub default_log_driver: String,
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
}

#[derive(Debug, Clone, Default)]
pub struct Version {
    pub version: String,
    pub commit: String,
    pub build_time: String,
    pub kernel_version: String,
    pub architecture: String,
}

/// Which parts of [`DiskUsage`] to compute; all are costly.
#[derive(Debug, Clone, Copy)]
pub struct DiskUsageParts {
    pub containers: bool,
    pub volumes: bool,
}

/// What is on the disk, equal to it within 1 %. Images' part: `images().disk_usage()`.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    pub containers: Vec<Summary>,
    pub volumes: Vec<Volume>,
}

impl System {
    pub(crate) fn new(engine: Engine) -> System {
        System { engine }
    }

    pub async fn info(&self) -> Result<Info> {
        let mut words = Vec::new();
        self.engine.containers().those(|_, state, _| {
            words.push(state.word());
            false
        });
        let count = |wanted: &[StateWord]| words.iter().filter(|word| wanted.contains(word)).count();
        let running = count(&[StateWord::Running, StateWord::Restarting]);
        let paused = count(&[StateWord::Paused]);
        let config = self.engine.config();
        let facts = HostFacts::get();
        let uname = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let proxy =
            |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_uppercase())).unwrap_or_default();
        Ok(Info {
            id: self.id()?,
            containers: words.len(),
            running,
            paused,
            stopped: words.len() - running - paused,
            images: self.engine.images().count(),
            storage_driver: self.engine.images().storage_driver().name().to_owned(),
            storage_status: vec![("Backing Filesystem".to_owned(), backing_file_system(&config.data_root))],
            memory_limit: facts.memory_limit,
            swap_limit: facts.swap_limit,
            cpu_cfs: facts.cpu_cfs,
            cpu_shares: facts.cpu_shares,
            cpuset: facts.cpuset,
            pids_limit: facts.pids_limit,
            oom_kill_disable: facts.oom_kill_disable,
            ipv4_forwarding: line("/proc/sys/net/ipv4/ip_forward") == "1",
            open_descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            event_listeners: self.engine.events().listeners(),
            cgroup_driver: "cgroupfs".to_owned(),
            cgroup_version: if facts.cgroup_v2 { "2" } else { "1" }.to_owned(),
            kernel_version: text(uname.release()),
            operating_system: os_release(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
            os_version: os_release(&release, "VERSION_ID").unwrap_or_default(),
            architecture: text(uname.machine()),
            cpus: usize::try_from(facts.cpus).unwrap_or(1),
            memory_bytes: facts.memory_bytes,
            data_root: config.data_root.display().to_string(),
            hostname: text(uname.nodename()),
            labels: config.labels.clone(),
            security_options: security_options(facts),
            warnings: warnings(facts),
            default_log_driver: config.log_driver.clone(),
            http_proxy: proxy("http_proxy"),
            https_proxy: proxy("https_proxy"),
            no_proxy: proxy("no_proxy"),
        })
    }

    /// Limits that this host cannot keep.
    pub fn warnings(&self) -> Vec<String> {
        warnings(HostFacts::get())
    }

    pub fn version(&self) -> Version {
        let uname = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BERTH_COMMIT").unwrap_or_default().to_owned(),
            build_time: option_env!("BERTH_BUILD_TIME").unwrap_or_default().to_owned(),
            kernel_version: text(uname.release()),
            architecture: text(uname.machine()),
        }
    }

    pub async fn disk_usage(&self, parts: DiskUsageParts) -> Result<DiskUsage> {
        let mut usage = DiskUsage::default();
        if parts.containers {
            let all = ListOptions { all: true, size: true, ..ListOptions::default() };
            usage.containers = self.engine.containers().list(&all).await?;
        }
        if parts.volumes {
            usage.volumes = self.engine.volumes().usage().await?;
        }
        Ok(usage)
    }

    /// Written once, when somebody first asks.
    fn id(&self) -> Result<String> {
        let path = self.engine.config().data_root.join("engine-id");
        if let Ok(text) = std::fs::read_to_string(&path)
            && text.trim().len() == ID_LENGTH
        {
            return Ok(text.trim().to_owned());
        }
        let mut bytes = [0_u8; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Error::because(ErrorKind::Internal, "no random bytes", &std::io::Error::from(errno)))?;
        let id = uuid(bytes);
        let temporary = path.with_extension("new");
        let write = std::fs::write(&temporary, format!("{id}\n")).and_then(|()| std::fs::rename(&temporary, &path));
        write
            .map_err(|cause| Error::because(ErrorKind::Internal, format!("cannot write {}", path.display()), &cause))?;
        Ok(id)
    }
}

const ID_LENGTH: usize = 36;

/// Version 4 of RFC 9562.
pub(crate) fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = berth_types::digest::hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A value of os-release(5).
fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The name by which Docker shows a file system (statfs(2)'s magic numbers).
fn backing_file_system(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    let name = match u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x6969 => "nfs",
        _ => "unknown",
    };
    name.to_owned()
}

fn security_options(facts: &HostFacts) -> Vec<String> {
    let all = [
        (facts.apparmor, "name=apparmor"),
        (facts.seccomp, "name=seccomp,profile=builtin"),
        (facts.selinux, "name=selinux"),
        (true, "name=cgroupns"),
    ];
    all.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_owned()).collect()
}

/// Docker's warnings for what limits cannot be kept.
fn warnings(facts: &HostFacts) -> Vec<String> {
    let all = [
        (facts.memory_limit, "WARNING: No memory limit support"),
        (facts.swap_limit, "WARNING: No swap limit support"),
        (facts.cpu_cfs, "WARNING: No cpu cfs quota support"),
        (facts.cpu_shares, "WARNING: No cpu shares support"),
        (facts.cpuset, "WARNING: No cpuset support"),
        (facts.pids_limit, "WARNING: No pids limit support"),
        (facts.seccomp, "WARNING: No seccomp support"),
        (line("/proc/sys/net/ipv4/ip_forward") == "1", "WARNING: IPv4 forwarding is disabled"),
    ];
    all.into_iter().filter(|(there, _)| !there).map(|(_, words)| words.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n";
        assert_eq!(os_release(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 12"));
        assert_eq!(os_release(text, "PRETTY"), None);
    }

    #[test]
    fn what_the_host_lacks_is_a_warning() {
        assert!(warnings(&HostFacts::default()).contains(&"WARNING: No swap limit support".to_owned()));
    }
}
