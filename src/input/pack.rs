//! Requests to Shards.
//!
//! In: requests in input order. Out: for each its shard's number, and at the end the shards.
//!
//! Invariants:
//! - A shard has requests of one model: a model that a service rejects only fails its own batches.
//! - No shard exceeds its limits on requests, bytes and inputs.
//! - Shards are numbered in the order of their first requests, and a shard's requests are in input order.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::Xxh3Default;

use crate::model::shard::{Cut, Shard, ShardLimits};

/// Maximum number of open shards, one per model. With more models, the oldest shard is closed early.
const OPEN_SHARDS_MAX: usize = 4096;

/// Folds line hashes into a shard's checksum.
#[derive(Default)]
pub struct ShardChecksum(Xxh3Default);

impl std::fmt::Debug for ShardChecksum {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ShardChecksum")
    }
}

impl ShardChecksum {
    /// Adds the next line's hash.
    pub fn push(&mut self, line_hash: u64) {
        self.0.update(&line_hash.to_le_bytes());
    }

    /// The checksum of the lines so far.
    #[must_use]
    pub fn value(&self) -> u128 {
        self.0.digest128()
    }
}

#[derive(Debug)]
struct OpenShard {
    number: u32,
    first: u64,
    last: u64,
    requests: u64,
    bytes: u64,
    inputs: u64,
    checksum: ShardChecksum,
}

impl OpenShard {
    /// Takes a request. `bytes` are its line's, the line end included.
    fn push(&mut self, seq: u64, (bytes, inputs): (u64, u64), line_hash: u64) {
        self.last = seq;
        self.requests += 1;
        self.bytes += bytes;
        self.inputs += inputs;
        self.checksum.push(line_hash);
    }
}

/// A model, as a [`Packer`] knows it.
#[derive(Debug, Clone, Copy)]
pub struct ModelNumber(usize);

/// A model and the shard that is open for it.
#[derive(Debug)]
struct Model {
    name: String,
    open: Option<Box<OpenShard>>,
}

/// Packs requests as they come.
#[derive(Debug)]
pub struct Packer {
    limits: ShardLimits,
    models: Vec<Model>,
    numbers: HashMap<String, ModelNumber>,
    /// The models with open shards, by the numbers of the shards.
    open: BTreeMap<u32, ModelNumber>,
    closed: Vec<Shard>,
    opened: u32,
}

impl Packer {
    /// A packer without shards. `limits` must hold at least the longest line.
    #[must_use]
    pub fn new(limits: ShardLimits) -> Self {
        Self::starting_at(limits, 0)
    }

    /// A packer that numbers its shards from `number` on.
    #[must_use]
    pub fn starting_at(limits: ShardLimits, number: u32) -> Self {
        let (models, numbers, open) = (Vec::new(), HashMap::new(), BTreeMap::new());
        Self { limits, models, numbers, open, closed: Vec::new(), opened: number }
    }

    /// The model of this name: looked up once for many requests, because the serial part of a scan is here.
    pub fn model(&mut self, name: &str) -> ModelNumber {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = ModelNumber(self.models.len());
        self.models.push(Model { name: name.to_owned(), open: None });
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// Places a request and returns its shard's number. `length` is its line's, without the line end; `inputs` count
    /// where there is a limit on them.
    pub fn push(&mut self, seq: u64, model: ModelNumber, (length, inputs): (u32, u32), line_hash: u64) -> u32 {
        let (bytes, inputs) = (u64::from(length) + 1, u64::from(inputs));
        let ShardLimits { requests: most, bytes: most_bytes, inputs: most_inputs } = self.limits;
        let has_room = |open: &OpenShard| most_inputs.is_none_or(|most| open.inputs + inputs <= most);
        let cut = match &mut self.models[model.0].open {
            // Nearly always.
            Some(open) if open.requests < most && open.bytes + bytes <= most_bytes && has_room(open) => {
                open.push(seq, (bytes, inputs), line_hash);
                return open.number;
            }
            Some(open) if open.requests == most => Some(Cut::Requests),
            Some(open) if open.bytes + bytes > most_bytes => Some(Cut::Bytes),
            Some(_) => Some(Cut::Inputs),
            None => None,
        };
        if let Some(cut) = cut {
            self.close(model, cut);
        }
        let open = self.open_shard(model, seq);
        open.push(seq, (bytes, inputs), line_hash);
        open.number
    }

    /// The shards, by number.
    #[must_use]
    pub fn finish(mut self) -> Vec<Shard> {
        for model in self.open.values().copied().collect::<Vec<_>>() {
            self.close(model, Cut::End);
        }
        self.closed.sort_unstable_by_key(|shard| shard.number);
        self.closed
    }

    fn open_shard(&mut self, model: ModelNumber, seq: u64) -> &mut OpenShard {
        if self.open.len() == OPEN_SHARDS_MAX
            && let Some((_, oldest)) = self.open.first_key_value()
        {
            self.close(*oldest, Cut::Models);
        }
        let number = self.opened;
        self.opened += 1;
        self.open.insert(number, model);
        let checksum = ShardChecksum::default();
        let open = OpenShard { number, first: seq, last: seq, requests: 0, bytes: 0, inputs: 0, checksum };
        self.models[model.0].open.insert(Box::new(open))
    }

    fn close(&mut self, model: ModelNumber, cut: Cut) {
        let Model { name, open } = &mut self.models[model.0];
        if let Some(open) = open.take() {
            self.open.remove(&open.number);
            self.closed.push(Shard {
                number: open.number,
                model: name.clone(),
                first: open.first,
                last: open.last,
                requests: open.requests,
                bytes: open.bytes,
                checksum: open.checksum.value(),
                cut,
                round: 1,
                seq_range: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shards_keep_the_limits_and_hold_every_request_once(
            lines in prop::collection::vec((0_usize..4, 1_u32..100, 1_u32..9), 1..300),
            requests in 1_u64..20,
            bytes in 101_u64..1000,
            inputs in prop::option::of(8_u64..50),
        ) {
            let models = ["a", "b", "c", "d"];
            let mut packer = Packer::new(ShardLimits { requests, bytes, inputs });
            let placed: Vec<u32> = lines
                .iter()
                .enumerate()
                .map(|(seq, (model, length, inputs))| {
                    let model = packer.model(models[*model]);
                    packer.push(seq as u64, model, (*length, *inputs), seq as u64)
                })
                .collect();
            let shards = packer.finish();
            for (number, shard) in shards.iter().enumerate() {
                let own: Vec<usize> = (0..lines.len()).filter(|&seq| placed[seq] as usize == number).collect();
                prop_assert_eq!(shard.number as usize, number);
                prop_assert_eq!(shard.requests, own.len() as u64);
                prop_assert_eq!((shard.first, shard.last), (own[0] as u64, own[own.len() - 1] as u64));
                prop_assert_eq!(shard.bytes, own.iter().map(|&seq| u64::from(lines[seq].1) + 1).sum::<u64>());
                prop_assert!(shard.requests <= requests && shard.bytes <= bytes);
                let own_inputs: u64 = own.iter().map(|&seq| u64::from(lines[seq].2)).sum();
                prop_assert!(inputs.is_none_or(|most| own_inputs <= most));
                prop_assert!(own.iter().all(|&seq| models[lines[seq].0] == shard.model));
                let mut checksum = ShardChecksum::default();
                for &seq in &own {
                    checksum.push(seq as u64);
                }
                prop_assert_eq!(shard.checksum, checksum.value());
            }
            prop_assert!(shards.is_sorted_by_key(|shard| shard.first));
        }
    }
}
