//! Shards whose replies are fetched again, because they are incomplete.
//!
//! In: the results of fetching and indexing. Out: what is fetched next, after which delay, and when missing replies are
//! put on hold.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::reply::ReplyRole;
use crate::run::download::Again;
use crate::run::indexing::WhenShort;
use crate::run::verdict::SaidBytes;

/// The first delay before incomplete replies are fetched again; doubled each time. The first attempt is immediate.
const FETCH_AGAIN: Duration = Duration::from_secs(1);

/// Maximum of these delays.
const FETCH_AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long a shard that an earlier process put on hold is fetched again before it is put on hold again.
const HELD_AGAIN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Fetches {
    /// How long a shard is fetched again before missing replies are put on hold.
    settle: Duration,
    by_shard: HashMap<u32, Fetching>,
    /// Shards whose lines this process has sent, and so verified.
    uploaded_here: BTreeSet<u32>,
}

/// The state of one shard.
#[derive(Debug)]
struct Fetching {
    /// Since when its replies have been incomplete.
    since: Instant,
    /// How often they were found to be incomplete.
    times: u32,
    /// After this time, missing replies are put on hold.
    patience: Duration,
    /// What is fetched next.
    again: Again,
    /// The last reported sizes of the files.
    said: Vec<(ReplyRole, SaidBytes)>,
    /// The last error of fetching a file.
    trouble: Option<String>,
}

impl Fetching {
    fn new(patience: Duration) -> Self {
        Self { since: Instant::now(), times: 0, patience, again: Again::Unproven, said: Vec::new(), trouble: None }
    }

    fn is_over(&self) -> bool {
        self.times > 1 && self.since.elapsed() >= self.patience
    }

    /// The delay of the next attempt: not past the deadline.
    fn wait(&self) -> Duration {
        let Some(failures) = self.times.checked_sub(1) else { return Duration::ZERO };
        let wait = FETCH_AGAIN.saturating_mul(2_u32.saturating_pow(failures)).min(FETCH_AGAIN_MAX);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0).min(self.patience.saturating_sub(self.since.elapsed()))
    }
}

impl Fetches {
    pub(super) fn new(settle: Duration) -> Self {
        Self { settle, by_shard: HashMap::new(), uploaded_here: BTreeSet::new() }
    }

    fn of(&mut self, shard: u32) -> &mut Fetching {
        self.by_shard.entry(shard).or_insert_with(|| Fetching::new(self.settle))
    }

    /// An earlier process has put a shard on hold: the missing replies may be available now.
    pub(super) fn held_before(&mut self, shard: u32) {
        let patience = self.settle.min(HELD_AGAIN);
        self.by_shard.insert(shard, Fetching { times: 1, again: Again::All, ..Fetching::new(patience) });
    }

    /// This process has sent a shard's lines.
    pub(super) fn uploaded(&mut self, shard: u32) {
        self.uploaded_here.insert(shard);
    }

    /// Whether another process sent a shard's lines, so that the input may have changed since.
    pub(super) fn wants_recheck(&self, shard: u32) -> bool {
        !self.uploaded_here.contains(&shard)
    }

    /// What is fetched again of a shard; `None` the first time.
    pub(super) fn again(&self, shard: u32) -> Option<Again> {
        self.by_shard.get(&shard).filter(|fetching| fetching.times > 0).map(|fetching| fetching.again)
    }

    /// What to do if a shard's replies are incomplete. `accepted` says that the user has decided to accept them.
    pub(super) fn when_short(&self, shard: u32, accepted: bool) -> WhenShort {
        match self.by_shard.get(&shard) {
            _ if accepted => WhenShort::Accept,
            Some(fetching) if fetching.is_over() => WhenShort::Hold,
            _ => WhenShort::FetchAgain,
        }
    }

    /// The last reported sizes of a shard's files.
    pub(super) fn said(&self, shard: u32) -> Vec<(ReplyRole, SaidBytes)> {
        self.by_shard.get(&shard).map(|fetching| fetching.said.clone()).unwrap_or_default()
    }

