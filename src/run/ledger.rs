//! The Ledger: the truth about shards, batches and money, in `SQLite`.
//!
//! In: what happened to each shard, as it happens. Out: where every shard stands, after any crash.
//!
//! What always holds:
//! - A method returns when its change is committed and synced. What follows in the world (a POST, above all) follows after.
//! - One connection, owned by the driver's thread. The run directory's lock keeps other processes out.
//! - `user_version` says which schema a file has; a newer one than this program's is refused, never guessed at.
//! - Every submission is among the [`intents`] beside it, too. A Ledger that lacks one is refused: it has gone
//!   back in time, and would send again what has been sent.
//!
//! The file is meant to be read by people, too: `sqlite3 ledger.sqlite 'select * from shard'`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::intents::{self, Intent, Intents};
use super::state::{EndedBatch, LastSubmission, LeftOver, Recorded, ShardState};
use crate::durable::FileError;
use crate::input::pack::{Cut, Shard, Stretch};
use crate::results::index::Indexed;
use crate::results::reply::Usage;

/// The schema that this program writes.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- What goes up together. first and last are the Seqs of its first and last request.
CREATE TABLE shard (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    requests INTEGER NOT NULL, bytes INTEGER NOT NULL, checksum TEXT NOT NULL, cut TEXT NOT NULL,
    -- The round, from 1; for later rounds the list of Seqs that it sends again, and its first place in it.
    round INTEGER NOT NULL, list INTEGER, list_start INTEGER,
    state TEXT NOT NULL DEFAULT 'packed', file_id TEXT, file_reused INTEGER NOT NULL DEFAULT 0, note TEXT,
    -- Whether its reply files were fetched a second time, and whether a later round has taken up what it left.
    refetched INTEGER NOT NULL DEFAULT 0, followed INTEGER NOT NULL DEFAULT 0,
    -- Whether somebody decided that what it left is to be sent again, whatever speaks against it.
    decided INTEGER NOT NULL DEFAULT 0
) STRICT;
-- One row for each POST that may create a batch, written before it is sent. answer is null until there is one.
CREATE TABLE submission (
    id INTEGER PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, file_id TEXT NOT NULL, known_batches TEXT NOT NULL,
    intended_at TEXT NOT NULL, answer TEXT, answered_at TEXT, batch_id TEXT, message TEXT
) STRICT;
CREATE TABLE batch (
    id TEXT PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, submission INTEGER NOT NULL REFERENCES submission,
    status TEXT NOT NULL, output_file_id TEXT, error_file_id TEXT, error TEXT, seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- Batches that use a shard's file and do not work for the run: they may have been paid for in vain.
CREATE TABLE surplus (
    id TEXT PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, stop INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Counts of a shard's replies, written when its slots are on disk. left_over requests are worth sending again; left_first is
-- the Seq of the first. Errors that were sent again are no longer counted here.
CREATE TABLE indexed (
    shard INTEGER PRIMARY KEY REFERENCES shard, replies INTEGER NOT NULL, outputs INTEGER NOT NULL, errors INTEGER NOT NULL,
    duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL, unknown INTEGER NOT NULL, unreadable INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, labels TEXT NOT NULL,
    left_over INTEGER NOT NULL, left_first INTEGER NOT NULL
) STRICT;
-- Checksums of the reply files that are indexed; see the number in slots.
CREATE TABLE reply_file (number INTEGER PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, checksum TEXT NOT NULL) STRICT;
-- What was sent again, and why.
CREATE TABLE resent (round INTEGER NOT NULL, reason TEXT NOT NULL, requests INTEGER NOT NULL) STRICT;
-- What went wrong and was dealt with.
CREATE TABLE incident (at TEXT NOT NULL, shard INTEGER, text TEXT NOT NULL) STRICT;
";

/// Why the Ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// `SQLite` reports an error: a full disk, a damaged file.
    #[error("cannot use the ledger {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        source: rusqlite::Error,
    },
    /// A newer program wrote it.
    #[error("the ledger {} has schema version {found}; this program knows versions up to {SCHEMA_VERSION}", path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The intents beside it cannot be read or written.
    #[error(transparent)]
    Intents(#[from] FileError),
    /// A value in it makes no sense.
    #[error("the ledger {} is damaged: {what}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The value.
        what: String,
    },
}

