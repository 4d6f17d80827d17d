//! The files endpoints, but for bytes going in (`upload`) and out (`content`).
//!
//! In: requests about files. Out: files as Together's service shows them.
//! What always holds: a file has every member that some version of the official SDK insists on.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::Shared;
use super::auth::Account;
use super::reply::Refused;
use super::store::StoredFile;

/// A file as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct FileResponse {
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

impl From<&StoredFile> for FileResponse {
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
pub(super) async fn list(State(shared): State<Arc<Shared>>, Account(account): Account) -> Json<Value> {
    let mut files = shared.store.files_of(&account);
    files.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
    let data: Vec<FileResponse> = files.iter().map(|file| file.as_ref().into()).collect();
    Json(json!({"data": data}))
}

/// `GET /files/{id}`
pub(super) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<FileResponse>, Refused> {
    let file = shared.store.file_of(&account, &id).ok_or_else(|| Refused::no_file(&id))?;
    Ok(Json(file.as_ref().into()))
}

/// `POST /files/{id}/preprocess`
pub(super) async fn preprocess(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<FileResponse>, Refused> {
    let file = shared.store.file_of(&account, &id).ok_or_else(|| Refused::no_file(&id))?;
    if file.content.is_none() {
        return Err(Refused::object(StatusCode::BAD_REQUEST, format!("File {id} has not been uploaded")));
    }
    Ok(Json(file.as_ref().into()))
}

/// `DELETE /files/{id}`. Batches that work on it go on; what the service does then is not known.
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    shared.store.file_of(&account, &id).ok_or_else(|| Refused::no_file(&id))?;
    shared.store.delete(&id)?;
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})))
}
