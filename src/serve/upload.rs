//! Bytes of files, coming in.
//!
//! In: an announcement and a PUT, or both in one multipart call. Out: a stored file.
//! What always holds: content is streamed to disk in pieces of about [`PIECE_BYTES`], hashed on the way, and becomes a
//! file only when it came whole and has the checksum that was declared for it.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Form, Json};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Shared;
use super::auth::Account;
use super::files::FileResponse;
use super::hex::hex;
use super::quota::{Full, Taken};
use super::reply::Refused;
use super::store::{Content, StoredFile};
use crate::durable::{FileError, PendingFile};

/// Bytes gathered before a thread writes them.
const PIECE_BYTES: usize = 1 << 20;

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
    fn into_file(self, account: &str) -> Result<StoredFile, Refused> {
        let required = |value: Option<String>, name| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| bad_request(format!("missing form field: {name}")))
        };
        let path = required(self.file_name, "file_name")?;
        let name = path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        let file_type = self.file_type.unwrap_or_else(|| "jsonl".to_owned());
        if !FILE_TYPES.contains(&file_type.as_str()) {
            return Err(bad_request(format!("unknown file_type: {file_type}")));
        }
        let is_sha256 =
            |sum: &str| sum.len() == 64 && sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if self.checksum.as_deref().is_some_and(|sum| !is_sha256(sum)) {
            return Err(bad_request("the checksum is no SHA-256 in lowercase hex"));
        }
        let mut file = StoredFile::new(account, name, required(self.purpose, "purpose")?, file_type);
        file.declared = self.checksum;
        Ok(file)
    }
}

/// `POST /files`: 302 to where the content goes, or 409 when the account sent the same content before.
pub(super) async fn announce(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    Query(query): Query<Announcement>,
    request: Request,
) -> Result<Response, Refused> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let file = form(request).await?.or(query).into_file(&account)?;
    if let Some(file_id) = file.declared.as_ref().and_then(|sum| shared.store.same_content(&account, sum)) {
        return Ok((StatusCode::CONFLICT, Json(json!({"file_id": file_id}))).into_response());
    }
    shared.store.take(0)?;
    let file = shared.store.files.put(file)?;
    let host = host.unwrap_or_else(|| shared.address.to_string());
    let location = format!("http://{host}/storage/{}?signature={}", file.id, file.signature);
    let header =
        |value: &str| HeaderValue::try_from(value).map_err(|_| bad_request("the host header is unfit for a URL"));
    let headers = [(header::LOCATION.as_str(), header(&location)?), (FILE_ID_HEADER, header(&file.id)?)];
    Ok((StatusCode::FOUND, headers).into_response())
}

/// Reads the form in a body: multipart, URL-encoded, or none.
async fn form(request: Request) -> Result<Announcement, Refused> {
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
        form.map(|Form(announced)| announced).map_err(|error| Refused::object(error.status(), error.body_text()))
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
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(Signature { signature }): Query<Signature>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let takes = |file: &StoredFile| !file.generated && !file.deleted && signature.as_ref() == Some(&file.signature);
    let announced = shared.store.files.get(&id).filter(|file| takes(file));
    let Some(file) = announced else {
        return Err(Refused::storage(StatusCode::FORBIDDEN, "the signature does not match"));
    };
    let length = match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|length| length.parse::<u64>().ok()),
        // Neither a length nor chunks: an empty body.
        None if !headers.contains_key(header::TRANSFER_ENCODING) => Some(0),
        None => None,
    };
    let Some(length) = length else {
        return Err(Refused::storage(StatusCode::LENGTH_REQUIRED, "the Content-Length is missing"));
    };
    let refuse = |fault: Fault| Refused::storage(fault.status(), fault.to_string());
    let received = receive(&shared, &file.id, body.into_data_stream()).await.map_err(refuse)?;
    if received.1.bytes != length {
        return Err(refuse(Fault::Length { announced: length, came: received.1.bytes }));
    }
    let file = keep(&shared, &file, received).map_err(refuse)?;
    let digest = file.content.as_ref().map(|content| content.digest.as_str()).unwrap_or_default();
    Ok((StatusCode::OK, [(header::ETAG, format!("\"{digest}\""))]).into_response())
}

/// `POST /files/upload`: the form and the content in one call, in any order.
pub(super) async fn whole(
    State(shared): State<Arc<Shared>>,
    Account(account): Account,
    request: Request,
) -> Result<Json<FileResponse>, Refused> {
    let mut announced = Announcement::default();
    let mut received = None;
    // Made early for its id; the form may end with the fields that describe it.
    let id = StoredFile::new(&account, String::new(), String::new(), String::new()).id;
    let mut form = multipart(request).await?;
    while let Some(field) = form.next_field().await.map_err(|error| bad_form(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            received = Some(receive_field(&shared, &id, field).await?);
        } else {
            announced.set(&name, short_text(field).await?);
        }
    }
    let mut file = announced.into_file(&account)?;
    file.id = id;
    let received = received.ok_or_else(|| bad_request("missing form field: file"))?;
    let file = keep_field(&shared, &file, received)?;
    Ok(Json(file.as_ref().into()))
}

/// Content that has come in and is no file yet.
pub(super) type Received = (PendingFile, Content, Taken);

