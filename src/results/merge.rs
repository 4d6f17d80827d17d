//! Slots to one ordered output: the step "merge".
//!
//! In: a range of settled Seqs, up to the watermark. Out: one line per Seq, in input order: the service's own, byte for
//! byte or [normalized](crate::results::normalize), or one that says why there is none.
//!
//! Threads gather windows of replies (`gather.rs`); the calling thread writes the windows in order. Where the bytes of
//! replies come from is decided for all of a range (`rearrange/`): from files that are
//! [cached](crate::results::reply_cache) in memory, from a scratch file in which they lie together, or from the files
//! where they are. Windows are gathered in memory that is aligned with the output (`alignment.rs`), and so are written
//! without another copy.
//!
//! Invariants: every Seq of the range gives exactly one line, so outputs + errors + missing + held + invalid is their
//! number. Memory is a few windows; a window with huge replies is not gathered but copied line by line, in pieces.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::ResultsError;
use super::gather::{Gatherer, Gathering};
use super::rearrange::{Rearranged, Survey};
pub use super::window::{HELD, MISSING, MergeInputs, Merged, Sinks, Unanswered};
use super::window::{WINDOW_SEQS, Window};
use crate::storage::ordered::in_order;

/// Memory of a window that is used for another one, in bytes: the usual window needs less.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// Windows that are written between two reports of progress.
const PROGRESS_WINDOWS: u64 = 256;

/// Writes the lines of `seqs`. `progress` is called with what has been written so far.
///
/// # Errors
/// When a reply cannot be read back, or a sink cannot be written: [`ResultsError::Output`].
pub fn merge(
    seqs: Range<u64>,
    inputs: MergeInputs<'_>,
    sinks: &mut Sinks<'_>,
    progress: &mut dyn FnMut(&Merged),
) -> Result<Merged, ResultsError> {
    if seqs.is_empty() {
        return Ok(Merged::default());
    }
    let survey = Survey::of(seqs.clone(), inputs, sinks.errors.is_some())?;
    let rearranged = Rearranged::new(&survey, seqs.clone(), inputs)?;
    let (alignment, spare) = (survey.into_alignment(), Mutex::default());
    write_all(&Gathering { seqs, inputs, rearranged, alignment, spare }, sinks, progress)
}

/// Writes all windows.
pub(super) fn write_all(
    gathering: &Gathering<'_>,
    sinks: &mut Sinks<'_>,
    progress: &mut dyn FnMut(&Merged),
) -> Result<Merged, ResultsError> {
    let Gathering { seqs, inputs, rearranged, alignment, .. } = gathering;
    let (mut merged, mut written, split) = (Merged::default(), 0, sinks.errors.is_some());
    alignment.align(0, sinks.outputs_lead);
    in_order(
        inputs.threads,
        (seqs.end - seqs.start).div_ceil(WINDOW_SEQS),
        || Gatherer::new(gathering),
        |gatherer, number| gatherer.gather(number, split),
        |window| {
            merged.add(&window.merged);
            merged.bytes += write(window, gathering, sinks)?;
            written += 1;
            alignment.align(written, sinks.outputs_lead);
            if let Some(rearranged) = rearranged {
                rearranged.release(seqs.start + written * WINDOW_SEQS);
            }
            if written % PROGRESS_WINDOWS == 0 {
                progress(&merged);
            }
            Ok(())
        },
    )?;
    progress(&merged);
    Ok(merged)
}

