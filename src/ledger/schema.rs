//! The tables of the Ledger, which users may read, too, and the migrations from older versions.

use rusqlite::{Connection, TransactionBehavior};

/// The schema version that this program writes.
pub(crate) const SCHEMA_VERSION: i64 = 6;

/// The migrations from each older schema version to the next, from version 1 on. Applied to the oldest schema, they
/// result in [`SCHEMA`].
pub(crate) const MIGRATIONS: [&str; 5] = [
    "
ALTER TABLE batch ADD COLUMN total INTEGER;
ALTER TABLE batch ADD COLUMN completed INTEGER;
ALTER TABLE batch ADD COLUMN failed INTEGER;
",
    "
ALTER TABLE shard DROP COLUMN refetched;
ALTER TABLE shard ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
",
    "
ALTER TABLE incident ADD COLUMN kind TEXT NOT NULL DEFAULT 'note';
ALTER TABLE batch ADD COLUMN deferred INTEGER NOT NULL DEFAULT 0;
",
    "
ALTER TABLE indexed ADD COLUMN recognised INTEGER NOT NULL DEFAULT 0;
",
    "
CREATE TABLE phase (name TEXT PRIMARY KEY, seconds REAL NOT NULL) STRICT, WITHOUT ROWID;
",
];

pub(crate) const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- What goes up together. first and last are the Seqs of its first and last request.
CREATE TABLE shard (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    requests INTEGER NOT NULL, bytes INTEGER NOT NULL, checksum TEXT NOT NULL, cut TEXT NOT NULL,
    -- The round, from 1; for later rounds the list of Seqs that it sends again, and its first place in it.
    round INTEGER NOT NULL, list INTEGER, list_start INTEGER,
    state TEXT NOT NULL DEFAULT 'packed', file_id TEXT, file_reused INTEGER NOT NULL DEFAULT 0, note TEXT,
    -- Whether a later round has taken over its unfinished requests.
    followed INTEGER NOT NULL DEFAULT 0,
    -- Whether the user decided to send its unfinished requests again regardless of the rules.
    decided INTEGER NOT NULL DEFAULT 0,
    -- Whether the user decided to accept the fetched replies as complete, whatever the service reports.
    accepted INTEGER NOT NULL DEFAULT 0
) STRICT;
-- One row for each POST that may create a batch, written before it is sent. answer is null until there is one.
CREATE TABLE submission (
    id INTEGER PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, file_id TEXT NOT NULL, known_batches TEXT NOT NULL,
    intended_at TEXT NOT NULL, answer TEXT, answered_at TEXT, batch_id TEXT, message TEXT
) STRICT;
-- The last one of each shard is asked for with every start.
CREATE INDEX submission_shard ON submission (shard);
CREATE TABLE batch (
    id TEXT PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, submission INTEGER NOT NULL REFERENCES submission,
    status TEXT NOT NULL, output_file_id TEXT, error_file_id TEXT, error TEXT, seen_at TEXT NOT NULL,
    -- How many requests it has, has answered, and has failed at, where the service counts them.
    total INTEGER, completed INTEGER, failed INTEGER,
    -- Whether it ended before it did anything, because the service had no room for it.
    deferred INTEGER NOT NULL DEFAULT 0
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
    left_over INTEGER NOT NULL, left_first INTEGER NOT NULL,
    -- Of the outputs and errors, those whose replies have ids that are nearly those of their requests.
    recognised INTEGER NOT NULL DEFAULT 0
) STRICT;
-- Checksums of the reply files that are indexed; see the number in slots.
CREATE TABLE reply_file (number INTEGER PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, checksum TEXT NOT NULL) STRICT;
-- What was sent again, and why.
CREATE TABLE resent (round INTEGER NOT NULL, reason TEXT NOT NULL, requests INTEGER NOT NULL) STRICT;
-- How long at least one shard was in a phase, while a process worked on the run. Phases overlap.
CREATE TABLE phase (name TEXT PRIMARY KEY, seconds REAL NOT NULL) STRICT, WITHOUT ROWID;
-- What went wrong and was dealt with.
CREATE TABLE incident (at TEXT NOT NULL, shard INTEGER, text TEXT NOT NULL, kind TEXT NOT NULL DEFAULT 'note') STRICT;
";

/// Migrates a Ledger of an older version to the current schema, in one transaction.
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated it meanwhile.
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found - 1).unwrap_or(MIGRATIONS.len());
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of the first version, as far as migrations change them.
    const FIRST: &str = "
CREATE TABLE shard (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    requests INTEGER NOT NULL, bytes INTEGER NOT NULL, checksum TEXT NOT NULL, cut TEXT NOT NULL,
    round INTEGER NOT NULL, list INTEGER, list_start INTEGER,
    state TEXT NOT NULL DEFAULT 'packed', file_id TEXT, file_reused INTEGER NOT NULL DEFAULT 0, note TEXT,
    refetched INTEGER NOT NULL DEFAULT 0, followed INTEGER NOT NULL DEFAULT 0,
    decided INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE batch (
    id TEXT PRIMARY KEY, shard INTEGER NOT NULL REFERENCES shard, submission INTEGER NOT NULL,
    status TEXT NOT NULL, output_file_id TEXT, error_file_id TEXT, error TEXT, seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE incident (at TEXT NOT NULL, shard INTEGER, text TEXT NOT NULL) STRICT;
CREATE TABLE indexed (
    shard INTEGER PRIMARY KEY REFERENCES shard, replies INTEGER NOT NULL, outputs INTEGER NOT NULL, errors INTEGER NOT NULL,
    duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL, unknown INTEGER NOT NULL, unreadable INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, labels TEXT NOT NULL,
    left_over INTEGER NOT NULL, left_first INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 1;
";

    fn columns(connection: &Connection, table: &str) -> Vec<String> {
        let mut query = connection.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY name").unwrap();
        query.query_map([table], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_ledger_of_an_older_program_gets_the_columns_of_this_one_once() {
        let new = Connection::open_in_memory().unwrap();
        new.execute_batch(SCHEMA).unwrap();
        let mut old = Connection::open_in_memory().unwrap();
        old.execute_batch(FIRST).unwrap();
        for _ in 0..2 {
            migrate(&mut old).unwrap();
            for table in ["shard", "batch", "incident", "indexed", "phase"] {
                assert_eq!(columns(&old, table), columns(&new, table), "{table}");
            }
            let version: i64 = old.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
            assert_eq!(version, SCHEMA_VERSION);
        }
    }
}
