//! `/api/v1/images/...`: an image from one engine to another.

use crate::containers::{archive_body, byte_source};
use crate::error::ApiResult;
use crate::json::{Json, JsonBody};
use crate::params::Params;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use berth_engine::Engine;
use berth_types::{Digest, Error};
use serde_json::json;

/// `GET /api/v1/images/offer?name=`: what it is made of.
pub(super) async fn offer(State(engine): State<Engine>, params: Params) -> ApiResult {
    let name = params.filled("name").ok_or_else(|| Error::invalid("an image's name is needed"))?;
    Ok(Json(engine.images().offer(name)?).into_response())
}

/// `POST /api/v1/images/missing`: which of `{"layers": [..]}` are not here.
pub(super) async fn missing(State(engine): State<Engine>, JsonBody(body): JsonBody) -> ApiResult {
    let layers: Vec<Digest> = serde_json::from_value(body["layers"].clone())
        .map_err(|cause| Error::invalid(format!("invalid list of layers: {cause}")))?;
    Ok(Json(json!({"missing": engine.images().missing_layers(layers).await?})).into_response())
}

/// `GET /api/v1/images/send?name=&layer=&layer=&marked=`: the image's offer and these layers, with marks that say how far
/// it is.
pub(super) async fn send(State(engine): State<Engine>, params: Params) -> ApiResult {
    let name = params.filled("name").ok_or_else(|| Error::invalid("an image's name is needed"))?;
    let layers = params
        .all("layer")
        .map(|text| text.parse::<Digest>().map_err(|cause| Error::invalid(cause.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    let stream = engine.images().send(name, layers, params.flag("marked"))?;
    Ok(([("content-type", "application/octet-stream")], archive_body(stream)).into_response())
}

/// `POST /api/v1/images/receive`: what another engine's `send` answered.
pub(super) async fn receive(State(engine): State<Engine>, body: Body) -> ApiResult {
    let id = engine.images().receive(byte_source(body)).await?;
    Ok(Json(json!({"id": id})).into_response())
}
