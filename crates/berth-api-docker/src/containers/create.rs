//! Making, listing and pruning containers.

use super::render_summary;
use crate::error::ApiResult;
use crate::json::{Fields, Json, JsonBody};
use crate::params::Params;
use crate::spec;
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{ListOptions, RemoveOptions, Update};
use berth_engine::events::now_unix_nanos;
use berth_types::Error;
use serde_json::{Value, json};

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", axum::routing::delete(remove))
        .route("/containers/{id}/{alias}", axum::routing::delete(remove_link))
        .route("/containers/{id}/update", post(update))
}

/// `POST /containers/create`: 201
async fn create(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    JsonBody(body): JsonBody,
) -> ApiResult {
    if body.is_null() {
        return Err(Error::invalid("invalid JSON: got EOF while reading request body").into());
    }
    if body.as_object().is_some_and(serde_json::Map::is_empty) {
        return Err(Error::invalid("config cannot be empty in order to create a container").into());
    }
    let (mut spec, warnings) = spec::create_body(&body, version)?;
    // The parameter came with 1.41.
    spec.platform = params.filled("platform").filter(|_| !version.before(41)).map(str::to_owned);
    if let Some(platform) = &spec.platform
        && !platform.contains('/')
        && !["linux", "amd64", "arm64", "x86_64", "aarch64", "386", "arm", "riscv64", "s390x", "ppc64le", "windows"]
            .contains(&platform.as_str())
    {
        let text = format!("{platform:?}: unknown operating system or architecture: invalid argument");
        return Err(Error::invalid(text).into());
    }
    let name = params.filled("name").map(|name| name.strip_prefix('/').unwrap_or(name));
    let created = engine.containers().create(name, spec).await?;
    let warnings: Vec<String> = created.warnings.into_iter().chain(warnings).collect();
    let answer = json!({"Id": created.id.to_string(), "Warnings": warnings});
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `GET /containers/json`
async fn list(State(engine): State<Engine>, Extension(version): Extension<ApiVersion>, params: Params) -> ApiResult {
    let options = ListOptions {
        all: params.flag("all"),
        limit: usize::try_from(params.int("limit")?.unwrap_or(0)).unwrap_or(0),
        size: params.flag("size"),
        filters: params.filters()?,
    };
    let now = now_unix_nanos();
    let list = engine.containers().list(&options).await?;
    Ok(Json(list.iter().map(|summary| render_summary(summary, now, version)).collect::<Value>()).into_response())
}

/// `DELETE /containers/{id}`: 204
async fn remove(State(engine): State<Engine>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    if params.flag("link") {
        engine.containers().resolve(&id).await?;
        // Legacy links are entries of the linking container here, not names of their own.
        return Err(Error::conflict("Conflict, cannot remove the default link name of the container").into());
    }
    let options = RemoveOptions { force: params.flag("force"), volumes: params.flag("v") };
    engine.containers().remove(&id, options).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /containers/{id}/{alias}?link=1`: the link, not what it leads to.
async fn remove_link(
    State(engine): State<Engine>,
    Path((id, alias)): Path<(String, String)>,
    params: Params,
) -> ApiResult<StatusCode> {
    match params.flag("link") && engine.containers().unlink(&id, &alias).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Error::not_found(format!("No such container: {id}/{alias}")).into()),
    }
}

/// `POST /containers/prune`
async fn prune(State(engine): State<Engine>, params: Params) -> ApiResult {
    let pruned = engine.containers().prune(&params.filters()?).await?;
    let deleted = if pruned.deleted.is_empty() { Value::Null } else { json!(pruned.deleted) };
    Ok(Json(json!({"ContainersDeleted": deleted, "SpaceReclaimed": pruned.space_reclaimed_bytes})).into_response())
}

/// `POST /containers/{id}/update`
async fn update(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let fields = Fields::new(&body, "UpdateConfig")?;
    let mut resources = spec::resources(&fields)?;
    if version.before(40) {
        resources.pids_limit = None;
    }
    let update = Update {
        resources,
        disks: spec::disk_limits(&fields, version)?,
        ports: fields.raw("PortBindings").map(|_| spec::port_bindings(&fields)).transpose()?,
        restart: spec::restart_policy(&fields)?,
        healthcheck: spec::healthcheck(&fields)?,
        log: spec::log_config(&fields)?,
    };
    let warnings = engine.containers().update(&id, update).await?;
    let warnings = if warnings.is_empty() { Value::Null } else { json!(warnings) };
    Ok(Json(json!({"Warnings": warnings})).into_response())
}
