//! One run from its beginning to its end, through as many lives of the process as it takes.
//!
//! In: a scenario. Out: how it ended, what each life wrote, and the world with its record. The driver, the Ledger, the
//! indexes and the merge are the real ones; a life ends when the future that drives it is dropped, at any of the places
//! where it waits, or at any change that it makes to its files and its Ledger.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::Poll;
use std::time::Duration;

use batchline::ledger::Ledger;
use batchline::report::{HeldReason, Incident};
use batchline::run::directory::layout;
use batchline::run::inspect::{self, Decision};
use batchline::storage::fault_hook::Change;
use batchline::{CancellationToken, Error, ErrorKind, Event, Monitor, OutputTarget, Outputs, Run, Shape, Summary};

use super::cut::{Armed, Counted, Cut, Reached, Then};
use super::scenario::{Mode, Scenario, To};
use super::service::Service;
use super::world::World;

/// Lives after which a run that has not ended is given up.
const LIVES_MAX: u32 = 60;

/// Times that a process is polled at most; beyond that it spins. A list each second for half a day is less.
const POLLS_MAX: u64 = 200_000;

/// The longest life on the simulated clock.
const LIFE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

/// How a life ended.
#[derive(Debug)]
enum End {
    Finished(Box<Summary>),
    Failed(Error),
    Died,
}

/// A life that has ended.
struct Lived {
    end: End,
    output: Vec<u8>,
    /// The change that it did not get past.
    reached: Option<Reached>,
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
    cut: Option<Cut>,
}

impl Fate {
    const LONG: Self = Self { call: 0, create: 0, poll: 0, after: LIFE_MAX, stop: Duration::MAX, cut: None };

    /// One of the ways to die, early as likely as late.
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let reach: u64 = 1 << rng.u32(1..9);
        match rng.u8(..6) {
            0 => Self { call: rng.u64(1..=reach), ..Self::LONG },
            1 => Self { poll: rng.u64(1..=reach), ..Self::LONG },
            2 => Self { after: Duration::from_millis(rng.u64(..reach * 20_000)), ..Self::LONG },
            3 => Self { stop: Duration::from_millis(rng.u64(..reach * 20_000)), ..Self::LONG },
            4 => Self { create: rng.u64(1..=2 * u64::from(reach.ilog2())), ..Self::LONG },
            _ => Self::of(Cut { changes: rng.u64(..reach), counted: Counted::Commits, then: Then::Fails }),
        }
    }

    fn of(cut: Cut) -> Self {
        Self { cut: Some(cut), ..Self::LONG }
    }
}

