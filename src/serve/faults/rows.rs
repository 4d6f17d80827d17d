//! Faults in what a batch gives back: its rows, and the files that they are in.
//!
//! In: the rows of a batch, as they are answered. Out: the rows that go into its files.
//! What always holds: the billing ledger stays the truth. A request that was answered is billed once, whatever happens
//! to its row; a request whose row a fault turns into an error is not.

use icu_normalizer::DecomposingNormalizerBorrowed;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::fields::{FaultsError, Fields};
use super::{Rule, Script, Verb};
use crate::serve::echo::Kind;
use crate::serve::faults::selector::is_drawn;
use crate::serve::results::{Receipt, Results};
use crate::serve::row::{self, Answered, RowForm};
use crate::serve::store::Batch;
use crate::storage::durable::FileError;

/// Bytes that a huge line is padded with at once.
static PADDING: [u8; 1 << 16] = [b'x'; 1 << 16];

/// Arrays inside one another that `deep` makes when the script does not say how many.
const DEPTH: usize = 1_000_000;

/// Arrays inside one another that `deep` makes at most: they are in memory.
const MAX_DEPTH: usize = 10_000_000;

/// Keeps the draw of a row apart from other draws with the same seed.
const ROW_SEED: u64 = 0x726f_7773;

/// A fault in what a batch gives back.
#[derive(Clone, Debug)]
pub(super) struct RowFault {
    change: Change,
    /// Lines of the input, counted from 1.
    rows: Option<Vec<u64>>,
    share: Option<f64>,
}

/// What happens to a row, or to a file of rows.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// `drop_rows`: the row is missing. It is billed all the same; with `counted` it is among what the batch counts as answered.
    Drop { counted: bool },
    /// `duplicate_rows`: the row comes twice, word for word or not.
    Duplicate { different: bool },
    /// `unknown_ids`: the row names a request that nobody sent.
    UnknownId { id: StrangeId },
    /// `both_files`: the request has a row in the output file and one in the error file.
    BothFiles { error: Failure },
    /// `error_rows`: the request fails, and is not billed; with `once`, only in the first batch that has it.
    Error { error: Failure, once: bool },
    /// A member is put into the row that parsers stumble over: `nul`, `bad_utf8`, `lone_surrogate`, `bigints`, `deep`.
    Insert { member: Vec<u8> },
    /// `duplicate_keys`: the row has its `custom_id` twice.
    DuplicateKeys,
    /// `huge_line`: the row has that many bytes more, in front of all else or, with `last`, behind it.
    Huge { bytes: u64, last: bool },
    /// `blank_lines`: an empty line and one of white space follow.
    BlankLines,
    /// How the files are written.
    Form(Form),
}

/// How a file of rows is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `no_final_newline`: the last row does not end.
    NoFinalNewline,
    /// `crlf`: rows end as on Windows.
    Crlf,
    /// `bom`: the file begins with a byte order mark.
    Bom,
    /// `joined`: two rows stand on each line.
    Joined,
}

/// What an error row says.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    code: String,
    message: String,
}

/// How a row's id is not the one that was sent.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum StrangeId {
    /// One that nobody sent.
    #[default]
    Unknown,
    /// The right one, but for upper and lower case.
    Case,
    /// The right one, and a space.
    Space,
    /// The right one, if it consists of digits, without its quotes.
    Number,
    /// The right one with its characters taken apart: NFD.
    Decomposed,
    /// The right one, with its percent escapes in lower case.
    Escapes,
}

/// The names of these faults, for messages.
pub(super) const NAMES: &[&str] = &[
    "drop_rows",
    "duplicate_rows",
    "unknown_ids",
    "both_files",
    "error_rows",
    "nul",
    "bad_utf8",
    "lone_surrogate",
    "deep",
    "bigints",
    "duplicate_keys",
    "huge_line",
    "blank_lines",
    "no_final_newline",
    "crlf",
    "bom",
    "joined",
];

