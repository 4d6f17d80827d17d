//! The total bytes of all transfers in one direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::monitor::{Event, Monitor};
use crate::remote::Progress;

/// See the module.
pub(crate) struct TransferMeter {
    total: Arc<AtomicU64>,
    monitor: Arc<dyn Monitor>,
    event: fn(u64) -> Event<'static>,
}

impl TransferMeter {
    /// With nothing transferred yet. Every change of the sum is reported to the monitor as this event.
    pub(crate) fn new(monitor: Arc<dyn Monitor>, event: fn(u64) -> Event<'static>) -> Self {
        Self { total: Arc::default(), monitor, event }
    }

    /// The progress of one more transfer.
    pub(crate) fn begin(&self) -> Progress {
        let (total, monitor, event, before) = (self.total.clone(), self.monitor.clone(), self.event, AtomicU64::new(0));
        Progress::new(move |bytes| {
            // The count of a transfer decreases when an attempt starts over; so does the sum.
            let change = bytes.wrapping_sub(before.swap(bytes, Ordering::Relaxed));
            monitor.event(event(total.fetch_add(change, Ordering::Relaxed).wrapping_add(change)));
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Bytes(Mutex<Vec<u64>>);

    impl Monitor for Bytes {
        fn event(&self, event: Event<'_>) {
            let Event::Uploaded { bytes } = event else { panic!("{event:?}") };
            self.0.lock().unwrap().push(bytes);
        }
    }

    #[test]
    fn the_sum_falls_back_with_a_transfer_that_starts_over() {
        let bytes = Arc::new(Bytes(Mutex::default()));
        let meter = TransferMeter::new(bytes.clone(), |bytes| Event::Uploaded { bytes });
        let (one, other) = (meter.begin(), meter.begin());
        one.tell(5);
        other.tell(7);
        one.tell(0);
        one.tell(6);
        assert_eq!(*bytes.0.lock().unwrap(), [5, 12, 7, 13]);
    }
}
