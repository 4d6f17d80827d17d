//! Puts faults into the rows of a batch, and into the files that they are written to.
//!
//! In: rows, one at a time. Out: the rows that go into the result files.
//! Invariant: the billing records stay the truth; see [`row_faults`](super::row_faults).

use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::row_faults::{Change, Form, RowFault, StrangeId};
use super::state::FaultState;
use super::trigger::Trigger;
use crate::dialect::row_form::RowForm;
use crate::serve::batch::results::{FileFormat, LineEnds, Receipt, Results};
use crate::serve::batch::row::Kind;
use crate::serve::store::batch::Batch;
use crate::storage::durable::FileError;

/// Bytes that a huge line is padded with at once.
static PADDING: [u8; 1 << 16] = [b'x'; 1 << 16];

/// What the faults do to the rows of one batch.
#[derive(Debug)]
pub(crate) struct RowInjector<'s> {
    state: &'s FaultState,
    /// How its error rows look.
    form: RowForm,
    batch: &'s Batch,
    /// Each with the number of rows that it acted on so far.
    faults: Vec<(&'s Trigger, &'s RowFault, u64)>,
    /// The requests that had their one error in this batch.
    failed: Vec<u128>,
}

/// A row on its way into a file, while faults act on it.
#[expect(clippy::struct_excessive_bools, reason = "each is what another fault does")]
struct Row {
    kind: Kind,
    bytes: Vec<u8>,
    copies: usize,
    /// Whether the request is among those that the batch counts as answered, or as failed.
    counted: bool,
    /// What a second copy says on top.
    different: bool,
    also_error: Option<Vec<u8>>,
    padding: u64,
    /// Whether the padding comes last.
    padded_last: bool,
    blank_lines: bool,
}

impl<'s> RowInjector<'s> {
    pub(super) fn new(
        state: &'s FaultState,
        form: RowForm,
        batch: &'s Batch,
        faults: impl Iterator<Item = (&'s Trigger, &'s RowFault)>,
    ) -> Self {
        let faults = faults.map(|(trigger, fault)| (trigger, fault, 0)).collect();
        Self { state, form, batch, faults, failed: Vec::new() }
    }

    /// How the files are written.
    pub(crate) fn file_format(&self) -> FileFormat {
        let has = |wanted| {
            self.faults.iter().any(|(_, fault, _)| matches!(fault.change, Change::Form(form) if form == wanted))
        };
        let ends = match (has(Form::Joined), has(Form::NoFinalNewline)) {
            (true, _) => LineEnds::EveryOther,
            (false, true) => LineEnds::Between,
            (false, false) => LineEnds::Each,
        };
        FileFormat { ends, crlf: has(Form::Crlf), bom: has(Form::Bom) }
    }

    /// Adds the row that answers `line`, the `number`th of the input counted from 1, and bills the request if it was
    /// answered.
    pub(crate) fn add(
        &mut self,
        results: &mut Results<'_>,
        (number, line): (u64, &[u8]),
        (kind, bytes): (Kind, &mut Vec<u8>),
        receipt: &Receipt<'_>,
    ) -> Result<(), FileError> {
        if self.faults.is_empty() {
            return results.add(kind, bytes, receipt);
        }
        let row = Row {
            kind,
            bytes: std::mem::take(bytes),
            copies: 1,
            counted: true,
            different: false,
            also_error: None,
            padding: 0,
            padded_last: false,
            blank_lines: false,
        };
        let row = self.changed(row, number, line, receipt);
        if row.kind == Kind::Output {
            results.bill(receipt)?;
        }
        if row.counted {
            results.count(row.kind);
        }
        row.write(results)?;
        *bytes = row.bytes;
        Ok(())
    }

    fn changed(&mut self, mut row: Row, number: u64, line: &[u8], receipt: &Receipt<'_>) -> Row {
        for (trigger, fault, count) in &mut self.faults {
            let seed = self.state.seed_of(trigger);
            if !fault.chooses(number, line, seed) {
                continue;
            }
            let acts = match &fault.change {
                Change::Error { error, once } if row.kind == Kind::Output => {
                    let request = xxh3_128_with_seed(line, seed);
                    let is_due = !once || self.state.failed_once.is_first_in(request, self.batch.number);
                    if is_due {
                        (row.kind, row.bytes) = (Kind::Error, error.row(self.form, receipt));
                    }
                    if is_due && *once {
                        self.failed.push(request);
                    }
                    is_due
                }
                Change::Error { .. } => false,
                change => row.change(change, self.form, receipt),
            };
            *count += u64::from(acts);
        }
        row
    }

