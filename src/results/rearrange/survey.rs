//! What it takes to read the replies to a range of Seqs where they are, and to rearrange them.
//!
//! In: slots. Out: a [`Plan`], if to rearrange takes less time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::plan::{PIECE_BYTES, Plan, each_window};
use super::section::WRITERS_MAX;

use crate::results::ResultsError;
use crate::results::alignment::Alignment;
use crate::results::reply_index::{LONG_BYTES, Slot};
use crate::results::window::{MergeInputs, WINDOW_SEQS, is_large};
use crate::storage::directory;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// A reply that begins within so many bytes of the end of the one before is read together with others of its window.
const NEAR_BYTES: u64 = 64 * 1024;

/// What it takes to rearrange a byte of a reply, in nanoseconds: it is read, written and read once more. Measured in a
/// warm page cache.
const REARRANGE_NS: f64 = 0.8;

/// What it takes to read a byte of a reply file, in nanoseconds, whatever is taken of it.
const READ_NS: f64 = 0.15;

/// What it takes to read a piece, in nanoseconds, without its bytes.
const PIECE_NS: f64 = 1500.0;

/// Maximum sections: what is in memory for each is a few bytes, several times.
const SECTIONS_MAX: u64 = 8192;

/// Maximum size of a section.
const SECTION_BYTES_MAX: u64 = 1 << 30;

/// Less time than this is not worth saving.
const SAVING_MIN: Duration = Duration::from_millis(100);

/// Replies that are read to measure what that takes.
const SAMPLE: u64 = 64;

/// Longer replies are never rearranged, however long reads take: a disk reads as many bytes in about the time in which
/// it finds them.
const REPLY_BYTES_MAX: u64 = 64 * 1024;

/// Classes of replies by length: powers of two.
const CLASSES: usize = 17;

/// The use of a reply file.
#[derive(Debug)]
struct FileUse {
    /// The first Seqs of the first and of the last window that have a reply of it.
    first: u64,
    last: u64,
    /// Where its last reply ends.
    end: u64,
}

/// Replies of about the same length.
#[derive(Debug, Default, Clone, Copy)]
struct Class {
    /// Bytes of all of them.
    bytes: u64,
    /// Those that do not lie near the one before.
    far: u64,
}

/// The replies to a range of Seqs. See the [module](self).
#[derive(Debug, Default)]
pub(in crate::results) struct Survey {
    files: BTreeMap<u32, FileUse>,
    classes: [Class; CLASSES],
    /// Where the lines of each window go.
    alignment: Alignment,
}

impl Survey {
    /// Reads all slots. If outputs are written to a file of their own, they are `split` from errors.
    pub(in crate::results) fn of(seqs: Range<u64>, inputs: MergeInputs<'_>, split: bool) -> Result<Self, ResultsError> {
        let mut survey = Self::default();
        let mut before = None;
        each_window(seqs, inputs, |first, window| {
            survey.add(first, window, &mut before);
            let outputs = window.iter().flatten().filter(|slot| !split || !slot.kind.is_error());
            survey.alignment.add(outputs.map(|slot| slot.length.map_or(LONG_BYTES, u64::from) + 1).sum());
            Ok(())
        })?;
        Ok(survey)
    }

    /// Where the lines of each window go.
    pub(in crate::results) fn into_alignment(self) -> Alignment {
        self.alignment
    }

    fn add(&mut self, window: u64, slots: &[Option<Slot>], before: &mut Option<Slot>) {
        let large = is_large(slots);
        let mut slots = slots.iter().flatten().peekable();
        while let Some(slot) = slots.peek() {
            let file = slot.file;
            let used = self.files.entry(file).or_insert(FileUse { first: window, last: window, end: 0 });
            used.last = window;
            while let Some(slot) = slots.next_if(|slot| slot.file == file) {
                let length = u64::from(slot.length.unwrap_or(0));
                used.end = used.end.max(slot.offset + length);
                if large || length > REPLY_BYTES_MAX {
                    continue;
                }
                let class = &mut self.classes[class_of(length)];
                class.bytes += length;
                class.far += u64::from(before.is_none_or(|before| !is_near(before, *slot)));
                *before = Some(*slot);
            }
        }
    }

