//! A failure as the API shows it: a status, and `{"kind", "message", "causes", "hint"}`.

use crate::schema::answers;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_types::{Error, ErrorKind};

pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// An error on its way out. `?` turns the engine's errors into it.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) error: Error,
    status: StatusCode,
    retry_seconds: Option<u32>,
    /// What a page must tell apart and no kind says.
    word: Option<&'static str>,
}

answers! {
    /// Why a request failed.
    Failure {
        /// not_found, conflict, invalid_argument, forbidden, unauthorized, ...
        kind: String,
        /// What failed, on what.
        message: String,
        /// Why, outermost cause first.
        causes: Vec<String>,
        /// What to do.
        hint: Option<String>,
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        ApiError { status: status(error.kind), error, retry_seconds: None, word: None }
    }
}

impl From<berth_store::StoreError> for ApiError {
    fn from(error: berth_store::StoreError) -> ApiError {
        Error::because(ErrorKind::Internal, "cannot use the console's records", &error).into()
    }
}

impl ApiError {
    pub(crate) fn unauthorized(message: &str) -> ApiError {
        Error::new(ErrorKind::Unauthorized, message).into()
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> ApiError {
        Error::new(ErrorKind::Forbidden, message).into()
    }

    /// What was refused before any handler of ours.
    pub(crate) fn with_status(status: StatusCode, message: &str) -> ApiError {
        ApiError { status, ..Error::invalid(message).into() }
    }

    /// The password was right; a code is asked for too.
    pub(crate) fn second_factor() -> ApiError {
        let error = Error::new(ErrorKind::Unauthorized, "a code of the second factor is needed")
            .with_hint("send it as code: from the authenticator, or a recovery code");
        ApiError { word: Some("second_factor"), ..error.into() }
    }

    /// Too many tries; says when the next one counts.
    pub(crate) fn slow_down(seconds: u64) -> ApiError {
        let error = Error::new(ErrorKind::Forbidden, "too many failed attempts")
            .with_hint(format!("wait {seconds} seconds, then try again"));
        ApiError {
            error,
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_seconds: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            word: None,
        }
    }
}

/// The one table from kind to status.
fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::CannotRun | ErrorKind::DataLoss => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout | ErrorKind::Cancelled | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.error.kind == ErrorKind::Internal {
            tracing::error!(error = %self.error, "request failed");
        }
        let mut failure = failure(&self.error);
        if let Some(word) = self.word {
            failure.kind = word.to_owned();
        }
        let mut response = (self.status, axum::Json(failure)).into_response();
        if let Some(seconds) = self.retry_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

pub(crate) fn failure(error: &Error) -> Failure {
    let kind = serde_json::to_value(error.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    Failure {
        kind: kind.unwrap_or_default(),
        message: error.message.clone(),
        causes: error.causes.clone(),
        hint: error.hint.clone(),
    }
}
