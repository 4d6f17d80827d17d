//! A shard: the requests that are uploaded together as one batch; and its limits.

use serde::{Deserialize, Serialize};

/// The limits of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLimits {
    /// Maximum requests.
    pub requests: u64,
    /// Maximum bytes, line terminators included.
    pub bytes: u64,
    /// Maximum inputs of all its requests, if the service limits those of embeddings.
    pub inputs: Option<u64>,
}

/// Why a shard was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cut {
    /// It has the maximum number of requests.
    Requests,
    /// The next request would make it too large.
    Bytes,
    /// The next request would exceed the maximum number of inputs.
    Inputs,
    /// More models are interleaved than shards can be open at a time.
    Models,
    /// The input has no more requests of its model.
    End,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Requests, Self::Bytes, Self::Inputs, Self::Models, Self::End];

    /// The name that `plan` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Inputs => "inputs",
            Self::Models => "models",
            Self::End => "end",
        }
    }
}

/// A range of a list of Seqs: the lines of a shard that sends requests again. See `input/shard_lines.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRange {
    /// Number of the list.
    pub list: u32,
    /// Place of the first Seq in the list.
    pub start: u64,
}

/// The requests that are uploaded together as one batch file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number, counted from 0.
    pub number: u32,
    /// The model that all its requests ask for.
    pub model: String,
    /// Seq of its first request.
    pub first: u64,
    /// Seq of its last request. Requests of other shards may lie in between.
    pub last: u64,
    /// How many requests it has.
    pub requests: u64,
    /// Size of its batch file in bytes.
    pub bytes: u64,
    /// XXH3-128 over the XXH3-64 hashes of its lines; what is uploaded must match it.
    pub checksum: u128,
    /// Why it was closed.
    pub cut: Cut,
    /// The round in which it is sent, counted from 1.
    pub round: u32,
    /// Its lines; `None` for those to which the request index assigns its number.
    pub seq_range: Option<SeqRange>,
}
