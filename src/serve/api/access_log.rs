//! The access log: every call gets a number and leaves a line.
//!
//! In: calls and their statuses. Out: `access.jsonl`:
//!
//! ```text
//! {"at":"2026-11-22T09:14:59.428336Z","endpoint":"create_batch","nth":1,"method":"POST","path":"/batches","status":201}
//! ```
//!
//! Invariants: each call that reached the server has one line, written before its response goes out, with a `null`
//! status when the client left before there was one, or when a fault cut the answer off; `"fault"` names the scripted
//! faults that acted on the call. Neither the query, which may hold an upload's signature, nor any header is in it, and
//! of a path [`LOGGED_PATH_CHARS`] characters at most. Once the quota is used up, calls that [`guard`](super::guard)
//! refuses leave no line: strangers must not fill the disk. `nth` counts the calls of one endpoint from 1 since the
//! server started.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::endpoint::{ENDPOINTS, Endpoint};
use crate::serve::clock;
use crate::serve::faults::injector::FaultNames;
use crate::serve::store::quota::Quota;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;

/// Most characters of a path in the log; those of clients have fewer.
const LOGGED_PATH_CHARS: usize = 512;

/// The calls so far, and the log of them.
#[derive(Debug)]
pub(crate) struct AccessLog {
    path: PathBuf,
    quota: Arc<Quota>,
    file: Mutex<CountedFile>,
}

#[derive(Debug)]
struct CountedFile {
    file: LocalFile,
    counts: [u64; ENDPOINTS],
}

impl AccessLog {
    /// Continues the access log in `directory`.
    pub(crate) fn open(directory: &Path, quota: &Arc<Quota>) -> Result<Self, FileError> {
        let path = directory.join("access.jsonl");
        let file = LocalFile::append(&path)?;
        Ok(Self { path, quota: quota.clone(), file: Mutex::new(CountedFile { file, counts: [0; ENDPOINTS] }) })
    }

    /// A call has come in.
    pub(super) fn begin(&self, endpoint: Endpoint, method: &Method, path: &str) -> LoggedCall<'_> {
        let nth = {
            let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            log.counts[endpoint as usize] += 1;
            log.counts[endpoint as usize]
        };
        LoggedCall {
            log: self,
            endpoint,
            nth,
            method: method.clone(),
            path: path.chars().take(LOGGED_PATH_CHARS).collect(),
            faults: FaultNames::default(),
            logged: false,
        }
    }
}

/// One call under way.
pub(super) struct LoggedCall<'c> {
    log: &'c AccessLog,
    endpoint: Endpoint,
    nth: u64,
    method: Method,
    path: String,
    pub(super) faults: FaultNames,
    logged: bool,
}

impl LoggedCall<'_> {
    /// Leaves no line.
    pub(super) fn skip_log(&mut self) {
        self.logged = true;
    }

    /// It is answered, with that status; `None` if the answer was cut off.
    pub(super) fn end(mut self, status: Option<StatusCode>) -> Result<(), FileError> {
        if self.logged {
            return Ok(());
        }
        self.write(status).map_err(FileError::on("write", &self.log.path))
    }

    fn write(&mut self, status: Option<StatusCode>) -> io::Result<()> {
        self.logged = true;
        let mut record = json!({
            "at": clock::rfc3339(clock::now()),
            "endpoint": self.endpoint.name(),
            "nth": self.nth,
            "method": self.method.as_str(),
            "path": self.path,
            "status": status.map(|status| status.as_u16()),
        });
        if let Some(names) = self.faults.joined() {
            record["fault"] = names.into();
        }
        let line = format!("{record}\n");
        self.log.quota.add(line.len() as u64);
        self.log.file.lock().unwrap_or_else(PoisonError::into_inner).file.write_all(line.as_bytes())
    }
}

impl Drop for LoggedCall<'_> {
    fn drop(&mut self) {
        if !self.logged {
            // The client is gone, so there is no call that could report a failure to write the log.
            let _ = self.write(None);
        }
    }
}