/// Writes a window and returns its bytes.
fn write(window: Window, gathering: &Gathering<'_>, sinks: &mut Sinks<'_>) -> Result<u64, ResultsError> {
    let Window { outputs, lead, errors, large, .. } = window;
    let lines = &outputs[lead..];
    sinks.outputs.write_all(lines).map_err(ResultsError::Output)?;
    sinks.advance(lines.len() as u64);
    let mut bytes = (lines.len() + errors.len()) as u64;
    if let Some(sink) = &mut sinks.errors {
        sink.write_all(&errors).map_err(ResultsError::Output)?;
    }
    if (1..=SPARE_BYTES_MAX).contains(&outputs.capacity()) {
        gathering.spare.lock().unwrap_or_else(PoisonError::into_inner).push(outputs);
    }
    let mut gatherer = Gatherer::new(gathering);
    for (seq, standing) in large {
        bytes += gatherer.copy(seq, standing, sinks)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::id_table::IdTable;
    use super::super::index::{self, IndexOptions, ReplyFile};
    use super::super::reply_file::Strays;
    use super::super::side_files::SideFiles;

    use super::super::reply_index::{ReplyIndex, Slot};
    use super::*;
    use crate::model::custom_id::IdHasher;
    use crate::model::outcome::Indexed;
    use crate::model::reply::{ReplyKind, ReplyRole};
    use crate::results::normalize::Shape;
    use crate::results::reply_cache::ReplyCache;
    use crate::storage::durable;

    /// What a service does to one request.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Output,
        Error,
        Missing,
        Repeated,
        Conflicting,
        ErrorAndOutput,
    }

    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let fate = prop_oneof![
            20 => Just(Fate::Output), 3 => Just(Fate::Error), 2 => Just(Fate::Missing),
            1 => Just(Fate::Repeated), 1 => Just(Fate::Conflicting), 1 => Just(Fate::ErrorAndOutput),
        ];
        prop::collection::vec(fate, 0..3000)
    }

    fn output(n: usize, text: &str) -> String {
        format!(r#"{{"id":"br","custom_id":"id-{n}","response":{{"status_code":200,"body":{{"t":"{text}{n}"}}}}}}"#)
    }

    fn error(n: usize) -> String {
        format!(r#"{{"custom_id":"id-{n}","error":{{"code":"batch_client_error","message":"no {}"}}}}"#, n % 3)
    }

    fn missing(n: usize) -> String {
        format!(r#"{{"custom_id":"id-{n}","error":{{"code":"missing","message":"lost"}}}}"#)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// merge ∘ shuffle ∘ split = identity, and every line is accounted for.
        #[test]
        fn merge_undoes_any_shuffle_and_split(
            fates in fates(), files in 1_usize..5, unknown in 0_usize..5, unreadable in 0_usize..3, seed: u64,
            held_bytes in prop_oneof![Just(0_usize), Just(20_000), Just(1 << 30)],
        ) {
            let mut replies = vec![Vec::new(); files];
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut outputs, mut errors) = (Vec::new(), Vec::new());
            for (n, fate) in fates.iter().enumerate() {
                let mut put = |line: String| replies[random.usize(..files)].push(line);
                match fate {
                    Fate::Output => put(output(n, "")),
                    Fate::Error => put(error(n)),
                    Fate::Missing => {}
                    Fate::Repeated => (0..3).for_each(|_| put(output(n, ""))),
                    Fate::Conflicting => ["", "other"].into_iter().for_each(|text| put(output(n, text))),
                    Fate::ErrorAndOutput => [error(n), output(n, "")].into_iter().for_each(&mut put),
                }
                match fate {
                    Fate::Error => errors.push(error(n)),
                    Fate::Missing => errors.push(missing(n)),
                    _ => outputs.push((n, *fate)),
                }
            }
            for n in 0..unknown {
                replies[random.usize(..files)].push(output(fates.len() + n, ""));
            }
            for _ in 0..unreadable {
                replies[random.usize(..files)].push("{not a reply".to_owned());
            }
            let directory = tempfile::tempdir().unwrap();
            let reply_files: Vec<ReplyFile> = (0_u32..).zip(replies.iter_mut()).map(|(number, lines)| {
                random.shuffle(lines);
                let path = directory.path().join(format!("{number}.jsonl"));
                durable::publish_bytes(&path, lines.join("\n").as_bytes()).unwrap();
                ReplyFile { number, path, role: ReplyRole::Output }
            }).collect();

            let ids = IdHasher { key: 3 };
            let table = IdTable::new((0..fates.len()).map(|n| ids.hash(&format!("id-{n}"))));
            let mut slots = vec![None; fates.len()];
            let mut aside = SideFiles::new(&directory.path().join("aside"));
            let options = IndexOptions { ids, threads: 2, strays: Strays::Refuse };
            let each_id = |_: &mut dyn FnMut(u64, &str)| Ok::<_, ResultsError>(());
            let indexed = index::index(&reply_files, &table, options, each_id, &mut slots, &mut aside).unwrap();
            aside.finish().unwrap();
            let count = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count() as u64;
            let repeats = 2 * count(|fate| matches!(fate, Fate::Repeated));
            let conflicts = count(|fate| matches!(fate, Fate::Conflicting | Fate::ErrorAndOutput));
            let only_errors = count(|fate| matches!(fate, Fate::Error));
            prop_assert_eq!(indexed.labels.values().sum::<u64>(), only_errors);
            prop_assert_eq!(&indexed, &Indexed {
                replies: replies.iter().flatten().count() as u64,
                outputs: outputs.len() as u64,
                errors: only_errors,
                duplicates: repeats,
                conflicts,
                unknown: unknown as u64,
                unreadable: unreadable as u64,
                labels: indexed.labels.clone(),
                checksums: indexed.checksums.clone(),
                ..Indexed::default()
            });

            let replies_index = ReplyIndex::open_or_create(&directory.path().join("replies.idx"), fates.len() as u64).unwrap();
            replies_index.write_each(&(0..fates.len() as u64).collect::<Vec<_>>(), &slots).unwrap();
            let inputs = MergeInputs {
                replies: &replies_index,
                path: &|number| Ok(reply_files[number as usize].path.clone()),
                held_seqs: None,
                unanswered: &|seq, _| {
                    Ok(Unanswered { custom_id: Some(format!("id-{seq}")), code: MISSING, message: "lost".to_owned() })
                },
                body: &|_| Ok(None),
                held: &ReplyCache::new(held_bytes),
                shape: Shape::Native,
                scratch: directory.path(),
                threads: 2,
            };
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            let mut sinks = Sinks { outputs: &mut good, outputs_lead: 0, errors: Some(&mut bad) };
            let merged = merge(0..fates.len() as u64, inputs, &mut sinks, &mut |_| ()).unwrap();
            prop_assert_eq!(merged.lines(), fates.len() as u64);
            prop_assert_eq!(merged.bytes, (good.len() + bad.len()) as u64);
            let good = String::from_utf8(good).unwrap();
            prop_assert_eq!(good.lines().count(), outputs.len());
            for (line, (n, fate)) in good.lines().zip(&outputs) {
                let either = matches!(fate, Fate::Conflicting) && line == output(*n, "other");
                prop_assert!(either || line == output(*n, ""), "{line} is not the reply to {n}");
            }
            prop_assert_eq!(String::from_utf8(bad).unwrap().lines().map(str::to_owned).collect::<Vec<_>>(), errors);

            let mut whole = Vec::new();
            merge(0..fates.len() as u64, inputs, &mut Sinks { outputs: &mut whole, outputs_lead: 0, errors: None }, &mut |_| ()).unwrap();
            let whole = String::from_utf8(whole).unwrap();
            for (n, line) in whole.lines().enumerate() {
                let id = format!(r#""custom_id":"id-{n}""#);
                prop_assert!(line.contains(&id));
            }
            prop_assert_eq!(whole.lines().count(), fates.len());
        }
    }

    #[test]
    fn huge_replies_are_copied_and_not_gathered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.jsonl");
        let lines = ["a", "b", "c"].map(|text| format!("{{\"t\":\"{}\"}}", text.repeat(5_000_000)));
        durable::publish_bytes(&path, lines.join("\r\n").as_bytes()).unwrap();
        let length = lines[0].len() as u64;
        let slot = |n: u64, length: Option<u64>| {
            let kind = if n == 1 { ReplyKind::Error } else { ReplyKind::Output };
            Some(Slot { offset: n * (lines[0].len() as u64 + 2), length: length.and_then(Slot::length), file: 0, kind })
        };
        let replies = ReplyIndex::open_or_create(&directory.path().join("replies.idx"), 4).unwrap();
        let unanswered = |_, _| Ok(Unanswered { custom_id: None, code: "not-utf8", message: "bad".to_owned() });
        let inputs = MergeInputs {
            replies: &replies,
            path: &|_| Ok(path.clone()),
            unanswered: &unanswered,
            held_seqs: None,
            body: &|_| Ok(Some(b"{}".to_vec())),
            held: &ReplyCache::new(0),
            shape: Shape::Native,
            scratch: directory.path(),
            threads: 1,
        };
        // As long as they are, and as far as their brackets go.
        for length in [Some(length), None] {
            replies.write_each(&[0, 1, 2, 3], &[slot(2, length), slot(1, length), None, slot(0, length)]).unwrap();
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            let merged = merge(
                0..4,
                inputs,
                &mut Sinks { outputs: &mut good, outputs_lead: 0, errors: Some(&mut bad) },
                &mut |_| (),
            )
            .unwrap();
            assert_eq!((merged.outputs, merged.errors, merged.invalid, merged.missing), (2, 1, 1, 0));
            assert_eq!(merged.bytes, (good.len() + bad.len()) as u64);
            assert!(good == format!("{}\n{}\n", lines[2], lines[0]).into_bytes());
            let failed = lines[1].strip_suffix('}').unwrap();
            let unanswered = r#"{"custom_id":null,"error":{"code":"not-utf8","message":"bad"},"body":{}}"#;
            assert!(bad == format!("{failed},\"body\":{{}}}}\n{unanswered}\n").into_bytes());
            let mut all = Vec::new();
            let merged =
                merge(0..4, inputs, &mut Sinks { outputs: &mut all, outputs_lead: 0, errors: None }, &mut |_| ())
                    .unwrap();
            assert_eq!(merged.bytes, all.len() as u64);
            let unanswered = unanswered.replace(",\"body\":{}", "");
            assert!(all == format!("{}\n{}\n{unanswered}\n{}\n", lines[2], lines[1], lines[0]).into_bytes());
        }
        for damaged in
            [Slot { offset: 1, ..slot(0, None).unwrap() }, Slot { length: Some(9_000_000), ..slot(0, None).unwrap() }]
        {
            replies.write_each(&[0], &[Some(damaged)]).unwrap();
            let merged = merge(
                0..1,
                inputs,
                &mut Sinks { outputs: &mut Vec::new(), outputs_lead: 0, errors: None },
                &mut |_| (),
            );
            assert!(matches!(merged, Err(ResultsError::Damaged { number: 0, .. })), "{damaged:?}: {merged:?}");
        }
    }
}
