//! `pre-stop` and `healthcheck`: what a container runtime calls beside a node.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
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
}

impl PreStopArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let begin = Instant::now();
        let client = Client::new(&self.endpoints)?;
        let node: NodeView = match client.once(&Call::get("/v1/node")).await {
            Ok(reply) => reply.json()?,
            // Nobody is there to be waited for.
            Err(error) if error.exit == Exit::Unavailable => {
                return output::line(format!("the node does not answer, so nothing is waited for: {error}"));
            }
            Err(error) => return Err(error),
        };
        if node.removed.is_some() {
            return output::line(format!("{} was removed from its cluster and may stop", node.name));
        }
        let drain = Call { method: Method::POST, ..Call::get("/v1/node/drain") };
        let drained: DrainView = client.once(&drain).await?.json()?;
        let leader = drained.leader.as_deref().unwrap_or("nobody");
        output::line(format!("{} is drained; {leader} leads", node.name))?;
        let ask = Call { method: Method::POST, ..Call::get("/v1/node/restart-safe?timeout=2s") };
        let mut told = String::new();
        loop {
            let error = match client.once(&ask).await {
                Ok(reply) => {
                    reply.json::<RestartView>()?;
                    let waited = begin.elapsed().as_secs_f64();
                    return output::line(format!("{} may stop, after {waited:.1} s", node.name));
                }
                Err(error) => error,
            };
            if begin.elapsed() >= self.max_wait {
                let limit = humantime::format_duration(self.max_wait);
                let message = format!("{} must not stop yet, and --max-wait {limit} is over: {error}", node.name);
                return Err(CliError::new(Exit::StopUnsafe, message));
            }
            let reason = error.to_string();
            if reason != told {
                output::line(format!("waits: {reason}"))?;
                told = reason;
            }
            tokio::time::sleep(PAUSE.min(self.max_wait.saturating_sub(begin.elapsed()))).await;
        }
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
