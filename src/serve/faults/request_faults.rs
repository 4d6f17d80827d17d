//! Faults in how a call is answered: not at all, late, wrongly, elsewhere.
//!
//! In: a call. Out: its answer, or a cut connection.
//! Invariants: what the server did is done as without the fault; only what the client gets to know of it
//! differs. `drop_before`, `status`, `redirect` and `quote_key` do nothing at all.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::batch_faults;
use super::connection::{ConnectionHandle, Cut};
use super::fields::{FaultsError, Fields};
use super::scripted_response::ScriptedResponse;
use super::selector::CallName;
use super::state::{FaultNames, FaultState};
use super::transfer_faults::{self, Transfer};
use super::trigger::{Trigger, id_in};
use crate::serve::api::auth;
use crate::serve::api::endpoint::Endpoint;
use crate::serve::api::error::ApiError;
use crate::serve::background::Background;
use crate::serve::limits::FORM_BYTES;
use crate::serve::store::Store;
use crate::serve::surfaces::surface::Surface;

/// A fault in how a call is answered.
#[derive(Clone, Debug)]
pub(super) enum RequestFault {
    /// `accept_then_drop`: done, and the connection cut.
    AcceptThenDrop { how: Cut },
    /// `accept_then_status`: done, and answered with something else.
    AcceptThenStatus { answer: ScriptedResponse },
    /// `accept_slow`: done at once, answered after `delay`.
    AcceptSlow { delay: Duration },
    /// `drop_before`: nothing done, and the connection cut.
    DropBefore { how: Cut },
    /// `late_commit`: nothing done yet, and answered with an error; done after `delay`.
    LateCommit { delay: Duration, answer: ScriptedResponse },
    /// `status`: nothing done, and answered with something else.
    Status { answer: ScriptedResponse },
    /// `turn_away`: nothing done, and refused with words about a full queue, while as many `batches` are at work.
    TurnAway { batches: usize, status: StatusCode },
    /// `redirect`: nothing done, and sent elsewhere.
    Redirect { to: Target, status: StatusCode },
    /// `quote_key`: nothing done, and refused in words that quote the caller's key.
    QuoteKey { status: StatusCode, form: KeyForm },
    /// `visibility_lag`: a file is not seen by the first `calls` calls that name it.
    VisibilityLag { calls: u64, status: StatusCode },
    /// How the bytes get across.
    Transfer(Transfer),
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The same call again.
    Same,
    /// The same call again under an ever new URL.
    Loop,
    /// A file of the client's machine.
    File,
    /// Any text, in which `{path}` is the path and query of the call.
    Text(String),
}

/// How a key is quoted.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyForm {
    /// As it is.
    #[default]
    Text,
    /// Each of its characters as an escape of JSON.
    Escaped,
    /// Each of its characters as an escape of URLs.
    Percent,
    /// As the password of Basic credentials, in base64.
    Base64,
    /// In the title of a page.
    Html,
}

impl KeyForm {
    /// What is said of a key, with its type.
    fn words(self, key: &[u8]) -> (&'static str, String) {
        let codes = |prefix: &str| key.iter().fold(String::new(), |codes, byte| codes + &format!("{prefix}{byte:02x}"));
        let key: String = match self {
            Self::Text | Self::Html => String::from_utf8_lossy(key).into_owned(),
            Self::Escaped => codes("\\u00"),
            Self::Percent => codes("%"),
            Self::Base64 => STANDARD.encode([b"key:", key].concat()),
        };
        match self {
            Self::Html => ("text/html", format!("<html><title>Incorrect API key provided: {key}</title></html>")),
            Self::Escaped => ("application/json", format!("{{\"error\":\"Incorrect API key provided: {key}\"}}")),
            _ => {
                let message = format!("Incorrect API key provided: {key}");
                ("application/json", json!({"error": {"message": message}}).to_string())
            }
        }
    }
}

/// The names of these faults, for messages.
pub(super) const NAMES: &[&str] = &[
    "accept_then_drop",
    "accept_then_status",
    "accept_slow",
    "drop_before",
    "late_commit",
    "status",
    "turn_away",
    "redirect",
    "quote_key",
    "visibility_lag",
];

