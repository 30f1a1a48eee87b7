//! Images as archives: load, save, import; a pull is in `registry.rs`.

use super::{messages, registry, repo_and_tag};
use crate::containers::{archive_body, byte_source};
use crate::error::ApiResult;
use crate::json::Fields;
use crate::params::Params;
use crate::version::ApiVersion;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use berth_engine::Engine;
use berth_engine::builds::build::platform::Platform;
use berth_engine::images::{ImportOptions, LoadOptions};
use berth_types::Error;

/// `POST /images/create`: import from the body, or a pull.
pub(super) async fn create(State(engine): State<Engine>, params: Params, headers: HeaderMap, body: Body) -> ApiResult {
    if let Some(image) = params.filled("fromImage") {
        return registry::pull(&engine, image, &params, &headers).await;
    }
    let source = params.get("fromSrc").unwrap_or("");
    // From here on a refusal must not cut off a client that still sends.
    let archive = byte_source(body);
    let name = repo_and_tag(&params)?;
    if source.is_empty() {
        return Err(Error::invalid("nothing to pull or import: neither fromImage nor fromSrc is given").into());
    }
    let message = match params.filled("message") {
        Some(message) => message.to_owned(),
        None => format!("Imported from {source}"),
    };
    let options = ImportOptions {
        name,
        message,
        changes: params.all("changes").map(str::to_owned).collect(),
        platform: params.filled("platform").map(str::to_owned),
    };
    let id = match source {
        "-" => engine.images().import(archive, options).await?,
        url => return Ok(messages::answer_transfer(engine.images().import_from(url, options).await?, false).await?),
    };
    Ok(messages::whole(Body::from(messages::status(&id.to_string()))))
}

/// `POST /images/load`
pub(super) async fn load(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    body: Body,
) -> ApiResult {
    let archive = byte_source(body);
    let options = LoadOptions { platform: archive_platform(&params, version)? };
    let stream = engine.images().load(archive, options).await?;
    // As dockerd: the answer has begun, and a bad archive is told in its stream, where clients look for it.
    Ok(messages::answer(stream, params.flag("quiet"))
        .await
        .unwrap_or_else(|error| messages::whole(Body::from(messages::failure(&error)))))
}

/// The platform of an archive: several may be asked for since 1.52, but an image here has one.
fn archive_platform(params: &Params, version: ApiVersion) -> Result<Option<String>, Error> {
    let all: Vec<&str> = params.all("platform").filter(|text| !text.is_empty()).collect();
    match all.as_slice() {
        [] => Ok(None),
        [one] => platform(one).map(Some),
        _ if version.before(52) => Err(Error::invalid(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later",
        )),
        _ => Err(Error::invalid("multiple platforms not supported for this image store")
            .with_hint("an image here has one platform; ask for one at a time")),
    }
}

/// The one platform that `name` may ask for, where the client's version has it.
pub(super) fn one_platform(params: &Params, name: &str, since: bool) -> Result<Option<String>, Error> {
    let mut all = params.all(name).filter(|text| since && !text.is_empty());
    let first = all.next();
    if all.next().is_some() {
        return Err(Error::invalid("multiple platforms are not supported"));
    }
    first.map(platform).transpose()
}

/// JSON `{"os", "architecture", "variant"}`, or a text such as `linux/arm64`.
fn platform(text: &str) -> Result<String, Error> {
    if Platform::parse(text, &Platform::host()).is_ok() {
        return Ok(text.to_owned());
    }
    let failed = |error: Error| error.context("failed to parse platform");
    let value = serde_json::from_str(text).map_err(|cause| failed(Error::invalid(cause.to_string())))?;
    let fields = Fields::new(&value, "Platform").map_err(failed)?;
    let field = |name: &str| fields.text(name).map_err(failed);
    let (os, architecture, variant) = (field("os")?, field("architecture")?, field("variant")?);
    if os.is_empty() || architecture.is_empty() {
        return Err(Error::invalid("both OS and Architecture must be provided"));
    }
    let mut platform = format!("{os}/{architecture}");
    if !variant.is_empty() {
        platform.push('/');
        platform.push_str(&variant);
    }
    Ok(platform)
}

/// `GET /images/get?names=a&names=b`
pub(super) async fn save(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult {
    let names: Vec<String> = params.all("names").map(str::to_owned).collect();
    save_names(&engine, version, &names, &params).await
}

pub(super) async fn save_names(engine: &Engine, version: ApiVersion, names: &[String], params: &Params) -> ApiResult {
    if !version.before(48) {
        let wanted = archive_platform(params, version)?;
        for name in names.iter().filter(|_| wanted.is_some()) {
            engine.images().check_platform(name, wanted.as_deref()).await?;
        }
    }
    let stream = engine.images().save(names).await?;
    Ok(([("content-type", "application/x-tar")], archive_body(stream)).into_response())
}
