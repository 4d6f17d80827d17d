//! All files that a command was given, compared with each other.
//!
//! In: paths with their roles; first those that are read, then those that are written. Out: nothing, or why the command
//! must not start.
//!
//! Existing files are the same if device and inode are, so links of both kinds, `./`, `..` and `/proc/self/fd` are
//! resolved. New files are the same if name and directory are. Where the file system ignores case, paths that differ
//! only in case are the same.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::user_files::place;
use crate::storage::user_files::place::{Kind, Object, Place};
use crate::storage::user_files::target::{Role, TargetError};

/// All files that a command was given, all of them distinct. See the [module](super).
#[derive(Debug, Default)]
pub struct NamedFiles {
    files: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    role: Role,
    /// As it was typed.
    path: PathBuf,
    object: Object,
    kind: Kind,
    using: Using,
    /// The path without links, if it has one.
    resolved: Option<PathBuf>,
    /// The same in lower case.
    folded: Option<String>,
}

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Using {
    Read,
    /// Written to directly.
    Stream,
    /// Replaced, or created.
    Replace,
}

impl NamedFiles {
    /// Adds a file that is read.
    pub fn read(&mut self, role: Role, path: &Path) -> Result<(), TargetError> {
        let unreadable = |error| TargetError::Unreadable(FileError::on("open", path)(error));
        let place = Place::of(path).map_err(unreadable)?;
        let metadata = place.metadata().map_err(unreadable)?;
        let metadata = metadata.ok_or_else(|| unreadable(Errno::NOENT.into()))?;
        let resolved = place.path().and_then(|path| path.canonicalize().ok());
        let (object, kind) = (Object::there(&metadata), metadata.file_type().into());
        self.files.push(Named::new(role, path, object, kind, Using::Read, resolved));
        Ok(())
    }

    /// Adds a file that is written: it must differ from all earlier ones, and must be writable.
    pub fn write(&mut self, role: Role, path: &Path) -> Result<(), TargetError> {
        let target = writable(role, path)?;
        if let Some(other) = self.files.iter().find(|other| target.clashes_with(other)) {
            let (path, other_path) = (path.to_owned(), other.path.clone());
            return Err(TargetError::Clash { role, path, other: other.role, other_path });
        }
        self.files.push(target);
        Ok(())
    }

    /// The same, but an existing file is not replaced.
    pub fn write_new(&mut self, role: Role, path: &Path) -> Result<(), TargetError> {
        self.write(role, path)?;
        match self.files.last() {
            Some(Named { using: Using::Replace, object: Object::There { .. }, .. }) => {
                Err(TargetError::Exists { role, path: path.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Adds a directory that is created for files of a role, with its missing parents.
    pub fn make_directory(&mut self, role: Role, path: &Path) -> Result<(), TargetError> {
        let above = path.ancestors().map(place::or_here).find(|above| above.symlink_metadata().is_ok());
        let above = above.unwrap_or(path);
        if !above.is_dir() {
            let (path, directory) = (path.to_owned(), above.to_owned());
            return Err(TargetError::NoDirectory { role, path, directory });
        }
        let unwritable = |errno: Errno| TargetError::Unwritable { role, path: path.to_owned(), source: errno.into() };
        rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK).map_err(unwritable)
    }

    /// The files that are replaced or created.
    pub fn written(&self) -> impl Iterator<Item = Written<'_>> {
        self.files.iter().filter(|named| named.using == Using::Replace).filter_map(|named| {
            let resolved = named.resolved.as_deref()?;
            Some(Written { role: named.role, path: &named.path, resolved })
        })
    }
}

/// A file that is replaced or created.
#[derive(Debug, Clone, Copy)]
pub struct Written<'n> {
    /// What it is for.
    pub role: Role,
    /// As it was typed.
    pub path: &'n Path,
    /// Without links.
    pub resolved: &'n Path,
}

impl Named {
    fn new(role: Role, path: &Path, object: Object, kind: Kind, using: Using, resolved: Option<PathBuf>) -> Self {
        let folded = resolved.as_ref().map(|resolved| resolved.to_string_lossy().to_lowercase());
        Self { role, path: path.to_owned(), object, kind, using, resolved, folded }
    }

    /// Whether writing to this, the later one, would damage the other, or vice versa.
    fn clashes_with(&self, other: &Self) -> bool {
        let both_written = self.using == Using::Stream && other.using == Using::Stream;
        let harm = match self.kind {
            Kind::Device => false,
            Kind::Socket if other.using == Using::Read => false,
            // Sequential writes are fine, as on a terminal; concurrent ones would interleave within lines.
            _ if both_written => self.role == Role::Errors && other.role == Role::Output,
            _ => true,
        };
        harm && self.is(other)
    }

    fn is(&self, other: &Self) -> bool {
        let folded = || self.folded == other.folded && self.folded.is_some();
        let in_it = || self.resolved.as_deref().map_or(Path::new("."), place::parent);
        self.object == other.object || folded() && durable::ignores_case(in_it())
    }
}

/// The place at `path`, if it can be written.
fn writable(role: Role, path: &Path) -> Result<Named, TargetError> {
    let unwritable = |source| TargetError::Unwritable { role, path: path.to_owned(), source };
    let no_directory = |at: &Path| {
        let directory = if place::ends_with_slash(at) { at } else { place::parent(at) };
        TargetError::NoDirectory { role, path: path.to_owned(), directory: directory.to_owned() }
    };
    let place = Place::of(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => no_directory(path),
        _ => unwritable(error),
    })?;
    let metadata = place.metadata().map_err(unwritable)?;
    if metadata.as_ref().is_some_and(Metadata::is_dir) {
        return Err(TargetError::Directory { role, path: path.to_owned() });
    }
    if place.is_for_reading() {
        return Err(unwritable(Errno::BADF.into()));
    }
    let mut resolved = None;
    let mut object = metadata.as_ref().map(Object::there);
    if let Place::File(target) | Place::Free(target) = &place {
        let directory = place::parent(target).canonicalize().and_then(|path| Ok((path.metadata()?, path)));
        let Ok((in_directory, directory)) = directory else { return Err(no_directory(target)) };
        if !in_directory.is_dir() || place::ends_with_slash(target) {
            return Err(no_directory(target));
        }
        let name = target.file_name().ok_or_else(|| unwritable(Errno::NOENT.into()))?;
        resolved = Some(directory.join(name));
        rustix::fs::access(&directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| unwritable(errno.into()))?;
        object = object.or_else(|| Some(Object::free(&in_directory, target)));
    }
    if let Place::File(target) | Place::Stream(target) = &place {
        // It could be replaced nevertheless, but a read-only file is meant to be kept.
        rustix::fs::access(target, Access::WRITE_OK).map_err(|errno| unwritable(errno.into()))?;
    }
    let kind = metadata.map_or(Kind::Stored, |metadata| metadata.file_type().into());
    if kind == Kind::Socket && matches!(place, Place::Stream(_)) {
        return Err(unwritable(Errno::NXIO.into()));
    }
    let using = if place.is_stream() { Using::Stream } else { Using::Replace };
    let object = object.ok_or_else(|| unwritable(Errno::NOENT.into()))?;
    Ok(Named::new(role, path, object, kind, using, resolved))
}
