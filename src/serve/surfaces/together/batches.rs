//! Batches as Together's service shows them.
//!
//! Invariants: fields without a value are absent; creating validates nothing but the shape of the request, as the
//! service does, and whatever is wrong with the file ends the batch FAILED later.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::serve::api::auth::{Account, ORGANIZATION_ID, PROJECT_ID};
use crate::serve::api::batches::{ShownBatch, newest_first, shown};
use crate::serve::api::error::{ApiError, ErrorShape};
use crate::serve::batch::lifecycle::Lifecycle;
use crate::serve::clock::rfc3339;
use crate::serve::store::Store;
use crate::serve::store::batch::{Batch, Status};

/// The completion window of every batch, in microseconds: 24 hours.
const WINDOW_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// The body of a create call. Unknown members, `completion_window`, `priority` and `model_id` are accepted and, like
/// on the service, change nothing.
#[derive(Debug, Deserialize)]
struct NewBatch {
    input_file_id: String,
    endpoint: String,
}

/// A batch as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct BatchJob {
    id: String,
    user_id: String,
    project_id: &'static str,
    organization_id: &'static str,
    input_file_id: String,
    file_size_bytes: u64,
    status: &'static str,
    job_deadline: String,
    created_at: String,
    endpoint: String,
    /// Percent of the rows.
    progress: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_file_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_file_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
}

impl ShownBatch for BatchJob {
    const ERROR_SHAPE: ErrorShape = ErrorShape::Text;

    fn of(batch: &Batch, share: f64) -> Self {
        let share = match (batch.status, batch.cancelled_at) {
            (Status::Completed, _) => 1.0,
            (Status::InProgress, _) => share,
            (_, cancelled_at) => cancelled_at.unwrap_or(0.0),
        };
        Self {
            id: batch.id.clone(),
            user_id: batch.account.clone(),
            project_id: PROJECT_ID,
            organization_id: ORGANIZATION_ID,
            input_file_id: batch.input_file_id.clone(),
            file_size_bytes: batch.file_size_bytes,
            status: batch.status.name(),
            job_deadline: rfc3339(batch.created_at.saturating_add(WINDOW_MICROS)),
            created_at: rfc3339(batch.created_at),
            endpoint: batch.endpoint.clone(),
            progress: (share * 10_000.0).round() / 100.0,
            model_id: batch.model_id.clone(),
            output_file_id: batch.output_file_id.clone(),
            error_file_id: batch.error_file_id.clone(),
            error: batch.error.clone(),
            completed_at: batch.completed_at.map(rfc3339),
        }
    }

    fn unknown(_id: &str) -> String {
        "Job not found".to_owned()
    }

    fn ended(status: Status) -> String {
        format!("Cannot cancel job - already in terminal state: {}", status.name())
    }
}

/// `POST /batches`
pub(super) async fn create(
    State(store): State<Arc<Store>>,
    State(lifecycle): State<Arc<Lifecycle>>,
    Account(account): Account,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let refuse = |status, message| ApiError::object(status, message).shaped(BatchJob::ERROR_SHAPE);
    let body = body.map_err(|error| refuse(error.status(), error.body_text()))?;
    let NewBatch { input_file_id, endpoint } = serde_json::from_slice(&body)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, format!("Invalid request body: {error}")))?;
    let content = store.file_of(&account, &input_file_id).and_then(|file| file.content.clone());
    let bytes = content.map_or(0, |content| content.bytes);
    let (id, number) = (Uuid::new_v4().to_string(), store.next_number());
    let batch = Batch::new(id, number, account, (input_file_id, bytes), endpoint);
    let room = store.take(bytes).map_err(|error| ApiError::from(error).shaped(BatchJob::ERROR_SHAPE))?;
    let batch = lifecycle.create(batch, room)?;
    Ok((StatusCode::CREATED, Json(json!({"job": shown::<BatchJob>(&lifecycle, &batch)}))))
}

/// `GET /batches`: all of the account's batches, the newest first; `null` when there are none.
pub(super) async fn list(
    State(store): State<Arc<Store>>,
    State(lifecycle): State<Arc<Lifecycle>>,
    Account(account): Account,
) -> Json<Option<Vec<BatchJob>>> {
    let batches = newest_first(&store, &account);
    let jobs: Vec<_> = batches.iter().map(|batch| shown(&lifecycle, batch)).collect();
    Json((!jobs.is_empty()).then_some(jobs))
}
