//! `/volumes`: folders that outlive containers.

use crate::error::ApiResult;
use crate::json::{Fields, Json, JsonBody};
use crate::params::Params;
use crate::time::rfc3339;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use berth_engine::Engine;
use berth_engine::volumes::{Volume, VolumeCreate};
use serde_json::{Value, json};

pub(crate) fn router() -> Router<Engine> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove).put(cluster_only))
}

pub(crate) fn render(volume: &Volume) -> Value {
    let none_or = |map: &std::collections::BTreeMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    let mut value = json!({
        "CreatedAt": rfc3339(volume.created_unix_nanos / 1_000_000_000 * 1_000_000_000),
        "Driver": volume.driver,
        "Labels": none_or(&volume.labels),
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": none_or(&volume.driver_options),
        "Scope": "local",
    });
    if let Some(usage) = volume.usage {
        value["UsageData"] = json!({"RefCount": usage.references, "Size": usage.size_bytes});
    }
    value
}

/// `GET /volumes`
async fn list(State(engine): State<Engine>, params: Params) -> ApiResult {
    let filters = params.filters().map_err(|error| error.context("error reading volume filters"))?;
    let volumes = engine.volumes().list(&filters).await?;
    let volumes: Vec<Value> = volumes.iter().map(render).collect();
    Ok(Json(json!({"Volumes": volumes, "Warnings": null})).into_response())
}

/// `POST /volumes/create`: 201
async fn create(State(engine): State<Engine>, JsonBody(body): JsonBody) -> ApiResult {
    let fields = Fields::new(&body, "CreateOptions")?;
    if fields.raw("ClusterVolumeSpec").is_some() {
        return Err(
            berth_types::Error::invalid("cluster volumes need a swarm, which this engine is not part of").into()
        );
    }
    let name = fields.text("Name")?;
    let volume = engine
        .volumes()
        .create(VolumeCreate {
            name: name.clone(),
            driver: fields.text("Driver")?,
            driver_options: fields.text_map("DriverOpts")?,
            labels: fields.text_map("Labels")?,
            made_for: None,
        })
        .await
        .map_err(|error| match error.message.starts_with("error looking up volume plugin") {
            true => error.context(format!("create {name}")),
            false => error,
        })?;
    Ok((StatusCode::CREATED, Json(render(&volume))).into_response())
}

/// `GET /volumes/{name}`
async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> ApiResult {
    Ok(Json(render(&engine.volumes().inspect(&name).await?)).into_response())
}

/// `DELETE /volumes/{name}`: 204
async fn remove(State(engine): State<Engine>, Path(name): Path<String>, params: Params) -> ApiResult<StatusCode> {
    engine.volumes().remove(&name, params.flag("force")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /volumes/prune`
async fn prune(
    State(engine): State<Engine>,
    axum::Extension(version): axum::Extension<crate::version::ApiVersion>,
    params: Params,
) -> ApiResult {
    let mut filters = params.filters()?;
    // Before 1.42 named volumes were pruned too.
    if version.0 < 42 && !filters.contains("all") {
        filters = filters.with("all", "true");
    }
    let pruned = engine.volumes().prune(&filters).await?;
    Ok(Json(json!({"VolumesDeleted": pruned.deleted, "SpaceReclaimed": pruned.space_reclaimed_bytes})).into_response())
}

/// `PUT /volumes/{name}`: only cluster volumes can be changed.
async fn cluster_only() -> ApiResult<StatusCode> {
    let text = "volume update only valid for cluster volumes, but swarm is unavailable";
    Err(berth_types::Error::new(berth_types::ErrorKind::Unavailable, text).into())
}
