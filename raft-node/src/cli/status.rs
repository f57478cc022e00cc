//! `status [--watch]`.

use std::time::Duration;

use clap::Args;
use raft_node::http::view::{ClusterView, MemberView};

use crate::cli::client::{Call, Client, Endpoints};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{self, Format};
use crate::cli::snapshot;

/// Shows the cluster: its leader, its members, what is wrong. Exit code 8 when it is not healthy.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Show it again and again.
    #[arg(short, long)]
    watch: bool,
    /// Pause between two looks.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    interval: Duration,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        loop {
            let shown = self.look(&client).await;
            if !self.watch {
                return shown;
            }
            if let Err(error) = shown {
                output::line(&error)?;
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn look(&self, client: &Client) -> Result<(), CliError> {
        let call = Call::get(format!("/v1/cluster?timeout={}ms", client.timeout.as_millis()));
        let view: ClusterView = client.call(&call).await?.json()?;
        match self.output {
            Format::Json => output::json(&view)?,
            Format::Table => {
                if self.watch && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
                    output::bytes(b"\x1b[2J\x1b[H")?; // clear the terminal
                }
                output::bytes(text(&view).as_bytes())?;
            }
        }
        if view.healthy { Ok(()) } else { Err(CliError::new(Exit::Unhealthy, "the cluster is not healthy")) }
    }
}

fn text(view: &ClusterView) -> String {
    let leader = view.leader.as_deref().unwrap_or("none");
    let health = if view.healthy { "healthy" } else { "NOT healthy" };
    let mut text = format!(
        "cluster {}: {health}, leader {leader}, term {}, commit {}, can lose {} more\n",
        view.cluster.as_deref().unwrap_or("not founded"),
        view.term,
        view.commit_index,
        view.failure_tolerance
    );
    for reason in &view.reasons {
        text.push_str(&format!("  ! {reason}\n"));
    }
    for member in view.members.iter().filter(|member| member.storage_sync == Some(false)) {
        let risk = "a loss of power may lose acknowledged writes";
        text.push_str(&format!("  ! {} runs with storage.sync = false: {risk}\n", member.name));
    }
    for pending in &view.membership.pending {
        let waits = pending.reason.as_deref().unwrap_or("its admission is being committed");
        text.push_str(&format!("  + {} is to join: {waits}\n", pending.name));
    }
    view.members.iter().filter_map(snapshot::line).for_each(|line| text.push_str(&line));
    if view.not_leader_view.is_some() {
        text.push_str(&format!("  seen by {}\n", view.answered_by));
    }
    if !view.members.is_empty() {
        let head =
            ["NAME", "ID", "ROLE", "PHASE", "MATCH", "LAG", "APPLIED", "CONTACT", "LEASE", "PID", "VERSION", "CLIENTS"];
        let rows: Vec<Vec<String>> = view.members.iter().map(row).collect();
        text.push_str(&output::table(&head, &rows));
    }
    text
}

fn row(member: &MemberView) -> Vec<String> {
    fn shown<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "-".into(), |value| value.to_string())
    }
    let phase = match &member.unreachable {
        Some(_) => "unreachable".to_owned(),
        None => shown(member.phase.clone()),
    };
    vec![
        member.name.clone(),
        member.id.to_string(),
        shown(member.role.clone()),
        phase,
        shown(member.match_index),
        shown(member.lag),
        shown(member.applied_index),
        shown(member.last_contact_ms.map(|ms| format!("{ms}ms"))),
        shown(member.read_lease.map(|valid| if valid { "yes" } else { "no" })),
        shown(member.pid),
        shown(member.version.clone()),
        member.api_address.clone(),
    ]
}
