//! Turns the command line and the environment into the library's options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use batchline::dialect::provider::Host;
use batchline::dialect::providers::{PROVIDERS, default_provider, provider_speaking};
use batchline::input::check::LineLimits;
use batchline::input::scan::ScanOptions;
use batchline::input::source::Input;
use batchline::model::shard::ShardLimits;
use batchline::remote::online::{CONCURRENCY, UpstreamOptions};
use batchline::remote::{Address, Provider};
use batchline::run::offline::OfflineOptions;
use batchline::run::options::{self, MEMORY_SHARE, line_limits};
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

/// The number of threads; by default, one per core.
pub(crate) fn threads(typed: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    typed.map_or_else(cores, usize::from)
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
    let by_default = OfflineOptions::new([""; 0], provider);
    Ok(OfflineOptions {
        inputs: inputs(input),
        scan: ScanOptions {
            line: LineLimits { assign_ids: input.assign_ids, ..line_limits(provider, endpoint, limits) },
            shard: limits,
            threads: threads(input.threads),
            memory_bytes: bytes(input.memory) / MEMORY_SHARE,
            skip_invalid: shard.is_some_and(|shard| shard.skip_invalid),
            ..by_default.scan
        },
        report: defects.report.as_deref().map(target),
        max_defects: defects.max_defects,
        allow_empty: input.allow_empty,
        ..by_default
    })
}

/// The options of a run, and the service that answers it.
pub(crate) fn run(arguments: &RunArguments) -> Result<(Options, Service), Failure> {
    let provider = chosen(&arguments.input)?;
    let endpoint = endpoint(provider, &arguments.input)?;
    let shard = shard_limits(provider, endpoint, Some(&arguments.shard))?;
    let service = Service::choose(provider, &arguments.service)?.with_online_options(arguments)?;
    let is_ours = provider.host != Host::Remote;
    let by_default = Options::new([""; 0], provider);
    let options = Options {
        inputs: inputs(&arguments.input),
        places: run_places(arguments)?,
        directory: arguments.runs.run_dir.clone(),
        service: service.identity(),
        redactor: service.redactor(),
        endpoint: endpoint.to_owned(),
        completion_window: arguments.completion_window.clone().unwrap_or(by_default.completion_window),
        line: LineLimits { assign_ids: arguments.input.assign_ids, ..line_limits(provider, endpoint, shard) },
        shard,
        on_earlier: if arguments.runs.yes { OnEarlier::SendAll } else { OnEarlier::Ask },
        skip_invalid: arguments.shard.skip_invalid,
        allow_empty: arguments.input.allow_empty,
        report: arguments.defects.report.as_deref().map(target),
        max_defects: arguments.defects.max_defects,
        threads: threads(arguments.input.threads),
        memory_bytes: bytes(arguments.input.memory),
        uploads: usize::from(arguments.uploads),
        poll_interval: arguments.poll_interval.unwrap_or(by_default.poll_interval),
        on_ambiguous: arguments.on_ambiguous.unwrap_or(if is_ours {
            OnAmbiguous::RetryAfter(LOCAL_SETTLE)
        } else {
            by_default.on_ambiguous
        }),
        settle: arguments.settle.unwrap_or(by_default.settle),
        max_in_flight_batches: arguments.max_in_flight_batches.or(by_default.max_in_flight_batches),
        rounds: arguments.rounds,
        delete_remote: arguments.delete_remote,
    };
    Ok((options, service))
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

pub(crate) fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
