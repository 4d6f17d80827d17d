//! How long at least one shard has been in each phase, during this process.
//!
//! In: which phases are active, whenever that may have changed. Out: the time since the last record, for the Ledger to
//! add up.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::phase::Phase;

/// Minimum time between two records. A crash loses what passed since the last one.
const RECORD_INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct PhaseClock {
    /// Active phases, and since when their time has not been counted.
    active: BTreeMap<Phase, Instant>,
    counted: BTreeMap<Phase, Duration>,
    recorded: Instant,
}

impl PhaseClock {
    pub(super) fn new() -> Self {
        Self { active: BTreeMap::new(), counted: BTreeMap::new(), recorded: Instant::now() }
    }

    /// Sets whether a phase is active now.
    pub(super) fn set(&mut self, phase: Phase, is_active: bool) {
        if is_active {
            self.active.entry(phase).or_insert_with(Instant::now);
        } else if let Some(since) = self.active.remove(&phase) {
            *self.counted.entry(phase).or_default() += since.elapsed();
        }
    }

    /// Whether it is time for a record.
    pub(super) fn is_due(&self) -> bool {
        self.recorded.elapsed() >= RECORD_INTERVAL
    }

    /// The time of each phase since the last call.
    pub(super) fn take(&mut self) -> BTreeMap<Phase, Duration> {
        self.recorded = Instant::now();
        for (phase, since) in &mut self.active {
            *self.counted.entry(*phase).or_default() += since.elapsed();
            *since = self.recorded;
        }
        self.counted.retain(|_, time| !time.is_zero());
        std::mem::take(&mut self.counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_counts_while_a_phase_is_active_and_once() {
        let second = Duration::from_secs(1);
        let mut clock = PhaseClock::new();
        clock.set(Phase::Upload, true);
        tokio::time::advance(second).await;
        clock.set(Phase::Upload, true);
        clock.set(Phase::Batch, true);
        clock.set(Phase::Index, false);
        tokio::time::advance(second).await;
        clock.set(Phase::Upload, false);
        tokio::time::advance(second).await;
        assert!(!clock.is_due());
        assert_eq!(clock.take(), BTreeMap::from([(Phase::Upload, 2 * second), (Phase::Batch, 2 * second)]));
        tokio::time::advance(RECORD_INTERVAL).await;
        assert!(clock.is_due());
        assert_eq!(clock.take(), BTreeMap::from([(Phase::Batch, RECORD_INTERVAL)]), "an active phase keeps counting");
        clock.set(Phase::Batch, false);
        assert_eq!(clock.take(), BTreeMap::new());
    }
}
