//! Every call passes here: it gets its name and number, and leaves a line in the access log.
//!
//! In: requests as they come from the wire. Out: requests whose path has no `/v1` before it, and `access.jsonl`:
//!
//! ```text
//! {"at":"2026-11-22T09:14:59.428336Z","endpoint":"create_batch","nth":1,"method":"POST","path":"/batches","status":201}
//! ```
//!
//! What always holds: each call that reached the server has one line, written before its response goes out, with a
//! `null` status when the client left before there was one, or when a fault cut the answer off; `"fault"` names the
//! scripted faults that acted on the call. Neither the query, which may hold an upload's signature,
//! nor any header is in it, and of a path [`LOGGED_PATH_CHARS`] characters at most. Once the quota is used up, calls that [`guard`]
//! refuses leave no line: strangers must not fill the disk. `nth` counts the calls of one endpoint from 1 since the server started.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::json;

use crate::serve::Shared;
use crate::serve::batches::rfc3339;
use crate::serve::connections::{Connection, watched};
use crate::serve::faults;
use crate::serve::faults::Fired;
use crate::serve::guard;
use crate::serve::quota::Quota;
use crate::serve::reply::Refused;
use crate::serve::surface::Surface;
use crate::storage::durable;
use crate::storage::durable::FileError;

/// The calls that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    CreateFile,
    UploadFile,
    PutContent,
    Preprocess,
    ListFiles,
    GetFile,
    DeleteFile,
    GetContent,
    CreateBatch,
    ListBatches,
    GetBatch,
    CancelBatch,
    Whoami,
    Unknown,
}

/// Number of [`Endpoint`]s.
const ENDPOINTS: usize = Endpoint::Unknown as usize + 1;

impl Endpoint {
    /// Which call a method and a path without `/v1` are.
    pub(super) fn of(method: &Method, path: &str, surface: &dyn Surface) -> Self {
        let segments: Vec<&str> = path.trim_start_matches('/').splitn(4, '/').collect();
        match (method.as_str(), segments.as_slice()) {
            // The content comes with it.
            ("POST", ["files"]) if surface.uploads_whole() => Self::UploadFile,
            ("POST", ["files"]) => Self::CreateFile,
            ("POST", ["files", "upload"]) => Self::UploadFile,
            ("PUT", ["storage", _]) => Self::PutContent,
            ("POST", ["files", _, "preprocess"]) => Self::Preprocess,
            ("GET", ["files"]) => Self::ListFiles,
            ("GET", ["files", _]) => Self::GetFile,
            ("DELETE", ["files", _]) => Self::DeleteFile,
            ("GET", ["files", _, "content"]) => Self::GetContent,
            ("POST", ["batches"]) => Self::CreateBatch,
            ("GET", ["batches"]) => Self::ListBatches,
            ("GET", ["batches", _]) => Self::GetBatch,
            ("POST", ["batches", _, "cancel"]) => Self::CancelBatch,
            ("GET", ["v3", "whoami"]) => Self::Whoami,
            _ => Self::Unknown,
        }
    }

    /// Its name in the access log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateFile => "create_file",
            Self::UploadFile => "upload_file",
            Self::PutContent => "put_content",
            Self::Preprocess => "preprocess",
            Self::ListFiles => "list_files",
            Self::GetFile => "get_file",
            Self::DeleteFile => "delete_file",
            Self::GetContent => "get_content",
            Self::CreateBatch => "create_batch",
            Self::ListBatches => "list_batches",
            Self::GetBatch => "get_batch",
            Self::CancelBatch => "cancel_batch",
            Self::Whoami => "whoami",
            Self::Unknown => "unknown",
        }
    }
}

/// The calls so far, and the log of them.
#[derive(Debug)]
pub(super) struct Calls {
    path: PathBuf,
    quota: Arc<Quota>,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    counts: [u64; ENDPOINTS],
}

impl Calls {
    /// Goes on with the access log in `directory`.
    pub(super) fn open(directory: &Path, quota: &Arc<Quota>) -> Result<Self, FileError> {
        let path = directory.join("access.jsonl");
        let file = durable::append(&path)?;
        Ok(Self { path, quota: quota.clone(), log: Mutex::new(Log { file, counts: [0; ENDPOINTS] }) })
    }

    fn begin(&self, method: &Method, path: &str, surface: &dyn Surface) -> Call<'_> {
        let endpoint = Endpoint::of(method, path, surface);
        let nth = {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.counts[endpoint as usize] += 1;
            log.counts[endpoint as usize]
        };
        Call {
            calls: self,
            endpoint,
            nth,
            method: method.clone(),
            path: path.chars().take(LOGGED_PATH_CHARS).collect(),
            fired: Fired::default(),
            logged: false,
        }
    }
}

