//! `batchline serve` as a child process, and what a service has written down about its calls and its bill.

use std::path::{Path, PathBuf};

use batchline::dialect::{Dialect, OPENAI, TOGETHER};
use batchline::serve::request_digest;
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Place, Running, wait_until};
use crate::requests::{lines, replies_in};

/// The dialects that `batchline serve` speaks.
pub(crate) const DIALECTS: [&'static dyn Dialect; 2] = [TOGETHER, OPENAI];

/// A service in a process of its own, on a free port. Dropped, it is killed.
pub(crate) struct Service {
    dialect: &'static dyn Dialect,
    running: Running,
    base_url: String,
    place: Place,
}

impl Service {
    /// Starts one that answers at once, in Together's dialect.
    pub(crate) fn start() -> Self {
        Self::start_with("--batch-time 0ms")
    }

    /// Starts one in Together's dialect.
    pub(crate) fn start_with(arguments: &str) -> Self {
        Self::speaking(TOGETHER, arguments)
    }

    /// Starts one in Together's dialect, in a place where things have been laid out for it.
    pub(crate) fn start_in(place: Place, arguments: &str) -> Self {
        Self::speaking_in(TOGETHER, place, arguments)
    }

    pub(crate) fn speaking(dialect: &'static dyn Dialect, arguments: &str) -> Self {
        Self::speaking_in(dialect, Place::new(), arguments)
    }

    /// Starts one that answers at once, but for what the script says.
    pub(crate) fn faulty(dialect: &'static dyn Dialect, script: &str) -> Self {
        let place = Place::new();
        place.write("faults.toml", script);
        Self::speaking_in(dialect, place, "--batch-time 0ms --faults faults.toml")
    }

    pub(crate) fn speaking_in(dialect: &'static dyn Dialect, place: Place, arguments: &str) -> Self {
        let serve = format!("serve --listen 127.0.0.1:0 -d service --dialect {}", dialect.name());
        let running = place.program(&format!("{serve} {arguments}")).start();
        // The first line is there for this.
        wait_until(|| running.stdout_so_far().contains(&b'\n'));
        let said = String::from_utf8(running.stdout_so_far()).unwrap();
        Self { dialect, running, base_url: said.lines().next().unwrap().to_owned(), place }
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The arguments that lead a client there, with looks at the batches in quick succession.
    pub(crate) fn arguments(&self) -> String {
        let (dialect, url) = (self.dialect.name(), &self.base_url);
        format!("--provider local --dialect {dialect} --base-url {url} --poll-interval 50ms")
    }

    /// What a run of these requests must give, byte for byte.
    pub(crate) fn replies(&self, requests: &[u8]) -> Vec<u8> {
        replies_in(self.dialect, requests)
    }

    /// The most memory that it has had so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.running.peak_kib().unwrap_or_default()
    }

    /// What it has said on standard error so far.
    pub(crate) fn said(&self) -> String {
        self.running.stderr_so_far()
    }

    pub(crate) fn books(&self) -> Books {
        Books(self.place.path("service"))
    }

    /// Holds it still, in the midst of whatever it does.
    pub(crate) fn freeze(&self) {
        self.running.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.running.signal(Signal::CONT);
    }
}

/// The directory of a service: its own process's, or the one inside of a run.
pub(crate) struct Books(PathBuf);

impl Books {
    /// Those of the built-in service of a run.
    pub(crate) fn inside(run: &Path) -> Self {
        Self(run.join("local"))
    }

    /// Where they are.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// How often an endpoint was called, by its name in the access log; zero if there was never a service.
    pub(crate) fn calls(&self, endpoint: &str) -> usize {
        let log = std::fs::read(self.0.join("access.jsonl")).unwrap_or_default();
        // A killed service may have left half a line.
        let calls = lines(&log).into_iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        calls.filter(|call| call["endpoint"] == endpoint).count()
    }

    /// How many batches the service has accepted, whatever became of its answers.
    pub(crate) fn accepted(&self) -> usize {
        self.batch_records().count()
    }

    /// The batches as the service has them on its shelf.
    pub(crate) fn batches(&self) -> Vec<Value> {
        let records = self.batch_records();
        records.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
    }

    fn batch_records(&self) -> impl Iterator<Item = PathBuf> {
        let batches = self.0.join("batches");
        let paths = crate::program::names_in(&batches).into_iter().map(move |name| batches.join(name));
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"))
    }

    /// Insists that no request was billed twice, once the service has come to rest.
    #[track_caller]
    pub(crate) fn assert_never_twice(&self) {
        let mut billed = self.billed();
        wait_until(|| {
            std::thread::sleep(std::time::Duration::from_millis(60));
            let before = std::mem::replace(&mut billed, self.billed());
            before == billed
        });
        let twice = billed.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(twice, 0, "requests billed twice, of {}", billed.len());
    }

    /// How many faults have acted on calls and batches.
    pub(crate) fn faults(&self) -> usize {
        let log = std::fs::read(self.0.join("access.jsonl")).unwrap_or_default();
        let calls = lines(&log).into_iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let acted = |call: &Value| call["fault"].as_str().is_some_and(|fault| !fault.is_empty());
        calls.filter(acted).count() + self.batch_faults().len()
    }

    /// How many rows a fault has acted on.
    pub(crate) fn rows_of_fault(&self, name: &str) -> usize {
        let rows = self.batch_faults().into_iter().filter(|fault| fault["fault"] == name);
        rows.map(|fault| usize::try_from(fault["rows"].as_u64().unwrap()).unwrap()).sum()
    }

    fn batch_faults(&self) -> Vec<Value> {
        let log = std::fs::read(self.0.join("faults.jsonl")).unwrap_or_default();
        lines(&log).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// Calls `look` with each file of the service's own directory.
    pub(crate) fn each_file(&self, look: impl Fn(&Path, &[u8])) {
        for name in crate::program::names_in(&self.0) {
            let path = self.0.join(name);
            if path.is_file() {
                look(&path, &std::fs::read(&path).unwrap());
            }
        }
    }

    /// The digest of every request billed, once for each time, sorted.
    pub(crate) fn billed(&self) -> Vec<String> {
        let mut digests = Vec::new();
        for name in crate::program::names_in(&self.0.join("billing")) {
            assert!(std::path::Path::new(&name).extension().is_some_and(|ending| ending == "jsonl"), "{name}");
            let bill = std::fs::read(self.0.join("billing").join(name)).unwrap();
            digests.extend(lines(&bill).into_iter().map(|line| {
                let record: Value = serde_json::from_slice(line).unwrap();
                record["digest"].as_str().unwrap().to_owned()
            }));
        }
        digests.sort();
        digests
    }

    /// How often this request was billed.
    pub(crate) fn times_billed(&self, request: &[u8]) -> usize {
        let digest = request_digest(request);
        self.billed().into_iter().filter(|billed| *billed == digest).count()
    }

    /// Insists that each request of `input` was billed, exactly once, and nothing else.
    #[track_caller]
    pub(crate) fn assert_billed_once(&self, input: &[u8]) {
        let mut wanted: Vec<String> = lines(input).into_iter().map(request_digest).collect();
        wanted.sort();
        let billed = self.billed();
        assert_eq!(billed.len(), wanted.len(), "requests billed, and requests sent");
        assert!(billed == wanted, "the bill has the right length, but other requests");
    }
}
