//! Signing in and out, and the first administrator.

use super::Done;
use crate::Api;
use crate::error::{ApiError, ApiResult};
use crate::extract::Json;
use crate::guard::{COOKIE, Peer};
use crate::identity::{SignedIn, Who};
use crate::schema::{answers, requests};
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Response};
use berth_types::Error;
use std::collections::BTreeMap;
use std::time::Instant;

answers! {
    /// What a page must know before anybody has signed in.
    Entry {
        /// No user exists: the set-up token makes the first.
        needs_setup: bool,
        /// People can sign in by a provider: GET /oidc/start.
        provider: bool,
        /// Of whoever asks, where they have signed in.
        session: Option<SessionView>,
    }
    /// Who is signed in.
    SessionView {
        user: String,
        /// What they may do everywhere: member (nothing), viewer, operator or admin.
        role: String,
        /// What their projects give them there.
        projects: BTreeMap<String, String>,
        /// A code is asked for when they sign in.
        second_factor: bool,
        /// To be repeated in the header x-berth-csrf by every request that changes something.
        csrf: Option<String>,
        version: String,
        hostname: String,
    }
}

answers! {
    /// A second factor that waits for its first code.
    TotpBegun {
        /// To be typed into an authenticator program.
        secret: String,
        /// The same as a link or picture.
        url: String,
    }
    TotpOn {
        /// Each good once; shown this once.
        recovery_codes: Vec<String>,
    }
}

requests! {
    SetUp {
        /// Printed by the engine on its first run, and by `berth console token`.
        token: String,
        name: String,
        password: String,
    }
    SignIn {
        name: String,
        password: String,
        /// Of the second factor, where there is one.
        code: String,
    }
    NewPassword { old: String, new: String }
    BeginTotp { password: String }
    ConfirmTotp { code: String }
    EndTotp { password: String, code: String }
}

