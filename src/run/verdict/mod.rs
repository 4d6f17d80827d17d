//! Whether the fetched replies of a batch are all that the service has answered.
//!
//! In: the contents of the fetched reply files, and what the service reports: the sizes of the files, how many requests
//! it has attempted, how the batch ended. Out: a [`Verdict`].
//!
//! Invariants:
//! - As long as one of these sources indicates more than was fetched, the fetched replies are incomplete, and requests
//!   without a reply do not count as missing: sent again, they would be paid for twice. A source that reports nothing,
//!   or 0, proves nothing.
//! - That a batch names an output file is such an indication until the file is fetched: counts that happen to match the
//!   fetched replies do not outweigh it.

use serde::{Deserialize, Serialize};

use crate::model::reply::ReplyRole;
use crate::remote::{BatchStatus, RequestCounts};

/// The size of a reply file, as reported by the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaidBytes {
    /// Not requested yet.
    Unasked,
    /// Currently unavailable.
    Unknown,
    /// Not reported.
    Nothing,
    /// This many bytes.
    Bytes(u64),
}

/// A reply file that the batch names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileEvidence {
    /// Which one.
    pub(crate) role: ReplyRole,
    /// Bytes that were fetched; `None` if the file was not.
    pub(crate) here: Option<u64>,
    /// Bytes, as reported by the service.
    pub(crate) said: SaidBytes,
}

impl FileEvidence {
    /// Whether all of it was fetched, according to the service.
    pub(crate) fn is_proven(&self) -> bool {
        matches!((self.here, self.said), (Some(here), SaidBytes::Bytes(said)) if here == said)
    }

    fn is_short(&self) -> Option<(u64, u64)> {
        match self.said {
            SaidBytes::Bytes(said) if said > self.here.unwrap_or(0) => Some((self.here.unwrap_or(0), said)),
            _ => None,
        }
    }
}

/// All evidence about the fetched replies.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    /// Requests of the shard.
    pub(crate) requests: u64,
    /// Those that have a reply.
    pub(crate) answered: u64,
    /// Those that have an output.
    pub(crate) outputs: u64,
    /// Those whose reply is a retryable error. If they have an output, too, it is in the part that was not fetched.
    pub(crate) retryable: u64,
    /// Those whose reply says that the batch ended before they were attempted.
    pub(crate) untried: u64,
    /// Replies that are unreadable or unmatched.
    pub(crate) strays: u64,
    /// How the batch ended.
    pub(crate) status: BatchStatus,
    /// The service's counts.
    pub(crate) counts: Option<RequestCounts>,
    /// The files that the batch names.
    pub(crate) files: Vec<FileEvidence>,
}

/// The conclusion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The service has answered no more than was fetched: requests without a reply, or with a retryable error, can be
    /// sent again.
    Settled,
    /// The service must be asked first.
    Unproven,
    /// There is more than was fetched, or that cannot be ruled out; with the reason as text.
    Short(String),
}

impl Evidence {
    /// Weighs the evidence.
    pub(crate) fn judge(&self) -> Verdict {
        let lacking = self.requests.saturating_sub(self.answered);
        if lacking + self.retryable == 0 {
            // There is nothing to send again, whatever the service reports.
            return Verdict::Settled;
        }
        for file in &self.files {
            if let Some((here, said)) = file.is_short() {
                return short(format!("its {} has {said} bytes at the service, {here} were fetched", name(file.role)));
            }
        }
        let (tried, claimed) = (self.answered.saturating_sub(self.untried), self.claimed());
        if claimed > tried {
            return short(format!("the service counts {claimed} of its requests as answered, {tried} were fetched"));
        }
        if self.files.iter().any(|file| file.said == SaidBytes::Unasked) {
            return Verdict::Unproven;
        }
        if let Some(completed) = self.outputs_elsewhere() {
            let outputs = self.outputs;
            return short(format!(
                "the service counts {completed} of its requests as completed, {outputs} were fetched"
            ));
        }
        if self.files.iter().any(|file| file.said == SaidBytes::Unknown) {
            return short("the sizes of its files are currently unavailable".to_owned());
        }
        if let Some(file) = self.files.iter().find(|file| file.here.is_none() && self.may_hide_answers(file.role)) {
            return short(format!("its {} was not fetched", name(file.role)));
        }
        if claimed > 0 && claimed == tried {
            return Verdict::Settled;
        }
        if self.has_stray_answers() {
            return short(format!(
                "{} of its replies are unreadable or unmatched, and {lacking} of its requests have none",
                self.strays
            ));
        }
        let is_proven = !self.files.is_empty() && self.files.iter().all(FileEvidence::is_proven);
        if lacking > 0 && self.status == BatchStatus::Completed && !is_proven {
            return short(format!("the service reports it as completed, but {lacking} of its requests have no reply"));
        }
        Verdict::Settled
    }

