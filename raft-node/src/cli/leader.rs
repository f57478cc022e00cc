//! `leader transfer`, `drain` and `events`.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use raft_node::http::view::{DrainView, EventsView, HandOverWish, LeaderMovedView};
use reqwest::Method;

use crate::cli::client::{Call, Client, Endpoints};
use crate::cli::exit::CliError;
use crate::cli::output::{self, Format};

/// Moves the leadership.
#[derive(Debug, Args)]
pub(crate) struct LeaderArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
    #[command(subcommand)]
    command: LeaderCommand,
}

#[derive(Debug, Subcommand)]
enum LeaderCommand {
    /// Hands the leadership over and waits until the new leader is known. For at most one election timeout no write is
    /// taken.
    Transfer {
        /// Who shall lead; the best there is when nobody is named.
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
}

impl LeaderArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        let LeaderCommand::Transfer { to } = self.command;
        let body = serde_json::to_vec(&HandOverWish { to }).map_err(CliError::failed)?;
        let target = format!("/v1/cluster/leader?timeout={}ms", client.timeout.as_millis());
        let call = Call { method: Method::POST, body, ..Call::get(target) };
        // Once: the second time it may move the leadership again.
        let moved: LeaderMovedView = client.once(&call).await?.json()?;
        match self.output {
            Format::Json => output::json(&moved),
            Format::Table => {
                output::line(format!("{} leads term {}; before it was {}", moved.to, moved.term, moved.from))
            }
        }
    }
}

/// Has a node hand over what it leads and refuse new requests, before it is stopped. It takes them again with --end, or
/// after a restart.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The node takes requests again, and may lead.
    #[arg(long)]
    end: bool,
}

impl DrainArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        let method = if self.end { Method::DELETE } else { Method::POST };
        let reply = client.call(&Call { method, ..Call::get("/v1/node/drain") }).await?;
        let view: DrainView = reply.json()?;
        let node = reply.header("raft-served-by").unwrap_or("the node").to_owned();
        let leader = view.leader.as_deref().unwrap_or("nobody");
        match self.output {
            Format::Json => output::json(&view),
            Format::Table if !view.draining => output::line(format!("{node} takes requests; {leader} leads")),
            Format::Table if view.leads => {
                output::line(format!("{node} is drained, and still leads: nobody else can take over"))
            }
            Format::Table => output::line(format!("{node} is drained; {leader} leads")),
        }
    }
}

/// Shows what happened to a node lately: elections, handovers, snapshots, faults.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// How many; the newest.
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

impl EventsArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        let view: EventsView = client.call(&Call::get(format!("/v1/events?limit={}", self.limit))).await?.json()?;
        if self.output == Format::Json {
            return output::json(&view);
        }
        let rows: Vec<Vec<String>> = view
            .events
            .into_iter()
            .map(|event| {
                let at = UNIX_EPOCH + Duration::from_millis(event.at_ms);
                vec![humantime::format_rfc3339_millis(at).to_string(), event.kind, event.text]
            })
            .collect();
        output::bytes(output::table(&["TIME", "KIND", "WHAT HAPPENED"], &rows).as_bytes())
    }
}
