//! What is known about a file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::records::Record;

/// A file as the service holds it, or is about to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredFile {
    pub(crate) id: String,
    /// Whose it is; see `auth`.
    pub(crate) account: String,
    pub(crate) filename: String,
    pub(crate) purpose: String,
    pub(crate) file_type: String,
    /// Unix seconds.
    pub(crate) created_at: i64,
    /// SHA-256 in lowercase hex that the client declared.
    pub(crate) declared: Option<String>,
    /// The unguessable part of the URL to which the content is to be PUT.
    pub(crate) signature: String,
    /// The content, once it is there.
    pub(crate) content: Option<Content>,
    /// Whether a batch made it, as against a client.
    pub(crate) generated: bool,
    /// Whether it is kept for the batches that work on it alone: to its owner it is gone.
    #[serde(default)]
    pub(crate) deleted: bool,
}

/// What is known about a file's bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) bytes: u64,
    /// Number of `\n`, and one more when the last line has none.
    pub(crate) lines: u64,
    /// Lowercase hex, for the `ETag`; the SHA-256 when a client sent the file.
    pub(crate) digest: String,
}

impl StoredFile {
    /// A file that `account` announces or sends now.
    pub(crate) fn new(account: &str, filename: String, purpose: String, file_type: String) -> Self {
        Self {
            id: format!("file-{}", Uuid::new_v4()),
            account: account.to_owned(),
            filename,
            purpose,
            file_type,
            created_at: Timestamp::now().as_second(),
            declared: None,
            signature: Uuid::new_v4().simple().to_string(),
            content: None,
            generated: false,
            deleted: false,
        }
    }

    /// The size of its content, if that is there.
    pub(super) fn bytes(&self) -> u64 {
        self.content.as_ref().map_or(0, |content| content.bytes)
    }
}

impl Record for StoredFile {
    fn id(&self) -> &str {
        &self.id
    }
}
