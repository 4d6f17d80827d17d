//! Whether what is held of a batch's replies is all that the service has answered.
//!
//! In: what the reply files at hand hold, and what the service says beside them: the sizes of the files, how many
//! requests it has tried, how the batch ended. Out: a [`Verdict`].
//!
//! Invariants:
//! - As long as one of these witnesses says that there is more than is held, what is held is not the answer, and what
//!   lacks in it is not missing: sent again, it would be paid for twice. A witness that is silent, or says 0, proves
//!   nothing.
//! - That a batch names an output file is such a witness until the file is here: counts that happen to fit what is held
//!   do not outweigh it.

use serde::{Deserialize, Serialize};

use crate::model::reply::ReplyRole;
use crate::remote::{BatchStatus, RequestCounts};

/// What the service says of the size of a reply file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SaidBytes {
    /// It has not been asked.
    Unasked,
    /// It cannot answer now.
    Unknown,
    /// It does not say.
    Nothing,
    /// So many bytes.
    Bytes(u64),
}

/// A reply file that the batch names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileEvidence {
    /// Which one.
    pub(crate) role: ReplyRole,
    /// Bytes that are here; `None` when the file is not.
    pub(crate) here: Option<u64>,
    /// Bytes that the service says it has.
    pub(crate) said: SaidBytes,
}

impl FileEvidence {
    /// Whether all of it is here, as the service itself says.
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

/// All that speaks for or against the replies at hand.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    /// Requests of the shard.
    pub(crate) requests: u64,
    /// Those that have a reply.
    pub(crate) answered: u64,
    /// Those that have an output.
    pub(crate) outputs: u64,
    /// Those whose reply is an error that may pass. Should they have an output, too, it stands in what has not come.
    pub(crate) retryable: u64,
    /// Those whose reply says that the batch ended before they were tried.
    pub(crate) untried: u64,
    /// Replies that cannot be read or answer nobody.
    pub(crate) strays: u64,
    /// How the batch ended.
    pub(crate) status: BatchStatus,
    /// What the service counts.
    pub(crate) counts: Option<RequestCounts>,
    /// The files that the batch names.
    pub(crate) files: Vec<FileEvidence>,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The service has answered no more than is here: what has no reply, or an error that may pass, can be sent again.
    Settled,
    /// The service must be asked first.
    Unproven,
    /// There is more than is held, or nobody can rule it out; why, for people.
    Short(String),
}

impl Evidence {
    /// Weighs the evidence.
    pub(crate) fn judge(&self) -> Verdict {
        let lacking = self.requests.saturating_sub(self.answered);
        if lacking + self.retryable == 0 {
            // There is nothing to send again, whatever the service says.
            return Verdict::Settled;
        }
        for file in &self.files {
            if let Some((here, said)) = file.is_short() {
                return short(format!("its {} has {said} bytes at the service and {here} here", name(file.role)));
            }
        }
        let (tried, claimed) = (self.answered.saturating_sub(self.untried), self.claimed());
        if claimed > tried {
            return short(format!("the service counts {claimed} of its requests as answered, and {tried} are here"));
        }
        if self.files.iter().any(|file| file.said == SaidBytes::Unasked) {
            return Verdict::Unproven;
        }
        if let Some(completed) = self.outputs_elsewhere() {
            let outputs = self.outputs;
            return short(format!(
                "the service counts {completed} of its requests as completed, and {outputs} are here"
            ));
        }
        if self.files.iter().any(|file| file.said == SaidBytes::Unknown) {
            return short("the service does not say now how large its files are".to_owned());
        }
        if let Some(file) = self.files.iter().find(|file| file.here.is_none() && self.may_hide_answers(file.role)) {
            return short(format!("its {} is not there", name(file.role)));
        }
        if claimed > 0 && claimed == tried {
            return Verdict::Settled;
        }
        if self.has_stray_answers() {
            return short(format!(
                "{} of its replies cannot be read or answer nobody, and {lacking} of its requests have none",
                self.strays
            ));
        }
        let is_proven = !self.files.is_empty() && self.files.iter().all(FileEvidence::is_proven);
        if lacking > 0 && self.status == BatchStatus::Completed && !is_proven {
            return short(format!("the service calls it completed, and {lacking} of its requests have no reply"));
        }
        Verdict::Settled
    }

    /// How many outputs the service counts, where some of them may answer requests that have none here: the errors are
    /// not among what it counts as failed, and nothing proves that the output file is whole.
    fn outputs_elsewhere(&self) -> Option<u64> {
        let counts = self.counts?;
        let is_proven = self.files.iter().any(|file| file.role == ReplyRole::Output && file.is_proven());
        let is_more = counts.completed > self.outputs && self.failed() < self.errors();
        (!is_proven && is_more).then_some(counts.completed)
    }

    /// Whether a file that the batch names and that is not here may hold answers. That it is named says so. What is
    /// counted may be behind, so it rules that out only where it leaves no room: for outputs, when every request is
    /// accounted for without one more; for errors, when as much is counted as is here, and no error more.
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

    /// Requests that were tried and whose reply here is an error.
    fn errors(&self) -> u64 {
        self.answered.saturating_sub(self.outputs + self.untried)
    }

    /// How many requests the service says have failed, without those that it did not try: some count them, too.
    fn failed(&self) -> u64 {
        self.counts.map_or(0, |counts| counts.failed.saturating_sub(self.untried))
    }

    /// Whether replies that cannot be read or answer nobody may be those that lack.
    pub(crate) fn has_stray_answers(&self) -> bool {
        self.strays > 0 && self.answered < self.requests
    }

