//! `batchline providers`.

use batchline::dialect::providers::PROVIDERS;
use batchline::remote::{Limits, Provider, ReplyShape};

use super::args::ProvidersArguments;
use super::exit::{Exit, Failure};
use super::numbers::{count, plural, size};
use super::records::{ProviderRow, Record};
use super::terminal::{print, print_json, say, say_line};

pub(crate) fn providers(arguments: &ProvidersArguments) -> Result<Exit, Failure> {
    if arguments.json {
        PROVIDERS.iter().try_for_each(|row| print_json(record(row)))?;
        return Ok(Exit::Success);
    }
    if arguments.markdown {
        return markdown();
    }
    let columns = |cells: [&str; 7]| {
        let [name, dialect, requests, bytes, window, key, confidence] = cells;
        format!("{name:<13} {dialect:<9} {requests:>9} {bytes:>9}  {window:<7} {key:<22} {confidence}")
    };
    print(&columns(["provider", "dialect", "requests", "bytes", "window", "key", "proven"]))?;
    for row in PROVIDERS {
        let (requests, bytes) = (count(row.limits.shard_requests), size(row.limits.shard_bytes));
        let (window, confidence) = (row.completion_window, row.confidence.to_string());
        print(&columns([row.name, row.dialect.name(), &requests, &bytes, window, row.key_variable, &confidence]))?;
        let place = if row.base_url.is_empty() { "requires --base-url" } else { row.base_url };
        print(&format!("{:13} {place}: {}", "", row.source_note))?;
    }
    say_line("");
    say!(
        "tested: whole runs in the tests of this program; documented: official docs or SDK source; reported: others' live use; \
         unverified: something that a run depends on is a guess"
    );
    Ok(Exit::Success)
}

/// The table of the README.
fn markdown() -> Result<Exit, Failure> {
    print("| provider | dialect | base URL | key | in one batch | proven | by what, and what is a guess |")?;
    print("| --- | --- | --- | --- | --- | --- | --- |")?;
    for Provider { name, dialect, base_url, key_variable, limits, confidence, source_note, .. } in PROVIDERS {
        let base_url = if base_url.is_empty() { "`--base-url`".to_owned() } else { format!("`{base_url}`") };
        let (dialect, requests) = (dialect.name(), plural(limits.shard_requests, "request"));
        let bytes = size(limits.shard_bytes);
        print(&format!(
            "| `{name}` | {dialect} | {base_url} | `{key_variable}` | {requests}, {bytes} | {confidence} | {source_note} |"
        ))?;
    }
    Ok(Exit::Success)
}

fn record(row: &'static Provider) -> Record<'static> {
    let Limits { shard_requests, shard_bytes, line_bytes, custom_id_characters, embedding_inputs, batches_in_flight } =
        row.limits;
    Record::Provider(ProviderRow {
        name: row.name,
        dialect: row.dialect.name(),
        base_url: row.base_url,
        base_url_variable: row.base_url_variable,
        key_variable: row.key_variable,
        key_required: row.key_required,
        auth: row.auth.to_string(),
        purpose: row.purpose,
        endpoints: row.endpoints,
        completion_window: row.completion_window,
        metadata: row.metadata,
        flat_replies: row.replies == ReplyShape::Flat,
        shard_requests,
        shard_bytes,
        line_bytes,
        custom_id_characters,
        embedding_inputs,
        batches_in_flight,
        proven: row.confidence.to_string(),
        evidence: row.source_note,
    })
}
