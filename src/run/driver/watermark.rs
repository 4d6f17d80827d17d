//! The watermark: the first Seq whose outcome may still change. The output is written up to it.

use std::collections::BTreeSet;

use crate::model::shard_state::ShardRow;

/// See the module.
#[derive(Debug)]
pub(super) struct Watermark {
    /// Rounds of the run.
    rounds: u32,
    /// For each shard with outcomes that may still change, the first Seq of them.
    open: BTreeSet<(u64, u32)>,
    /// Its last value.
    at: Option<u64>,
}

impl Watermark {
    /// With no open outcomes, and not reported yet.
    pub(super) fn new(rounds: u32) -> Self {
        Self { rounds, open: BTreeSet::new(), at: None }
    }

    /// Adds the outcomes of a shard that may still change.
    pub(super) fn open(&mut self, row: &ShardRow) {
        self.open.extend(row.open_from(self.rounds).map(|first| (first, row.shard.number)));
    }

    /// Removes them before a change of the shard, after which they are added again.
    pub(super) fn close(&mut self, row: &ShardRow) {
        if let Some(first) = row.open_from(self.rounds) {
            self.open.remove(&(first, row.shard.number));
        }
    }

    /// Its current value, of `lines` in total, if it has moved since the last call.
    pub(super) fn moved(&mut self, lines: u64) -> Option<u64> {
        let at = self.open.first().map_or(lines, |(first, _)| *first);
        (self.at.replace(at) != Some(at)).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchStatus;
    use crate::model::shard::{Cut, Shard};
    use crate::model::shard_state::{EndedBatch, ShardState, Unfinished};

    fn row(number: u32, first: u64) -> ShardRow {
        let (model, cut) = ("m".to_owned(), Cut::End);
        let shard = Shard {
            number,
            model,
            first,
            last: first + 9,
            requests: 10,
            bytes: 100,
            checksum: 0,
            cut,
            round: 1,
            seq_range: None,
        };
        ShardRow::packed(shard)
    }

    #[test]
    fn it_is_where_the_first_open_outcome_is_and_is_told_once() {
        let mut watermark = Watermark::new(2);
        let (mut one, other) = (row(0, 0), row(1, 10));
        watermark.open(&one);
        watermark.open(&other);
        assert_eq!(watermark.moved(20), Some(0));
        assert_eq!(watermark.moved(20), None);
        watermark.close(&one);
        let batch = EndedBatch {
            id: "b".to_owned(),
            status: BatchStatus::Completed,
            output_file_id: None,
            error_file_id: None,
            error: None,
            counts: None,
        };
        one.state = ShardState::Indexed { submission: 1, batch };
        one.unfinished = Unfinished { count: 1, first: 4 };
        watermark.open(&one);
        assert_eq!(watermark.moved(20), Some(4), "what is sent again may change");
        watermark.close(&one);
        one.followed = true;
        watermark.open(&one);
        assert_eq!(watermark.moved(20), Some(10));
        watermark.close(&other);
        assert_eq!(watermark.moved(20), Some(20));
    }
}
