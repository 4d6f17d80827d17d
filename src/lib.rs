//! `batchline` runs a JSONL file of LLM requests of any size through a provider's Batch API and gives the replies back in input
//! order: line N of the output answers line N of the input.
//!
//! # The data's way
//!
//! ```text
//! Source ─► Chunk ─► Request │ Defect ─► Shard ─► RemoteFile ─► Batch ─► RemoteFile ─► Reply ─► Outcome ─► output
//!    read     check      (unique)   pack     upload       submit   poll     download   index    merge
//! └──────────── input/ ─────────────┘└──────────────── remote/ ─────────────────────┘└────── results/ ────────────┘
//! ```
//!
//! Three phases, three folders. [`input`] turns bytes into shards: CPU-bound, synchronous, on all cores. [`remote`] talks to the
//! service: I/O-bound, asynchronous. [`results`] turns reply files into one ordered output. None of the three knows another; [`run`]
//! alone names two of them in one breath.
//!
//! # Code map
//!
//! | where | what |
//! | --- | --- |
//! | [`input`] | Source, framing, checking, uniqueness, packing, the request index |
//! | [`remote`] | providers as data, the client, uploads, submissions, downloads, retries |
//! | [`results`] | replies, the reply index, the ordered merge |
//! | [`run`] | the driver that takes each shard through the phases, the Ledger, the run directory |
//! | [`offline`] | check, plan, split and merge without a service |
//! | [`serve`] | the local Batch API server, which answers with an echo, or with what an OpenAI-compatible server says |
//! | [`generate`] | realistic prompt sets of any size |
//! | [`mod@bench`] | what this machine makes of each stage |
//! | [`durable`] | the only module that creates, syncs, renames or removes a file |
//! | [`user_files`] | what a command was told to read and to write: no file is both, and outputs appear as the user wants them |
//! | [`lines`], [`in_order`], [`partitions`], [`custom_id`] | what the phases share: framing, ordered parallel work, records beyond memory, hashes of ids |
//! | `src/json/` | The one way to read JSON: a fast scanner, an exact reader, and one that frames what is whole but ugly |
//! | `src/path_text.rs` | paths in JSON, which are not always text |
//! | [`brackets`] | where JSON values begin and end, however ugly they are: how lists of batches are read |
//! | `src/aligned.rs` | buffers that lie in memory as their bytes lie in a file, for the kernel's sake |
//! | [`shown`] | names and texts of others, without what could steer a terminal |
//! | [`error`] | why a run cannot go on, and what its user can do |
//! | `src/cli/` | the program: the one place that knows the command line, the environment and the terminal |
//!
//! # What always holds
//!
//! - **One outcome for each request.** Outputs, errors, missing and skipped lines add up to the lines of the input, or the run ends
//!   with an error.
//! - **Intent before every create.** `POST /batches` cannot be made idempotent. What it is for is synced to the Ledger first, it is
//!   sent once, and an answer that is neither yes nor no is looked up in the service's list, never sent again on a guess.
//! - **Resuming is the only path.** A run begins by reading the Ledger and takes each shard one step further from where it stands; a
//!   new run differs only in that all stand at the beginning.
//! - **Memory does not grow with the input.** Everything that is held has a named limit; what grows are files of fixed-width records.
//! - **Reply bytes pass through unchanged.** A parser finds out whom a reply answers; it never rewrites it, and what it cannot read is
//!   kept aside. Asked for the common [`shape`](results::shape), the merge changes what is around an answer, never the answer.
//! - **The engine never prints** and reads no environment variable: options in, [`run::Monitor`] events out.
//! - **Bad data is a value.** A line that is no request is a [`input::defect::Defect`], a reply that is an error is an outcome; an
//!   [`error::Error`] means that the run cannot go on.

pub mod bench;
pub mod dialect;
pub mod generate;
pub mod input;
pub mod json;
pub mod ledger;
pub mod model;
pub mod remote;
pub mod results;
pub mod run;
pub mod serve;
pub mod storage;
