//! The calls about one batch, which differ in how the dialects show a batch and refuse a call about it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;

use super::auth::Account;
use super::error::{ApiError, ErrorShape};
use crate::serve::batch::lifecycle::Lifecycle;
use crate::serve::store::Store;
use crate::serve::store::batch::{Batch, Status};

/// A batch as a dialect shows it.
pub(crate) trait ShownBatch: Serialize {
    /// How calls about batches are refused.
    const ERROR_SHAPE: ErrorShape;

    /// The batch, of whose rows the given share, 0 to 1, is done.
    fn of(batch: &Batch, share: f64) -> Self;

    /// That there is no batch of that id.
    fn unknown(id: &str) -> String;

    /// That a batch cannot be cancelled because it has ended.
    fn ended(status: Status) -> String;
}

/// `GET /batches/{id}`
pub(crate) async fn retrieve<B: ShownBatch>(
    State(store): State<Arc<Store>>,
    State(lifecycle): State<Arc<Lifecycle>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<B>, ApiError> {
    let batch = store.batch_of(&account, &id).ok_or_else(|| unknown::<B>(&id))?;
    Ok(Json(shown(&lifecycle, &batch)))
}

/// `POST /batches/{id}/cancel`. One whose rows are all there already reaches its regular end.
pub(crate) async fn cancel<B: ShownBatch>(
    State(store): State<Arc<Store>>,
    State(lifecycle): State<Arc<Lifecycle>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<B>, ApiError> {
    store.batch_of(&account, &id).ok_or_else(|| unknown::<B>(&id))?;
    let (batch, was) = lifecycle.cancel(&id)?.ok_or_else(|| unknown::<B>(&id))?;
    if was.is_terminal() {
        return Err(ApiError::object(StatusCode::CONFLICT, B::ended(was)).shaped(B::ERROR_SHAPE));
    }
    Ok(Json(shown(&lifecycle, &batch)))
}

/// A batch as it is now.
pub(crate) fn shown<B: ShownBatch>(lifecycle: &Lifecycle, batch: &Batch) -> B {
    B::of(batch, lifecycle.share(&batch.id))
}

/// The batches of an account, the newest first.
pub(crate) fn newest_first(store: &Store, account: &str) -> Vec<Arc<Batch>> {
    let mut batches = store.batches.select(|batch| batch.account == account);
    batches.sort_by_key(|batch| std::cmp::Reverse((batch.created_at, batch.number)));
    batches
}

fn unknown<B: ShownBatch>(id: &str) -> ApiError {
    ApiError::object(StatusCode::NOT_FOUND, B::unknown(id)).shaped(B::ERROR_SHAPE)
}
