//! Checks an input, for a run and for the operations without a service.
//!
//! In: an open Source, and how to read it. Out: a [`Scan`], Defects that the monitor and the report were told of, or an
//! error if nothing can be made of the input.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::monitor::{Event, Monitor};
use super::options::{InputOptions, Resources};
use crate::input::InputError;
use crate::input::scan::{self, Scan, ScanOptions};
use crate::input::source::Source;
use crate::model::custom_id::IdHasher;
use crate::model::defect::PlacedDefect;
use crate::storage::durable::FileError;
use crate::storage::sink::Sink;
use crate::storage::user_files::open_output;

/// Opens the inputs; what cannot be read again is copied into `spool`.
pub(crate) fn open_source(input: &InputOptions, spool: &Path, monitor: &dyn Monitor) -> Result<Source, Error> {
    Ok(Source::open(&input.inputs, spool, &|bytes| monitor.event(Event::Spooled { bytes }))?)
}

/// Checks and packs the input; writes the request index to `index`, if any, and scratch files into `scratch`.
pub(crate) fn check(
    (input, resources): (&InputOptions, &Resources),
    source: &Source,
    ids: IdHasher,
    (scratch, index): (&Path, Option<&Path>),
    monitor: &dyn Monitor,
) -> Result<Scan, Error> {
    let options = ScanOptions {
        line: input.line,
        shard: input.shard,
        threads: resources.threads,
        memory_bytes: resources.memory_share(),
        ids,
        skip_invalid: input.skip_invalid,
        scratch: scratch.to_owned(),
    };
    let total = source.bytes();
    let mut defects = DefectReport::create(input.report.as_deref(), input.max_defects)?;
    let mut hear = |placed: PlacedDefect| defects.hear(&placed, monitor);
    let progress = |bytes| monitor.event(Event::Checked { bytes, total });
    let scan = scan::scan(source, &options, index, &mut hear, &progress)?;
    defects.finish()?;
    if scan.is_empty() && !input.allow_empty {
        return Err(Error::Empty { blank: scan.blank });
    }
    Ok(scan)
}

/// An error if there are Defects that are not to be skipped.
pub(crate) fn refuse_defects(input: &InputOptions, scan: &Scan) -> Result<(), Error> {
    if scan.defects > 0 && !input.skip_invalid {
        return Err(Error::Defects { defects: scan.defects, lines: scan.lines - scan.blank });
    }
    Ok(())
}

/// Receives Defects: the first few go to the monitor, all of them to the report.
#[derive(Debug)]
struct DefectReport {
    report: Option<BufWriter<Box<dyn Sink>>>,
    /// The path of the report, for messages.
    path: PathBuf,
    left: u64,
}

impl DefectReport {
    /// A report at `path`, if any; at most `shown_max` Defects go to the monitor.
    fn create(path: Option<&Path>, shown_max: u64) -> Result<Self, FileError> {
        let report = path.map(open_output).transpose()?.map(BufWriter::new);
        Ok(Self { report, path: path.map(Path::to_owned).unwrap_or_default(), left: shown_max })
    }

    /// Takes a Defect. Returns whether more are wanted.
    fn hear(&mut self, placed: &PlacedDefect, monitor: &dyn Monitor) -> Result<bool, InputError> {
        if self.left > 0 {
            self.left -= 1;
            monitor.event(Event::Defect(placed));
        }
        if let Some(report) = &mut self.report {
            let line = serde_json::to_vec(placed).map_err(io::Error::from);
            let written = line.and_then(|line| report.write_all(&line).and_then(|()| report.write_all(b"\n")));
            written.map_err(FileError::on("write", &self.path))?;
        }
        Ok(self.left > 0 || self.report.is_some())
    }

    /// Publishes the report.
    fn finish(self) -> Result<(), FileError> {
        let Some(report) = self.report else { return Ok(()) };
        report.into_inner().map_err(|error| FileError::on("write", &self.path)(error.into_error()))?.finish()
    }
}
