//! Relocation: a run whose lines are now in another file, or at other offsets.
//!
//! In: a run, and a scanned input with the same lines. Out: the run's request index and parts refer to that input.
//!
//! Invariants: the lines are the same by their hashes, and each shard's checksum is verified again when it is uploaded.
//! The last step is the one that names the new input: after a crash before it, the run has no input and is relocated
//! again.

use std::path::Path;

use super::directory::layout;
use super::meta::{RecordedPart, json_text};
use crate::input::request_index::{IndexWriter, Record, RequestIndex};
use crate::ledger::Ledger;
use crate::run::error::Error;
use crate::storage::durable;
use crate::storage::durable::FileError;

/// Records compared at a time.
const STRETCH_RECORDS: u64 = 4096;

/// Makes the run at `run` read its lines from the input whose index is in the directory `incoming`.
pub(crate) fn relocate(ledger: &mut Ledger, run: &Path, incoming: &Path, parts: &[RecordedPart]) -> Result<(), Error> {
    let index = layout::requests(run);
    let moved = index.with_extension("moved");
    durable::remove_file(&moved)?;
    let Some(has_moved) = rewrite(&index, &layout::requests(incoming), &moved)? else {
        durable::remove_file(&moved)?;
        return Err(Error::Directory {
            path: run.to_owned(),
            what: "has lost its input: the same lines are now laid out differently".to_owned(),
            hint: "put the original file back where it was".to_owned(),
        });
    };
    // A run without parts has no input: the next start comes here again.
    ledger.set_meta("parts", &json_text(&Vec::<RecordedPart>::new())?)?;
    for part in parts.iter().filter(|part| part.spooled) {
        durable::transfer(&incoming.join(&part.path), &run.join(&part.path))?;
    }
    if has_moved {
        durable::publish(&moved, &index)?;
    } else {
        durable::remove_file(&moved)?;
    }
    Ok(ledger.set_meta("parts", &json_text(&parts)?)?)
}

/// Writes the run's index with the offsets of the other one; whether any has changed. `None` if the lines do not match.
fn rewrite(own: &Path, other: &Path, moved: &Path) -> Result<Option<bool>, FileError> {
    let (own, other) = (RequestIndex::open(own)?, RequestIndex::open(other)?);
    if own.len() != other.len() {
        return Ok(None);
    }
    let mut writer = IndexWriter::create(moved)?;
    let (mut before, mut now) = (Vec::new(), Vec::new());
    let mut has_moved = false;
    let mut seq = 0;
    while seq < own.len() {
        own.read(seq, STRETCH_RECORDS, &mut before)?;
        other.read(seq, STRETCH_RECORDS, &mut now)?;
        for (before, now) in before.iter().zip(&now) {
            let Some(offset) = offset_in(before, now) else { return Ok(None) };
            has_moved |= offset != before.offset;
            writer.push(Record { offset, ..*before })?;
        }
        seq += before.len() as u64;
    }
    writer.finish()?;
    Ok(Some(has_moved))
}

/// The offset of a line in the new input; `None` if it is another line. Indexes of earlier versions include the
/// whitespace around a line: such a line has to be where it was.
fn offset_in(before: &Record, now: &Record) -> Option<u64> {
    let end = |record: &Record| record.offset + u64::from(record.length);
    let includes_whitespace = before.offset <= now.offset && end(now) <= end(before);
    if before.state != now.state {
        None
    } else if before.length == now.length {
        Some(now.offset)
    } else {
        includes_whitespace.then_some(before.offset)
    }
}
