//! Detects whether stored bytes are still the same, without reading them.
//!
//! In: a file. Out: a [`StoredIdentity`] that can be compared with an earlier one, and recorded as JSON.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::durable::FileError;

/// The state of stored bytes. Unless a clock was set back, two equal identities mean that the content has not changed.
///
/// For a file, it holds the path, the inode, the size and the time of the last modification. For an object in a store,
/// it would hold the address and the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// Absolute.
    #[serde(with = "crate::storage::path_text")]
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    /// Since 1970.
    modified_ns: i128,
}

impl StoredIdentity {
    /// The identity of the file at `path` as it is now.
    ///
    /// # Errors
    /// When there is no such file, or its metadata cannot be read.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let metadata = fs::metadata(path).map_err(FileError::on("read", path))?;
        Self::new(path, &metadata)
    }

    pub(super) fn new(path: &Path, metadata: &Metadata) -> Result<Self, FileError> {
        Ok(Self {
            path: std::path::absolute(path).map_err(FileError::on("resolve", path))?,
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        })
    }

    /// Whether both refer to the same file, regardless of its content: the same path, also through symbolic links, or
    /// the same inode.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        let real = |file: &Self| fs::canonicalize(&file.path).ok();
        self.path == other.path
            || (self.device, self.inode) == (other.device, other.inode)
            || real(self).is_some_and(|path| real(other) == Some(path))
    }

    /// Whether it is below a directory.
    #[must_use]
    pub fn is_below(&self, directory: &Path) -> bool {
        self.path.starts_with(directory)
    }
}
