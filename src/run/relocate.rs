//! The lines of a run that stand somewhere else than they did: in another file, or between other line ends and blanks.
//!
//! In: a run, and an input that was read and has the same lines. Out: a run that reads its lines from there.
//!
//! What always holds: the lines themselves are those that the run began with, as their hashes say, and a shard's checksum is compared once
//! more when it goes up. A run is pointed at its new input by the last step: cut off before it, the run looks for its input again.

use std::path::Path;

use super::directory::layout;
use super::ledger::Ledger;
use super::meta::{RecordedPart, json_text};
use crate::durable::{self, FileError};
use crate::error::Error;
use crate::input::request_index::{IndexWriter, Record, RequestIndex};

/// Records compared at a time.
const STRETCH_RECORDS: u64 = 4096;

/// Points the run at `run` to what was checked in the directory `incoming`.
pub(crate) fn relocate(ledger: &mut Ledger, run: &Path, incoming: &Path, parts: &[RecordedPart]) -> Result<(), Error> {
    let index = layout::requests(run);
    let moved = index.with_extension("moved");
    durable::remove_file(&moved)?;
    let Some(has_moved) = place_anew(&index, &layout::requests(incoming), &moved)? else {
        durable::remove_file(&moved)?;
        return Err(Error::Directory {
            path: run.to_owned(),
            what: "has lost its input: the same lines are now laid out differently".to_owned(),
            hint: "put the original file back where it was".to_owned(),
        });
    };
    // Without parts a run has no input, whatever there is: it looks for it, and comes here again.
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

/// Writes the index of the run with the places of the other one; whether any has moved. `None` if the lines do not fit.
fn place_anew(own: &Path, other: &Path, moved: &Path) -> Result<Option<bool>, FileError> {
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

/// Where the line of `before` stands if it is that of `now`. An earlier version took a line with the blanks around it: such a line has to
/// be where it was.
fn offset_in(before: &Record, now: &Record) -> Option<u64> {
    let end = |record: &Record| record.offset + u64::from(record.length);
    let has_blanks_around = before.offset <= now.offset && end(now) <= end(before);
    if before.state != now.state {
        None
    } else if before.length == now.length {
        Some(now.offset)
    } else {
        has_blanks_around.then_some(before.offset)
    }
}