    /// How many requests the service says that it has tried, as far as it says.
    fn claimed(&self) -> u64 {
        let completed = self.counts.map_or(0, |counts| counts.completed);
        completed.saturating_add(self.failed()).min(self.requests)
    }
}

fn short(why: String) -> Verdict {
    Verdict::Short(why)
}

/// What a reply file is called in messages.
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

    #[expect(clippy::unnecessary_wraps, reason = "evidence may lack counts; these are some")]
    fn counts(completed: u64, failed: u64) -> Option<RequestCounts> {
        Some(RequestCounts { total: 10, completed, failed })
    }

    /// Nine of ten requests have a reply, and the file is what the service says.
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
        let Verdict::Short(why) = evidence.judge() else { panic!("it counts as the answer: {evidence:?}") };
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
        // An error that may pass, and an output in the part that has not come.
        let failed = Evidence { answered: 10, retryable: 1, ..unasked };
        assert_eq!(failed.judge(), Verdict::Unproven);
        for (here, said) in [(Some(900), Bytes(901)), (Some(900), Unknown), (None, Nothing)] {
            assert_short(&Evidence { files: vec![file(here, said)], ..failed.clone() }, "");
        }
        let errors = FileEvidence { role: ReplyRole::Error, ..file(None, Nothing) };
        assert_settled(&Evidence { files: vec![file(900, Nothing), errors], ..failed.clone() });
        // The service counts an output more than is here, and not as a failure what is one here.
        let counted = Evidence { counts: counts(10, 0), outputs: 9, files: vec![file(900, Nothing)], ..failed };
        assert_short(&counted, "counts 10 of its requests as completed, and 9 are here");
        assert_settled(&Evidence { counts: counts(9, 1), ..counted.clone() });
        // Some count what they have tried as completed, and what has failed of it once more.
        assert_settled(&Evidence { counts: counts(10, 1), ..counted.clone() });
        assert_settled(&Evidence { files: vec![file(900, Bytes(900))], ..counted });
    }

    #[test]
    fn a_file_that_is_whole_by_its_own_size_has_all_that_was_answered() {
        assert_settled(&nine());
        assert_settled(&Evidence { files: vec![file(900, Bytes(900)), file(50, Bytes(50))], ..nine() });
        assert_short(
            &Evidence { files: vec![file(899, Bytes(900))], ..nine() },
            "900 bytes at the service and 899 here",
        );
        assert_short(
            &Evidence { files: vec![file(None, Bytes(900))], ..nine() },
            "900 bytes at the service and 0 here",
        );
        assert_short(&Evidence { files: vec![file(900, Bytes(900)), file(0, Bytes(1))], ..nine() }, "1 bytes at");
    }

    #[test]
    fn a_witness_that_is_silent_or_says_less_proves_nothing() {
        for said in [Nothing, Unknown, Bytes(800)] {
            let unproven = Evidence { files: vec![file(900, said)], ..nine() };
            assert_short(&unproven, "");
            // A batch that was cut off leaves requests without a reply; a service that cannot answer now is asked
            // again.
            let expired = Evidence { status: BatchStatus::Expired, ..unproven };
            assert_eq!(expired.judge() == Verdict::Settled, said != Unknown, "{said:?}");
        }
        assert_short(&Evidence { files: Vec::new(), ..nine() }, "calls it completed");
        assert_short(&Evidence { files: vec![file(None, Nothing)], ..nine() }, "is not there");
        assert_short(&Evidence { answered: 0, files: vec![file(0, Nothing)], ..nine() }, "calls it completed");
    }

    #[test]
    fn counts_decide_as_long_as_they_fit_what_is_held() {
        // As AIBrix counts what it has forgotten.
        let agreeing = Evidence { counts: counts(8, 1), files: vec![file(900, Nothing)], strays: 1, ..nine() };
        assert_settled(&agreeing);
        // A file that is not here is another matter: it may have what lacks, unless the counts leave nothing to be in
        // it.
        let errors = FileEvidence { role: ReplyRole::Error, ..file(None, Nothing) };
        let absent = Evidence { files: vec![file(900, Nothing), errors], ..agreeing.clone() };
        assert_settled(&Evidence { counts: counts(9, 0), ..absent.clone() });
        assert_short(&absent, "its error file is not there");
        assert_short(
            &Evidence { files: vec![file(None, Nothing)], ..agreeing.clone() },
            "its output file is not there",
        );
        // More than is held, although the file is whole by its size.
        assert_short(
            &Evidence { counts: counts(10, 0), ..nine() },
            "counts 10 of its requests as answered, and 9 are here",
        );
        assert_short(&Evidence { counts: counts(u64::MAX, 5), ..nine() }, "counts 10 of its requests");
        // But the size says more than they do, or cannot be asked.
        assert_short(
            &Evidence { files: vec![file(900, Bytes(1000))], ..agreeing.clone() },
            "1000 bytes at the service",
        );
        assert_short(&Evidence { files: vec![file(900, Unknown)], ..agreeing }, "does not say now");
        // Less than is held: they are not up to date.
        assert_settled(&Evidence { counts: counts(3, 0), ..nine() });
        assert_short(&Evidence { counts: counts(3, 0), strays: 1, ..nine() }, "cannot be read or answer nobody");
        assert_short(
            &Evidence { counts: counts(0, 0), files: vec![file(900, Nothing)], ..nine() },
            "calls it completed",
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
            "counts 5 of its requests as answered, and 4 are",
        );
        assert_short(
            &Evidence { counts: counts(5, 5), ..expired.clone() },
            "counts 5 of its requests as answered, and 4 are",
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
            assert_short(&Evidence { strays: 1, status, ..nine() }, "1 of its replies cannot be read or answer nobody");
        }
    }
}
