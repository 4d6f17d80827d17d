//! The commands that change what the next `batchline run` does: `retry` and `doctor`.

use batchline::model::shown::Name;
use batchline::run::doctor::{self, Remedy};
use batchline::run::inspect::{self, Decision};

use super::args::{DoctorArguments, RetryArguments};
use super::exit::{Exit, Failure};
use super::inspect::{Purpose, find};
use super::numbers::plural;
use super::records::Record;
use super::terminal::{print, print_json, say, say_line};

pub(crate) fn retry(arguments: &RetryArguments) -> Result<Exit, Failure> {
    let run = find(arguments.run.as_deref(), Purpose::Change)?;
    let decided = inspect::retry(&run, decision(arguments))?;
    if arguments.json {
        print_json(Record::Retry(decided))?;
        return Ok(Exit::Success);
    }
    if decided.requests > 0 {
        let (requests, shards) = (plural(decided.requests, "request"), plural(decided.shards, "shard"));
        print(&format!("{requests} of {shards} will be sent again"))?;
    }
    if decided.submissions > 0 {
        print(&format!("{} will be repeated", plural(decided.submissions, "unresolved submission")))?;
    }
    if decided.accepted > 0 {
        let shards = plural(decided.accepted, "incomplete shard");
        print(&format!("{shards} accepted as complete: {} missing", plural(decided.missing, "request")))?;
    }
    if decided.held > 0 {
        say!("{} still on hold: `batchline status` shows why and what to do", plural(decided.held, "shard"));
    }
    if decided.requests + decided.submissions + decided.accepted == 0 {
        say_line("nothing to retry");
    } else {
        say!("re-run the original command to send them: `batchline run …`");
    }
    Ok(Exit::Success)
}

fn decision(arguments: &RetryArguments) -> Decision {
    match (arguments.ambiguous, arguments.accept_incomplete) {
        (_, true) => Decision::AcceptIncomplete,
        (true, false) => Decision::SendAmbiguous,
        (false, false) => Decision::SendUnfinished,
    }
}

pub(crate) fn doctor(arguments: &DoctorArguments) -> Result<Exit, Failure> {
    let run = find(arguments.run.as_deref(), Purpose::Look)?;
    let findings = doctor::examine(&run, arguments.repair)?;
    for finding in &findings {
        if arguments.json {
            print_json(Record::Finding(finding))?;
            continue;
        }
        let of = finding.shard.map(|shard| format!("shard {shard}: ")).unwrap_or_default();
        let remedy = match (finding.remedy, arguments.repair) {
            (Remedy::Restore, _) => "cannot be repaired",
            (Remedy::LookAgain, true) => "the next run looks for its batch in the service's list",
            (Remedy::IndexAgain, true) => "the next run rebuilds it",
            (Remedy::DownloadAgain, true) => "the next run downloads it again",
            (_, false) => "--repair fixes it",
        };
        print(&format!("{of}{} ({remedy})", finding.what))?;
    }
    if findings.is_empty() && !arguments.json {
        print(&format!("{}: no problems found", Name(&run)))?;
    }
    Ok(if findings.is_empty() { Exit::Success } else { Exit::LocalState })
}
