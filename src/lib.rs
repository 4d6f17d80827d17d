//! Runs a JSONL file of LLM requests of any size through a provider's Batch API and gives the replies back in input
//! order: line N of the output answers line N of the input. Killed anywhere and started again, a run resumes.
//!
//! A whole program, with the local service in the place of a provider. Another one needs its name, its key, and no
//! server:
//!
#![cfg_attr(feature = "serve", doc = "```")]
#![cfg_attr(not(feature = "serve"), doc = "```ignore")]
//! use std::sync::Arc;
//! use batchline::{Address, HttpApi, Options, Outputs, Run, ServeOptions, Server, Silent, Token, provider};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   let (prompts, place) = (std::env::current_dir()?.join("data/prompts.jsonl"), tempfile::tempdir()?);
//! #   std::env::set_current_dir(&place)?;
//! #   std::fs::copy(prompts, "prompts.jsonl")?;
//!     let local = provider("local").expect("it is built in");
//!     let run = Run::open(Options::new(["prompts.jsonl"], local), Arc::new(Silent), Default::default()).await?;
//!     let server = Server::start(ServeOptions { directory: run.path().join("local"), ..Default::default() }).await?;
//!     let api = HttpApi::new(local, Address::parse(&server.base_url())?, Some(Token::new("any")?), Default::default())?;
//!     let summary = run.execute(api, Outputs::file("results.jsonl")).await?;
//!     println!("{} of {} requests have an output", summary.report.outcomes.outputs, summary.lines);
//! #   assert_eq!((summary.lines, summary.is_complete()), (60, true));
//! #   assert_eq!(std::fs::read_to_string("results.jsonl")?.lines().count(), 60);
//!     Ok(())
//! }
//! ```
//!
//! # What there is
//!
//! | for | names |
//! | --- | --- |
//! | a run | [`Options`] say what is asked for, [`Run::open`] checks all of the input, [`Run::execute`] has it answered into [`Outputs`] |
//! | what became of it | [`Summary`], and the [`Report`] in it; [`report`] has their parts. An [`Error`] means that the run cannot go on |
//! | watching it | a [`Monitor`] is told every [`Event`]; [`Silent`] is one |
//! | the service | a [`Provider`], of those that [`provider()`] knows; an [`HttpApi`] reaches it with a [`Token`] at an [`Address`] |
//! | a service without a Batch API | [`OnlineApi`] asks it request by request |
//! | another service | whatever implements [`Api`]; [`api`] has the types of its calls |
//! | no service at all | [`offline`] checks, plans, splits, and merges replies that were downloaded otherwise |
//!
//! # Promises
//!
//! - **One outcome for each request.** Outputs, errors, missing, held and invalid lines add up to the lines of the
//!   input, or the run ends with an error.
//! - **Nothing is paid for twice.** The intent to create a batch is on disk before the one call that creates it. An
//!   answer that is neither yes nor no is looked up in the service's list, never sent again on a guess. Only an
//!   [`OnlineApi`] sends again what was in flight when the process was killed, and the [`Summary`] counts it.
//! - **Resuming is the only path.** A run begins by reading what is known of it, and takes each shard one step further;
//!   a new run differs only in that nothing is known. One run directory is one process's at a time.
//! - **Memory does not grow with the input.** [`Resources::memory_bytes`] bounds it; what grows are files in the run
//!   directory, by about 50 bytes a request beside the replies themselves.
//! - **Reply bytes pass through unchanged,** unless the common [`Shape`] is asked for, which changes what is around an
//!   answer.
//! - **Nothing is printed, and no environment variable is read.** Options in, events out.
//! - **Bad data is a value.** A line that is no request is a [`Defect`](report::Defect), a reply that is an error is an
//!   outcome; neither is an [`Error`].
//!
//! Sizes are in bytes and times are [`Duration`](std::time::Duration)s, unless a name says otherwise; lines are counted
//! from 1 in messages. Everything asynchronous runs on a tokio runtime with its time and I/O drivers, and what blocks
//! is done on other threads.
//!
//! # Features
//!
//! | feature | brings |
//! | --- | --- |
//! | `http` | [`HttpApi`] and [`OnlineApi`]: HTTP with TLS. Not needed for work without a service, or with an [`Api`] of your own |
//! | `serve` | `Server` and `ServeOptions`: a local Batch API server that answers with an echo, or with what an OpenAI-compatible server says |
//! | `cli` | the program `batchline`; implies `serve`, which implies `http` |
//!
//! All are on by default. Without them nothing of the command line, of progress bars, of an HTTP server or client is
//! built.
//!
//! Modules that this page does not list can be named, because the program and its tests are other crates. They are no
//! part of the interface and change without notice.

