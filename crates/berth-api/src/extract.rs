//! Bodies and queries, refused in our own words.

use crate::error::{ApiError, ApiResult};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use berth_types::Error;
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// A JSON body; an empty one is `{}`.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> ApiResult<Json<T>> {
        let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Forms of other sites' pages cannot send this type.
        let json = kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|cause| ApiError::from(Error::invalid(format!("cannot read the request: {cause}"))))?;
        let bytes: &[u8] = match (json, bytes.is_empty()) {
            (_, true) => b"{}",
            (true, false) => &bytes,
            (false, false) => return Err(Error::invalid("the body must be of type application/json").into()),
        };
        let value = serde_json::from_slice(bytes).map_err(|cause| Error::invalid(format!("invalid body: {cause}")))?;
        Ok(Json(value))
    }
}

pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Query<T>> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Query(value)),
            Err(cause) => Err(Error::invalid(format!("invalid query: {cause}")).into()),
        }
    }
}