/// What a further round sends.
#[derive(Debug, Default)]
pub struct NextRound {
    /// Its shards.
    pub shards: Vec<Shard>,
    /// The shards whose requests they take up, with the errors that they still count, by kind.
    pub followed: Vec<(u32, u64, BTreeMap<String, u64>)>,
    /// Why requests are sent again, and how many.
    pub reasons: BTreeMap<String, u64>,
}

/// The open database.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    /// Opened for the first submission.
    intents: Option<Intents>,
}

impl Ledger {
    /// Makes a new Ledger with its shards, all in one transaction.
    pub fn create(path: &Path, meta: &[(&str, String)], shards: &[Shard]) -> Result<Self, LedgerError> {
        let mut ledger = Self::connect(path)?;
        ledger.intents = Some(Intents::open(&ledger.intents_path())?);
        ledger.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            for (key, value) in meta {
                transaction.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
            }
            insert_shards(&transaction, shards)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()
        })?;
        Ok(ledger)
    }

    /// Opens an existing Ledger and makes sure that it has forgotten no submission.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let ledger = Self::open_unverified(path)?;
        match ledger.forgotten()?.first() {
            None => Ok(ledger),
            Some(intent) => {
                let (submission, shard) = (intent.submission, intent.shard);
                Err(ledger.damaged(format!("submission {submission}, of shard {shard}, was recorded and is not there")))
            }
        }
    }

    /// Opens an existing Ledger whatever it has forgotten; nothing may be sent on its word.
    pub fn open_unverified(path: &Path) -> Result<Self, LedgerError> {
        let ledger = Self::connect(path)?;
        let found = ledger.read(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))?;
        match found {
            SCHEMA_VERSION => Ok(ledger),
            0 => Err(ledger.damaged("it has no schema")),
            _ => Err(LedgerError::Newer { path: path.to_owned(), found }),
        }
    }

    fn connect(path: &Path) -> Result<Self, LedgerError> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            Ok(connection)
        };
        let connection = open().map_err(|source| LedgerError::Sqlite { path: path.to_owned(), source })?;
        Ok(Self { connection, path: path.to_owned(), intents: None })
    }

    /// Submissions that were recorded beside the Ledger and are not in it, or are something else there.
    pub fn forgotten(&self) -> Result<Vec<Intent>, LedgerError> {
        // Read before the Ledger is asked, in which another process may write each of them first.
        let recorded = match intents::read(&self.intents_path()) {
            Err(error) if error.is_not_found() => None,
            read => Some(read?.0),
        };
        let known: BTreeMap<i64, (u32, String)> = self.read(|connection| {
            let mut query = connection.prepare("SELECT id, shard, file_id FROM submission")?;
            query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?.collect()
        })?;
        let Some(mut recorded) = recorded else {
            return if known.is_empty() {
                Ok(Vec::new())
            } else {
                Err(self.damaged("the record of its intents is gone"))
            };
        };
        recorded.retain(|intent| known.get(&intent.submission) != Some(&(intent.shard, intent.file_id.clone())));
        Ok(recorded)
    }

    /// Takes up a submission that was forgotten as one of which nobody knows the answer. False if its shard is not there either, or
    /// its place is taken.
    pub fn remember(&mut self, intent: &Intent) -> Result<bool, LedgerError> {
        let known = serde_json::to_string(&intent.known).unwrap_or_default();
        self.write(|connection| {
            let transaction = connection.transaction()?;
            let inserted = transaction.execute(
                "INSERT INTO submission (id, shard, file_id, known_batches, intended_at) SELECT ?1, number, ?3, ?4, ?5 FROM shard
                 WHERE number = ?2 AND NOT EXISTS (SELECT 1 FROM submission WHERE id >= ?1 AND (id = ?1 OR shard = ?2))",
                params![intent.submission, intent.shard, intent.file_id, known, intent.intended_at],
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

    fn intents_path(&self) -> PathBuf {
        self.path.with_file_name("intents.log")
    }

    /// A value of the run as a whole.
    pub fn meta(&self, key: &str) -> Result<String, LedgerError> {
        let found: Option<String> = self.read(|connection| {
            connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
        })?;
        found.ok_or_else(|| self.damaged(format!("{key} is missing")))
    }

    /// How many requests the input has.
    pub fn requests(&self) -> Result<u64, LedgerError> {
        let requests = self.meta("requests")?;
        requests.parse().map_err(|_| self.damaged(format!("requests is {requests:?}")))
    }

    /// Sets a value of the run as a whole.
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, value]).map(drop)
        })
    }

    /// All shards and where they stand.
    pub fn shards(&self) -> Result<Vec<Recorded>, LedgerError> {
        let rows = self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT shard.*, submission.id AS submission, submission.known_batches, submission.intended_at, submission.batch_id,
                        batch.status, batch.output_file_id, batch.error_file_id, batch.error,
                        indexed.left_over, indexed.left_first,
                        EXISTS (SELECT 1 FROM submission WHERE shard = shard.number AND answer = 'abandoned') AS abandoned
                 FROM shard
                 LEFT JOIN indexed ON indexed.shard = shard.number
                 LEFT JOIN submission ON submission.id = (SELECT max(id) FROM submission WHERE shard = shard.number)
                 LEFT JOIN batch ON batch.id = submission.batch_id
                 ORDER BY number",
            )?;
            query.query_map([], read_shard)?.collect::<Result<Vec<_>, _>>()
        })?;
        rows.into_iter().map(|row| row.map_err(|what| self.damaged(what))).collect()
    }

    /// Records that a shard's file is at the service.
    pub fn uploaded(&mut self, shard: u32, file_id: &str, reused: bool) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection
                .execute(
                    "UPDATE shard SET state = 'uploaded', file_id = ?2, file_reused = ?3, note = NULL WHERE number = ?1",
                    params![shard, file_id, reused],
                )
                .map(drop)
        })
    }

    /// Records the intent to create a batch from a shard's file; to be called before the POST. `known` are the batches
    /// that are known to use that file already.
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
        let known_text = serde_json::to_string(&known).unwrap_or_default();
        let intended_at = jiff::Timestamp::now();
        let id = self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO submission (shard, file_id, known_batches, intended_at) VALUES (?1, ?2, ?3, ?4)",
                params![shard, file_id, known_text, intended_at.to_string()],
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
        Ok(LastSubmission { id, known, intended_at })
    }

    /// Records that the service has a batch for a submission.
    pub fn accepted(&mut self, shard: u32, submission: i64, batch_id: &str, status: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE submission SET answer = 'accepted', answered_at = ?2, batch_id = ?3 WHERE id = ?1",
                params![submission, now(), batch_id],
            )?;
            transaction.execute(
                "INSERT INTO batch (id, shard, submission, status, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![batch_id, shard, submission, status, now()],
            )?;
            transaction.execute("UPDATE shard SET state = 'submitted', note = NULL WHERE number = ?1", [shard])?;
            transaction.commit()
        })
    }

    /// Records that the service has no batch for a submission, for certain: the shard may be submitted again.
    pub fn refused(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "refused", "uploaded", message)
    }

    /// Records that a submission in doubt is given up: the shard is submitted again although a batch may exist.
    pub fn abandoned(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "abandoned", "uploaded", message)
    }

    /// Records that nobody knows whether the service has a batch for a submission.
    pub fn unknown(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "unknown", "intended", message)
    }

    /// Records that a submission stays unresolved and waits for a decision.
    pub fn held(&mut self, shard: u32, submission: i64, message: &str) -> Result<(), LedgerError> {
        self.answer(shard, submission, "unknown", "held", message)
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

    /// Records what a batch was last seen as.
    pub fn seen(&mut self, batch_id: &str, status: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection
                .execute("UPDATE batch SET status = ?2, seen_at = ?3 WHERE id = ?1", params![batch_id, status, now()])
                .map(drop)
        })
    }

    /// Records a batch's end.
    pub fn ended(&mut self, shard: u32, batch: &EndedBatch) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE batch SET status = ?2, output_file_id = ?3, error_file_id = ?4, error = ?5, seen_at = ?6 WHERE id = ?1",
                params![batch.id, batch.status, batch.output_file_id, batch.error_file_id, batch.error, now()],
            )?;
            transaction.execute("UPDATE shard SET state = 'ended', note = ?2 WHERE number = ?1", params![shard, batch.error])?;
            transaction.commit()
        })
    }

    /// Records that a shard's reply files are on disk.
    pub fn downloaded(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.set_state(shard, "downloaded")
    }

    /// Records that a shard's slots are on disk, and what its replies were.
    /// `files` are the numbers of its reply files and their checksums.
    pub fn indexed(
        &mut self,
        shard: u32,
        indexed: &Indexed,
        left_over: LeftOver,
        files: &[(u32, u128)],
    ) -> Result<(), LedgerError> {
        let labels = serde_json::to_string(&indexed.labels).unwrap_or_default();
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR REPLACE INTO indexed VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
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
                    labels,
                    signed(left_over.count),
                    signed(left_over.first)
                ],
            )?;
            for (number, checksum) in files {
                transaction.execute(
                    "INSERT OR REPLACE INTO reply_file (number, shard, checksum) VALUES (?1, ?2, ?3)",
                    params![number, shard, format!("{checksum:032x}")],
                )?;
            }
            transaction.execute("UPDATE shard SET state = 'indexed' WHERE number = ?1", [shard])?;
            transaction.commit()
        })
    }

    /// What the replies of all indexed shards were.
    pub fn totals(&self) -> Result<Indexed, LedgerError> {
        self.read(|connection| {
            let mut totals = Indexed::default();
            let mut query = connection.prepare("SELECT * FROM indexed")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let count = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
                let labels: String = row.get(10)?;
                totals.add(&Indexed {
                    replies: count(1)?,
                    outputs: count(2)?,
                    errors: count(3)?,
                    duplicates: count(4)?,
                    conflicts: count(5)?,
                    unknown: count(6)?,
                    unreadable: count(7)?,
                    usage: Usage { prompt: count(8)?, completion: count(9)? },
                    labels: serde_json::from_str(&labels).unwrap_or_default(),
                    checksums: Vec::new(),
                });
            }
            Ok(totals)
        })
    }

    /// Records that a shard's batch is to be looked at, and its reply files fetched, a second time.
    pub fn refetch(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection
                .execute("UPDATE shard SET state = 'submitted', refetched = 1 WHERE number = ?1", [shard])
                .map(drop)
        })
    }

    /// Records the shards of the next round. `followed` are the shards whose requests they take up; the errors that are sent again
    /// are taken out of their counts.
    pub fn next_round(&mut self, round: &NextRound) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            insert_shards(&transaction, &round.shards)?;
            for (shard, errors, labels) in &round.followed {
                let labels = serde_json::to_string(labels).unwrap_or_default();
                transaction.execute("UPDATE shard SET followed = 1 WHERE number = ?1", [shard])?;
                transaction.execute(
                    "UPDATE indexed SET errors = ?2, labels = ?3 WHERE shard = ?1",
                    params![shard, signed(*errors), labels],
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
                let labels: String = row.get(1)?;
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), serde_json::from_str(&labels).unwrap_or_default()))
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

    /// All files of the run at the service: batch files and reply files.
    pub fn remote_files(&self) -> Result<Vec<String>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT file_id FROM submission UNION SELECT output_file_id FROM batch WHERE output_file_id IS NOT NULL
                 UNION SELECT error_file_id FROM batch WHERE error_file_id IS NOT NULL",
            )?;
            query.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// What was sent again in all rounds, and why.
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

    /// Records the decision to submit a held shard again.
    pub fn submit_again(&mut self, shard: u32) -> Result<(), LedgerError> {
        self.set_state(shard, "uploaded")
    }

    /// Records the decision to send again what an indexed shard left.
    pub fn decide(&mut self, shard: u32, left_over: LeftOver) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute("UPDATE shard SET decided = 1 WHERE number = ?1", [shard])?;
            transaction.execute(
                "UPDATE indexed SET left_over = ?2, left_first = ?3 WHERE shard = ?1",
                params![shard, signed(left_over.count), signed(left_over.first)],
            )?;
            transaction.commit()
        })
    }

    /// Batches that were found at the service beside those that work for the run, by id, and whether they are to be stopped.
    pub fn surplus(&self) -> Result<BTreeMap<String, bool>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT id, stop FROM surplus")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// Records a batch that uses a shard's file and does not work for the run, and whether it is to be stopped.
    pub fn found_surplus(&mut self, shard: u32, batch_id: &str, stop: bool, text: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR IGNORE INTO surplus (id, shard, stop) VALUES (?1, ?2, ?3)",
                params![batch_id, shard, stop],
            )?;
            transaction
                .execute("INSERT INTO incident (at, shard, text) VALUES (?1, ?2, ?3)", params![now(), shard, text])?;
            transaction.commit()
        })
    }

    /// Takes a shard back to where its replies are on disk (`downloaded`) or at the service (`ended`).
    pub fn take_back(&mut self, shard: u32, to_service: bool) -> Result<(), LedgerError> {
        self.set_state(shard, if to_service { "ended" } else { "downloaded" })
    }

    fn set_state(&mut self, shard: u32, state: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            let change = "UPDATE shard SET state = ?2, note = NULL WHERE number = ?1";
            connection.execute(change, params![shard, state]).map(drop)
        })
    }

    /// What `SQLite` finds wrong with the file; empty if nothing.
    pub fn damage(&self) -> Result<Vec<String>, LedgerError> {
        let found: Vec<String> = self.read(|connection| {
            let mut query = connection.prepare("PRAGMA integrity_check")?;
            query.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// Keeps a note on something that went wrong and was dealt with.
    pub fn incident(&mut self, shard: Option<u32>, text: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection
                .execute("INSERT INTO incident (at, shard, text) VALUES (?1, ?2, ?3)", params![now(), shard, text])
                .map(drop)
        })
    }

    /// The notes, oldest first.
    pub fn incidents(&self) -> Result<Vec<String>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT text FROM incident ORDER BY rowid")?;
            query.query_map([], |row| row.get(0))?.collect()
        })
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        query(&self.connection).map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    fn write<T>(&mut self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        #[cfg(test)]
        if fuse::burns() {
            let source = rusqlite::Error::InvalidQuery;
            return Err(LedgerError::Sqlite { path: self.path.clone(), source });
        }
        change(&mut self.connection).map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> LedgerError {
        LedgerError::Damaged { path: self.path.clone(), what: what.into() }
    }
}

