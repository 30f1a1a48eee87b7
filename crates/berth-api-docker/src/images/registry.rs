//! What comes from registries and goes there: pull, push, search, `/auth`, `/distribution`.

use super::{auth, messages, split_action};
use crate::error::{ApiResult, plain};
use crate::json::{Fields, Json, JsonBody};
use crate::params::Params;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use berth_engine::Engine;
use berth_engine::builds::build::platform::Platform;
use berth_engine::images::{PullOptions, PushOptions};
use berth_types::reference::InvalidReference;
use berth_types::{Digest, Error, ImageName, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// dockerd's limits for a search.
const SEARCH_DEFAULT: i64 = 25;
const SEARCH_MAX: i64 = 100;

fn invalid(cause: &InvalidReference) -> Error {
    Error::invalid(cause.to_string())
}

/// `image` with the tag or digest that comes beside it.
fn joined(image: &str, tag: Option<&str>) -> Result<ImageName> {
    // Clients that want all tags may send a colon and no tag.
    let image = image.strip_suffix(':').unwrap_or(image);
    let name: ImageName = image.parse().map_err(|cause| invalid(&cause))?;
    match tag {
        None => Ok(name),
        Some(tag) => match tag.parse::<Digest>() {
            Ok(digest) => Ok(name.pinned(digest)),
            Err(_) if berth_types::reference::is_valid_tag(tag) => Ok(name.with_tag(Some(tag.to_owned()))),
            // dockerd's words.
            Err(_) => Err(Error::invalid("invalid tag format")),
        },
    }
}

/// Asked for by our own command line, which shows more than Docker's messages hold.
fn extended(params: &Params) -> bool {
    params.flag("extended")
}

/// `POST /images/create?fromImage=`. Without a tag dockerd pulls all of them.
pub(super) async fn pull(engine: &Engine, image: &str, params: &Params, headers: &HeaderMap) -> ApiResult {
    let name = joined(image, params.filled("tag"))?;
    let platform = params.filled("platform");
    if let Some(text) = platform {
        // Said before anybody is asked for it.
        Platform::parse(text, &Platform::host()).map_err(Error::invalid)?;
    }
    let options = PullOptions {
        platform: platform.map(str::to_owned),
        all_tags: name.tag().is_none() && name.digest().is_none(),
        credentials: auth::from_headers(headers)?,
    };
    let stream = engine.images().pull(name, options).await?;
    Ok(messages::answer_transfer(stream, extended(params)).await?)
}

/// `POST /images/{name}/push`
pub(super) async fn push(engine: &Engine, name: &str, params: &Params, headers: &HeaderMap) -> ApiResult {
    let name = joined(name, params.filled("tag"))?;
    if let Some(wanted) = super::transfer::one_platform(params, "platform", true)? {
        engine.images().check_platform(&name.to_string(), Some(&wanted)).await?;
    }
    let options = PushOptions { all_tags: name.tag().is_none(), credentials: auth::from_headers(headers)? };
    let stream = engine.images().push(name, options).await?;
    Ok(messages::answer_transfer(stream, extended(params)).await?)
}

/// `POST /auth`
pub(super) async fn login(State(engine): State<Engine>, JsonBody(body): JsonBody) -> ApiResult {
    Fields::new(&body, "AuthConfig")?;
    let server = body["serveraddress"].as_str().unwrap_or_default();
    let credentials = auth::credentials(&body).unwrap_or_default();
    let token = engine.images().login(server, &credentials).await?;
    Ok(Json(json!({"Status": "Login Succeeded", "IdentityToken": token.unwrap_or_default()})).into_response())
}

/// `GET /distribution/{name}/json`
pub(super) async fn distribution(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> ApiResult {
    let (name, "json") = split_action(&rest, &["json"]) else {
        return Ok(plain(StatusCode::NOT_FOUND, "page not found"));
    };
    let name: ImageName = name.parse().map_err(|cause| invalid(&cause))?;
    let found = engine.images().distribution(&name, auth::from_headers(&headers)?).await?;
    Ok(Json(json!({
        "Descriptor": {"mediaType": found.media_type, "digest": found.digest, "size": found.size_bytes},
        "Platforms": found.platforms,
    }))
    .into_response())
}

/// `GET /api/v1/registry/manifests/{name}`: a manifest as its registry has it.
pub(super) async fn manifest(State(engine): State<Engine>, Path(name): Path<String>, headers: HeaderMap) -> ApiResult {
    let name: ImageName = name.parse().map_err(|cause| invalid(&cause))?;
    let manifest = engine.images().remote_manifest(&name, auth::from_headers(&headers)?).await?;
    let digest = manifest.digest.to_string();
    let kind = if manifest.media_type.is_empty() { "application/json".to_owned() } else { manifest.media_type };
    let head = [(header::CONTENT_TYPE.as_str(), kind), ("docker-content-digest", digest)];
    Ok((head, manifest.bytes).into_response())
}

/// `GET /images/search?term=`
pub(super) async fn search(State(engine): State<Engine>, params: Params, headers: HeaderMap) -> ApiResult {
    let term = params.filled("term").ok_or_else(|| Error::invalid("a term to search for is needed"))?;
    let limit = params.int("limit")?.filter(|limit| *limit != 0).unwrap_or(SEARCH_DEFAULT);
    if !(1..=SEARCH_MAX).contains(&limit) {
        return Err(Error::invalid(format!("limit {limit} is outside the range of [1, {SEARCH_MAX}]")).into());
    }
    let filters = params.filters()?;
    filters.only(&["is-automated", "is-official", "stars"])?;
    let official = filters.boolean("is-official")?;
    let stars = match filters.get("stars").first() {
        Some(text) => text.parse::<i64>().map_err(|_| Error::invalid(format!("invalid filter 'stars={text}'")))?,
        None => 0,
    };
    let limit = usize::try_from(limit).expect("checked above");
    let found = engine.images().search(term, limit, auth::from_headers(&headers)?).await?;
    let wanted = found
        .into_iter()
        .filter(|found| official.is_none_or(|official| found.is_official == official) && found.star_count >= stars);
    let list: Vec<Value> = wanted
        .map(|found| {
            json!({
                "star_count": found.star_count, "is_official": found.is_official, "name": found.name,
                "is_automated": false, "description": found.description,
            })
        })
        .collect();
    Ok(Json(list).into_response())
}

/// `RegistryConfig` of `GET /info`.
pub(crate) fn config(engine: &Engine) -> Value {
    let options = &engine.config().registries;
    let mirrors = |name: &str| -> Vec<String> {
        let known = options.registries.get(name).map(|registry| registry.mirrors.clone()).unwrap_or_default();
        known.into_iter().map(|mirror| if mirror.ends_with('/') { mirror } else { mirror + "/" }).collect()
    };
    let (cidrs, hosts): (Vec<&String>, Vec<&String>) = options.insecure.iter().partition(|entry| entry.contains('/'));
    let mut insecure = BTreeSet::from(["::1/128", "127.0.0.0/8"]);
    insecure.extend(cidrs.iter().map(|cidr| cidr.as_str()));
    let mut indexes = serde_json::Map::new();
    let others = options.registries.keys().chain(hosts).filter(|name| *name != "*" && *name != "docker.io");
    for name in others.map(String::as_str).collect::<BTreeSet<_>>().into_iter().chain(["docker.io"]) {
        let said = options.registries.get(name).and_then(|registry| registry.insecure);
        let secure = !said.unwrap_or_else(|| options.insecure.iter().any(|entry| entry == name));
        let entry = json!({"Mirrors": mirrors(name), "Name": name, "Official": name == "docker.io", "Secure": secure});
        indexes.insert(name.to_owned(), entry);
    }
    let docker = mirrors("docker.io");
    let shown = if docker.is_empty() { Value::Null } else { json!(docker) };
    json!({"IndexConfigs": indexes, "InsecureRegistryCIDRs": insecure, "Mirrors": shown})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_beside_the_name_may_be_a_digest() {
        let digest = Digest::from_bytes([1; 32]).to_string();
        assert_eq!(joined("a", Some(&digest)).unwrap().familiar(), format!("a@{digest}"));
        assert_eq!(joined("h:5000/a", Some("1")).unwrap().familiar(), "h:5000/a:1");
        assert_eq!(joined("a:2", None).unwrap().familiar(), "a:2");
        assert_eq!(joined("a:", None).unwrap().familiar(), "a");
        for (image, tag, words) in [
            ("A", None, "invalid reference format: repository name (library/A) must be lowercase"),
            ("a/B", Some("1"), "invalid reference format: repository name (a/B) must be lowercase"),
            ("a//b", None, "invalid reference format"),
            ("", None, "invalid reference format"),
            ("a", Some("-x"), "invalid tag format"),
            ("a", Some("sha256:1"), "invalid tag format"),
        ] {
            assert_eq!(joined(image, tag).unwrap_err().message, words, "{image} {tag:?}");
        }
    }
}
