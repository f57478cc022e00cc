//! `pre-stop` and `healthcheck`: what a container runtime calls beside a node.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use raft_node::http::ProblemBody;
use raft_node::http::view::{DrainView, NodeView, RestartView};
use reqwest::Method;

use crate::cli::client::{Call, Client, Endpoints};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output;

/// Between two questions whether the node may stop.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until stopping the node keeps the quorum, and hands over what it leads. For a preStop hook: the node is drained
/// first, so it takes no more requests, and is told to stop afterwards by whoever calls this.
///
/// A node that was removed, that does not answer, or that is the only voter is not waited for.
#[derive(Debug, Args)]
pub(crate) struct PreStopArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How long to wait at most. Below the grace period of whoever stops the node: what is left of that is for its stop.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "90s", value_name = "TIME")]
    max_wait: Duration,
    /// The file local.token in the node's data directory: it says that this is called on the node's own behalf. Where there
    /// is none, as when access is not controlled, it is done without.
    #[arg(long, env = "RAFT_LOCAL_TOKEN_FILE", value_name = "FILE")]
    local_token_file: Option<PathBuf>,
}

impl PreStopArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let begin = Instant::now();
        let (mut drained, mut told) = (false, String::new());
        loop {
            // Read anew each time: each start of the node writes another one.
            let error = match self.step(&mut drained).await {
                Ok(Some(end)) => {
                    return output::line(format!("{end}, after {:.1} s", begin.elapsed().as_secs_f64()));
                }
                Ok(None) => continue,
                Err(error) => error,
            };
            if begin.elapsed() >= self.max_wait {
                let limit = humantime::format_duration(self.max_wait);
                let message = format!("the node must not stop yet, and --max-wait {limit} is over: {error}");
                return Err(CliError::new(Exit::StopUnsafe, message));
            }
            let reason = error.to_string();
            if reason != told {
                output::line(format!("waits: {reason}"))?;
                told = reason;
            }
            // Nodes that ask at once shall not go on doing so.
            let pause = PAUSE + Duration::from_millis(u64::from(std::process::id() % 250));
            tokio::time::sleep(pause.min(self.max_wait.saturating_sub(begin.elapsed()))).await;
        }
    }

    async fn step(&self, drained: &mut bool) -> Result<Option<String>, CliError> {
        let endpoints = self.endpoints.with_local_token(self.local_token_file.as_deref());
        step(&Client::new(&endpoints)?, drained).await
    }
}

/// The next step towards the end: what the end is, nothing when there is another step, or why to try again. Whatever the
/// node says or does not say, only when nobody listens there is there nobody to wait for.
async fn step(client: &Client, drained: &mut bool) -> Result<Option<String>, CliError> {
    if !*drained {
        let (status, text) = match client.plain("/v1/node").await {
            Err(error) if error.exit == Exit::Unavailable => {
                return Ok(Some(format!("the node does not answer, so nothing is waited for: {error}")));
            }
            answered => answered?,
        };
        if !status.is_success() {
            let why = serde_json::from_str::<ProblemBody>(&text).map(|problem| problem.detail).unwrap_or_default();
            return Err(CliError::failed(format!("the node answers {status}: {why}")));
        }
        let node: NodeView = serde_json::from_str(&text).map_err(CliError::failed)?;
        if node.removed.is_some() {
            return Ok(Some(format!("{} was removed from its cluster and may stop", node.name)));
        }
        let drain = Call { method: Method::POST, ..Call::get("/v1/node/drain") };
        let view: DrainView = client.once(&drain).await?.json()?;
        *drained = true;
        output::line(format!("{} is drained; {} leads", node.name, view.leader.as_deref().unwrap_or("nobody")))?;
        return Ok(None);
    }
    let ask = Call { method: Method::POST, ..Call::get("/v1/node/restart-safe?timeout=2s") };
    match client.once(&ask).await {
        Ok(reply) => reply.json::<RestartView>().map(|_| Some("the node may stop".to_owned())),
        // It has ended by itself meanwhile.
        Err(error) => match client.plain("/v1/node").await {
            Err(gone) if gone.exit == Exit::Unavailable => Ok(Some(format!("the node has gone: {gone}"))),
            _ => Err(error),
        },
    }
}

/// Which probe of the ops listener.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Probe {
    /// Does its process do anything? What a restart could mend, and nothing else.
    Livez,
    /// Has it opened and replayed what is on its disk?
    Startupz,
    /// May clients be sent to it?
    Readyz,
}

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Self::Livez => "livez",
            Self::Startupz => "startupz",
            Self::Readyz => "readyz",
        }
    }
}

/// Asks a node's own probes; exit code 0 when they are fulfilled. For the health check of an image that has no shell.
#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    /// The ops listener.
    #[arg(long, env = "RAFT_OPS", default_value = "http://127.0.0.1:7081", value_name = "URL")]
    ops: String,
    /// Which probe.
    #[arg(long, value_enum, default_value_t = Probe::Livez)]
    probe: Probe,
    /// How long to wait for an answer.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2s", value_name = "TIME")]
    timeout: Duration,
}

impl HealthcheckArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::to(vec![self.ops], self.timeout)?;
        let (status, text) = client.plain(&format!("/{}?verbose", self.probe.name())).await?;
        if !status.is_success() {
            return Err(CliError::new(Exit::Unavailable, format!("{status}\n{}", text.trim_end())));
        }
        output::bytes(text.as_bytes())
    }
}
