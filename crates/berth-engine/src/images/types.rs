//! What the images' operations take and answer.

use crate::Filters;
use berth_types::mount::Rootfs;
use berth_types::spec::{Config, ImageDefaults};
use berth_types::{Digest, ImageName, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// An image that a container can be made from.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub id: Digest,
    /// Shared with the cache: not parsed again for the next container.
    pub defaults: Arc<ImageDefaults>,
}

#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that only other images stand on too.
    pub all: bool,
    /// Compute `shared_size_bytes`.
    pub shared_size: bool,
    /// Count the containers made from each.
    pub containers: bool,
    /// Keys: before, since, dangling, label, label!, reference, until.
    pub filters: Filters,
}

/// An image in a list.
#[derive(Debug, Clone)]
pub struct Summary {
    pub id: Digest,
    pub parent: Option<Digest>,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub created_unix_nanos: i64,
    /// All its layers, as they lie on the disk.
    pub size_bytes: u64,
    pub shared_size_bytes: Option<u64>,
    pub containers: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

/// Everything about one image.
#[derive(Debug, Clone)]
pub struct Inspect {
    pub id: Digest,
    pub parent: Option<Digest>,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub comment: String,
    pub author: String,
    /// 0 where the image does not say.
    pub created_unix_nanos: i64,
    pub docker_version: String,
    pub config: Config,
    pub architecture: String,
    pub variant: String,
    pub os: String,
    pub os_version: String,
    pub size_bytes: u64,
    /// For `GraphDriver`.
    pub rootfs: Rootfs,
    /// Digests of the unpacked layers, lowest first.
    pub layers: Vec<Digest>,
    /// 0 where it was never given a name here.
    pub last_tagged_unix_nanos: i64,
}

/// One step of an image's making, newest first.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// Only steps that are images of this engine have one.
    pub id: Option<Digest>,
    pub created_unix_nanos: i64,
    pub created_by: String,
    pub comment: String,
    pub size_bytes: u64,
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    pub force: bool,
    /// Keep untagged parents.
    pub no_prune: bool,
}

/// One line of what a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(String),
}

#[derive(Debug, Clone, Default)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    pub space_reclaimed_bytes: u64,
}

#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `os/arch[/variant]` of a multi-platform archive; `None`: the host's.
    pub platform: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    pub name: Option<ImageName>,
    pub message: String,
    /// Dockerfile instructions that change the configuration: `CMD ["sh"]`.
    pub changes: Vec<String>,
    pub platform: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    pub container: String,
    pub name: Option<ImageName>,
    pub author: String,
    pub message: String,
    pub pause: bool,
    pub changes: Vec<String>,
    /// Instead of the container's own configuration, where the caller sent one.
    pub config: Option<Config>,
}

/// A base image to make from a distribution's packages.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// `debian:bookworm`, `ubuntu:noble`, `bookworm`, or `busybox`.
    pub suite: String,
    pub packages: Vec<String>,
    /// What to call it; `suite` where absent.
    pub name: Option<String>,
    pub mirror: Option<String>,
    /// mmdebstrap's: `minbase` where absent.
    pub variant: Option<String>,
    /// With a kernel, a first process and a network: for `vm create --from-image`.
    pub bootable: bool,
}

/// Something to tell while an operation runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A line for people.
    Line(String),
    /// Step `action` on the thing `id` is so far.
    Step { id: String, action: String, current_bytes: u64, total_bytes: u64 },
    /// `Loaded image: name`.
    Loaded(String),
    /// An image is there.
    Made(Digest),
}

/// Ends with the operation; an error is its last item. Dropping it cancels what has not been done.
pub struct ProgressStream {
    pub(crate) receiver: mpsc::Receiver<Result<Progress>>,
}

impl ProgressStream {
    pub async fn next(&mut self) -> Option<Result<Progress>> {
        self.receiver.recv().await
    }
}

/// What images take on the disk.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// All layers, each counted once, and blobs that are kept or on their way.
    pub layers_bytes: u64,
    pub images: Vec<Summary>,
}
