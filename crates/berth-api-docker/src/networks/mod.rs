//! `/networks*` of Docker's Engine API.
//!
//! Parses, calls `engine.networks()`, renders. Statuses and words are Docker's where its clients look at
//! them: 201 with `Id` and `Warning` for a new network, 403 for the predefined ones and those in use, 409 for a
//! taken name.

mod wire;

use crate::error::ApiResult;
use crate::json::{Fields, Json, RawBody};
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
use serde::de::DeserializeOwned;
use wire::{ConnectBody, CreateBody, DisconnectBody, NetworkJson};

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

/// A body, whatever its content type says: clients differ there.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.is_empty() {
        return Err(Error::invalid("invalid JSON: got EOF while reading request body"));
    }
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
}

fn named(container: &str) -> Result<(), Error> {
    if container.is_empty() {
        return Err(Error::invalid("invalid name or ID supplied: \"\""));
    }
    Ok(())
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
) -> ApiResult<Json<NetworkJson>> {
    let view = engine.networks().inspect(&network)?;
    let json = NetworkJson::from(&view);
    Ok(Json(if version.before(52) { json } else { json.with_status(&view) }))
}

/// `POST /networks/create`.
async fn create(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    RawBody(body): RawBody,
) -> ApiResult {
    let spec = parse::<CreateBody>(&body)?.into_spec(version)?;
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
    RawBody(body): RawBody,
) -> ApiResult<StatusCode> {
    let body: ConnectBody = parse(&body)?;
    named(&body.container)?;
    let endpoint = spec::endpoint(&Fields::new(&body.endpoint_config, "EndpointSettings")?)?;
    engine.networks().connect(&body.container, &network, endpoint).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`.
async fn disconnect(
    State(engine): State<Engine>,
    Path(network): Path<String>,
    RawBody(body): RawBody,
) -> ApiResult<StatusCode> {
    let body: DisconnectBody = parse(&body)?;
    named(&body.container)?;
    engine.networks().disconnect(&body.container, &network, body.force).await?;
    Ok(StatusCode::OK)
}
