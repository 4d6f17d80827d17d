//! The output as it grows: a thread that merges replies once their outcomes are final.
//!
//! In: the watermark, the first Seq whose outcome may still change. Out: all lines before it, in order; at the end the
//! rest, which may include held requests, and the totals.
//!
//! A file appears once it is complete; a writer receives the lines as they become final.
//!
//! Invariants: a reply file that an earlier process has indexed is compared with its checksum before any line of it is
//! written, and an output whose outputs and errors differ from the counts is never published as complete.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::directory::layout;
use super::files::Files;
use super::held::HeldLines;
use super::monitor::{Event, Monitor};
use super::options::OutputTarget;
use crate::input::InputError;
use crate::input::check::{self, LineLimits};
use crate::input::recheck::Recheck;
use crate::input::request_index::{LineState, RequestIndex};
use crate::input::source::Source;
use crate::model::batch::BatchStatus;
use crate::model::defect::Defect;
use crate::model::shard_state::EndedBatch;
use crate::results::merge::{self, HELD, MISSING, MergeInputs, Merged, Sinks, Unanswered};
use crate::results::normalize::Shape;
use crate::results::reply_cache::ReplyCache;
use crate::results::{ResultsError, index};
use crate::run::error::Error;
use crate::storage::aligned::BlockWriter;
use crate::storage::durable::FileError;
use crate::storage::sink::{Sink, WriterSink};
use crate::storage::user_files::open_output;

/// How long a run that stops early waits for the thread.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Why batches left requests without a reply, by shard.
type BatchFailures = Arc<Mutex<HashMap<u32, String>>>;

/// Where the lines go.
#[derive(Debug)]
pub struct Outputs {
    /// Receives every line, or only outputs if `errors` is set.
    pub output: OutputTarget,
    /// Receives errors, missing and invalid lines.
    pub errors: Option<PathBuf>,
    /// The format of all lines. Replies are stored as received, so a run can be written in the other format later.
    pub shape: Shape,
}

/// A message to the thread.
#[derive(Debug)]
enum WriterMessage {
    /// Everything before this Seq is final.
    Watermark(u64),
    /// The run has ended: these requests have no outcome and get none in this process.
    Held(HeldLines),
    /// The total counts of outputs and errors.
    Counted(u64, u64),
}

/// The result of writing the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// What was written.
    pub(crate) merged: Merged,
    /// Time spent on merging and writing lines.
    pub(crate) took: Duration,
    /// Whether all lines were written, to files that were published or readers that have read to the end.
    pub(crate) delivered: bool,
}

/// How a run has ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The expected number of lines.
    pub(crate) lines: u64,
    /// The held requests.
    pub(crate) held: Option<HeldLines>,
    /// The expected numbers of outputs and errors.
    pub(crate) counted: (u64, u64),
}

/// Merges on a separate thread.
#[derive(Debug)]
pub(crate) struct Merger {
    /// Dropping it ends the thread.
    writer: Option<mpsc::Sender<WriterMessage>>,
    batch_failures: BatchFailures,
    thread: Option<JoinHandle<Result<Written, Error>>>,
}

impl Drop for Merger {
    /// A run that stops early lets the thread remove its unfinished files; a thread that is blocked on a pipe is
    /// abandoned.
    fn drop(&mut self) {
        self.writer = None;
        let deadline = Instant::now() + LAST_WORK;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(LAST_WORK / 100);
        }
    }
}

impl Merger {
    /// Starts with nothing final. `recorded` are the checksums of the indexed reply files.
    pub(crate) fn start(
        files: Arc<Files>,
        recorded: BTreeMap<u32, String>,
        line: LineLimits,
        mut open: OpenOutputs,
        monitor: Arc<dyn Monitor>,
    ) -> Self {
        let shape = open.shape;
        let (writer, messages) = mpsc::channel();
        let failures = BatchFailures::default();
        let batch_failures = failures.clone();
        let thread = std::thread::spawn(move || {
            let (unverified, held) = (UnverifiedFiles(Mutex::new(recorded)), ReplyCache::new(files.memory_bytes));
            let mut merging = Merging { files, line, batch_failures, unverified, held, held_lines: None, shape };
            let (mut merged, mut took) = (Merged::default(), Duration::ZERO);
            let mut from = 0;
            for message in messages {
                match message {
                    WriterMessage::Watermark(to) => {
                        let begun = Instant::now();
                        merging.merge(from..to, &mut open, &mut merged, &*monitor)?;
                        took += begun.elapsed();
                        from = to.max(from);
                    }
                    WriterMessage::Held(lines) => merging.held_lines = Some(lines),
                    WriterMessage::Counted(outputs, errors) if (outputs, errors) != (merged.outputs, merged.errors) => {
                        return Err(ResultsError::Lost { outputs, errors, merged }.into());
                    }
                    WriterMessage::Counted(..) => {}
                }
            }
            // The sender was dropped: everything is final, or the run has stopped early.
            let begun = Instant::now();
            let delivered = from == merging.files.requests.len() && open.finish()?;
            Ok(Written { merged, took: took + begun.elapsed(), delivered })
        });
        Self { writer: Some(writer), batch_failures: failures, thread: Some(thread) }
    }

