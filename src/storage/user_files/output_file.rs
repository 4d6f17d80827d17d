//! A file that the user asked for, while it is written.
//!
//! In: a path, and bytes. Out: a file that appears whole, or what was written to a pipe or a device.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::user_files::place;
use crate::storage::user_files::place::Place;
use crate::storage::user_files::taken::is_taken;

/// A file that the user asked for, while it is written. See the [module](super).
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Whole(PendingFile),
    Stream(File),
}

impl OutputFile {
    /// Opens what is at `path`, following symbolic links. A named pipe is waited for until somebody reads from it.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let sink = match Place::of(path).map_err(FileError::on("open", path))? {
            Place::Descriptor(number) => {
                Sink::Stream(place::open_descriptor(number).map_err(FileError::on("open", path))?)
            }
            Place::Stream(stream) => Sink::Stream(durable::open_stream(&stream)?),
            Place::File(target) | Place::Free(target) => {
                durable::remove_leftovers_of(&target);
                Sink::Whole(PendingFile::create_shared(&target)?)
            }
        };
        Ok(Self { path: path.to_owned(), sink })
    }

    /// A file of the program's own, for its owner alone.
    pub fn private(path: &Path) -> Result<Self, FileError> {
        Ok(Self { path: path.to_owned(), sink: Sink::Whole(PendingFile::create(path)?) })
    }

    /// Where it is, as the user called it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it appear, and returns whether it is delivered: it is a file, or its reader has read to the end.
    pub fn deliver(self) -> Result<bool, FileError> {
        match self.sink {
            Sink::Whole(pending) => pending.publish().map(|()| true),
            Sink::Stream(stream) => is_taken(&stream, &self.path),
        }
    }

    /// Makes it appear, if it has not appeared while it was written.
    pub fn publish(self) -> Result<(), FileError> {
        match self.sink {
            Sink::Whole(pending) => pending.publish(),
            Sink::Stream(_) => Ok(()),
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Whole(pending) => pending.write(bytes),
            Sink::Stream(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Whole(pending) => pending.flush(),
            Sink::Stream(stream) => stream.flush(),
        }
    }
}
