//! The batches endpoints.
//!
//! In: requests about batches. Out: batches as OpenAI's service shows them; a created one begins its life.
//! What always holds: fields without a value are `null`; times are Unix seconds; counts are those of the files, once they are there.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::page::{Asked, Page, page};
use super::window;
use crate::serve::auth::Account;
use crate::serve::reply::Refused;
use crate::serve::store::{Batch, Details, Status};
use crate::serve::upstream::Again;
use crate::serve::{Shared, life};

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
pub(in crate::serve) struct BatchResponse {
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

impl BatchResponse {
    fn of(shared: &Shared, batch: &Batch) -> Self {
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
            request_counts: counts(shared, batch),
            metadata: details.metadata.clone(),
        }
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
fn counts(shared: &Shared, batch: &Batch) -> Counts {
    let Details { requests, outputs, failures, .. } = batch.details;
    if batch.status.is_terminal() || batch.status == Status::Finalizing {
        return Counts { total: requests, completed: outputs, failed: failures };
    }
    let share = shared.running().get(&batch.id).map_or(0.0, |progress| progress.share());
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
pub(in crate::serve) async fn create(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BatchResponse>, Refused> {
    let bad = |message: String| Refused::object(StatusCode::BAD_REQUEST, message);
    let body = body.map_err(|error| Refused::object(error.status(), error.body_text()))?;
    let new: NewBatch = serde_json::from_slice(&body).map_err(|error| bad(format!("Invalid request body: {error}")))?;
    if !ENDPOINTS.contains(&new.endpoint.as_str()) {
        return Err(bad(format!("Invalid value: {:?}. Supported values are: {}.", new.endpoint, ENDPOINTS.join(", "))));
    }
    let Some(window) = window::read(&new.completion_window) else {
        let given = &new.completion_window;
        return Err(bad(format!(
            "Invalid value: {given:?}. A completion window is a number and s, m, h or d, as 24h."
        )));
    };
    if let Some(what) = new.metadata.as_ref().and_then(unfit_metadata) {
        return Err(bad(format!("Invalid 'metadata': {what}")));
    }
    let file = shared.store.file_of(&account, &new.input_file_id).and_then(|file| file.content.clone());
    let content = file.ok_or_else(|| bad(format!("No such File object: {}", new.input_file_id)))?;
    let created_at = Timestamp::now().as_microsecond();
    let batch = Batch {
        id: format!("batch_{}", Uuid::new_v4().simple()),
        number: shared.store.next_number(),
        account,
        input_file_id: new.input_file_id,
        file_size_bytes: content.bytes,
        endpoint: new.endpoint,
        created_at,
        completed_at: None,
        status: Status::Validating,
        cancelled_at: None,
        model_id: None,
        output_file_id: None,
        error_file_id: None,
        error: None,
        again: Again::default(),
        details: Details {
            completion_window: new.completion_window,
            expires_at: i64::try_from(window.as_micros()).ok().map(|window| created_at.saturating_add(window)),
            metadata: new.metadata,
            ..Details::default()
        },
    };
    let room = shared.store.take(batch.file_size_bytes)?;
    let batch = life::create(&shared, batch, room)?;
    Ok(Json(BatchResponse::of(&shared, &batch)))
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

/// `GET /batches/{id}`
pub(in crate::serve) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<BatchResponse>, Refused> {
    let batch = shared.store.batch_of(&account, &id).ok_or_else(|| no_batch(&id))?;
    Ok(Json(BatchResponse::of(&shared, &batch)))
}

/// `GET /batches`: the account's batches, the newest first.
pub(in crate::serve) async fn list(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<BatchResponse>>, Refused> {
    let mut batches = shared.store.batches.select(|batch| batch.account == account);
    batches.sort_by_key(|batch| std::cmp::Reverse((batch.created_at, batch.number)));
    page(&batches, asked, PAGE_BATCHES, |batch| &batch.id, |batch| BatchResponse::of(&shared, batch)).map(Json)
}

/// `POST /batches/{id}/cancel`. One whose rows are all there already goes on to its end.
pub(in crate::serve) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<BatchResponse>, Refused> {
    shared.store.batch_of(&account, &id).ok_or_else(|| no_batch(&id))?;
    let (batch, was) = life::cancel(&shared, &id)?.ok_or_else(|| no_batch(&id))?;
    if was.is_terminal() {
        let message = format!("Cannot cancel a batch with status '{}'.", was.openai_name());
        return Err(Refused::object(StatusCode::CONFLICT, message));
    }
    Ok(Json(BatchResponse::of(&shared, &batch)))
}

fn no_batch(id: &str) -> Refused {
    Refused::object(StatusCode::NOT_FOUND, format!("No batch found with id '{id}'."))
}

fn seconds(micros: i64) -> i64 {
    micros.div_euclid(1_000_000)
}
