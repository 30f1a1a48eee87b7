//! Building: Docker's `POST /build` (the classic builder; BuildKit's is passed on), `/build/prune`, and our own `POST /api/v1/build` with all that Docker has no words for.

mod classic;
mod order;
mod own;

pub(crate) use classic::{cache_images, extra_host, map, ulimits};

use crate::buildkit::{self, Door};
use crate::error::ApiResult;
use crate::params::Params;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use berth_engine::Engine;
use berth_engine::builds::build::Remote;
use berth_engine::builds::{CacheEntry, CacheKind};
use berth_engine::events::now_unix_nanos;
use berth_types::{Error, ImageName};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn router(builder: Arc<Door>) -> Router<Engine> {
    let build = move |State(engine), params: Params, headers: HeaderMap, body: Body| async move {
        match params.get("version") {
            Some("2") => buildkit::posted(builder, &params, body),
            None | Some("" | "1") => classic::build(engine, &params, &headers, body).await,
            Some(other) => Err(Error::invalid(format!("invalid version {other:?}")).into()),
        }
    };
    Router::new()
        .route("/build", post(build))
        .route("/build/prune", post(prune))
        .route("/api/v1/build", post(own::build))
}

/// One of `GET /system/df`'s `BuildCache`.
pub(crate) fn render_cache(entry: &CacheEntry) -> Value {
    let kind = match entry.kind {
        CacheKind::Step => "regular",
        CacheKind::Mount => "exec.cachemount",
    };
    json!({
        "ID": entry.id.hex(), "Parents": null, "Type": kind, "Description": entry.description, "InUse": entry.in_use,
        "Shared": entry.shared, "Size": entry.bytes, "CreatedAt": crate::time::rfc3339(entry.created_unix_nanos),
        "LastUsedAt": crate::time::rfc3339(entry.used_unix_nanos), "UsageCount": 1,
    })
}

/// A name that the result gets.
pub(crate) fn tag(text: &str) -> Result<ImageName, Error> {
    let invalid = |cause: &dyn std::fmt::Display| {
        Error::invalid(format!("invalid argument {text:?} for \"-t, --tag\" flag: {cause}"))
    };
    let name: ImageName = text.parse().map_err(|cause: berth_types::reference::InvalidReference| invalid(&cause))?;
    match name.digest() {
        Some(_) => Err(invalid(&"refusing to create a tag with a digest reference")),
        None => Ok(name.or_latest()),
    }
}

/// A context that the engine fetches.
fn remote(address: &str) -> Result<Remote, Error> {
    let found = Remote::context(address, false).map_err(|error| error.error.clone())?;
    found.ok_or_else(|| Error::invalid(format!("cannot build from {address:?}: it is no repository and no address")))
}

/// `POST /build/prune?all=1&max-used-space=N&reserved-space=N&filters={"until":["24h"]}`
async fn prune(State(engine): State<Engine>, params: Params) -> ApiResult {
    let filters = params.filters()?;
    let failed = |error: Error| error.context("failed to prune build cache");
    filters.only(&["until"]).map_err(failed)?;
    let bytes = |name: &str| {
        let number = params.int(name).map_err(|error| {
            let text = params.get(name).unwrap_or_default();
            error.context(format!("{name} is in bytes and expects an integer, got {text}"))
        })?;
        Ok::<_, Error>(u64::try_from(number.unwrap_or(0)).unwrap_or(0))
    };
    if bytes("min-free-space")? > 0 {
        return Err(Error::not_implemented("not supported: a prune until so much is free on the disk")
            .with_hint("say with max-used-space how much may stay")
            .into());
    }
    // What is reserved stays, whatever may be used at most.
    let reserved = bytes("reserved-space")?.max(bytes("keep-storage")?);
    let keep_bytes = reserved.max(bytes("max-used-space")?);
    let before = match filters.get("until") {
        [] => None,
        [text] => {
            let moment = crate::time::moment(Some(text), now_unix_nanos());
            moment.map_err(|_| {
                failed(Error::invalid(format!(
                    "\"until\" filter expects a duration (e.g., '24h') or a timestamp: failed to parse value as time or duration: {text:?}"
                )))
            })?
        }
        _ => return Err(failed(Error::invalid("filters expect only one value")).into()),
    };
    let (gone, freed) = engine.builds().prune(params.flag("all"), keep_bytes, before).await?;
    let ids: Vec<String> = gone.iter().map(berth_types::Digest::hex).collect();
    Ok(crate::json::Json(json!({"CachesDeleted": ids, "SpaceReclaimed": freed})).into_response())
}
