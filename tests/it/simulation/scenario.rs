//! What a seed plays: the input, the options, the service, and how often the process dies.
//!
//! In: a seed and a mode. Out: a directory with the input, options that no campaign changes, and the service at its
//! beginning.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchline::offline::ShardLimits;
use batchline::{Address, BatchOptions, OnAmbiguous, Options, Resources, ServiceIdentity, provider};

use super::cut::Cut;
use super::faults::Faults;
use super::rows;
use super::world::World;

/// What a campaign looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Faults for ever: nothing is paid twice, lost or swapped.
    Safety,
    /// Faults stop: the run finishes.
    Liveness,
}

/// Where the output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// Into a pipe, as it becomes final.
    Pipe,
    /// Into a file, which appears whole.
    File,
}

/// What is fixed for a seed.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    pub(super) requests: u64,
    pub(super) options: Options,
    /// Where all files are.
    pub(super) directory: PathBuf,
    pub(super) to: To,
    /// Lives that end early, in any way.
    pub(super) deaths: u32,
    /// Lives that are cut off at a durable change: among those, or one after the other if there are none.
    pub(super) cuts: Vec<Cut>,
}

impl Scenario {
    /// What a seed plays, in a directory of its own: even ones in Together's dialect, odd ones in OpenAI's.
    pub(super) fn new(seed: u64, mode: Mode, directory: &Path) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5ce0);
        let requests = rng.u64(3..30);
        let provider = provider(["local", "local:openai"][usize::from(seed % 2 == 1)]).expect("it is known");
        let address = Address::parse("http://127.0.0.1:9/v1").expect("it is an address");
        let on_ambiguous = match rng.u8(..3) {
            0 => OnAmbiguous::RetryAfter(Duration::from_secs(rng.u64(60..1200))),
            _ => OnAmbiguous::Hold,
        };
        let mut options = Options::new([directory.join("input.jsonl")], provider);
        options.input.shard = ShardLimits { requests: rng.u64(1..=5), bytes: 1 << 20, inputs: None };
        options.input.max_defects = 0;
        options.places.home = directory.join("runs");
        options.service.identity = ServiceIdentity::at(provider, &address);
        options.batches = BatchOptions {
            uploads: rng.usize(1..=4),
            max_in_flight: None,
            poll_interval: Duration::from_secs(rng.u64(1..=60)),
            on_ambiguous,
            rounds: if mode == Mode::Liveness { 1000 } else { rng.u32(1..=4) },
            ..BatchOptions::new(provider)
        };
        options.resources = Resources { threads: 1, memory_bytes: 64 << 20 };
        let mut lines = Vec::new();
        for seq in 0..requests {
            let (id, model) = (rows::custom_id(seq), ["a", "b"][rng.usize(..2)]);
            let line = format!("{{\"custom_id\":\"{id}\",\"body\":{{\"model\":\"{model}\",\"messages\":[]}}}}\n");
            lines.extend_from_slice(line.as_bytes());
        }
        fs::write(directory.join("input.jsonl"), lines).expect("the directory can be written to");
        let deaths = if rng.u8(..4) == 0 { 0 } else { rng.u32(1..8) };
        let cuts = (0..rng.u8(..3)).map(|_| Cut::draw(&mut rng)).collect();
        Self { seed, mode, requests, options, directory: directory.to_owned(), to: To::Pipe, deaths, cuts }
    }

    /// The service of this seed.
    pub(super) fn world(&self) -> Arc<Mutex<World>> {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0xfa17);
        let until = match self.mode {
            Mode::Safety => None,
            Mode::Liveness => Some(World::BEGINNING + Duration::from_secs(rng.u64(1..20_000))),
        };
        let dialect = self.options.service.identity.provider.dialect;
        Arc::new(Mutex::new(World::new(self.seed, dialect, Faults::new(self.seed, dialect, until))))
    }
}
