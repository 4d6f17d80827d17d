//! Faults in what a batch gives back: its rows, and the files that they are in.
//!
//! In: the rows of a batch, as they are answered. Out: the rows that go into its files.
//! Invariants: the billing records stay the truth. A request that was answered is billed once, whatever happens
//! to its row; a request whose row a fault turns into an error is not.

use serde::Deserialize;

use super::fields::{FaultsError, Fields};
use super::selector::is_drawn;
use crate::dialect::row_form::RowForm;
use crate::serve::batch::results::Receipt;
use crate::serve::batch::row::{self, Answered};

/// Arrays inside one another that `deep` makes when the script does not say how many.
const DEPTH: usize = 1_000_000;

/// Arrays inside one another that `deep` makes at most: they are in memory.
const MAX_DEPTH: usize = 10_000_000;

/// Keeps the draw of a row apart from other draws with the same seed.
const ROW_SEED: u64 = 0x726f_7773;

/// A fault in what a batch gives back.
#[derive(Clone, Debug)]
pub(super) struct RowFault {
    pub(super) change: Change,
    /// Lines of the input, counted from 1.
    rows: Option<Vec<u64>>,
    share: Option<f64>,
}

/// What happens to a row, or to a file of rows.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// `drop_rows`: the row is missing. It is billed all the same; with `counted` it is among what the batch counts as
    /// answered.
    Drop { counted: bool },
    /// `duplicate_rows`: the row comes twice, word for word or not.
    Duplicate { different: bool },
    /// `unknown_ids`: the row names a request that was never sent.
    UnknownId { id: StrangeId },
    /// `both_files`: the request has a row in the output file and one in the error file.
    BothFiles { error: Failure },
    /// `error_rows`: the request fails, and is not billed; with `once`, only in the first batch that has it.
    Error { error: Failure, once: bool },
    /// A member is put into the row that parsers stumble over: `nul`, `bad_utf8`, `lone_surrogate`, `bigints`, `deep`.
    Insert { member: Vec<u8> },
    /// `duplicate_keys`: the row has its `custom_id` twice.
    DuplicateKeys,
    /// `huge_line`: the row has that many bytes more, before all else or, with `last`, after it.
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
    /// One that was never sent.
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
    pub(super) fn chooses(&self, number: u64, line: &[u8], seed: u64) -> bool {
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
    pub(super) fn row(&self, form: RowForm, receipt: &Receipt<'_>) -> Vec<u8> {
        let (answered, mut row) = (Answered { id: &receipt.digest, custom_id: receipt.custom_id }, Vec::new());
        row::failure(form, answered, &self.code, &self.message, &mut row);
        row
    }
}
