//! All files that one command was told of, compared with one another.
//!
//! In: paths with their roles; what is read first, then what is written. Out: nothing, or why the command must not
//! begin.
//!
//! Files that exist are the same when device and inode are, so that links of both kinds, `./`, `..` and `/proc/self/fd`
//! are seen through. Names that are free are the same in the same directory. Where the file system ignores case, paths
//! that differ in nothing else are the same.

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

/// All files that one command was told of, each of which is another one. See the [module](super).
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
    /// The path without links, of what has one.
    resolved: Option<PathBuf>,
    /// The same in lower case.
    folded: Option<String>,
}

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Using {
    Read,
    /// Written through, as it is.
    Stream,
    /// Replaced, or made.
    Replace,
}

impl NamedFiles {
    /// Takes note of a file that is read.
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

    /// Takes note of a file that is written: it must be another one than all before, and it must be writable.
    pub fn write(&mut self, role: Role, path: &Path) -> Result<(), TargetError> {
        let target = writable(role, path)?;
        if let Some(other) = self.files.iter().find(|other| target.clashes_with(other)) {
            let (path, other_path) = (path.to_owned(), other.path.clone());
            return Err(TargetError::Clash { role, path, other: other.role, other_path });
        }
        self.files.push(target);
        Ok(())
    }

    /// The same for a file that is there only if somebody made it on purpose: it is not replaced.
    pub fn write_new(&mut self, role: Role, path: &Path) -> Result<(), TargetError> {
        self.write(role, path)?;
        match self.files.last() {
            Some(Named { using: Using::Replace, object: Object::There { .. }, .. }) => {
                Err(TargetError::Exists { role, path: path.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Takes note of a directory that is made for files of a role, with those above it that are missing.
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

    /// The files that are replaced or made.
    pub fn written(&self) -> impl Iterator<Item = Written<'_>> {
        self.files.iter().filter(|named| named.using == Using::Replace).filter_map(|named| {
            let resolved = named.resolved.as_deref()?;
            Some(Written { role: named.role, path: &named.path, resolved })
        })
    }
}

/// A file that is replaced or made.
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

    /// Whether writing to this, the later one, would harm the other, or it this.
    fn clashes_with(&self, other: &Self) -> bool {
        let both_written = self.using == Using::Stream && other.using == Using::Stream;
        let harm = match self.kind {
            Kind::Device => false,
            Kind::Socket if other.using == Using::Read => false,
            // One after the other they may, as on a terminal; at the same time their lines would be torn.
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

/// What stands at `path`, if it can be written.
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
        // A file could be replaced all the same; who has made it read-only wants it to stay.
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
