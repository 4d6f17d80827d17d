//! `batchline serve`.

use batchline::model::shown::Name;
use batchline::remote::{Observer, Token};
use batchline::serve::{Faults, FaultsError, QuotaChoice, ServeOptions, Server, UpstreamOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::args::ServeArguments;
use super::exit::{Exit, Failure};
use super::running::runtime;
use super::settings;
use super::terminal::{print, say};

pub(crate) fn serve(arguments: ServeArguments) -> Result<Exit, Failure> {
    if !arguments.listen.ip().to_canonical().is_loopback() && arguments.api_key_file.is_none() {
        let what = format!("anyone who can reach {} could use this server", arguments.listen);
        let hint = "pass --api-key-file FILE, or listen on a loopback address such as 127.0.0.1:8080".to_owned();
        return Err(Failure::Run(batchline::run::error::Error::Configuration { what, hint: Some(hint) }));
    }
    let token = match &arguments.api_key_file {
        Some(path) => {
            let token = Token::from_file(path).map_err(|error| {
                Failure::Run(batchline::run::error::Error::Configuration { what: error.to_string(), hint: None })
            })?;
            Some(token.into_secret())
        }
        None => None,
    };
    let faults = match &arguments.faults {
        Some(path) => Faults::load(path).map_err(|error| unusable(&error))?,
        None => Faults::default(),
    };
    let is_faulty = !faults.is_empty();
    let until_stdin_ends = arguments.until_stdin_ends;
    let upstream = settings::upstream(&arguments)?.map(|upstream| UpstreamOptions { observer: speaking(), ..upstream });
    let answers = match &upstream {
        Some(upstream) => format!("answers from {}", upstream.address),
        None => "echoed answers".to_owned(),
    };
    let options = ServeOptions {
        directory: arguments.directory,
        listen: arguments.listen,
        dialect: arguments.dialect,
        token,
        seed: arguments.seed,
        batch_time: arguments.batch_time,
        workers: usize::from(arguments.workers),
        faults,
        upstream,
        hosts: arguments.allow_host,
        quota: arguments.quota.map_or(QuotaChoice::ShareOfFree, QuotaChoice::Bytes),
        ..ServeOptions::default()
    };
    runtime()?.block_on(async {
        let directory = options.directory.clone();
        let server = Server::start(options).await?;
        // The first line tells scripts which port was chosen.
        print(&server.base_url())?;
        say!(
            "serving the {} Batch API with {answers}, state in {}; press Ctrl-C to stop",
            arguments.dialect,
            Name(&directory)
        );
        if is_faulty {
            say!(
                "injecting scripted faults; access.jsonl and faults.jsonl in that directory record those that occurred"
            );
        }
        let failed = tokio::select! {
            () = wait_for_signal() => None,
            () = stdin_ends(), if until_stdin_ends => None,
            error = server.failed() => Some(error),
        };
        server.stop().await?;
        failed.map_or(Ok(Exit::Success), |error| Err(error.into()))
    })
}

/// Prints what happens at the upstream.
fn speaking() -> Observer {
    Observer::new(|notice| say!("{notice}"))
}

fn unusable(error: &FaultsError) -> Failure {
    let what = match error {
        FaultsError::Unreadable { source, .. } => format!("{error}: {source}"),
        FaultsError::Invalid { .. } => error.to_string(),
    };
    let hint =
        "data/faults has examples; the documentation of batchline::serve::faults describes all fields of a script";
    Failure::Run(batchline::run::error::Error::Configuration { what, hint: Some(hint.to_owned()) })
}

/// Reads standard input to its end, on a detached thread that does not delay shutdown.
async fn stdin_ends() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}

async fn wait_for_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
