//! What this engine has not: a swarm and plugins. Answered as by a dockerd outside a swarm and without plugins.

use crate::error::{ApiResult, plain};
use crate::json::Json;
use crate::params::Params;
use axum::Router;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
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
        .route("/plugins/privileges", get(no_privileges))
        .route("/plugins/pull", post(no_plugins_here))
        .route("/plugins/create", post(no_plugins_here))
        .route("/plugins/{*name}", any(no_plugin));
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

/// `GET /plugins/privileges`: what a plugin would ask for. dockerd answers none where it cannot find it.
async fn no_privileges() -> Response {
    Json(json!([])).into_response()
}

async fn no_plugins_here() -> ApiResult {
    let error = Error::not_implemented("plugins are not supported: this engine runs none");
    Err(error.with_hint("volumes and networks of its own drivers need none").into())
}

/// Everything about one plugin, whose name may have slashes: there is none.
async fn no_plugin(method: Method, Path(path): Path<String>) -> Response {
    let missing = |name: &str| plain(StatusCode::NOT_FOUND, &format!("plugin \"{name}\" not found"));
    if method == Method::DELETE {
        return missing(&path);
    }
    match path.rsplit_once('/') {
        Some((name, "upgrade")) if method == Method::POST && !name.contains(':') => missing(&format!("{name}:latest")),
        Some((name, "enable" | "disable" | "set" | "push" | "upgrade")) if method == Method::POST => missing(name),
        Some((name, "json")) if method == Method::GET => missing(name),
        _ => crate::server::not_found().await,
    }
}
