//! The Source: where the input's bytes can be read again at any offset.
//!
//! In: paths and standard input, plain or compressed. Out: one space of offsets over all of them.
//!
//! What always holds:
//! - Every byte can be read again, at any offset, until the Source is dropped: what cannot be re-read where it is (a pipe,
//!   compressed data) is copied to a spool file first, once.
//! - A part is as long as it was when it was opened; bytes appended later are not seen, and a part that shrinks is an error
//!   at the read that misses them, never a signal (the reason for `pread` instead of a memory map).
//! - No line spans two parts.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::InputError;
use crate::storage::aligned::{AlignedBuffer, BlockWriter};
use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::lines;
use crate::storage::lines::Extent;
use crate::storage::zstd;
use crate::storage::zstd::ZstdDecoder;

/// First bytes of a gzip member (RFC 1952).
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// Largest window of a Zstandard frame that is decoded, in bytes. It is held in memory. `zstd` itself decodes no larger ones unless it is
/// told to.
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

/// What identifies the state of a file without reading it. Two equal identities mean, short of a clock set back,
/// that the content has not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Absolute path.
    #[serde(with = "crate::storage::path_text")]
    pub path: PathBuf,
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Last change of the content, in nanoseconds since 1970.
    pub modified_ns: i128,
}

impl FileIdentity {
    /// The identity of the file at `path` as it is now.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let metadata = std::fs::metadata(path).map_err(FileError::on("read", path))?;
        Ok(Self {
            path: std::path::absolute(path).map_err(FileError::on("resolve", path))?,
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        })
    }
}

/// One file of the Source.
#[derive(Debug)]
pub struct Part {
    /// What messages call it: the path as the user gave it, or `<stdin>`.
    pub name: String,
    file: File,
    /// Where it is on disk: the user's file or the spool.
    pub path: PathBuf,
    /// Whether `path` is a spool of ours.
    pub spooled: bool,
    /// Offset of its first byte in the Source.
    pub start: u64,
    /// Bytes of a byte order mark, which belong to no line.
    pub mark_bytes: u64,
    /// Size in bytes, the mark included.
    pub bytes: u64,
}

impl Part {
    /// What is framed into lines, in offsets of the part's file.
    #[must_use]
    pub fn extent(&self) -> Extent<'_> {
        Extent { file: &self.file, start: self.mark_bytes, end: self.bytes }
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
    pub fn reopen(paths: impl IntoIterator<Item = (String, PathBuf, bool)>) -> Result<Self, InputError> {
        let mut source = Self { parts: Vec::new(), bytes: 0 };
        for (name, path, spooled) in paths {
            let file = File::open(&path).map_err(FileError::on("open", &path))?;
            source.push(Part { name, file, path, spooled, start: 0, mark_bytes: 0, bytes: 0 })?;
        }
        Ok(source)
    }

    fn push(&mut self, mut part: Part) -> Result<(), InputError> {
        let metadata = part.file.metadata().map_err(FileError::on("read", &part.path))?;
        part.mark_bytes = lines::mark_bytes(&part.file).map_err(FileError::on("read", &part.path))?;
        part.start = self.bytes;
        part.bytes = metadata.len();
        self.bytes += part.bytes;
        self.parts.push(part);
        Ok(())
    }

    /// Waits until what was spooled is on disk.
    pub fn sync_spools(&self) -> Result<(), InputError> {
        for part in self.parts.iter().filter(|part| part.spooled) {
            durable::sync(&part.file, &part.path)?;
        }
        Ok(())
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
        part.file.read_exact_at(buffer, offset - part.start).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => InputError::Shrunk { name: part.name.clone() },
            _ => FileError::on("read", &part.path)(source).into(),
        })
    }
}

