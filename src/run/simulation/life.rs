//! One run from its beginning to its end, through as many lives of the process as it takes.
//!
//! In: a seed and a mode. Out: how it ended, what each life wrote, and the world with its record. The driver, the
//! Ledger, the indexes and the merge are the real ones; a life ends when the future that drives it is dropped, at any
//! of the places where it waits, or when the Ledger can no longer be written.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::rows;
use super::service::Service;
use super::world::World;
use crate::dialect::providers::provider;
use crate::input::check::LineLimits;
use crate::input::envelope::Envelope;
use crate::input::source::Input;
use crate::ledger::{Ledger, fuse};
use crate::model::incident::Incident;
use crate::model::shard::ShardLimits;
use crate::remote::{Address, Redactor};
use crate::results::normalize::Shape;
use crate::run;
use crate::run::directory::layout;
use crate::run::error::{Error, ErrorKind};
use crate::run::held::HeldReason;
use crate::run::inspect::{self, Decision};
use crate::run::{
    Event, Monitor, OnAmbiguous, OnEarlier, Options, OutputTarget, Outputs, RunPlaces, ServiceIdentity, Silent,
    Summary, open,
};
use crate::storage::durable;

/// Lives after which a run that has not ended is given up.
const LIVES_MAX: u32 = 60;

/// Times that a process is polled at most; beyond that it spins. A list each second for half a day is less.
const POLLS_MAX: u64 = 200_000;

/// The longest life on the simulated clock.
const LIFE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

/// What a campaign looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Faults for ever: nothing is paid twice, lost or swapped.
    Safety,
    /// Faults stop: the run finishes.
    Liveness,
}

/// What is fixed for a seed.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    pub(super) requests: u64,
    pub(super) options: Options,
    /// Lives that are cut off.
    pub(super) deaths: u32,
    /// For the first life: the change to the Ledger that is the last one.
    pub(super) fuse: Option<u64>,
}

/// How a life ended.
#[derive(Debug)]
pub(super) enum End {
    Finished(Box<Summary>),
    Failed(Error),
    Died,
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The last life's end; `None` when too many lives had none.
    pub(super) summary: Option<Summary>,
    /// What the last life wrote.
    pub(super) output: Vec<u8>,
    pub(super) run: PathBuf,
    pub(super) lives: u32,
}

/// A life's chances to end early.
#[derive(Debug, Clone, Copy)]
struct Fate {
    call: u64,
    create: u64,
    poll: u64,
    after: Duration,
    stop: Duration,
    fuse: Option<u64>,
}

impl Fate {
    const LONG: Self = Self { call: 0, create: 0, poll: 0, after: LIFE_MAX, stop: Duration::MAX, fuse: None };

    /// One of the ways to die, early as likely as late.
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let reach: u64 = 1 << rng.u32(1..9);
        match rng.u8(..6) {
            0 => Self { call: rng.u64(1..=reach), ..Self::LONG },
            1 => Self { poll: rng.u64(1..=reach), ..Self::LONG },
            2 => Self { after: Duration::from_millis(rng.u64(..reach * 20_000)), ..Self::LONG },
            3 => Self { stop: Duration::from_millis(rng.u64(..reach * 20_000)), ..Self::LONG },
            4 => Self { create: rng.u64(1..=2 * u64::from(reach.ilog2())), ..Self::LONG },
            _ => Self { fuse: Some(rng.u64(..reach)), ..Self::LONG },
        }
    }
}

