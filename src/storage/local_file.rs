//! An open local file, with its path for messages.
//!
//! In: a path. Out: reads and writes, in order or at any offset.
//!
//! Files are created through [`durable`]; one that must appear complete is a [`PendingFile`](durable::PendingFile).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::fault_hook;
use crate::storage::fault_hook::Change;
use crate::storage::identity::StoredIdentity;
use crate::storage::read_at::ReadAt;

/// An open file. See the [module](self).
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    path: PathBuf,
}

impl LocalFile {
    /// Opens a file for reading. Opening a named pipe waits for a writer.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::on("open", path))?;
        Ok(Self::new(file, path))
    }

    /// Creates a new file for reading and writing. Fails if the name is taken.
    pub fn create_new(path: &Path) -> Result<Self, FileError> {
        Ok(Self::new(durable::create_new(path)?, path))
    }

    /// Opens a file for reading and writing, creating it if it does not exist; existing content is kept.
    pub fn open_or_create(path: &Path) -> Result<Self, FileError> {
        Ok(Self::new(durable::open_or_create(path)?, path))
    }

    /// Opens a file for appending, creating it if it does not exist.
    pub fn append(path: &Path) -> Result<Self, FileError> {
        Ok(Self::new(durable::append(path)?, path))
    }

    /// A new file in `directory` without a name: it vanishes with the process.
    pub fn scratch(directory: &Path) -> Result<Self, FileError> {
        // It has no name: messages show the directory.
        Ok(Self::new(durable::scratch(directory)?, directory))
    }

    /// A duplicate of standard input, called `path` in messages.
    pub fn stdin(path: &Path) -> Result<Self, FileError> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(FileError::on("open", path))?;
        Ok(Self::new(stdin.into(), path))
    }

    /// What messages call `path`.
    pub(super) fn new(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned() }
    }

    /// Its path in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.is_dir())
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.is_file())
    }

    /// Whether it is a regular file whose offset is at its beginning.
    pub fn is_at_rest(&self) -> io::Result<bool> {
        Ok(self.is_regular()? && (&self.file).stream_position()? == 0)
    }

    /// The permission bits.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(self.file.metadata()?.permissions().mode() & 0o777)
    }

    /// Reads all of it, from the beginning.
    pub fn read_whole(path: &Path) -> Result<Vec<u8>, FileError> {
        let mut content = Vec::new();
        let read = File::open(path).and_then(|mut file| file.read_to_end(&mut content));
        read.map_err(FileError::on("read", path))?;
        Ok(content)
    }

    /// Reads all of it as text. What is not UTF-8 is an error.
    pub fn read_text(path: &Path) -> Result<String, FileError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
        read.map_err(FileError::on("read", path))?;
        Ok(text)
    }

    /// Writes all of `bytes` at `offset`; a skipped range is a hole.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fault_hook::before(Change::Write, &self.path)?;
        self.file.write_all_at(bytes, offset)
    }

    /// A writer from `offset` on, whose place is its own.
    #[must_use]
    pub fn writer_at(&self, offset: u64) -> WriterAt<'_> {
        WriterAt { file: self, offset }
    }

    /// Truncates it, or extends it with a hole.
    pub fn resize(&self, bytes: u64) -> io::Result<()> {
        fault_hook::before(Change::Write, &self.path)?;
        self.file.set_len(bytes)
    }

    /// Gives the space of a range back to the file system, whole blocks of it; from then on it reads as zeros. The size
    /// stays.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the file system, or the operating system, cannot do that.
    pub fn give_back(&self, range: Range<u64>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{FallocateFlags, fallocate};
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(&self.file, mode, range.start, range.end - range.start)?)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = range;
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Bytes that it takes on disk: without what was given back, and without holes.
    #[cfg(test)]
    pub(crate) fn stored_bytes(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Whether its content takes memory rather than space on a disk; where the system does not tell, it does not.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            /// File systems in memory: `tmpfs` and `ramfs`.
            const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
            let found = rustix::fs::fstatfs(&self.file);
            found.is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)))
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Waits until the content is on disk. For failures, see [`durable`].
    pub fn sync(&self) -> Result<(), FileError> {
        durable::sync(&self.file, &self.path)
    }
}

/// Writes from an offset of a file on.
#[derive(Debug)]
pub struct WriterAt<'f> {
    file: &'f LocalFile,
    offset: u64,
}

impl Write for WriterAt<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadAt for LocalFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn identity(&self) -> io::Result<StoredIdentity> {
        StoredIdentity::new(&self.path, &self.file.metadata()?).map_err(|error| error.source)
    }
}

impl Read for LocalFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for LocalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        fault_hook::before(Change::Write, &self.path)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
