//! Answers that a script makes up: a status, headers, a body.
//!
//! In: the members `status`, `retry_after`, `retry_after_in`, `headers`, `body` and `content_type` of a fault. Out: a
//! response.
//! Invariants: without a `body`, the answer has the shape in which the service refuses such a call.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::fields::{FaultsError, Fields};
use crate::serve::api::error::ApiError;
use crate::serve::surfaces::surface::Surface;

/// An answer, as a script has it.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedResponse {
    status: StatusCode,
    /// Until when the client is to wait, as a date this far from now.
    retry_after_in: Option<Duration>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<String>,
}

/// `Retry-After` as a script has it: seconds, or any text.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number of seconds or a text")]
enum RetryAfter {
    Seconds(i64),
    Text(String),
}

impl ScriptedResponse {
    /// Reads the members; `status` may be left out when there is a `usual` one.
    pub(crate) fn read(fields: &mut Fields<'_>, usual: Option<StatusCode>) -> Result<Self, FaultsError> {
        let status = fields.checked("status", |status: u16| {
            let fits = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
            fits.ok_or_else(|| format!("{status} is not a status; it goes from 200 to 999"))
        })?;
        let status = status.or(usual).ok_or_else(|| fields.missing("status"))?;
        let retry_after = fields.checked("retry_after", |after: RetryAfter| {
            let text = match after {
                RetryAfter::Seconds(seconds) => seconds.to_string(),
                RetryAfter::Text(text) => text,
            };
            header_value(&text).map(|value| (header::RETRY_AFTER, value))
        })?;
        let content_type = fields
            .checked("content_type", |text: String| header_value(&text).map(|value| (header::CONTENT_TYPE, value)))?;
        let others = fields.checked("headers", |headers: BTreeMap<String, String>| {
            headers.iter().map(|(name, value)| Ok((header_name(name)?, header_value(value)?))).collect()
        })?;
        let mut headers: Vec<_> = others.unwrap_or_default();
        headers.extend(retry_after);
        headers.extend(content_type);
        Ok(Self { status, retry_after_in: fields.time("retry_after_in")?, headers, body: fields.take("body")? })
    }

    /// The answer to a call of `path`.
    pub(crate) fn response(&self, path: &str, surface: &dyn Surface) -> Response {
        let mut response = if let Some(body) = &self.body {
            let kind = match body.trim_start().as_bytes().first() {
                Some(b'{' | b'[' | b'"') => "application/json",
                Some(b'<') => "text/html",
                _ => "text/plain",
            };
            (self.status, [(header::CONTENT_TYPE, kind)], Body::from(body.clone())).into_response()
        } else {
            let reason = self.status.canonical_reason().unwrap_or("failed");
            ApiError::object(self.status, format!("{reason} (a scripted fault)"))
                .shaped(surface.error_shape(path))
                .into_response()
        };
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        if let Some(wait) = self.retry_after_in {
            let date = httpdate::fmt_http_date(SystemTime::now() + wait);
            if let Ok(date) = date.parse() {
                response.headers_mut().insert(header::RETRY_AFTER, date);
            }
        }
        response
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| format!("{text:?} is not a header name"))
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    text.parse().map_err(|_| format!("{text:?} is not a header value"))
}
