use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::model::reply::ReplyKind;
use crate::results::alignment::Alignment;
use crate::results::gather::Gathering;
use crate::results::merge::{Merged, Sinks, write_all};
use crate::results::normalize::Shape;
use crate::results::reply_cache::ReplyCache;
use crate::results::reply_index::{ReplyIndex, Slot};
use crate::results::window::{MISSING, Unanswered};
use crate::storage::durable;

/// Reply files, and where the reply to each Seq is.
struct Replies {
    directory: tempfile::TempDir,
    slots: Vec<Option<Slot>>,
    /// The reply to each Seq.
    wanted: Vec<Option<String>>,
    index: ReplyIndex,
}

/// The length of a reply, and the kind of what is there for its Seq.
#[derive(Debug, Clone, Copy)]
struct Made {
    bytes: usize,
    kind: Option<ReplyKind>,
    /// Whether other bytes lie in front of it.
    apart: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let bytes = prop_oneof![20 => 2_usize..300, 3 => 300_usize..5000, 1 => Just(20_000)];
    let kind = prop_oneof![
        20 => Just(Some(ReplyKind::Output)), 2 => Just(Some(ReplyKind::Error)), 1 => Just(None),
    ];
    (bytes, kind, prop::bool::weighted(0.1)).prop_map(|(bytes, kind, apart)| Made { bytes, kind, apart })
}

impl Replies {
    /// Spreads replies over files, in an order of its own.
    fn new(made: &[Made], files: usize, shuffled: usize, random: &mut fastrand::Rng) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut order: Vec<usize> = (0..made.len()).collect();
        // Some way from the order of the Seqs: not at all, nearly, or whatever.
        for n in 0..order.len() {
            let other = (n + random.usize(..=shuffled)).min(order.len() - 1);
            order.swap(n, other);
        }
        let mut contents = vec![String::new(); files];
        let (mut slots, mut wanted) = (vec![None; made.len()], vec![None; made.len()]);
        for seq in order {
            let Made { bytes, kind: Some(kind), apart } = made[seq] else { continue };
            let file = random.usize(..files);
            let content = &mut contents[file];
            if apart {
                content.push_str(&"not a reply\n".repeat(random.usize(..9)));
            }
            let reply = format!("{{{}}}", seq.to_string().repeat(bytes).split_at(bytes - 2).0);
            let (offset, length) = (content.len() as u64, Slot::length(reply.len() as u64));
            slots[seq] = Some(Slot { offset, length, file: u32::try_from(file).unwrap() * 2, kind });
            content.push_str(&reply);
            content.push('\n');
            wanted[seq] = Some(reply);
        }
        for (file, content) in contents.iter().enumerate() {
            durable::publish_bytes(&path(directory.path(), file * 2), content.as_bytes()).unwrap();
        }
        let index = ReplyIndex::scratch(directory.path(), made.len() as u64).unwrap();
        index.write(0, slots.iter().copied()).unwrap();
        Self { directory, slots, wanted, index }
    }

    /// The lines of these Seqs: outputs, and the others.
    fn lines(&self, seqs: Range<usize>) -> [String; 2] {
        let mut lines = [String::new(), String::new()];
        for seq in seqs {
            let failed = self.slots[seq].is_none_or(|slot| slot.kind.is_error());
            let none = || format!(r#"{{"custom_id":"{seq}","error":{{"code":"missing","message":""}}}}"#);
            lines[usize::from(failed)] += &(self.wanted[seq].clone().unwrap_or_else(none) + "\n");
        }
        lines
    }

    fn plan(&self, section_bytes: u64, reply_bytes_max: u64) -> Plan {
        let mut files = BTreeMap::new();
        for slot in self.slots.iter().flatten() {
            let end: &mut u64 = files.entry(slot.file).or_default();
            *end = slot.offset.max(*end) + u64::from(slot.length.unwrap());
        }
        Plan { section_bytes, reply_bytes_max, files }
    }

    fn with<T>(&self, held_bytes: usize, threads: usize, take: impl FnOnce(MergeInputs<'_>) -> T) -> T {
        take(MergeInputs {
            replies: &self.index,
            path: &|number| Ok(path(self.directory.path(), number as usize)),
            unanswered: &|seq, _| {
                Ok(Unanswered { custom_id: Some(seq.to_string()), code: MISSING, message: String::new() })
            },
            held_seqs: None,
            body: &|_| Ok(None),
            held: &ReplyCache::new(held_bytes),
            scratch: self.directory.path(),
            shape: Shape::Native,
            threads,
        })
    }
}

fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number}.jsonl"))
}

