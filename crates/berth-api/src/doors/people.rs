//! Users, API tokens, the audit log.

use super::Done;
use crate::Api;
use crate::audit::AuditEntry;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::{Role, Who};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

const AUDIT_PAGE: usize = 200;

answers! {
    UserRow {
        name: String,
        role: String,
        created_unix_millis: i64,
        /// A code is asked for when they sign in.
        second_factor: bool,
    }
    TokenRow {
        id: String,
        name: String,
        user: String,
        /// The most that it may do.
        role: String,
        /// Where it is good only.
        project: Option<String>,
        created_unix_millis: i64,
        expires_unix_millis: i64,
    }
    TokenSecret {
        id: String,
        /// Shown this once.
        secret: String,
    }
}

requests! {
    NewUser { name: String, role: String, password: String }
    ChangeUser {
        role: Option<String>,
        password: Option<String>,
        /// false: forgets it, for somebody who has lost theirs.
        second_factor: Option<bool>,
    }
    NewToken {
        name: String,
        /// viewer, operator or admin; at most one's own.
        role: String,
        /// Good there only; empty: wherever its user may do something.
        project: String,
        days: i64,
    }
}

pub(crate) async fn users(State(api): State<Api>) -> axum::Json<Vec<UserRow>> {
    let row = |(name, user): (String, crate::identity::User)| UserRow {
        name,
        role: user.role.as_str().to_owned(),
        created_unix_millis: user.created_unix * 1000,
        second_factor: user.totp.is_some(),
    };
    axum::Json(api.identity.users().into_iter().map(row).collect())
}

pub(crate) async fn add_user(State(api): State<Api>, Json(body): Json<NewUser>) -> ApiResult<Response> {
    api.identity.add_user(&body.name, Role::parse(&body.role)?, body.password).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(format!("{} as {}", body.name, body.role)));
    Ok(response)
}

pub(crate) async fn change_user(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<ChangeUser>,
) -> ApiResult<Response> {
    let role = body.role.as_deref().map(Role::parse).transpose()?;
    if body.second_factor == Some(true) {
        return Err(berth_types::Error::invalid("only its owner can set a second factor up").into());
    }
    let forget = body.second_factor.is_some();
    let what = [
        role.map(|role| format!("role {}", role.as_str())),
        body.password.as_ref().map(|_| "password".to_owned()),
        forget.then(|| "second factor forgotten".to_owned()),
    ];
    let what = what.into_iter().flatten().collect::<Vec<_>>().join(", ");
    api.identity.change_user(&name, role, body.password, forget, &who).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(what));
    Ok(response)
}

pub(crate) async fn remove_user(State(api): State<Api>, Path(name): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.identity.remove_user(&name).await?;
    Ok(Done::plainly())
}

pub(crate) async fn tokens(State(api): State<Api>, who: Who) -> axum::Json<Vec<TokenRow>> {
    let all = api.identity.tokens().into_iter();
    let rows = all.filter(|(_, token)| who.role == Role::Admin || token.user == who.user).map(|(id, token)| TokenRow {
        id,
        name: token.name,
        user: token.user,
        role: token.role.as_str().to_owned(),
        project: token.project,
        created_unix_millis: token.created_unix * 1000,
        expires_unix_millis: token.expires_unix * 1000,
    });
    axum::Json(rows.collect())
}

pub(crate) async fn add_token(State(api): State<Api>, who: Who, Json(body): Json<NewToken>) -> ApiResult<Response> {
    let project = (!body.project.is_empty()).then_some(body.project.as_str());
    let (id, secret) = api.identity.add_token(&who, &body.name, Role::parse(&body.role)?, project, body.days).await?;
    let mut response = axum::Json(TokenSecret { id, secret }).into_response();
    response.extensions_mut().insert(Target(format!("{} as {} for {} days", body.name, body.role, body.days)));
    Ok(response)
}

pub(crate) async fn remove_token(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Done>> {
    api.identity.remove_token(&who, &id).await?;
    Ok(Done::plainly())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuditQuery {
    before: Option<u64>,
    search: String,
}

pub(crate) async fn audit(
    State(api): State<Api>,
    Query(query): Query<AuditQuery>,
) -> ApiResult<axum::Json<Vec<AuditEntry>>> {
    let audit = api.audit.clone();
    let found = tokio::task::spawn_blocking(move || audit.list(query.before, &query.search, AUDIT_PAGE)).await;
    let found = found.map_err(|cause| berth_types::Error::internal(format!("cannot read the audit log: {cause}")))?;
    Ok(axum::Json(found?))
}