fn insert_shards(connection: &Connection, shards: &[Shard]) -> rusqlite::Result<()> {
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
            shard.stretch.map(|stretch| stretch.list),
            shard.stretch.map(|stretch| signed(stretch.start)),
        ])?;
    }
    Ok(())
}

/// Reads a row of the query in [`Ledger::shards`]; the inner error says which value makes no sense.
fn read_shard(row: &Row<'_>) -> rusqlite::Result<Result<Recorded, String>> {
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
        stretch: match row.get::<_, Option<u32>>("list")? {
            Some(list) => Some(Stretch { list, start: unsigned("list_start")? }),
            None => None,
        },
    };
    let name: String = row.get("state")?;
    let state = read_state(row, &name)?;
    let (note, file_id, batch_status) = (row.get("note")?, row.get("file_id")?, row.get("status")?);
    let left_over = match row.get::<_, Option<i64>>("left_over")? {
        Some(count) => LeftOver { count: count.cast_unsigned(), first: unsigned("left_first")? },
        None => LeftOver::default(),
    };
    let abandoned = row.get("abandoned")?;
    let decided = row.get("decided")?;
    let (file_reused, refetched, followed) = (row.get("file_reused")?, row.get("refetched")?, row.get("followed")?);
    let last_submission = match read_submission(row)? {
        Ok(submission) => submission,
        Err(what) => return Ok(Err(format!("the submission of shard {number}: {what}"))),
    };
    let known = |state| Recorded {
        shard,
        state,
        note,
        file_id,
        file_reused,
        last_submission,
        abandoned,
        batch_status,
        left_over,
        refetched,
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
    Ok(Ok(Some(LastSubmission { id, known, intended_at })))
}

