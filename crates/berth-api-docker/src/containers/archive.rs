//! Files of a container: archive, changes, export.

use super::{archive_body, byte_source};
use crate::error::ApiResult;
use crate::events::IntoResponseOk;
use crate::json::Json;
use crate::params::Params;
use crate::time::rfc3339;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use berth_engine::Engine;
use berth_engine::containers::{ArchivePut, ChangeKind, PathStat};
use berth_types::Error;
use serde_json::{Value, json};

const STAT_HEADER: &str = "X-Docker-Container-Path-Stat";

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/{id}/archive", get(read).head(stat).put(write))
        .route("/containers/{id}/changes", get(changes))
        .route("/containers/{id}/export", get(export))
}

fn path(params: &Params) -> Result<&str, Error> {
    params.filled("path").ok_or_else(|| Error::invalid("bad parameter: path cannot be empty"))
}

/// `HEAD /containers/{id}/archive`
async fn stat(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<Response> {
    let stat = engine.containers().archive_stat(&id, path(&params)?).await?;
    Ok(Response::builder().header(STAT_HEADER, encode(&stat)).body(Body::empty()).into_response_ok())
}

/// `GET /containers/{id}/archive`
async fn read(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<Response> {
    let archive = engine.containers().archive_get(&id, path(&params)?).await?;
    Ok(Response::builder()
        .header("content-type", "application/x-tar")
        .header(STAT_HEADER, encode(&archive.stat))
        .body(archive_body(archive.body))
        .into_response_ok())
}

/// `PUT /containers/{id}/archive`: 200
async fn write(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
    body: Body,
) -> ApiResult<StatusCode> {
    let options = ArchivePut {
        no_overwrite_dir_non_dir: params.flag("noOverwriteDirNonDir"),
        copy_uid_gid: params.flag("copyUIDGID"),
    };
    engine.containers().archive_put(&id, path(&params)?, options, byte_source(body)).await?;
    Ok(StatusCode::OK)
}

/// `GET /containers/{id}/changes`
async fn changes(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Response> {
    let changes = engine.containers().changes(&id).await?;
    if changes.is_empty() {
        return Ok(Json(Value::Null).into_response());
    }
    let number = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let list: Value = changes.iter().map(|change| json!({"Path": change.path, "Kind": number(change.kind)})).collect();
    Ok(Json(list).into_response())
}

/// `GET /containers/{id}/export`
async fn export(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Response> {
    let stream = engine.containers().export(&id).await?;
    Ok(Response::builder().header("content-type", "application/x-tar").body(archive_body(stream)).into_response_ok())
}

fn encode(stat: &PathStat) -> String {
    let value = json!({
        "name": stat.name, "size": stat.size, "mode": go_mode(stat.mode), "mtime": rfc3339(stat.mtime_unix_nanos),
        "linkTarget": stat.link_target,
    });
    base64::engine::general_purpose::STANDARD.encode(value.to_string())
}

/// `st_mode` as Go's `os.FileMode`: permissions, and type bits of its own (package io/fs).
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    special.into_iter().filter(|(bit, _)| mode & bit != 0).fold(kind | (mode & 0o777), |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_become_gos() {
        assert_eq!(go_mode(0o040_755), 1 << 31 | 0o755);
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o120_777), 1 << 27 | 0o777);
    }
}
