//! `/images` and `/commit`: the routes of images.
//!
//! Image names have slashes: `/images/{*rest}` catches them, and [`split_action`] tells name from action.
//! What comes from registries and goes there is in `registry.rs`, `/auth` and `/distribution` too.

pub(crate) mod auth;
mod bootstrap;
mod manage;
mod messages;
mod registry;
mod send;
mod transfer;
mod wire;

pub(crate) use registry::config as registry_config;
pub(crate) use wire::summary;

use crate::error::{ApiResult, plain};
use crate::params::Params;
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_types::{Error, ImageName};

pub(crate) fn router() -> Router<Engine> {
    Router::new()
        .route("/images/json", get(manage::list))
        .route("/images/create", post(transfer::create))
        .route("/images/load", post(transfer::load))
        .route("/images/get", get(transfer::save))
        .route("/images/prune", post(manage::prune))
        .route("/images/search", get(registry::search))
        .route("/images/{*rest}", get(read).post(write).delete(manage::remove))
        .route("/commit", post(manage::commit))
        .route("/auth", post(registry::login))
        .route("/distribution/{*rest}", get(registry::distribution))
        .route("/api/v1/images/bootstrap", post(bootstrap::bootstrap))
        .route("/api/v1/images/offer", get(send::offer))
        .route("/api/v1/images/missing", post(send::missing))
        .route("/api/v1/images/send", get(send::send))
        .route("/api/v1/images/receive", post(send::receive))
        .route("/api/v1/registry/manifests/{*name}", get(registry::manifest))
        .route("/api/v1/system/check", post(manage::check))
}

/// `library/debian:12/json` → (`library/debian:12`, `json`); no known action at the end: (all, "").
pub(crate) fn split_action<'a>(rest: &'a str, actions: &[&'a str]) -> (&'a str, &'a str) {
    match rest.rsplit_once('/') {
        Some((name, action)) if actions.contains(&action) => (name, action),
        _ => (rest, ""),
    }
}

/// `GET /images/{name}/json`, `/history`, `/get`, `/attestations`
async fn read(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    Path(rest): Path<String>,
    params: Params,
) -> ApiResult {
    match split_action(&rest, &["json", "history", "get", "attestations"]) {
        (name, "json") => manage::inspect(&engine, version, name, &params).await,
        (name, "history") => manage::history(&engine, version, name, &params).await,
        (name, "get") => transfer::save_names(&engine, version, &[name.to_owned()], &params).await,
        (name, "attestations") => manage::attestations(&engine, name, &params).await,
        _ => Ok(plain(StatusCode::NOT_FOUND, "page not found")),
    }
}

/// `POST /images/{name}/tag`, `/push`
async fn write(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult {
    drop(body);
    match split_action(&rest, &["tag", "push"]) {
        (name, "tag") => manage::tag(&engine, name, &params).await,
        (name, "push") => registry::push(&engine, name, &params, &headers).await,
        _ => Ok(plain(StatusCode::NOT_FOUND, "page not found")),
    }
}

/// `repo` and `tag` of a query, as dockerd joins them; `None` where there is no repository.
fn repo_and_tag(params: &Params) -> Result<Option<ImageName>, Error> {
    let Some(repo) = params.filled("repo") else { return Ok(None) };
    let invalid = |cause: berth_types::reference::InvalidReference| Error::invalid(cause.to_string());
    let name: ImageName = repo.parse().map_err(invalid)?;
    if name.digest().is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    match params.filled("tag") {
        None => Ok(Some(name.or_latest())),
        Some(tag) if berth_types::reference::is_valid_tag(tag) => Ok(Some(name.with_tag(Some(tag.to_owned())))),
        Some(_) => Err(Error::invalid("invalid tag format")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_slashes() {
        assert_eq!(split_action("a/b:1/json", &["json"]), ("a/b:1", "json"));
        assert_eq!(split_action("a/b", &["json"]), ("a/b", ""));
    }

    #[test]
    fn repo_and_tag_are_joined_as_dockerd_joins_them() {
        let params = |repo: &str, tag: &str| Params(vec![("repo".into(), repo.into()), ("tag".into(), tag.into())]);
        let joined = |repo, tag| repo_and_tag(&params(repo, tag)).map(|name| name.map(|name| name.familiar()));
        assert_eq!(joined("", "x"), Ok(None));
        assert_eq!(joined("a", ""), Ok(Some("a:latest".into())));
        assert_eq!(joined("a:1", ""), Ok(Some("a:1".into())));
        assert_eq!(joined("h:5000/a", "2"), Ok(Some("h:5000/a:2".into())));
        assert!(joined("a", "-bad").is_err());
        assert!(joined("A", "").is_err());
    }
}
