//! `members list|add|set|promote|demote|remove|replace|cancel`.

use clap::{Args, Subcommand};
use raft_node::http::view::{
    AddMemberRequest, ClusterView, MemberView, MembersChangeView, PendingView, ReplaceMemberRequest, SetMembersRequest,
};
use reqwest::Method;

use crate::cli::client::{Call, Client, Endpoints};
use crate::cli::exit::CliError;
use crate::cli::output::{self, Format};

/// Shows and changes who belongs to the cluster. Any node may be asked; the leader does it. What would cost the quorum or
/// fault tolerance is refused with the reason.
#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    #[command(subcommand)]
    command: MembersCommand,
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Shows the members, what changes, and who is waited for.
    List,
    /// Adds a node: it is proposed once it is heard, learns first, and votes once it has caught up.
    Add {
        /// Its name, which its certificate has.
        name: String,
        /// Where peers reach it, host:port. What it says of itself wins.
        #[arg(long, value_name = "ADDRESS", default_value = "")]
        peer_address: String,
        /// Where clients reach it, as a URL.
        #[arg(long, value_name = "URL", default_value = "")]
        api_address: String,
        /// It shall stay a learner until it is promoted.
        #[arg(long)]
        learner: bool,
    },
    /// Makes these the members and no others, in one change.
    Set {
        /// All who are to vote.
        #[arg(long, value_delimiter = ',', required = true)]
        voters: Vec<String>,
        /// All who are not.
        #[arg(long, value_delimiter = ',')]
        learners: Vec<String>,
        #[command(flatten)]
        risk: Risk,
    },
    /// Makes a learner a voter.
    Promote {
        /// Its name.
        name: String,
        #[command(flatten)]
        risk: Risk,
    },
    /// Makes a voter a learner.
    Demote {
        /// Its name.
        name: String,
        #[command(flatten)]
        risk: Risk,
    },
    /// Removes a member, dead or alive.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        risk: Risk,
    },
    /// Puts one node in the place of another, in one change.
    Replace {
        /// Who leaves.
        old: String,
        /// Who comes: a learner, or a node that has asked for admission.
        new: String,
        #[command(flatten)]
        risk: Risk,
    },
    /// Gives up the change that is under way.
    Cancel,
}

/// What may be lost by a change.
#[derive(Clone, Copy, Debug, Default, Args)]
struct Risk {
    /// Fewer failures may be survived afterwards.
    #[arg(long)]
    less_tolerance: bool,
    /// Do it whatever the pre-flight says. It may stop the cluster.
    #[arg(long)]
    force: bool,
}

impl Risk {
    fn query(self) -> String {
        let switch = |name: &str, on: bool| if on { format!("&{name}=true") } else { String::new() };
        switch("less_tolerance", self.less_tolerance) + &switch("force", self.force)
    }
}

impl MembersArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        if let MembersCommand::List = self.command {
            return list(&client, self.output).await;
        }
        let again = !matches!(self.command, MembersCommand::Cancel);
        let call = self.command.call(client.timeout)?;
        // Asking twice does no harm, but for a cancellation: it could meet another change.
        let reply = if again { client.call(&call).await? } else { client.once(&call).await? };
        let view: MembersChangeView = reply.json()?;
        match self.output {
            Format::Json => output::json(&view),
            Format::Table if view.pending => output::line(
                "not heard yet: it is proposed once it is; start it with a bootstrap list that names a member",
            ),
            Format::Table if view.changed => output::line(format!("done: entry {}", view.index)),
            Format::Table => output::line(format!("nothing to do: it is so since entry {}", view.index)),
        }
    }
}

