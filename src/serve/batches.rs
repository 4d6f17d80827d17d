//! The batches endpoints.
//!
//! In: requests about batches. Out: batches as Together's service shows them; a created one begins its life.
//! What always holds: fields without a value are absent; creating validates nothing but the shape of the request, as
//! the service does, and whatever is wrong with the file ends the batch FAILED later.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Account;
use super::quota::Full;
use super::reply::Refused;
use super::store::{Batch, Details, Status};
use super::upstream::Again;
use super::{ORGANIZATION_ID, PROJECT_ID, Shared, life};

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

impl BatchJob {
    fn of(shared: &Shared, batch: &Batch) -> Self {
        let share = match (batch.status, batch.cancelled_at) {
            (Status::Completed, _) => 1.0,
            (Status::InProgress, _) => shared.running().get(&batch.id).map_or(0.0, |progress| progress.share()),
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
}

/// `POST /batches`
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let body = body.map_err(|error| Refused::text(error.status(), error.body_text()))?;
    let new: NewBatch = serde_json::from_slice(&body)
        .map_err(|error| Refused::text(StatusCode::BAD_REQUEST, format!("Invalid request body: {error}")))?;
    let content = shared.store.file_of(&account, &new.input_file_id).and_then(|file| file.content.clone());
    let batch = Batch {
        id: Uuid::new_v4().to_string(),
        number: shared.store.next_number(),
        account,
        input_file_id: new.input_file_id,
        file_size_bytes: content.map_or(0, |content| content.bytes),
        endpoint: new.endpoint,
        created_at: Timestamp::now().as_microsecond(),
        completed_at: None,
        status: Status::Validating,
        cancelled_at: None,
        model_id: None,
        output_file_id: None,
        error_file_id: None,
        error: None,
        again: Again::default(),
        details: Details::default(),
    };
    let full = |full: Full| Refused::text(StatusCode::PAYLOAD_TOO_LARGE, full.to_string());
    let room = shared.store.take(batch.file_size_bytes).map_err(full)?;
    let batch = life::create(&shared, batch, room)?;
    Ok((StatusCode::CREATED, Json(json!({"job": BatchJob::of(&shared, &batch)}))))
}

/// `GET /batches/{id}`
pub(super) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<BatchJob>, Refused> {
    let batch = shared.store.batch_of(&account, &id).ok_or_else(no_batch)?;
    Ok(Json(BatchJob::of(&shared, &batch)))
}

/// `GET /batches`: all of the account's batches, the newest first; `null` when there are none.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Account(account): Account) -> Json<Option<Vec<BatchJob>>> {
    let mut batches = shared.store.batches.select(|batch| batch.account == account);
    batches.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
    let jobs: Vec<_> = batches.iter().map(|batch| BatchJob::of(&shared, batch)).collect();
    Json((!jobs.is_empty()).then_some(jobs))
}

/// `POST /batches/{id}/cancel`
pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<BatchJob>, Refused> {
    shared.store.batch_of(&account, &id).ok_or_else(no_batch)?;
    let (batch, was) = life::cancel(&shared, &id)?.ok_or_else(no_batch)?;
    if was.is_terminal() {
        let message = format!("Cannot cancel job - already in terminal state: {}", was.name());
        return Err(Refused::text(StatusCode::CONFLICT, message));
    }
    Ok(Json(BatchJob::of(&shared, &batch)))
}

fn no_batch() -> Refused {
    Refused::text(StatusCode::NOT_FOUND, "Job not found")
}

/// A time, given in Unix microseconds, as the service writes it: RFC 3339 with microseconds and `Z`.
pub(super) fn rfc3339(micros: i64) -> String {
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_and_a_z() {
        assert_eq!(rfc3339(1_763_802_899_428_336), "2025-11-22T09:14:59.428336Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
    }
}