impl RequestFault {
    /// Reads the fault called `verb`, if it is one of these, and gives the calls that it usually and possibly acts on.
    pub(super) fn read(verb: &str, fields: &mut Fields<'_>) -> Result<Option<Self>, FaultsError> {
        Ok(Some(match verb {
            "accept_then_drop" => Self::AcceptThenDrop { how: fields.take("how")?.unwrap_or_default() },
            "accept_then_status" => {
                Self::AcceptThenStatus { answer: ScriptedResponse::read(fields, Some(StatusCode::BAD_GATEWAY))? }
            }
            "accept_slow" => Self::AcceptSlow { delay: fields.need_time("delay")? },
            "drop_before" => Self::DropBefore { how: fields.take("how")?.unwrap_or_default() },
            "late_commit" => Self::LateCommit {
                delay: fields.need_time("delay")?,
                answer: ScriptedResponse::read(fields, Some(StatusCode::GATEWAY_TIMEOUT))?,
            },
            "status" => Self::Status { answer: ScriptedResponse::read(fields, None)? },
            "turn_away" => Self::TurnAway {
                batches: batch_faults::room(fields)?,
                status: client_error(fields)?.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            },
            "redirect" => Self::redirect(fields)?,
            "quote_key" => Self::QuoteKey {
                status: fields
                    .checked("status", |status: u16| match StatusCode::from_u16(status) {
                        Ok(status) if status.is_client_error() || status.is_server_error() => Ok(status),
                        _ => Err(format!("{status} does not refuse a call; 400 to 599 do")),
                    })?
                    .unwrap_or(StatusCode::UNAUTHORIZED),
                form: fields.take("form")?.unwrap_or_default(),
            },
            "visibility_lag" => Self::VisibilityLag {
                calls: fields.count("calls")?.unwrap_or(1),
                status: client_error(fields)?.unwrap_or(StatusCode::NOT_FOUND),
            },
            verb => return Ok(Transfer::read(verb, fields)?.map(Self::Transfer)),
        }))
    }

    fn redirect(fields: &mut Fields<'_>) -> Result<Self, FaultsError> {
        let to = fields.checked("location", |to: String| match to.as_str() {
            "same" => Ok(Target::Same),
            "loop" => Ok(Target::Loop),
            "file" => Ok(Target::File),
            text if text.contains(':') || text.starts_with('/') => Ok(Target::Text(to)),
            _ => Err(format!("{to:?} leads nowhere; it is \"same\", \"loop\", \"file\", a path or a URL")),
        })?;
        let status = fields.checked("status", |status: u16| match status {
            301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(status).map_err(|error| error.to_string()),
            _ => Err(format!("{status} does not redirect; 301, 302, 303, 307 and 308 do")),
        })?;
        Ok(Self::Redirect {
            to: to.ok_or_else(|| fields.missing("location"))?,
            status: status.unwrap_or(StatusCode::FOUND),
        })
    }

    /// The calls that it acts on when the script names none, and the only ones that it can act on, if not all.
    pub(super) fn calls(&self) -> (&'static [CallName], Option<&'static [CallName]>) {
        use CallName::{Content, Create, File, Preprocess};
        match self {
            Self::AcceptThenDrop { .. } | Self::AcceptThenStatus { .. } | Self::AcceptSlow { .. } => (&[Create], None),
            Self::LateCommit { .. } | Self::TurnAway { .. } => (&[Create], Some(&[Create])),
            Self::DropBefore { .. } | Self::Status { .. } | Self::Redirect { .. } | Self::QuoteKey { .. } => {
                (&[], None)
            }
            Self::VisibilityLag { .. } => (&[Create, File], Some(&[Create, File, Content, Preprocess])),
            Self::Transfer(_) => (&[Content], None),
        }
    }

    /// Answers a call, the rule having picked it.
    pub(super) async fn act(&self, call: InterceptedCall<'_>, mut request: Request, next: Next) -> Response {
        let (path, surface) = (request.uri().path().to_owned(), call.surface);
        match self {
            Self::AcceptThenDrop { how } => {
                let response = next.run(request).await;
                call.cut(*how);
                response
            }
            Self::AcceptThenStatus { answer } => {
                next.run(request).await;
                call.act();
                answer.response(&path, surface)
            }
            Self::AcceptSlow { delay } => {
                let response = next.run(request).await;
                call.act();
                tokio::time::sleep(*delay).await;
                response
            }
            Self::DropBefore { how } => {
                call.cut(*how);
                StatusCode::NO_CONTENT.into_response()
            }
            Self::Status { answer } => {
                call.act();
                answer.response(&path, surface)
            }
            Self::TurnAway { batches, .. } if batch_faults::at_work(call.store, u64::MAX) < *batches => {
                next.run(request).await
            }
            Self::TurnAway { batches, status } => {
                call.act();
                ApiError::object(*status, batch_faults::queue_is_full(*batches))
                    .shaped(surface.error_shape(&path))
                    .into_response()
            }
            Self::LateCommit { delay, answer } => match whole_body(request).await {
                Ok((request, _)) => {
                    call.act();
                    commit_later(call.background, request, next, *delay);
                    answer.response(&path, surface)
                }
                Err(refused) => refused.into_response(),
            },
            Self::QuoteKey { status, form } => {
                call.act();
                let (kind, words) = form.words(auth::token_in(request.headers(), surface));
                (*status, [(header::CONTENT_TYPE, kind)], words).into_response()
            }
            Self::Redirect { to, status } => redirect(to, *status, call, request, next).await,
            Self::VisibilityLag { calls, status } => {
                let file = match named_file(&mut request, call.call.endpoint).await {
                    Ok(file) => file,
                    Err(refused) => return refused.into_response(),
                };
                match file.filter(|file| call.state.count_look(call.trigger, file) <= *calls) {
                    Some(file) => {
                        call.act();
                        ApiError::object(*status, format!("Cannot find file {file}"))
                            .shaped(surface.error_shape(&path))
                            .into_response()
                    }
                    None => next.run(request).await,
                }
            }
            Self::Transfer(transfer) => transfer_call(transfer, call, request, next).await,
        }
    }
}

