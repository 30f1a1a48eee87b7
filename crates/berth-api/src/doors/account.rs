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
use std::time::Instant;

answers! {
    /// What a page must know before anybody has signed in.
    Entry {
        /// No user exists: the set-up token makes the first.
        needs_setup: bool,
        /// Of whoever asks, where they have signed in.
        session: Option<SessionView>,
    }
    /// Who is signed in.
    SessionView {
        user: String,
        /// viewer, operator or admin.
        role: String,
        /// To be repeated in the header x-berth-csrf by every request that changes something.
        csrf: Option<String>,
        version: String,
        hostname: String,
    }
}

requests! {
    SetUp {
        /// Printed by the engine on its first run, and by `berth console token`.
        token: String,
        name: String,
        password: String,
    }
    SignIn { name: String, password: String }
    NewPassword { old: String, new: String }
}

fn view(who: &Who) -> SessionView {
    SessionView {
        user: who.user.clone(),
        role: who.role.as_str().to_owned(),
        csrf: who.csrf.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

fn with_cookie(signed_in: &SignedIn) -> Response {
    let cookie = format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict", signed_in.secret);
    ([(SET_COOKIE, cookie)], axum::Json(view(&signed_in.who))).into_response()
}

pub(crate) async fn entry(State(api): State<Api>, headers: HeaderMap) -> axum::Json<Entry> {
    let session = crate::guard::identify(&api, &headers).map(|who| view(&who));
    axum::Json(Entry { needs_setup: api.identity.needs_setup(), session })
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
    Ok(with_cookie(&api.identity.sign_in(&body.name, &from).await?))
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
    api.identity.limiter.succeeded(&keys);
    let signed_in = api.identity.sign_in(&body.name, &from).await?;
    api.audit.note(&body.name, &from, "session.start", "", "ok").await?;
    Ok(with_cookie(&signed_in))
}

pub(crate) async fn session(who: Who) -> axum::Json<SessionView> {
    axum::Json(view(&who))
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
    let (key, now) = (format!("user {}", who.user), Instant::now());
    if let Some(seconds) = api.identity.limiter.wait(&[&key], now) {
        return Err(ApiError::slow_down(seconds));
    }
    if who.csrf.is_none() {
        return Err(ApiError::forbidden("a token cannot change its user's password"));
    }
    if !api.identity.check_password(&who.user, body.old).await? {
        api.identity.limiter.failed(&[&key], now);
        return Err(ApiError::forbidden("the present password is another one"));
    }
    api.identity.change_user(&who.user, None, Some(body.new), &who).await?;
    Ok(Done::plainly())
}
