//! From what was typed, and the environment, to the library's options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use batchline::dialect::provider::Host;
use batchline::dialect::providers::{EMBEDDINGS, PROVIDERS, default_provider, hosted, provider_speaking};
use batchline::input::check::LineLimits;
use batchline::input::envelope::Envelope;
use batchline::input::scan::ScanOptions;
use batchline::input::source::Input;
use batchline::model::custom_id::IdHasher;
use batchline::model::shard::ShardLimits;
use batchline::remote::{Address, Provider, Token};
use batchline::run::error::Error;
use batchline::run::offline::OfflineOptions;
use batchline::run::options::{MEMORY_SHARE, ONLINE_PATIENCE};
use batchline::run::{OnAmbiguous, OnEarlier, OutputTarget, Outputs, RunOptions, RunPlaces, ServiceChoice};
use batchline::serve::{UpstreamOptions, upstream::CONCURRENCY};
use batchline::storage::user_files::{NamedFiles, Role, STDOUT};

use super::args::{
    DefectArguments, InputArguments, OutputArguments, RunArguments, ServeArguments, ServiceArguments, ShardArguments,
};
use super::exit::Failure;
use super::places;

/// The key of an OpenAI-compatible service, where it has no variable of its own.
const OPENAI_KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// The key of `serve`'s upstream.
const UPSTREAM_KEY_VARIABLE: &str = "BATCHLINE_UPSTREAM_KEY";

/// How long the local service's list is watched before a submission in doubt is repeated. It shows a batch as soon as it
/// exists, and a call cannot outlive the process that would have answered it.
const LOCAL_SETTLE: Duration = Duration::from_secs(1);

pub(crate) fn inputs(arguments: &InputArguments) -> Vec<Input> {
    let input = |path: &PathBuf| if path == Path::new("-") { Input::Stdin } else { Input::File(path.clone()) };
    if arguments.inputs.is_empty() { vec![Input::Stdin] } else { arguments.inputs.iter().map(input).collect() }
}

pub(crate) fn provider(name: &str) -> Result<&'static Provider, Failure> {
    batchline::dialect::providers::provider(name).ok_or_else(|| {
        let mut names: Vec<&str> = PROVIDERS.iter().map(|row| row.name).collect();
        names.dedup();
        Failure::Usage(format!("there is no provider {name:?}; known are {}", names.join(", ")))
    })
}

/// The provider that was named, in the dialect that was named; without a name, what speaks that dialect anywhere.
fn chosen(input: &InputArguments) -> Result<&'static Provider, Failure> {
    let Some(name) = &input.provider else {
        let unknown = || Failure::Usage("no provider speaks this dialect: name one with --provider".to_owned());
        return default_provider(input.dialect).ok_or_else(unknown);
    };
    let named = provider(name)?;
    let Some(dialect) = input.dialect else { return Ok(named) };
    provider_speaking(named.name, dialect).ok_or_else(|| {
        Failure::Usage(format!(
            "{name} speaks {}, not {}; for a service of your own leave --provider away",
            named.dialect.name(),
            dialect.name()
        ))
    })
}

/// Where replies go.
pub(crate) fn outputs(arguments: &OutputArguments) -> Outputs {
    let output = OutputTarget::File(target(arguments.output.as_deref().unwrap_or(Path::new("-"))));
    Outputs { output, errors: arguments.errors.as_deref().map(target), shape: arguments.shape }
}

/// The path of what is to be written, of which `-` is standard output.
pub(crate) fn target(typed: &Path) -> PathBuf {
    if typed == Path::new("-") { PathBuf::from(STDOUT) } else { typed.to_owned() }
}

/// The key is a file, too, that no output may replace.
pub(crate) fn spare_key(key: Option<&Path>, outputs: &Outputs, report: Option<&Path>) -> Result<(), Failure> {
    let Some(key) = key else { return Ok(()) };
    let mut files = NamedFiles::default();
    files.read(Role::Key, key)?;
    if let OutputTarget::File(path) = &outputs.output {
        files.write(Role::Output, path)?;
    }
    for (role, path) in [(Role::Errors, outputs.errors.as_deref()), (Role::Report, report)] {
        path.map_or(Ok(()), |path| files.write(role, path))?;
    }
    Ok(())
}

/// The endpoint that was named, if the provider has it.
fn endpoint(provider: &Provider, input: &InputArguments) -> Result<&'static str, Failure> {
    let Some(typed) = &input.endpoint else { return Ok(provider.endpoint()) };
    provider.endpoints.iter().copied().find(|known| known == typed).ok_or_else(|| {
        Failure::Usage(format!(
            "{} has no batches for {typed:?}; it has {}",
            provider.name,
            provider.endpoints.join(", ")
        ))
    })
}

/// That many threads, or one for each core.
pub(crate) fn threads(typed: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    typed.map_or_else(cores, usize::from)
}

