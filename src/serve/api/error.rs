//! What the server says when it does not do what it was asked.
//!
//! In: a status and a sentence. Out: a response in the shape that the endpoint's clients expect, of which the service
//! has several: an object for files and all else, a string for Together's batches, XML from its storage.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use crate::serve::store::quota::QuotaExceeded;
use crate::storage::durable::FileError;

/// How the body of a refusal looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorShape {
    /// `{"error":{"message","type","param","code"}}`
    Object,
    /// `{"error":"…","request_id":"…"}`
    Text,
    /// `<Error><Code/><Message/></Error>`
    Storage,
}

/// A refusal, or a failure of the server.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    shape: ErrorShape,
    message: String,
}

impl ApiError {
    /// A refusal by the files endpoints, or by any that is not of batches.
    pub(crate) fn object(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, shape: ErrorShape::Object, message: message.into() }
    }

    /// A refusal by the batches endpoints.
    pub(crate) fn text(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, shape: ErrorShape::Text, message: message.into() }
    }

    /// A refusal of a call that makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::object(StatusCode::BAD_REQUEST, message)
    }

    /// No such file, for this account.
    pub(crate) fn no_file(id: &str) -> Self {
        Self::object(StatusCode::NOT_FOUND, format!("File {id} not found"))
    }

    /// Its status.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The same error in another shape.
    pub(crate) fn shaped(mut self, shape: ErrorShape) -> Self {
        self.shape = shape;
        self
    }
}

/// There is no room for it.
impl From<QuotaExceeded> for ApiError {
    fn from(full: QuotaExceeded) -> Self {
        Self::object(StatusCode::PAYLOAD_TOO_LARGE, full.to_string())
    }
}

/// The server could not read or write its own files.
impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        let message = format!("Internal server error: {error}: {}", error.source);
        Self::object(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::UNAUTHORIZED => "authentication_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        match self.shape {
            ErrorShape::Object => {
                let body = json!({"error": {"message": self.message, "type": kind, "param": null, "code": null}});
                (self.status, Json(body)).into_response()
            }
            ErrorShape::Text => {
                let request_id = Uuid::new_v4();
                (self.status, Json(json!({"error": self.message, "request_id": request_id.to_string()})))
                    .into_response()
            }
            ErrorShape::Storage => {
                let (code, message) = (kind, self.message);
                let body = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                );
                (self.status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
            }
        }
    }
}
