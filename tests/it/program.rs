//! The program itself, as a child process in a directory of the test's own.
//!
//! In: arguments, perhaps standard input. Out: the exit code and what was printed.
//!
//! What always holds: of the environment that the program reads, nothing reaches it unasked. The records that it prints
//! are as its schema says. Who waits longer than [`PATIENCE`] fails. No child, nor a child of its, outlives its test.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

/// Only [`Running::end_within`] waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The memory that the program promises to keep to, in KiB.
pub(crate) const MEMORY_KIB: u64 = 256 * 1024;

/// What the program, its HTTP client and its argument parser read from the environment.
const VARIABLES: [&str; 21] = [
    "AIBRIX_API_KEY",
    "AIBRIX_BASE_URL",
    "BATCHLINE_API_KEY",
    "BATCHLINE_COMPLETE",
    "BATCHLINE_DEBUGGABLE",
    "BATCHLINE_LOCAL_KEY",
    "BATCHLINE_LOCAL_URL",
    "BATCHLINE_ONLINE_KEY",
    "BATCHLINE_ONLINE_URL",
    "BATCHLINE_UPSTREAM_KEY",
    "OPENAI_API_KEY",
    "COLUMNS",
    "TOGETHER_API_KEY",
    "TOGETHER_BASE_URL",
    "XDG_STATE_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// Where runs are kept, below the test's directory: no test writes to the home of whoever runs it.
const STATE_HOME: &str = ".batchline";

/// A directory for one test, in which it runs the program.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Names of what is in the place, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        names_in(self.0.path())
    }

    /// The program with these arguments, which stand apart by spaces.
    pub(crate) fn program(&self, arguments: &str) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_batchline"));
        command.args(arguments.split_whitespace());
        Program::new(command, self.0.path())
    }

    /// A script for the shell, to which `$BATCHLINE` is the program.
    pub(crate) fn shell(&self, script: &str) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("BATCHLINE", env!("CARGO_BIN_EXE_batchline"));
        Program::new(command, self.0.path())
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &str) -> Ended {
        self.program(arguments).run()
    }

    /// The runs below the place, those apart that have not got as far as to have a name.
    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        let mut runs = self.all_runs();
        runs.retain(|run| !is_unnamed(run));
        runs
    }

    /// Runs below the place that have no name yet, or never got one.
    pub(crate) fn unnamed_runs(&self) -> Vec<PathBuf> {
        let mut runs = self.all_runs();
        runs.retain(|run| is_unnamed(run));
        runs
    }

    fn all_runs(&self) -> Vec<PathBuf> {
        let runs = self.path(STATE_HOME);
        names_in(&runs).into_iter().map(|name| runs.join(name)).collect()
    }

    /// The only run below the place.
    #[track_caller]
    pub(crate) fn run_directory(&self) -> PathBuf {
        let runs = self.runs();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }
}

fn is_unnamed(run: &Path) -> bool {
    run.file_name().unwrap().to_string_lossy().starts_with(".incoming-")
}

/// Names of what is in a directory, sorted; none if there is no directory.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A child process to be.
pub(crate) struct Program {
    command: Command,
    input: Option<Vec<u8>>,
    /// The other side of its terminal, and what is typed there.
    terminal: Option<(File, &'static str)>,
}

impl Program {
    fn new(mut command: Command, directory: &Path) -> Self {
        command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        command.env("BATCHLINE_HOME", directory.join(STATE_HOME));
        // A group of its own, so that a shell's children can be ended with it.
        command.process_group(0);
        Self { command, input: None, terminal: None }
    }

