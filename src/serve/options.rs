//! What a server is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::api::connections::ConnectionLimits;
use super::faults::Faults;
use super::limits::Limits;
use super::store::quota::QuotaChoice;
use super::upstream::UpstreamOptions;
use crate::dialect::{Dialect, TOGETHER};

/// How a [`Server`](super::Server) behaves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it keeps everything; made when it is not there. One server at a time may use it.
    pub directory: PathBuf,
    /// Where it listens; port 0 is any free port.
    pub listen: SocketAddr,
    /// What it speaks.
    pub dialect: &'static dyn Dialect,
    /// The one bearer token that it accepts. `None`: any that is not empty, each is a separate account.
    pub token: Option<SecretString>,
    /// What the order of the rows in result files follows from, together with the batch's id, and what scripted faults
    /// draw their probabilities and shares by.
    pub seed: u64,
    /// How long a batch pretends to take, apart from the time that it really takes: a fifth of it VALIDATING, the
    /// rest `IN_PROGRESS`. May be zero.
    pub batch_time: Duration,
    /// How many batches execute at once, each on its own thread; at least 1.
    pub workers: usize,
    /// What it accepts.
    pub limits: Limits,
    /// What goes wrong.
    pub faults: Faults,
    /// Who answers. `None`: an echo.
    pub upstream: Option<UpstreamOptions>,
    /// The names by which it is known, beside its address and those of this machine.
    pub hosts: Vec<String>,
    /// How patient it is with its clients.
    pub connections: ConnectionLimits,
    /// How much it keeps.
    pub quota: QuotaChoice,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("batchline-serve"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            dialect: TOGETHER,
            token: None,
            seed: 0,
            batch_time: Duration::from_millis(300),
            workers: 2,
            limits: Limits::default(),
            faults: Faults::default(),
            upstream: None,
            hosts: Vec::new(),
            connections: ConnectionLimits::default(),
            quota: QuotaChoice::Unlimited,
        }
    }
}