    /// Keeps what later batches must know, and records which faults acted.
    pub(crate) fn finish(self) -> Result<(), FileError> {
        if !self.failed.is_empty() {
            self.state.failed_once.keep(&self.batch.id, self.batch.number, &self.failed)?;
        }
        for (trigger, fault, count) in self.faults {
            if count > 0 {
                let rows = (!matches!(fault.change, Change::Form(_))).then_some(count);
                self.state.record(trigger, &self.batch.id, rows)?;
            }
        }
        Ok(())
    }
}

impl Row {
    /// Lets a fault act, and gives whether it did.
    fn change(&mut self, change: &Change, form: RowForm, receipt: &Receipt<'_>) -> bool {
        match change {
            Change::Drop { counted } => (self.copies, self.counted) = (0, *counted),
            Change::Duplicate { different } => (self.copies, self.different) = (2, *different),
            Change::UnknownId { id } => return self.rename(*id, receipt),
            Change::BothFiles { error } => {
                if self.kind == Kind::Error {
                    return false;
                }
                self.also_error = Some(error.row(form, receipt));
            }
            Change::Insert { member } => self.insert(member),
            Change::DuplicateKeys => self.insert(format!("\"custom_id\":{}", receipt.custom_id).as_bytes()),
            Change::Huge { bytes, last } => (self.padding, self.padded_last) = (*bytes, *last),
            Change::BlankLines => self.blank_lines = true,
            Change::Form(_) | Change::Error { .. } => {}
        }
        true
    }

    /// Puts a member first into the row.
    fn insert(&mut self, member: &[u8]) {
        self.bytes = [b"{", member, b",", self.bytes.get(1..).unwrap_or_default()].concat();
    }

    /// Gives the row another id.
    fn rename(&mut self, id: StrangeId, receipt: &Receipt<'_>) -> bool {
        let real = receipt.custom_id;
        let strange = match id {
            StrangeId::Unknown => format!("\"nobody-sent-{}\"", receipt.digest),
            StrangeId::Space => format!("{} \"", &real[..real.len() - 1]),
            _ if real.contains('\\') => return false,
            StrangeId::Case => swap_case(real),
            StrangeId::Number => match real.trim_matches('"') {
                digits if digits.parse::<u64>().is_ok_and(|number| number.to_string() == digits) => digits.to_owned(),
                _ => return false,
            },
            StrangeId::Decomposed => real.nfd().collect(),
            StrangeId::Escapes => with_small_escapes(real),
        };
        let member = format!("\"custom_id\":{real}");
        let found = memchr::memmem::find(&self.bytes, member.as_bytes());
        let Some(place) = found.filter(|_| strange != real) else { return false };
        let renamed = format!("\"custom_id\":{strange}");
        self.bytes.splice(place..place + member.len(), renamed.into_bytes());
        true
    }

    fn write(&self, results: &mut Results<'_>) -> Result<(), FileError> {
        for copy in 0..self.copies {
            results.begin_row(self.kind)?;
            // A row is an object, and so is what is put into it: its members stand between the two brackets.
            let members = self.bytes.get(1..self.bytes.len().saturating_sub(1)).unwrap_or_default();
            results.write(self.kind, b"{")?;
            if copy > 0 && self.different {
                results.write(self.kind, b"\"fault\":\"another answer\",")?;
            }
            if self.padding > 0 && !self.padded_last {
                self.pad(results)?;
                results.write(self.kind, b",")?;
            }
            results.write(self.kind, members)?;
            if self.padding > 0 && self.padded_last {
                results.write(self.kind, b",")?;
                self.pad(results)?;
            }
            results.write(self.kind, b"}")?;
            results.end_row(self.kind)?;
        }
        if let Some(row) = &self.also_error {
            results.add_row(Kind::Error, row)?;
        }
        if self.blank_lines {
            results.add_row(self.kind, b"")?;
            results.add_row(self.kind, b" \t ")?;
        }
        Ok(())
    }

    /// A member of the wanted length, in pieces: it need not fit into memory.
    fn pad(&self, results: &mut Results<'_>) -> Result<(), FileError> {
        results.write(self.kind, b"\"fault\":\"")?;
        let mut left = self.padding;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(PADDING.len());
            results.write(self.kind, &PADDING[..length])?;
            left -= length as u64;
        }
        results.write(self.kind, b"\"")
    }
}

/// The same id, with the digits of its percent escapes in lower case.
fn with_small_escapes(id: &str) -> String {
    let mut pieces = id.split('%');
    let mut small = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or(("", piece));
        small.push('%');
        small.push_str(&digits.to_ascii_lowercase());
        small.push_str(rest);
    }
    small
}

fn swap_case(text: &str) -> String {
    let swap = |letter: char| {
        if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
    };
    text.chars().map(swap).collect()
}
