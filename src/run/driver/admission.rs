//! Which shards may be submitted now.
//!
//! In: the outcomes of creates and of batches. Out: for each shard that waits to be submitted, whether it may be.
//!
//! Three things hold shards back:
//! - A create that was refused may nevertheless have been accepted, so its shard waits until lists have shown no batch
//!   of it.
//! - A service limits the batches, or the tokens, in flight. The limit is learned from refusals, per model: the number
//!   of batches in flight is capped at what the service has accepted, and raised by one after as many batches have
//!   ended; that count doubles each time a raise is refused.
//! - A service that answers a create with another shard's batch receives no further creates.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::remote::RemoteError;

/// Lists that must show no batch of a create that was answered by 429 before it is sent again. Some gateways count, and
/// refuse, calls that they have already forwarded.
const LISTS_AFTER_LIMIT: u32 = 2;

/// The same after any other refusal, and after a restart.
const LISTS_AFTER_REFUSAL: u32 = 1;

/// Maximum multiple of the cap that must have ended before a raise is attempted, after raises were refused.
const TURNOVERS_MAX: usize = 16;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// Shards whose last create was refused, until the refusal is certain.
    refused: BTreeMap<u32, Refused>,
    /// Whether nothing more is submitted until the user decides.
    pub(super) is_stopped: bool,
    /// Maximum batches in flight, of all models.
    most: Option<usize>,
    /// Batches in flight.
    in_flight: usize,
    /// Batches by model.
    by_model: BTreeMap<String, InFlight>,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    since: Instant,
    /// The minimum time since then.
    at_least: Duration,
    /// Lists since then that have shown no batch of it.
    lists: u32,
    /// The minimum number of those.
    wanted: u32,
}

/// Batches of one model.
#[derive(Debug, Default, Clone, Copy)]
struct InFlight {
    now: usize,
    /// The maximum in flight, once the service has refused one.
    cap: Option<usize>,
    /// How many have ended with results since the cap was set or raised.
    ended: usize,
    /// The multiple of the cap that must have ended before it is raised; doubled whenever the service refuses a raise.
    /// 0 counts as 1.
    turnovers: usize,
    /// Whether the cap was raised and nothing was refused since.
    is_raised: bool,
}

impl Admission {
    /// With nothing in flight. `learned` are the caps by model from an earlier process.
    pub(super) fn new(most: Option<u32>, learned: BTreeMap<String, usize>) -> Self {
        let by_model =
            learned.into_iter().map(|(model, cap)| (model, InFlight { cap: Some(cap), ..InFlight::default() }));
        let most = most.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        Self { most, by_model: by_model.collect(), ..Self::default() }
    }

    /// Whether a shard may be submitted.
    pub(super) fn admits(&self, shard: u32, model: &str) -> bool {
        let has_room = |model: &InFlight| model.cap.is_none_or(|cap| model.now < cap);
        !self.is_stopped
            && !self.refused.contains_key(&shard)
            && self.most.is_none_or(|most| self.in_flight < most)
            && self.by_model.get(model).is_none_or(has_room)
    }

    /// Whether a list is needed.
    pub(super) fn wants_list(&self) -> bool {
        !self.refused.is_empty() && !self.is_stopped
    }

    /// A create was refused with this error.
    pub(super) fn refused(&mut self, shard: u32, error: &RemoteError, poll_interval: Duration) {
        let refused = match error.status() {
            // Nothing was sent; an earlier uncertain answer remains uncertain.
            None => return,
            Some(429) => (poll_interval, LISTS_AFTER_LIMIT),
            Some(_) => (Duration::ZERO, LISTS_AFTER_REFUSAL),
        };
        let (at_least, wanted) = refused;
        self.refused.insert(shard, Refused { since: Instant::now(), at_least, lists: 0, wanted });
    }

    /// An earlier process ended after a create was refused or abandoned.
    pub(super) fn refused_before(&mut self, shard: u32) {
        let refused =
            Refused { since: Instant::now(), at_least: Duration::ZERO, lists: 0, wanted: LISTS_AFTER_REFUSAL };
        self.refused.insert(shard, refused);
    }

    /// A list that was requested at that time has shown no batch of a shard.
    pub(super) fn not_listed(&mut self, shard: u32, begun: Instant) {
        if let Some(refused) = self.refused.get_mut(&shard).filter(|refused| refused.since <= begun) {
            refused.lists += 1;
            if refused.lists >= refused.wanted && refused.since.elapsed() >= refused.at_least {
                self.refused.remove(&shard);
            }
        }
    }

    /// Its batch exists after all, or it was abandoned.
    pub(super) fn forget(&mut self, shard: u32) {
        self.refused.remove(&shard);
    }

    /// Shards that wait until their refusal is certain.
    pub(super) fn uncertain(&self) -> Vec<u32> {
        self.refused.keys().copied().collect()
    }

    /// A batch may be in flight from now on.
    pub(super) fn begun(&mut self, model: &str) {
        self.in_flight += 1;
        match self.by_model.get_mut(model) {
            Some(known) => known.now += 1,
            None => drop(self.by_model.insert(model.to_owned(), InFlight { now: 1, ..InFlight::default() })),
        }
    }

