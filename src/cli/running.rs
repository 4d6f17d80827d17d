//! `batchline run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use batchline::model::shown::Name;
use batchline::run::error::Error;
use batchline::run::held::HeldReason;
use batchline::run::{Report, Run, Summary};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::RunArguments;
use super::exit::{Exit, Failure};
use super::numbers::{count, phases, plural, recognised, seconds, size};
use super::progress::{Manner, Progress};
use super::records::{Record, RunSummary};
use super::settings;
use super::terminal::{say_json, say_line};

/// Maximum number of shards or batches listed in a line of the summary.
const HELD_SHOWN: usize = 5;

pub(crate) fn run(arguments: &RunArguments) -> Result<Exit, Failure> {
    let (options, service) = settings::run(arguments)?;
    let manner = Manner::choose(arguments.quiet, arguments.json);
    let progress = Arc::new(Progress::new(manner));
    let outputs = settings::outputs(&arguments.output);
    settings::spare_key(arguments.service.api_key_file.as_deref(), &outputs, options.input.report.as_deref())?;
    outputs.check(&options)?;
    // Threads that still read the input must not hold up an interrupted program.
    let ended = until_interrupted(Duration::ZERO, async |stop| {
        let run = Run::open(options, progress.clone(), stop).await?;
        service.execute(run, outputs).await
    });
    progress.finish();
    let summary = ended?;
    if manner == Manner::Json {
        say_json(Record::Summary(RunSummary::from(&summary)));
    } else if manner != Manner::Quiet {
        for line in describe(&summary) {
            say_line(&line);
        }
    }
    Ok(exit_of(&summary))
}

/// Works on a runtime of its own until the end, or until a signal stops it. Its threads are then given `patience` to
/// end what they are at.
pub(crate) fn until_interrupted<T>(
    patience: Duration,
    work: impl AsyncFnOnce(CancellationToken) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let terminated = Arc::new(AtomicBool::new(false));
        tokio::spawn(stop_on_signals(stop.clone(), terminated.clone()));
        match Box::pin(work(stop)).await {
            Err(Failure::Run(Error::Interrupted)) if terminated.load(Ordering::Relaxed) => Err(Failure::Terminated),
            ended => ended,
        }
    });
    runtime.shutdown_timeout(patience);
    ended
}

/// The first signal stops the work, and a run can be resumed; the second ends the process immediately.
#[expect(clippy::exit, reason = "a second Ctrl-C means now")]
async fn stop_on_signals(stop: CancellationToken, terminated: Arc<AtomicBool>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        }
    };
    terminated.store(next().await == Exit::Terminated, Ordering::Relaxed);
    stop.cancel();
    std::process::exit(next().await as i32);
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|source| {
        let error = batchline::storage::durable::FileError { action: "start threads in", path: ".".into(), source };
        Failure::Run(error.into())
    })
}

fn exit_of(summary: &Summary) -> Exit {
    if !summary.held_shards.is_empty() || !summary.report.surplus_batches.is_empty() {
        Exit::Held
    } else if summary.is_complete() {
        Exit::Success
    } else {
        Exit::Incomplete
    }
}

fn describe(summary: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    let mut parts =
        vec![plural(summary.report.outcomes.outputs, "output"), plural(summary.report.outcomes.errors, "error")];
    parts.push(format!("{} missing", count(summary.report.outcomes.missing)));
    for (number, what) in [(summary.report.invalid, "invalid and skipped"), (summary.held, "on hold")] {
        if number > 0 {
            parts.push(format!("{} {what}", count(number)));
        }
    }
    lines.push(format!("{}: {}", plural(summary.lines, "request"), parts.join(", ")));
    for (kind, number) in &summary.report.errors_by_kind {
        lines.push(format!("  {} × {kind}", count(*number)));
    }
    if !summary.report.sent_again.is_empty() {
        let reasons: Vec<String> =
            summary.report.sent_again.iter().map(|(reason, number)| format!("{} × {reason}", count(*number))).collect();
        lines.push(format!("sent again: {}", reasons.join(", ")));
    }
    if summary.report.recognised > 0 {
        lines.push(recognised(summary.report.recognised));
    }
    lines.extend(describe_aside(&summary.report));
    let unsound = match summary.report.batches_unsound {
        0 => String::new(),
        number => format!(", {number} of them not completed"),
    };
    lines.push(format!(
        "{}{unsound}; {} prompt + {} completion tokens; {} written in {}",
        plural(summary.report.batches as u64, "batch"),
        count(summary.report.prompt_tokens),
        count(summary.report.completion_tokens),
        size(summary.bytes),
        seconds(summary.seconds)
    ));
    lines.push(format!("times: {}", phases(&summary.report.phase_seconds)));
    for reason in [
        HeldReason::UnresolvedSubmission,
        HeldReason::LostBatch,
        HeldReason::IncompleteAnswer,
        HeldReason::NotSubmitted,
    ] {
        lines.extend(describe_held(summary, reason));
    }
    lines.extend(describe_surplus(&summary.report));
    lines
}

/// The line about replies that are not in the output.
fn describe_aside(report: &Report) -> Option<String> {
    let mut aside = Vec::new();
    for (number, what) in [
        (report.duplicates, "duplicate"),
        (report.conflicts, "in conflict"),
        (report.unknown, "unknown"),
        (report.unreadable, "unreadable"),
    ] {
        if number > 0 {
            aside.push(format!("{} {what}", count(number)));
        }
    }
    let replies = report.directory.join("replies");
    (!aside.is_empty()).then(|| format!("replies set aside: {} (kept in {})", aside.join(", "), Name(&replies)))
}

/// The line about batches that do not work for the run.
fn describe_surplus(report: &Report) -> Option<String> {
    let shown: Vec<&str> = report.surplus_batches.iter().take(HELD_SHOWN).map(String::as_str).collect();
    let more = if report.surplus_batches.len() > HELD_SHOWN { ", …" } else { "" };
    (!shown.is_empty()).then(|| {
        format!(
            "duplicate batches: {} ({}{more}) on files of this run, possibly paid for twice; `batchline status {}` explains",
            plural(report.surplus_batches.len() as u64, "batch"),
            shown.join(", "),
            Name(&report.directory)
        )
    })
}

/// The line about the shards that are on hold for a reason, with its remedy.
fn describe_held(summary: &Summary, reason: HeldReason) -> Option<String> {
    let held: Vec<u32> =
        summary.held_shards.iter().filter(|held| held.reason == reason).map(|held| held.shard).collect();
    let shown: Vec<String> = held.iter().take(HELD_SHOWN).map(ToString::to_string).collect();
    let more = if held.len() > HELD_SHOWN { ", …" } else { "" };
    (!held.is_empty()).then(|| {
        format!(
            "on hold: {} ({}{more}): {}; `batchline status {}` explains. {}",
            plural(held.len() as u64, "shard"),
            shown.join(", "),
            reason.words(),
            Name(&summary.report.directory),
            reason.remedy(&summary.report.directory)
        )
    })
}
