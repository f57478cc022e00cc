//! `start`: runs a node until a signal ends it.

use std::time::Duration;

use clap::Args;
use raft_node::config::{LogFormat, Settings};
use raft_node::http::ServeError;
use raft_node::parts::StartError;
use raft_node::product::{Product, ProductError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::exit::{CliError, Exit};
use crate::cli::output;
use crate::cli::settings::SettingsArgs;

/// How often the start looks whether the node is ready.
const READY_POLL: Duration = Duration::from_millis(20);

/// Runs a node. Prints one line with its addresses when it is ready to take requests; SIGTERM stops it cleanly.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Stop as if by SIGTERM when the process that started this one ends. (The demo's nodes do.)
    #[arg(long, hide = true)]
    stop_with_parent: bool,
}

impl StartArgs {
    pub(crate) fn run(self) -> Result<(), CliError> {
        #[cfg(target_os = "linux")]
        if self.stop_with_parent {
            let signal = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(signal).map_err(CliError::failed)?;
        }
        let (settings, _) = self.settings.settings()?;
        begin_logging(&settings)?;
        end_with_the_first_panic();
        let runtime = runtime(settings.runtime_threads)?;
        let result = runtime.block_on(run(settings));
        // Whatever still runs was told to end, or is what a second signal does not wait for.
        runtime.shutdown_background();
        result
    }
}

/// A panic is a bug of ours. Whatever task or thread it is in, a node that goes on without it is worse than one that is
/// gone and comes back through recovery.
fn end_with_the_first_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// One thread runs everything that waits for something, unless more are asked for.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, CliError> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("raft-runtime").build().map_err(CliError::failed)
}

fn begin_logging(settings: &Settings) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&settings.log_filter).map_err(|error| {
        let message =
            format!("`log.filter` is `{}`: {error}: write a level or target=level pairs", settings.log_filter);
        CliError::new(Exit::Config, message)
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match settings.log_format {
        LogFormat::Text => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    begun.map_err(CliError::failed)
}

/// The signals that stop a node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::failed);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn run(settings: Settings) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let product = Product::start(&settings).await.map_err(refused)?;
    let node = product.node.clone();
    let announcement = announce(&settings, &product);
    let failed = |error: raft_node::handle::StopError| CliError::new(Exit::NodeFailed, error.to_string());
    tokio::select! {
        () = signals.next() => {}
        ended = node.finished() => {
            let stopped = product.stop().await;
            return ended.and(stopped).map_err(failed);
        }
        error = announcement => return Err(error),
        entry = node.removed(), if settings.removed_exit => {
            let stopped = product.stop().await;
            let message = format!("{} was removed from its cluster by entry {entry} (removed.exit)", settings.name);
            return stopped.map_err(failed).and_then(|()| Err(CliError::new(Exit::Removed, message)));
        }
    }
    tracing::info!("told to stop: what is in flight is finished first; a second signal ends the process at once");
    tokio::select! {
        stopped = product.stop() => {
            tracing::info!("stopped");
            stopped.map_err(failed)
        }
        () = signals.next() => Err(CliError::new(Exit::Interrupted, "a second signal: not everything was finished")),
    }
}

/// Prints the addresses once the node is ready to take requests. Returns only when that cannot be printed.
async fn announce(settings: &Settings, product: &Product) -> CliError {
    while product.node.ready().is_err() {
        tokio::time::sleep(READY_POLL).await;
    }
    let line = format!(
        "{} is ready: clients {} probes {} peers {} (udp) pid {}",
        settings.name,
        product.client_url,
        product.ops_url,
        product.peer_address,
        std::process::id()
    );
    match output::line(line) {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

/// What keeps a node from starting, with the exit code for it.
fn refused(error: ProductError) -> CliError {
    let exit = match &error {
        ProductError::Listen(ServeError::Bind { .. }) | ProductError::Node(StartError::Transport(_)) => Exit::Address,
        ProductError::Listen(ServeError::Tls(_)) | ProductError::Peer(_) | ProductError::Access(_) => Exit::Config,
        ProductError::Node(StartError::Config(_) | StartError::NotAFounder { .. }) => Exit::Config,
        ProductError::DataDir(_) | ProductError::Node(StartError::Identity(_) | StartError::Record(_)) => {
            Exit::DataDirectory
        }
        ProductError::Node(_) | ProductError::Internal(_) => Exit::Failed,
    };
    CliError::new(exit, error.to_string())
}
