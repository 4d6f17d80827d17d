//! The program as its users meet it: the real binary, in a process of its own, against a real service over loopback.
//!
//! `tests/README.md` says how to run it. Each test has a directory of its own, and no test waits for anything without a
//! bound.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests lay out files themselves, outside of what must survive a power cut"
)]
#![expect(clippy::print_stdout, reason = "what a failing test was about; the harness keeps it to itself otherwise")]

// What the tests are made of.
mod between; // a proxy that spoils downloads
mod program; // the program as a child process
mod records; // the records of `--json` against their schema
mod requests; // requests, and the replies that they must get
mod service; // `batchline serve` as a child process, its calls and its bill
mod tracing; // the program under strace
mod upstream; // an OpenAI-compatible server with a rate limit and a will of its own

// From the input to the output.
mod aibrix; // a server that nobody here wrote
mod allocating; // the memory that the program gives back
mod appearing; // how outputs appear, where, and what of an empty input
mod asking; // what is asked before it is done
mod bare; // bodies alone, which are numbered
mod conformance; // the same scenarios for every dialect
mod defects; // every rule about lines has its file and its words
mod dialects; // what is peculiar to OpenAI's dialect
mod framing; // reply files that are not one reply a line, and replies of any length
mod merging; // reply files into input order, offline
mod rearranging; // replies that do not fit memory, on disks of all kinds
mod replying; // what counts as a reply, and as what
mod running; // every way in, every way out, and nothing twice
mod shapes;
mod spoken; // who may ask which dialect it is // one shape for the replies of all services

// What goes wrong around it.
mod answers; // answers that do not come, or not whole
mod besieged; // a service that means harm
mod changing; // inputs that change under a run
mod cleaning; // what is removed, what stays, and what everybody is told of it
mod creates; // creates that are refused, mixed up, or turned away by a full queue
mod cutting; // killed at every durable system call
mod damaged; // local state that is not what it was
mod earlier; // runs that earlier versions left
mod failing; // files, threads, writes and syncs that the system refuses
mod faults; // a service that misbehaves by script
mod fuzzing; // what must hold for any bytes
mod hostile; // lines that are meant to hurt
mod interrupting; // Ctrl-C and SIGTERM
mod intruders; // whom `serve` does not let in, wait for or store
mod killed; // SIGKILL at twenty random moments
mod misdirected; // a base URL that leads elsewhere
mod online; // a service without a Batch API: order, limits, kills, keys
mod ordering; // what is synced before what
mod places; // where runs are, whose they are, and which one is the same
mod racing; // two processes at once
mod refusing; // keys, servers, locks and disks
mod rooms; // which room may know which
mod secrets; // where the key is, and is not
mod simulation; // whole runs on a simulated clock, against a service that lies
mod strangers; // entries of other people, lists that lie or fail, batches that nobody shows
mod targets; // outputs that are inputs, and what else must not be written
mod throttled; // a service without a Batch API that refuses now and then, or for a while

// What people and other programs see.
mod completing; // shells, the manual, the version
mod measuring; // what `bench` says, and leaves behind
mod python; // the Python package, with its own tests
mod readme; // the program of its section on the library
mod screens; // help, plans, runs, shard files, records in JSON
mod serve; // the server, started through the library
mod showing; // texts of others on the way to a terminal
mod tutorial; // the official SDKs against the local service
