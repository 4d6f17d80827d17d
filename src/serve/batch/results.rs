//! Writes what a batch gives back: its output file, its error file and its billing records.
//!
//! In: rows, one at a time. Out: up to two files of the service, and `billing/BATCH.jsonl`.
//! Invariants: nothing has its name before all rows are written; a batch that is executed again after a kill
//! writes the same files under the same ids, so nothing is billed twice. Error rows are not billed and have no
//! billing record.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use uuid::Builder;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::row::Kind;
use crate::serve::hex::hex;
use crate::serve::store::Store;
use crate::serve::store::batch::Batch;
use crate::serve::store::file::{Content, StoredFile};
use crate::storage::durable::{FileError, PendingFile};

/// Bytes written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What clients see as the purpose of result files. The service has a purpose of its own for them
/// (`batch-generated`), which the 1.x SDK cannot read.
const PURPOSE: &str = "batch-api";

/// The ids of the result files that came to be; a file without rows does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResultIds {
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    /// Requests that count as answered, and as failed.
    pub(crate) counted: (u64, u64),
}

/// Which request was answered.
#[derive(Debug)]
pub(crate) struct Receipt<'l> {
    /// Its name, as the raw JSON string that was sent.
    pub(crate) custom_id: &'l str,
    /// The digest of its line.
    pub(crate) digest: String,
}

/// Which rows have a line end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LineEnds {
    #[default]
    Each,
    /// All but the last.
    Between,
    /// The second, the fourth and so on.
    EveryOther,
}

/// How files of rows are written: as the default says without a fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileFormat {
    pub(crate) ends: LineEnds,
    pub(crate) crlf: bool,
    pub(crate) bom: bool,
}

/// The result files of one batch, being written.
#[derive(Debug)]
pub(crate) struct Results<'s> {
    store: &'s Store,
    batch: &'s Batch,
    output: Rows,
    errors: Rows,
    billing: Rows,
    counted: (u64, u64),
}

impl<'s> Results<'s> {
    /// Starts the files of `batch`, to be written in a certain form.
    pub(crate) fn create(store: &'s Store, batch: &'s Batch, format: FileFormat) -> Result<Self, FileError> {
        let content = |role| Rows::create(&store.content_path(&file_id(&batch.id, role)), format);
        Ok(Self {
            store,
            batch,
            output: content(Kind::Output)?,
            errors: content(Kind::Error)?,
            billing: Rows::create(&store.billing_path(&batch.id), FileFormat::default())?,
            counted: (0, 0),
        })
    }

    /// Adds a row, given without a newline, and bills it if it is an output.
    pub(crate) fn add(&mut self, kind: Kind, row: &[u8], receipt: &Receipt<'_>) -> Result<(), FileError> {
        self.add_row(kind, row)?;
        self.count(kind);
        if kind == Kind::Output { self.bill(receipt) } else { Ok(()) }
    }

