//! What the server says when it does not do what it was asked.
//!
//! In: a status and a sentence. Out: a response in the shape that the endpoint's clients expect, of which the service
//! has several: an object for files and all else, a string for Together's batches, XML from its storage.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use super::quota::Full;
use super::surface::{Shape, Surface};
use crate::storage::durable::FileError;

/// A refusal, or a failure of the server.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    shape: Shape,
    message: String,
}

impl Refused {
    /// A refusal by the files endpoints, or by any that is not of batches.
    pub(super) fn object(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, shape: Shape::Object, message: message.into() }
    }

    /// A refusal by the batches endpoints.
    pub(super) fn text(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, shape: Shape::Text, message: message.into() }
    }

    /// A refusal by the storage behind the upload URLs.
    pub(super) fn storage(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, shape: Shape::Storage, message: message.into() }
    }

    /// No such file, for this account.
    pub(super) fn no_file(id: &str) -> Self {
        Self::object(StatusCode::NOT_FOUND, format!("File {id} not found"))
    }

    /// Its status.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The same refusal in the shape that fits the path it is about.
    pub(super) fn shaped_for(mut self, path: &str, surface: &dyn Surface) -> Self {
        self.shape = surface.refusal_shape(path);
        self
    }
}

/// There is no room for it.
impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        Self::object(StatusCode::PAYLOAD_TOO_LARGE, full.to_string())
    }
}

/// The server could not read or write its own files.
impl From<FileError> for Refused {
    fn from(error: FileError) -> Self {
        let message = format!("Internal server error: {error}: {}", error.source);
        Self::object(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::UNAUTHORIZED => "authentication_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        match self.shape {
            Shape::Object => {
                let body = json!({"error": {"message": self.message, "type": kind, "param": null, "code": null}});
                (self.status, Json(body)).into_response()
            }
            Shape::Text => {
                let request_id = Uuid::new_v4();
                (self.status, Json(json!({"error": self.message, "request_id": request_id.to_string()})))
                    .into_response()
            }
            Shape::Storage => {
                let (code, message) = (kind, self.message);
                let body = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                );
                (self.status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
            }
        }
    }
}
