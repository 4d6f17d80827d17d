//! The Source: where the input's bytes can be read again at any offset.
//!
//! In: paths and standard input, plain or compressed. Out: one space of offsets over all of them.
//!
//! Invariants:
//! - Every byte can be read again, at any offset, until the Source is dropped: what cannot be re-read where it is (a
//!   pipe, compressed data) is copied to a spool file first, once.
//! - A part is as long as it was when it was opened; bytes appended later are not seen, and a part that shrinks is an
//!   error at the read that misses them, never a signal (the reason for `pread` instead of a memory map).
//! - No line spans two parts.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::InputError;
use crate::storage::aligned::{AlignedBuffer, BlockWriter};
use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::identity::StoredIdentity;
use crate::storage::lines;
use crate::storage::lines::Extent;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;
use crate::storage::zstd;
use crate::storage::zstd::ZstdDecoder;

/// First bytes of a gzip member (RFC 1952).
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// Largest window of a Zstandard frame that is decoded, in bytes. It is held in memory. `zstd` itself decodes no larger
/// ones unless it is told to.
const ZSTD_WINDOW_MAX: u64 = 128 << 20;

/// Bytes read first for a line of unknown length.
const LINE_GUESS_BYTES: u64 = 4096;

/// Bytes asked of a pipe at a time.
const PIPE_BYTES: usize = 1024 * 1024;

/// The path of standard input.
const STDIN: &str = "/dev/stdin";

/// One input as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Input {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Stdin => Path::new(STDIN),
        }
    }
}

/// One file of the Source.
#[derive(Debug)]
pub struct Part {
    /// What messages call it: the path as the user gave it, or `<stdin>`.
    pub name: String,
    stored: Arc<dyn ReadAt>,
    /// Where it is on disk: the user's file or the spool.
    pub path: PathBuf,
    /// What the user's file was like when it was opened; none for standard input.
    pub identity: Option<StoredIdentity>,
    /// The spool of ours at `path`, if it is one.
    spool: Option<Arc<LocalFile>>,
    /// Offset of its first byte in the Source.
    pub start: u64,
    /// Bytes of a byte order mark, which belong to no line.
    pub mark_bytes: u64,
    /// Size in bytes, the mark included.
    pub bytes: u64,
}

impl Part {
    fn new(name: String, stored: Arc<dyn ReadAt>, path: PathBuf) -> Self {
        Self { name, stored, path, identity: None, spool: None, start: 0, mark_bytes: 0, bytes: 0 }
    }

    /// Whether it is a spool of ours.
    #[must_use]
    pub fn is_spooled(&self) -> bool {
        self.spool.is_some()
    }

    /// What is framed into lines, in offsets of the part's file.
    #[must_use]
    pub fn extent(&self) -> Extent<'_> {
        Extent { file: &*self.stored, start: self.mark_bytes, end: self.bytes }
    }
}

/// All inputs in the order given. See the [module](self) for what it promises.
#[derive(Debug)]
pub struct Source {
    parts: Vec<Part>,
    bytes: u64,
}

impl Source {
    /// Opens the inputs; those that cannot be re-read are spooled into the directory `spool`, which must exist.
    ///
    /// `spooled` is told the bytes read so far while an input is spooled.
    ///
    /// # Errors
    /// An input that cannot be opened or is a directory, broken compressed data, no space for the spool, or standard
    /// input named twice or left at a terminal.
    pub fn open(inputs: &[Input], spool: &Path, spooled: &dyn Fn(u64)) -> Result<Self, InputError> {
        let mut source = Self { parts: Vec::new(), bytes: 0 };
        for (number, input) in inputs.iter().enumerate() {
            if *input == Input::Stdin && inputs[..number].contains(input) {
                return Err(InputError::StdinTwice);
            }
            let spool = spool.join(format!("spool-{number:04}.jsonl"));
            source.push(open_part(input, &spool, spooled)?)?;
        }
        Ok(source)
    }

    /// Opens files as they are: parts of a run that was packed before. No detection, no spooling.
    pub fn reopen(paths: impl IntoIterator<Item = (String, PathBuf)>) -> Result<Self, InputError> {
        let mut source = Self { parts: Vec::new(), bytes: 0 };
        for (name, path) in paths {
            source.push(Part::new(name, Arc::new(LocalFile::open(&path)?), path))?;
        }
        Ok(source)
    }

    fn push(&mut self, mut part: Part) -> Result<(), InputError> {
        part.mark_bytes = lines::mark_bytes(&*part.stored).map_err(FileError::on("read", &part.path))?;
        part.start = self.bytes;
        part.bytes = part.stored.size().map_err(FileError::on("read", &part.path))?;
        self.bytes += part.bytes;
        self.parts.push(part);
        Ok(())
    }

    /// Waits until what was spooled is on disk.
    pub fn sync_spools(&self) -> Result<(), InputError> {
        Ok(self.parts.iter().filter_map(|part| part.spool.as_ref()).try_for_each(|spool| spool.sync())?)
    }

    /// The files, in input order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Size of all parts in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of the part that holds the byte at `offset`.
    #[must_use]
    pub fn part_number(&self, offset: u64) -> usize {
        // Empty parts share their start with the next one; the last of them is the one that holds the byte.
        self.parts.partition_point(|part| part.start <= offset).saturating_sub(1)
    }

    /// The part that holds the byte at `offset`.
    #[must_use]
    pub fn part_at(&self, offset: u64) -> &Part {
        &self.parts[self.part_number(offset)]
    }