    /// Records a batch that has ended: if it did not complete, that is why its requests have no reply.
    pub(crate) fn record_failure(&self, shard: u32, batch: &EndedBatch) {
        if batch.status != BatchStatus::Completed {
            let why = batch.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            let note = format!("its batch {} ended as {}{why}", batch.id, batch.status);
            self.batch_failures.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, note);
        }
    }

    /// Notifies the thread that everything before `seq` is final.
    pub(crate) fn advance(&self, seq: u64) {
        // If the thread has ended early, `finish` returns its error.
        let _ = self.writer.as_ref().map(|writer| writer.send(WriterMessage::Watermark(seq)));
    }

    /// Whether the thread has ended early, which happens only with an error.
    pub(crate) fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until everything has been written; without an ending, everything that was final.
    pub(crate) fn finish(mut self, ending: Option<Ending>) -> Result<Written, Error> {
        if let (Some(writer), Some(Ending { lines, held, counted: (outputs, errors) })) = (self.writer.take(), ending) {
            let held = held.map(WriterMessage::Held).into_iter();
            for message in held.chain([WriterMessage::Watermark(lines), WriterMessage::Counted(outputs, errors)]) {
                // As above.
                let _ = writer.send(message);
            }
        }
        let thread = self.thread.take().expect("it is taken here only");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Reply files that an earlier process has indexed and this one has not verified yet, with their checksums.
struct UnverifiedFiles(Mutex<BTreeMap<u32, String>>);

impl UnverifiedFiles {
    /// The path of a reply file; verifies its content the first time.
    fn path(&self, run: &Path, number: u32) -> Result<PathBuf, ResultsError> {
        let path = layout::reply_file(run, number);
        // Locked meanwhile, so that no other thread uses a line of it before it is verified.
        let mut unverified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checksum) = unverified.get(&number) {
            if *checksum != format!("{:032x}", index::file_checksum(&path)?) {
                return Err(ResultsError::Altered { path });
            }
            unverified.remove(&number);
        }
        Ok(path)
    }
}

/// The state of the merging thread.
struct Merging {
    files: Arc<Files>,
    line: LineLimits,
    batch_failures: BatchFailures,
    unverified: UnverifiedFiles,
    held: ReplyCache,
    held_lines: Option<HeldLines>,
    shape: Shape,
}

impl Merging {
    /// Writes the lines of `seqs`.
    fn merge(
        &self,
        seqs: std::ops::Range<u64>,
        outputs: &mut OpenOutputs,
        merged: &mut Merged,
        monitor: &dyn Monitor,
    ) -> Result<(), Error> {
        let Self { files, line, batch_failures, unverified, held, held_lines, shape } = self;
        let recheck = Some(&files.recheck);
        let unanswering = Unanswering { source: &files.source, requests: &files.requests, line: *line, recheck };
        let note = |shard| batch_failures.lock().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned();
        let inputs = MergeInputs {
            replies: &files.replies,
            path: &|number| unverified.path(&files.run, number),
            unanswered: &|seq, held_by| {
                let message = held_by.and_then(|shard| held_lines.as_ref()?.messages.get(&shard).cloned());
                unanswering.explain(seq, message, &note)
            },
            held_seqs: held_lines.as_ref().map(|lines| &lines.seqs),
            body: &|seq| unanswering.body(seq),
            held,
            scratch: &files.run,
            shape: *shape,
            threads: files.threads,
        };
        let before = *merged;
        merge::merge(seqs, inputs, &mut outputs.sinks(), &mut |written| {
            *merged = before;
            merged.add(written);
            monitor.event(Event::Merged(merged));
        })?;
        outputs.flush()
    }
}

/// Determines why a line of the input has no reply.
pub(crate) struct Unanswering<'u> {
    pub(crate) source: &'u Source,
    pub(crate) requests: &'u RequestIndex,
    pub(crate) line: LineLimits,
    /// `None` if the input has just been checked.
    pub(crate) recheck: Option<&'u Recheck>,
}