fn read_state(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<ShardState>> {
    let file_id: Option<String> = row.get("file_id")?;
    let submission: Option<i64> = row.get("submission")?;
    let batch_id: Option<String> = row.get("batch_id")?;
    let ended = || {
        let Some(id) = batch_id.clone() else { return Ok(None) };
        Ok::<_, rusqlite::Error>(Some(EndedBatch {
            id,
            status: row.get::<_, Option<String>>("status")?.unwrap_or_default(),
            output_file_id: row.get("output_file_id")?,
            error_file_id: row.get("error_file_id")?,
            error: row.get("error")?,
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
        "ended" => submission.zip(ended()?).map(|(submission, batch)| ShardState::Ended { submission, batch }),
        "downloaded" => {
            submission.zip(ended()?).map(|(submission, batch)| ShardState::Downloaded { submission, batch })
        }
        "indexed" => submission.zip(ended()?).map(|(submission, batch)| ShardState::Indexed { submission, batch }),
        _ => None,
    })
}

/// `SQLite` has signed integers only; no count here comes near the sign.
fn signed(count: u64) -> i64 {
    count.cast_signed()
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Makes the changes of a thread fail from one on, as when the disk is full or the process dies between two of them.
#[cfg(test)]
pub(crate) mod fuse {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Sets how many changes succeed from now on; all of them without a number.
    pub(crate) fn set(changes: Option<u64>) {
        LEFT.set(changes);
    }

    /// Whether the next change fails.
    pub(super) fn burns() -> bool {
        let left = LEFT.get();
        LEFT.set(left.map(|left| left.saturating_sub(1)));
        left == Some(0)
    }
}
