//! Converts shards to rows of the Ledger, and back.
//!
//! In: rows. Out: their values, or which value is invalid.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::batch::{BatchStatus, RequestCounts};
use crate::model::shard::{Cut, SeqRange, Shard};
use crate::model::shard_state::{EndedBatch, LastSubmission, ShardRow, ShardState, Unfinished};

/// A value stored in a column as JSON text. A failed conversion is an error of the statement.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0);
        text.map(ToSqlOutput::from).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Self).map_err(|error| FromSqlError::Other(error.into()))
    }
}

/// The answer recorded for a submission whose batch was found in the service's list.
pub(crate) const FOUND: &str = "found";

pub(crate) fn insert_shards(connection: &Connection, shards: &[Shard]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare(
        "INSERT INTO shard (number, model, first, last, requests, bytes, checksum, cut, round, list, list_start)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for shard in shards {
        insert.execute(params![
            shard.number,
            shard.model,
            signed(shard.first),
            signed(shard.last),
            signed(shard.requests),
            signed(shard.bytes),
            format!("{:032x}", shard.checksum),
            shard.cut.name(),
            shard.round,
            shard.seq_range.map(|range| range.list),
            shard.seq_range.map(|range| signed(range.start)),
        ])?;
    }
    Ok(())
}

/// Reads a row of the query in [`Ledger::shards`](crate::ledger::Ledger::shards); the inner error says which value
/// is invalid.
pub(crate) fn read_shard(row: &Row<'_>) -> rusqlite::Result<Result<ShardRow, String>> {
    let unsigned = |name| row.get::<_, i64>(name).map(i64::cast_unsigned);
    let checksum: String = row.get("checksum")?;
    let cut: String = row.get("cut")?;
    let number: u32 = row.get("number")?;
    let Ok(checksum) = u128::from_str_radix(&checksum, 16) else {
        return Ok(Err(format!("the checksum of shard {number} is {checksum:?}")));
    };
    let shard = Shard {
        number,
        model: row.get("model")?,
        first: unsigned("first")?,
        last: unsigned("last")?,
        requests: unsigned("requests")?,
        bytes: unsigned("bytes")?,
        checksum,
        cut: Cut::ALL.into_iter().find(|known| known.name() == cut).unwrap_or(Cut::End),
        round: row.get("round")?,
        seq_range: match row.get::<_, Option<u32>>("list")? {
            Some(list) => Some(SeqRange { list, start: unsigned("list_start")? }),
            None => None,
        },
    };
    let name: String = row.get("state")?;
    let state = read_state(row, &name)?;
    let (note, file_id, batch_status) = (row.get("note")?, row.get("file_id")?, row.get("status")?);
    let unfinished = match row.get::<_, Option<i64>>("left_over")? {
        Some(count) => Unfinished { count: count.cast_unsigned(), first: unsigned("left_first")? },
        None => Unfinished::default(),
    };
    let abandoned = row.get("abandoned")?;
    let decided = row.get("decided")?;
    let (file_reused, accepted, followed) = (row.get("file_reused")?, row.get("accepted")?, row.get("followed")?);
    let last_submission = match read_submission(row)? {
        Ok(submission) => submission,
        Err(what) => return Ok(Err(format!("the submission of shard {number}: {what}"))),
    };
    let known = |state| ShardRow {
        shard,
        state,
        note,
        file_id,
        file_reused,
        last_submission,
        abandoned,
        batch_status,
        unfinished,
        accepted,
        followed,
        decided,
    };
    Ok(state.map(known).ok_or_else(|| format!("the state of shard {number} is {name:?}")))
}

fn read_submission(row: &Row<'_>) -> rusqlite::Result<Result<Option<LastSubmission>, String>> {
    let Some(id) = row.get::<_, Option<i64>>("submission")? else { return Ok(Ok(None)) };
    let (known, intended_at): (String, String) = (row.get("known_batches")?, row.get("intended_at")?);
    let Ok(known) = serde_json::from_str(&known) else { return Ok(Err(format!("known batches are {known:?}"))) };
    let Ok(intended_at) = intended_at.parse() else { return Ok(Err(format!("it was intended at {intended_at:?}"))) };
    let found = row.get::<_, Option<String>>("answer")?.is_some_and(|answer| answer == FOUND);
    Ok(Ok(Some(LastSubmission { id, known, intended_at, found })))
}

fn read_state(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<ShardState>> {
    let file_id: Option<String> = row.get("file_id")?;
    let submission: Option<i64> = row.get("submission")?;
    let batch_id: Option<String> = row.get("batch_id")?;
    let ended = || {
        let Some(id) = batch_id.clone() else { return Ok(None) };
        Ok::<_, rusqlite::Error>(Some(EndedBatch {
            id,
            status: BatchStatus::read(&row.get::<_, Option<String>>("status")?.unwrap_or_default()),
            output_file_id: row.get("output_file_id")?,
            error_file_id: row.get("error_file_id")?,
            error: row.get("error")?,
            counts: read_counts(row)?,
        }))
    };
    let intent = || submission.zip(file_id.clone());
    Ok(match name {
        "packed" => Some(ShardState::Packed),
        "uploaded" => file_id.map(|file_id| ShardState::Uploaded { file_id }),
        "intended" => intent().map(|(submission, file_id)| ShardState::Intended { submission, file_id }),
        "held" => intent().map(|(submission, file_id)| ShardState::Held { submission, file_id }),
        "submitted" => {
            submission.zip(batch_id).map(|(submission, batch_id)| ShardState::Submitted { submission, batch_id })
        }
        "lost" => submission.zip(batch_id).map(|(submission, batch_id)| ShardState::Lost { submission, batch_id }),
        "ended" => submission.zip(ended()?).map(|(submission, batch)| ShardState::Ended { submission, batch }),
        "downloaded" => {
            submission.zip(ended()?).map(|(submission, batch)| ShardState::Downloaded { submission, batch })
        }
        "incomplete" => {
            submission.zip(ended()?).map(|(submission, batch)| ShardState::Incomplete { submission, batch })
        }
        "indexed" => submission.zip(ended()?).map(|(submission, batch)| ShardState::Indexed { submission, batch }),
        _ => None,
    })
}

fn read_counts(row: &Row<'_>) -> rusqlite::Result<Option<RequestCounts>> {
    let count = |name| row.get::<_, Option<i64>>(name).map(|count| count.map(i64::cast_unsigned));
    let (total, completed, failed) = (count("total")?, count("completed")?, count("failed")?);
    Ok(total.zip(completed).zip(failed).map(|((total, completed), failed)| RequestCounts { total, completed, failed }))
}

/// `SQLite` has signed integers only; no count here comes near the limit.
pub(crate) fn signed(count: u64) -> i64 {
    count.cast_signed()
}
