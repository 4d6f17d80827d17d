//! How files come in: an announcement and a PUT, as the current SDKs send them, or both in one multipart call.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Form, Json};
use serde::Deserialize;
use serde_json::json;

use super::files::FileObject;
use crate::serve::api::auth::Account;
use crate::serve::api::error::{ApiError, ErrorShape};
use crate::serve::api::upload::{UploadError, Uploads, bad_form, base_name, multipart};
use crate::serve::store::Store;
use crate::serve::store::file::StoredFile;

/// Types of files that the service takes.
const FILE_TYPES: [&str; 3] = ["jsonl", "csv", "parquet"];

/// The header that names an announced file.
const FILE_ID_HEADER: &str = "x-together-file-id";

/// What a client says about a file before it sends it, as a form or in the query.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Announcement {
    purpose: Option<String>,
    file_name: Option<String>,
    file_type: Option<String>,
    checksum: Option<String>,
}

impl Announcement {
    fn set(&mut self, name: &str, value: String) {
        match name {
            "purpose" => self.purpose = Some(value),
            "file_name" => self.file_name = Some(value),
            "file_type" => self.file_type = Some(value),
            "checksum" => self.checksum = Some(value),
            _ => {}
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            purpose: self.purpose.or(other.purpose),
            file_name: self.file_name.or(other.file_name),
            file_type: self.file_type.or(other.file_type),
            checksum: self.checksum.or(other.checksum),
        }
    }

    /// The file that is announced, without content.
    fn into_file(self, account: &str) -> Result<StoredFile, ApiError> {
        let required = |value: Option<String>, name| {
            value
                .filter(|value| !value.is_empty())
                .ok_or_else(|| ApiError::bad_request(format!("missing form field: {name}")))
        };
        let path = required(self.file_name, "file_name")?;
        let name = base_name(&path);
        let file_type = self.file_type.unwrap_or_else(|| "jsonl".to_owned());
        if !FILE_TYPES.contains(&file_type.as_str()) {
            return Err(ApiError::bad_request(format!("unknown file_type: {file_type}")));
        }
        let is_sha256 =
            |sum: &str| sum.len() == 64 && sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if self.checksum.as_deref().is_some_and(|sum| !is_sha256(sum)) {
            return Err(ApiError::bad_request("the checksum is no SHA-256 in lowercase hex"));
        }
        let mut file = StoredFile::new(account, name, required(self.purpose, "purpose")?, file_type);
        file.declared = self.checksum;
        Ok(file)
    }
}

/// `POST /files`: 302 to where the content goes, or 409 when the account sent the same content before.
pub(super) async fn announce(
    State(store): State<Arc<Store>>,
    State(address): State<SocketAddr>,
    Account(account): Account,
    Query(query): Query<Announcement>,
    request: Request,
) -> Result<Response, ApiError> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let file = form(request).await?.or(query).into_file(&account)?;
    if let Some(file_id) = file.declared.as_ref().and_then(|sum| store.same_content(&account, sum)) {
        return Ok((StatusCode::CONFLICT, Json(json!({"file_id": file_id}))).into_response());
    }
    store.take(0)?;
    let file = store.files.put(file)?;
    let host = host.unwrap_or_else(|| address.to_string());
    let location = format!("http://{host}/storage/{}?signature={}", file.id, file.signature);
    let header = |value: &str| {
        HeaderValue::try_from(value).map_err(|_| ApiError::bad_request("the host header is unfit for a URL"))
    };
    let headers = [(header::LOCATION.as_str(), header(&location)?), (FILE_ID_HEADER, header(&file.id)?)];
    Ok((StatusCode::FOUND, headers).into_response())
}

/// Reads the form in a body: multipart, URL-encoded, or none.
async fn form(request: Request) -> Result<Announcement, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("multipart/form-data") {
        let mut announced = Announcement::default();
        let mut form = multipart(request).await?;
        while let Some(field) = form.next_field().await.map_err(|error| bad_form(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            announced.set(&name, field.text().await.map_err(|error| bad_form(&error))?);
        }
        Ok(announced)
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        let form = Form::from_request(request, &()).await;
        form.map(|Form(announced)| announced).map_err(|error| ApiError::object(error.status(), error.body_text()))
    } else {
        Ok(Announcement::default())
    }
}

/// The secret of an upload URL.
#[derive(Debug, Deserialize)]
pub(super) struct Signature {
    signature: Option<String>,
}

/// `PUT /storage/{id}?signature=…`: takes the content of an announced file. Sent again, it replaces what was there.
pub(super) async fn put(
    State(store): State<Arc<Store>>,
    State(uploads): State<Uploads>,
    Path(id): Path<String>,
    Query(Signature { signature }): Query<Signature>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let refuse = |status, message: &str| ApiError::object(status, message).shaped(ErrorShape::Storage);
    let fail = |error: UploadError| ApiError::from(error).shaped(ErrorShape::Storage);
    let takes = |file: &StoredFile| !file.generated && !file.deleted && signature.as_ref() == Some(&file.signature);
    let announced = store.files.get(&id).filter(|file| takes(file));
    let file = announced.ok_or_else(|| refuse(StatusCode::FORBIDDEN, "the signature does not match"))?;
    let length = match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|length| length.parse::<u64>().ok()),
        // Neither a length nor chunks: an empty body.
        None if !headers.contains_key(header::TRANSFER_ENCODING) => Some(0),
        None => None,
    };
    let announced = length.ok_or_else(|| refuse(StatusCode::LENGTH_REQUIRED, "the Content-Length is missing"))?;
    let received = uploads.receive(&file.id, body.into_data_stream()).await.map_err(fail)?;
    let came = received.content.bytes;
    if came != announced {
        return Err(fail(UploadError::Length { announced, came }));
    }
    let file = uploads.keep(StoredFile::clone(&file), received).map_err(fail)?;
    let digest = file.content.as_ref().map(|content| content.digest.as_str()).unwrap_or_default();
    Ok((StatusCode::OK, [(header::ETAG, format!("\"{digest}\""))]).into_response())
}

/// `POST /files/upload`: the form and the content in one call, in any order.
pub(super) async fn whole(
    State(uploads): State<Uploads>,
    Account(account): Account,
    request: Request,
) -> Result<Json<FileObject>, ApiError> {
    let mut announced = Announcement::default();
    // Made early for its id; the form may end with the fields that describe it.
    let id = StoredFile::new(&account, String::new(), String::new(), String::new()).id;
    let received = uploads.receive_form(&id, request, |name, value| announced.set(name, value)).await?;
    let mut file = announced.into_file(&account)?;
    file.id = id;
    let (_, received) = received.ok_or_else(|| ApiError::bad_request("missing form field: file"))?;
    Ok(Json(uploads.keep(file, received)?.as_ref().into()))
}
