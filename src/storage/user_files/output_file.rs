//! A file that the user asked for, while it is written.
//!
//! In: a path. Out: the [`Sink`] that writes there: a file that appears once complete, or a pipe or a device that is
//! written to directly.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::sink::Sink;
use crate::storage::user_files::place;
use crate::storage::user_files::place::Place;
use crate::storage::user_files::taken::is_taken;

/// Opens the file at `path` for writing, following symbolic links. Opening a named pipe waits for a reader.
///
/// # Errors
/// When it cannot be written to.
pub fn open_output(path: &Path) -> Result<Box<dyn Sink>, FileError> {
    let stream = match Place::of(path).map_err(FileError::on("open", path))? {
        Place::Descriptor(number) => place::open_descriptor(number).map_err(FileError::on("open", path))?,
        Place::Stream(stream) => durable::open_stream(&stream)?,
        Place::File(target) | Place::Free(target) => {
            durable::remove_leftovers_of(&target);
            let pending = PendingFile::create_shared(&target)?;
            return Ok(Box::new(WholeFile { path: path.to_owned(), pending }));
        }
    };
    Ok(Box::new(Stream { path: path.to_owned(), stream }))
}

/// Starts an internal file, private to its owner.
///
/// # Errors
/// When it cannot be created.
pub fn create_private(path: &Path) -> Result<Box<dyn Sink>, FileError> {
    Ok(Box::new(WholeFile { path: path.to_owned(), pending: PendingFile::create(path)? }))
}

/// A file that appears once complete, by a rename.
struct WholeFile {
    /// As the user called it.
    path: PathBuf,
    pending: PendingFile,
}

impl Sink for WholeFile {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn finish(self: Box<Self>) -> Result<(), FileError> {
        self.pending.publish()
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pending.flush()
    }
}

/// A pipe, a device, a descriptor: writes are visible immediately.
struct Stream {
    /// As the user called it.
    path: PathBuf,
    stream: File,
}

impl Sink for Stream {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn finish(self: Box<Self>) -> Result<(), FileError> {
        Ok(())
    }

    fn deliver(self: Box<Self>) -> Result<bool, FileError> {
        is_taken(&self.stream, &self.path)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
