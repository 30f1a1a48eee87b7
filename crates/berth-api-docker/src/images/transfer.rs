//! Images as archives: load, save, import; a pull is in `registry.rs`.

use super::{messages, registry, repo_and_tag};
use crate::containers::{archive_body, byte_source};
use crate::error::ApiResult;
use crate::params::Params;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use berth_engine::Engine;
use berth_engine::images::{ImportOptions, LoadOptions};
use berth_types::{Error, ErrorKind};

/// `POST /images/create`: import from the body, or a pull.
pub(super) async fn create(State(engine): State<Engine>, params: Params, headers: HeaderMap, body: Body) -> ApiResult {
    if let Some(image) = params.filled("fromImage") {
        return registry::pull(&engine, image, &params, &headers).await;
    }
    let source = params.get("fromSrc").unwrap_or("");
    // From here on a refusal must not cut off a client that still sends.
    let archive = byte_source(body);
    let name = repo_and_tag(&params)?;
    if source != "-" {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            format!("cannot import from {source:?}: only from a request's body"),
        )
        .with_hint("download it first, then docker import FILE")
        .into());
    }
    let message = match params.filled("message") {
        Some(message) => message.to_owned(),
        None => "Imported from -".to_owned(),
    };
    let options = ImportOptions {
        name,
        message,
        changes: params.all("changes").map(str::to_owned).collect(),
        platform: params.filled("platform").map(str::to_owned),
    };
    let id = engine.images().import(archive, options).await?;
    Ok(messages::whole(Body::from(messages::status(&id.to_string()))))
}

/// `POST /images/load`
pub(super) async fn load(State(engine): State<Engine>, params: Params, body: Body) -> ApiResult {
    let archive = byte_source(body);
    let options = LoadOptions { platform: platform(&params)? };
    let stream = engine.images().load(archive, options).await?;
    // As dockerd: the answer has begun, and a bad archive is told in its stream, where clients look for it.
    Ok(messages::answer(stream, params.flag("quiet"))
        .await
        .unwrap_or_else(|error| messages::whole(Body::from(messages::failure(&error)))))
}

/// `platform` is a text before 1.48, JSON `{"os", "architecture", "variant"}` since.
fn platform(params: &Params) -> Result<Option<String>, Error> {
    let mut all = params.all("platform").filter(|text| !text.is_empty());
    let Some(text) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Error::invalid("specifying multiple platforms is not supported"));
    }
    if !text.starts_with('{') {
        return Ok(Some(text.to_owned()));
    }
    let value = crate::json::parse(text.as_bytes())?;
    let fields = crate::json::Fields::new(&value, "Platform")?;
    let mut platform = format!("{}/{}", fields.text("os")?, fields.text("architecture")?);
    let variant = fields.text("variant")?;
    if !variant.is_empty() {
        platform.push('/');
        platform.push_str(&variant);
    }
    Ok(Some(platform))
}

/// `GET /images/get?names=a&names=b`
pub(super) async fn save(State(engine): State<Engine>, params: Params) -> ApiResult {
    let names: Vec<String> = params.all("names").map(str::to_owned).collect();
    save_names(&engine, &names).await
}

pub(super) async fn save_names(engine: &Engine, names: &[String]) -> ApiResult {
    let stream = engine.images().save(names).await?;
    Ok(([("content-type", "application/x-tar")], archive_body(stream)).into_response())
}
