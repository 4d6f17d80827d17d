//! The services of the table: how each is started, reached and audited.
//!
//! In: a [`Conduct`]. Out: a service that behaves like that, which knows what it answers, and what it was paid for. An
//! upstream's calls are the bill where there is one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchline::dialect::{Dialect, OPENAI};
use batchline::serve::echo_reply_in;
use serde_json::Value;

use crate::aibrix::{Aibrix, CONCURRENCY};
use crate::program::Place;
use crate::requests::bodies;
use crate::service::Service;
use crate::upstream::{Manner, Upstream, answer};

/// How a service is to behave.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Conduct {
    /// It answers at once.
    Quick,
    /// It takes its time: a second or two for a few hundred requests.
    Slow,
    /// It takes many seconds for them.
    Crawling,
    /// It lets nobody in without [`KEY`].
    Guarded,
    /// Its first batch expires halfway, and its second one loses some rows.
    Forgetful,
}

pub(super) const KEY: &str = "key-of-the-scenarios-0123456789";

/// A service of the table.
pub(super) trait Row {
    /// Starts one; `None`, loudly, where it is not installed.
    fn start(&self, conduct: Conduct) -> Option<Box<dyn Spoken>>;
}

/// A service that is running.
pub(super) trait Spoken {
    /// The arguments that lead the program there.
    fn arguments(&self) -> String;

    /// The environment variable that holds its key.
    fn key_variable(&self) -> &'static str {
        "BATCHLINE_LOCAL_KEY"
    }

    /// What it answers to a request: the body of its reply.
    fn answer(&self, request: &str) -> Value;

    /// What a batch is told that has a request without messages for a model that does not exist.
    fn why_it_fails(&self) -> &'static str {
        panic!("its batches do not fail");
    }

    /// How often a request was paid for.
    fn times_paid(&self, request: &str) -> usize;

    /// How many answers that were paid for are in none of its files.
    fn answers_lost(&self) -> usize {
        0
    }

    /// How many batches it has accepted from the runs in this place.
    fn batches(&self, place: &Place) -> usize;

    /// Whether some requests have been answered, given for how long its batches have been there. `serve` looks at a
    /// file for a fifth of the time, and then goes at a steady pace.
    fn has_answered_some(&self, after: Duration) -> bool {
        after >= Duration::from_millis(2_500)
    }

    /// How many requests are paid for a second time, at most, when the program is killed.
    fn paid_again_by_a_kill(&self) -> usize {
        0
    }
}

/// `batchline serve`, in one of its dialects.
pub(super) struct Serve(pub(super) &'static dyn Dialect);

impl Row for Serve {
    fn start(&self, conduct: Conduct) -> Option<Box<dyn Spoken>> {
        let (Self(dialect), host) = (self, Place::new());
        let arguments = match conduct {
            Conduct::Quick => "--batch-time 0ms",
            Conduct::Slow => "--batch-time 2s",
            Conduct::Crawling => "--batch-time 7s",
            Conduct::Guarded => {
                host.write("key", KEY);
                std::fs::set_permissions(host.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
                "--batch-time 0ms --api-key-file key"
            }
            Conduct::Forgetful => {
                let script = "[[fault]]\ndo = \"expire\"\nbatch = 1\nshare = 0.6\n[[fault]]\ndo = \"drop_rows\"\nbatch = 2\nshare = 0.5\n";
                host.write("faults.toml", script);
                "--batch-time 0ms --faults faults.toml"
            }
        };
        Some(Box::new((*dialect, Service::speaking_in(*dialect, host, arguments))))
    }
}

impl Spoken for (&'static dyn Dialect, Service) {
    fn arguments(&self) -> String {
        self.1.arguments()
    }

    fn answer(&self, request: &str) -> Value {
        bodies(&echo_reply_in(self.0, request.as_bytes())).remove(0)
    }

    fn why_it_fails(&self) -> &'static str {
        if self.0 == OPENAI {
            "line 1: The model \"nonexistent/x\" does not exist. (model_not_found)"
        } else {
            "Invalid model ID: Unable to access non-serverless model nonexistent/x."
        }
    }

    fn times_paid(&self, request: &str) -> usize {
        self.1.books().times_billed(request.as_bytes())
    }

    fn answers_lost(&self) -> usize {
        self.1.books().rows_of_fault("drop_rows")
    }

    fn batches(&self, _: &Place) -> usize {
        self.1.books().accepted()
    }
}

/// How long an upstream takes over one answer.
fn latency(conduct: Conduct) -> Duration {
    Duration::from_millis(match conduct {
        Conduct::Slow => 50,
        Conduct::Crawling => 300,
        _ => 5,
    })
}

/// A service without a Batch API.
pub(super) struct Online;

impl Online {
    const CONCURRENCY: usize = 8;
}

impl Row for Online {
    fn start(&self, conduct: Conduct) -> Option<Box<dyn Spoken>> {
        let latency = latency(conduct);
        let key = (conduct == Conduct::Guarded).then_some(KEY);
        Some(Box::new(Upstream::start(Manner { latency, key, ..Manner::default() })))
    }
}

impl Spoken for Upstream {
    fn arguments(&self) -> String {
        format!("--provider online --concurrency {} --base-url {}", Online::CONCURRENCY, self.url())
    }

    fn key_variable(&self) -> &'static str {
        "BATCHLINE_ONLINE_KEY"
    }

    fn answer(&self, request: &str) -> Value {
        answer(&message(request))
    }

    fn times_paid(&self, request: &str) -> usize {
        self.let_in().get(&message(request)).map_or(0, |times| *times as usize)
    }

    fn batches(&self, place: &Place) -> usize {
        let records = |run: PathBuf| {
            let names = crate::program::names_in(&run.join("online")).into_iter();
            names.filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "json")).count()
        };
        place.runs().into_iter().map(records).sum()
    }

    fn paid_again_by_a_kill(&self) -> usize {
        Online::CONCURRENCY
    }
}

/// AIBrix's server, which nobody here wrote.
pub(super) struct Foreign;

impl Row for Foreign {
    fn start(&self, conduct: Conduct) -> Option<Box<dyn Spoken>> {
        let latency = latency(conduct);
        Aibrix::start(latency).map(|aibrix| -> Box<dyn Spoken> { Box::new(aibrix) })
    }
}

impl Spoken for Aibrix {
    fn arguments(&self) -> String {
        self.arguments()
    }

    fn answer(&self, request: &str) -> Value {
        self.upstream.answer(request)
    }

    fn why_it_fails(&self) -> &'static str {
        "Line 1: Request body for endpoint '/v1/chat/completions' is missing required field 'messages'"
    }

    fn times_paid(&self, request: &str) -> usize {
        self.upstream.times_paid(request)
    }

    fn batches(&self, _: &Place) -> usize {
        self.batches().len()
    }

    fn has_answered_some(&self, _: Duration) -> bool {
        // More than are with the upstream at a time.
        self.upstream.total() > 3 * u64::from(CONCURRENCY)
    }
}

/// What a request says.
fn message(request: &str) -> String {
    let request: Value = serde_json::from_str(request).unwrap();
    request["body"]["messages"][0]["content"].as_str().unwrap().to_owned()
}