/// Most characters of a path in the log; those of clients have fewer.
const LOGGED_PATH_CHARS: usize = 512;

/// One call under way.
struct Call<'c> {
    calls: &'c Calls,
    endpoint: Endpoint,
    nth: u64,
    method: Method,
    path: String,
    fired: Fired,
    logged: bool,
}

impl Call<'_> {
    /// Leaves no line.
    fn skip_log(&mut self) {
        self.logged = true;
    }

    fn end(mut self, status: Option<StatusCode>) -> Result<(), FileError> {
        if self.logged {
            return Ok(());
        }
        self.log(status).map_err(FileError::on("write", &self.calls.path))
    }

    fn log(&mut self, status: Option<StatusCode>) -> io::Result<()> {
        self.logged = true;
        let mut record = json!({
            "at": rfc3339(Timestamp::now().as_microsecond()),
            "endpoint": self.endpoint.name(),
            "nth": self.nth,
            "method": self.method.as_str(),
            "path": self.path,
            "status": status.map(|status| status.as_u16()),
        });
        if let Some(names) = self.fired.names() {
            record["fault"] = names.into();
        }
        let line = format!("{record}\n");
        self.calls.quota.add(line.len() as u64);
        self.calls.log.lock().unwrap_or_else(PoisonError::into_inner).file.write_all(line.as_bytes())
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.logged {
            // The client is gone, so there is nobody left to tell that the log cannot be written.
            let _ = self.log(None);
        }
    }
}

/// The middleware around all routes. A script of faults acts here, in place of `next`, before it, or on the response
/// that it gives.
pub(super) async fn pass(
    State(shared): State<Arc<Shared>>,
    Extension(Connection { wire, local }): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    // Before anything is taken off the URL, which may name a host, too.
    let admitted = guard::admit(&head, local, &shared.hosts);
    collapse_version(&mut head.uri);
    let mut call = shared.calls.begin(&head.method, head.uri.path(), shared.surface);
    let response = match admitted {
        Ok(()) => {
            let request = Request::from_parts(head, watched(body, shared.connections));
            faults::pass(&shared, call.endpoint, &wire, &call.fired, request, next).await
        }
        Err(refused) => {
            if !shared.store.has_room() {
                call.skip_log();
            }
            refused.shaped_for(head.uri.path(), shared.surface).into_response()
        }
    };
    match call.end((!wire.is_cut()).then(|| response.status())) {
        Ok(()) => response,
        Err(error) => Refused::from(error).into_response(),
    }
}

/// Takes every `/v1` off the front of the path: clients send none, one or two of them, depending on their version and
/// on the base URL they were given.
fn collapse_version(uri: &mut Uri) {
    let Some(whole) = uri.path_and_query() else { return };
    let mut rest = whole.as_str();
    while let Some(shorter) = rest.strip_prefix("/v1").filter(|shorter| shorter.starts_with('/')) {
        rest = shorter;
    }
    if rest.len() == whole.as_str().len() {
        return;
    }
    if let Ok(shorter) = PathAndQuery::try_from(rest) {
        *uri = Uri::from(shorter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::openai::OpenAi;
    use crate::serve::together::Together;

    #[test]
    fn repeated_versions_are_taken_off_the_path() {
        for (sent, meant) in [
            ("/v1/files", "/files"),
            ("/v1/v1/files?a=/v1/", "/files?a=/v1/"),
            ("/files/v1/content", "/files/v1/content"),
            ("/v1files", "/v1files"),
            ("/v3/whoami", "/v3/whoami"),
            ("/v1", "/v1"),
        ] {
            let mut uri: Uri = sent.parse().unwrap();
            collapse_version(&mut uri);
            assert_eq!(uri.to_string(), meant);
        }
    }

    #[test]
    fn calls_are_told_apart_by_method_and_path() {
        let named = |method: Method, path: &str| Endpoint::of(&method, path, &Together).name();
        assert_eq!(named(Method::POST, "/files"), "create_file");
        assert_eq!(named(Method::POST, "/files/upload"), "upload_file");
        assert_eq!(named(Method::GET, "/files/file-1/content"), "get_content");
        assert_eq!(named(Method::POST, "/batches/b/cancel"), "cancel_batch");
        assert_eq!(named(Method::PUT, "/files"), "unknown");
        assert_eq!(named(Method::GET, "/files/a/content/b"), "unknown");
        assert_eq!(Endpoint::of(&Method::POST, "/files", &OpenAi).name(), "upload_file");
    }
}
