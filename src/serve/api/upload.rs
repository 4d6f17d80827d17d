//! Bytes of files, coming in.
//!
//! In: the body of a call, or a field of a form. Out: a stored file. Invariant: content is streamed to disk in pieces
//! of about [`PIECE_BYTES`], hashed on the way, and becomes a file only when all of it has come and it has the checksum
//! that was declared for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::serve::hex::hex;
use crate::serve::limits::FORM_BYTES;
use crate::serve::store::Store;
use crate::serve::store::file::{Content, StoredFile};
use crate::serve::store::quota::{QuotaExceeded, Reservation};
use crate::storage::durable::{FileError, PendingFile};

/// Bytes gathered before a thread writes them.
const PIECE_BYTES: usize = 1 << 20;

/// Takes in the content of files.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    store: Arc<Store>,
    /// Most bytes of a file.
    limit: u64,
}

/// Content that has come in and is no file yet.
#[derive(Debug)]
pub(crate) struct Received {
    pending: PendingFile,
    pub(crate) content: Content,
    _room: Reservation,
}

/// Why content did not become a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the body broke off: {0}")]
    Body(String),
    #[error("the body has {came} bytes, and its Content-Length is {announced}")]
    Length { announced: u64, came: u64 },
    #[error("the content has the SHA-256 {came}, which is not the checksum declared for it")]
    Checksum { came: String },
    #[error("the body has more than {limit} bytes")]
    TooLong { limit: u64 },
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    #[error("Internal server error: {0}: {cause}", cause = .0.source)]
    File(#[from] FileError),
    #[error("Internal server error: {0}")]
    Work(#[from] tokio::task::JoinError),
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let status = match error {
            UploadError::Body(_) | UploadError::Length { .. } | UploadError::Checksum { .. } => StatusCode::BAD_REQUEST,
            UploadError::TooLong { .. } | UploadError::Quota(_) => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::File(_) | UploadError::Work(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::object(status, error.to_string())
    }
}

impl Uploads {
    /// Takes in files of at most `limit` bytes.
    pub(crate) fn new(store: Arc<Store>, limit: u64) -> Self {
        Self { store, limit }
    }

    /// Takes in a multipart form: the content of its `file` as that of the file `id`, which is given with its name; all
    /// other fields, in their order, go to `set`.
    pub(crate) async fn receive_form(
        &self,
        id: &str,
        request: Request,
        mut set: impl FnMut(&str, String),
    ) -> Result<Option<(String, Received)>, ApiError> {
        let mut received = None;
        let mut form = multipart(request).await?;
        while let Some(field) = form.next_field().await.map_err(|error| bad_form(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            if name == "file" {
                let file_name = field.file_name().unwrap_or_default().to_owned();
                received = Some((file_name, self.receive(id, field).await?));
            } else {
                set(&name, short_text(field).await?);
            }
        }
        Ok(received)
    }

    /// Writes a body to where the content of file `id` belongs, without giving it its name yet.
    pub(crate) async fn receive<E: std::fmt::Display>(
        &self,
        id: &str,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Received, UploadError> {
        let mut body = std::pin::pin!(body);
        let (target, limit) = (self.store.content_path(id), self.limit);
        let mut room = self.store.take(0)?;
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
                    Some(Err(error)) => return Err(UploadError::Body(error.to_string())),
                    None => is_open = false,
                }
            }
            if intake.bytes + gathered as u64 > limit {
                return Err(UploadError::TooLong { limit });
            }
            room.grow(gathered as u64, self.store.records() + 1)?;
            intake = tokio::task::spawn_blocking(move || intake.write(&chunks)).await??;
        }
        let (pending, content) = intake.finish();
        Ok(Received { pending, content, _room: room })
    }

    /// Makes received content the file's, if it is what was declared.
    pub(crate) fn keep(&self, file: StoredFile, received: Received) -> Result<Arc<StoredFile>, UploadError> {
        let Received { pending, content, _room } = received;
        if file.declared.as_ref().is_some_and(|declared| *declared != content.digest) {
            return Err(UploadError::Checksum { came: content.digest });
        }
        Ok(self.store.keep(file, pending, content)?)
    }
}

/// The value of a form field that is no file.
async fn short_text(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut value = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| bad_form(&error))? {
        value.extend_from_slice(&chunk);
        if value.len() > FORM_BYTES {
            return Err(ApiError::object(StatusCode::PAYLOAD_TOO_LARGE, "a form field is too long"));
        }
    }
    String::from_utf8(value).map_err(|_| ApiError::bad_request("a form field is not UTF-8"))
}

/// The form in the body of a call.
pub(crate) async fn multipart(request: Request) -> Result<Multipart, ApiError> {
    Multipart::from_request(request, &()).await.map_err(|error| ApiError::object(error.status(), error.body_text()))
}

pub(crate) fn bad_form(error: &MultipartError) -> ApiError {
    ApiError::object(error.status(), error.body_text())
}

/// The name of a file without the directories that a client put before it.
pub(crate) fn base_name(path: &str) -> String {
    path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
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
    fn create(target: &Path) -> Result<Self, FileError> {
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