impl Scenario {
    /// What a seed plays, in a directory of its own: even ones in Together's dialect, odd ones in OpenAI's.
    pub(super) fn new(seed: u64, mode: Mode, directory: &Path) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5ce0);
        let requests = rng.u64(3..30);
        let provider = provider(["local", "local:openai"][usize::from(seed % 2 == 1)]).expect("it is known");
        let address = Address::parse("http://127.0.0.1:9/v1").expect("it is an address");
        let envelope = Envelope::of(provider.line, provider.endpoint()).expect("it is an endpoint");
        let on_ambiguous = match rng.u8(..3) {
            0 => OnAmbiguous::RetryAfter(Duration::from_secs(rng.u64(60..1200))),
            _ => OnAmbiguous::Hold,
        };
        let options = Options {
            inputs: vec![Input::File(directory.join("input.jsonl"))],
            places: RunPlaces { home: directory.join("runs"), others: Vec::new() },
            directory: None,
            service: ServiceIdentity::at(provider, &address),
            redactor: Redactor::default(),
            endpoint: "/v1/chat/completions".to_owned(),
            completion_window: "24h".to_owned(),
            line: LineLimits {
                line_bytes: 1 << 20,
                custom_id_characters: 64,
                envelope,
                assign_ids: false,
                inputs: None,
            },
            shard: ShardLimits { requests: rng.u64(1..=5), bytes: 1 << 20, inputs: None },
            on_earlier: OnEarlier::Ask,
            skip_invalid: false,
            allow_empty: false,
            report: None,
            max_defects: 0,
            threads: 1,
            memory_bytes: 64 << 20,
            uploads: rng.usize(1..=4),
            poll_interval: Duration::from_secs(rng.u64(1..=60)),
            on_ambiguous,
            max_in_flight_batches: None,
            rounds: if mode == Mode::Liveness { 1000 } else { rng.u32(1..=4) },
            settle: crate::run::options::SETTLE,
            delete_remote: false,
        };
        let mut lines = Vec::new();
        for seq in 0..requests {
            let (id, model) = (rows::custom_id(seq), ["a", "b"][rng.usize(..2)]);
            let line = format!("{{\"custom_id\":\"{id}\",\"body\":{{\"model\":\"{model}\",\"messages\":[]}}}}\n");
            lines.extend_from_slice(line.as_bytes());
        }
        durable::publish_bytes(&directory.join("input.jsonl"), &lines).expect("the directory can be written to");
        let deaths = if rng.u8(..4) == 0 { 0 } else { rng.u32(1..8) };
        Self { seed, mode, requests, options, deaths, fuse: None }
    }

    /// The service of this seed.
    pub(super) fn world(&self) -> Arc<Mutex<World>> {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0xfa17);
        let until = match self.mode {
            Mode::Safety => None,
            Mode::Liveness => Some(World::BEGINNING + Duration::from_secs(rng.u64(1..20_000))),
        };
        let dialect = self.options.service.provider.dialect;
        Arc::new(Mutex::new(World::new(self.seed, dialect, Faults::new(self.seed, dialect, until))))
    }

    /// Runs until the run has ended.
    pub(super) fn play(&self, world: &Arc<Mutex<World>>) -> Ended {
        // Jitter and names of temporary files come from here.
        fastrand::seed(self.seed);
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0xdead);
        let mut longest: Vec<u8> = Vec::new();
        let mut run = PathBuf::new();
        let (mut pause, mut looked_again, mut accepted) = (Duration::ZERO, false, false);
        let live = self.mode == Mode::Liveness;
        for life in 1..=LIVES_MAX {
            let mut fate = if life <= self.deaths { Fate::draw(&mut rng) } else { Fate::LONG };
            if life == 1 && self.fuse.is_some() {
                fate = Fate { fuse: self.fuse, ..Fate::LONG };
            }
            let (end, output) = self.live(world, fate, &mut run, pause);
            pause = Duration::from_millis(rng.u64(..3_000_000));
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            let last = self.last_lines(&run, &output);
            let (shorter, longer) = if last.len() < longest.len() { (last, &*longest) } else { (&*longest, last) };
            assert!(longer.starts_with(shorter), "what was final has changed");
            if last.len() > longest.len() {
                longest = last.to_vec();
            }
            world.note(match &end {
                End::Finished(summary) => format!("finished, held: {:?}", summary.held_shards),
                // Its path is another one each time.
                End::Failed(Error::Ledger(_)) => "failed: the ledger".to_owned(),
                End::Failed(error) => format!("failed: {error}: {:?}", std::error::Error::source(error)),
                End::Died => "died".to_owned(),
            });
            match end {
                // Now that the list tells the truth, what is held is looked for once more.
                End::Finished(summary) if live && !summary.held_shards.is_empty() && !looked_again => {
                    looked_again = true;
                    pause = world.until_all_is_well();
                }
                // And what lacks still will never come.
                End::Finished(summary) if live && is_incomplete(&summary) && !accepted => {
                    accepted = true;
                    world.count("accepted as it is");
                    inspect::retry(&run, Decision::AcceptIncomplete).expect("the run can be decided about");
                }
                End::Finished(summary) => return Ended { summary: Some(*summary), output, run, lives: life },
                End::Failed(Error::Internal { what }) => panic!("{what}"),
                End::Failed(Error::Ledger(_)) => world.count("ledger failed"),
                End::Failed(Error::Interrupted) => world.count("interrupted"),
                End::Failed(error) if error.kind() == ErrorKind::Provider => world.count("gave up"),
                End::Failed(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
                End::Died if life == 1 => world.count("died"),
                End::Died => world.count("died during recovery"),
            }
        }
        Ended { summary: None, output: Vec::new(), run, lives: LIVES_MAX }
    }

    /// The lines that nothing will change any more.
    fn last_lines<'o>(&self, run: &Path, output: &'o [u8]) -> &'o [u8] {
        let Ok(ledger) = Ledger::open(&layout::ledger(run)) else { return &[] };
        let shards = ledger.shards().expect("the ledger makes sense");
        let open = shards.iter().filter_map(|known| known.open_from(self.options.rounds)).min();
        let lines = usize::try_from(open.unwrap_or(self.requests)).expect("there are few requests");
        let end = memchr::memchr_iter(b'\n', output).take(lines).last().map_or(0, |end| end + 1);
        &output[..end]
    }

    /// One process.
    fn live(&self, world: &Arc<Mutex<World>>, fate: Fate, run: &mut PathBuf, pause: Duration) -> (End, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime can be made");
        let (written, gone) = (Arc::default(), mpsc::channel());
        let writer = Writer { written: Arc::clone(&written), _gone: gone.0 };
        let death = CancellationToken::new();
        let api = Arc::new(Service {
            world: world.clone(),
            dies_at: fate.call,
            dies_at_create: fate.create,
            death: death.clone(),
        });
        fuse::set(fate.fuse);
        let end = runtime.block_on(async {
            world.lock().unwrap_or_else(PoisonError::into_inner).begin_life(pause);
            let prepared = match open::prepare(&self.options, &Silent) {
                Ok(prepared) => prepared,
                Err(error) => return End::Failed(error),
            };
            prepared.directory.path().clone_into(run);
            let output = OutputTarget::Writer(Box::new(writer));
            let outputs = Outputs { output, errors: None, shape: Shape::Native };
            let stop = CancellationToken::new();
            let (monitor, stopping) = (Arc::new(Log(world.clone())), stop.clone());
            tokio::spawn(async move {
                if fate.stop < LIFE_MAX {
                    tokio::time::sleep(fate.stop).await;
                    stopping.cancel();
                }
            });
            let (options, begun) = (self.options.clone(), std::time::Instant::now());
            let run = run::Run { prepared, options, monitor, stop, begun };
            let mut work = Box::pin(run::work(run, api, outputs, |here| here));
            let (mut polls, mut moments, mut last) = (0, 0, None);
            let counted = poll_fn(|context| {
                polls += 1;
                assert!(polls < POLLS_MAX, "the driver spins");
                // How often it is polled while a thread is at work depends on that thread; what it finds does not.
                let moment =
                    (tokio::time::Instant::now(), world.lock().unwrap_or_else(PoisonError::into_inner).log.len());
                if last.replace(moment) != Some(moment) {
                    moments += 1;
                }
                if moments == fate.poll {
                    Poll::Ready(End::Died)
                } else {
                    work.as_mut()
                        .poll(context)
                        .map(|ended| ended.map_or_else(End::Failed, |summary| End::Finished(Box::new(summary))))
                }
            });
            tokio::select! {
                biased;
                () = death.cancelled() => End::Died,
                end = counted => end,
                () = tokio::time::sleep(fate.after) => {
                    assert!(fate.after < LIFE_MAX || self.mode == Mode::Safety, "the run does not end");
                    End::Died
                }
            }
        });
        // Waits for threads that are at work: what they did is done, but nobody recorded it.
        drop(runtime);
        fuse::set(None);
        while gone.1.recv().is_ok() {}
        let written: Arc<Mutex<Vec<u8>>> = written;
        let output = std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
        (end, output)
    }
}