    /// How many outputs the service counts, where some of them may not have been fetched: the errors are not among
    /// those that it counts as failed, and nothing proves that the output file is complete.
    fn outputs_elsewhere(&self) -> Option<u64> {
        let counts = self.counts?;
        let is_proven = self.files.iter().any(|file| file.role == ReplyRole::Output && file.is_proven());
        let is_more = counts.completed > self.outputs && self.failed() < self.errors();
        (!is_proven && is_more).then_some(counts.completed)
    }

    /// Whether a file that the batch names and that was not fetched may contain answers. Its being named indicates
    /// that. Counts may be outdated, so they rule it out only if they leave no room: for outputs, when every request is
    /// accounted for without another one; for errors, when the counts match the fetched replies, without another error.
    fn may_hide_answers(&self, role: ReplyRole) -> bool {
        let (tried, claimed) = (self.answered.saturating_sub(self.untried), self.claimed());
        let fits = claimed > 0 && claimed == tried;
        match role {
            ReplyRole::Output => {
                let completed = self.counts.map_or(0, |counts| counts.completed);
                !(fits && self.answered == self.requests && completed <= self.outputs)
            }
            ReplyRole::Error => self.answered < self.requests && !(fits && self.failed() <= self.errors()),
        }
    }

    /// Requests that were attempted and whose fetched reply is an error.
    fn errors(&self) -> u64 {
        self.answered.saturating_sub(self.outputs + self.untried)
    }

    /// How many requests have failed according to the service, without those that it did not attempt: some services
    /// count those, too.
    fn failed(&self) -> u64 {
        self.counts.map_or(0, |counts| counts.failed.saturating_sub(self.untried))
    }

    /// Whether unreadable or unmatched replies may be the missing ones.
    pub(crate) fn has_stray_answers(&self) -> bool {
        self.strays > 0 && self.answered < self.requests
    }

    /// How many requests the service has attempted, as far as it reports.
    fn claimed(&self) -> u64 {
        let completed = self.counts.map_or(0, |counts| counts.completed);
        completed.saturating_add(self.failed()).min(self.requests)
    }
}

fn short(why: String) -> Verdict {
    Verdict::Short(why)
}

/// The name of a reply file in messages.
pub(crate) fn name(role: ReplyRole) -> &'static str {
    match role {
        ReplyRole::Output => "output file",
        ReplyRole::Error => "error file",
    }
}

#[cfg(test)]
mod worlds;

#[cfg(test)]
mod tests {
    use super::*;
    use SaidBytes::{Bytes, Nothing, Unasked, Unknown};

    fn file(here: impl Into<Option<u64>>, said: SaidBytes) -> FileEvidence {
        FileEvidence { role: ReplyRole::Output, here: here.into(), said }
    }

    #[expect(clippy::unnecessary_wraps, reason = "evidence may have no counts; these are some")]
    fn counts(completed: u64, failed: u64) -> Option<RequestCounts> {
        Some(RequestCounts { total: 10, completed, failed })
    }

    /// Nine of ten requests have a reply, and the file has the reported size.
    fn nine() -> Evidence {
        Evidence {
            requests: 10,
            answered: 9,
            outputs: 9,
            retryable: 0,
            untried: 0,
            strays: 0,
            status: BatchStatus::Completed,
            counts: None,
            files: vec![file(900, Bytes(900))],
        }
    }

    #[track_caller]
    fn assert_short(evidence: &Evidence, words: &str) {
        let Verdict::Short(why) = evidence.judge() else { panic!("it counts as complete: {evidence:?}") };
        assert!(why.contains(words), "{why}");
    }

    #[track_caller]
    fn assert_settled(evidence: &Evidence) {
        assert_eq!(evidence.judge(), Verdict::Settled, "{evidence:?}");
    }

    #[test]
    fn where_nothing_can_be_sent_again_nobody_is_asked() {
        assert_settled(&Evidence { answered: 10, strays: 3, files: vec![file(None, Unasked)], ..nine() });
    }

    #[test]
    fn before_anything_is_sent_again_the_service_is_asked() {
        let unasked = Evidence { files: vec![file(900, Unasked)], ..nine() };
        assert_eq!(unasked.judge(), Verdict::Unproven);
        // A retryable error, and an output in the part that was not fetched.
        let failed = Evidence { answered: 10, retryable: 1, ..unasked };
        assert_eq!(failed.judge(), Verdict::Unproven);
        for (here, said) in [(Some(900), Bytes(901)), (Some(900), Unknown), (None, Nothing)] {
            assert_short(&Evidence { files: vec![file(here, said)], ..failed.clone() }, "");
        }
        let errors = FileEvidence { role: ReplyRole::Error, ..file(None, Nothing) };
        assert_settled(&Evidence { files: vec![file(900, Nothing), errors], ..failed.clone() });
        // The service counts one output more than was fetched, and does not count the fetched error as a failure.
        let counted = Evidence { counts: counts(10, 0), outputs: 9, files: vec![file(900, Nothing)], ..failed };
        assert_short(&counted, "counts 10 of its requests as completed, 9 were fetched");
        assert_settled(&Evidence { counts: counts(9, 1), ..counted.clone() });
        // Some services count attempted requests as completed, and failed ones additionally.
        assert_settled(&Evidence { counts: counts(10, 1), ..counted.clone() });
        assert_settled(&Evidence { files: vec![file(900, Bytes(900))], ..counted });
    }

