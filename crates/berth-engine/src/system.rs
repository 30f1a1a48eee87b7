//! The engine as a whole: what it is, what the host can do, what is on the disk.

use crate::Engine;
use crate::containers::Summary;
use crate::volumes::Volume;
use berth_types::{Error, Result};

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
        let _ = &self.engine;
        Err(Error::not_implemented("info"))
    }

    pub fn version(&self) -> Version {
        Version { version: env!("CARGO_PKG_VERSION").to_owned(), ..Version::default() }
    }

    pub async fn disk_usage(&self, _parts: DiskUsageParts) -> Result<DiskUsage> {
        Err(Error::not_implemented("disk usage"))
    }
}
