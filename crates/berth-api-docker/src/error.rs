//! A failure as the API shows it: status and `{"message": ...}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_types::{Error, ErrorKind};

/// The result of a handler.
pub type ApiResult<T = Response> = Result<T, ApiError>;

/// An error on its way out. `?` turns the engine's errors into it.
#[derive(Debug)]
pub struct ApiError(pub Error);

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        ApiError(error)
    }
}

/// The one table from kind to status.
pub fn status(kind: ErrorKind) -> StatusCode {
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

/// The whole chain in one text, the hint on a line of its own.
pub fn message(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = status(self.0.kind);
        if self.0.kind == ErrorKind::Internal {
            tracing::error!(error = %self.0, "request failed");
        }
        plain(status, &message(&self.0))
    }
}

/// `{"message": text}` with `status`.
pub fn plain(status: StatusCode, text: &str) -> Response {
    (status, crate::json::Json(serde_json::json!({ "message": text }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_follows_the_message_on_its_own_line() {
        let error = Error::conflict("port 80 is taken").context("cannot start web").with_hint("choose another");
        assert_eq!(message(&error), "cannot start web: port 80 is taken\nhint: choose another");
        assert_eq!(status(error.kind), StatusCode::CONFLICT);
    }
}