/// What is written of these Seqs: outputs, and the others.
fn written(seqs: Range<u64>, inputs: MergeInputs<'_>, rearranged: Option<Rearranged>) -> (Merged, [String; 2]) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut sinks = Sinks { outputs: &mut good, outputs_lead: 0, errors: Some(&mut bad) };
    let gathering = Gathering { seqs, inputs, rearranged, alignment: Alignment::default(), spare: Mutex::default() };
    let merged = write_all(&gathering, &mut sinks, &mut |_| ()).unwrap();
    if let Some(rearranged) = &gathering.rearranged {
        assert_eq!(rearranged.state.lock().unwrap().loaded.len(), 0, "memory is given back");
    }
    (merged, [good, bad].map(|bytes| String::from_utf8(bytes).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The output is the same whatever is rearranged, in sections and portions of any size.
    #[test]
    fn rearranged_or_not_every_seq_has_its_reply(
        made in prop::collection::vec(made(), 1..1200),
        files in 1_usize..4,
        shuffled in prop_oneof![Just(0_usize), Just(5), Just(1200)],
        section_bits in 0_u32..22,
        reply_bytes_max in prop_oneof![Just(0_u64), Just(100), Just(4096), Just(1 << 16)],
        held_bytes in prop_oneof![Just(0_usize), Just(1 << 20)],
        threads in 1_usize..4,
        seed: u64,
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let replies = Replies::new(&made, files, shuffled, &mut random);
        let first = random.usize(..made.len());
        for seqs in [0..made.len(), first..made.len(), first..first + 1] {
            let wanted = replies.lines(seqs.clone());
            let seqs = seqs.start as u64..seqs.end as u64;
            replies.with(held_bytes, threads, |inputs| {
                let plan = replies.plan(1 << section_bits, reply_bytes_max);
                let scratch = LocalFile::scratch(inputs.scratch).unwrap();
                let rearranged = Rearranged::with(plan, seqs.clone(), inputs, scratch).unwrap().unwrap();
                let (merged, lines) = written(seqs.clone(), inputs, Some(rearranged));
                prop_assert!(lines == wanted, "rearranged");
                prop_assert_eq!(merged.lines(), seqs.end - seqs.start);
                prop_assert_eq!(merged.bytes, wanted.iter().map(|lines| lines.len() as u64).sum::<u64>());
                prop_assert!(written(seqs, inputs, None).1 == wanted, "read where they are");
                Ok(())
            })?;
        }
    }
}

/// Short replies in any order.
fn shuffled(count: usize) -> Replies {
    let made = vec![Made { bytes: 500, kind: Some(ReplyKind::Output), apart: false }; count];
    Replies::new(&made, 1, count, &mut fastrand::Rng::with_seed(4))
}

#[test]
fn a_full_disk_is_no_error() {
    let replies = shuffled(300);
    replies.with(0, 2, |inputs| {
        let full = LocalFile::append(Path::new("/dev/full")).unwrap();
        assert!(Rearranged::with(replies.plan(1 << 14, 1 << 16), 0..300, inputs, full).unwrap().is_none());
    });
}

#[test]
fn a_reply_file_that_has_become_shorter_is_damage() {
    let replies = shuffled(300);
    replies.with(0, 2, |inputs| {
        durable::publish_bytes(&path(replies.directory.path(), 0), &vec![b'{'; 20_000]).unwrap();
        let scratch = LocalFile::scratch(inputs.scratch).unwrap();
        let rearranged = Rearranged::with(replies.plan(1 << 14, 1 << 16), 0..300, inputs, scratch);
        assert!(matches!(rearranged, Err(ResultsError::Damaged { number: 0, .. })));
    });
}

#[test]
fn space_is_given_back_while_the_output_is_written() {
    let replies = shuffled(20_000);
    replies.with(0, 2, |inputs| {
        let scratch = LocalFile::scratch(inputs.scratch).unwrap();
        if scratch.is_in_memory() || scratch.give_back(0..BLOCK_BYTES).is_err() {
            return;
        }
        let rearranged = Rearranged::with(replies.plan(1 << 22, 1 << 16), 0..20_000, inputs, scratch).unwrap().unwrap();
        let before = rearranged.scratch.stored_bytes().unwrap();
        assert!(before >= 20_000 * 500, "{before}");
        let (alignment, spare) = (Alignment::default(), Mutex::default());
        let gathering = Gathering { seqs: 0..20_000, inputs, rearranged: Some(rearranged), alignment, spare };
        let mut sinks = Sinks { outputs: &mut std::io::sink(), outputs_lead: 0, errors: None };
        write_all(&gathering, &mut sinks, &mut |_| ()).unwrap();
        let after = gathering.rearranged.unwrap().scratch.stored_bytes().unwrap();
        // What is left of each section is less than what is given back at once.
        assert!(after <= 3 * (GIVE_BACK_BYTES + 2 * BLOCK_BYTES), "{after} of {before}");
    });
    assert_eq!(std::fs::read_dir(replies.directory.path()).unwrap().count(), 1, "the scratch file has no name");
}
