//! Templates and clones: ours; Docker has no word for them.

use crate::error::ApiResult;
use crate::json::{Fields, Json, JsonBody};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
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

/// Clones that start at once.
const STARTS_MAX: usize = 16;

/// `POST /api/v1/containers/{id}/clone`: `{"names": [""], "start": false}`; answers ids in the order of the names, and why
/// some of them do not run.
async fn clone(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let fields = Fields::new(&body, "Clone")?;
    let (names, start) = (fields.texts("names")?, fields.flag("start")?);
    let made = engine.containers().clone_container(&id, &names).await?;
    let mut failed = Vec::new();
    for some in made.chunks(STARTS_MAX).filter(|_| start) {
        let starts = some.iter().map(|one| {
            let (engine, id) = (engine.clone(), one.id.clone());
            tokio::spawn(async move { engine.containers().start(id.as_str()).await })
        });
        // All of them begin before the first is waited for.
        for begun in starts.collect::<Vec<_>>() {
            match begun.await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => failed.push(error.to_string()),
                Err(error) => failed.push(format!("a start ended early: {error}")),
            }
        }
    }
    let mut warnings: Vec<&String> = made.iter().flat_map(|one| &one.warnings).collect();
    warnings.dedup();
    let ids: Vec<&str> = made.iter().map(|one| one.id.as_str()).collect();
    Ok((StatusCode::CREATED, Json(json!({"Ids": ids, "Warnings": warnings, "Failed": failed}))))
}
