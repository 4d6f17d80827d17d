//! Batches as OpenAI's service shows them.
//!
//! Invariants: fields without a value are `null`; times are Unix seconds; counts are those of the files, once they are
//! there.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::page::{Page, PageQuery, page};
use super::window;
use crate::serve::api::auth::Account;
use crate::serve::api::batches::{ShownBatch, newest_first, shown};
use crate::serve::api::error::{ApiError, ErrorShape};
use crate::serve::batch::lifecycle::Lifecycle;
use crate::serve::store::Store;
use crate::serve::store::batch::{Batch, Details, Status};

/// Entries of a page of batches: unless the client says otherwise, and at most.
const PAGE_BATCHES: (usize, usize) = (20, 100);

/// The endpoints that batches can be created for. All are answered with the same echo.
const ENDPOINTS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations"];

/// Most members of `metadata`.
const METADATA_MEMBERS: usize = 16;

/// Longest name of one, in characters.
const METADATA_NAME_CHARACTERS: usize = 64;

/// Longest value of one, in characters.
const METADATA_VALUE_CHARACTERS: usize = 512;

/// The body of a create call. Unknown members are accepted and change nothing.
#[derive(Debug, Deserialize)]
struct NewBatch {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

/// A batch as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct BatchObject {
    id: String,
    object: &'static str,
    endpoint: String,
    model: Option<String>,
    errors: Option<Value>,
    input_file_id: String,
    completion_window: String,
    status: &'static str,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    in_progress_at: Option<i64>,
    expires_at: Option<i64>,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
    request_counts: Counts,
    metadata: Option<Map<String, Value>>,
}

/// How many requests a batch has, and what became of them.
#[derive(Debug, Serialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

impl ShownBatch for BatchObject {
    const ERROR_SHAPE: ErrorShape = ErrorShape::Object;

    fn of(batch: &Batch, share: f64) -> Self {
        let details = &batch.details;
        let ended_as = |status: Status| batch.completed_at.filter(|_| batch.status == status).map(seconds);
        Self {
            id: batch.id.clone(),
            object: "batch",
            endpoint: batch.endpoint.clone(),
            model: batch.model_id.clone(),
            errors: batch.error.as_ref().map(|message| errors(batch, message)),
            input_file_id: batch.input_file_id.clone(),
            completion_window: details.completion_window.clone(),
            status: batch.status.openai_name(),
            output_file_id: batch.output_file_id.clone(),
            error_file_id: batch.error_file_id.clone(),
            created_at: seconds(batch.created_at),
            in_progress_at: details.in_progress_at.map(seconds),
            expires_at: details.expires_at.map(seconds),
            finalizing_at: details.finalizing_at.map(seconds),
            completed_at: ended_as(Status::Completed),
            failed_at: ended_as(Status::Failed),
            expired_at: ended_as(Status::Expired),
            cancelling_at: details.cancelling_at.map(seconds),
            cancelled_at: ended_as(Status::Cancelled),
            request_counts: counts(batch, share),
            metadata: details.metadata.clone(),
        }
    }

    fn unknown(id: &str) -> String {
        format!("No batch found with id '{id}'.")
    }

    fn ended(status: Status) -> String {
        format!("Cannot cancel a batch with status '{}'.", status.openai_name())
    }
}

/// Why a batch failed, in the shape of a list of lines that are at fault.
fn errors(batch: &Batch, message: &str) -> Value {
    let fault = batch.details.fault.as_ref();
    let error = json!({
        "code": fault.map_or("invalid_request", |fault| &fault.code),
        "message": message,
        "param": fault.and_then(|fault| fault.param.as_deref()),
        "line": fault.map(|fault| fault.line),
    });
    json!({"object": "list", "data": [error]})
}

/// While a batch is at work, what its progress lets expect.
fn counts(batch: &Batch, share: f64) -> Counts {
    let Details { requests, outputs, failures, .. } = batch.details;
    if batch.status.is_terminal() || batch.status == Status::Finalizing {
        return Counts { total: requests, completed: outputs, failed: failures };
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no batch has 2^52 requests, and a share is within 0 and 1"
    )]
    let completed = (requests as f64 * share) as u64;
    Counts { total: requests, completed, failed: 0 }
}

/// `POST /batches`
pub(super) async fn create(
    State(store): State<Arc<Store>>,
    State(lifecycle): State<Arc<Lifecycle>>,
    Account(account): Account,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BatchObject>, ApiError> {
    let body = body.map_err(|error| ApiError::object(error.status(), error.body_text()))?;
    let NewBatch { input_file_id, endpoint, completion_window, metadata } = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("Invalid request body: {error}")))?;
    if !ENDPOINTS.contains(&endpoint.as_str()) {
        let supported = ENDPOINTS.join(", ");
        return Err(ApiError::bad_request(format!("Invalid value: {endpoint:?}. Supported values are: {supported}.")));
    }
    let Some(window) = window::read(&completion_window) else {
        return Err(ApiError::bad_request(format!(
            "Invalid value: {completion_window:?}. A completion window is a number and s, m, h or d, as 24h."
        )));
    };
    if let Some(what) = metadata.as_ref().and_then(unfit_metadata) {
        return Err(ApiError::bad_request(format!("Invalid 'metadata': {what}")));
    }
    let content = store.file_of(&account, &input_file_id).and_then(|file| file.content.clone());
    let content = content.ok_or_else(|| ApiError::bad_request(format!("No such File object: {input_file_id}")))?;
    let (id, number) = (format!("batch_{}", Uuid::new_v4().simple()), store.next_number());
    let mut batch = Batch::new(id, number, account, (input_file_id, content.bytes), endpoint);
    let window = i64::try_from(window.as_micros()).ok();
    batch.details = Details {
        completion_window,
        expires_at: window.map(|window| batch.created_at.saturating_add(window)),
        metadata,
        ..Details::default()
    };
    let room = store.take(content.bytes)?;
    let batch = lifecycle.create(batch, room)?;
    Ok(Json(shown(&lifecycle, &batch)))
}

/// What is wrong with metadata, if anything is.
fn unfit_metadata(metadata: &Map<String, Value>) -> Option<String> {
    if metadata.len() > METADATA_MEMBERS {
        return Some(format!("it has {} members, at most {METADATA_MEMBERS} are allowed", metadata.len()));
    }
    metadata.iter().find_map(|(name, value)| match value.as_str() {
        _ if name.chars().count() > METADATA_NAME_CHARACTERS => {
            Some(format!("a name has more than {METADATA_NAME_CHARACTERS} characters"))
        }
        None => Some(format!("the value of {name:?} is not a string")),
        Some(text) if text.chars().count() > METADATA_VALUE_CHARACTERS => {
            Some(format!("the value of {name:?} has more than {METADATA_VALUE_CHARACTERS} characters"))
        }
        Some(_) => None,
    })
}

/// `GET /batches`: the account's batches, the newest first.
pub(super) async fn list(
    State(store): State<Arc<Store>>,
    State(lifecycle): State<Arc<Lifecycle>>,
    Account(account): Account,
    Query(asked): Query<PageQuery>,
) -> Result<Json<Page<BatchObject>>, ApiError> {
    let batches = newest_first(&store, &account);
    page(&batches, asked, PAGE_BATCHES, |batch| &batch.id, |batch| shown(&lifecycle, batch)).map(Json)
}

fn seconds(micros: i64) -> i64 {
    micros.div_euclid(1_000_000)
}
