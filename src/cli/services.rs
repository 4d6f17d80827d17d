//! The service that answers a run: its settings, and the [`Api`](batchline::remote::Api) that reaches it.
//!
//! In: a provider, with the address and the key from the options or the environment. Out: a run that was executed.
//! The built-in service is started here, in the run directory, and stopped when the run has ended.

use std::time::Duration;

use batchline::dialect::provider::Host;
use batchline::dialect::providers::hosted;
use batchline::remote::online::{CONCURRENCY, OnlineApi, Upstream, UpstreamOptions};
use batchline::remote::{Address, HttpApi, Provider, Redactor, Settings, Token};
use batchline::run::directory::layout;
use batchline::run::{Outputs, Run, ServiceIdentity, Summary};
use batchline::serve::{ServeOptions, Server};
use batchline::storage::durable;

use super::args::{RunArguments, ServiceArguments};
use super::exit::Failure;
use super::keys::{configuration, online_token, variable};

/// How long a service without a Batch API may be unreachable, or refuse everything, before the run ends, by default.
/// The run can be resumed later.
const PATIENCE: Duration = Duration::from_mins(30);

/// The service that answers.
#[derive(Debug, Clone)]
pub(crate) enum Service {
    /// The built-in one, started for this run within this process.
    BuiltIn {
        /// Its provider.
        provider: &'static Provider,
    },
    /// One without a Batch API: requests are sent one by one.
    Online {
        /// Its provider.
        provider: &'static Provider,
        /// Where it is.
        address: Address,
        /// The key, if there is one.
        token: Option<Token>,
        /// Maximum requests in flight.
        concurrency: usize,
        /// See [`PATIENCE`].
        patience: Duration,
    },
    /// One that has a Batch API.
    At {
        /// Its limits and dialect.
        provider: &'static Provider,
        /// Where it is.
        address: Address,
        /// The key, if there is one.
        token: Option<Token>,
    },
}

impl Service {
    /// Chooses the service and its key: from the options, else the environment, else the provider's defaults.
    pub(crate) fn choose(provider: &'static Provider, arguments: &ServiceArguments) -> Result<Self, Failure> {
        let typed = arguments.base_url.clone().or_else(|| variable(provider.base_url_variable));
        if provider.host == Host::BuiltIn && typed.is_none() {
            return Ok(Self::BuiltIn { provider });
        }
        if typed.is_none() && provider.base_url.is_empty() {
            let hint = format!("pass --base-url URL, or set {}", provider.base_url_variable);
            return Err(configuration(format!("{} has no default base URL", provider.name), Some(hint)));
        }
        let address = Address::parse(typed.as_deref().unwrap_or(provider.base_url))?;
        if provider.host == Host::Online {
            let token = online_token(&address, arguments.api_key_file.as_deref(), provider.key_variable)?;
            return Ok(Self::Online { provider, address, token, concurrency: CONCURRENCY, patience: PATIENCE });
        }
        let token = match (&arguments.api_key_file, variable(provider.key_variable)) {
            (Some(path), _) => Some(Token::from_file(path)),
            (None, Some(value)) => Some(Token::new(&value)),
            // The local service requires a key, but accepts any.
            (None, None) if provider.host == Host::BuiltIn => Some(Token::new(provider.name)),
            (None, None) => None,
        };
        let token = token.transpose().map_err(|error| configuration(error.to_string(), None))?;
        if token.is_none() && provider.key_required {
            let hint = format!(
                "set {} to your key, or try it without a key: --provider {}",
                provider.key_variable,
                name_of(Host::BuiltIn)
            );
            return Err(configuration(format!("no API key for {}", provider.name), Some(hint)));
        }
        Ok(Self::At { provider, address, token })
    }

    /// Applies the options that only a service without a Batch API has.
    pub(crate) fn with_online_options(mut self, arguments: &RunArguments) -> Result<Self, Failure> {
        if let Self::Online { concurrency, patience, .. } = &mut self {
            *concurrency = arguments.concurrency.map_or(*concurrency, usize::from);
            *patience = arguments.patience.unwrap_or(*patience);
            return Ok(self);
        }
        let typed = [("--concurrency", arguments.concurrency.is_some()), ("--patience", arguments.patience.is_some())];
        match typed.into_iter().find(|(_, is_typed)| *is_typed) {
            Some((option, _)) => Err(Failure::Usage(format!("{option} requires --provider {}", name_of(Host::Online)))),
            None => Ok(self),
        }
    }

    /// The service's part of a run's fingerprint.
    pub(crate) fn identity(&self) -> ServiceIdentity {
        match self {
            Self::BuiltIn { provider } => ServiceIdentity::built_in(provider),
            Self::At { provider, address, .. } | Self::Online { provider, address, .. } => {
                ServiceIdentity::at(provider, address)
            }
        }
    }

    /// Removes its key from texts.
    pub(crate) fn redactor(&self) -> Redactor {
        match self {
            Self::BuiltIn { .. } => Redactor::default(),
            Self::At { token, .. } | Self::Online { token, .. } => Redactor::of(token.clone()),
        }
    }

    /// Executes the run with it.
    pub(crate) async fn execute(self, run: Run, outputs: Outputs) -> Result<Summary, Failure> {
        let observer = run.observer();
        match self {
            Self::At { provider, address, token } => {
                let api = HttpApi::new(provider, address, token, Settings { observer, ..Settings::default() })?;
                Ok(run.execute(api, outputs).await?)
            }
            Self::Online { address, token, concurrency, patience, .. } => {
                let give_up_after = Some(patience);
                let upstream = UpstreamOptions::new(address, token);
                let upstream = Upstream::new(UpstreamOptions { concurrency, give_up_after, observer, ..upstream })?;
                let api = OnlineApi::open(upstream, layout::online(run.path())).await?;
                Ok(run.execute(api, outputs).await?)
            }
            Self::BuiltIn { provider } => {
                let directory = layout::local(run.path());
                durable::create_directory(&directory)?;
                let dialect = provider.dialect;
                let server = Server::start(ServeOptions { directory, dialect, ..ServeOptions::default() }).await?;
                let address = Address::parse(&server.base_url())?;
                // It accepts any key.
                let token = Token::new(provider.name).map_err(|error| configuration(error.to_string(), None))?;
                let api = HttpApi::new(provider, address, Some(token), Settings { observer, ..Settings::default() })?;
                let worked = run.execute(api, outputs).await;
                let stopped = server.stop().await;
                let summary = worked?;
                stopped?;
                Ok(summary)
            }
        }
    }
}

/// The name of the provider with this kind of host.
fn name_of(host: Host) -> &'static str {
    hosted(host).map_or("none", |row| row.name)
}
