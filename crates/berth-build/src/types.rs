//! What a build is asked for, and what images are to it.

use crate::worker::Known;
use berth_dockerfile::platform::Platform;
use berth_types::Digest;
use berth_types::spec::Config;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A layer on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub diff_id: Digest,
    pub bytes: u64,
}

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// `None`: now.
    pub created_unix_nanos: Option<i64>,
    pub created_by: String,
    pub comment: String,
    pub author: String,
    pub empty_layer: bool,
}

/// An image that a stage begins with.
#[derive(Debug, Clone)]
pub struct BaseImage {
    pub id: Option<Digest>,
    pub config: Config,
    pub platform: Platform,
    pub author: String,
    pub layers: Vec<Layer>,
    pub history: Vec<History>,
}

/// Where a `RUN` has its network from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkChoice {
    /// The default bridge.
    #[default]
    Default,
    None,
    Host,
    /// A network of the engine's by name.
    Named(String),
}

/// Everything that a build is asked for beside its context.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    pub dockerfile: Vec<u8>,
    /// For messages.
    pub dockerfile_name: String,
    pub target: String,
    pub build_args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub no_cache: bool,
    /// Stages whose steps are not looked up.
    pub no_cache_stages: BTreeSet<String>,
    pub pull: bool,
    pub platform: Option<Platform>,
    pub network: NetworkChoice,
    /// `host:address`
    pub extra_hosts: Vec<String>,
    /// `--allow security.insecure`, `network.host`
    pub allow: BTreeSet<String>,
    /// Steps at the same time.
    pub parallel: usize,
    /// Named contexts that are images: `name` -> `docker-image://ref` without the scheme.
    pub image_contexts: BTreeMap<String, String>,
    /// Named contexts that are trees of files the worker has.
    pub tree_contexts: BTreeSet<String>,
    /// Patterns of the context's ignore file, for hints.
    pub ignored: Vec<String>,
}

impl Default for BuildOptions {
    fn default() -> BuildOptions {
        BuildOptions {
            dockerfile: Vec::new(),
            dockerfile_name: "Dockerfile".to_owned(),
            target: String::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: BTreeSet::new(),
            pull: false,
            platform: None,
            network: NetworkChoice::Default,
            extra_hosts: Vec::new(),
            allow: BTreeSet::new(),
            parallel: 4,
            image_contexts: BTreeMap::new(),
            tree_contexts: BTreeSet::new(),
            ignored: Vec::new(),
        }
    }
}

/// What a build came to.
#[derive(Debug, Clone)]
pub struct Built {
    pub config: Config,
    pub platform: Platform,
    pub author: String,
    pub layers: Vec<Layer>,
    pub history: Vec<History>,
    /// `SOURCE_DATE_EPOCH`, where it was given.
    pub epoch_seconds: Option<i64>,
    /// What every step that it needed came to, those of other stages among them: what a cache for elsewhere carries.
    pub records: Vec<CacheRecord>,
}

/// A step as a cache for elsewhere knows it.
#[derive(Debug, Clone)]
pub struct CacheRecord {
    pub key: Digest,
    pub known: Known,
    /// The state that it led to; the layer that it added is the last one.
    pub layers: Arc<Vec<Layer>>,
}
