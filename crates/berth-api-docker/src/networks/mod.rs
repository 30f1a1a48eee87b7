//! `/networks*` of Docker's Engine API.
//!
//! Parses, calls `engine.networks()`, renders. Statuses and words are Docker's where its clients look at
//! them: 201 with `Id` and `Warning` for a new network, 403 for the predefined ones and those in use, 409 for a
//! taken name.

mod wire;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_engine::{Engine, Filters};
use berth_types::{Error, ErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use wire::{ConnectBody, CreateBody, DisconnectBody, NetworkJson};

/// The routes, without a version prefix.
pub fn router() -> Router<Engine> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{network}", get(inspect).delete(remove))
        .route("/networks/{network}/connect", post(connect))
        .route("/networks/{network}/disconnect", post(disconnect))
}

/// An error on its way out, as `{"message": ...}`.
struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut message = self.0.to_string();
        if let Some(hint) = &self.0.hint {
            message += &format!("\nhint: {hint}");
        }
        (status, Json(serde_json::json!({ "message": message }))).into_response()
    }
}

#[derive(Debug, Default, Deserialize)]
struct FilterQuery {
    #[serde(default)]
    filters: String,
}

/// `{"label": ["a"]}` or, from old clients, `{"label": {"a": true}}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum FilterValues {
    List(Vec<String>),
    Map(BTreeMap<String, bool>),
}

fn parse_filters(text: &str) -> Result<Filters, Error> {
    if text.is_empty() {
        return Ok(Filters::default());
    }
    let parsed: BTreeMap<String, FilterValues> =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("invalid filter: {error}")))?;
    let values = |values| match values {
        FilterValues::List(list) => list,
        FilterValues::Map(map) => map.into_iter().filter(|(_, used)| *used).map(|(value, _)| value).collect(),
    };
    Ok(Filters(parsed.into_iter().map(|(key, some)| (key, values(some))).collect()))
}

/// A body, whatever its content type says: clients differ there.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Error> {
    if body.is_empty() {
        return Err(Error::invalid("invalid JSON: got EOF while reading request body"));
    }
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
}

/// `GET /networks`.
async fn list(
    State(engine): State<Engine>,
    Query(query): Query<FilterQuery>,
) -> Result<Json<Vec<NetworkJson>>, Refusal> {
    let views = engine.networks().list(&parse_filters(&query.filters)?)?;
    Ok(Json(views.iter().map(NetworkJson::without_containers).collect()))
}

/// `GET /networks/{id}`.
async fn inspect(State(engine): State<Engine>, Path(network): Path<String>) -> Result<Json<NetworkJson>, Refusal> {
    Ok(Json(NetworkJson::from(&engine.networks().inspect(&network)?)))
}

/// `POST /networks/create`.
async fn create(State(engine): State<Engine>, body: Bytes) -> Result<Response, Refusal> {
    let spec = parse::<CreateBody>(&body)?.into_spec()?;
    let id = engine.networks().create(spec).await?;
    let answer = serde_json::json!({ "Id": id.as_str(), "Warning": "" });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `DELETE /networks/{id}`.
async fn remove(State(engine): State<Engine>, Path(network): Path<String>) -> Result<StatusCode, Refusal> {
    engine.networks().remove(&network).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /networks/prune`.
async fn prune(State(engine): State<Engine>, Query(query): Query<FilterQuery>) -> Result<Response, Refusal> {
    let pruned = engine.networks().prune(&parse_filters(&query.filters)?).await?;
    Ok(Json(serde_json::json!({ "NetworksDeleted": pruned })).into_response())
}

/// `POST /networks/{id}/connect`.
async fn connect(
    State(engine): State<Engine>,
    Path(network): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let body: ConnectBody = parse(&body)?;
    let endpoint = body.endpoint_config.unwrap_or_default().into_spec()?;
    engine.networks().connect(&body.container, &network, endpoint).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`.
async fn disconnect(
    State(engine): State<Engine>,
    Path(network): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let body: DisconnectBody = parse(&body)?;
    engine.networks().disconnect(&body.container, &network).await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_in_both_of_dockers_forms() {
        let list = parse_filters(r#"{"name":["a","b"]}"#).unwrap();
        assert_eq!(list.get("name"), ["a", "b"]);
        let map = parse_filters(r#"{"driver":{"bridge":true,"host":false}}"#).unwrap();
        assert_eq!(map.get("driver"), ["bridge"]);
        assert!(parse_filters("{").is_err());
    }
}