    #[test]
    fn a_file_that_is_whole_by_its_own_size_has_all_that_was_answered() {
        assert_settled(&nine());
        assert_settled(&Evidence { files: vec![file(900, Bytes(900)), file(50, Bytes(50))], ..nine() });
        assert_short(
            &Evidence { files: vec![file(899, Bytes(900))], ..nine() },
            "900 bytes at the service, 899 were fetched",
        );
        assert_short(
            &Evidence { files: vec![file(None, Bytes(900))], ..nine() },
            "900 bytes at the service, 0 were fetched",
        );
        assert_short(&Evidence { files: vec![file(900, Bytes(900)), file(0, Bytes(1))], ..nine() }, "1 bytes at");
    }

    #[test]
    fn a_witness_that_is_silent_or_says_less_proves_nothing() {
        for said in [Nothing, Unknown, Bytes(800)] {
            let unproven = Evidence { files: vec![file(900, said)], ..nine() };
            assert_short(&unproven, "");
            // A batch that ended early leaves requests without a reply; a service that cannot answer now is asked
            // again.
            let expired = Evidence { status: BatchStatus::Expired, ..unproven };
            assert_eq!(expired.judge() == Verdict::Settled, said != Unknown, "{said:?}");
        }
        assert_short(&Evidence { files: Vec::new(), ..nine() }, "reports it as completed");
        assert_short(&Evidence { files: vec![file(None, Nothing)], ..nine() }, "was not fetched");
        assert_short(&Evidence { answered: 0, files: vec![file(0, Nothing)], ..nine() }, "reports it as completed");
    }

    #[test]
    fn counts_decide_as_long_as_they_fit_what_is_held() {
        // As AIBrix counts what it has forgotten.
        let agreeing = Evidence { counts: counts(8, 1), files: vec![file(900, Nothing)], strays: 1, ..nine() };
        assert_settled(&agreeing);
        // A file that was not fetched is different: it may contain the missing replies, unless the counts leave no room
        // for them.
        let errors = FileEvidence { role: ReplyRole::Error, ..file(None, Nothing) };
        let absent = Evidence { files: vec![file(900, Nothing), errors], ..agreeing.clone() };
        assert_settled(&Evidence { counts: counts(9, 0), ..absent.clone() });
        assert_short(&absent, "its error file was not fetched");
        assert_short(
            &Evidence { files: vec![file(None, Nothing)], ..agreeing.clone() },
            "its output file was not fetched",
        );
        // More than was fetched, although the file is complete by its size.
        assert_short(
            &Evidence { counts: counts(10, 0), ..nine() },
            "counts 10 of its requests as answered, 9 were fetched",
        );
        assert_short(&Evidence { counts: counts(u64::MAX, 5), ..nine() }, "counts 10 of its requests");
        // But the size is larger than they imply, or unavailable.
        assert_short(
            &Evidence { files: vec![file(900, Bytes(1000))], ..agreeing.clone() },
            "1000 bytes at the service",
        );
        assert_short(&Evidence { files: vec![file(900, Unknown)], ..agreeing }, "currently unavailable");
        // Fewer than were fetched: the counts are outdated.
        assert_settled(&Evidence { counts: counts(3, 0), ..nine() });
        assert_short(&Evidence { counts: counts(3, 0), strays: 1, ..nine() }, "are unreadable or unmatched");
        assert_short(
            &Evidence { counts: counts(0, 0), files: vec![file(900, Nothing)], ..nine() },
            "reports it as completed",
        );
    }

    #[test]
    fn what_was_not_tried_hides_nothing_that_was_answered() {
        let expired = Evidence { status: BatchStatus::Expired, untried: 5, retryable: 5, ..nine() };
        assert_settled(&expired);
        // Five were answered and four of these are here; the fifth does not count as one of the five that were not
        // tried.
        assert_short(
            &Evidence { counts: counts(5, 0), ..expired.clone() },
            "counts 5 of its requests as answered, 4 were",
        );
        assert_short(
            &Evidence { counts: counts(5, 5), ..expired.clone() },
            "counts 5 of its requests as answered, 4 were",
        );
        assert_settled(&Evidence { counts: counts(4, 0), ..expired.clone() });
        assert_settled(&Evidence { counts: counts(4, 5), ..expired });
    }

    #[test]
    fn a_batch_that_failed_as_a_whole_has_answered_nothing() {
        let failed = Evidence { status: BatchStatus::Failed, answered: 0, files: Vec::new(), ..nine() };
        assert_settled(&failed);
        assert_short(&Evidence { counts: counts(2, 0), ..failed }, "counts 2 of its requests");
    }

    #[test]
    fn unreadable_replies_may_be_the_answers_that_lack() {
        for status in [BatchStatus::Completed, BatchStatus::Expired, BatchStatus::Cancelled] {
            assert_short(&Evidence { strays: 1, status, ..nine() }, "1 of its replies are unreadable or unmatched");
        }
    }
}