impl MembersCommand {
    fn call(&self, timeout: std::time::Duration) -> Result<Call, CliError> {
        let query = |risk: Risk| format!("?timeout={}ms{}", timeout.as_millis(), risk.query());
        let none = query(Risk::default());
        let of =
            |name: &str, what: &str, risk: Risk| format!("/v1/cluster/members/{}{what}{}", escaped(name), query(risk));
        let (method, target, body) = match self {
            Self::List => (Method::GET, format!("/v1/cluster{none}"), Vec::new()),
            Self::Add { name, peer_address, api_address, learner } => {
                let request = AddMemberRequest {
                    name: name.clone(),
                    peer_address: peer_address.clone(),
                    api_address: api_address.clone(),
                    voter: !learner,
                };
                (Method::POST, format!("/v1/cluster/members{none}"), json(&request)?)
            }
            Self::Set { voters, learners, risk } => {
                let request = SetMembersRequest { voters: voters.clone(), learners: learners.clone() };
                (Method::PUT, format!("/v1/cluster/members{}", query(*risk)), json(&request)?)
            }
            Self::Promote { name, risk } => (Method::POST, of(name, "/promote", *risk), Vec::new()),
            Self::Demote { name, risk } => (Method::POST, of(name, "/demote", *risk), Vec::new()),
            Self::Remove { name, risk } => (Method::DELETE, of(name, "", *risk), Vec::new()),
            Self::Replace { old, new, risk } => {
                let request = ReplaceMemberRequest { with: new.clone() };
                (Method::POST, of(old, "/replace", *risk), json(&request)?)
            }
            Self::Cancel => (Method::DELETE, format!("/v1/cluster/change{none}"), Vec::new()),
        };
        Ok(Call { method, body, ..Call::get(target) })
    }
}

fn json(request: &impl serde::Serialize) -> Result<Vec<u8>, CliError> {
    serde_json::to_vec(request).map_err(CliError::failed)
}

/// A name as a part of a path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escape).collect()
}

async fn list(client: &Client, format: Format) -> Result<(), CliError> {
    let call = Call::get(format!("/v1/cluster?timeout={}ms", client.timeout.as_millis()));
    let view: ClusterView = client.call(&call).await?.json()?;
    match format {
        Format::Json => output::json(&serde_json::json!({ "members": view.members, "membership": view.membership })),
        Format::Table => output::bytes(text(&view).as_bytes()),
    }
}

fn text(view: &ClusterView) -> String {
    let membership = &view.membership;
    let committed = if membership.committed { "" } else { ", not committed yet" };
    let mut text = format!("configuration of entry {}: {}{committed}\n", membership.index, membership.phase);
    if !membership.leads_to.is_empty() {
        text.push_str(&format!("  since entry {}: {}\n", membership.change, membership.leads_to));
    }
    let mut rows: Vec<Vec<String>> = view.members.iter().map(row).collect();
    rows.extend(membership.pending.iter().map(pending_row));
    let head = ["NAME", "ID", "STANDING", "LAG", "CONTACT", "PEERS", "CLIENTS", "INCARNATION"];
    text.push_str(&output::table(&head, &rows));
    text
}

fn row(member: &MemberView) -> Vec<String> {
    let standing = if member.standing == member.next {
        let waits = if member.promotes { ", to vote when caught up" } else { "" };
        format!("{}{waits}", member.standing)
    } else {
        format!("{} -> {}", member.standing, member.next)
    };
    vec![
        member.name.clone(),
        member.id.to_string(),
        standing,
        member.lag.map_or_else(|| "-".into(), |lag| lag.to_string()),
        member.last_contact_ms.map_or_else(|| "-".into(), |ms| format!("{ms}ms")),
        member.peer_address.clone(),
        member.api_address.clone(),
        member.incarnation.clone(),
    ]
}

fn pending_row(pending: &PendingView) -> Vec<String> {
    let none = || "-".to_owned();
    let heard = pending.heard_ago_ms.map_or_else(|| "never".into(), |ms| format!("{ms}ms"));
    vec![
        pending.name.clone(),
        none(),
        "waited for".into(),
        none(),
        heard,
        pending.peer_address.clone(),
        pending.api_address.clone(),
        none(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_paths_and_risks_are_said() {
        let risk = Risk { less_tolerance: true, force: false };
        let remove = MembersCommand::Remove { name: "a/b c".into(), risk };
        let call = remove.call(std::time::Duration::from_secs(1)).map(|call| (call.method, call.target));
        let expected = "/v1/cluster/members/a%2Fb%20c?timeout=1000ms&less_tolerance=true".to_owned();
        assert_eq!(call.ok(), Some((Method::DELETE, expected)));
    }
}
