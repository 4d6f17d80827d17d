//! The Ledger: the authoritative record of shards, batches and money, in `SQLite`.
//!
//! In: what happens to each shard, as it happens. Out: the state of every shard, after any crash.
//!
//! Invariants:
//! - A method returns once its change is committed and synced. External effects (above all, a POST) come after that.
//! - One connection, owned by the driver's thread. The run directory's lock keeps other processes out.
//! - `user_version` is the schema version of a file; one newer than this program's is refused.
//! - Every submission is also recorded in the [`intents`] beside it. A Ledger that is missing one is refused: it was
//!   reverted to an earlier state, and would repeat submissions.
//!
//! The file is readable with standard tools: `sqlite3 ledger.sqlite 'select * from shard'`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, ToSql, ffi, params};
use serde::{Deserialize, Serialize};

pub mod intents;
mod phases;
mod replies;
mod rows;
mod schema;
mod submissions;

use crate::ledger::intents::Intents;
use crate::ledger::rows::{insert_shards, read_shard, signed};
use crate::ledger::schema::{SCHEMA, SCHEMA_VERSION};
use crate::model::incident::{Incident, RecordedIncident};
use crate::model::shard::Shard;
use crate::model::shard_state::{EndedBatch, ShardRow};
use crate::model::shown::Name;
use crate::storage::durable::FileError;
use crate::storage::fault_hook;
use crate::storage::fault_hook::Change;

/// Why the Ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// `SQLite` reports an error: a full disk, a damaged file.
    #[error("cannot use the ledger {}", Name(path))]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        source: rusqlite::Error,
    },
    /// A newer program wrote it.
    #[error("the ledger {} has schema version {found}; this program knows versions up to {SCHEMA_VERSION}", Name(path))]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The intents beside it cannot be read or written.
    #[error(transparent)]
    Intents(#[from] FileError),
    /// A value in it is invalid.
    #[error("the ledger {} is damaged: {what}", Name(path))]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The value.
        what: String,
    },
}

