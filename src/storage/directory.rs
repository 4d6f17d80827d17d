//! What is in a directory, and whose it is.
//!
//! In: a path. Out: the paths of its entries, or what is at it. Nothing here creates or removes: see
//! [`durable`](crate::storage::durable).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::storage::durable::FileError;

/// The paths of what is in a directory, sorted.
///
/// # Errors
/// When there is no such directory, or it cannot be read.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(directory).map_err(FileError::on("read", directory))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(FileError::on("read", directory))?;
    paths.sort();
    Ok(paths)
}

/// What is at a path at which a directory of this user's is wanted. Symbolic links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A symbolic link, to wherever.
    SymbolicLink,
    /// Something else than a directory.
    NoDirectory,
    /// A directory that belongs to the user with this id.
    DirectoryOf(u32),
}

/// Looks at what is at `path`.
///
/// # Errors
/// When the path cannot be looked at.
pub fn look_at(path: &Path) -> Result<Found, FileError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => Ok(Found::SymbolicLink),
        Ok(metadata) if !metadata.is_dir() => Ok(Found::NoDirectory),
        Ok(metadata) => Ok(Found::DirectoryOf(metadata.uid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(FileError::on("look at", path)(error)),
    }
}

/// Bytes of the file at `path`. A symbolic link is not followed.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub fn size_of(path: &Path) -> Result<u64, FileError> {
    Ok(path.symlink_metadata().map_err(FileError::on("read", path))?.len())
}

/// Device and inode of what a path leads to, by which two spellings of it are recognised; `None` if there is nothing,
/// or it cannot be told.
#[must_use]
pub fn inode(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
