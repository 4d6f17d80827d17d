//! The commands that need no service: `check`, `plan`, `split`, `merge`, `generate`.

use std::io::BufWriter;
use std::path::Path;

use batchline::generate::{Amount, GenerateOptions};
use batchline::input::scan::Scan;
use batchline::model::shard::Shard;
use batchline::model::shown::Name;
use batchline::run::error::Error;
use batchline::run::offline::{self, MergedReplies};
use batchline::storage::durable::FileError;
use batchline::storage::user_files::{NamedFiles, Role, open_output};

use super::args::{CheckArguments, GenerateArguments, MergeArguments, PlanArguments, SplitArguments};
use super::exit::{Exit, Failure};
use super::numbers::{count, plural, recognised, size};
use super::progress::{Manner, Progress};
use super::records::{CheckTotals, MergeTotals, PlanTotals, PlannedShard, Record};
use super::settings;
use super::terminal::{print, print_json, print_path, say, say_json};

/// Average bytes per token of English prose and JSON. The output labels the result as an estimate.
const BYTES_PER_TOKEN: u64 = 4;

/// Size of the write buffer in bytes.
const WRITE_BYTES: usize = 256 * 1024;

pub(crate) fn check(arguments: &CheckArguments) -> Result<Exit, Failure> {
    let options = settings::offline(&arguments.input, None, &arguments.defects)?;
    let progress = Progress::new(Manner::choose(arguments.quiet, arguments.json));
    let scanned = offline::check(&options, &progress);
    progress.finish();
    let Scan { lines, blank, requests, defects, bytes, .. } = scanned?.scan;
    if arguments.json {
        print_json(Record::Check(CheckTotals { lines, blank, requests, defects, bytes }))?;
    } else if !arguments.quiet {
        let shown = arguments.defects.max_defects;
        if defects > shown {
            say!("… and {} more; --report FILE writes all of them", count(defects - shown));
        }
        let blank = if blank > 0 { format!(", {} skipped", plural(blank, "blank line")) } else { String::new() };
        print(&format!(
            "{}, {} ({}){blank}",
            plural(requests, "valid request"),
            plural(defects, "defect"),
            size(bytes)
        ))?;
    }
    Ok(if defects > 0 { Exit::Defects } else { Exit::Success })
}

pub(crate) fn plan(arguments: &PlanArguments) -> Result<Exit, Failure> {
    let options = settings::offline(&arguments.input, Some(&arguments.shard), &arguments.defects)?;
    let progress = Progress::new(Manner::choose(false, arguments.json));
    let scanned = offline::plan(&options, &progress);
    progress.finish();
    let scan = scanned?.scan;
    if !arguments.json {
        print("shard  requests         bytes       ~tokens  cut by    model")?;
    }
    for shard in &scan.shards {
        let Shard { number, model, requests, bytes, cut, .. } = shard;
        let (tokens, cut) = (bytes / BYTES_PER_TOKEN, cut.name());
        if arguments.json {
            print_json(Record::Shard(PlannedShard::of(shard, tokens)))?;
        } else {
            let (requests, bytes, tokens) = (count(*requests), count(*bytes), count(tokens));
            print(&format!("{number:>5}  {requests:>8}  {bytes:>12}  {tokens:>12}  {cut:<8}  {model}"))?;
        }
    }
    let bytes: u64 = scan.shards.iter().map(|shard| shard.bytes).sum();
    let limits = options.input.shard;
    if arguments.json {
        print_json(Record::Plan(PlanTotals {
            shards: scan.shards.len() as u64,
            requests: scan.requests,
            invalid: scan.defects,
            bytes,
            estimated_tokens: bytes / BYTES_PER_TOKEN,
            shard_requests_max: limits.requests,
            shard_bytes_max: limits.bytes,
            shard_inputs_max: limits.inputs,
        }))?;
        return Ok(Exit::Success);
    }
    print(&format!(
        "{}, {}, {}, about {} tokens (estimated: {BYTES_PER_TOKEN} bytes each)",
        plural(scan.shards.len() as u64, "shard"),
        plural(scan.requests, "request"),
        size(bytes),
        count(bytes / BYTES_PER_TOKEN)
    ))?;
    let inputs = limits.inputs.map_or(String::new(), |inputs| format!(", {} inputs", count(inputs)));
    print(&format!(
        "limits: {} requests{inputs} and {} a shard, one model a shard",
        count(limits.requests),
        size(limits.bytes)
    ))?;
    Ok(Exit::Success)
}

pub(crate) fn split(arguments: &SplitArguments) -> Result<Exit, Failure> {
    let options = settings::offline(&arguments.input, Some(&arguments.shard), &arguments.defects)?;
    let progress = Progress::new(Manner::choose(false, false));
    let paths = offline::split(&options, &arguments.directory, arguments.force, &progress);
    progress.finish();
    for path in paths? {
        print_path(&path)?;
    }
    Ok(Exit::Success)
}

pub(crate) fn merge(arguments: &MergeArguments) -> Result<Exit, Failure> {
    let mut options = settings::offline(&arguments.input, None, &arguments.defects)?;
    options.input.skip_invalid = arguments.skip_invalid;
    let manner = Manner::choose(false, arguments.json);
    let progress = Progress::new(manner);
    let outputs = settings::outputs(&arguments.output);
    let merged = offline::merge(&options, &arguments.replies, &arguments.aside, outputs, &progress);
    progress.finish();
    let replies = merged?;
    let MergedReplies { merged, indexed, aside } = &replies;
    if arguments.json {
        say_json(Record::Merge(MergeTotals::from(&replies)));
    } else {
        say!(
            "{}: {}, {}, {} missing, {} invalid; replies: {}, {} duplicate, {} in conflict, {} unknown, {} unreadable",
            plural(merged.lines(), "request"),
            plural(merged.outputs, "output"),
            plural(merged.errors, "error"),
            count(merged.missing),
            count(merged.invalid),
            count(indexed.replies),
            count(indexed.duplicates),
            count(indexed.conflicts),
            count(indexed.unknown),
            count(indexed.unreadable)
        );
        if indexed.recognised > 0 {
            say!("{}", recognised(indexed.recognised));
        }
        for path in aside {
            say!("set aside: {}", Name(path));
        }
    }
    let complete = merged.outputs == merged.lines() && indexed.conflicts == 0;
    Ok(if complete { Exit::Success } else { Exit::Incomplete })
}

pub(crate) fn generate(arguments: &GenerateArguments) -> Result<Exit, Failure> {
    let amount = match (arguments.requests, arguments.bytes) {
        (Some(requests), _) => Amount::Requests(requests),
        (None, bytes) => Amount::Bytes(bytes.unwrap_or_default()),
    };
    let mut options = GenerateOptions { amount, seed: arguments.seed, ..GenerateOptions::default() };
    if !arguments.model.is_empty() {
        options.models.clone_from(&arguments.model);
    }
    let path = settings::target(arguments.output.as_deref().unwrap_or(Path::new("-")));
    let mut files = NamedFiles::default();
    if arguments.force {
        files.write(Role::Output, &path)?;
    } else {
        files.write_new(Role::Output, &path)?;
    }
    let failed = |error| Failure::Run(Error::File(FileError::on("write", &path)(error)));
    let mut file = BufWriter::with_capacity(WRITE_BYTES, open_output(&path)?);
    let generated = batchline::generate::generate(&options, &mut file).map_err(failed)?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.finish()?;
    say!("{}, {}", plural(generated.requests, "request"), size(generated.bytes));
    Ok(Exit::Success)
}