/// What a further round sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRound {
    /// Its shards.
    pub shards: Vec<Shard>,
    /// The shards whose requests they contain, with the errors that those still count, by kind.
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
    /// Creates a new Ledger with its shards, in one transaction.
    pub fn create(path: &Path, meta: &[(&str, String)], shards: &[Shard]) -> Result<Self, LedgerError> {
        let mut ledger = Self::connect(path, OpenFlags::default())?;
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

    /// Opens an existing Ledger and verifies that no submission is missing.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let ledger = Self::open_unverified(path)?;
        match ledger.forgotten()?.first() {
            None => Ok(ledger),
            Some(intent) => {
                let (submission, shard) = (intent.submission, intent.shard);
                Err(ledger.damaged(format!("submission {submission}, of shard {shard}, was recorded but is missing")))
            }
        }
    }

    /// Opens an existing Ledger without verifying its submissions; nothing may be sent based on it.
    pub fn open_unverified(path: &Path) -> Result<Self, LedgerError> {
        // Without permission to create one: a wrong path must not leave an empty Ledger behind.
        let mut ledger = Self::connect(path, OpenFlags::default() - OpenFlags::SQLITE_OPEN_CREATE)?;
        let found = ledger.read(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))?;
        match found {
            SCHEMA_VERSION => Ok(ledger),
            0 => Err(ledger.damaged("it has no schema")),
            1..SCHEMA_VERSION => {
                ledger.write(schema::migrate)?;
                Ok(ledger)
            }
            _ => Err(LedgerError::Newer { path: path.to_owned(), found }),
        }
    }

    /// Opens an existing Ledger, read-only, for its metadata of the run, which is the same in all versions.
    pub fn peek(path: &Path) -> Result<Self, LedgerError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let connection = connection.map_err(|source| LedgerError::Sqlite { path: path.to_owned(), source })?;
        let ledger = Self { connection, path: path.to_owned(), intents: None };
        match ledger.read(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))? {
            0 => Err(ledger.damaged("it has no schema")),
            1..=SCHEMA_VERSION => Ok(ledger),
            found => Err(LedgerError::Newer { path: ledger.path, found }),
        }
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, LedgerError> {
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            Ok(connection)
        };
        let connection = open().map_err(|source| LedgerError::Sqlite { path: path.to_owned(), source })?;
        Ok(Self { connection, path: path.to_owned(), intents: None })
    }

    /// A metadata value of the run.
    pub fn meta(&self, key: &str) -> Result<String, LedgerError> {
        self.find_meta(key)?.ok_or_else(|| self.damaged(format!("{key} is missing")))
    }

    /// The same, for an optional value.
    fn find_meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        self.read(|connection| {
            connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
        })
    }

    /// All metadata values of the run, by key.
    pub fn meta_rows(&self) -> Result<BTreeMap<String, String>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT key, value FROM meta")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// How many requests the input has.
    pub fn requests(&self) -> Result<u64, LedgerError> {
        let requests = self.meta("requests")?;
        requests.parse().map_err(|_| self.damaged(format!("requests is {requests:?}")))
    }

    /// Sets a metadata value of the run.
    pub fn set_meta(&mut self, key: &str, value: impl ToSql) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection
                .execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])
                .map(drop)
        })
    }

    /// All shards and their states.
    pub fn shards(&self) -> Result<Vec<ShardRow>, LedgerError> {
        let rows = self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT shard.*, submission.id AS submission, submission.known_batches, submission.intended_at, submission.batch_id, submission.answer,
                        batch.status, batch.output_file_id, batch.error_file_id, batch.error,
                        batch.total, batch.completed, batch.failed,
                        indexed.left_over, indexed.left_first,
                        EXISTS (SELECT 1 FROM submission WHERE shard = shard.number AND answer IN ('abandoned', 'refused')) AS abandoned
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

    /// Records the last known status of a batch.
    pub fn seen(&mut self, batch_id: &str, status: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            connection
                .execute("UPDATE batch SET status = ?2, seen_at = ?3 WHERE id = ?1", params![batch_id, status, now()])
                .map(drop)
        })
    }

    /// Records a batch's end.
    pub fn ended(&mut self, shard: u32, batch: &EndedBatch) -> Result<(), LedgerError> {
        let counts = batch.counts.map(|counts| [counts.total, counts.completed, counts.failed].map(signed));
        let [total, completed, failed] = counts.map_or([None; 3], |counts| counts.map(Some));
        self.write(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE batch SET status = ?2, output_file_id = ?3, error_file_id = ?4, error = ?5, seen_at = ?6,
                        total = ?7, completed = ?8, failed = ?9
                 WHERE id = ?1",
                params![
                    batch.id,
                    batch.status.to_string(),
                    batch.output_file_id,
                    batch.error_file_id,
                    batch.error,
                    now(),
                    total,
                    completed,
                    failed
                ],
            )?;
            transaction.execute(
                "UPDATE shard SET state = 'ended', note = ?2 WHERE number = ?1",
                params![shard, batch.error],
            )?;
            transaction.commit()
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

    fn set_state(&mut self, shard: u32, state: &str) -> Result<(), LedgerError> {
        self.write(|connection| {
            let change = "UPDATE shard SET state = ?2, note = NULL WHERE number = ?1";
            connection.execute(change, params![shard, state]).map(drop)
        })
    }

    /// The problems that `SQLite` finds in the file; empty if none.
    pub fn damage(&self) -> Result<Vec<String>, LedgerError> {
        let found: Vec<String> = self.read(|connection| {
            let mut query = connection.prepare("PRAGMA integrity_check")?;
            query.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// Records an incident: its kind for programs, its text for people.
    pub fn incident(&mut self, incident: &Incident) -> Result<(), LedgerError> {
        self.write(|connection| insert_incident(connection, incident))
    }

    /// The incidents, oldest first.
    pub fn incidents(&self) -> Result<Vec<RecordedIncident>, LedgerError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT at, kind, shard, text FROM incident ORDER BY rowid")?;
            let record = |row: &Row<'_>| {
                Ok(RecordedIncident { at: row.get(0)?, kind: row.get(1)?, shard: row.get(2)?, text: row.get(3)? })
            };
            query.query_map([], record)?.collect()
        })
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        query(&self.connection).map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    fn write<T>(&mut self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        let allowed = fault_hook::before(Change::Commit, &self.path).map_err(|error| {
            rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), Some(error.to_string()))
        });
        let changed = allowed.and_then(|()| change(&mut self.connection));
        changed.map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> LedgerError {
        LedgerError::Damaged { path: self.path.clone(), what: what.into() }
    }
}

fn insert_incident(connection: &Connection, incident: &Incident) -> rusqlite::Result<()> {
    let insert = "INSERT INTO incident (at, shard, text, kind) VALUES (?1, ?2, ?3, ?4)";
    connection.execute(insert, params![now(), incident.shard(), incident.to_string(), incident.kind()]).map(drop)
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_is_not_there_is_an_error_and_none_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.sqlite");
        for opened in [Ledger::open(&path), Ledger::open_unverified(&path), Ledger::peek(&path)] {
            assert!(matches!(opened, Err(LedgerError::Sqlite { .. })));
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
        drop(Ledger::create(&path, &[], &[]).unwrap());
        assert!(Ledger::open(&path).is_ok());
    }
}
