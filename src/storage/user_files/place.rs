//! What is at a path that the user typed.
//!
//! In: a path. Out: a [`Place`], which says how it is written to, and an [`Object`], by which two spellings of one
//! place are recognised.

use std::ffi::OsString;
use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::storage::durable;

/// Maximum chain of symbolic links that is followed: the kernel's own limit.
const LINKS_MAX: usize = 40;

/// How a place is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Through an existing descriptor of this process: `/dev/stdout`, `/dev/fd/3`, the shell's `>(…)`.
    Descriptor(u32),
    /// Directly: a device, a named pipe.
    Stream(PathBuf),
    /// By replacing the regular file of that name. Symbolic links are followed: the link is kept.
    File(PathBuf),
    /// By creating a file of that name, which does not exist.
    Free(PathBuf),
}

impl Place {
    pub(crate) fn of(typed: &Path) -> io::Result<Self> {
        let mut path = typed.to_owned();
        for _ in 0..LINKS_MAX {
            if let Some(number) = descriptor(&path) {
                return Ok(Self::Descriptor(number));
            }
            let metadata = match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Free(path)),
                metadata => metadata?,
            };
            if !metadata.is_symlink() {
                return Ok(if metadata.is_file() { Self::File(path) } else { Self::Stream(path) });
            }
            // The links below /proc refer to pipes whose names are not paths.
            if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
                return Ok(Self::Stream(path));
            }
            path = path.parent().unwrap_or(Path::new("")).join(path.read_link()?);
        }
        Err(Errno::LOOP.into())
    }

    /// Its metadata; `None` for a name that does not exist.
    pub(crate) fn metadata(&self) -> io::Result<Option<Metadata>> {
        match self {
            Self::Descriptor(number @ 0..=2) => standard(*number).and_then(|file| file.metadata()).map(Some),
            Self::Descriptor(number) => descriptor_path(*number).metadata().map(Some),
            Self::Stream(path) | Self::File(path) => path.metadata().map(Some),
            Self::Free(_) => Ok(None),
        }
    }

    /// The path, where there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Descriptor(_) => None,
            Self::Stream(path) | Self::File(path) | Self::Free(path) => Some(path),
        }
    }

    /// Whether nothing can be written to it, because it was opened for reading.
    pub(crate) fn is_for_reading(&self) -> bool {
        let Self::Descriptor(number @ 0..=2) = self else { return false };
        let flags = standard(*number).and_then(|file| Ok(rustix::fs::fcntl_getfl(&file)?));
        flags.is_ok_and(|flags| flags.intersection(OFlags::ACCMODE) == OFlags::RDONLY)
    }

    /// Whether it is written to directly rather than replaced.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Descriptor(_) | Self::Stream(_))
    }
}

/// The directory of a path.
pub(crate) fn parent(path: &Path) -> &Path {
    or_here(path.parent().unwrap_or(Path::new("")))
}

/// A directory, which has no name if it is the working directory.
pub(crate) fn or_here(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// Whether a path denotes a directory by its form.
pub(crate) fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

/// The number of the descriptor that a path denotes.
fn descriptor(path: &Path) -> Option<u32> {
    match path.to_str() {
        Some("/dev/stdin") => return Some(0),
        Some("/dev/stdout") => return Some(1),
        Some("/dev/stderr") => return Some(2),
        _ => {}
    }
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let directory = path.parent()?.canonicalize().ok()?;
    let is_ours = |known: &str| Path::new(known).canonicalize().is_ok_and(|known| known == directory);
    (is_ours("/dev/fd") || is_ours("/proc/self/fd")).then_some(number)
}

/// A duplicate of a descriptor of this process, for writing.
///
/// The standard ones share their offset with other processes, so that output of a script before and after is kept.
/// Others are reopened, at the end of the file.
pub(crate) fn open_descriptor(number: u32) -> io::Result<File> {
    match number {
        0..=2 => standard(number),
        _ => durable::open_descriptor(&descriptor_path(number)).map_err(|error| error.source),
    }
}

fn standard(number: u32) -> io::Result<File> {
    let copy = match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    };
    copy.map(File::from)
}

fn descriptor_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/fd/{number}"))
}

/// What is at a place, independent of its spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// Something that exists.
    There { device: u64, inode: u64 },
    /// A new name in an existing directory.
    Free { device: u64, inode: u64, name: OsString },
}

impl Object {
    pub(crate) fn there(metadata: &Metadata) -> Self {
        Self::There { device: metadata.dev(), inode: metadata.ino() }
    }

    pub(crate) fn free(directory: &Metadata, path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_owned();
        Self::Free { device: directory.dev(), inode: directory.ino(), name }
    }
}

/// The kind of file, as far as it matters for sharing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Persistent bytes: a file, a disk.
    Stored,
    /// Nothing, or a terminal: any number may write to it.
    Device,
    /// A pipe: bytes are read once.
    Pipe,
    /// A pipe in each direction.
    Socket,
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match () {
            () if kind.is_char_device() => Self::Device,
            () if kind.is_fifo() => Self::Pipe,
            () if kind.is_socket() => Self::Socket,
            () => Self::Stored,
        }
    }
}
