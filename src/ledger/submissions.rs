//! The Ledger's records of money: intents, their answers, and surplus batches.
//!
//! In: what is about to be sent, and the results. Out: the same, after any crash.
//!
//! Invariants: an intent is committed here and in [`intents`] before its method returns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rusqlite::{OptionalExtension, params};

use crate::ledger::intents;
use crate::ledger::intents::{Intent, Intents};
use crate::ledger::rows::{FOUND, Json};
use crate::ledger::{Ledger, LedgerError, insert_incident, now};
use crate::model::incident::Incident;
use crate::model::shard_state::{EndedBatch, LastSubmission};

/// The key of the learned batch limit of a model.
const IN_FLIGHT_CAPS: &str = "in_flight_caps";

impl Ledger {
    /// Records the intent to create a batch from a shard's file; must be called before the POST. `known` are the
    /// batches that are known to use that file already.
    pub fn intend(
        &mut self,
        shard: u32,
        file_id: &str,
        file_reused: bool,
        known: Vec<String>,
    ) -> Result<LastSubmission, LedgerError> {
        let path = self.intents_path();
        if self.intents.is_none() {
            // Before the Ledger is changed: should this fail, nothing has happened.
            self.intents = Some(Intents::open(&path)?);
        }
        let intended_at = jiff::Timestamp::now();
        let id = self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO submission (shard, file_id, known_batches, intended_at) VALUES (?1, ?2, ?3, ?4)",
                params![shard, file_id, Json(&known), intended_at.to_string()],
            )?;
            let id = transaction.last_insert_rowid();
            transaction.execute("UPDATE shard SET state = 'intended', note = NULL WHERE number = ?1", [shard])?;
            transaction.commit()?;
            Ok(id)
        })?;
        let file_id = file_id.to_owned();
        let at = intended_at.to_string();
        let intent = Intent { submission: id, shard, file_id, file_reused, known: known.clone(), intended_at: at };
        self.intents.iter_mut().try_for_each(|intents| intents.add(&intent))?;
        Ok(LastSubmission { id, known, intended_at, found: false })
    }

    /// The shard that a batch processes or has processed.
    pub fn batch_owner(&self, batch_id: &str) -> Result<Option<u32>, LedgerError> {
        self.read(|connection| {
            connection.query_row("SELECT shard FROM batch WHERE id = ?1", [batch_id], |row| row.get(0)).optional()
        })
    }

    /// Records that the service has a batch for a submission, and whether it was `found` in its list, rather than named
    /// by a response. An earlier batch of the shard may become its batch again.
    pub fn accepted(
        &mut self,
        shard: u32,
        submission: i64,
        (batch_id, status): (&str, &str),
        found: bool,
    ) -> Result<(), LedgerError> {
        let answer = if found { FOUND } else { "accepted" };
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE submission SET answer = ?2, answered_at = ?3, batch_id = ?4 WHERE id = ?1",
                params![submission, answer, now(), batch_id],
            )?;
            transaction.execute(
                "INSERT INTO batch (id, shard, submission, status, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET submission = ?3, status = ?4, seen_at = ?5, deferred = 0",
                params![batch_id, shard, submission, status, now()],
            )?;
            transaction.execute("UPDATE shard SET state = 'submitted', note = NULL WHERE number = ?1", [shard])?;
            transaction.commit()
        })
    }

    /// Records that the service certainly has no batch for a submission: the shard may be submitted again.
    pub fn refused(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "refused", "uploaded", message)
    }

    /// Records that a submission with an unknown outcome is abandoned: the shard is submitted again although a batch
    /// may exist.
    pub fn abandoned(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "abandoned", "uploaded", message)
    }

    /// Records that it is unknown whether the service has a batch for a submission.
    pub fn unknown(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "unknown", "intended", message)
    }

    /// Records that a submission was answered with a batch of another shard, or of none.
    pub fn mistaken(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "mistaken", "held", message)
    }

    /// Whether a shard is held because its submission was answered with a batch of another shard, or of none.
    pub fn has_mistaken_batch(&self) -> Result<bool, LedgerError> {
        self.read(|connection| {
            let query = "SELECT EXISTS (
                SELECT 1 FROM shard JOIN submission ON submission.id = (SELECT max(id) FROM submission WHERE shard = shard.number)
                WHERE shard.state = 'held' AND submission.answer = 'mistaken'
            )";
            connection.query_row(query, [], |row| row.get(0))
        })
    }

    /// Records that a submission's batch ended before it executed anything, because the service had no room for it. The
    /// shard is submitted again, or reconciled again if that batch may not be the last submission's.
    pub fn deferred(
        &mut self,
        shard: u32,
        submission: i64,
        batch: &EndedBatch,
        is_unresolved: bool,
    ) -> Result<(), LedgerError> {
        let (answer, state) = if is_unresolved { ("unknown", "intended") } else { ("deferred", "uploaded") };
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE batch SET status = ?2, error = ?3, seen_at = ?4, deferred = 1 WHERE id = ?1",
                params![batch.id, batch.status.to_string(), batch.error, now()],
            )?;
            transaction.execute("UPDATE submission SET answer = ?2 WHERE id = ?1", params![submission, answer])?;
            transaction.execute(
                "UPDATE shard SET state = ?2, note = ?3 WHERE number = ?1",
                params![shard, state, batch.error],
            )?;
            transaction.commit()
        })
    }

    /// Batches for which the service had no room.
    pub fn deferred_batches(&self) -> Result<BTreeSet<String>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT id FROM batch WHERE deferred")?;
            query.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// How many batches of a model the service has room for, as far as it has been learned.
    pub fn in_flight_caps(&self) -> Result<BTreeMap<String, usize>, LedgerError> {
        // An unreadable value is learned again.
        Ok(self.find_meta(IN_FLIGHT_CAPS)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// Records how many batches of a model the service has room for.
    pub fn set_in_flight_caps(&mut self, caps: &BTreeMap<&str, usize>) -> Result<(), LedgerError> {
        self.set_meta(IN_FLIGHT_CAPS, Json(caps))
    }

    /// Records that a submission remains unresolved and waits for a decision.
    pub fn held(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "unknown", "held", message)
    }

    /// Records that the service does not show a shard's batch, and the shard waits for a decision.
    pub fn lost(&mut self, shard: u32, message: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            let change = "UPDATE shard SET state = 'lost', note = ?2 WHERE number = ?1";
            connection.execute(change, params![shard, message]).map(drop)
        })
    }

    /// Records that the service shows a shard's batch again.
    pub fn found(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.set_state(shard, "submitted")
    }

    fn answer(
        &mut self,
        shard: u32,
        submission: i64,
        answer: &str,
        state: &str,
        message: &str,
    ) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE submission SET answer = ?2, answered_at = ?3, message = ?4 WHERE id = ?1",
                params![submission, answer, now(), message],
            )?;
            transaction
                .execute("UPDATE shard SET state = ?2, note = ?3 WHERE number = ?1", params![shard, state, message])?;
            transaction.commit()
        })
    }

    /// Whether any POST that may create a batch was ever sent.
    pub fn has_submissions(&self) -> Result<bool, LedgerError> {
        self.read(|connection| connection.query_row("SELECT EXISTS (SELECT 1 FROM submission)", [], |row| row.get(0)))
    }

    /// Records the decision to submit a held shard again.
    pub fn submit_again(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.set_state(shard, "uploaded")
    }

    /// Surplus batches: found at the service but not processing a shard of the run, by id, and whether they are to be
    /// cancelled.
    pub fn surplus(&self) -> Result<BTreeMap<String, bool>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT id, stop FROM surplus")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// Records a surplus batch, which uses a shard's file, and whether it is to be cancelled.
    pub fn found_surplus(
        &mut self,
        shard: u32,
        batch_id: &str,
        stop: bool,
        incident: &Incident,
    ) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR IGNORE INTO surplus (id, shard, stop) VALUES (?1, ?2, ?3)",
                params![batch_id, shard, stop],
            )?;
            insert_incident(&transaction, incident)?;
            transaction.commit()
        })
    }

    /// Submissions that are recorded in the intents but missing from the Ledger, or different there.
    pub fn forgotten(&self) -> Result<Vec<Intent>, LedgerError> {
        // Read before the Ledger is queried: another process writes each of them to the Ledger first.
        let recorded = match intents::read(&self.intents_path()) {
            Err(error) if error.is_not_found() => None,
            read => Some(read?.0),
        };
        let known: BTreeMap<i64, (u32, String)> = self.read(|connection| {
            let mut query = connection.prepare("SELECT id, shard, file_id FROM submission")?;
            query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?.collect()
        })?;
        let Some(mut recorded) = recorded else {
            return if known.is_empty() { Ok(Vec::new()) } else { Err(self.damaged("its intents file is missing")) };
        };
        recorded.retain(|intent| known.get(&intent.submission) != Some(&(intent.shard, intent.file_id.clone())));
        Ok(recorded)
    }

    /// Restores a forgotten submission, with an unknown outcome. False if its shard is missing, too, or its row is
    /// taken.
    pub fn remember(&mut self, intent: &Intent) -> Result<bool, LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            let inserted = transaction.execute(
                "INSERT INTO submission (id, shard, file_id, known_batches, intended_at) SELECT ?1, number, ?3, ?4, ?5 FROM shard
                 WHERE number = ?2 AND NOT EXISTS (SELECT 1 FROM submission WHERE id >= ?1 AND (id = ?1 OR shard = ?2))",
                params![intent.submission, intent.shard, intent.file_id, Json(&intent.known), intent.intended_at],
            )?;
            if inserted == 1 {
                transaction.execute(
                    "UPDATE shard SET state = 'intended', file_id = ?2, file_reused = ?3, note = NULL WHERE number = ?1",
                    params![intent.shard, intent.file_id, intent.file_reused],
                )?;
            }
            transaction.commit()?;
            Ok(inserted == 1)
        })
    }

    pub(crate) fn intents_path(&self) -> PathBuf {
        self.path.with_file_name("intents.log")
    }
}
