//! Disk images and ISOs sent by browsers.

use super::Done;
use super::files::feed;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::{Peer, Target};
use crate::identity::Who;
use crate::quota::{Need, room};
use crate::schedules::now_millis;
use crate::schema::{answers, requests};
use crate::uploads::Upload;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::mpsc;

const CHUNKS_MAX: usize = 4;

answers! {
    /// A disk image or ISO that was sent, or a part of it.
    UploadRow {
        /// A machine's disk or CD is made from it as `upload:<id>`.
        id: String,
        name: String,
        size_bytes: u64,
        /// The next part begins here.
        received_bytes: u64,
        /// qcow2, raw, vmdk, vdi, vhdx, ova or iso, once it is whole; empty: it is not.
        kind: String,
        project: Option<String>,
        who: String,
        created_unix_millis: i64,
    }
}

requests! {
    NewUpload {
        /// The file's; what it ends with must be what the file is.
        name: String,
        size_bytes: u64,
        /// Empty: in none, or in the only one that its maker has.
        project: String,
    }
}

fn row(api: &Api, id: String, one: Upload) -> UploadRow {
    UploadRow {
        received_bytes: api.uploads.received(&id),
        id,
        name: one.name,
        size_bytes: one.size_bytes,
        kind: one.kind.unwrap_or_default(),
        project: one.project,
        who: one.user,
        created_unix_millis: one.created_unix_millis,
    }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<UploadRow>>> {
    let mine = api.uploads.list()?.into_iter().filter(|(_, one)| one.is_open_to(&who));
    let mut rows: Vec<UploadRow> = mine.map(|(id, one)| row(&api, id, one)).collect();
    rows.sort_by_key(|one| std::cmp::Reverse(one.created_unix_millis));
    Ok(axum::Json(rows))
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<UploadRow>> {
    let found = api.uploads.get(&who, &id)?;
    Ok(axum::Json(row(&api, id, found)))
}

pub(crate) async fn begin(State(api): State<Api>, who: Who, Json(body): Json<NewUpload>) -> ApiResult<Response> {
    let project = who.place(&body.project)?;
    let _turn = room(&api, project.as_deref(), &[Need::disk(body.size_bytes)], &[]).await?;
    let (user, created_unix_millis) = (who.user.clone(), now_millis());
    let upload =
        Upload { name: body.name, size_bytes: body.size_bytes, user, project, created_unix_millis, kind: None };
    let id = api.uploads.begin(upload.clone()).await?;
    let target = format!("{} ({id})", upload.name);
    let mut response = axum::Json(row(&api, id, upload)).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PartQuery {
    offset: u64,
}

pub(crate) async fn part(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Extension(from): Extension<Peer>,
    Query(query): Query<PartQuery>,
    body: Body,
) -> ApiResult<axum::Json<UploadRow>> {
    let upload = api.uploads.get(&who, &id)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let taken = api.uploads.take(&id, &upload, query.offset, receiver);
    let (taken, ()) = tokio::join!(taken, feed(body, sender, upload.size_bytes));
    taken?;
    if api.uploads.received(&id) < upload.size_bytes {
        return Ok(axum::Json(row(&api, id, upload)));
    }
    // One entry for all parts: a large file has hundreds.
    let target = format!("{} ({id})", upload.name);
    let finished = api.uploads.finish(&api, &id, upload).await;
    let outcome = finished.as_ref().map_or_else(ToString::to_string, |_| "ok".to_owned());
    api.audit.note(&who.user, &from.text(), "upload.whole", &target, &outcome).await?;
    Ok(axum::Json(row(&api, id, finished?)))
}

pub(crate) async fn remove(State(api): State<Api>, who: Who, Path(id): Path<String>) -> ApiResult<Response> {
    let upload = api.uploads.get(&who, &id)?;
    api.uploads.remove(&id).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(upload.name));
    Ok(response)
}
