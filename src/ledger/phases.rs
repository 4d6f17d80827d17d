//! How long the phases of a run have taken.
//!
//! In: times, from each process that works on the run. Out: their sums.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::params;

use crate::ledger::{Ledger, LedgerError};
use crate::model::phase::Phase;

impl Ledger {
    /// Adds to the times of phases.
    pub fn add_phase_times(&mut self, times: &BTreeMap<Phase, Duration>) -> Result<(), LedgerError> {
        if times.is_empty() {
            return Ok(());
        }
        self.write(|connection| {
            let transaction = connection.transaction()?;
            for (phase, time) in times {
                transaction.execute(
                    "INSERT INTO phase (name, seconds) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET seconds = seconds + excluded.seconds",
                    params![phase.name(), time.as_secs_f64()],
                )?;
            }
            transaction.commit()
        })
    }

    /// The time of each phase so far, in seconds, without phases that have not begun.
    pub fn phase_seconds(&self) -> Result<BTreeMap<Phase, f64>, LedgerError> {
        let rows: BTreeMap<String, f64> = self.read(|connection| {
            let mut query = connection.prepare("SELECT name, seconds FROM phase")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let known = |phase: Phase| Some((phase, *rows.get(phase.name())?));
        Ok(Phase::ALL.into_iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_phase_add_up() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::create(&directory.path().join("ledger.sqlite"), &[], &[]).unwrap();
        assert_eq!(ledger.phase_seconds().unwrap(), BTreeMap::new());
        let times = |seconds: &[(Phase, f64)]| -> BTreeMap<Phase, Duration> {
            seconds.iter().map(|(phase, seconds)| (*phase, Duration::from_secs_f64(*seconds))).collect()
        };
        ledger.add_phase_times(&times(&[(Phase::Check, 1.5), (Phase::Upload, 0.25)])).unwrap();
        ledger.add_phase_times(&times(&[(Phase::Upload, 2.5)])).unwrap();
        ledger.add_phase_times(&times(&[])).unwrap();
        assert_eq!(ledger.phase_seconds().unwrap(), BTreeMap::from([(Phase::Check, 1.5), (Phase::Upload, 2.75)]));
    }
}