    /// Most bytes of files that are in use at the same time.
    fn peak_bytes(&self) -> u64 {
        let begins = self.files.values().map(|file| (file.first, false, file.end));
        let ends = self.files.values().map(|file| (file.last + WINDOW_SEQS, true, file.end));
        let mut changes: Vec<_> = begins.chain(ends).collect();
        changes.sort_unstable_by_key(|(window, is_end, _)| (*window, !is_end));
        let (mut used, mut peak) = (0, 0);
        for (_, is_end, bytes) in changes {
            used = if is_end { used - bytes } else { used + bytes };
            peak = peak.max(used);
        }
        peak
    }

    /// How to rearrange the replies; `None` if it is better not to.
    pub(super) fn plan(&self, seqs: Range<u64>, inputs: MergeInputs<'_>) -> Result<Option<Plan>, ResultsError> {
        let budget = inputs.held.budget_bytes();
        if self.peak_bytes() <= budget {
            return Ok(None);
        }
        let read = read_time(seqs, inputs)?;
        let Some(plan) = self.plan_for(read, budget) else { return Ok(None) };
        let bytes = self.bytes_up_to(plan.reply_bytes_max);
        let has_room = directory::free_bytes(inputs.scratch)? >= bytes + bytes / 4;
        Ok(has_room.then_some(plan))
    }

    /// How to rearrange the replies, if to read one takes this long; `None` if that takes more time than it saves.
    fn plan_for(&self, read: Duration, budget: u64) -> Option<Plan> {
        let read_ns = read.as_secs_f64() * 1e9;
        // Longer ones are better read by themselves. On average, those of a class have three quarters of its maximum.
        let longest = (0..CLASSES).take_while(|class| float(3 << class) / 4.0 * REARRANGE_NS <= read_ns).last()?;
        let reply_bytes_max = 1 << longest;
        let bytes = self.bytes_up_to(reply_bytes_max);
        let far: u64 = self.classes[..=longest].iter().map(|class| class.far).sum();
        let all: u64 = self.files.values().map(|file| file.end).sum();

        // Sections that are written, or portions that are in use, besides the entries of sections.
        let most = budget / 4 * 3 / WRITERS_MAX as u64;
        let wanted = bytes.saturating_mul(PIECE_BYTES).isqrt().clamp(1, SECTION_BYTES_MAX).next_power_of_two();
        let section_bytes = wanted.min(1 << most.max(1).ilog2());
        let sections = all / section_bytes + self.files.len() as u64;
        let pieces = sections * (bytes / section_bytes + 1);
        let takes_ns = float(bytes) * REARRANGE_NS + float(all) * READ_NS + float(pieces) * PIECE_NS;
        let pays = float(far) * read_ns - takes_ns > SAVING_MIN.as_secs_f64() * 1e9;
        let files = self.files.iter().map(|(number, used)| (*number, used.end)).collect();
        (pays && sections <= SECTIONS_MAX).then_some(Plan { section_bytes, reply_bytes_max, files })
    }

