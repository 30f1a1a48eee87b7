//! Who does the work: the engine, behind a trait.

use crate::tree::Tree;
use crate::types::{BaseImage, Layer, NetworkChoice};
use crate::{Chmod, Remote, Shape, Stream};
use berth_dockerfile::Sharing;
use berth_dockerfile::platform::Platform;
use berth_types::{Digest, ExitStatus, Result};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Receives what a step prints.
pub type Output = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// A `RUN`, all decided.
#[derive(Clone)]
pub struct RunStep {
    /// The state that it runs on.
    pub layers: Vec<Layer>,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub network: NetworkChoice,
    pub insecure: bool,
    pub extra_hosts: Vec<String>,
    pub mounts: Vec<RunMount>,
    pub epoch_seconds: Option<i64>,
}

#[derive(Clone)]
pub struct RunMount {
    pub target: String,
    pub kind: MountKind,
}

#[derive(Clone)]
pub enum MountKind {
    /// Files of another state. Writes are thrown away.
    State {
        layers: Vec<Layer>,
        source: String,
        read_only: bool,
    },
    /// Files of the context.
    Tree {
        tree: Arc<dyn Tree>,
        source: String,
        read_only: bool,
    },
    Cache {
        mount: CacheMount,
        /// What a new one begins with.
        from: Option<Vec<Layer>>,
    },
    Own(OwnMount),
}

/// A folder that outlives the build.
#[derive(Debug, Clone)]
pub struct CacheMount {
    pub id: String,
    pub sharing: Sharing,
    pub source: String,
    pub owner: (u32, u32),
    pub mode: u32,
    pub read_only: bool,
}

/// A mount that needs no files of the build.
#[derive(Debug, Clone)]
pub enum OwnMount {
    Tmpfs {
        size_bytes: u64,
    },
    Secret {
        id: String,
        /// `None` where it is only a variable.
        file: Option<(u32, u32, u32)>,
        env: Option<String>,
        required: bool,
    },
    Ssh {
        id: String,
        owner: (u32, u32),
        mode: u32,
        required: bool,
    },
    /// A file with this content.
    Inline {
        data: String,
    },
}

/// How a `RUN` ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub out_of_memory: bool,
    /// What it changed; only where it ended well.
    pub layer: Option<Layer>,
}

/// A `COPY` or `ADD`, all decided: what goes where.
#[derive(Clone)]
pub struct CopyStep {
    /// The state that it is copied into.
    pub layers: Vec<Layer>,
    /// The layer alone is wanted; `layers` only say what is where.
    pub link: bool,
    pub sources: Vec<CopySource>,
    /// Absolute; a slash at the end says that it is a folder.
    pub destination: String,
    /// `user[:group]`; empty: as the source has it.
    pub chown: String,
    pub chmod: Option<Chmod>,
    pub epoch_seconds: Option<i64>,
}

#[derive(Clone)]
pub struct CopySource {
    pub tree: Arc<dyn Tree>,
    pub shape: Shape,
    /// Archives are unpacked.
    pub unpack: bool,
}

/// A `WORKDIR` that may have to be made.
#[derive(Clone)]
pub struct MkdirStep {
    pub layers: Vec<Layer>,
    pub path: String,
    pub user: String,
    pub epoch_seconds: Option<i64>,
}

/// What a step came to, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Known {
    /// `None`: it changed no file.
    pub layer: Option<Layer>,
    /// An image made of it later has this time, not its own.
    pub created_unix_nanos: i64,
}

/// Who knows images: all that a plan needs.
pub trait Images: Send + Sync {
    /// The image that a `FROM` names.
    fn image<'a>(&'a self, name: &'a str, platform: &'a Platform, pull: bool) -> BoxFuture<'a, Result<BaseImage>>;
}

/// The engine's side of a build.
pub trait Worker: Images + 'static {
    /// The context, or one of the named ones.
    fn context<'a>(&'a self, name: Option<&'a str>) -> BoxFuture<'a, Result<Arc<dyn Tree>>>;
    /// The files of a state.
    fn tree<'a>(&'a self, layers: &'a [Layer]) -> BoxFuture<'a, Result<Arc<dyn Tree>>>;
    fn fetch<'a>(&'a self, what: &'a Remote) -> BoxFuture<'a, Result<Arc<dyn Tree>>>;
    fn run(&self, step: RunStep, output: Output) -> BoxFuture<'_, Result<Ran>>;
    fn copy(&self, step: CopyStep) -> BoxFuture<'_, Result<Option<Layer>>>;
    fn mkdir(&self, step: MkdirStep) -> BoxFuture<'_, Result<Option<Layer>>>;
    /// What a step of this key came to. Its layer may lie elsewhere: see [`Worker::ready`].
    fn lookup(&self, key: &Digest) -> Option<Known>;
    /// Whether [`Worker::lookup`] may name a layer that is not here.
    fn is_elsewhere(&self) -> bool {
        false
    }
    /// Brings layers that lie elsewhere here; `false` where they cannot be had any more.
    fn ready<'a>(&'a self, layers: &'a [Layer]) -> BoxFuture<'a, Result<bool>> {
        let _ = layers;
        Box::pin(async { Ok(true) })
    }
    /// Keeps what a step came to. `what` is for people.
    fn remember(&self, key: &Digest, known: Known, what: &str);
}
