//! Whether the refusals follow from how much is sent.
//!
//! In: each request that was sent, each that was refused, and what share of them was refused before and after sending
//! less. Out: whether more is refused than the upstream refuses anyway, and whether sending less has helped.
//!
//! A service that is limited refuses what exceeds the limit, so sending less makes the refusals disappear. Some
//! services refuse a share of the requests whatever their number; to send less there costs time and changes nothing.
//! That share is the **background**, and it is learnt by trying: when less was sent and the same share was refused, it
//! is not our doing.
//!
//! The excess is a cumulative sum (CUSUM): each request takes the tolerated share off, each refusal adds one.
//!
//! Invariants: the background is at most [`BACKGROUND_MAX`]; where most requests are refused, it is always taken for a
//! limit.

/// The share of refusals, beyond the background, that does not count.
const TOLERATED: f64 = 0.04;

/// As much of the background more does not count, either: it is not known that well.
const MARGIN: f64 = 0.25;

/// Refusals beyond the tolerated share that are no accident.
const EXCESS: f64 = 4.0;

/// Refusals beyond the tolerated share that leave no doubt, however short the time.
const FLAGRANT: f64 = 16.0;

/// How much more it takes while the background is a nuisance of its own: for a background of 1.
const NOISE: f64 = 20.0;

/// The largest share that is believed to be refused whatever is sent.
const BACKGROUND_MAX: f64 = 0.7;

/// Refusals that had to be expected, had nothing changed, before it is known that something has.
const EXPECTED: f64 = 6.0;

/// How often in a row less must have been sent in vain before it is believed.
const TRIALS: u32 = 2;

/// Weight of one measurement in the background.
const WEIGHT: f64 = 0.1;

/// What sending less has done to the share of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It fell: the refusals were our doing.
    Helped,
    /// It is the same: they were not.
    Nothing,
    /// It is the same, but that may be chance.
    Unclear,
    /// It rose: what the upstream had saved up for us was used up meanwhile.
    Worse,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Share {
    background: f64,
    excess: f64,
    /// The share at which we began to send less, until it is known what came of it.
    slowed_at: Option<f64>,
    /// How often less was sent in vain.
    in_vain: u32,
}

impl Share {
    /// A request was sent.
    pub(super) fn sent(&mut self) {
        self.excess = (self.excess - self.tolerated()).max(0.0);
    }

    /// The share of refusals that does not count.
    pub(super) fn tolerated(&self) -> f64 {
        self.background * (1.0 + MARGIN) + TOLERATED
    }

    /// A request was refused.
    pub(super) fn refused(&mut self) {
        self.excess += 1.0;
    }

    /// Whether more is refused than is tolerated.
    pub(super) fn is_excessive(&self) -> bool {
        self.excess > EXCESS + NOISE * self.background
    }

    /// Whether so much more is refused that there is no need to watch any longer.
    pub(super) fn is_flagrant(&self) -> bool {
        self.excess > FLAGRANT + NOISE * self.background
    }

    /// Whether there is any sign of an excess.
    pub(super) fn is_suspicious(&self) -> bool {
        self.excess > EXCESS / 2.0
    }

    /// The share that is refused whatever is sent.
    pub(super) fn background(&self) -> f64 {
        self.background
    }

    /// Less is sent from now on, because this share was refused.
    pub(super) fn slowed(&mut self, share: f64) {
        (self.slowed_at, self.excess) = (Some(share), 0.0);
    }

    /// Whether sending less was in vain, but that may be chance.
    pub(super) fn is_unclear(&self) -> bool {
        self.in_vain > 0
    }

    /// Whether so many requests since then are enough to tell.
    pub(super) fn is_decided(&self, requests: f64) -> bool {
        self.slowed_at.is_some_and(|share| requests * share >= EXPECTED)
    }

    /// Whether it has to be found out what came of sending less.
    pub(super) fn is_on_trial(&self) -> bool {
        self.slowed_at.is_some()
    }