    /// Counts a request as answered, or as failed, as the batch shows it.
    pub(crate) fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Output => self.counted.0 += 1,
            Kind::Error => self.counted.1 += 1,
        }
    }

    /// Bills a request.
    pub(crate) fn bill(&mut self, receipt: &Receipt<'_>) -> Result<(), FileError> {
        let Receipt { custom_id, digest } = receipt;
        let batch = &self.batch.id;
        let record = format!("{{\"batch_id\":\"{batch}\",\"custom_id\":{custom_id},\"digest\":\"{digest}\"}}");
        self.billing.add(record.as_bytes())
    }

    /// Adds a row, given without a newline, and does not bill it.
    pub(crate) fn add_row(&mut self, kind: Kind, row: &[u8]) -> Result<(), FileError> {
        self.rows(kind).add(row)
    }

    /// Begins a row that comes in pieces.
    pub(crate) fn begin_row(&mut self, kind: Kind) -> Result<(), FileError> {
        self.rows(kind).begin()
    }

    /// Writes a piece of the row that was begun.
    pub(crate) fn write(&mut self, kind: Kind, piece: &[u8]) -> Result<(), FileError> {
        self.rows(kind).write(piece)
    }

    /// Ends the row that was begun.
    pub(crate) fn end_row(&mut self, kind: Kind) -> Result<(), FileError> {
        self.rows(kind).end()
    }

    fn rows(&mut self, kind: Kind) -> &mut Rows {
        match kind {
            Kind::Output => &mut self.output,
            Kind::Error => &mut self.errors,
        }
    }

    /// Gives the files their names. An empty one stays away, and so does one left from an execution that a kill cut
    /// short.
    pub(crate) fn publish(self) -> Result<ResultIds, FileError> {
        let (billing, content) = self.billing.finish()?;
        self.store.publish(billing)?;
        self.store.quota().add(content.bytes);
        let publish = |rows: Rows, kind| {
            let (id, name) = (file_id(&self.batch.id, kind), file_name(kind));
            let (pending, content) = rows.finish()?;
            let lines = content.lines;
            if lines == 0 {
                self.store.discard(&id)?;
                return Ok(None);
            }
            let mut file = StoredFile::new(&self.batch.account, name.into(), PURPOSE.into(), "jsonl".into());
            file.id.clone_from(&id);
            file.generated = true;
            self.store.keep(file, pending, content)?;
            Ok(Some(id))
        };
        let output = publish(self.output, Kind::Output)?;
        let error = publish(self.errors, Kind::Error)?;
        Ok(ResultIds { output, error, counted: self.counted })
    }
}

fn file_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Output => "output.jsonl",
        Kind::Error => "errors.jsonl",
    }
}

/// The id of a batch's result file: it looks like any other, but follows from the batch's id.
fn file_id(batch: &str, kind: Kind) -> String {
    let seed = xxh3_128(format!("{batch}/{}", file_name(kind)).as_bytes());
    format!("file-{}", Builder::from_random_bytes(seed.to_be_bytes()).into_uuid())
}

/// A file of rows, being written.
struct Rows {
    writer: BufWriter<PendingFile>,
    digest: Xxh3,
    bytes: u64,
    lines: u64,
    format: FileFormat,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Rows")
            .field("target", &self.target())
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl Rows {
    fn create(target: &Path, format: FileFormat) -> Result<Self, FileError> {
        let writer = BufWriter::with_capacity(BUFFER_BYTES, PendingFile::create(target)?);
        Ok(Self { writer, digest: Xxh3::new(), bytes: 0, lines: 0, format })
    }

    fn target(&self) -> &Path {
        self.writer.get_ref().target()
    }

    fn add(&mut self, row: &[u8]) -> Result<(), FileError> {
        self.begin()?;
        self.write(row)?;
        self.end()
    }

    fn begin(&mut self) -> Result<(), FileError> {
        match self.lines {
            0 if self.format.bom => self.write("\u{feff}".as_bytes()),
            0 => Ok(()),
            _ if self.format.ends == LineEnds::Between => self.write(self.line_end()),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), FileError> {
        self.lines += 1;
        let ends = match self.format.ends {
            LineEnds::Each => true,
            LineEnds::Between => false,
            LineEnds::EveryOther => self.lines.is_multiple_of(2),
        };
        if ends { self.write(self.line_end()) } else { Ok(()) }
    }

    fn line_end(&self) -> &'static [u8] {
        if self.format.crlf { b"\r\n" } else { b"\n" }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(|error| FileError::on("write", self.target())(error))
    }

    fn finish(self) -> Result<(PendingFile, Content), FileError> {
        let target = self.target().to_owned();
        let content =
            Content { bytes: self.bytes, lines: self.lines, digest: hex(&self.digest.digest128().to_be_bytes()) };
        let pending = self.writer.into_inner().map_err(io::IntoInnerError::into_error);
        Ok((pending.map_err(FileError::on("write", &target))?, content))
    }
}
