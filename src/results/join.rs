//! Joins the replies of any batches with their requests, when neither fits memory: the step "index" of `batchline
//! merge`.
//!
//! In: the id of every request, and reply files that the user downloaded. Out: the reply index of all requests, and
//! counts that account for every line of the files.
//!
//! ```text
//! requests ─┐ by hash                          by Seq
//!           ├────────► partition ─► slots ─────────► partition ─► reply index
//! replies ──┘
//! ```
//!
//! Requests and replies go to partitions by the hash of their id, so that a request and its replies meet in the same
//! one. There they are placed as [`index`](super::index) does it, and the slots go to partitions by Seq, from which the
//! index is written front to back.
//!
//! What remains are unmatched replies, some of which have near ids (`near_ids.rs`). They need no partition: as many as
//! fit are held in memory while the ids of all requests are streamed. The others are set aside.
//!
//! Invariants: memory is the budget and a few partitions, whatever the number of requests and replies. The outcome is
//! that of [`index`](super::index::index), except that the number of unmatched replies that are examined may differ,
//! and lines that are set aside may be in another order.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::ResultsError;
use super::id_table::IdTable;
use super::index::{Placing, ReplyFile};
use super::near_ids::{STRANGER_BYTES, STRANGERS_MIN};
use super::reply_file::{self, Found, Strays};
use super::reply_index::{ReplyIndex, Slot};
use super::side_files::SideFiles;
use crate::model::custom_id::IdHasher;
use crate::model::outcome::Indexed;
use crate::model::reply::{Reply, ReplyKind, Usage};
use crate::storage::durable::FileError;
use crate::storage::ordered::in_order;
use crate::storage::partitions::Partitions;
use crate::storage::records::Record;

/// Bits of a request's entry that hold its Seq.
const SEQ_BITS: u32 = 40;

/// Maximum lines of an input that can be merged.
pub const LINES_MAX: u64 = 1 << SEQ_BITS;

/// Approximate number of requests in a partition: a little more than 100 bytes each are in memory while their replies
/// are placed.
const PARTITION_REQUESTS: u64 = 128 * 1024;

/// Maximum partitions by hash: a billion requests make this many of twice the usual size.
const PARTITIONS_MAX: u64 = 4096;

/// Seqs of a partition by Seq.
const PARTITION_SEQS: u64 = 512 * 1024;

/// How to join.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// Lines of the input.
    pub lines: u64,
    /// Hashes the ids.
    pub ids: IdHasher,
    /// Threads that read replies.
    pub threads: usize,
    /// Memory for requests and replies, in bytes; any more are written to scratch files.
    pub memory_bytes: usize,
    /// Directory for scratch files.
    pub scratch: PathBuf,
}

/// The requests of an input, to be joined with their replies. See the [module](self).
#[derive(Debug)]
pub struct Join {
    options: JoinOptions,
    /// Entries: the upper bits of an id's hash, then the Seq.
    requests: Partitions<u128>,
    /// Seqs of a partition by Seq.
    partition_seqs: u64,
    /// Requests that were added.
    count: u64,
}

impl Join {
    /// A join of at most [`LINES_MAX`] lines, none of which is known yet to be a request.
    #[must_use]
    pub fn new(options: JoinOptions) -> Self {
        let partitions = (options.lines / PARTITION_REQUESTS).next_power_of_two().min(PARTITIONS_MAX);
        Self::with_partitions(options, partitions, PARTITION_SEQS)
    }

    fn with_partitions(options: JoinOptions, partitions: u64, partition_seqs: u64) -> Self {
        let requests = Partitions::new(position(partitions), options.memory_bytes / 4, &options.scratch);
        Self { options, requests, partition_seqs, count: 0 }
    }

    /// Adds a request, by its Seq and the hash of its id.
    pub fn add_request(&mut self, seq: u64, id_hash: u128) -> Result<(), FileError> {
        self.count += 1;
        let partition = partition_of(id_hash, self.requests.count());
        self.requests.add(partition, masked(id_hash) | u128::from(seq))
    }

