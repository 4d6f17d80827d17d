//! Where an output goes: written front to back, then finished or given up.
//!
//! In: bytes. Out: what appears when they are finished. A [`Sink`] that is dropped before that leaves nothing behind,
//! as far as what it writes to can take back what it has: a file that was to appear whole does not appear, an upload to
//! an object store would be aborted, a pipe keeps what it got.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use crate::storage::durable::FileError;

/// Takes an output. Dropped before it is finished, it gives up.
pub trait Sink: Write + Send {
    /// Where it goes, as the user called it; `None` for what has no name.
    fn path(&self) -> Option<&Path>;

    /// Makes what was written appear, if it has not appeared as it was written.
    ///
    /// # Errors
    /// When it cannot be made to appear, or to stay.
    fn finish(self: Box<Self>) -> Result<(), FileError>;

    /// Finishes, and tells whether what was written has arrived: it is stored, or its reader has read to the end.
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

/// A writer of the caller's, who knows what becomes of it.
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