    /// Reads the line that starts at `offset`, without its line end; no more than its first `bytes_max` bytes.
    pub fn read_line(&self, offset: u64, bytes_max: u64) -> Result<Vec<u8>, InputError> {
        let part = self.part_at(offset);
        let mut line = Vec::new();
        let mut wanted = LINE_GUESS_BYTES;
        loop {
            let read = wanted.min(part.start + part.bytes - offset).min(bytes_max);
            line.resize(usize::try_from(read).unwrap_or(usize::MAX), 0);
            self.read_at(offset, &mut line)?;
            if let Some(end) = memchr::memchr(b'\n', &line) {
                line.truncate(end);
                break;
            }
            if read < wanted {
                break;
            }
            wanted *= 4;
        }
        line.truncate(lines::without_carriage_return(&line).len());
        Ok(line)
    }

    /// Reads exactly `buffer.len()` bytes at `offset`. They must lie in one part.
    ///
    /// # Errors
    /// When the file has become shorter, or the disk fails.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), InputError> {
        let part = self.part_at(offset);
        part.stored.read_exact_at(buffer, offset - part.start).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => InputError::Shrunk { name: part.name.clone() },
            _ => FileError::on("read", &part.path)(source).into(),
        })
    }
}

/// Where the bytes of `input` can be read at any offset: its own path, or that of `spool`, to which they are copied if
/// they cannot be read again where they are, or are compressed.
///
/// # Errors
/// As those of [`Source::open`].
pub fn at_rest(input: &Input, spool: &Path, spooled: &dyn Fn(u64)) -> Result<PathBuf, InputError> {
    Ok(open_part(input, spool, spooled)?.path)
}

fn open_part(input: &Input, spool: &Path, spooled: &dyn Fn(u64)) -> Result<Part, InputError> {
    let (name, mut file, identity) = open_input(input)?;
    let path = input.path();
    let failed = || FileError::on("read", path);
    let at_rest = file.is_at_rest().map_err(failed())?;
    let mut magic = [0; 4];
    let read = if at_rest { file.read_some_at(&mut magic, 0) } else { read_full(&mut file, &mut magic) };
    let magic = &magic[..read.map_err(failed())?];
    let compressed = magic.starts_with(GZIP_MAGIC) || zstd::is_frame(magic);
    // Standard input from a file needs no copy now, but a later command could not find it again.
    if at_rest && !compressed && *input != Input::Stdin {
        return Ok(Part { identity, ..Part::new(name, Arc::new(file), path.to_owned()) });
    }
    // A leftover of an attempt that was killed.
    durable::remove_file(spool)?;
    let mut target = LocalFile::create_new(spool)?;
    let bytes = if compressed {
        let rest: Box<dyn Read> =
            if at_rest { Box::new(file) } else { Box::new(io::Cursor::new(magic.to_vec()).chain(file)) };
        inflate(&name, magic, rest, &mut target, spooled)?
    } else {
        let first = if at_rest { &[] } else { magic };
        copy(&name, &mut first.chain(file), &mut target, spooled)?
    };
    spooled(bytes);
    let target = Arc::new(target);
    Ok(Part { identity, spool: Some(target.clone()), ..Part::new(name, target, spool.to_owned()) })
}

/// Opens an input as it is: what messages call it, its bytes, and what its file is like.
fn open_input(input: &Input) -> Result<(String, LocalFile, Option<StoredIdentity>), InputError> {
    let path = input.path();
    match input {
        Input::File(_) => {
            let file = LocalFile::open(path)?;
            if file.is_directory().map_err(FileError::on("read", path))? {
                return Err(InputError::Directory { path: path.to_owned() });
            }
            let identity = file.identity().map_err(FileError::on("read", path))?;
            Ok((path.display().to_string(), file, Some(identity)))
        }
        Input::Stdin if io::stdin().is_terminal() => Err(InputError::StdinIsTerminal),
        Input::Stdin => Ok(("<stdin>".to_owned(), LocalFile::stdin(path)?, None)),
    }
}

fn inflate(
    name: &str,
    magic: &[u8],
    compressed: Box<dyn Read + '_>,
    target: &mut LocalFile,
    spooled: &dyn Fn(u64),
) -> Result<u64, InputError> {
    let compressed = io::BufReader::with_capacity(PIPE_BYTES, compressed);
    if magic.starts_with(GZIP_MAGIC) {
        copy(name, &mut flate2::bufread::MultiGzDecoder::new(compressed), target, spooled)
    } else {
        copy(name, &mut ZstdDecoder::new(compressed, ZSTD_WINDOW_MAX), target, spooled)
    }
}

/// Copies all of `from` to the spool. A failed read is the input's fault, a failed write the spool's.
fn copy(name: &str, from: &mut dyn Read, target: &mut LocalFile, spooled: &dyn Fn(u64)) -> Result<u64, InputError> {
    let mut buffer = AlignedBuffer::default();
    buffer.place(0, PIPE_BYTES);
    let spool = target.path().to_owned();
    let mut writer = BlockWriter::new(target);
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => {
                writer.flush().map_err(FileError::on("write", &spool))?;
                return Ok(total);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(InputError::Unreadable { name: name.to_owned(), source }),
        };
        writer.write_all(&buffer[..read]).map_err(FileError::on("write", &spool))?;
        total += read as u64;
        spooled(total);
    }
}

/// Fills `buffer` from a pipe; returns how many bytes there were before its end.
fn read_full(file: &mut LocalFile, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