/// The part of the memory that holds ids, and then reply files, in bytes.
pub(crate) fn share(memory: u64) -> usize {
    bytes(memory) / MEMORY_SHARE
}

/// What lines must keep to in a shard of that size: a line must fit it with its line end.
fn line_limits(
    provider: &Provider,
    endpoint: &'static str,
    shard: ShardLimits,
    assign_ids: bool,
) -> Result<LineLimits, Failure> {
    let envelope = Envelope::of(provider.line, provider.url_for(endpoint)).ok_or_else(|| {
        let what = format!("{} has lines with a URL that is not an endpoint", provider.name);
        Failure::Run(Error::Internal { what })
    })?;
    Ok(LineLimits {
        line_bytes: provider.limits.line_bytes.min(shard.bytes - 1),
        custom_id_characters: provider.limits.custom_id_characters as usize,
        envelope,
        assign_ids,
        inputs: shard.inputs,
    })
}

fn shard_limits(
    provider: &Provider,
    endpoint: &str,
    arguments: Option<&ShardArguments>,
) -> Result<ShardLimits, Failure> {
    let most = &provider.limits;
    let lower = |typed: Option<u64>, most: u64, option: &str| match typed {
        Some(typed) if typed > most => {
            Err(Failure::Usage(format!("{option} {typed} is more than the {most} that {} takes", provider.name)))
        }
        Some(typed) => Ok(typed),
        None => Ok(most),
    };
    let requests = lower(arguments.and_then(|typed| typed.shard_requests), most.shard_requests, "--shard-requests")?;
    let bytes = lower(arguments.and_then(|typed| typed.shard_bytes), most.shard_bytes, "--shard-bytes")?;
    let inputs = most.embedding_inputs.filter(|_| endpoint == EMBEDDINGS);
    Ok(ShardLimits { requests, bytes, inputs })
}

pub(crate) fn offline(
    input: &InputArguments,
    shard: Option<&ShardArguments>,
    defects: &DefectArguments,
) -> Result<OfflineOptions, Failure> {
    let provider = chosen(input)?;
    let endpoint = endpoint(provider, input)?;
    let limits = shard_limits(provider, endpoint, shard)?;
    let line = line_limits(provider, endpoint, limits, input.assign_ids)?;
    Ok(OfflineOptions {
        inputs: inputs(input),
        scan: ScanOptions {
            line,
            shard: limits,
            threads: threads(input.threads),
            memory_bytes: share(input.memory),
            ids: IdHasher::random(),
            skip_invalid: shard.is_some_and(|shard| shard.skip_invalid),
            scratch: PathBuf::new(),
        },
        scratch: std::env::temp_dir(),
        report: defects.report.as_deref().map(target),
        max_defects: defects.max_defects,
        allow_empty: input.allow_empty,
    })
}

pub(crate) fn run(arguments: &RunArguments) -> Result<RunOptions, Failure> {
    let provider = chosen(&arguments.input)?;
    let endpoint = endpoint(provider, &arguments.input)?;
    let shard = shard_limits(provider, endpoint, Some(&arguments.shard))?;
    let line = line_limits(provider, endpoint, shard, arguments.input.assign_ids)?;
    let is_ours = provider.host != Host::Remote;
    Ok(RunOptions {
        inputs: inputs(&arguments.input),
        places: run_places(arguments)?,
        directory: arguments.runs.run_dir.clone(),
        service: online_options(service(provider, &arguments.service)?, arguments)?,
        endpoint: endpoint.to_owned(),
        completion_window: arguments.completion_window.clone().unwrap_or_else(|| provider.completion_window.to_owned()),
        line,
        shard,
        on_earlier: if arguments.runs.yes { OnEarlier::SendAll } else { OnEarlier::Ask },
        skip_invalid: arguments.shard.skip_invalid,
        allow_empty: arguments.input.allow_empty,
        report: arguments.defects.report.as_deref().map(target),
        max_defects: arguments.defects.max_defects,
        threads: threads(arguments.input.threads),
        memory_bytes: bytes(arguments.input.memory),
        uploads: usize::from(arguments.uploads),
        poll_interval: arguments.poll_interval.unwrap_or(provider.poll_interval),
        on_ambiguous: arguments.on_ambiguous.unwrap_or(if is_ours {
            OnAmbiguous::RetryAfter(LOCAL_SETTLE)
        } else {
            OnAmbiguous::Hold
        }),
        settle: arguments.settle.unwrap_or(batchline::run::options::SETTLE),
        max_in_flight_batches: arguments.max_in_flight_batches.or(provider.limits.batches_in_flight),
        rounds: arguments.rounds,
        delete_remote: arguments.delete_remote,
    })
}

/// Where runs are. A run with a directory of its own can do without.
fn run_places(arguments: &RunArguments) -> Result<RunPlaces, Failure> {
    match (places::places(), &arguments.runs.run_dir) {
        (Err(_), Some(directory)) => Ok(RunPlaces { home: directory.clone(), others: Vec::new() }),
        (places, _) => places,
    }
}