    /// A shard's files were fetched, as far as possible, with these reported sizes, and an error of one of them. After
    /// a `hopeless` error, missing replies are put on hold immediately.
    pub(super) fn fetched(
        &mut self,
        shard: u32,
        said: Vec<(ReplyRole, SaidBytes)>,
        trouble: Option<String>,
        hopeless: bool,
    ) {
        if trouble.is_none() && !self.by_shard.contains_key(&shard) {
            return;
        }
        let fetching = self.of(shard);
        (fetching.said, fetching.trouble) = (said, trouble);
        if hopeless {
            (fetching.times, fetching.patience) = (fetching.times.max(2), Duration::ZERO);
        }
    }

    /// A shard's replies are incomplete, for this reason if it is known; `strays` says that some are unreadable or
    /// unmatched, so that every file is fetched again. Returns the delay of the next attempt, and its reason.
    pub(super) fn short(&mut self, shard: u32, why: Option<String>, strays: bool) -> (Duration, Option<String>) {
        let fetching = self.of(shard);
        let wait = fetching.wait();
        fetching.times += 1;
        fetching.again = if strays { Again::All } else { Again::Unproven };
        (wait, fetching.trouble.clone().or(why))
    }

    /// A shard's replies are complete, or the missing ones are on hold. Returns the last error of fetching a file.
    pub(super) fn end(&mut self, shard: u32) -> Option<String> {
        self.by_shard.remove(&shard).and_then(|fetching| fetching.trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn replies_that_lack_are_fetched_at_once_then_later_and_then_held() {
        let mut fetches = Fetches::new(SETTLE);
        assert_eq!((fetches.again(7), fetches.when_short(7, false)), (None, WhenShort::FetchAgain));
        assert_eq!(fetches.short(7, Some("why".to_owned()), false), (Duration::ZERO, Some("why".to_owned())));
        assert_eq!(fetches.again(7), Some(Again::Unproven));
        let mut attempts = 0;
        while fetches.when_short(7, false) == WhenShort::FetchAgain {
            let (wait, _) = fetches.short(7, None, true);
            assert!(wait > Duration::ZERO && wait <= FETCH_AGAIN_MAX, "{wait:?}");
            tokio::time::advance(wait).await;
            attempts += 1;
        }
        assert!(attempts > 10, "{attempts}");
        assert_eq!((fetches.again(7), fetches.when_short(7, false)), (Some(Again::All), WhenShort::Hold));
        assert_eq!(fetches.when_short(7, true), WhenShort::Accept);
        assert_eq!(fetches.end(7), None);
        assert_eq!(fetches.when_short(7, false), WhenShort::FetchAgain);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_fetched_says_why_and_may_be_hopeless() {
        let mut fetches = Fetches::new(SETTLE);
        let said = vec![(ReplyRole::Output, SaidBytes::Bytes(9))];
        fetches.fetched(7, said.clone(), None, false);
        assert_eq!(fetches.said(7), [], "all went well");
        fetches.fetched(7, said.clone(), Some("trouble".to_owned()), false);
        assert_eq!((fetches.said(7), fetches.when_short(7, false)), (said.clone(), WhenShort::FetchAgain));
        assert_eq!(fetches.short(7, Some("why".to_owned()), false).1.as_deref(), Some("trouble"));
        fetches.fetched(7, said, Some("trouble".to_owned()), true);
        assert_eq!(fetches.when_short(7, false), WhenShort::Hold);
        assert_eq!(fetches.end(7).as_deref(), Some("trouble"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_process_held_is_fetched_whole_and_held_again_soon() {
        let mut fetches = Fetches::new(SETTLE);
        fetches.held_before(7);
        assert_eq!(fetches.again(7), Some(Again::All));
        fetches.short(7, None, false);
        assert_eq!(fetches.when_short(7, false), WhenShort::FetchAgain);
        tokio::time::advance(HELD_AGAIN).await;
        assert_eq!(fetches.when_short(7, false), WhenShort::Hold);
        assert!(fetches.wants_recheck(7));
        fetches.uploaded(7);
        assert!(!fetches.wants_recheck(7));
    }
}