impl Unanswering<'_> {
    /// The `body` of a request, verbatim from the input.
    pub(crate) fn body(&self, seq: u64) -> Result<Option<Vec<u8>>, ResultsError> {
        let record = self.requests.record(seq)?;
        if record.state != LineState::Request {
            return Ok(None);
        }
        let failed = |source: InputError| ResultsError::Request { seq, source: source.into() };
        self.recheck.map_or(Ok(()), |recheck| recheck.line(&record)).map_err(failed)?;
        let mut line = vec![0; record.length as usize];
        self.source.read_at(record.offset, &mut line).map_err(failed)?;
        Ok(record.body(&line).map(<[u8]>::to_vec))
    }

    /// Yields the Seq and the id of each request.
    pub(crate) fn each_id(&self, tell: &mut dyn FnMut(u64, &str)) -> Result<(), ResultsError> {
        self.requests.scan(0, u64::MAX - 1, |seq, record| {
            if record.state != LineState::Request {
                return Ok(());
            }
            let failed = |source: InputError| ResultsError::Request { seq, source: source.into() };
            let mut line = vec![0; record.length as usize];
            self.source.read_at(record.offset, &mut line).map_err(failed)?;
            if let Some(custom_id) = record.custom_id(seq, &line) {
                tell(seq, &custom_id);
            }
            Ok(())
        })
    }

    /// Examines the line again. `held` says why its request is held, if it is; `note` returns how a shard's batch
    /// ended, where that is the reason.
    pub(crate) fn explain(
        &self,
        seq: u64,
        held: Option<String>,
        note: &dyn Fn(u32) -> Option<String>,
    ) -> Result<Unanswered, ResultsError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ResultsError::Request { seq, source };
        let record = self.requests.record(seq)?;
        let mut text =
            self.source.read_line(record.offset, self.line.line_bytes + 1).map_err(|error| failed(error.into()))?;
        if record.length > 0 {
            // The checked part ends before trailing whitespace.
            text.truncate(record.length as usize);
        }
        if let Some(recheck) = self.recheck.filter(|_| record.state == LineState::Request) {
            recheck.id(seq, &record, &text).map_err(|error| failed(error.into()))?;
        }
        let custom_id = record.custom_id(seq, &text);
        if let Some(message) = held {
            return Ok(Unanswered { custom_id, code: HELD, message });
        }
        Ok(match record.state {
            LineState::Request => {
                let nothing = || "the service returned no reply for this request".to_owned();
                Unanswered { custom_id, code: MISSING, message: note(record.shard).unwrap_or_else(nothing) }
            }
            LineState::Duplicate => {
                let message = "an earlier line has the same custom_id; nothing was sent".to_owned();
                Unanswered { custom_id, code: "duplicate-custom-id", message }
            }
            LineState::Defective => {
                let valid = || failed("the line has become valid since it was checked".into());
                let Defect { kind, .. } = check::diagnose(&text, &self.line).err().ok_or_else(valid)?;
                Unanswered { custom_id, code: kind.code(), message: format!("{kind}; nothing was sent") }
            }
        })
    }
}

/// A sink that is written in blocks.
struct OpenOutput(BlockWriter<Box<dyn Sink>>);

impl OpenOutput {
    fn new(sink: Box<dyn Sink>) -> Self {
        Self(BlockWriter::new(sink))
    }

    fn file(path: &Path) -> Result<Self, FileError> {
        Ok(Self::new(open_output(path)?))
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.0.flush().map_err(|error| ResultsError::Output(error).into())
    }

    /// Writes the rest, and returns whether it is delivered.
    fn finish(mut self) -> Result<bool, Error> {
        if let Some(path) = self.0.get_ref().path().map(Path::to_owned) {
            return Ok(self.0.into_inner().map_err(FileError::on("write", &path))?.deliver()?);
        }
        self.flush()?;
        Ok(self.0.into_inner().map_err(ResultsError::Output)?.deliver()?)
    }
}

pub(crate) struct OpenOutputs {
    output: OpenOutput,
    errors: Option<OpenOutput>,
    pub(crate) shape: Shape,
}

impl OpenOutputs {
    pub(crate) fn open(outputs: Outputs) -> Result<Self, FileError> {
        let output = match outputs.output {
            OutputTarget::Writer(writer) => OpenOutput::new(Box::new(WriterSink(writer))),
            OutputTarget::File(path) => OpenOutput::file(&path)?,
        };
        let errors = outputs.errors.as_deref().map(OpenOutput::file).transpose()?;
        Ok(Self { output, errors, shape: outputs.shape })
    }

    pub(crate) fn sinks(&mut self) -> Sinks<'_> {
        let errors = self.errors.as_mut().map(|errors| &mut errors.0 as &mut dyn Write);
        Sinks { outputs_lead: self.output.0.lead(), outputs: &mut self.output.0, errors }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.output.flush()
    }

    /// Writes the rest, and returns whether both are delivered.
    pub(crate) fn finish(self) -> Result<bool, Error> {
        let output = self.output.finish()?;
        let errors = self.errors.map_or(Ok(true), OpenOutput::finish)?;
        Ok(output && errors)
    }
}
