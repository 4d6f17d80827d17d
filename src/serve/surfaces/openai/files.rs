//! Files as OpenAI's service shows them, sent in one call and listed in pages.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use serde::{Deserialize, Serialize};

use super::page::{Page, PageQuery, page};
use crate::serve::api::auth::Account;
use crate::serve::api::error::ApiError;
use crate::serve::api::files::newest_first;
use crate::serve::api::upload::{Uploads, base_name};
use crate::serve::store::Store;
use crate::serve::store::file::StoredFile;

/// Entries of a page of files: unless the client says otherwise, and at most.
const PAGE_FILES: (usize, usize) = (10_000, 10_000);

/// What clients see as the purpose of result files.
const RESULT_PURPOSE: &str = "batch_output";

/// What a file may be for.
const PURPOSES: [&str; 6] = ["batch", "assistants", "fine-tune", "vision", "user_data", "evals"];

/// A file as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct FileObject {
    id: String,
    object: &'static str,
    bytes: u64,
    /// Unix seconds.
    created_at: i64,
    expires_at: Option<i64>,
    filename: String,
    purpose: String,
    status: &'static str,
    status_details: Option<String>,
}

impl From<&StoredFile> for FileObject {
    fn from(file: &StoredFile) -> Self {
        Self {
            id: file.id.clone(),
            object: "file",
            bytes: file.content.as_ref().map_or(0, |content| content.bytes),
            created_at: file.created_at,
            expires_at: None,
            filename: file.filename.clone(),
            purpose: if file.generated { RESULT_PURPOSE.to_owned() } else { file.purpose.clone() },
            status: "processed",
            status_details: None,
        }
    }
}

/// `POST /files`: the purpose and the content, in any order.
pub(super) async fn upload(
    State(uploads): State<Uploads>,
    Account(account): Account,
    request: Request,
) -> Result<Json<FileObject>, ApiError> {
    let mut file = StoredFile::new(&account, String::new(), String::new(), "jsonl".to_owned());
    let mut purpose = String::new();
    let received = uploads.receive_form(&file.id, request, |name, value| {
        if name == "purpose" {
            purpose = value;
        }
    });
    let received = received.await?;
    let (path, received) = received.ok_or_else(|| ApiError::bad_request("'file' is a required property"))?;
    (file.filename, file.purpose) = (base_name(&path), purpose);
    if !PURPOSES.contains(&file.purpose.as_str()) {
        let message = format!("'purpose' is one of {}, not {:?}", PURPOSES.join(", "), file.purpose);
        return Err(ApiError::bad_request(message));
    }
    let is_jsonl = file.filename.rsplit_once('.').is_some_and(|(_, extension)| extension == "jsonl");
    if file.purpose == "batch" && !is_jsonl {
        let message = format!("Invalid file format for batch: {:?} does not end in .jsonl", file.filename);
        return Err(ApiError::bad_request(message));
    }
    Ok(Json(uploads.keep(file, received)?.as_ref().into()))
}

/// Which files are asked for.
#[derive(Debug, Deserialize)]
pub(super) struct FileQuery {
    purpose: Option<String>,
    order: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /files`: the account's files, the newest first unless `order` is `asc`.
pub(super) async fn list(
    State(store): State<Arc<Store>>,
    Account(account): Account,
    Query(FileQuery { purpose, order, after, limit }): Query<FileQuery>,
) -> Result<Json<Page<FileObject>>, ApiError> {
    let mut files = newest_first(&store, &account);
    files.retain(|file| file.content.is_some());
    files.retain(|file| purpose.as_ref().is_none_or(|wanted| FileObject::from(file.as_ref()).purpose == *wanted));
    if order.as_deref() == Some("asc") {
        files.reverse();
    }
    page(&files, PageQuery { after, limit }, PAGE_FILES, |file| &file.id, |file| file.as_ref().into()).map(Json)
}
