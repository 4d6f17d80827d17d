//! `batchline` runs a JSONL file of LLM requests of any size through a provider's Batch API and gives the replies back
//! in input order: line N of the output answers line N of the input.
//!
//! ```
//! use std::sync::Arc;
//!
//! use batchline::dialect::providers::provider;
//! use batchline::remote::{Address, HttpApi, Settings, Token};
//! use batchline::run::{Options, Outputs, Run, Silent};
//! use batchline::serve::{ServeOptions, Server};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let output = directory.path().join("results.jsonl");
//! let local = provider("local").expect("it is built in");
//! let mut options = Options::new(["data/prompts.jsonl"], local);
//! # options.places.home = directory.path().to_owned();
//! let run = Run::open(options, Arc::new(Silent), Default::default()).await?;
//! let server = Server::start(ServeOptions { directory: run.path().join("local"), ..Default::default() }).await?;
//! let api = HttpApi::new(local, Address::parse(&server.base_url())?, Some(Token::new("any")?), Settings::default())?;
//! let summary = run.execute(api, Outputs::file(&output)).await?;
//! assert_eq!(summary.report.outcomes.outputs, summary.lines);
//! # Ok(())
//! # }
//! ```
//!
//! # The data's way
//!
//! ```text
//! Source ─► Chunk ─► Request │ Defect ─► Shard ─► RemoteFile ─► Batch ─► RemoteFile ─► Reply ─► Outcome ─► output
//!    read     check      (unique)   pack     upload       submit   poll     download   index    merge
//! └──────────── input/ ─────────────┘└──────────────── remote/ ─────────────────────┘└────── results/ ────────────┘
//! ```
//!
//! Three phases, three folders. [`input`] turns bytes into shards: CPU-bound, synchronous, on all cores. [`remote`]
//! talks to the service: I/O-bound, asynchronous. [`results`] turns reply files into one ordered output. None of the
//! three knows another; [`run`] alone names two of them in one breath.
//!
//! # Code map
//!
//! | where | what |
//! | --- | --- |
//! | [`model`] | the words as types: ids, defects, shards, batches, replies, outcomes |
//! | [`json`] | JSON: a fast scanner, and readers for what it refuses |
//! | [`storage`] | bytes at rest: durable writes, framing of lines, partitions beyond memory, the files of the user |
//! | [`dialect`] | where families of services differ, and the providers as data |
//! | [`input`] | Source, framing, checking, uniqueness, packing, the request index |
//! | [`remote`] | the client, uploads, submissions, downloads, retries; in [`remote::online`] a service without a Batch API |
//! | [`results`] | reply files, the reply index, the ordered merge |
//! | [`ledger`] | the SQLite database that says where each shard stands |
//! | [`run`] | the driver that takes each shard through the phases, the run directory |
//! | [`serve`] | the local Batch API server, which answers with an echo, or with what an OpenAI-compatible server says |
//! | [`generate`] | realistic prompt sets of any size |
//! | [`mod@bench`] | what this machine makes of each stage |
//! | `src/cli/` | the program: the one place that knows the command line, the environment and the terminal |
//!
//! # What always holds
//!
//! - **One outcome for each request.** Outputs, errors, missing and skipped lines add up to the lines of the input, or
//!   the run ends with an error.
//! - **Intent before every create.** `POST /batches` cannot be made idempotent. What it is for is synced to the Ledger
//!   first, it is sent once, and an answer that is neither yes nor no is looked up in the service's list, never sent
//!   again on a guess.
//! - **Resuming is the only path.** A run begins by reading the Ledger and takes each shard one step further from where
//!   it stands; a new run differs only in that all stand at the beginning.
//! - **Memory does not grow with the input.** Everything that is held has a named limit; what grows are files of
//!   fixed-width records.
//! - **Reply bytes pass through unchanged.** A parser finds out whom a reply answers; it never rewrites it, and what it
//!   cannot read is kept aside. Asked for the common [shape](results::normalize), the merge changes what is around an
//!   answer, never the answer.
//! - **The engine never prints** and reads no environment variable: options in, [`run::Monitor`] events out.
//! - **Bad data is a value.** A line that is no request is a [`model::defect::Defect`], a reply that is an error is an
//!   outcome; an [`run::error::Error`] means that the run cannot go on.

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
