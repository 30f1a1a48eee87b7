//! Backups of volumes.
//!
//! A backup belongs to the project that its volume belonged to; whoever may only see that project finds no others.

use super::Done;
use super::files::{attachment, feed};
use super::machine_export;
use super::volumes::{BackupRow, NewBackup, Restore};
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::Who;
use crate::quota::{Need, backup_room, known, room};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_engine::machines::Part;
use berth_engine::volumes::{Backup, BackupWish};
use berth_types::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use tokio::sync::mpsc;

const UPLOAD_BYTES_MAX: u64 = 1 << 40;
const CHUNKS_MAX: usize = 4;

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<BackupRow>>> {
    let volumes = api.engine.volumes().list(&berth_engine::Filters::default()).await?;
    let there: HashSet<String> = volumes.into_iter().map(|volume| volume.name).collect();
    let seen = api.engine.volumes().backups().await?.into_iter().filter(|backup| who.sees(&backup.labels));
    let row = |backup: Backup| BackupRow {
        has_volume: there.contains(&backup.volume),
        id: backup.id,
        volume: backup.volume,
        created_unix_millis: backup.created_unix_nanos / 1_000_000,
        bytes: backup.bytes,
        content_bytes: backup.content_bytes,
        labels: backup.labels,
        scheduled: backup.scheduled,
    };
    Ok(axum::Json(seen.map(row).collect()))
}

/// The backup, where they see it; to others it is not there.
async fn seen(api: &Api, who: &Who, volume: &str, id: &str) -> Result<Backup> {
    let backup = api.engine.volumes().backup_of(volume, id).await?;
    match who.sees(&backup.labels) {
        true => Ok(backup),
        false => Err(Error::not_found(format!("there is no backup {id} of volume {volume}"))),
    }
}

/// The same for whoever may change what is in its project.
async fn owned(api: &Api, who: &Who, volume: &str, id: &str) -> ApiResult<Backup> {
    let backup = seen(api, who, volume, id).await?;
    who.must_operate(&backup.labels)?;
    Ok(backup)
}

pub(crate) async fn create(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<NewBackup>,
) -> ApiResult<Response> {
    let volumes = api.engine.volumes();
    let volume = volumes.inspect(&name).await?;
    let project = known(&api, &volume.labels).map(str::to_owned);
    drop(room(&api, project.as_deref(), &[Need::disk(1)], &[]).await?);
    let doing = api.clone();
    let task = api.tasks.start(&who.user, "volume.backup", &name.clone(), move |progress| async move {
        let (_turn, bytes_max) = backup_room(&doing, project.as_deref()).await?;
        let wish = BackupWish { hold: body.hold, scheduled: false, bytes_max };
        let backup = volumes.backup(&name, wish, |done, all| progress.part(done, all)).await?;
        progress.line(&format!("{} bytes of {name}", backup.bytes));
        Ok(())
    })?;
    Ok(axum::Json(task).into_response())
}

/// The body is a tar archive, plain or compressed.
pub(crate) async fn upload(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    body: Body,
) -> ApiResult<Response> {
    let labels = match api.engine.volumes().inspect(&name).await {
        Ok(volume) => volume.labels,
        Err(_) => super::projects::labelled(BTreeMap::new(), who.place("")?)?,
    };
    who.must_operate(&labels)?;
    let (_turn, bytes_max) = backup_room(&api, known(&api, &labels)).await?;
    let bytes_max = bytes_max.min(UPLOAD_BYTES_MAX);
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let volumes = api.engine.volumes();
    let kept = volumes.backup_upload(&name, labels, bytes_max, receiver);
    let (backup, ()) = tokio::join!(kept, feed(body, sender, UPLOAD_BYTES_MAX));
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(backup?.id));
    Ok(response)
}

pub(crate) async fn restore(
    State(api): State<Api>,
    who: Who,
    Path((name, id)): Path<(String, String)>,
    Json(body): Json<Restore>,
) -> ApiResult<Response> {
    let backup = owned(&api, &who, &name, &id).await?;
    let into = if body.into.is_empty() { name.clone() } else { body.into };
    // What is put into another project's volume would be read there.
    let labels = match api.engine.volumes().inspect(&into).await {
        Ok(volume) => volume.labels,
        Err(_) => backup.labels.clone(),
    };
    who.must_operate(&labels)?;
    // In its own place it takes what it took: whoever is over may still have it back.
    let needs = if into == name { Vec::new() } else { vec![Need::disk(backup.content_bytes.max(backup.bytes))] };
    drop(room(&api, known(&api, &labels), &needs, &[]).await?);
    let (target, doing) = (into.clone(), api.clone());
    let volumes = api.engine.volumes();
    let task = api.tasks.start(&who.user, "volume.restore", &target, move |progress| async move {
        let _turn = room(&doing, known(&doing, &labels), &needs, &[]).await.map_err(|error| error.error)?;
        volumes.restore(&name, &id, &into, labels.clone()).await?;
        progress.line(&format!("backup {id} of {name} is in {into}"));
        Ok(())
    })?;
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(format!("into {target}")));
    Ok(response)
}

pub(crate) async fn content(
    State(api): State<Api>,
    who: Who,
    Path((name, id)): Path<(String, String)>,
) -> ApiResult<Response> {
    let backup = owned(&api, &who, &name, &id).await?;
    let file = api.engine.volumes().backup_file(&name, &id).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, backup.bytes.to_string()),
        (header::CONTENT_DISPOSITION, attachment(&format!("{name}-{id}.tar.zst"))),
    ];
    Ok((headers, machine_export::body(vec![Part::File(file, backup.bytes)])).into_response())
}

pub(crate) async fn remove(
    State(api): State<Api>,
    who: Who,
    Path((name, id)): Path<(String, String)>,
) -> ApiResult<axum::Json<Done>> {
    owned(&api, &who, &name, &id).await?;
    api.engine.volumes().remove_backup(&name, &id).await?;
    Ok(Done::plainly())
}
