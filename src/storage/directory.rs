//! The entries, the owner and the free space of a directory.
//!
//! In: a path. Out: the paths of its entries, or what it is. Nothing here creates or removes: see
//! [`durable`](crate::storage::durable).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::storage::durable::FileError;

/// The paths of the entries of a directory, sorted.
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

/// What is at a path where a directory of this user is expected. Symbolic links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A symbolic link.
    SymbolicLink,
    /// Something other than a directory.
    NoDirectory,
    /// A directory that belongs to the user with this id.
    DirectoryOf(u32),
}

/// Examines `path`.
///
/// # Errors
/// When the path cannot be examined.
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

/// Bytes that this user can still write on the file system of a directory.
///
/// # Errors
/// When the file system does not tell.
pub fn free_bytes(directory: &Path) -> Result<u64, FileError> {
    let free = rustix::fs::statvfs(directory)
        .map_err(|error| FileError::on("look for free space in", directory)(error.into()))?;
    Ok(free.f_bavail.saturating_mul(free.f_frsize))
}

/// Device and inode of what a path refers to, which are the same for all its spellings; `None` if there is nothing, or
/// they cannot be read.
#[must_use]
pub fn inode(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
