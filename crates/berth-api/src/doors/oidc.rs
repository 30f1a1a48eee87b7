//! Signing in by a provider (OpenID Connect), and setting it up.

use super::Done;
use crate::Api;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Json, Query};
use crate::guard::Peer;
use crate::identity::{Role, password};
use crate::oidc::{Oidc, Settings};
use crate::schema::{answers, requests};
use axum::Extension;
use axum::extract::State;
use axum::http::header::{self, CONTENT_TYPE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use berth_types::Error;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Lax: the browser comes back from another site. It is worth nothing but together with the state that it repeats.
const COOKIE: &str = "__Host-berth-oidc";
const BACK: &str = "/api/v1/oidc/return";

answers! {
    /// Without the secret.
    OidcView {
        issuer: String,
        client_id: String,
        user_claim: String,
        groups_claim: String,
        /// Group to role; * is everybody.
        roles: BTreeMap<String, String>,
        has_secret: bool,
        ca: String,
    }
}

requests! {
    OidcWish {
        /// https://..., as the provider calls itself; empty: nobody signs in this way.
        issuer: String,
        client_id: String,
        /// Left out: as before.
        client_secret: Option<String>,
        /// Empty: preferred_username.
        user_claim: String,
        /// Empty: groups.
        groups_claim: String,
        /// Group to role: viewer, operator, admin or member; * is everybody.
        roles: BTreeMap<String, String>,
        /// More certificates to trust, PEM.
        ca: String,
    }
}

pub(crate) async fn settings(State(api): State<Api>) -> axum::Json<Option<OidcView>> {
    axum::Json(api.oidc.settings().map(|settings| OidcView {
        issuer: settings.issuer,
        client_id: settings.client_id,
        user_claim: settings.user_claim,
        groups_claim: settings.groups_claim,
        roles: settings.roles.into_iter().map(|(group, role)| (group, role.as_str().to_owned())).collect(),
        has_secret: !settings.client_secret.is_empty(),
        ca: settings.ca,
    }))
}

pub(crate) async fn put(State(api): State<Api>, Json(body): Json<OidcWish>) -> ApiResult<axum::Json<Done>> {
    if body.issuer.is_empty() {
        api.oidc.put(None).await?;
        return Ok(Done::plainly());
    }
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let before = api.oidc.settings().map(|settings| settings.client_secret).unwrap_or_default();
    let settings = Settings {
        issuer: body.issuer,
        client_id: body.client_id,
        client_secret: body.client_secret.unwrap_or(before),
        user_claim: or(body.user_claim, "preferred_username"),
        groups_claim: or(body.groups_claim, "groups"),
        roles: body
            .roles
            .into_iter()
            .map(|(group, role)| Ok((group, Role::parse(&role)?)))
            .collect::<Result<_, Error>>()?,
        ca: body.ca,
    };
    settings.check()?;
    // Asked at once: a wrong address shows here and not to whoever signs in.
    Oidc::endpoints(&settings).await?;
    api.oidc.put(Some(settings)).await?;
    Ok(Done::plainly())
}

fn page_of(headers: &HeaderMap) -> ApiResult<String> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    host.map(str::to_owned).ok_or_else(|| Error::invalid("the request does not say which host it is for").into())
}

pub(crate) async fn start(State(api): State<Api>, headers: HeaderMap) -> ApiResult<Response> {
    let (to, state) = api.oidc.begin(&format!("https://{}{BACK}", page_of(&headers)?)).await?;
    let cookie = format!("{COOKIE}={state}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600");
    Ok((StatusCode::FOUND, [(LOCATION, to), (SET_COOKIE, cookie)]).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReturnQuery {
    code: String,
    state: String,
    error: String,
    error_description: String,
}

fn brought(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

pub(crate) async fn back(
    State(api): State<Api>,
    Extension(from): Extension<Peer>,
    headers: HeaderMap,
    Query(query): Query<ReturnQuery>,
) -> ApiResult<Response> {
    let from = from.text();
    if !query.error.is_empty() {
        let why: String = format!("{} {}", query.error, query.error_description).chars().take(200).collect();
        api.audit.note("", &from, "session.start", "by the provider", &why).await?;
        return Err(ApiError::forbidden(format!("the provider refuses: {why}")));
    }
    // Another browser's answer signs nobody in (CSRF on signing in).
    let same = brought(&headers).is_some_and(|state| password::same(state.as_bytes(), query.state.as_bytes()));
    if query.state.is_empty() || !same {
        return Err(ApiError::forbidden("this sign-in was begun in another browser"));
    }
    let known = match api.oidc.end(&query.state, &query.code).await {
        Ok(known) => known,
        Err(error) => {
            api.audit.note("", &from, "session.start", "by the provider", &error.to_string()).await?;
            return Err(error.into());
        }
    };
    if let Err(error) = api.identity.provided(&known.name, &known.subject, known.role).await {
        api.audit.note(&known.name, &from, "session.start", "by the provider", &error.to_string()).await?;
        return Err(error.into());
    }
    let signed_in = api.identity.sign_in(&known.name, &from).await?;
    api.audit.note(&known.name, &from, "session.start", "by the provider", "ok").await?;
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    // Not a redirect: the browser comes from another site, and would leave the strict cookie at home. This page is ours.
    let page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=/\">\
        <title>berth</title><p><a href=\"/\">berth</a></p></html>";
    let cookies = AppendHeaders([(SET_COOKIE, super::account::cookie(&signed_in)), (SET_COOKIE, gone)]);
    Ok((cookies, [(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response())
}