#![cfg_attr(not(feature = "http"), expect(dead_code, reason = "the clients use it, and are not built"))]

// The map of the code, for those who change it.
//
//     Source ─► Chunk ─► Request │ Defect ─► Shard ─► RemoteFile ─► Batch ─► RemoteFile ─► Reply ─► Outcome ─► output
//        read     check      (unique)   pack     upload       submit   poll     download   index    merge
//     └──────────── input/ ─────────────┘└──────────────── remote/ ─────────────────────┘└────── results/ ────────────┘
//
// Three phases, three folders. `input` turns bytes into shards: CPU-bound, synchronous, on all cores. `remote` talks to
// the service: I/O-bound, asynchronous. `results` turns reply files into one ordered output. None of the three imports
// another; `run` alone composes them.
//
//     model      the words as types: ids, defects, shards, batches, replies, outcomes
//     json       JSON: a fast scanner, and readers for what it refuses
//     storage    bytes at rest: durable writes, framing of lines, partitions beyond memory, the files of the user
//     dialect    where families of services differ, and the providers as data
//     input      Source, framing, checking, uniqueness, packing, the request index
//     remote     the client, uploads, submissions, downloads, retries; in `remote/online` a service without a Batch API
//     results    reply files, the reply index, the ordered merge
//     ledger     the SQLite database that says where each shard is
//     run        the driver that takes each shard through the phases, the run directory
//     serve      the local Batch API server
//     generate   realistic prompt sets of any size
//     bench      what this machine makes of each stage
//     src/cli/   the program: the one place that knows the command line, the environment and the terminal
//     src/python the Python package: runs the program, which its wheel carries
//     build.rs   the build script: which commit this is

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod dialect;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod generate;
#[doc(hidden)]
pub mod input;
pub mod json;
#[doc(hidden)]
pub mod ledger;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod remote;
#[doc(hidden)]
pub mod results;
#[doc(hidden)]
pub mod run;
#[cfg(feature = "serve")]
#[doc(hidden)]
pub mod serve;
#[doc(hidden)]
pub mod storage;

#[cfg(feature = "serve")]
#[doc(inline)]
pub use self::serve::{ServeOptions, Server};
#[cfg(feature = "http")]
#[doc(inline)]
pub use self::{
    dialect::address::Address,
    remote::online::{Upstream, UpstreamOptions},
    remote::{HttpApi, OnlineApi},
};
#[doc(inline)]
pub use self::{
    dialect::provider::Provider,
    dialect::providers::provider,
    input::source::Input,
    remote::{Api, Token},
    results::normalize::Shape,
    run::error::{Error, ErrorKind},
    run::{
        BatchOptions, EarlierRun, Event, InputOptions, Monitor, OnAmbiguous, OnEarlier, Options, OutputTarget, Outputs,
        Report, Resources, Run, RunPlaces, ServiceIdentity, ServiceOptions, Silent, Summary,
    },
};
/// Interrupts a run: what is under way ends in good order, and the run can be resumed.
#[doc(no_inline)]
pub use tokio_util::sync::CancellationToken;

/// What calls of an [`Api`] take and return, for those who implement one; and the settings of an [`HttpApi`].
pub mod api {
    #[cfg(feature = "http")]
    #[doc(inline)]
    pub use crate::remote::{Settings, SetupError};
    #[doc(inline)]
    pub use crate::{
        model::batch::{Batch, BatchStatus, CreateBatch, RequestCounts},
        model::tag::BatchTag,
        remote::{
            Again, Downloaded, ErrorKind, Lines, Listing, Notice, Observer, Payload, Progress, Redactor, RemoteError,
            RemoteFile, RetryPolicy, Submission, Timeouts,
        },
        storage::durable::{FileError, publish_bytes},
    };
}

/// What needs no service: check, plan and split an input, and [`merge`](offline::merge) reply files into its order.
pub mod offline {
    #[doc(inline)]
    pub use crate::{
        input::check::LineLimits,
        input::scan::Scan,
        model::outcome::Indexed,
        model::shard::{Shard, ShardLimits},
        results::merge::Merged,
        run::offline::{MergedReplies, OfflineOptions, Scanned, check, merge, plan, split},
    };
}

/// The parts of a [`Report`], a [`Summary`] and an [`Event`].
pub mod report {
    #[doc(inline)]
    pub use crate::{
        model::defect::{Defect, DefectKind, PlacedDefect},
        model::incident::{Incident, RecordedIncident},
        model::outcome::{ModelCounts, Outcomes},
        model::phase::Phase,
        run::held::{HeldReason, HeldShard},
        run::monitor::{Note, ShardCounts},
        run::report::{RunState, ShardStatus},
    };
}