    /// Reads the files, in the order given, and writes the slots of all requests to `slots`.
    ///
    /// If there are unmatched replies, and requests without one, `each_id` is called to yield the Seq and the id of
    /// each request, to match near ids. As many such replies are examined as fit a quarter of the memory. `progress` is
    /// called with the bytes read so far.
    ///
    /// # Errors
    /// When a file cannot be read, or scratch, slots or replies to set aside cannot be written.
    pub fn index(
        self,
        files: &[ReplyFile],
        slots: &ReplyIndex,
        aside: &mut SideFiles,
        each_id: impl FnOnce(&mut dyn FnMut(u64, &str)) -> Result<(), ResultsError>,
        progress: &dyn Fn(u64),
    ) -> Result<Indexed, ResultsError> {
        let strangers = (self.options.memory_bytes / 4 / STRANGER_BYTES).max(STRANGERS_MIN);
        let mut placing = Placing::new(files, self.options.ids, aside, strangers);
        let (replies, checksums) = self.read(files, &mut placing, progress)?;
        let placed = self.place(&replies, &mut placing)?;
        drop(replies);
        self.write(&placed, slots)?;
        drop(placed);
        let met = placing.meet(self.count, each_id)?;
        let seqs: BTreeSet<u64> = met.iter().filter_map(|(_, seq)| *seq).collect();
        let seqs: Vec<u64> = seqs.into_iter().collect();
        let mut near = slots.read_each(&seqs)?;
        placing.place_near(&mut near, met, |seq| seqs.partition_point(|other| *other < seq))?;
        slots.write_each(&seqs, &near)?;
        Ok(Indexed { checksums, ..placing.indexed })
    }

    /// Spreads the replies over the partitions of their requests.
    fn read(
        &self,
        files: &[ReplyFile],
        placing: &mut Placing<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<(Partitions<Candidate>, Vec<u128>), ResultsError> {
        let JoinOptions { ids, threads, memory_bytes, scratch, .. } = &self.options;
        let mut replies = Partitions::new(self.requests.count(), memory_bytes / 2, scratch);
        let strays = Strays::Refuse;
        let checksums = reply_file::read(files, *ids, *threads, strays, None, progress, |found| {
            let Found { file, offset, length, reply: Some(reply), .. } = &found else {
                return placing.place(&mut [], found);
            };
            if !reply.id_is_string {
                return placing.place(&mut [], found);
            }
            let slot = Slot { offset: *offset, length: length.and_then(Slot::length), file: *file, kind: reply.kind };
            let candidate = Candidate { id_hash: masked(reply.id_hash), slot, usage: reply.usage };
            Ok(replies.add(partition_of(reply.id_hash, replies.count()), candidate)?)
        })?;
        Ok((replies, checksums))
    }

    /// Places the replies of each partition, and spreads the slots by Seq.
    fn place(
        &self,
        replies: &Partitions<Candidate>,
        placing: &mut Placing<'_>,
    ) -> Result<Partitions<Placed>, ResultsError> {
        let JoinOptions { lines, threads, memory_bytes, scratch, .. } = &self.options;
        let stretches = position(lines.div_ceil(self.partition_seqs));
        let mut placed = Partitions::new(stretches, memory_bytes / 4, scratch);
        in_order(
            *threads,
            self.requests.count() as u64,
            || (),
            |(), partition| Partition::load(&self.requests, replies, position(partition)),
            |Partition { requests, mut slots, outputs, usage, rest }| {
                placing.count_outputs(outputs, usage);
                rest.into_iter()
                    .try_for_each(|(candidate, request)| placing.place(&mut slots, candidate.found(request)))?;
                for (request, slot) in requests.into_iter().zip(slots) {
                    let Some(slot) = slot else { continue };
                    let seq = seq_of(request);
                    placed.add(position(seq / self.partition_seqs), Placed { seq, slot })?;
                }
                Ok::<_, ResultsError>(())
            },
        )?;
        Ok(placed)
    }

    /// Writes the index front to back.
    fn write(&self, placed: &Partitions<Placed>, slots: &ReplyIndex) -> Result<(), ResultsError> {
        let mut stretch = Vec::new();
        for number in 0..placed.count() {
            let first = number as u64 * self.partition_seqs;
            stretch.clear();
            stretch.resize(position(self.partition_seqs.min(self.options.lines - first)), None);
            placed.each(number, |some| {
                for Placed { seq, slot } in some {
                    stretch[position(seq - first)] = Some(*slot);
                }
                Ok::<_, FileError>(())
            })?;
            slots.write(first, stretch.iter().copied())?;
        }
        Ok(())
    }
}

/// A partition of requests with its replies.
struct Partition {
    requests: Vec<u128>,
    /// For each request, the first reply to it if that is an output.
    slots: Vec<Option<Slot>>,
    /// Their number.
    outputs: u64,
    /// Tokens of these.
    usage: Usage,
    /// All other replies, in file order, each with the request that it answers.
    rest: Vec<(Candidate, Option<u32>)>,
}

impl Partition {
    fn load(requests: &Partitions<u128>, replies: &Partitions<Candidate>, number: usize) -> Result<Self, ResultsError> {
        let requests = requests.load(number)?;
        let table = IdTable::new(requests.iter().map(|request| masked(*request)));
        let mut slots = vec![None; requests.len()];
        let mut seen = vec![false; requests.len()];
        let (mut outputs, mut usage, mut rest) = (0, Usage::default(), Vec::new());
        let (mut hashes, mut found) = (Vec::new(), Vec::new());
        replies.each(number, |some| {
            hashes.clear();
            found.clear();
            hashes.extend(some.iter().map(|candidate| candidate.id_hash));
            table.get_each(&hashes, &mut found);
            for (candidate, request) in some.iter().zip(&found) {
                let first = request.map(|request| request as usize).filter(|request| !seen[*request]);
                if let Some(request) = first {
                    seen[request] = true;
                }
                match first {
                    Some(request) if candidate.slot.kind == ReplyKind::Output => {
                        slots[request] = Some(candidate.slot);
                        outputs += 1;
                        usage += candidate.usage;
                    }
                    _ => rest.push((*candidate, *request)),
                }
            }
            Ok::<_, FileError>(())
        })?;
        Ok(Self { requests, slots, outputs, usage, rest })
    }
}

/// The partition of an id: by bits that no [`IdTable`] takes for its directory.
fn partition_of(id_hash: u128, partitions: usize) -> usize {
    (id_hash >> SEQ_BITS) as usize & (partitions - 1)
}

/// The part of a hash that is compared.
fn masked(id_hash: u128) -> u128 {
    id_hash >> SEQ_BITS << SEQ_BITS
}

/// The Seq in a request's entry.
#[expect(clippy::cast_possible_truncation, reason = "the upper bits are the hash")]
fn seq_of(request: u128) -> u64 {
    request as u64 & (LINES_MAX - 1)
}

/// An index into what is in memory.
fn position(number: u64) -> usize {
    usize::try_from(number).expect("what is in memory is smaller than the address space")
}

/// A reply that looks for its request.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id_hash: u128,
    slot: Slot,
    usage: Usage,
}