/// A call on its way to the server, as faults see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'c> {
    pub(crate) endpoint: Endpoint,
    /// Where the server listens.
    pub(crate) server: SocketAddr,
    /// What it came through.
    pub(crate) connection: &'c ConnectionHandle,
    /// The faults that acted on it.
    pub(crate) names: &'c FaultNames,
}

/// A call that a fault acts on.
#[derive(Debug)]
pub(super) struct InterceptedCall<'c> {
    pub(super) call: Call<'c>,
    pub(super) trigger: &'c Trigger,
    /// The number of the call among those that the fault looks at.
    pub(super) number: u64,
    pub(super) store: &'c Store,
    pub(super) state: &'c FaultState,
    pub(super) surface: &'static dyn Surface,
    pub(super) background: &'c Background,
}

impl InterceptedCall<'_> {
    /// The fault acts.
    fn act(&self) {
        self.call.names.add(self.trigger);
    }

    fn cut(&self, how: Cut) {
        self.act();
        self.call.connection.cut(how);
    }
}

/// A `status` that says no.
fn client_error(fields: &mut Fields<'_>) -> Result<Option<StatusCode>, FaultsError> {
    fields.checked("status", |status: u16| match StatusCode::from_u16(status) {
        Ok(status) if status.is_client_error() => Ok(status),
        _ => Err(format!("{status} does not say no; 400 to 499 do")),
    })
}

/// Takes a call in whole, so that it can be passed on after its connection is gone.
async fn whole_body(request: Request) -> Result<(Request, body::Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::to_bytes(body, FORM_BYTES)
        .await
        .map_err(|error| ApiError::text(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
    Ok((Request::from_parts(parts, Body::from(bytes.clone())), bytes))
}

/// Does what a call asks for, later. A server that is stopped before never does it.
fn commit_later(background: &Background, request: Request, next: Next, delay: Duration) {
    let waiting = background.clone();
    background.spawn(async move {
        if waiting.unless_stopping(tokio::time::sleep(delay)).await.is_ok() {
            next.run(request).await;
        }
    });
}

/// The id of the file that a call is about.
async fn named_file(request: &mut Request, endpoint: Endpoint) -> Result<Option<String>, ApiError> {
    #[derive(Deserialize)]
    struct New {
        input_file_id: String,
    }
    if endpoint != Endpoint::CreateBatch {
        return Ok(id_in(request.uri().path()).map(str::to_owned));
    }
    let (whole, bytes) = whole_body(std::mem::take(request)).await?;
    *request = whole;
    Ok(serde_json::from_slice::<New>(&bytes).ok().map(|new| new.input_file_id))
}

/// Sends a call elsewhere. The announcement of an upload is a redirect already: it stays as it is but for where it
/// leads to.
async fn redirect(
    to: &Target,
    status: StatusCode,
    call: InterceptedCall<'_>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut response = status.into_response();
    let mut origin = format!("http://{}/v1{path}", call.call.server);
    if call.call.endpoint == Endpoint::CreateFile {
        response = next.run(request).await;
        match response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok()) {
            Some(location) if response.status().is_redirection() => origin = location.to_owned(),
            _ => return response,
        }
    }
    let location = match to {
        Target::Same => origin,
        Target::Loop => {
            let separator = if origin.contains('?') { '&' } else { '?' };
            format!("{origin}{separator}hop={}", call.number)
        }
        Target::File => "file:///etc/passwd".to_owned(),
        Target::Text(text) => text.replace("{path}", &path),
    };
    match HeaderValue::try_from(location) {
        Ok(location) => {
            call.act();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Err(error) => ApiError::object(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn transfer_call(fault: &Transfer, call: InterceptedCall<'_>, mut request: Request, next: Next) -> Response {
    let is_upload = matches!(call.call.endpoint, Endpoint::PutContent | Endpoint::UploadFile);
    if is_upload && fault.acts_on_uploads() {
        let response = next.run(fault.upload(request, call.call.connection)).await;
        if call.call.connection.is_cut() || !fault.cuts() {
            call.act();
        }
        return response;
    }
    let asked = request.headers().get(header::RANGE).cloned();
    if !fault.prepare(request.headers_mut()) {
        return next.run(request).await;
    }
    let (response, fires) = fault.answer(next.run(request).await, asked.as_ref(), call.call.connection);
    if fires {
        call.act();
    }
    response
}

/// The names of all faults that act on calls, for messages.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().chain(transfer_faults::NAMES).copied()
}
