//! The script of faults as a file: TOML with one `[[fault]]` after the other.
//!
//! In: the text of a file. Out: its rules, all of them checked.
//! What always holds: nothing in the file is ignored.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::fields::{FaultsError, Fields, Source};
use super::rows::{self, RowFault};
use crate::serve::faults::batch_faults;
use crate::serve::faults::batch_faults::Ending;
use crate::serve::faults::request_faults;
use crate::serve::faults::request_faults::Conduct;
use crate::serve::faults::selector::{CallName, Calls, Picks};
use crate::serve::faults::view_faults;
use crate::serve::faults::view_faults::Show;
use crate::storage::durable::FileError;

/// A script of faults: what goes wrong in a [`Server`](crate::serve::Server), and when. The module's documentation has
/// all that it can say.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub(super) rules: Vec<Rule>,
}

/// One `[[fault]]`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Its place in the script, from 0.
    pub(super) index: usize,
    /// What its `do` says: the name in the logs.
    pub(super) name: String,
    pub(super) picks: Picks,
    pub(super) batches: Option<Vec<u64>>,
    pub(super) file: Option<Role>,
    pub(super) verb: Verb,
}

/// What a fault does.
#[derive(Clone, Debug)]
pub(super) enum Verb {
    Conduct(Calls, Conduct),
    Show(Calls, Show),
    Rows(RowFault),
    Ending(Ending),
}

/// What a file is to a batch.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    Input,
    Output,
    Error,
}

impl Faults {
    /// Reads a script from a file.
    pub fn load(path: &Path) -> Result<Self, FaultsError> {
        let text = fs::read_to_string(path).map_err(FileError::on("read", path))?;
        Self::parse(path, &text)
    }

    /// Reads a script; `path` is for the messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FaultsError> {
        let source = Source { path, text };
        let document = DeTable::parse(text).map_err(|error| source.toml_error(0, "", &error))?;
        let mut document = document.into_inner();
        let faults = document.remove("fault");
        if let Some(key) = document.keys().next() {
            let what = format!("`{}` means nothing here; a script is a list of [[fault]]", key.get_ref());
            return Err(source.error(key.span().start, what));
        }
        let Some(faults) = faults else { return Ok(Self::default()) };
        let offset = faults.span().start;
        let DeValue::Array(faults) = faults.into_inner() else {
            return Err(source.error(offset, "`fault` is one of many: write [[fault]]"));
        };
        let mut rules = Vec::new();
        for fault in faults {
            let offset = fault.span().start;
            let DeValue::Table(table) = fault.into_inner() else {
                return Err(source.error(offset, "a fault is a table: write [[fault]]"));
            };
            rules.push(Rule::read(rules.len(), Fields::new(source, offset, table))?);
        }
        Ok(Self { rules })
    }

    /// Whether nothing goes wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    fn read(index: usize, mut fields: Fields<'_>) -> Result<Self, FaultsError> {
        let name = fields.verb()?;
        let picks = Picks::read(&mut fields)?;
        let batches = fields.counts("batch")?;
        let verb = Verb::read(&name, &mut fields)?;
        let file = match &verb {
            Verb::Conduct(..) => fields.take("file")?,
            _ => None,
        };
        if batches.is_some() && matches!(&verb, Verb::Rows(_) | Verb::Ending(_)) && picks != Picks::default() {
            return Err(fields.error("`batch` and `nth` both choose batches here; give one of them"));
        }
        fields.finish()?;
        Ok(Self { index, name, picks, batches, file, verb })
    }
}

impl Verb {
    fn read(name: &str, fields: &mut Fields<'_>) -> Result<Self, FaultsError> {
        let calls = |fields: &mut Fields<'_>, (usual, possible): (&[CallName], Option<&[CallName]>)| {
            Calls::read(fields, usual, possible)
        };
        if let Some(fault) = Conduct::read(name, fields)? {
            return Ok(Self::Conduct(calls(fields, fault.calls())?, fault));
        }
        if let Some(fault) = Show::read(name, fields)? {
            return Ok(Self::Show(calls(fields, fault.calls())?, fault));
        }
        if let Some(fault) = RowFault::read(name, fields)? {
            return Ok(Self::Rows(fault));
        }
        if let Some(fault) = Ending::read(name, fields)? {
            return Ok(Self::Ending(fault));
        }
        let known: Vec<_> = names().collect();
        Err(fields.error(format!("there is no fault {name:?}; there are {}", known.join(", "))))
    }
}

/// The names of all faults.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    request_faults::names().chain([view_faults::NAMES, rows::NAMES, batch_faults::NAMES].into_iter().flatten().copied())
}
