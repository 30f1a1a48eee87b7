//! Volumes and who uses them.

use super::Done;
use super::projects::labelled;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::Who;
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::Filters;
use berth_engine::containers::ListOptions;
use berth_engine::system::DiskUsageParts;
use berth_engine::volumes::VolumeCreate;
use berth_types::Error;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

answers! {
    VolumeRow {
        name: String,
        driver: String,
        created_unix_millis: i64,
        labels: BTreeMap<String, String>,
        /// Names of the instances that have it.
        used_by: Vec<String>,
        /// Nobody named it: it goes with its instance where asked.
        anonymous: bool,
    }
}

answers! {
    /// A copy of a volume; it outlives the volume.
    BackupRow {
        id: String,
        volume: String,
        created_unix_millis: i64,
        /// Of the archive.
        bytes: u64,
        /// Of what is in it; 0: not known.
        content_bytes: u64,
        labels: BTreeMap<String, String>,
        /// The volume is still there.
        has_volume: bool,
        /// Made by a schedule, which removes it in time.
        scheduled: bool,
    }
    VolumeSize { name: String, bytes: u64 }
}

requests! {
    NewBackup {
        /// Hold what runs with it still meanwhile.
        hold: bool,
    }
    Restore {
        /// The volume that it is put into, made where there is none; empty: the one that it is of.
        into: String,
    }
    NewVolume {
        /// Empty: in none, or in the only one that its maker has.
        project: String,
        name: String,
        labels: BTreeMap<String, String>,
    }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<VolumeRow>>> {
    let volumes = api.engine.volumes().list(&Filters::default()).await?;
    let all = ListOptions { all: true, ..ListOptions::default() };
    let mut users: HashMap<String, Vec<String>> = HashMap::new();
    for container in api.engine.containers().list(&all).await? {
        for mount in container.mounts.iter().filter(|mount| !mount.name.is_empty()) {
            users.entry(mount.name.clone()).or_default().push(container.name.clone());
        }
    }
    let seen = volumes.into_iter().filter(|volume| who.sees(&volume.labels));
    let rows = seen.map(|volume| VolumeRow {
        used_by: users.get(&volume.name).cloned().unwrap_or_default(),
        anonymous: volume.labels.contains_key("com.docker.volume.anonymous"),
        name: volume.name,
        driver: volume.driver,
        created_unix_millis: volume.created_unix_nanos / 1_000_000,
        labels: volume.labels,
    });
    Ok(axum::Json(rows.collect()))
}

pub(crate) async fn create(State(api): State<Api>, who: Who, Json(body): Json<NewVolume>) -> ApiResult<Response> {
    let project = who.place(&body.project)?;
    let _turn = crate::quota::room(&api, project.as_deref(), &[crate::quota::Need::disk(1)], &[]).await?;
    let labels = labelled(body.labels, project)?;
    if !body.name.is_empty() && api.engine.volumes().inspect(&body.name).await.is_ok() {
        return Err(Error::conflict(format!("there is a volume {} already", body.name)).into());
    }
    let request = VolumeCreate { name: body.name, labels, ..VolumeCreate::default() };
    let volume = api.engine.volumes().create(request).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(volume.name));
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RemoveQuery {
    force: bool,
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<axum::Json<Done>> {
    api.engine.volumes().remove(&name, query.force).await?;
    api.schedules.forget(&name).await?;
    Ok(Done::plainly())
}

/// What each takes on the disk, which takes a walk over it.
pub(crate) async fn sizes(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<VolumeSize>>> {
    let parts = DiskUsageParts { containers: false, volumes: true };
    let all = api.engine.system().disk_usage(parts).await?.volumes;
    let seen = all.into_iter().filter(|volume| who.sees(&volume.labels));
    let size = |volume: berth_engine::volumes::Volume| VolumeSize {
        bytes: volume.usage.map_or(0, |usage| usage.size_bytes),
        name: volume.name,
    };
    Ok(axum::Json(seen.map(size).collect()))
}
