//! `/secrets` and `/configs`: Swarm's, answered by this one engine. There is no swarm behind them.

use crate::error::ApiResult;
use crate::json::{Fields, Json, JsonBody};
use crate::params::Params;
use crate::spec::refuse_if;
use crate::time::rfc3339_nano;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use berth_engine::Engine;
use berth_engine::secrets::{Secret, SecretCreate, Secrets};
use berth_types::Error;
use serde_json::{Value, json};

pub(crate) fn router() -> Router<Engine> {
    Router::new()
        .route(
            "/secrets",
            get(async |State(engine): State<Engine>, params: Params| list(engine.secrets(), false, params).await),
        )
        .route(
            "/secrets/create",
            post(async |State(engine): State<Engine>, JsonBody(body): JsonBody| create(engine.secrets(), body).await),
        )
        .route(
            "/secrets/{id}",
            get(async |State(engine): State<Engine>, Path(id): Path<String>| {
                inspect(engine.secrets(), false, id).await
            })
            .delete(async |State(engine): State<Engine>, Path(id): Path<String>| remove(engine.secrets(), id).await),
        )
        .route(
            "/secrets/{id}/update",
            post(
                async |State(engine): State<Engine>,
                       Path(id): Path<String>,
                       params: Params,
                       JsonBody(body): JsonBody| { update(engine.secrets(), id, params, body).await },
            ),
        )
        .route(
            "/configs",
            get(async |State(engine): State<Engine>, params: Params| list(engine.configs(), true, params).await),
        )
        .route(
            "/configs/create",
            post(async |State(engine): State<Engine>, JsonBody(body): JsonBody| create(engine.configs(), body).await),
        )
        .route(
            "/configs/{id}",
            get(async |State(engine): State<Engine>, Path(id): Path<String>| inspect(engine.configs(), true, id).await)
                .delete(async |State(engine): State<Engine>, Path(id): Path<String>| {
                    remove(engine.configs(), id).await
                }),
        )
        .route(
            "/configs/{id}/update",
            post(
                async |State(engine): State<Engine>,
                       Path(id): Path<String>,
                       params: Params,
                       JsonBody(body): JsonBody| { update(engine.configs(), id, params, body).await },
            ),
        )
}

/// `content`: a configuration's; a secret's is never given back.
fn render(secret: &Secret, content: Option<&[u8]>) -> Value {
    let mut spec = json!({"Name": secret.name, "Labels": secret.labels});
    if let Some(content) = content {
        spec["Data"] = json!(STANDARD.encode(content));
    }
    json!({
        "ID": secret.id, "Version": {"Index": secret.version}, "CreatedAt": rfc3339_nano(secret.created_unix_nanos),
        "UpdatedAt": rfc3339_nano(secret.updated_unix_nanos), "Spec": spec,
    })
}

async fn whole(secrets: &Secrets, secret: &Secret, with_content: bool) -> Result<Value, Error> {
    let content = if with_content { Some(secrets.content(secret).await?) } else { None };
    Ok(render(secret, content.as_deref()))
}

/// `GET /secrets`, `GET /configs`
async fn list(secrets: Secrets, with_content: bool, params: Params) -> ApiResult {
    let mut all = Vec::new();
    for secret in secrets.list(&params.filters()?).await? {
        all.push(whole(&secrets, &secret, with_content).await?);
    }
    Ok(Json(all).into_response())
}

/// `GET /secrets/{id}`, `GET /configs/{id}`
async fn inspect(secrets: Secrets, with_content: bool, id: String) -> ApiResult {
    let secret = secrets.inspect(&id).await?;
    Ok(Json(whole(&secrets, &secret, with_content).await?).into_response())
}

/// `POST /secrets/create`, `POST /configs/create`: 201
async fn create(secrets: Secrets, body: Value) -> ApiResult {
    let fields = Fields::new(&body, "Spec")?;
    refuse_if(!fields.object("Driver", "Driver")?.text("Name")?.is_empty(), "Driver")?;
    refuse_if(!fields.object("Templating", "Driver")?.text("Name")?.is_empty(), "Templating")?;
    let text = fields.text("Data")?;
    let data = STANDARD.decode(&text).or_else(|_| URL_SAFE.decode(&text));
    let data = data.map_err(|cause| Error::invalid(format!("invalid JSON: Data is not base64: {cause}")))?;
    let request = SecretCreate { name: fields.text("Name")?, labels: fields.text_map("Labels")?, data };
    let id = secrets.create(request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "ID": id }))).into_response())
}

/// `POST /secrets/{id}/update?version=`, `POST /configs/{id}/update?version=`: labels, nothing else.
async fn update(secrets: Secrets, id: String, params: Params, body: Value) -> ApiResult<StatusCode> {
    let version = params.get("version").unwrap_or("");
    let version = version.parse().map_err(|_| Error::invalid(format!("invalid version {version:?}")))?;
    let fields = Fields::new(&body, "Spec")?;
    let now = secrets.inspect(&id).await?;
    let name = fields.text("Name")?;
    let other = !name.is_empty() && name != now.name;
    if other || fields.raw("Data").is_some() {
        return Err(Error::invalid("only updates to Labels are allowed").into());
    }
    secrets.set_labels(&now.id, version, fields.text_map("Labels")?).await?;
    Ok(StatusCode::OK)
}

/// `DELETE /secrets/{id}`, `DELETE /configs/{id}`: 204
async fn remove(secrets: Secrets, id: String) -> ApiResult<StatusCode> {
    secrets.remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