impl Candidate {
    fn found(&self, request: Option<u32>) -> Found {
        let Slot { offset, length, file, kind } = self.slot;
        // The text of an error is read again if it is kept: few are.
        let reply = Reply { id_hash: self.id_hash, id_is_string: true, kind, usage: self.usage, error: None };
        Found { file, offset, length: length.map(u64::from), reply: Some(reply), request }
    }
}

impl Record for Candidate {
    const KIND: &'static str = "found";
    const BYTES: usize = u128::BYTES + Slot::BYTES + 2 * size_of::<u64>();

    fn write(self, content: &mut [u8]) {
        let (id_hash, rest) = content.split_at_mut(u128::BYTES);
        let (slot, usage) = rest.split_at_mut(Slot::BYTES);
        let (prompt, completion) = usage.split_at_mut(size_of::<u64>());
        self.id_hash.write(id_hash);
        self.slot.write(slot);
        prompt.copy_from_slice(&self.usage.prompt.to_le_bytes());
        completion.copy_from_slice(&self.usage.completion.to_le_bytes());
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        let (id_hash, rest) = content.split_at(u128::BYTES);
        let (slot, usage) = rest.split_at(Slot::BYTES);
        let (prompt, completion) = usage.split_at(size_of::<u64>());
        let usage = Usage { prompt: word(prompt), completion: word(completion) };
        Ok(Self { id_hash: u128::read(id_hash)?, slot: Slot::read(slot)?, usage })
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// A slot and its Seq.
#[derive(Debug, Clone, Copy)]
struct Placed {
    seq: u64,
    slot: Slot,
}

impl Record for Placed {
    const KIND: &'static str = "placed";
    const BYTES: usize = size_of::<u64>() + Slot::BYTES;

    fn write(self, content: &mut [u8]) {
        let (seq, slot) = content.split_at_mut(size_of::<u64>());
        seq.copy_from_slice(&self.seq.to_le_bytes());
        self.slot.write(slot);
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        let (seq, slot) = content.split_at(size_of::<u64>());
        Ok(Self { seq: word(seq), slot: Slot::read(slot)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::index::{IndexOptions, index};
    use super::*;
    use crate::model::reply::ReplyRole;
    use crate::storage::durable;

    const IDS: IdHasher = IdHasher { key: 9 };

    /// The id of request `n`. Every fourth is nearly the one before.
    fn id(n: usize) -> String {
        match n % 4 {
            0 => format!("id-{n}"),
            1 => n.to_string(),
            2 => format!("é-{n}"),
            _ => format!("e\u{301}-{}", n - 1),
        }
    }

    /// What a service has made of it, as JSON.
    fn near(n: usize) -> String {
        match n % 4 {
            1 => n.to_string(),
            _ => format!("\" {}\"", id(n)),
        }
    }

    /// A reply to request `n`, of a sort of its own.
    fn reply(n: usize, sort: usize) -> String {
        let usage = format!(r#""usage":{{"prompt_tokens":{n},"completion_tokens":2}}"#);
        let id = if sort < 4 { format!("\"{}\"", id(n)) } else { near(n) };
        match sort % 4 {
            0 | 1 => format!(r#"{{"custom_id":{id},"error":{{"message":"no {sort}"}}}}"#),
            _ => format!(r#"{{"custom_id":{id},"response":{{"status_code":200,"body":{{"s":{sort},{usage}}}}}}}"#),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_is_the_index_whatever_the_partitions_and_the_memory(
            lines in 0_usize..600,
            replies in prop::collection::vec((0_usize..700, 0_usize..8), 0..1500),
            partitions in prop_oneof![Just(1_u64), Just(2), Just(16)],
            partition_seqs in 1_u64..300,
            memory_bytes in prop_oneof![Just(0_usize), Just(1 << 20)],
        ) {
            let directory = tempfile::tempdir().unwrap();
            let files: Vec<ReplyFile> = (0_u32..).zip(replies.chunks(400)).map(|(number, some)| {
                let path = directory.path().join(format!("{number}.jsonl"));
                let mut text: Vec<String> = some.iter().map(|(n, sort)| reply(*n, *sort)).collect();
                text.push("{not a reply".to_owned());
                durable::publish_bytes(&path, text.join("\n").as_bytes()).unwrap();
                ReplyFile { number, path, role: ReplyRole::Output }
            }).collect();

            // Every fifth line is no request.
            let is_request = |n: &usize| n % 5 != 4;
            let requests: Vec<usize> = (0..lines).filter(is_request).collect();
            let mut wanted = vec![None; requests.len()];
            let hash = |n: &usize| IDS.hash(&id(*n));
            let table = IdTable::new(requests.iter().map(hash));
            let mut aside = SideFiles::new(&directory.path().join("one"));
            let options = IndexOptions { ids: IDS, threads: 2, strays: Strays::Refuse };
            let each_id = |tell: &mut dyn FnMut(u64, &str)| -> Result<(), ResultsError> {
                for (number, n) in (0..).zip(&requests) {
                    tell(number, &id(*n));
                }
                Ok(())
            };
            let indexed = index(&files, &table, options, each_id, &mut wanted, &mut aside).unwrap();
            aside.finish().unwrap();
            for (n, slot) in requests.iter().zip(&wanted) {
                let own = |reply: &&(usize, usize)| reply.0 == *n && reply.1 < 4;
                let Some(slot) = slot else { continue };
                let line = std::fs::read(&files[slot.file as usize].path).unwrap();
                let line = &line[usize::try_from(slot.offset).unwrap()..];
                let is_own = line.starts_with(format!("{{\"custom_id\":\"{}\"", id(*n)).as_bytes());
                prop_assert_eq!(is_own, replies.iter().any(|reply| own(&reply)), "its own reply wins");
                // The one that is nearly the same is no request if the other one is to have been meant.
                let twin = if n % 4 == 3 { n - 1 } else { n + 1 };
                prop_assert!(is_own || n % 4 < 2 || !requests.contains(&twin), "{} is ambiguous", id(*n));
            }

            let options = JoinOptions {
                lines: lines as u64, ids: IDS, threads: 2, memory_bytes, scratch: directory.path().to_owned(),
            };
            let mut join = Join::with_partitions(options, partitions, partition_seqs);
            for n in &requests {
                join.add_request(*n as u64, hash(n)).unwrap();
            }
            let slots = ReplyIndex::open_or_create(&directory.path().join("replies.idx"), lines as u64).unwrap();
            let mut aside = SideFiles::new(&directory.path().join("two"));
            let each_id = |tell: &mut dyn FnMut(u64, &str)| {
                for n in &requests {
                    tell(*n as u64, &id(*n));
                }
                Ok(())
            };
            prop_assert_eq!(&join.index(&files, &slots, &mut aside, each_id, &|_| ()).unwrap(), &indexed);
            aside.finish().unwrap();

            let seqs: Vec<u64> = requests.iter().map(|n| *n as u64).collect();
            prop_assert_eq!(slots.read_each(&seqs).unwrap(), wanted);
            for (seq, slot) in (0..).zip(slots.read(0, lines as u64).unwrap()) {
                prop_assert!(is_request(&seq) || slot.is_none());
            }
            for name in ["unknown", "conflicts", "unreadable"] {
                let sorted = |prefix: &str| {
                    let text = std::fs::read_to_string(directory.path().join(format!("{prefix}-{name}.jsonl")));
                    let mut lines: Vec<String> = text.unwrap_or_else(|_| String::new()).lines().map(str::to_owned).collect();
                    lines.sort();
                    lines
                };
                prop_assert_eq!(sorted("one"), sorted("two"));
            }
        }
    }
}
