//! What this engine has not: a swarm and plugins. Answered as by a dockerd outside a swarm and without plugins.

use crate::error::{ApiResult, plain};
use crate::params::Params;
use axum::Json;
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use berth_engine::Engine;
use berth_types::Error;
use serde_json::json;

/// dockerd's words for an engine outside a swarm.
const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                             connect this node to swarm and try again.";

pub(crate) fn router() -> Router<Engine> {
    let mut routes = Router::new()
        .route("/swarm/leave", post(not_part_of_a_swarm))
        .route("/services/{id}/logs", get(swarm_logs))
        .route("/tasks/{id}/logs", get(swarm_logs))
        .route("/plugins", get(plugins))
        .route("/plugins/{name}", delete(no_plugin))
        .route("/plugins/{name}/{verb}", any(no_plugin_verb));
    for path in [
        "/swarm",
        "/swarm/{verb}",
        "/nodes",
        "/nodes/{id}",
        "/nodes/{id}/{verb}",
        "/services",
        "/services/{id}",
        "/services/{id}/update",
        "/tasks",
        "/tasks/{id}",
        "/secrets",
        "/secrets/{id}",
        "/secrets/{id}/{verb}",
        "/configs",
        "/configs/{id}",
        "/configs/{id}/{verb}",
    ] {
        routes = routes.route(path, any(no_swarm));
    }
    routes
}

async fn no_swarm() -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE, NOT_A_MANAGER)
}

async fn not_part_of_a_swarm() -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm")
}

/// `GET /services/{id}/logs`, `GET /tasks/{id}/logs`
async fn swarm_logs(params: Params) -> ApiResult {
    if !params.flag("stdout") && !params.flag("stderr") {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream").into());
    }
    Ok(no_swarm().await)
}

/// `GET /plugins`: none.
async fn plugins(params: Params) -> ApiResult {
    params.filters()?.only(&["enabled", "capability"])?;
    Ok(Json(json!([])).into_response())
}

async fn no_plugin(Path(name): Path<String>) -> Response {
    plain(StatusCode::NOT_FOUND, &format!("plugin \"{name}\" not found"))
}

async fn no_plugin_verb(Path((name, verb)): Path<(String, String)>) -> Response {
    match verb.as_str() {
        "upgrade" if !name.contains(':') => no_plugin(Path(format!("{name}:latest"))).await,
        "json" | "enable" | "disable" | "set" | "push" | "upgrade" => no_plugin(Path(name)).await,
        _ => crate::server::not_found().await,
    }
}
