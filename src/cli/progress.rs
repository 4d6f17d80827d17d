//! Progress: bars on a terminal, periodic plain lines elsewhere, JSON records on request. All on stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use batchline::model::shown::Name;
use batchline::results::merge::Merged;
use batchline::run::monitor::ShardCounts;
use batchline::run::{EarlierRun, Event, Monitor};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::asking::confirmed;
use super::numbers::{count, plural, size};
use super::records::{self, Message, Record, Started};
use super::terminal::{names, say_json, say_line};

/// Interval between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Interval between JSON progress records.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Only defects and warnings.
    Quiet,
    /// Progress bars.
    Bars,
    /// Periodic lines.
    Plain,
    /// JSON records.
    Json,
}

impl Manner {
    pub(crate) fn choose(quiet: bool, json: bool) -> Self {
        match (json, quiet, io::stderr().is_terminal()) {
            (true, ..) => Self::Json,
            (_, true, _) => Self::Quiet,
            (.., true) => Self::Bars,
            _ => Self::Plain,
        }
    }
}

/// The latest figures, and what was shown of them.
#[derive(Debug, Default)]
struct Standing {
    requests: u64,
    bytes: u64,
    upload_total: u64,
    uploaded: u64,
    downloaded: u64,
    shards: ShardCounts,
    merged: Merged,
    done_at_service: u64,
    said: Option<Instant>,
    last: String,
    last_record: Option<records::Progress>,
    bars: Vec<(&'static str, ProgressBar)>,
    /// The run has ended; later events come from interrupted transfers and are ignored.
    finished: bool,
}

/// Shows the events of the engine.
#[derive(Debug)]
pub(crate) struct Progress {
    manner: Manner,
    screen: MultiProgress,
    standing: Mutex<Standing>,
}

impl Progress {
    pub(crate) fn new(manner: Manner) -> Self {
        let target = if manner == Manner::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        // The first plain line appears after one interval.
        let standing = Standing { said: Some(Instant::now()), ..Standing::default() };
        Self { manner, screen: MultiProgress::with_draw_target(target), standing: Mutex::new(standing) }
    }