/// Takes in the content of file `id` from a form.
pub(super) async fn receive_field(
    shared: &Shared,
    id: &str,
    field: axum::extract::multipart::Field<'_>,
) -> Result<Received, Refused> {
    receive(shared, id, field).await.map_err(Fault::refuse)
}

/// Makes content that came in a form the file's.
pub(super) fn keep_field(shared: &Shared, file: &StoredFile, received: Received) -> Result<Arc<StoredFile>, Refused> {
    keep(shared, file, received).map_err(Fault::refuse)
}

/// The value of a form field that is no file.
pub(super) async fn short_text(mut field: axum::extract::multipart::Field<'_>) -> Result<String, Refused> {
    let mut value = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| bad_form(&error))? {
        value.extend_from_slice(&chunk);
        if value.len() > super::FORM_BYTES {
            return Err(Refused::object(StatusCode::PAYLOAD_TOO_LARGE, "a form field is too long"));
        }
    }
    String::from_utf8(value).map_err(|_| bad_request("a form field is not UTF-8"))
}

pub(super) async fn multipart(request: Request) -> Result<Multipart, Refused> {
    Multipart::from_request(request, &()).await.map_err(|error| Refused::object(error.status(), error.body_text()))
}

/// Makes received content the file's, if it is what was declared.
fn keep(shared: &Shared, file: &StoredFile, (pending, content, _taken): Received) -> Result<Arc<StoredFile>, Fault> {
    if file.declared.as_ref().is_some_and(|declared| *declared != content.digest) {
        return Err(Fault::Checksum { came: content.digest });
    }
    Ok(shared.store.keep(file.clone(), pending, content)?)
}

/// Why content did not become a file.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the body broke off: {0}")]
    Body(String),
    #[error("the body has {came} bytes, and its Content-Length is {announced}")]
    Length { announced: u64, came: u64 },
    #[error("the content has the SHA-256 {came}, which is not the checksum declared for it")]
    Checksum { came: String },
    #[error("the body has more than {limit} bytes")]
    TooLong { limit: u64 },
    #[error(transparent)]
    Full(#[from] Full),
    #[error("Internal server error: {0}: {cause}", cause = .0.source)]
    File(#[from] FileError),
    #[error("Internal server error: {0}")]
    Work(#[from] tokio::task::JoinError),
}

impl Fault {
    /// In the shape of the files endpoints. By value, as it is made for `map_err`.
    fn refuse(self) -> Refused {
        Refused::object(self.status(), self.to_string())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Body(_) | Self::Length { .. } | Self::Checksum { .. } => StatusCode::BAD_REQUEST,
            Self::TooLong { .. } | Self::Full(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::File(_) | Self::Work(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Writes a body to where the content of file `id` belongs, without giving it its name yet.
async fn receive<E: std::fmt::Display>(
    shared: &Shared,
    id: &str,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Received, Fault> {
    let mut body = std::pin::pin!(body);
    let (target, limit) = (shared.store.content_path(id), shared.limits.upload_bytes);
    let mut taken = shared.store.take(0)?;
    let mut intake = tokio::task::spawn_blocking(move || Intake::create(&target)).await??;
    let mut is_open = true;
    while is_open {
        let (mut chunks, mut gathered) = (Vec::new(), 0);
        while is_open && gathered < PIECE_BYTES {
            match body.next().await {
                Some(Ok(chunk)) => {
                    gathered += chunk.len();
                    chunks.push(chunk);
                }
                Some(Err(error)) => return Err(Fault::Body(error.to_string())),
                None => is_open = false,
            }
        }
        if intake.bytes + gathered as u64 > limit {
            return Err(Fault::TooLong { limit });
        }
        taken.grow(gathered as u64, shared.store.records() + 1)?;
        intake = tokio::task::spawn_blocking(move || intake.write(&chunks)).await??;
    }
    let (pending, content) = intake.finish();
    Ok((pending, content, taken))
}

/// A file that is coming in.
struct Intake {
    pending: PendingFile,
    target: PathBuf,
    digest: Sha256,
    bytes: u64,
    newlines: u64,
    last: Option<u8>,
}

impl Intake {
    fn create(target: &FsPath) -> Result<Self, FileError> {
        let pending = PendingFile::create(target)?;
        Ok(Self { pending, target: target.to_owned(), digest: Sha256::new(), bytes: 0, newlines: 0, last: None })
    }

    fn write(mut self, chunks: &[Bytes]) -> Result<Self, FileError> {
        for chunk in chunks {
            std::io::Write::write_all(&mut self.pending, chunk).map_err(FileError::on("write", &self.target))?;
            self.digest.update(chunk);
            self.bytes += chunk.len() as u64;
            self.newlines += memchr::memchr_iter(b'\n', chunk).count() as u64;
            self.last = chunk.last().copied().or(self.last);
        }
        Ok(self)
    }

    fn finish(self) -> (PendingFile, Content) {
        let unended = u64::from(self.last.is_some_and(|last| last != b'\n'));
        let digest = hex(&self.digest.finalize());
        (self.pending, Content { bytes: self.bytes, lines: self.newlines + unended, digest })
    }
}

pub(super) fn bad_request(message: impl Into<String>) -> Refused {
    Refused::object(StatusCode::BAD_REQUEST, message)
}

pub(super) fn bad_form(error: &axum::extract::multipart::MultipartError) -> Refused {
    Refused::object(error.status(), error.body_text())
}