    /// Bytes of the replies that are at most this long.
    fn bytes_up_to(&self, reply_bytes_max: u64) -> u64 {
        self.classes[..=class_of(reply_bytes_max)].iter().map(|class| class.bytes).sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The class of replies of this length: they are at most as long as the power of two of that number.
fn class_of(length: u64) -> usize {
    length.max(1).next_power_of_two().ilog2() as usize
}

/// Whether a reply lies near the one before.
fn is_near(before: Slot, slot: Slot) -> bool {
    let end = before.offset + u64::from(before.length.unwrap_or(0));
    before.file == slot.file && end.abs_diff(slot.offset) <= NEAR_BYTES
}

/// The mean time that it takes to read a reply by itself.
fn read_time(seqs: Range<u64>, inputs: MergeInputs<'_>) -> Result<Duration, ResultsError> {
    let (mut took, mut count) = (Duration::ZERO, 0);
    let mut buffer = Vec::new();
    for n in 0..SAMPLE {
        let seq = seqs.start + (seqs.end - seqs.start) * n / SAMPLE;
        let Some(slot) = inputs.replies.read(seq, 1)?[0] else { continue };
        let path = (inputs.path)(slot.file)?;
        let file = LocalFile::open(&path)?;
        buffer.resize(usize::try_from(slot.length.map_or(0, u64::from).min(REPLY_BYTES_MAX)).unwrap_or(0), 0);
        let begun = Instant::now();
        let read = file.read_some_at(&mut buffer, slot.offset);
        (took, count) = (took + begun.elapsed(), count + 1);
        read.map_err(FileError::on("read", &path))?;
    }
    Ok(took.checked_div(count).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reply::ReplyKind;

    const BUDGET: u64 = 64 << 20;

    /// What reads take in the page cache, and on a disk.
    const CACHED: Duration = Duration::from_nanos(1300);
    const DISK: Duration = Duration::from_micros(100);

    /// Replies of this length in files of `per_file`, with the next reply `step` behind the one before.
    fn survey(count: u64, bytes: u32, per_file: u64, step: u64) -> Survey {
        let mut survey = Survey::default();
        let slot = |n: u64| Slot {
            offset: (n % per_file) * step % per_file * u64::from(bytes),
            length: Some(bytes),
            file: u32::try_from(n / per_file).unwrap(),
            kind: ReplyKind::Output,
        };
        let mut before = None;
        for first in (0..count).step_by(256) {
            let window: Vec<Option<Slot>> = (first..first + 256).map(|n| Some(slot(n))).collect();
            survey.add(first, &window, &mut before);
        }
        survey
    }

    #[test]
    fn files_that_are_used_one_after_the_other_need_memory_for_one() {
        assert_eq!(survey(1 << 16, 1000, 1 << 14, 1).peak_bytes(), 1000 << 14);
        assert_eq!(survey(1 << 16, 1000, 1 << 16, 1).peak_bytes(), 1000 << 16);
    }

    #[test]
    fn shuffled_short_replies_are_rearranged_and_others_stay() {
        let plan = |survey: &Survey, read| survey.plan_for(read, BUDGET);
        let shuffled = survey(1 << 20, 600, 1 << 20, 10_007);
        let section = plan(&shuffled, CACHED).map(|plan| (plan.section_bytes, plan.reply_bytes_max));
        assert_eq!(section, Some((16 << 20, 2048)));
        assert_eq!(plan(&survey(1 << 20, 600, 1 << 20, 1), CACHED), None, "in order");
        assert_eq!(plan(&survey(1 << 20, 600, 1 << 20, 53), CACHED), None, "nearly in order");
        assert_eq!(plan(&survey(1 << 16, 600, 1 << 16, 10_007), CACHED), None, "few");
        let long = survey(1 << 18, 30_000, 1 << 18, 10_007);
        assert_eq!(plan(&long, CACHED), None);
        assert_eq!(plan(&long, DISK).map(|plan| plan.reply_bytes_max), Some(1 << 16));
        assert_eq!(shuffled.plan_for(DISK, 0), None, "no memory");
    }

    #[test]
    fn a_mixture_is_rearranged_as_far_as_it_is_short() {
        let mut mixed = survey(1 << 20, 600, 1 << 20, 10_007);
        let long = survey(1 << 16, 20_000, 1 << 16, 10_007);
        mixed.files.insert(1, FileUse { first: 0, last: 1 << 16, end: 20_000 << 16 });
        mixed.classes[15] = long.classes[15];
        let plan = mixed.plan_for(CACHED, BUDGET).unwrap();
        assert_eq!((plan.reply_bytes_max, mixed.bytes_up_to(plan.reply_bytes_max)), (2048, 600 << 20));
    }
}
