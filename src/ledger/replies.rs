//! The Ledger's records of replies: counts, unfinished requests, and which of these are sent again.
//!
//! In: the contents of a shard's reply files. Out: the same, after any crash, and the totals.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::ledger::rows::{Json, insert_shards, signed};
use crate::ledger::{Ledger, LedgerError, NextRound, now};
use crate::model::outcome::{Indexed, ModelCounts, Outcomes};
use crate::model::reply::Usage;
use crate::model::shard_state::Unfinished;

/// The key of the time of the delivery.
const DELIVERED: &str = "delivered";

impl Ledger {
    /// Records that a shard's reply files are on disk.
    pub fn downloaded(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.set_state(shard, "downloaded")
    }

    /// Records that a shard's slots are on disk, and the counts of its replies.
    /// `files` are the numbers of its reply files and their checksums.
    pub fn indexed(
        &mut self,
        shard: u32,
        indexed: &Indexed,
        unfinished: Unfinished,
        files: &[(u32, u128)],
    ) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            insert_indexed(&transaction, shard, indexed, unfinished, files)?;
            transaction.execute("UPDATE shard SET state = 'indexed', note = NULL WHERE number = ?1", [shard])?;
            transaction.commit()
        })
    }

    /// Records that the complete output, with the current replies, was delivered.
    pub fn delivered(&mut self) -> Result<(), LedgerError> {
        self.set_meta(DELIVERED, now())
    }

    /// When the output was delivered, in RFC 3339; `None` if it was not, or replies were added since.
    pub fn delivered_at(&self) -> Result<Option<String>, LedgerError> {
        Ok(self.meta_rows()?.remove(DELIVERED))
    }

    /// The outcomes of the requests of all indexed shards, and of incomplete ones as far as they are known. A request
    /// that a later round sends again is counted there.
    pub fn outcomes_so_far(&self) -> Result<Outcomes, LedgerError> {
        self.read(|connection| {
            let query = "SELECT coalesce(sum(outputs), 0), coalesce(sum(errors), 0), coalesce(sum(conflicts + unknown + unreadable), 0),
                    coalesce(sum(iif(state = 'indexed', max(0, requests - outputs - errors - iif(followed, left_over, 0)), 0)), 0)
             FROM shard JOIN indexed ON indexed.shard = shard.number WHERE state IN ('indexed', 'incomplete')";
            connection.query_row(query, [], |row| {
                let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                Ok(Outcomes { outputs: count(0)?, errors: count(1)?, set_aside: count(2)?, missing: count(3)? })
            })
        })
    }

    /// Records the replies of a shard that could be fetched, and why they are known to be incomplete.
    pub fn incomplete(
        &mut self,
        shard: u32,
        indexed: &Indexed,
        files: &[(u32, u128)],
        note: &str,
    ) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            insert_indexed(&transaction, shard, indexed, Unfinished::default(), files)?;
            transaction
                .execute("UPDATE shard SET state = 'incomplete', note = ?2 WHERE number = ?1", params![shard, note])?;
            transaction.commit()
        })
    }

    /// Records the decision to accept the fetched replies of an incomplete shard as complete.
    pub fn accept(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.write(|connection| {
            let change = "UPDATE shard SET state = 'downloaded', accepted = 1, note = NULL WHERE number = ?1";
            connection.execute(change, [shard]).map(drop)
        })
    }

    /// The counts of the replies of all indexed shards.
    pub fn totals(&self) -> Result<Indexed, LedgerError> {
        self.read(|connection| {
            let mut totals = Indexed::default();
            let mut query = connection.prepare("SELECT * FROM indexed")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let count = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
                let Json(labels) = row.get(10)?;
                totals.add(&Indexed {
                    replies: count(1)?,
                    outputs: count(2)?,
                    errors: count(3)?,
                    duplicates: count(4)?,
                    conflicts: count(5)?,
                    unknown: count(6)?,
                    unreadable: count(7)?,
                    usage: Usage { prompt: count(8)?, completion: count(9)? },
                    labels,
                    recognised: count(13)?,
                    checksums: Vec::new(),
                });
            }
            Ok(totals)
        })
    }

    /// Requests, outcomes and tokens by model. Requests that were sent again are counted in their first round.
    pub fn models(&self) -> Result<BTreeMap<String, ModelCounts>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT model, sum(iif(round = 1, requests, 0)), coalesce(sum(outputs), 0), coalesce(sum(errors), 0),
                        coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)
                 FROM shard LEFT JOIN indexed ON indexed.shard = shard.number GROUP BY model",
            )?;
            let rows = query.query_map([], |row| {
                let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                let counts = ModelCounts {
                    requests: count(1)?,
                    outputs: count(2)?,
                    errors: count(3)?,
                    prompt_tokens: count(4)?,
                    completion_tokens: count(5)?,
                };
                Ok((row.get(0)?, counts))
            })?;
            rows.collect()
        })
    }

    /// Records the shards of the next round. `followed` are the shards whose requests they contain; the errors that are
    /// sent again are removed from their counts.
    pub fn next_round(&mut self, round: &NextRound) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            insert_shards(&transaction, &round.shards)?;
            for (shard, errors, labels) in &round.followed {
                transaction.execute("UPDATE shard SET followed = 1 WHERE number = ?1", [shard])?;
                transaction.execute(
                    "UPDATE indexed SET errors = ?2, labels = ?3 WHERE shard = ?1",
                    params![shard, signed(*errors), Json(labels)],
                )?;
            }
            for (reason, requests) in &round.reasons {
                let number = round.shards.first().map_or(0, |shard| shard.round);
                let mut insert =
                    transaction.prepare("INSERT INTO resent (round, reason, requests) VALUES (?1, ?2, ?3)")?;
                insert.execute(params![number, reason, signed(*requests)])?;
            }
            transaction.commit()
        })
    }

    /// The errors of an indexed shard, and their kinds.
    pub fn errors(&self, shard: u32) -> Result<(u64, BTreeMap<String, u64>), LedgerError> {
        self.read(|connection| {
            connection.query_row("SELECT errors, labels FROM indexed WHERE shard = ?1", [shard], |row| {
                let Json(labels) = row.get(1)?;
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), labels))
            })
        })
    }

    /// How many outputs and errors an indexed shard has.
    pub fn outcomes(&self, shard: u32) -> Result<(u64, u64), LedgerError> {
        self.read(|connection| {
            let query = "SELECT outputs, errors FROM indexed WHERE shard = ?1";
            let count = |row: &Row<'_>, index| row.get::<_, i64>(index).map(i64::cast_unsigned);
            connection.query_row(query, [shard], |row| Ok((count(row, 0)?, count(row, 1)?)))
        })
    }

    /// How many requests were sent again in all rounds, by reason.
    pub fn resent(&self) -> Result<BTreeMap<String, u64>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT reason, sum(requests) FROM resent GROUP BY reason")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
            rows.collect()
        })
    }

    /// The checksums of the reply files that are indexed, by number, in hexadecimal digits.
    pub fn reply_checksums(&self) -> Result<BTreeMap<u32, String>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT reply_file.number, reply_file.checksum FROM reply_file JOIN shard ON shard.number = reply_file.shard
                 WHERE shard.state = 'indexed'",
            )?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// The checksum of an indexed reply file, in hexadecimal digits.
    pub fn reply_checksum(&self, number: u32) -> Result<Option<String>, LedgerError> {
        self.read(|connection| {
            let query = "SELECT checksum FROM reply_file WHERE number = ?1";
            connection.query_row(query, [number], |row| row.get(0)).optional()
        })
    }

    /// Records the decision to send the unfinished requests of an indexed shard again.
    pub fn decide(&mut self, shard: u32, unfinished: Unfinished) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute("UPDATE shard SET decided = 1 WHERE number = ?1", [shard])?;
            transaction.execute(
                "UPDATE indexed SET left_over = ?2, left_first = ?3 WHERE shard = ?1",
                params![shard, signed(unfinished.count), signed(unfinished.first)],
            )?;
            transaction.commit()
        })
    }

    /// Reverts a shard to the state in which its replies are on disk (`downloaded`) or at the service (`ended`).
    pub fn take_back(&mut self, shard: u32, to_service: bool) -> Result<(), LedgerError> {
        self.set_state(shard, if to_service { "ended" } else { "downloaded" })
    }
}

fn insert_indexed(
    transaction: &Transaction<'_>,
    shard: u32,
    indexed: &Indexed,
    unfinished: Unfinished,
    files: &[(u32, u128)],
) -> rusqlite::Result<()> {
    // An earlier delivery does not include these.
    transaction.execute("DELETE FROM meta WHERE key = ?1", [DELIVERED])?;
    transaction.execute(
        "INSERT OR REPLACE INTO indexed VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            shard,
            signed(indexed.replies),
            signed(indexed.outputs),
            signed(indexed.errors),
            signed(indexed.duplicates),
            signed(indexed.conflicts),
            signed(indexed.unknown),
            signed(indexed.unreadable),
            signed(indexed.usage.prompt),
            signed(indexed.usage.completion),
            Json(&indexed.labels),
            signed(unfinished.count),
            signed(unfinished.first),
            signed(indexed.recognised)
        ],
    )?;
    for (number, checksum) in files {
        transaction.execute(
            "INSERT OR REPLACE INTO reply_file (number, shard, checksum) VALUES (?1, ?2, ?3)",
            params![number, shard, format!("{checksum:032x}")],
        )?;
    }
    Ok(())
}
