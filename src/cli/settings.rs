//! Turns the command line and the environment into the library's options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use batchline::dialect::provider::Host;
use batchline::dialect::providers::{PROVIDERS, default_provider, provider_speaking};
use batchline::input::check::LineLimits;
use batchline::input::source::Input;
use batchline::model::shard::ShardLimits;
use batchline::remote::online::{CONCURRENCY, UpstreamOptions};
use batchline::remote::{Address, Provider};
use batchline::run::offline::OfflineOptions;
use batchline::run::options::{self, BatchOptions, InputOptions, Resources, line_limits};
use batchline::run::{OnAmbiguous, OnEarlier, Options, OutputTarget, Outputs, RunPlaces};
use batchline::storage::user_files::{NamedFiles, Role, STDOUT};

use super::args::{DefectArguments, InputArguments, OutputArguments, RunArguments, ServeArguments, ShardArguments};
use super::exit::Failure;
use super::keys;
use super::places;
use super::services::Service;

/// How long the local service's list is watched before a submission with an unknown outcome is repeated. The list shows
/// a batch as soon as it exists, and a call cannot outlive the server process that would have answered it.
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

/// The provider of that name and dialect; without a name, the default provider of that dialect.
fn chosen(input: &InputArguments) -> Result<&'static Provider, Failure> {
    let Some(name) = &input.provider else {
        let unknown = || Failure::Usage("no default provider for this dialect: name one with --provider".to_owned());
        return default_provider(input.dialect).ok_or_else(unknown);
    };
    let named = provider(name)?;
    let Some(dialect) = input.dialect else { return Ok(named) };
    provider_speaking(named.name, dialect).ok_or_else(|| {
        Failure::Usage(format!(
            "{name} speaks {}, not {}; for your own service, omit --provider",
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

/// The path of a file to write; `-` is standard output.
pub(crate) fn target(typed: &Path) -> PathBuf {
    if typed == Path::new("-") { PathBuf::from(STDOUT) } else { typed.to_owned() }
}

/// Refuses outputs that would replace the file of the API key.
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

/// The endpoint of that name, if the provider has it; by default, the provider's first.
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

/// What may be used of this machine; by default, one thread per core.
pub(crate) fn resources(threads: Option<u16>, memory: u64) -> Resources {
    let by_default = Resources::default();
    let memory_bytes = usize::try_from(memory).unwrap_or(usize::MAX);
    Resources { threads: threads.map_or(by_default.threads, usize::from), memory_bytes }
}

/// The limits of a shard: those from the command line, if within the provider's, else the usual ones.
fn shard_limits(
    provider: &Provider,
    endpoint: &str,
    arguments: Option<&ShardArguments>,
) -> Result<ShardLimits, Failure> {
    let (most, usual) = (options::shard_limits(provider, endpoint), options::usual_shard(provider, endpoint));
    let lower = |typed: Option<u64>, most: u64, usual: u64, option: &str| match typed {
        Some(typed) if typed > most => {
            Err(Failure::Usage(format!("{option} {typed} exceeds the limit of {}, {most}", provider.name)))
        }
        Some(typed) => Ok(typed),
        None => Ok(usual),
    };
    let requests =
        lower(arguments.and_then(|typed| typed.shard_requests), most.requests, usual.requests, "--shard-requests")?;
    let bytes = lower(arguments.and_then(|typed| typed.shard_bytes), most.bytes, usual.bytes, "--shard-bytes")?;
    Ok(ShardLimits { requests, bytes, ..most })
}

pub(crate) fn offline(
    input: &InputArguments,
    shard: Option<&ShardArguments>,
    defects: &DefectArguments,
) -> Result<OfflineOptions, Failure> {
    let provider = chosen(input)?;
    let endpoint = endpoint(provider, input)?;
    let limits = shard_limits(provider, endpoint, shard)?;
    let (resources, input) =
        (resources(input.threads, input.memory), input_options(input, (provider, endpoint, limits), shard, defects));
    Ok(OfflineOptions { input, resources, ..OfflineOptions::new([""; 0], provider) })
}

/// What is read, and which of its lines are accepted.
fn input_options(
    input: &InputArguments,
    (provider, endpoint, limits): (&'static Provider, &'static str, ShardLimits),
    shard: Option<&ShardArguments>,
    defects: &DefectArguments,
) -> InputOptions {
    InputOptions {
        inputs: inputs(input),
        line: LineLimits { assign_ids: input.assign_ids, ..line_limits(provider, endpoint, limits) },
        shard: limits,
        skip_invalid: shard.is_some_and(|shard| shard.skip_invalid),
        allow_empty: input.allow_empty,
        report: defects.report.as_deref().map(target),
        max_defects: defects.max_defects,
    }
}

/// The options of a run, and the service that answers it.
pub(crate) fn run(arguments: &RunArguments) -> Result<(Options, Service), Failure> {
    let provider = chosen(&arguments.input)?;
    let endpoint = endpoint(provider, &arguments.input)?;
    let shard = shard_limits(provider, endpoint, Some(&arguments.shard))?;
    let service = Service::choose(provider, &arguments.service)?.with_online_options(arguments)?;
    let mut options = Options::new([""; 0], provider);
    options.input =
        input_options(&arguments.input, (provider, endpoint, shard), Some(&arguments.shard), &arguments.defects);
    options.places = run_places(arguments)?;
    options.directory.clone_from(&arguments.runs.run_dir);
    options.service.identity = service.identity();
    options.service.redactor = service.redactor();
    endpoint.clone_into(&mut options.service.endpoint);
    if let Some(window) = &arguments.completion_window {
        options.service.completion_window.clone_from(window);
    }
    options.batches = batch_options(arguments, provider);
    options.resources = resources(arguments.input.threads, arguments.input.memory);
    Ok((options, service))
}

/// How batches are submitted and followed.
fn batch_options(arguments: &RunArguments, provider: &'static Provider) -> BatchOptions {
    let by_default = BatchOptions::new(provider);
    let on_ambiguous = match provider.host {
        Host::Remote => by_default.on_ambiguous,
        _ => OnAmbiguous::RetryAfter(LOCAL_SETTLE),
    };
    BatchOptions {
        uploads: usize::from(arguments.uploads),
        max_in_flight: arguments.max_in_flight_batches.or(by_default.max_in_flight),
        poll_interval: arguments.poll_interval.unwrap_or(by_default.poll_interval),
        on_earlier: if arguments.runs.yes { OnEarlier::SendAll } else { by_default.on_earlier },
        on_ambiguous: arguments.on_ambiguous.unwrap_or(on_ambiguous),
        settle: arguments.settle.unwrap_or(by_default.settle),
        rounds: arguments.rounds,
        delete_remote: arguments.delete_remote,
    }
}

/// Where runs are kept; not required with --run-dir.
fn run_places(arguments: &RunArguments) -> Result<RunPlaces, Failure> {
    match (places::places(), &arguments.runs.run_dir) {
        (Err(_), Some(directory)) => Ok(RunPlaces { home: directory.clone(), others: Vec::new() }),
        (places, _) => places,
    }
}

/// The upstream of `serve`, if any.
pub(crate) fn upstream(arguments: &ServeArguments) -> Result<Option<UpstreamOptions>, Failure> {
    let Some(url) = &arguments.upstream else { return Ok(None) };
    let address = Address::parse(url)?;
    let token = keys::online_token(&address, arguments.upstream_key_file.as_deref(), keys::UPSTREAM_KEY_VARIABLE)?;
    let concurrency = arguments.upstream_concurrency.map_or(CONCURRENCY, usize::from);
    Ok(Some(UpstreamOptions { concurrency, ..UpstreamOptions::new(address, token) }))
}
