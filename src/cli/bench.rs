//! `batchline bench`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use batchline::bench::{BenchOptions, Measured, bench as measure};
use batchline::dialect::provider::Host;
use batchline::dialect::providers::hosted;
use batchline::generate::Amount;
use batchline::remote::{Address, Token};
use batchline::run::directory::Incoming;
use batchline::run::error::Error;
use batchline::storage::durable::FileError;

use super::args::BenchArguments;
use super::exit::{Exit, Failure};
use super::keys;
use super::numbers::count;
use super::records::{Record, Stage};
use super::running::until_interrupted;
use super::settings;
use super::terminal::{print, print_json, say};

/// How long threads that were interrupted are waited for: what they write is removed afterwards.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn bench(arguments: &BenchArguments) -> Result<Exit, Failure> {
    let directory = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let resources = settings::resources(arguments.threads, arguments.memory);
    let amount = arguments.requests.map_or(Amount::Bytes(arguments.bytes), Amount::Requests);
    let provider = hosted(Host::BuiltIn).ok_or_else(|| Failure::Usage("there is no built-in service".to_owned()))?;
    let number = arguments.runs;
    // Those of a run that failed are removed below, when no thread writes into them any longer.
    let mut places = None;
    let runs = until_interrupted(PATIENCE, async |stop| {
        let mut runs = Vec::new();
        for run in 1..=number {
            // A new service for each run: one that has seen the shards before would reject them.
            let [place, served] = places.insert([Incoming::create(&directory)?, Incoming::create(&directory)?]);
            let service = Service::start(served)?;
            let options = BenchOptions {
                directory: place.path().to_owned(),
                amount,
                models: arguments.model.clone(),
                resources,
                provider,
                service: Address::parse(&service.base_url)?,
                token: Token::new(provider.name).map_err(|error| Failure::Usage(error.to_string()))?,
            };
            let (stages, measured) = mpsc::channel();
            let tell = move |measured: Measured| {
                say!("run {run} of {number}: {} {:.2} s", measured.stage, measured.seconds);
                // Received below, when all are there.
                let _ = stages.send(measured);
            };
            measure(options, stop.clone(), Arc::new(tell)).await?;
            runs.push(measured.try_iter().collect());
            drop(service);
            places = None;
        }
        Ok::<Vec<Vec<Measured>>, Failure>(runs)
    });
    drop(places);
    let runs = runs?;
    show(&medians(&runs), arguments)
}

/// For each stage, the median of its times and the maximum of its peaks.
fn medians(runs: &[Vec<Measured>]) -> Vec<Measured> {
    let stages = runs.first().map_or(0, Vec::len);
    let median = |stage: usize, of: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(|run| of(&run[stage])).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let of_stage = |stage: usize| Measured {
        seconds: median(stage, |measured| measured.seconds),
        cpu_seconds: median(stage, |measured| measured.cpu_seconds),
        peak_bytes: runs.iter().filter_map(|run| run[stage].peak_bytes).max(),
        ..runs[0][stage]
    };
    (0..stages).map(of_stage).collect()
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn show(stages: &[Measured], arguments: &BenchArguments) -> Result<Exit, Failure> {
    let gigabytes = |measured: &Measured| measured.bytes as f64 / 1e9;
    let speed = |measured: &Measured| gigabytes(measured) / measured.seconds;
    if !arguments.json {
        print("stage        GB/s  requests/s  CPU-s/GB  peak MiB  time, as a multiple of the floor's")?;
    }
    for measured in stages {
        let floor = measured.floor.and_then(|floor| stages.iter().find(|other| other.stage == floor));
        let ratio = floor.map(|floor| speed(floor) / speed(measured));
        let (cpu, peak) = (measured.cpu_seconds / gigabytes(measured), measured.peak_bytes);
        let rate = measured.requests as f64 / measured.seconds;
        if arguments.json {
            print_json(Record::Stage(Stage {
                measured,
                gigabytes_per_second: speed(measured),
                cpu_seconds_per_gigabyte: cpu,
                times_floor: ratio,
            }))?;
            continue;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of requests")]
        let rate = if measured.requests > 0 { count(rate as u64) } else { "-".to_owned() };
        let peak = peak.map_or("-".to_owned(), |peak| count(peak >> 20));
        let ratio = match (ratio, measured.floor) {
            (Some(ratio), Some(floor)) => format!("{ratio:.2} × {floor}"),
            _ => "floor".to_owned(),
        };
        let stage = measured.stage;
        print(&format!("{stage:<9} {:>7.2}  {rate:>10}  {cpu:>8.2}  {peak:>8}  {ratio}", speed(measured)))?;
    }
    Ok(Exit::Success)
}

/// The local service in a separate process, so that its work is not measured. It exits when its standard input is
/// closed.
struct Service {
    child: Child,
    base_url: String,
    stdin: Option<ChildStdin>,
}

impl Service {
    fn start(place: &Incoming) -> Result<Self, Failure> {
        let failed = |source| {
            Failure::Run(Error::File(FileError {
                action: "start the local service in",
                path: place.path().to_owned(),
                source,
            }))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--batch-time", "0ms", "--until-stdin-ends", "--directory"]);
        command.arg(place.path().join("service"));
        // It needs no key, so none is passed on.
        for variable in keys::key_variables() {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut service = Self { child, base_url: String::new(), stdin };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        }
        line.trim().clone_into(&mut service.base_url);
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It exits by itself now; without waiting, its directory would be removed while it is still using it.
        let _ = self.child.wait();
    }
}