/// The service and its key: from the options, else from the environment, else the provider's own.
pub(crate) fn service(provider: &'static Provider, arguments: &ServiceArguments) -> Result<ServiceChoice, Failure> {
    let typed = arguments.base_url.clone().or_else(|| variable(provider.base_url_variable));
    if provider.host == Host::BuiltIn && typed.is_none() {
        return Ok(ServiceChoice::BuiltIn { provider });
    }
    if typed.is_none() && provider.base_url.is_empty() {
        let hint = format!("name it: --base-url URL, or set {}", provider.base_url_variable);
        return Err(configuration(format!("{} has no address of its own", provider.name), Some(hint)));
    }
    let address = Address::parse(typed.as_deref().unwrap_or(provider.base_url))?;
    if provider.host == Host::Online {
        let token = online_token(&address, arguments.api_key_file.as_deref(), provider.key_variable)?;
        let (concurrency, patience) = (CONCURRENCY, ONLINE_PATIENCE);
        return Ok(ServiceChoice::Online { provider, address, token, concurrency, patience });
    }
    let token = match (&arguments.api_key_file, variable(provider.key_variable)) {
        (Some(path), _) => Some(Token::from_file(path)),
        (None, Some(value)) => Some(Token::new(&value)),
        // The local service wants a key, but any will do.
        (None, None) if provider.host == Host::BuiltIn => Some(Token::new(provider.name)),
        (None, None) => None,
    };
    let token = token.transpose().map_err(|error| configuration(error.to_string(), None))?;
    if token.is_none() && provider.key_required {
        let hint = format!(
            "set {} to your key, or try it without one: --provider {}",
            provider.key_variable,
            name_of(Host::BuiltIn)
        );
        return Err(configuration(format!("there is no API key for {}", provider.name), Some(hint)));
    }
    Ok(ServiceChoice::At { provider, address, token })
}

/// The name of the provider that is hosted so.
fn name_of(host: Host) -> &'static str {
    hosted(host).map_or("none", |row| row.name)
}

/// The service with the options that only one without a Batch API has.
fn online_options(mut service: ServiceChoice, arguments: &RunArguments) -> Result<ServiceChoice, Failure> {
    if let ServiceChoice::Online { concurrency, patience, .. } = &mut service {
        *concurrency = arguments.concurrency.map_or(*concurrency, usize::from);
        *patience = arguments.patience.unwrap_or(*patience);
        return Ok(service);
    }
    let typed = [("--concurrency", arguments.concurrency.is_some()), ("--patience", arguments.patience.is_some())];
    match typed.into_iter().find(|(_, is_typed)| *is_typed) {
        Some((option, _)) => Err(Failure::Usage(format!("{option} is for --provider {}", name_of(Host::Online)))),
        None => Ok(service),
    }
}

/// The upstream of `serve`, if there is one.
pub(crate) fn upstream(arguments: &ServeArguments) -> Result<Option<UpstreamOptions>, Failure> {
    let Some(url) = &arguments.upstream else { return Ok(None) };
    let address = Address::parse(url)?;
    let token = online_token(&address, arguments.upstream_key_file.as_deref(), UPSTREAM_KEY_VARIABLE)?;
    let concurrency = arguments.upstream_concurrency.map_or(CONCURRENCY, usize::from);
    Ok(Some(UpstreamOptions { concurrency, ..UpstreamOptions::new(address, token) }))
}

/// The key of a service that is asked directly: from a file, else from its variable, else OpenAI's, but that one only where it
/// can be sent: nobody who has it in the environment has asked for it to go to some server in the next room.
fn online_token(address: &Address, file: Option<&Path>, name: &str) -> Result<Option<Token>, Failure> {
    let openai = || variable(OPENAI_KEY_VARIABLE).filter(|_| address.is_https() || address.is_loopback());
    let token = match file {
        Some(path) => Some(Token::from_file(path)),
        None => variable(name).or_else(openai).map(|value| Token::new(&value)),
    };
    token.transpose().map_err(|error| configuration(error.to_string(), None))
}

fn configuration(what: String, hint: Option<String>) -> Failure {
    Failure::Run(Error::Configuration { what, hint })
}

/// The environment variables that a key may be in.
pub(crate) fn key_variables() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().map(|row| row.key_variable).chain([OPENAI_KEY_VARIABLE, UPSTREAM_KEY_VARIABLE])
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_name_every_endpoint_of_every_provider() {
        for row in PROVIDERS {
            let limits = shard_limits(row, row.endpoint(), None).unwrap();
            for endpoint in row.endpoints {
                let line = line_limits(row, endpoint, limits, false).unwrap();
                assert_eq!(Envelope::read(&line.envelope.to_string()), Some(line.envelope), "{}", row.name);
            }
        }
    }
}
