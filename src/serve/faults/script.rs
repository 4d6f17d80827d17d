//! The script of faults as a file: TOML with one `[[fault]]` after the other.
//!
//! In: the text of a file. Out: its rules, all of them checked.
//! Invariants: nothing in the file is ignored.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::batch_faults::{self, BatchFault};
use super::fields::{FaultsError, Fields, Source};
use super::request_faults::{self, RequestFault};
use super::row_faults::{self, RowFault};
use super::selector::{CallName, CallSet, Selector};
use super::trigger::Trigger;
use super::view_faults::{self, ViewFault};
use crate::storage::local_file::LocalFile;

/// A script of faults: what goes wrong in a [`Server`](crate::serve::Server), and when. The module's documentation has
/// all that it can say.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub(super) rules: Vec<Rule>,
}

/// One `[[fault]]`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) trigger: Trigger,
    pub(super) fault: Fault,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// In how these calls are answered.
    Request(CallSet, RequestFault),
    /// In what the answers to these calls show of batches.
    View(CallSet, ViewFault),
    /// In the rows of a batch.
    Row(RowFault),
    /// In how a batch ends.
    Batch(BatchFault),
}

impl Faults {
    /// Reads a script from a file.
    pub fn load(path: &Path) -> Result<Self, FaultsError> {
        let text = LocalFile::read_text(path)?;
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
        let selector = Selector::read(&mut fields)?;
        let batches = fields.counts("batch")?;
        let fault = Fault::read(&name, &mut fields)?;
        let file = match &fault {
            Fault::Request(..) => fields.take("file")?,
            _ => None,
        };
        if batches.is_some() && matches!(&fault, Fault::Row(_) | Fault::Batch(_)) && selector != Selector::default() {
            return Err(fields.error("`batch` and `nth` both choose batches here; give one of them"));
        }
        fields.finish()?;
        Ok(Self { trigger: Trigger { index, fault: name, selector, batches, file }, fault })
    }
}

impl Fault {
    fn read(name: &str, fields: &mut Fields<'_>) -> Result<Self, FaultsError> {
        let calls = |fields: &mut Fields<'_>, (usual, possible): (&[CallName], Option<&[CallName]>)| {
            CallSet::read(fields, usual, possible)
        };
        if let Some(fault) = RequestFault::read(name, fields)? {
            return Ok(Self::Request(calls(fields, fault.calls())?, fault));
        }
        if let Some(fault) = ViewFault::read(name, fields)? {
            return Ok(Self::View(calls(fields, fault.calls())?, fault));
        }
        if let Some(fault) = RowFault::read(name, fields)? {
            return Ok(Self::Row(fault));
        }
        if let Some(fault) = BatchFault::read(name, fields)? {
            return Ok(Self::Batch(fault));
        }
        let known: Vec<_> = names().collect();
        Err(fields.error(format!("there is no fault {name:?}; there are {}", known.join(", "))))
    }
}

/// The names of all faults.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    request_faults::names()
        .chain([view_faults::NAMES, row_faults::NAMES, batch_faults::NAMES].into_iter().flatten().copied())
}