    /// Removes the bars; the summary follows.
    pub(crate) fn finish(&self) {
        let mut standing = self.standing();
        standing.finished = true;
        for (_, bar) in standing.bars.drain(..) {
            bar.finish_and_clear();
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a permanent line above the bars.
    fn say(&self, line: &str) {
        if self.manner == Manner::Bars {
            self.screen.suspend(|| say_line(line));
        } else {
            say_line(line);
        }
    }

    fn say_note(&self, text: &str) {
        self.say_remark("note", text, |message| Record::Note(Message { message }));
    }

    /// Prints a warning or a note, as text or as a record.
    fn say_remark(&self, kind: &str, text: &str, record: fn(&str) -> Record<'_>) {
        if self.manner == Manner::Json {
            say_json(record(text));
        } else {
            self.say(&format!("{kind}: {text}"));
        }
    }

    /// Updates the bar of that name; the first update creates it.
    fn bar(&self, standing: &mut Standing, name: &'static str, at: u64, total: u64, is_bytes: bool) {
        if self.manner != Manner::Bars {
            return;
        }
        let bar = if let Some((_, bar)) = standing.bars.iter().find(|(known, _)| *known == name) {
            bar.clone()
        } else {
            let amounts =
                if is_bytes { "{bytes} of {total_bytes}, {bytes_per_sec}" } else { "{human_pos} of {human_len}{msg}" };
            let style = ProgressStyle::with_template(&format!("{name:>9} {{bar:32}} {amounts}"));
            let bar = self.screen.add(ProgressBar::new(total));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            standing.bars.push((name, bar.clone()));
            bar
        };
        bar.set_length(total.max(at));
        bar.set_position(at);
        if name == "batches" {
            bar.set_message(describe(&standing.shards));
        }
        if at >= total && name == "checking" {
            bar.finish_and_clear();
            standing.bars.retain(|(known, _)| *known != name);
        }
    }

    /// Prints the progress as a plain line or a record, if the interval has passed and something has changed.
    fn say_standing(&self, standing: &mut Standing) {
        let interval = if self.manner == Manner::Json { JSON_INTERVAL } else { PLAIN_INTERVAL };
        if standing.said.is_some_and(|said| said.elapsed() < interval) {
            return;
        }
        let Standing { uploaded, upload_total, downloaded, shards, merged, .. } = standing;
        if self.manner == Manner::Json {
            let record = records::Progress {
                uploaded_bytes: *uploaded,
                upload_total_bytes: *upload_total,
                downloaded_bytes: *downloaded,
                shards: *shards,
                merged_lines: merged.lines(),
                requests_done_at_service: standing.done_at_service,
            };
            if standing.last_record.as_ref() != Some(&record) {
                standing.last_record = Some(record.clone());
                say_json(Record::Progress(record));
            }
        } else {
            let line = if *shards == ShardCounts::default() {
                // `merge`: no service is involved.
                match merged.lines() {
                    0 => format!("read {} of replies", size(*downloaded)),
                    lines => format!("merged {} lines", count(lines)),
                }
            } else {
                format!(
                    "shards: {}; uploaded {}, downloaded {}, merged {} of {} lines",
                    describe(shards).trim_start_matches(", "),
                    size(*uploaded),
                    size(*downloaded),
                    count(merged.lines()),
                    count(standing.requests)
                )
            };
            if line != standing.last {
                self.say(&line);
                standing.last = line;
            }
        }
        standing.said = Some(Instant::now());
    }

    fn started(&self, directory: &Path, (resumed, done): (bool, bool), standing: &mut Standing, shards: usize) {
        // The lines so far were about the check.
        standing.said = Some(Instant::now());
        let (requests, bytes) = (standing.requests, standing.bytes);
        match self.manner {
            Manner::Json => {
                let counts = (requests, shards as u64, bytes);
                say_json(Record::Started(Started::new(directory, counts, (resumed, done))));
            }
            Manner::Quiet => {}
            Manner::Bars | Manner::Plain => {
                let verb = match (resumed, done) {
                    (true, true) => "already complete:",
                    (true, false) => "resuming",
                    (false, _) => "starting",
                };
                let shards = plural(shards as u64, "shard");
                let requests = plural(requests, "request");
                self.say(&format!(
                    "{verb} {requests} in {shards} ({}), run directory {}",
                    size(bytes),
                    Name(directory)
                ));
            }
        }
    }
}

impl Monitor for Progress {
    fn sends_again(&self, earlier: &EarlierRun) -> bool {
        // With --json the reader is a program: do not ask.
        if self.manner == Manner::Json {
            return false;
        }
        let at_service = match earlier.at_service {
            0 => String::new(),
            number => format!(", and {} at the service", count(number)),
        };
        let text = format!(
            "an earlier run over {} has answers to {} of {}{at_service}; this run would send all {} again. Continue?",
            names(&earlier.inputs),
            count(earlier.answered),
            plural(earlier.requests, "request"),
            count(earlier.sends)
        );
        self.screen.suspend(|| confirmed(&text)).unwrap_or(false)
    }

    fn event(&self, event: Event<'_>) {
        let mut standing = self.standing();
        if standing.finished {
            return;
        }
        match event {
            Event::Defect(defect) if self.manner == Manner::Json => {
                say_json(Record::Defect(defect));
            }
            Event::Defect(defect) => self.say(&defect.to_string()),
            Event::Warning(incident) => {
                self.say_remark("warning", &incident.to_string(), |message| Record::Warning(Message { message }));
            }
            _ if self.manner == Manner::Quiet && !matches!(event, Event::Started { .. }) => {}
            Event::Note(note) => self.say_note(&note.to_string()),
            Event::Call(notice) => self.say_note(&notice.to_string()),
            Event::Started { directory, requests, shards, bytes, upload_bytes, resumed, done } => {
                standing.requests = requests;
                standing.bytes = bytes;
                standing.upload_total = upload_bytes;
                self.started(directory, (resumed, done), &mut standing, shards);
            }
            Event::Spooled { bytes } => self.bar(&mut standing, "reading", bytes, bytes, true),
            Event::Checked { bytes, total } => self.bar(&mut standing, "checking", bytes, total, true),
            moved => {
                self.take(&mut standing, moved);
                if self.manner != Manner::Bars {
                    self.say_standing(&mut standing);
                }
            }
        }
    }
}

impl Progress {
    /// Records a figure that has changed.
    fn take(&self, standing: &mut Standing, event: Event<'_>) {
        match event {
            Event::Uploaded { bytes } => {
                standing.uploaded = bytes;
                let total = standing.upload_total;
                self.bar(standing, "uploading", bytes, total, true);
            }
            Event::Downloaded { bytes } => {
                standing.downloaded = bytes;
                self.bar(standing, "fetching", bytes, bytes, true);
            }
            Event::Shards(counts) => {
                standing.shards = *counts;
                let (done, requests) = (standing.done_at_service, standing.requests);
                self.bar(standing, "batches", done, requests, false);
            }
            Event::Progress { done, .. } => {
                standing.done_at_service = done;
                let requests = standing.requests;
                self.bar(standing, "batches", done, requests, false);
            }
            Event::Merged(merged) => {
                standing.merged = *merged;
                let requests = standing.requests;
                self.bar(standing, "merging", merged.lines(), requests, false);
            }
            _ => {}
        }
    }
}

/// How many shards are in each state, without the empty states.
fn describe(shards: &ShardCounts) -> String {
    let mut text = String::new();
    for (number, state) in [
        (shards.waiting, "to upload"),
        (shards.uploaded, "to submit"),
        (shards.submitted, "in progress"),
        (shards.ended, "to download"),
        (shards.indexed, "done"),
        (shards.held, "on hold"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {state}", count(number as u64));
        }
    }
    text
}