    /// This share was refused after less was sent.
    pub(super) fn after_slowing(&mut self, share: f64) -> Effect {
        let Some(before) = self.slowed_at.take() else { return Effect::Helped };
        let (over_before, over) = (before - self.background, share - self.background);
        if over < over_before / 2.0 {
            (self.in_vain, self.background) = (0, self.background.min(share));
            Effect::Helped
        } else if over > over_before * 1.5 || before.max(share) > BACKGROUND_MAX {
            self.in_vain = 0;
            Effect::Worse
        } else if self.in_vain + 1 < TRIALS {
            self.in_vain += 1;
            Effect::Unclear
        } else {
            self.in_vain = 0;
            (self.background, self.excess) = (before.midpoint(share), 0.0);
            Effect::Nothing
        }
    }

    /// This share of so many requests was refused, which was nothing unusual.
    pub(super) fn usual(&mut self, share: f64, requests: f64) {
        let deviation = (self.background * (1.0 - self.background) / requests.max(1.0)).sqrt();
        // It follows a falling share however far, but a rising one only within its own noise: a limit that we come near
        // to is none.
        if share < self.background + 2.0 * deviation {
            self.background += (share - self.background) * WEIGHT;
        }
    }

    /// All that is known is past.
    pub(super) fn forget(&mut self) {
        (self.excess, self.slowed_at, self.in_vain) = (0.0, None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `requests` pass, of which every `nth` is refused; gives after how many it was too much.
    fn until_excessive(share: &mut Share, nth: u32, requests: u32) -> Option<u32> {
        (1..=requests).find(|number| {
            share.sent();
            if number % nth == 0 {
                share.refused();
            }
            share.is_excessive()
        })
    }

    #[test]
    fn a_few_refusals_are_no_excess_and_many_are_one_soon() {
        assert_eq!(until_excessive(&mut Share::default(), 50, 100_000), None);
        assert_eq!(until_excessive(&mut Share::default(), 25, 100_000), None);
        let soon = until_excessive(&mut Share::default(), 10, 100_000);
        assert!(soon.is_some_and(|after| after < 100), "{soon:?}");
        assert!(until_excessive(&mut Share::default(), 1, 10).is_some());
    }

    #[test]
    fn what_sending_less_does_not_change_is_background() {
        let mut share = Share::default();
        share.slowed(0.2);
        assert_eq!(share.after_slowing(0.22), Effect::Unclear);
        share.slowed(0.22);
        assert!(!share.is_decided(20.0) && share.is_decided(30.0));
        assert_eq!(share.after_slowing(0.2), Effect::Nothing);
        assert!((share.background - 0.21).abs() < 1e-9);
        assert_eq!(until_excessive(&mut share, 5, 10_000), None);
        let soon = until_excessive(&mut share, 2, 1000);
        assert!(soon.is_some_and(|after| after < 100), "{soon:?}");
    }

    #[test]
    fn what_sending_less_changes_is_a_limit_and_so_is_the_refusal_of_most() {
        for (before, after, effect) in [
            (0.2, 0.0, Effect::Helped),
            (0.2, 0.09, Effect::Helped),
            (0.3, 0.7, Effect::Worse),
            (0.8, 0.8, Effect::Worse),
        ] {
            let mut share = Share::default();
            share.slowed(before);
            assert_eq!((share.after_slowing(after), share.background.to_bits()), (effect, 0), "{before} {after}");
        }
    }

    #[test]
    fn the_background_follows_what_is_usual_but_not_a_limit_that_comes_near() {
        let mut share = Share { background: 0.2, ..Share::default() };
        (0..100).for_each(|_| share.usual(0.02, 64.0));
        assert!((share.background - 0.02).abs() < 0.001);
        (0..100).for_each(|_| share.usual(0.1, 64.0));
        assert!((share.background - 0.02).abs() < 0.001);
    }
}
