//! How far a batch is: a simulated part that passes with time, then a real part that passes with rows.
//!
//! In: what the batch's life and its execution report. Out: the share of rows that counts as done.
//! Invariants: the share only rises, and is 1 only when every row is written; once cancelled, the execution
//! continues to just the share that was reported at that moment.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The share of the progress that passes with time alone, when a batch pretends to take time at all.
const SIMULATED: f64 = 0.9;

/// The progress of one batch since this server started it.
#[derive(Debug)]
pub(crate) struct Progress {
    /// How long `IN_PROGRESS` pretends to take.
    time: Duration,
    began: OnceLock<Instant>,
    rows: AtomicUsize,
    written: AtomicUsize,
    cancelled_at: OnceLock<f64>,
    /// Wakes the batch when it is told to cancel.
    pub(crate) cancelled: CancellationToken,
}

impl Progress {
    /// A batch that has not begun. `cancelled_at` is given when it was told to cancel in an earlier server.
    pub(crate) fn new(time: Duration, cancelled_at: Option<f64>) -> Self {
        let progress = Self {
            time,
            began: OnceLock::new(),
            rows: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            cancelled_at: OnceLock::new(),
            cancelled: CancellationToken::new(),
        };
        if let Some(share) = cancelled_at {
            progress.cancel(share);
        }
        progress
    }

    /// The batch is `IN_PROGRESS` from now on.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// The execution starts to write `rows` rows.
    pub(crate) fn begin_rows(&self, rows: usize) {
        self.rows.store(rows, Relaxed);
    }

    /// One more row is written.
    pub(crate) fn count_row(&self) {
        self.written.fetch_add(1, Relaxed);
    }

    /// The share of the rows, 0 to 1, that counts as done.
    #[expect(clippy::cast_precision_loss, reason = "no batch has 2^52 rows")]
    pub(crate) fn share(&self) -> f64 {
        if let Some(share) = self.cancelled_at.get() {
            return *share;
        }
        let Some(began) = self.began.get() else { return 0.0 };
        let written = self.written.load(Relaxed) as f64 / self.rows.load(Relaxed).max(1) as f64;
        if self.time.is_zero() {
            return written;
        }
        let passed = (began.elapsed().as_secs_f64() / self.time.as_secs_f64()).min(1.0);
        SIMULATED * passed + (1.0 - SIMULATED) * written
    }

    /// The batch is to end with that share of its rows.
    pub(crate) fn cancel(&self, share: f64) {
        self.cancelled_at.get_or_init(|| share);
        self.cancelled.cancel();
    }

    /// Whether a cancelled batch has the rows it is to have once `done` of them are written.
    #[expect(clippy::cast_precision_loss, reason = "no batch has 2^52 rows")]
    pub(crate) fn is_enough(&self, done: usize) -> bool {
        self.cancelled_at.get().is_some_and(|share| (done + 1) as f64 > share * self.rows.load(Relaxed) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_of_rows_when_no_time_is_pretended() {
        let progress = Progress::new(Duration::ZERO, None);
        assert_eq!(percent(&progress), 0);
        progress.begin();
        progress.begin_rows(4);
        assert_eq!(percent(&progress), 0);
        progress.count_row();
        assert_eq!(percent(&progress), 25);
    }

    #[test]
    fn time_alone_never_completes_a_batch() {
        let progress = Progress::new(Duration::from_nanos(1), None);
        progress.begin();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(percent(&progress), 90);
        progress.begin_rows(1);
        progress.count_row();
        assert_eq!(percent(&progress), 100);
    }

    #[test]
    fn a_cancelled_batch_goes_on_to_the_share_it_had_reported() {
        let progress = Progress::new(Duration::from_secs(1), Some(0.5));
        progress.begin_rows(5);
        assert_eq!([0, 1, 2, 3].map(|done| progress.is_enough(done)), [false, false, true, true]);
        assert!(progress.cancelled.is_cancelled());
        let nothing = Progress::new(Duration::from_secs(1), Some(0.0));
        nothing.begin_rows(5);
        assert!(nothing.is_enough(0));
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is within 0 and 1")]
    fn percent(progress: &Progress) -> u32 {
        (progress.share() * 100.0).round() as u32
    }
}
