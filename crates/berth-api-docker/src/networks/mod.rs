//! `/networks*` of Docker's Engine API.
//!
//! Parses, calls `engine.networks()`, renders. Statuses and words are Docker's where its clients look at
//! them: 201 with `Id` and `Warning` for a new network, 403 for the predefined ones and those in use, 409 for a
//! taken name.

mod wire;

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
use berth_types::Error;
use wire::NetworkJson;

/// The routes, without a version prefix.
pub(crate) fn router() -> Router<Engine> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{network}", get(inspect).delete(remove))
        .route("/networks/{network}/connect", post(connect))
        .route("/networks/{network}/disconnect", post(disconnect))
}

/// As dockerd: the container is looked for before anything else.
fn container_of(fields: &Fields<'_>) -> Result<String, Error> {
    match fields.text("Container")? {
        name if name.is_empty() => Err(Error::invalid("invalid name or ID supplied: \"\"")),
        name => Ok(name),
    }
}

/// `GET /networks`.
async fn list(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Json<Vec<NetworkJson>>> {
    let views = engine.networks().list(&params.filters()?)?;
    // Before 1.28 lists showed who is on each.
    let render = if version.before(28) { NetworkJson::from } else { NetworkJson::without_containers };
    Ok(Json(views.iter().map(render).collect()))
}

/// `GET /networks/{id}`.
async fn inspect(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    Path(network): Path<String>,
    params: Params,
) -> ApiResult<Json<NetworkJson>> {
    // More of it would be other hosts' endpoints.
    params.bool("verbose")?;
    let view = engine.networks().inspect(&network)?;
    // Every network here is this host's.
    if params.filled("scope").is_some_and(|scope| scope != "local") {
        return Err(Error::not_found(format!("network {network} not found")).into());
    }
    let json = NetworkJson::from(&view);
    Ok(Json(if version.before(52) { json } else { json.with_status(&view) }))
}

/// `POST /networks/create`.
async fn create(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let spec = wire::create_body(&body, version)?;
    let id = engine.networks().create(spec).await?;
    let answer = serde_json::json!({ "Id": id.as_str(), "Warning": "" });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `DELETE /networks/{id}`.
async fn remove(State(engine): State<Engine>, Path(network): Path<String>) -> ApiResult<StatusCode> {
    engine.networks().remove(&network).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /networks/prune`.
async fn prune(State(engine): State<Engine>, params: Params) -> ApiResult {
    let pruned = engine.networks().prune(&params.filters()?).await?;
    Ok(Json(serde_json::json!({ "NetworksDeleted": pruned })).into_response())
}

/// `POST /networks/{id}/connect`.
async fn connect(
    State(engine): State<Engine>,
    Path(network): Path<String>,
    JsonBody(body): JsonBody,
) -> ApiResult<StatusCode> {
    let fields = Fields::new(&body, "ConnectOptions")?;
    let container = container_of(&fields)?;
    let endpoint = spec::endpoint(&fields.object("EndpointConfig", "EndpointSettings")?)?;
    engine.networks().connect(&container, &network, endpoint).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`.
async fn disconnect(
    State(engine): State<Engine>,
    Path(network): Path<String>,
    JsonBody(body): JsonBody,
) -> ApiResult<StatusCode> {
    let fields = Fields::new(&body, "DisconnectOptions")?;
    let (container, force) = (container_of(&fields)?, fields.flag("Force")?);
    engine.networks().disconnect(&container, &network, force).await?;
    Ok(StatusCode::OK)
}
