//! The files endpoints that differ: a file comes with its content in one call, and lists have pages.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use serde::{Deserialize, Serialize};

use super::page::{Asked, Page, page};
use crate::serve::Shared;
use crate::serve::auth::Account;
use crate::serve::reply::Refused;
use crate::serve::store::StoredFile;
use crate::serve::upload::{self, bad_form, bad_request};

/// Entries of a page of files: unless the client says otherwise, and at most.
const PAGE_FILES: (usize, usize) = (10_000, 10_000);

/// What clients see as the purpose of result files.
const RESULT_PURPOSE: &str = "batch_output";

/// What a file may be for.
const PURPOSES: [&str; 6] = ["batch", "assistants", "fine-tune", "vision", "user_data", "evals"];

/// A file as clients see it.
#[derive(Debug, Serialize)]
pub(in crate::serve) struct FileResponse {
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

impl From<&StoredFile> for FileResponse {
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
pub(in crate::serve) async fn upload(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    request: Request,
) -> Result<Json<FileResponse>, Refused> {
    let mut file = StoredFile::new(&account, String::new(), String::new(), "jsonl".to_owned());
    let mut received = None;
    let mut form = upload::multipart(request).await?;
    while let Some(field) = form.next_field().await.map_err(|error| bad_form(&error))? {
        match field.name().unwrap_or_default() {
            "file" => {
                let path = field.file_name().unwrap_or_default();
                file.filename = path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
                received = Some(upload::receive_field(&shared, &file.id, field).await?);
            }
            "purpose" => file.purpose = upload::short_text(field).await?,
            _ => drop(upload::short_text(field).await?),
        }
    }
    let received = received.ok_or_else(|| bad_request("'file' is a required property"))?;
    if !PURPOSES.contains(&file.purpose.as_str()) {
        return Err(bad_request(format!("'purpose' is one of {}, not {:?}", PURPOSES.join(", "), file.purpose)));
    }
    let is_jsonl = file.filename.rsplit_once('.').is_some_and(|(_, extension)| extension == "jsonl");
    if file.purpose == "batch" && !is_jsonl {
        return Err(bad_request(format!("Invalid file format for batch: {:?} does not end in .jsonl", file.filename)));
    }
    let file = upload::keep_field(&shared, &file, received)?;
    Ok(Json(file.as_ref().into()))
}

/// What a list of files is asked for.
#[derive(Debug, Deserialize)]
pub(in crate::serve) struct Wanted {
    purpose: Option<String>,
    order: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /files`: the account's files, the newest first unless `order` is `asc`.
pub(in crate::serve) async fn list(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Query(Wanted { purpose, order, after, limit }): Query<Wanted>,
) -> Result<Json<Page<FileResponse>>, Refused> {
    let mut files = shared.store.files_of(&account);
    files.retain(|file| file.content.is_some());
    files.retain(|file| purpose.as_ref().is_none_or(|wanted| FileResponse::from(file.as_ref()).purpose == *wanted));
    files.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
    if order.as_deref() == Some("asc") {
        files.reverse();
    }
    page(&files, Asked { after, limit }, PAGE_FILES, |file| &file.id, |file| file.as_ref().into()).map(Json)
}

/// `GET /files/{id}`
pub(in crate::serve) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Path(id): Path<String>,
) -> Result<Json<FileResponse>, Refused> {
    let file = shared.store.file_of(&account, &id).ok_or_else(|| Refused::no_file(&id))?;
    Ok(Json(file.as_ref().into()))
}
