//! The tables of the Ledger, as people read them, too.

/// The schema that this program writes.
pub(super) const SCHEMA_VERSION: i64 = 1;

pub(super) const SCHEMA: &str = "
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
-- The last one of each shard is asked for with every start.
CREATE INDEX submission_shard ON submission (shard);
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