fn is_incomplete(summary: &Summary) -> bool {
    summary.held_shards.iter().any(|held| held.reason == HeldReason::IncompleteAnswer)
}

/// Keeps what is written, and lets go of a channel when its thread has ended.
struct Writer {
    written: Arc<Mutex<Vec<u8>>>,
    _gone: mpsc::Sender<()>,
}

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps what the run tells, for people who look into a failure.
struct Log(Arc<Mutex<World>>);

impl Monitor for Log {
    fn event(&self, event: Event<'_>) {
        let text = match event {
            Event::Note(note) => note.to_string(),
            Event::Warning(incident) => incident.to_string(),
            _ => return,
        };
        let mut world = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        world.note(format!("  {text}"));
        if let Event::Warning(incident) = event
            && let Some(seen) = counted_as(incident)
        {
            world.count(seen);
        }
    }
}

/// What the campaign counts an incident as, if it wants to have seen it.
fn counted_as(incident: &Incident) -> Option<&'static str> {
    Some(match incident {
        Incident::Adopted { .. } => "adopted",
        Incident::SurplusBatch { is_ours: true, .. } => "second batch cancelled",
        Incident::NotShown { .. } => "not shown",
        Incident::BatchOfAnother { .. } => "mixed up",
        Incident::QueueFull { .. } => "no room",
        _ => return None,
    })
}