impl RowFault {
    /// Reads the fault called `verb`, if it is one of these.
    pub(super) fn read(verb: &str, fields: &mut Fields<'_>) -> Result<Option<Self>, FaultsError> {
        let Some(change) = Change::read(verb, fields)? else { return Ok(None) };
        if let Change::Form(_) = change {
            return Ok(Some(Self { change, rows: None, share: None }));
        }
        let (rows, share) = (fields.counts("rows")?, fields.share("share")?);
        if rows.is_some() && share.is_some() {
            return Err(fields.error("`rows` and `share` both choose rows; give one of them"));
        }
        Ok(Some(Self { change, rows, share }))
    }

    /// Whether the row that answers `line`, the `number`th of the input, is chosen. A request that is chosen by its
    /// share is chosen in every batch.
    fn chooses(&self, number: u64, line: &[u8], seed: u64) -> bool {
        self.rows.as_ref().is_none_or(|rows| rows.contains(&number))
            && self.share.is_none_or(|share| is_drawn(share, line, seed ^ ROW_SEED))
    }
}

impl Change {
    fn read(verb: &str, fields: &mut Fields<'_>) -> Result<Option<Self>, FaultsError> {
        let insert = |member: &[u8]| Self::Insert { member: member.to_vec() };
        Ok(Some(match verb {
            "drop_rows" => Self::Drop { counted: fields.take("counted")?.unwrap_or_default() },
            "duplicate_rows" => Self::Duplicate { different: fields.take("different")?.unwrap_or_default() },
            "unknown_ids" => Self::UnknownId { id: fields.take("id")?.unwrap_or_default() },
            "both_files" => Self::BothFiles { error: Failure::read(fields)? },
            "error_rows" => {
                Self::Error { error: Failure::read(fields)?, once: fields.take("once")?.unwrap_or_default() }
            }
            "nul" => insert(b"\"fault\":\"\0\""),
            "bad_utf8" => insert(b"\"fault\":\"\xff\xc3\""),
            "lone_surrogate" => insert(br#""fault":"\ud83d""#),
            "bigints" => insert(br#""fault":[123456789012345678901234567890,-99999999999999999999,1e999]"#),
            "deep" => {
                let depth = fields.checked("depth", |depth: usize| match depth {
                    1..=MAX_DEPTH => Ok(depth),
                    _ => Err(format!("{depth} is not from 1 to {MAX_DEPTH}")),
                })?;
                let depth = depth.unwrap_or(DEPTH);
                let member = [&b"\"fault\":"[..], &vec![b'['; depth], &vec![b']'; depth]].concat();
                Self::Insert { member }
            }
            "duplicate_keys" => Self::DuplicateKeys,
            "huge_line" => Self::Huge {
                bytes: fields.count("bytes")?.ok_or_else(|| fields.missing("bytes"))?,
                last: fields.take("last")?.unwrap_or_default(),
            },
            "blank_lines" => Self::BlankLines,
            "no_final_newline" => Self::Form(Form::NoFinalNewline),
            "crlf" => Self::Form(Form::Crlf),
            "bom" => Self::Form(Form::Bom),
            "joined" => Self::Form(Form::Joined),
            _ => return Ok(None),
        }))
    }
}

impl Failure {
    fn read(fields: &mut Fields<'_>) -> Result<Self, FaultsError> {
        let text = |value: Option<String>, usual: &str| value.unwrap_or_else(|| usual.to_owned());
        Ok(Self {
            code: text(fields.take("code")?, "batch_client_error"),
            message: text(fields.take("message")?, "Request timed out (a scripted fault)"),
        })
    }

    /// The row that tells it of a request.
    fn row(&self, form: RowForm, receipt: &Receipt<'_>) -> Vec<u8> {
        let (answered, mut row) = (Answered { id: &receipt.digest, custom_id: receipt.custom_id }, Vec::new());
        row::failure(form, answered, &self.code, &self.message, &mut row);
        row
    }
}

/// What the faults do to the rows of one batch.
#[derive(Debug)]
pub(in crate::serve) struct RowFaults<'s> {
    script: &'s Script,
    batch: &'s Batch,
    /// Each with the number of rows that it acted on so far.
    rules: Vec<(&'s Rule, &'s RowFault, u64)>,
    /// The requests that had their one error in this batch.
    seen: Vec<u128>,
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
    /// Whether the padding stands behind all else.
    padded_last: bool,
    blank_lines: bool,
}

impl Script {
    /// What the faults do to the rows of `batch`.
    pub(in crate::serve) fn on_rows<'s>(&'s self, batch: &'s Batch) -> RowFaults<'s> {
        let rules = self.rules().filter_map(|rule| match &rule.verb {
            Verb::Rows(fault) if self.picks_batch(rule, batch.number) => Some((rule, fault, 0)),
            _ => None,
        });
        RowFaults { script: self, batch, rules: rules.collect(), seen: Vec::new() }
    }
}

impl RowFaults<'_> {
    /// How the files are written.
    pub(in crate::serve) fn forms(&self) -> Forms {
        let has = |wanted| {
            self.rules.iter().any(|(_, fault, _)| matches!(fault.change, Change::Form(form) if form == wanted))
        };
        let ends = match (has(Form::Joined), has(Form::NoFinalNewline)) {
            (true, _) => LineEnds::EveryOther,
            (false, true) => LineEnds::Between,
            (false, false) => LineEnds::Each,
        };
        Forms { ends, crlf: has(Form::Crlf), bom: has(Form::Bom) }
    }

