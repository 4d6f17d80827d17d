//! The calls about one file, which differ in how the dialects show a file.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::auth::Account;
use super::error::ApiError;
use crate::serve::store::Store;
use crate::serve::store::file::StoredFile;

/// `GET /files/{id}`, which shows the file as an `F`.
pub(crate) async fn retrieve<F: for<'f> From<&'f StoredFile>>(
    State(store): State<Arc<Store>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<F>, ApiError> {
    let file = store.file_of(&account, &id).ok_or_else(|| ApiError::no_file(&id))?;
    Ok(Json(file.as_ref().into()))
}

/// `DELETE /files/{id}`. Batches that work on it are not disturbed; what the services do then is not known.
pub(crate) async fn delete(
    State(store): State<Arc<Store>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    store.file_of(&account, &id).ok_or_else(|| ApiError::no_file(&id))?;
    store.delete(&id)?;
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})))
}

/// The files of an account, the newest first; also those announced that have not come yet.
pub(crate) fn newest_first(store: &Store, account: &str) -> Vec<Arc<StoredFile>> {
    let mut files = store.files_of(account);
    files.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
    files
}
