//! The service that answers a run: what was chosen, and the [`Api`](batchline::remote::Api) that reaches it.
//!
//! In: a provider, with the address and the key that the options or the environment name. Out: a run that was executed. The built-in service
//! is started here, in the run directory, and stopped when the run has ended.

use batchline::dialect::provider::Host;
use batchline::dialect::providers::hosted;
use batchline::remote::{Address, HttpApi, Provider, Redactor, Settings, Token};
use batchline::run::directory::layout;
use batchline::run::error::Error;
use batchline::run::{Outputs, Run, ServiceIdentity, Summary};
use batchline::serve::{ServeOptions, Server, UpstreamOptions};
use batchline::storage::durable;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::args::{RunArguments, ServiceArguments};
use super::exit::Failure;
use super::settings::{configuration, online_token, variable};

/// How long a service without a Batch API may be out of reach, or refuse everything, before the run ends, unless the user says otherwise.
/// It can be resumed later.
const PATIENCE: Duration = Duration::from_mins(30);

/// Why a request was sent again that a service without a Batch API may have answered: said in the [`Summary`].
const CRASHED: &str = "at the service when the process ended";

/// The same, of one whose answer did not get here.
const LOST: &str = "the answer was lost on its way";

/// The service that answers.
#[derive(Debug, Clone)]
pub(crate) enum Service {
    /// The built-in one, started for this run inside of this process.
    BuiltIn {
        /// Its provider.
        provider: &'static Provider,
    },
    /// One that has no Batch API, behind the built-in one.
    Online {
        /// Its provider.
        provider: &'static Provider,
        /// Where it is.
        address: Address,
        /// The key, if there is one.
        token: Option<Token>,
        /// Most requests that are there at a time.
        concurrency: usize,
        /// See [`PATIENCE`].
        patience: Duration,
    },
    /// One that has a Batch API.
    At {
        /// What it takes and how it speaks.
        provider: &'static Provider,
        /// Where it is.
        address: Address,
        /// The key, if there is one.
        token: Option<Token>,
    },
}

impl Service {
    /// Chooses the service and its key: from the options, else from the environment, else the provider's own.
    pub(crate) fn choose(provider: &'static Provider, arguments: &ServiceArguments) -> Result<Self, Failure> {
        let typed = arguments.base_url.clone().or_else(|| variable(provider.base_url_variable));
        if provider.host == Host::BuiltIn && typed.is_none() {
            return Ok(Self::BuiltIn { provider });
        }
        if typed.is_none() && provider.base_url.is_empty() {
            let hint = format!("name it: --base-url URL, or set {}", provider.base_url_variable);
            return Err(configuration(format!("{} has no address of its own", provider.name), Some(hint)));
        }
        let address = Address::parse(typed.as_deref().unwrap_or(provider.base_url))?;
        if provider.host == Host::Online {
            let token = online_token(&address, arguments.api_key_file.as_deref(), provider.key_variable)?;
            let concurrency = batchline::serve::upstream::CONCURRENCY;
            return Ok(Self::Online { provider, address, token, concurrency, patience: PATIENCE });
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
        Ok(Self::At { provider, address, token })
    }

    /// The service with the options that only one without a Batch API has.
    pub(crate) fn with_online_options(mut self, arguments: &RunArguments) -> Result<Self, Failure> {
        if let Self::Online { concurrency, patience, .. } = &mut self {
            *concurrency = arguments.concurrency.map_or(*concurrency, usize::from);
            *patience = arguments.patience.unwrap_or(*patience);
            return Ok(self);
        }
        let typed = [("--concurrency", arguments.concurrency.is_some()), ("--patience", arguments.patience.is_some())];
        match typed.into_iter().find(|(_, is_typed)| *is_typed) {
            Some((option, _)) => Err(Failure::Usage(format!("{option} is for --provider {}", name_of(Host::Online)))),
            None => Ok(self),
        }
    }

    /// What a run of it is named after.
    pub(crate) fn identity(&self) -> ServiceIdentity {
        match self {
            Self::BuiltIn { provider } => ServiceIdentity::built_in(provider),
            Self::At { provider, address, .. } | Self::Online { provider, address, .. } => {
                ServiceIdentity::at(provider, address)
            }
        }
    }

    /// What takes its key out of texts.
    pub(crate) fn redactor(&self) -> Redactor {
        match self {
            Self::BuiltIn { .. } => Redactor::default(),
            Self::At { token, .. } | Self::Online { token, .. } => Redactor::of(token.clone()),
        }
    }

    /// Has it answer the run.
    pub(crate) async fn execute(
        self,
        run: Run,
        outputs: Outputs,
        stop: &CancellationToken,
    ) -> Result<Summary, Failure> {
        let settings = Settings { observer: run.observer(), ..Settings::default() };
        let (provider, token, options) = match self {
            Self::At { provider, address, token } => {
                let api = HttpApi::new(provider, address, token, settings)?;
                return Ok(run.execute(api, outputs).await?);
            }
            Self::BuiltIn { provider } => {
                let any = Token::new(provider.name).map_err(|error| configuration(error.to_string(), None))?;
                (provider, any, ServeOptions { dialect: provider.dialect, ..ServeOptions::default() })
            }
            Self::Online { provider, address, token, concurrency, patience } => {
                let observer = settings.observer.clone();
                let give_up_after = Some(patience);
                let upstream = UpstreamOptions::new(address, token);
                let upstream = Some(UpstreamOptions { concurrency, give_up_after, observer, ..upstream });
                // Behind it is a service that may cost money, and others on this machine can reach it.
                let own = run.own_token();
                let token = Some(own.clone().into_secret());
                (provider, own, ServeOptions { token, upstream, ..ServeOptions::default() })
            }
        };
        let directory = layout::local(run.path());
        durable::create_directory(&directory)?;
        let server = Server::start(ServeOptions { directory, ..options }).await?;
        let api = HttpApi::new(provider, Address::parse(&server.base_url())?, Some(token), settings)?;
        let worked = unless_failed(&server, run.execute(api, outputs), stop).await;
        let again = server.sent_again();
        let stopped = server.stop().await;
        let mut summary = worked?;
        stopped?;
        for (reason, requests) in [(CRASHED, again.crashed), (LOST, again.lost)] {
            if requests > 0 {
                summary.report.sent_again.insert(reason.to_owned(), requests);
            }
        }
        Ok(summary)
    }
}

/// Works until the end, or until the built-in service cannot go on.
async fn unless_failed(
    server: &Server,
    working: impl Future<Output = Result<Summary, Error>>,
    stop: &CancellationToken,
) -> Result<Summary, Failure> {
    let mut working = Box::pin(working);
    let error = tokio::select! {
        worked = &mut working => return Ok(worked?),
        error = server.failed() => error,
    };
    // What is under way with it is brought to an end in good order.
    stop.cancel();
    match working.await {
        Err(Error::Interrupted) => Err(error.into()),
        worked => Ok(worked?),
    }
}

/// The name of the provider that is hosted so.
fn name_of(host: Host) -> &'static str {
    hosted(host).map_or("none", |row| row.name)
}