    /// Adds the row that answers `line`, the `number`th of the input counted from 1, and bills the request if it was
    /// answered.
    pub(in crate::serve) fn add(
        &mut self,
        results: &mut Results<'_>,
        (number, line): (u64, &[u8]),
        (kind, bytes): (Kind, &mut Vec<u8>),
        receipt: &Receipt<'_>,
    ) -> Result<(), FileError> {
        if self.rules.is_empty() {
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
        for (rule, fault, count) in &mut self.rules {
            let seed = self.script.seed_of(rule);
            if !fault.chooses(number, line, seed) {
                continue;
            }
            let acts = match &fault.change {
                Change::Error { error, once } if row.kind == Kind::Output => {
                    let request = xxh3_128_with_seed(line, seed);
                    let is_due = !once || self.script.seen.is_first_in(request, self.batch.number);
                    if is_due {
                        (row.kind, row.bytes) = (Kind::Error, error.row(self.script.surface.row_form(), receipt));
                    }
                    if is_due && *once {
                        self.seen.push(request);
                    }
                    is_due
                }
                Change::Error { .. } => false,
                change => row.change(change, self.script.surface.row_form(), receipt),
            };
            *count += u64::from(acts);
        }
        row
    }

    /// Keeps what later batches must know, and records which faults acted.
    pub(in crate::serve) fn finish(self) -> Result<(), FileError> {
        if !self.seen.is_empty() {
            self.script.seen.keep(&self.batch.id, self.batch.number, &self.seen)?;
        }
        for (rule, fault, count) in self.rules {
            if count > 0 {
                let rows = (!matches!(fault.change, Change::Form(_))).then_some(count);
                self.script.record(rule, &self.batch.id, rows)?;
            }
        }
        Ok(())
    }
}

/// Which rows have a line end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::serve) enum LineEnds {
    #[default]
    Each,
    /// All but the last.
    Between,
    /// The second, the fourth and so on.
    EveryOther,
}

/// How files of rows are written: as the default says without a fault.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::serve) struct Forms {
    pub(in crate::serve) ends: LineEnds,
    pub(in crate::serve) crlf: bool,
    pub(in crate::serve) bom: bool,
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
            StrangeId::Decomposed => DecomposingNormalizerBorrowed::new_nfd().normalize(real).into_owned(),
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
