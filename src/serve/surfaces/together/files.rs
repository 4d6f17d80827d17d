//! Files as Together's service shows them.
//!
//! Invariant: a file has every member that some version of the official SDK insists on.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};

use crate::serve::api::auth::Account;
use crate::serve::api::error::ApiError;
use crate::serve::api::files::newest_first;
use crate::serve::store::Store;
use crate::serve::store::file::StoredFile;

/// A file as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct FileObject {
    id: String,
    object: &'static str,
    /// Unix seconds, unlike the times of batches.
    created_at: i64,
    filename: String,
    bytes: u64,
    purpose: String,
    #[serde(rename = "FileType")]
    file_type: String,
    #[serde(rename = "Processed")]
    processed: bool,
    #[serde(rename = "LineCount")]
    line_count: u64,
    processing_status: &'static str,
}

impl From<&StoredFile> for FileObject {
    fn from(file: &StoredFile) -> Self {
        let (bytes, line_count) = file.content.as_ref().map_or((0, 0), |content| (content.bytes, content.lines));
        let processed = file.content.is_some();
        Self {
            id: file.id.clone(),
            object: "file",
            created_at: file.created_at,
            filename: file.filename.clone(),
            bytes,
            purpose: file.purpose.clone(),
            file_type: file.file_type.clone(),
            processed,
            line_count,
            processing_status: if processed { "COMPLETED" } else { "PENDING" },
        }
    }
}

/// `GET /files`: all of the account's files, also those announced but not there yet, the newest first.
pub(super) async fn list(State(store): State<Arc<Store>>, Account(account): Account) -> Json<Value> {
    let data: Vec<FileObject> = newest_first(&store, &account).iter().map(|file| file.as_ref().into()).collect();
    Json(json!({"data": data}))
}

/// `POST /files/{id}/preprocess`
pub(super) async fn preprocess(
    State(store): State<Arc<Store>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, ApiError> {
    let file = store.file_of(&account, &id).ok_or_else(|| ApiError::no_file(&id))?;
    if file.content.is_none() {
        return Err(ApiError::bad_request(format!("File {id} has not been uploaded")));
    }
    Ok(Json(file.as_ref().into()))
}
