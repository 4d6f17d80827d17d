//! The driver's table of shards, and how many are in which state.
//!
//! Invariant: the counts always match the rows.

use std::ops::Index;

use crate::model::shard_state::{ShardRow, ShardState};
use crate::run::monitor::ShardCounts;

/// See the module. Indexed by shard number.
#[derive(Debug)]
pub(super) struct ShardTable {
    rows: Vec<ShardRow>,
    counts: ShardCounts,
}

impl ShardTable {
    pub(super) fn new(rows: Vec<ShardRow>) -> Self {
        let mut counts = ShardCounts::default();
        for row in &rows {
            *count_of(&mut counts, &row.state) += 1;
        }
        Self { rows, counts }
    }

    /// How many shards are in which state.
    pub(super) fn counts(&self) -> &ShardCounts {
        &self.counts
    }

    /// All shards, by number.
    pub(super) fn rows(&self) -> &[ShardRow] {
        &self.rows
    }

    pub(super) fn into_rows(self) -> Vec<ShardRow> {
        self.rows
    }

    /// The shard with that number, if it exists: a number from the service may be arbitrary.
    pub(super) fn get(&self, number: u32) -> Option<&ShardRow> {
        self.rows.get(number as usize)
    }

    /// Adds a shard, which must have the next number.
    pub(super) fn add(&mut self, row: ShardRow) {
        *count_of(&mut self.counts, &row.state) += 1;
        self.rows.push(row);
    }

    /// Changes a shard except for its state, which is kept.
    pub(super) fn update(&mut self, number: u32, change: impl FnOnce(&mut ShardRow)) {
        let row = &mut self.rows[number as usize];
        let state = row.state.clone();
        change(row);
        row.state = state;
    }

    /// Moves a shard to another state. Returns the previous one.
    pub(super) fn set_state(&mut self, number: u32, state: ShardState) -> ShardState {
        let row = &mut self.rows[number as usize];
        *count_of(&mut self.counts, &row.state) -= 1;
        *count_of(&mut self.counts, &state) += 1;
        std::mem::replace(&mut row.state, state)
    }
}

impl Index<u32> for ShardTable {
    type Output = ShardRow;

    fn index(&self, number: u32) -> &ShardRow {
        &self.rows[number as usize]
    }
}

/// The count for shards in this state.
fn count_of<'c>(counts: &'c mut ShardCounts, state: &ShardState) -> &'c mut usize {
    match state {
        ShardState::Packed => &mut counts.waiting,
        ShardState::Uploaded { .. } | ShardState::Intended { .. } => &mut counts.uploaded,
        ShardState::Submitted { .. } => &mut counts.submitted,
        ShardState::Ended { .. } | ShardState::Downloaded { .. } => &mut counts.ended,
        ShardState::Indexed { .. } => &mut counts.indexed,
        ShardState::Held { .. } | ShardState::Lost { .. } | ShardState::Incomplete { .. } => &mut counts.held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shard::{Cut, Shard};

    fn packed(number: u32) -> ShardRow {
        ShardRow::packed(Shard {
            number,
            model: "m".to_owned(),
            first: 0,
            last: 0,
            requests: 1,
            bytes: 10,
            checksum: 0,
            cut: Cut::End,
            round: 1,
            seq_range: None,
        })
    }

    #[test]
    fn counts_follow_states() {
        let mut shards = ShardTable::new(vec![packed(0), packed(1)]);
        shards.add(packed(2));
        let uploaded = ShardState::Uploaded { file_id: "f".to_owned() };
        assert_eq!(shards.set_state(1, uploaded.clone()), ShardState::Packed);
        shards.update(2, |row| (row.followed, row.state) = (true, uploaded.clone()));
        assert!(shards[2].followed && shards[2].state == ShardState::Packed, "the state has one door");
        assert_eq!(*shards.counts(), ShardCounts { waiting: 2, uploaded: 1, ..ShardCounts::default() });
        assert!(shards.get(3).is_none());
    }
}