impl Scenario {
    /// Runs until the run has ended.
    pub(super) fn play(&self, world: &Arc<Mutex<World>>) -> Ended {
        // Jitter and names of temporary files come from here.
        fastrand::seed(self.seed);
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0xdead);
        let mut longest: Vec<u8> = Vec::new();
        let mut run = PathBuf::new();
        let (mut pause, mut looked_again, mut accepted) = (Duration::ZERO, false, false);
        let live = self.mode == Mode::Liveness;
        let mut fates = self.fates(&mut rng).into_iter();
        for life in 1..=LIVES_MAX {
            let fate = fates.next().unwrap_or(Fate::LONG);
            let Lived { end, output, reached } = self.live(world, fate, &mut run, pause);
            pause = Duration::from_millis(rng.u64(..3_000_000));
            let mut world = lock(world);
            let last = self.last_lines(&run, &output);
            let (shorter, longer) = if last.len() < longest.len() { (last, &*longest) } else { (&*longest, last) };
            assert!(longer.starts_with(shorter), "what was final has changed");
            if last.len() > longest.len() {
                longest = last.to_vec();
            }
            note_end(&mut world, &end, reached.as_ref());
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
                End::Failed(error) if reached.is_some() => is_local(&error),
                End::Failed(Error::Interrupted) => world.count("interrupted"),
                End::Failed(error) if error.kind() == ErrorKind::Provider => world.count("gave up"),
                End::Failed(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
                End::Died if life == 1 => world.count("died"),
                End::Died => world.count("died during recovery"),
            }
        }
        Ended { summary: None, output: Vec::new(), run, lives: LIVES_MAX }
    }

    /// How the lives go that end early.
    fn fates(&self, rng: &mut fastrand::Rng) -> Vec<Fate> {
        let mut fates: Vec<Fate> = (0..self.deaths).map(|_| Fate::draw(rng)).collect();
        for cut in &self.cuts {
            let at = if self.deaths == 0 { fates.len() } else { rng.usize(..=fates.len()) };
            fates.insert(at, Fate::of(*cut));
        }
        fates
    }

    /// The lines that nothing will change any more.
    fn last_lines<'o>(&self, run: &Path, output: &'o [u8]) -> &'o [u8] {
        let Ok(ledger) = Ledger::open(&layout::ledger(run)) else { return &[] };
        let shards = ledger.shards().expect("the ledger makes sense");
        let open = shards.iter().filter_map(|known| known.open_from(self.options.batches.rounds)).min();
        let lines = usize::try_from(open.unwrap_or(self.requests)).expect("there are few requests");
        let end = memchr::memchr_iter(b'\n', output).take(lines).last().map_or(0, |end| end + 1);
        &output[..end]
    }

    /// One process.
    fn live(&self, world: &Arc<Mutex<World>>, fate: Fate, run: &mut PathBuf, pause: Duration) -> Lived {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime can be made");
        let (written, gone) = (Arc::default(), mpsc::channel());
        let outputs = self.outputs(Writer { written: Arc::clone(&written), _gone: gone.0 });
        let death = CancellationToken::new();
        let cut = fate.cut.map(|cut| cut.arm(&self.directory, &death));
        let end = runtime.block_on(async {
            lock(world).begin_life(pause);
            let stop = CancellationToken::new();
            let stopping = stop.clone();
            tokio::spawn(async move {
                if fate.stop < LIFE_MAX {
                    tokio::time::sleep(fate.stop).await;
                    stopping.cancel();
                }
            });
            let api =
                Service { world: world.clone(), dies_at: fate.call, dies_at_create: fate.create, death: death.clone() };
            let work = async {
                let opened = Run::open(self.options.clone(), Arc::new(Log(world.clone())), stop).await?;
                opened.path().clone_into(run);
                opened.execute(api, outputs).await
            };
            tokio::select! {
                biased;
                () = death.cancelled() => End::Died,
                end = counted(work, world, fate, cut.as_ref()) => end,
                () = tokio::time::sleep(fate.after) => {
                    assert!(fate.after < LIFE_MAX || self.mode == Mode::Safety, "the run does not end");
                    End::Died
                }
            }
        });
        // Waits for threads that are at work: what they did is done, but nobody recorded it.
        drop(runtime);
        while gone.1.recv().is_ok() {}
        let reached = cut.as_ref().and_then(Armed::reached);
        let dies = reached.is_some() && cut.is_some_and(|cut| cut.then == Then::Dies);
        let written: Arc<Mutex<Vec<u8>>> = written;
        let output = match self.to {
            To::Pipe => std::mem::take(&mut *lock(&written)),
            // There is none before the run is done.
            To::File => fs::read(self.output()).unwrap_or_else(|_| Vec::new()),
        };
        Lived { end: if dies { End::Died } else { end }, output, reached }
    }

    fn output(&self) -> PathBuf {
        self.directory.join("output.jsonl")
    }

    fn outputs(&self, writer: Writer) -> Outputs {
        match self.to {
            To::Pipe => Outputs { output: OutputTarget::Writer(Box::new(writer)), errors: None, shape: Shape::Native },
            To::File => {
                // An earlier life's, with lines that were not final.
                let _ = fs::remove_file(self.output());
                Outputs::file(self.output())
            }
        }
    }
}

/// What a process comes to, unless it dies before by its fate.
async fn counted(
    work: impl Future<Output = Result<Summary, Error>>,
    world: &Arc<Mutex<World>>,
    fate: Fate,
    cut: Option<&Armed>,
) -> End {
    let mut work = Box::pin(work);
    let (mut polls, mut moments, mut last) = (0, 0, None);
    poll_fn(|context| {
        polls += 1;
        assert!(polls < POLLS_MAX, "the driver spins");
        // How often it is polled while a thread is at work depends on that thread; what it finds does not.
        let moment = {
            let mut world = lock(world);
            if world.broken.is_none() && cut.is_some_and(|cut| cut.reached().is_some()) {
                world.broken = Some(world.now());
            }
            (tokio::time::Instant::now(), world.log.len())
        };
        if last.replace(moment) != Some(moment) {
            moments += 1;
        }
        if moments == fate.poll {
            return Poll::Ready(End::Died);
        }
        let ended = work.as_mut().poll(context);
        ended.map(|ended| ended.map_or_else(End::Failed, |summary| End::Finished(Box::new(summary))))
    })
    .await
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records how a life ended, for people who look into a failure and for the campaign.
fn note_end(world: &mut World, end: &End, reached: Option<&Reached>) {
    if let Some(Reached { change, path }) = reached {
        let name = path.file_name().unwrap_or_default().display();
        world.note(format!("does not get past: {change:?} {name}"));
        world.count("cut");
        world.count(if *change == Change::Commit { "ledger failed" } else { "file failed" });
    }
    world.note(match end {
        End::Finished(summary) => format!("finished, held: {:?}", summary.held_shards),
        // Its path is another one each time.
        End::Failed(_) if reached.is_some() => "failed".to_owned(),
        End::Failed(error) => format!("failed: {error}: {:?}", std::error::Error::source(error)),
        End::Died => "died".to_owned(),
    });
}

/// Nothing but this machine is to blame for an error.
fn is_local(error: &Error) {
    let source = std::error::Error::source(error);
    assert_eq!(error.kind(), ErrorKind::LocalState, "{error}: {source:?}");
}

fn is_incomplete(summary: &Summary) -> bool {
    summary.held_shards.iter().any(|held| held.reason == HeldReason::IncompleteAnswer)
}

/// Keeps what is written, and lets go of a channel when its thread has ended.
struct Writer {
    written: Arc<Mutex<Vec<u8>>>,
    _gone: mpsc::Sender<()>,
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.written).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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
        let mut world = lock(&self.0);
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