/// Where the bytes of `input` can be read at any offset: its own path, or that of `spool`, to which they are copied if they cannot be read
/// again where they are, or are compressed.
///
/// # Errors
/// As those of [`Source::open`].
pub fn at_rest(input: &Input, spool: &Path, spooled: &dyn Fn(u64)) -> Result<PathBuf, InputError> {
    Ok(open_part(input, spool, spooled)?.path)
}

fn open_part(input: &Input, spool: &Path, spooled: &dyn Fn(u64)) -> Result<Part, InputError> {
    let (name, mut file, path) = match input {
        Input::File(path) => {
            let file = File::open(path).map_err(FileError::on("open", path))?;
            if file.metadata().map_err(FileError::on("read", path))?.is_dir() {
                return Err(InputError::Directory { path: path.clone() });
            }
            (path.display().to_string(), file, path.clone())
        }
        Input::Stdin => {
            if io::stdin().is_terminal() {
                return Err(InputError::StdinIsTerminal);
            }
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            let path = PathBuf::from(STDIN);
            ("<stdin>".to_owned(), stdin.map(File::from).map_err(FileError::on("open", &path))?, path)
        }
    };
    let seekable = file.metadata().map_err(FileError::on("read", &path))?.is_file()
        && file.stream_position().map_err(FileError::on("read", &path))? == 0;
    let mut magic = [0; 4];
    let read = if seekable { read_start(&file, &mut magic) } else { read_full(&mut file, &mut magic) };
    let magic = &magic[..read.map_err(FileError::on("read", &path))?];
    let compressed = magic.starts_with(GZIP_MAGIC) || zstd::is_frame(magic);
    let part =
        |file, path, spooled| Part { name: name.clone(), file, path, spooled, start: 0, mark_bytes: 0, bytes: 0 };
    // Standard input from a file needs no copy now, but a later command could not find it again.
    if seekable && !compressed && *input != Input::Stdin {
        return Ok(part(file, path, false));
    }
    // A leftover of an attempt that was killed.
    durable::remove_file(spool)?;
    let target = durable::create_new(spool)?;
    let bytes = if compressed {
        let rest: Box<dyn Read> =
            if seekable { Box::new(file) } else { Box::new(io::Cursor::new(magic.to_vec()).chain(file)) };
        inflate(&name, magic, rest, &target, spool, spooled)?
    } else {
        let first = if seekable { &[] } else { magic };
        copy(&name, &mut first.chain(file), &target, spool, spooled)?
    };
    spooled(bytes);
    Ok(part(target, spool.to_owned(), true))
}

fn inflate(
    name: &str,
    magic: &[u8],
    compressed: Box<dyn Read + '_>,
    target: &File,
    spool: &Path,
    spooled: &dyn Fn(u64),
) -> Result<u64, InputError> {
    let compressed = io::BufReader::with_capacity(PIPE_BYTES, compressed);
    if magic.starts_with(GZIP_MAGIC) {
        copy(name, &mut flate2::bufread::MultiGzDecoder::new(compressed), target, spool, spooled)
    } else {
        copy(name, &mut ZstdDecoder::new(compressed, ZSTD_WINDOW_MAX), target, spool, spooled)
    }
}

/// Copies all of `from` to the spool. A failed read is the input's fault, a failed write the spool's.
fn copy(
    name: &str,
    from: &mut dyn Read,
    target: &File,
    spool: &Path,
    spooled: &dyn Fn(u64),
) -> Result<u64, InputError> {
    let mut buffer = AlignedBuffer::default();
    buffer.place(0, PIPE_BYTES);
    let mut writer = BlockWriter::new(target);
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => {
                writer.flush().map_err(FileError::on("write", spool))?;
                return Ok(total);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(InputError::Unreadable { name: name.to_owned(), source }),
        };
        writer.write_all(&buffer[..read]).map_err(FileError::on("write", spool))?;
        total += read as u64;
        spooled(total);
    }
}

/// Reads the first bytes of a file that can be read at any offset; returns how many there were.
fn read_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// Fills `buffer` from a pipe; returns how many bytes there were before its end.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