    /// One more argument, whatever is in it.
    pub(crate) fn argument(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// As another user; for root.
    pub(crate) fn by_user(mut self, user: u32) -> Self {
        self.command.uid(user).gid(user);
        self
    }

    pub(crate) fn env(mut self, variable: &str, value: &str) -> Self {
        self.command.env(variable, value);
        self
    }

    /// Runs it in another directory than that of its place, where its state stays.
    pub(crate) fn within(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What the program reads through a pipe.
    pub(crate) fn input(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(content.into());
        self
    }

    /// Gives it a terminal for its input and its errors, at which this is typed.
    pub(crate) fn typing(mut self, typed: &'static str) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        self.command.stdin(theirs.try_clone().unwrap()).stderr(theirs);
        self.terminal = Some((ours.into(), typed));
        self
    }

    /// Gives it a pipe into which nothing is ever written.
    pub(crate) fn silent_input(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Gives it a pipe for its output from which nothing is read as long as the reader lives.
    pub(crate) fn unread_output(mut self) -> (Self, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        self.command.stdout(writer);
        (self, reader)
    }

    pub(crate) fn run(self) -> Ended {
        self.start().end()
    }

    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        if let (Some(mut stdin), Some(input)) = (child.stdin.take_if(|_| self.input.is_some()), self.input) {
            // A program that has had enough closes the pipe: no fault of the test.
            std::thread::spawn(move || stdin.write_all(&input));
        }
        let stdout = Heard::listen(child.stdout.take());
        let stderr = match self.terminal {
            Some((mut terminal, typed)) => {
                // With the last copy of its side the terminal ends.
                self.command.stdin(Stdio::null()).stderr(Stdio::null());
                terminal.write_all(typed.as_bytes()).unwrap();
                Heard::listen(Some(terminal))
            }
            None => Heard::listen(child.stderr.take()),
        };
        Running { child, stdout, stderr }
    }
}

/// What a pipe has said so far.
struct Heard {
    said: Arc<Mutex<Vec<u8>>>,
    listening: JoinHandle<()>,
}

impl Heard {
    /// Listens to the end, if there is a pipe to listen to.
    fn listen(pipe: Option<impl Read + Send + 'static>) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        let listening = std::thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut piece = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = pipe.read(&mut piece) {
                heard.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { said, listening }
    }

    fn so_far(&self) -> Vec<u8> {
        self.said.lock().unwrap().clone()
    }
}

/// A child process at work. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    stdout: Heard,
    stderr: Heard,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has cost so far, as Linux counts.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // Behind the name, which may hold anything: the 12th and 13th field, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let hundredths: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(hundredths * 10)
    }

    /// The most memory that it has had so far, in KiB; `None` once it has ended.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        // Until the program is loaded, the process is a copy of this one, with all that it holds.
        status.lines().find(|line| line.strip_prefix("Name:").is_some_and(|name| name.trim() == "batchline"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    }

    /// Ends it on the spot, if it still lives. It knows nothing of it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    pub(crate) fn stdout_so_far(&self) -> Vec<u8> {
        self.stdout.so_far()
    }

    pub(crate) fn stderr_so_far(&self) -> String {
        String::from_utf8(self.stderr.so_far()).unwrap()
    }

    /// Waits for the end, and for the end of what it has to say.
    #[track_caller]
    pub(crate) fn end(self) -> Ended {
        self.end_within(PATIENCE)
    }

    /// The same for one that takes its time.
    #[track_caller]
    pub(crate) fn end_within(mut self, patience: Duration) -> Ended {
        let mut status = None;
        wait_within(patience, || {
            status = self.child.try_wait().unwrap();
            status.is_some() && self.stdout.listening.is_finished() && self.stderr.listening.is_finished()
        });
        let (stdout, stderr) = (self.stdout_so_far(), self.stderr_so_far());
        crate::records::assert_as_described(&stdout);
        crate::records::assert_as_described(stderr.as_bytes());
        Ended { status: status.unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The id of a child that has been waited for may be somebody else's by now.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Waits for the end of a child process, and insists on its promise about memory meanwhile. Returns the most that it
/// had, in KiB.
#[track_caller]
pub(crate) fn end_within_memory(mut running: Running) -> (Ended, u64) {
    let mut peak = 0;
    wait_until(|| {
        peak = running.peak_kib().unwrap_or(peak).max(peak);
        !running.is_alive()
    });
    let ended = running.end();
    assert!(peak > 0, "the memory was never looked at: {}", ended.stderr);
    assert!(peak < MEMORY_KIB, "{peak} KiB: {}", ended.stderr);
    (ended, peak)
}

/// A number that the environment sets, to have more of something than in `cargo test`.
pub(crate) fn wanted(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

/// Tells what a campaign has seen, past the harness.
pub(crate) fn report(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// How a child process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// Insists on the exit code.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}: {}", self.status, self.stderr);
        self
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::KILL.as_raw())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// Insists that these words were said on standard error.
    #[track_caller]
    pub(crate) fn saying(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in: {}", self.stderr);
        self
    }

    /// Insists on words that are not on standard error.
    #[track_caller]
    pub(crate) fn without(self, words: &str) -> Self {
        assert!(!self.stderr.contains(words), "{words:?} is in: {}", self.stderr);
        self
    }
}

/// Waits until something is so; fails when it is not within [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_until(so: impl FnMut() -> bool) {
    wait_within(PATIENCE, so);
}

#[track_caller]
fn wait_within(patience: Duration, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !so() {
        assert!(Instant::now() < deadline, "it did not happen within {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says that something was not tested, past the harness, which keeps printed lines of passing tests to itself.
pub(crate) fn skipped(what: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {what}\n").as_bytes()).unwrap();
}
