//! Templates and clones: ours; Docker has no word for them.

use crate::error::ApiResult;
use crate::json::{Fields, JsonBody};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use berth_engine::Engine;
use serde_json::{Value, json};

pub(super) fn router() -> Router<Engine> {
    Router::new()
        .route("/api/v1/containers/{id}/template", post(template))
        .route("/api/v1/containers/{id}/clone", post(clone))
}

/// `POST /api/v1/containers/{id}/template`: 204
async fn template(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    engine.containers().template(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/containers/{id}/clone`: `{"names": [""], "start": false}`; answers ids in the order of the names.
async fn clone(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let fields = Fields::new(&body, "Clone")?;
    let (names, start) = (fields.texts("names")?, fields.flag("start")?);
    let made = engine.containers().clone_container(&id, &names).await?;
    if start {
        for one in &made {
            engine.containers().start(one.id.as_str()).await?;
        }
    }
    let mut warnings: Vec<&String> = made.iter().flat_map(|one| &one.warnings).collect();
    warnings.dedup();
    let ids: Vec<&str> = made.iter().map(|one| one.id.as_str()).collect();
    Ok((StatusCode::CREATED, Json(json!({"Ids": ids, "Warnings": warnings}))))
}
