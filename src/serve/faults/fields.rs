//! Reads one `[[fault]]` table, member by member, and says on which line something is wrong with it.
//!
//! In: a table of a TOML document. Out: typed values.
//! Invariants: an unknown member is an error, never ignored; an error names the file, the line and
//! the member.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::de::{DeTable, DeValue};

use crate::model::shown::Name;
use crate::storage::durable::FileError;

/// Why a script of faults cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// The file cannot be read.
    #[error("cannot read the faults in {}", Name(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file says something that makes no sense.
    #[error("{}:{line}: {what}", Name(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
}

/// The text of a script, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    pub(crate) path: &'t Path,
    pub(crate) text: &'t str,
}

impl Source<'_> {
    /// What is wrong at the byte `offset`.
    pub(crate) fn error(&self, offset: usize, what: impl Into<String>) -> FaultsError {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        FaultsError::Invalid { path: self.path.to_owned(), line, what: what.into() }
    }

    /// The same, for an error of the TOML parser; `offset` is where it happened if the parser does not know.
    pub(crate) fn toml_error(&self, offset: usize, about: &str, error: &toml::de::Error) -> FaultsError {
        let offset = error.span().map_or(offset, |span| span.start);
        self.error(offset, format!("{about}{}", error.message()))
    }
}

/// A member's value, and the byte of the document where it begins.
type Member<'t> = toml::Spanned<DeValue<'t>>;

/// The members of one `[[fault]]` that have not been read yet.
#[derive(Debug)]
pub(crate) struct Fields<'t> {
    source: Source<'t>,
    table: DeTable<'t>,
    /// The byte where the table begins.
    offset: usize,
    /// The name of the fault, once it is known.
    verb: String,
    /// What was asked for so far: what the fault takes.
    asked: Vec<&'static str>,
}

impl<'t> Fields<'t> {
    pub(crate) fn new(source: Source<'t>, offset: usize, table: DeTable<'t>) -> Self {
        Self { source, table, offset, verb: "the fault".to_owned(), asked: Vec::new() }
    }

    /// Reads `do`: which fault it is.
    pub(crate) fn verb(&mut self) -> Result<String, FaultsError> {
        let verb: String = self.need("do")?;
        self.verb.clone_from(&verb);
        Ok(verb)
    }

    /// The value of a member, if it is there.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, FaultsError> {
        self.checked(name, Ok)
    }

    /// The value of a member that must be there.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, FaultsError> {
        self.take(name)?.ok_or_else(|| self.missing(name))
    }

    /// A length of time, such as `"200ms"`, `"5s"` or `"1m 30s"`.
    pub(crate) fn time(&mut self, name: &'static str) -> Result<Option<Duration>, FaultsError> {
        self.checked(name, |text: String| {
            let time = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
            time.ok_or_else(|| format!("{text:?} is not a duration; write it like \"200ms\", \"5s\" or \"2m\""))
        })
    }

    /// A length of time that must be there.
    pub(crate) fn need_time(&mut self, name: &'static str) -> Result<Duration, FaultsError> {
        self.time(name)?.ok_or_else(|| self.missing(name))
    }

    /// A share, from 0 to 1.
    pub(crate) fn share(&mut self, name: &'static str) -> Result<Option<f64>, FaultsError> {
        self.checked(name, |share: f64| {
            let fits = (0.0..=1.0).contains(&share);
            if fits { Ok(share) } else { Err(format!("{share} is not a share; it goes from 0 to 1")) }
        })
    }

    /// A number of at least 1.
    pub(crate) fn count(&mut self, name: &'static str) -> Result<Option<u64>, FaultsError> {
        self.checked(name, |count: u64| if count == 0 { Err("it counts from 1".to_owned()) } else { Ok(count) })
    }

    /// One number of at least 1, or a list of them.
    pub(crate) fn counts(&mut self, name: &'static str) -> Result<Option<Vec<u64>>, FaultsError> {
        self.checked(name, |some: OneOrMore<u64>| {
            let counts = some.into_vec();
            let fits = !counts.is_empty() && !counts.contains(&0);
            if fits { Ok(counts) } else { Err("it names numbers, which count from 1".to_owned()) }
        })
    }

    /// A member whose value `check` accepts; its error says what is wrong.
    pub(crate) fn checked<T: DeserializeOwned, U>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<Option<U>, FaultsError> {
        self.asked.push(name);
        let Some(value): Option<Member<'_>> = self.table.remove(name) else { return Ok(None) };
        let offset = value.span().start;
        let about = format!("`{name}`: ");
        let value = T::deserialize(value.into_deserializer())
            .map_err(|error| self.source.toml_error(offset, &about, &error))?;
        let value = check(value).map_err(|what| self.source.error(offset, format!("{about}{what}")))?;
        Ok(Some(value))
    }

    /// Makes sure that nothing is left.
    pub(crate) fn finish(self) -> Result<(), FaultsError> {
        match self.table.keys().min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => {
                let what =
                    format!("`{}` means nothing to {}; it takes {}", key.get_ref(), self.verb, self.asked.join(", "));
                Err(self.source.error(key.span().start, what))
            }
        }
    }

    /// What is wrong with the fault as a whole.
    pub(crate) fn error(&self, what: impl Into<String>) -> FaultsError {
        self.source.error(self.offset, what)
    }

    /// That a member is not there.
    pub(crate) fn missing(&self, name: &str) -> FaultsError {
        self.error(format!("{} needs `{name}`", self.verb))
    }
}

/// A value, or a list of such values.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected one value of the right kind, or a list of them")]
pub(crate) enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

impl From<FileError> for FaultsError {
    fn from(FileError { path, source, .. }: FileError) -> Self {
        Self::Unreadable { path, source }
    }
}
