//! Looking at images, naming and removing them, and making one of a container.

use super::{repo_and_tag, transfer, wire};
use crate::error::ApiResult;
use crate::json::{Fields, JsonBody};
use crate::params::Params;
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use berth_engine::Engine;
use berth_engine::images::{CommitOptions, ListOptions, RemoveOptions};
use berth_types::Error;
use serde_json::{Value, json};

/// `GET /images/json`
pub(super) async fn list(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult {
    let mut filters = params.filters()?;
    // Before 1.41 a name to look for had a parameter of its own.
    if let Some(name) = params.filled("filter")
        && version.0 < 41
    {
        filters = filters.with("reference", name);
    }
    let (manifests, identity) = (params.flag("manifests"), params.flag("identity"));
    if identity && !manifests && !version.before(54) {
        return Err(Error::invalid("conflicting options: identity requires manifests=1").into());
    }
    let options = ListOptions {
        all: params.flag("all"),
        shared_size: version.0 >= 42 && params.flag("shared-size"),
        containers: version.0 >= 51,
        filters,
    };
    let images = engine.images().list(&options).await?;
    Ok(Json(images.iter().map(|image| wire::summary(image, version)).collect::<Value>()).into_response())
}

/// `GET /images/{name}/json`
pub(super) async fn inspect(engine: &Engine, version: ApiVersion, name: &str, params: &Params) -> ApiResult {
    if params.flag("manifests") && params.filled("platform").is_some() {
        return Err(Error::invalid("conflicting options: manifests and platform options cannot both be set").into());
    }
    let wanted = transfer::one_platform(params, "platform", !version.before(49))?;
    engine.images().check_platform(name, wanted.as_deref()).await?;
    Ok(Json(wire::inspect(&engine.images().inspect(name).await?, version)).into_response())
}

/// `GET /images/{name}/attestations`: what is unpacked here has none; an index that had some is not kept.
pub(super) async fn attestations(engine: &Engine, name: &str, params: &Params) -> ApiResult {
    let wanted = transfer::one_platform(params, "platform", true)
        .map_err(|_| Error::invalid("only one platform value is currently supported"))?;
    engine.images().check_platform(name, wanted.as_deref()).await?;
    engine.images().inspect(name).await?;
    Err(Error::not_implemented("this image store does not support attestations").into())
}

/// `GET /images/{name}/history`
pub(super) async fn history(engine: &Engine, version: ApiVersion, name: &str, params: &Params) -> ApiResult {
    let wanted = transfer::one_platform(params, "platform", !version.before(48))?;
    engine.images().check_platform(name, wanted.as_deref()).await?;
    let entries = engine.images().history(name).await?;
    Ok(Json(entries.iter().map(wire::history).collect::<Value>()).into_response())
}

/// `POST /images/{name}/tag`: 201
pub(super) async fn tag(engine: &Engine, name: &str, params: &Params) -> ApiResult {
    let Some(target) = repo_and_tag(params)? else { return Err(Error::invalid("invalid reference format").into()) };
    engine.images().tag(name, target).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// `DELETE /images/{name}`
pub(super) async fn remove(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    Path(name): Path<String>,
    params: Params,
) -> ApiResult {
    if name.trim().is_empty() {
        return Err(Error::invalid("image name cannot be blank").into());
    }
    let wanted = transfer::one_platform(&params, "platforms", !version.before(50))?;
    engine.images().check_platform(&name, wanted.as_deref()).await?;
    let options = RemoveOptions { force: params.flag("force"), no_prune: params.flag("noprune") };
    let removed = engine.images().remove(&name, options).await?;
    Ok(Json(removed.iter().map(wire::removed).collect::<Value>()).into_response())
}

/// `POST /images/prune`
pub(super) async fn prune(State(engine): State<Engine>, params: Params) -> ApiResult {
    let pruned = engine.images().prune(&params.filters()?).await?;
    let removed: Vec<Value> = pruned.removed.iter().map(wire::removed).collect();
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    Ok(Json(json!({"ImagesDeleted": removed, "SpaceReclaimed": pruned.space_reclaimed_bytes})).into_response())
}

/// `POST /commit`: 201
pub(super) async fn commit(State(engine): State<Engine>, params: Params, JsonBody(body): JsonBody) -> ApiResult {
    let name = repo_and_tag(&params)?;
    if params.filled("container").is_none() {
        return Err(Error::invalid("invalid name or ID supplied: \"\"").into());
    }
    let fields = Fields::new(&body, "Config")?;
    let config = match body.as_object().is_none_or(serde_json::Map::is_empty) {
        true => None,
        false => Some(crate::spec::config_body(&fields)?),
    };
    let options = CommitOptions {
        container: params.get("container").unwrap_or("").to_owned(),
        name,
        author: params.get("author").unwrap_or("").to_owned(),
        message: params.get("comment").unwrap_or("").to_owned(),
        pause: params.filled("pause").is_none() || params.flag("pause"),
        changes: params.all("changes").map(str::to_owned).collect(),
        config,
    };
    let id = engine.images().commit(options).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

/// `POST /api/v1/system/check?repair=1`: layers compared with their digests; answers messages.
pub(super) async fn check(State(engine): State<Engine>, params: Params, headers: HeaderMap) -> ApiResult {
    let logins = super::auth::all_from_headers(&headers)?;
    let stream = engine.images().check(params.flag("repair"), logins).await?;
    Ok(super::messages::answer(stream, false).await?)
}
