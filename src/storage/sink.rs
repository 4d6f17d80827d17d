//! Destinations of outputs: written front to back, then finished or abandoned.
//!
//! In: bytes. Out: the output, once finished. A [`Sink`] that is dropped before that leaves nothing behind, as far as
//! its destination permits: a pending file does not appear, an upload to an object store would be aborted, a pipe keeps
//! what it received.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use crate::storage::durable::FileError;

/// Receives an output. Dropped before it is finished, it is abandoned.
pub trait Sink: Write + Send {
    /// The destination, as the user named it; `None` if it has no name.
    fn path(&self) -> Option<&Path>;

    /// Publishes what was written, unless it was visible immediately.
    ///
    /// # Errors
    /// When it cannot be published or made durable.
    fn finish(self: Box<Self>) -> Result<(), FileError>;

    /// Finishes, and returns whether the output was delivered: it is stored, or its reader has read to the end.
    ///
    /// # Errors
    /// Those of [`Sink::finish`].
    fn deliver(self: Box<Self>) -> Result<bool, FileError> {
        self.finish().map(|()| true)
    }
}

impl fmt::Debug for dyn Sink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Sink({:?})", self.path())
    }
}

/// A writer that the caller manages.
pub struct WriterSink(pub Box<dyn Write + Send>);

impl fmt::Debug for WriterSink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("WriterSink")
    }
}

impl Sink for WriterSink {
    fn path(&self) -> Option<&Path> {
        None
    }

    fn finish(self: Box<Self>) -> Result<(), FileError> {
        Ok(())
    }
}

impl Write for WriterSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