    /// A batch is no longer in flight.
    pub(super) fn ended(&mut self, model: &str) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(known) = self.by_model.get_mut(model) {
            known.now = known.now.saturating_sub(1);
        }
    }

    /// A batch has ended with results: after as many as the cap, or a multiple of it, the cap is raised by one.
    pub(super) fn served(&mut self, model: &str) {
        let Some(known) = self.by_model.get_mut(model) else { return };
        let Some(cap) = &mut known.cap else { return };
        known.ended += 1;
        if known.is_raised && known.ended >= *cap {
            // The service has accepted the last raise.
            known.turnovers = 1;
        }
        if known.ended >= cap.saturating_mul(known.turnovers.max(1)) {
            *cap += 1;
            (known.ended, known.is_raised) = (0, true);
        }
    }

    /// The service has no room for one more of a model's batches; that batch is no longer counted. Returns how many it
    /// has room for.
    pub(super) fn full(&mut self, model: &str) -> usize {
        let known = self.by_model.entry(model.to_owned()).or_default();
        if known.is_raised {
            known.turnovers = (known.turnovers.max(1) * 2).min(TURNOVERS_MAX);
        }
        (known.ended, known.is_raised) = (0, false);
        *known.cap.insert(known.now.max(1))
    }

    /// Whether the service has refused a batch of a model before.
    pub(super) fn has_cap(&self, model: &str) -> bool {
        self.by_model.get(model).is_some_and(|known| known.cap.is_some())
    }

    /// How many batches of a model are in flight.
    pub(super) fn in_flight(&self, model: &str) -> usize {
        self.by_model.get(model).map_or(0, |known| known.now)
    }

    /// The learned caps, by model.
    pub(super) fn learned(&self) -> BTreeMap<&str, usize> {
        self.by_model.iter().filter_map(|(model, known)| Some((model.as_str(), known.cap?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::ErrorKind;

    fn error(status: u16) -> RemoteError {
        RemoteError::new(ErrorKind::Refused, "POST batches").with_status(status)
    }

    #[test]
    fn the_cap_is_what_the_service_let_live_and_grows_with_each_turnover() {
        let mut admission = Admission::new(Some(10), BTreeMap::new());
        for _ in 0..10 {
            assert!(admission.admits(0, "m"));
            admission.begun("m");
        }
        assert!(!admission.admits(0, "m") && !admission.admits(0, "other"), "the cap of all");
        // Seven of the ten fail, because there is room for three.
        for left in (3..10).rev() {
            admission.ended("m");
            assert_eq!(admission.full("m"), left);
            assert!(!admission.admits(0, "m"), "{left}");
            assert!(admission.admits(0, "other"));
        }
        for _ in 0..3 {
            admission.ended("m");
            admission.served("m");
            assert!(admission.admits(0, "m"));
            admission.begun("m");
        }
        assert_eq!(admission.learned(), [("m", 4)].into());
        assert!(admission.admits(0, "m"), "one more is tried");
        // Alone, one is always tried again.
        let mut admission = Admission::new(None, [("m".to_owned(), 1)].into());
        admission.begun("m");
        assert!(!admission.admits(0, "m"));
        admission.ended("m");
        assert_eq!((admission.full("m"), admission.in_flight("m")), (1, 0));
        assert!(admission.admits(0, "m"));
    }

    #[test]
    fn a_raise_that_is_refused_is_tried_again_later_and_later() {
        let mut admission = Admission::new(None, [("m".to_owned(), 1)].into());
        // Batches that must end before a second one is tried, each time that it is refused.
        for wanted in [1, 2, 4, 8, 16, 16] {
            for ended in 0..wanted {
                assert!(admission.admits(0, "m"), "{ended} of {wanted}");
                admission.begun("m");
                assert!(!admission.admits(0, "m"), "{ended} of {wanted}");
                admission.ended("m");
                admission.served("m");
            }
            admission.begun("m");
            assert!(admission.admits(0, "m"), "{wanted}");
            admission.begun("m");
            admission.ended("m");
            assert_eq!(admission.full("m"), 1);
            admission.ended("m");
        }
        // There is more room: one raise that is not refused, and the next follows as at first.
        for _ in 0..16 + 2 + 3 {
            admission.served("m");
        }
        assert_eq!(admission.learned(), [("m", 4)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_waits_for_lists_that_were_begun_later() {
        let interval = Duration::from_secs(30);
        let mut admission = Admission::default();
        let before = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        admission.refused(7, &error(429), interval);
        assert!(!admission.admits(7, "m") && admission.admits(8, "m") && admission.wants_list());
        admission.not_listed(7, before);
        for _ in 0..2 {
            assert!(!admission.admits(7, "m"));
            admission.not_listed(7, Instant::now());
        }
        assert!(!admission.admits(7, "m"), "two lists, one after the other at once");
        tokio::time::advance(interval).await;
        admission.not_listed(7, Instant::now());
        assert!(admission.admits(7, "m") && !admission.wants_list());
        for status in [400, 404] {
            admission.refused(7, &error(status), interval);
            assert!(!admission.admits(7, "m"));
            admission.not_listed(7, Instant::now());
            assert!(admission.admits(7, "m"), "{status}");
        }
        admission.refused(7, &RemoteError::new(ErrorKind::Unreachable, "POST batches"), interval);
        assert!(admission.admits(7, "m"), "nothing was sent");
    }
}