fn view(api: &Api, who: &Who) -> SessionView {
    let projects = who.projects.iter().map(|(name, role)| (name.clone(), role.as_str().to_owned()));
    SessionView {
        user: who.user.clone(),
        role: who.role.as_str().to_owned(),
        projects: projects.collect(),
        second_factor: api.identity.has_second_factor(&who.user),
        csrf: who.csrf.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// The session's cookie.
pub(crate) fn cookie(signed_in: &SignedIn) -> String {
    format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict", signed_in.secret)
}

fn with_cookie(api: &Api, signed_in: &SignedIn) -> Response {
    ([(SET_COOKIE, cookie(signed_in))], axum::Json(view(api, &signed_in.who))).into_response()
}

pub(crate) async fn entry(State(api): State<Api>, headers: HeaderMap) -> axum::Json<Entry> {
    axum::Json(entry_of(&api, &headers))
}

pub(crate) fn entry_of(api: &Api, asked: &HeaderMap) -> Entry {
    let session = crate::guard::identify(api, asked).map(|who| view(api, &who));
    Entry { needs_setup: api.identity.needs_setup(), provider: api.oidc.settings().is_some(), session }
}

pub(crate) async fn set_up(
    State(api): State<Api>,
    Extension(from): Extension<Peer>,
    Json(body): Json<SetUp>,
) -> ApiResult<Response> {
    let (from, now) = (from.text(), Instant::now());
    let keys = [from.as_str()];
    if let Some(seconds) = api.identity.limiter.wait(&keys, now) {
        return Err(ApiError::slow_down(seconds));
    }
    match api.identity.set_up(&body.token, &body.name, body.password).await {
        Ok(()) => {}
        Err(error) => {
            if error.kind == berth_types::ErrorKind::Unauthorized {
                api.identity.limiter.failed(&keys, now);
            }
            api.audit.note(&body.name, &from, "setup", "", &error.message).await?;
            return Err(error.into());
        }
    }
    api.audit.note(&body.name, &from, "setup", "", "ok").await?;
    Ok(with_cookie(&api, &api.identity.sign_in(&body.name, &from).await?))
}

pub(crate) async fn sign_in(
    State(api): State<Api>,
    Extension(from): Extension<Peer>,
    Json(body): Json<SignIn>,
) -> ApiResult<Response> {
    let (from, now) = (from.text(), Instant::now());
    let name = format!("user {}", body.name.chars().take(64).collect::<String>());
    let keys = [from.as_str(), name.as_str()];
    if let Some(seconds) = api.identity.limiter.wait(&keys, now) {
        return Err(ApiError::slow_down(seconds));
    }
    // Counted before the slow check, or many at once would all pass the limit.
    api.identity.limiter.failed(&keys, now);
    if !api.identity.check_password(&body.name, body.password).await? {
        api.audit.note(&body.name, &from, "session.start", "", "wrong name or password").await?;
        return Err(ApiError::unauthorized("wrong name or password"));
    }
    if api.identity.has_second_factor(&body.name) {
        if body.code.is_empty() {
            return Err(ApiError::second_factor());
        }
        if let Err(error) = api.identity.use_totp(&body.name, &body.code).await {
            api.audit.note(&body.name, &from, "session.start", "", "wrong code").await?;
            return Err(error.into());
        }
    }
    api.identity.limiter.succeeded(&keys);
    let signed_in = api.identity.sign_in(&body.name, &from).await?;
    api.audit.note(&body.name, &from, "session.start", "", "ok").await?;
    Ok(with_cookie(&api, &signed_in))
}

pub(crate) async fn session(State(api): State<Api>, who: Who) -> axum::Json<SessionView> {
    axum::Json(view(&api, &who))
}

pub(crate) async fn sign_out(State(api): State<Api>, who: Who) -> ApiResult<Response> {
    api.identity.sign_out(&who).await?;
    let cookie = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok(([(SET_COOKIE, cookie)], Done::plainly()).into_response())
}

pub(crate) async fn password(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<NewPassword>,
) -> ApiResult<axum::Json<Done>> {
    themselves(&api, &who, body.old).await?;
    api.identity.change_user(&who.user, None, Some(body.new), false, &who).await?;
    Ok(Done::plainly())
}

/// Asks for the password again before what a stolen session must not do.
async fn themselves(api: &Api, who: &Who, password: String) -> ApiResult<()> {
    let (key, now) = (format!("user {}", who.user), Instant::now());
    if let Some(seconds) = api.identity.limiter.wait(&[&key], now) {
        return Err(ApiError::slow_down(seconds));
    }
    if who.csrf.is_none() {
        return Err(ApiError::forbidden("a token cannot change how its user signs in"));
    }
    if !api.identity.check_password(&who.user, password).await? {
        api.identity.limiter.failed(&[&key], now);
        return Err(ApiError::forbidden("the present password is another one"));
    }
    Ok(())
}

pub(crate) async fn begin_totp(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<BeginTotp>,
) -> ApiResult<axum::Json<TotpBegun>> {
    themselves(&api, &who, body.password).await?;
    let totp = api.identity.begin_totp(&who.user)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(axum::Json(TotpBegun { secret: totp.secret_text(), url: totp.url(&who.user, &host) }))
}

/// Counted before it is looked at, as a password is: a code has six digits only.
async fn coded<T>(api: &Api, who: &Who, check: impl Future<Output = berth_types::Result<T>>) -> ApiResult<T> {
    let (key, now) = (format!("user {}", who.user), Instant::now());
    if let Some(seconds) = api.identity.limiter.wait(&[&key], now) {
        return Err(ApiError::slow_down(seconds));
    }
    api.identity.limiter.failed(&[&key], now);
    let checked = check.await.map_err(|error| match error.kind {
        // The session holds: only the code is wrong.
        berth_types::ErrorKind::Unauthorized => Error { kind: berth_types::ErrorKind::Forbidden, ..error },
        _ => error,
    })?;
    api.identity.limiter.succeeded(&[&key]);
    Ok(checked)
}

pub(crate) async fn confirm_totp(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<ConfirmTotp>,
) -> ApiResult<axum::Json<TotpOn>> {
    let recovery_codes = coded(&api, &who, api.identity.confirm_totp(&who.user, &body.code)).await?;
    Ok(axum::Json(TotpOn { recovery_codes }))
}

pub(crate) async fn end_totp(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<EndTotp>,
) -> ApiResult<axum::Json<Done>> {
    themselves(&api, &who, body.password).await?;
    coded(&api, &who, api.identity.use_totp(&who.user, &body.code)).await?;
    api.identity.put_totp(&who.user, None).await?;
    Ok(Done::plainly())
}
